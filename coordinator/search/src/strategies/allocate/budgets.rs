//! Budgets in bytes over networks of formulas: how many evaluations an answer takes, and what it loses.

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::constraints::Constraints;
use qslm_common::cost::Cost;
use qslm_common::experiment::Experiment;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::Network;
use qslm_common::scheme::{Granularity, Width};
use qslm_common::space::{Embedding, Group, Space, Tier};
use qslm_common::trade_off::TradeOff;
use qslm_testing::{experiment, measure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Allocate, Fit, SENSITIVITY, errors};
use crate::Step;
use crate::knapsack::{Choice, Front};
use crate::testing::start;

/// The last level: 2 bits.
const LAST: usize = 5;
/// Tokens that were scored: 256 windows of 512.
const TOKENS: u64 = 256 * 512;

/// A network of the size of wikitext2-xs, searched in widths.
fn of_size() -> Experiment {
    let strategy = Allocate::over(Tier::Matrix, Fit::Regression);
    let bits = [8, 6, 5, 4, 3, 2].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    Experiment {
        network: Network {
            vocabulary: 2048,
            channels: 128,
            hidden: 512,
            blocks: 4,
            outputs: 2048,
            binary_embedding: true,
            dynamics: qslm_common::network::Dynamics::SPIKEGPT,
        },
        space: Space { granularity: Granularity::Channel, ..Space::of(bits, Embedding::Sign) },
        trade_off: TradeOff::WeightedSum { mu: 0.0, cost: Cost::Footprint },
        ..experiment(strategy)
    }
}

/// Loss in nats per token of a network in which the law does not quite hold: sensitivities of units, the powers of their
/// errors that losses go with and what they lose together are drawn from a seed.
pub(super) fn lost(seed: u64, candidate: &Candidate) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut lost, mut quantized) = (0.0, 0);
    for (_, scheme) in candidate.schemes() {
        let sensitivity = 10f64.powf(rng.random_range(-150..0) as f64 / 100.0);
        let power = rng.random_range(80..120) as f64 / 100.0;
        let error = errors::squared_error(scheme);
        lost += if error > 0.0 { sensitivity * error.powf(power) } else { 0.0 };
        quantized += usize::from(error > 0.0);
    }
    let together = if quantized > 1 { rng.random_range(50..110) as f64 / 100.0 } else { 1.0 };
    together * lost
}

/// The same as it is measured, with noise of the candidate's own.
fn counts(seed: u64, candidate: &Candidate) -> Counts {
    let noise = 1e-3 * (f64::from(candidate.id().as_bytes()[7]) / 256.0 - 0.5);
    Counts {
        nll: Nll::from_nats((4.0 + lost(seed, candidate) + noise) * TOKENS as f64).unwrap(),
        scored_tokens: TOKENS,
        processed_tokens: TOKENS,
        ..measure(candidate)
    }
}

/// An answer to a budget.
struct Answered {
    /// Evaluations after groups alone.
    evaluations: u32,
    /// Share of the budget that the answer takes.
    used: f64,
    /// Loss of the answer in nats per token, without noise.
    lost: f64,
    /// The least loss of any allocation within the budget.
    best: f64,
}

/// The least loss of any allocation within a budget, as if all were known.
fn best(seed: u64, experiment: &Experiment, budget: u64) -> f64 {
    let smallest = experiment.space.uniform(&experiment.network, LAST);
    let (fixed, least) = (experiment.footprint(&smallest), lost(seed, &smallest));
    let choices = |group: &Group| -> Vec<Choice> {
        let choice = |level| {
            let candidate = experiment.space.place(smallest.clone(), group, level);
            Choice { bytes: experiment.footprint(&candidate) - fixed, loss: lost(seed, &candidate) - least }
        };
        (0..group.levels).map(choice).collect()
    };
    let whole = vec![Choice { bytes: fixed, loss: least }];
    let groups = experiment.moving(Tier::Matrix);
    let units: Vec<_> = std::iter::once(whole).chain(groups.iter().map(choices)).collect();
    let front = Front::new(&units, 1 << 16);
    front.answer(front.within(budget).unwrap()).loss
}

fn answer(seed: u64, budget: u64) -> Answered {
    let constraints = Constraints { max_footprint_bytes: Some(budget), ..Default::default() };
    let experiment = Experiment { constraints, ..of_size() };
    let (mut search, mut archive, mut evaluations) = (start(&experiment), Archive::default(), 0);
    while let Step::Measure(generation) = search.next(&archive) {
        for candidate in generation.candidates.iter() {
            archive.insert(&experiment, &candidate, counts(seed, &candidate));
            evaluations += u32::from(generation.stage != SENSITIVITY);
        }
    }
    let chosen = archive.chosen().unwrap();
    let used = chosen.entry.footprint_bytes as f64 / budget as f64;
    Answered { evaluations, used, lost: lost(seed, chosen.candidate), best: best(seed, &experiment, budget) }
}

#[test]
fn twenty_budgets_take_five_evaluations_each_and_are_used_to_a_hundredth() {
    let experiment = of_size();
    let bytes = |level| experiment.footprint(&experiment.space.uniform(&experiment.network, level));
    // Close to the largest there is no exchange left: what a matrix at its widest width leaves is left.
    let (small, large) = (bytes(LAST) * 101 / 100, bytes(0) * 95 / 100);
    let (mut evaluations, mut logarithms, mut least_used) = (0, 0.0, 1.0f64);
    for part in 0..20 {
        for seed in 0..10 {
            let answered = answer(seed, small + (large - small) * part / 19);
            evaluations += answered.evaluations;
            logarithms += (answered.lost / answered.best).ln();
            least_used = least_used.min(answered.used);
        }
    }
    let (mean, more) = (f64::from(evaluations) / 200.0, f64::exp(logarithms / 200.0));
    assert!(least_used >= 0.99, "{least_used}");
    // Three rounds of six and the eight neighbours, with nothing that ends them, are 26 and lose 1.038 times the least.
    assert!(mean < 6.0 && more < 1.038, "{mean} evaluations, {more} times the least loss, {least_used} used");
}
