//! Strategies at equal numbers of evaluations, on formulas in place of networks: a table of hypervolumes, and of
//! savings within the bound.
//!
//!     cargo test --release --workspace --test compare -- --ignored --nocapture
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::scheme::Scheme;
use qslm_common::space::Tier;
use qslm_common::strategy::StrategySpec;
use qslm_search::{AnyStrategy, Beam, Evolve, Grid, Random, Step, Surrogate, Tiered};
use qslm_testing::experiment;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEEDS: u64 = 5;
/// Student's t of four degrees of freedom, 95 %.
const T: f64 = 2.776;

/// Harm of every unit at 2 bits in nats per token, over two and a half decades; a quarter of it with every bit more.
fn harms(experiment: &Experiment, seed: u64) -> BTreeMap<String, f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let harm = |unit: String| (unit, 10f64.powf(-3.5 + f64::from(rng.random_range(0..=250)) / 100.0));
    experiment.network.units().iter().map(|unit| unit.name.clone()).map(harm).collect()
}

fn measure(candidate: &Candidate, harms: &BTreeMap<String, f64>) -> Counts {
    let harm = |(unit, scheme): (&str, Scheme)| match scheme {
        Scheme::Integer { format, .. } => harms[unit] * 0.25f64.powi(i32::from(format.bits.get()) - 2),
        Scheme::Float | Scheme::Half | Scheme::Sign => 0.0,
    };
    let nats = 3.0 + candidate.schemes().map(harm).sum::<f64>();
    Counts {
        nll: Nll::from_nats(nats * 10_000.0).unwrap(),
        scored_tokens: 10_000,
        processed_tokens: 10_000,
        ..Counts::zero(0)
    }
}

/// Hypervolume, and the largest saving within the bound in percent, of the first so many candidates.
fn run(experiment: &Experiment, harms: &BTreeMap<String, f64>, evaluations: usize) -> (f64, f64) {
    let mut search = AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment);
    let mut archive = Archive::default();
    'search: while let Step::Measure(generation) = search.next(&archive) {
        for candidate in generation.candidates.iter() {
            archive.insert(experiment, &candidate, measure(&candidate, harms));
            if archive.len() == evaluations {
                break 'search;
            }
        }
    }
    let float = archive.float(experiment).unwrap();
    let good = archive
        .iter()
        .filter(|(_, entry)| experiment.constraints.allow_loss(&float.counts, entry.measured()))
        .map(|(_, entry)| entry.footprint_bytes)
        .min()
        .unwrap();
    let saving = qslm_common::footprint::saving(&experiment.network, good);
    (archive.hypervolume(experiment).unwrap(), 100.0 * saving)
}

fn strategies(evaluations: u32, seed: u64) -> Vec<(&'static str, StrategySpec)> {
    let tier = Tier::Matrix;
    let (gate_sequences, gate_loss) = (None, None);
    let initial = evaluations * 2 / 5;
    let batch = 10;
    let surrogate = Surrogate {
        tier,
        initial,
        iterations: (evaluations - initial).div_ceil(batch),
        batch,
        seed,
        prune: None,
        sensitivity_sequences: None,
        warm_start: Vec::new(),
    };
    let population = if evaluations > 100 { 30 } else { 20 };
    let beam = |width| Beam { tier, width, gate_sequences, gate_loss };
    vec![
        ("qslm", Tiered::default().into()),
        ("surrogate", surrogate.clone().into()),
        ("surrogate, prune = 2", Surrogate { prune: Some(2.0), ..surrogate }.into()),
        (
            "evolve",
            Evolve { tier, population, generations: evaluations / population, seed, warm_start: Vec::new() }
                .into(),
        ),
        ("random", Random { tier, trials: evaluations, seed }.into()),
        ("grid, block", Grid { tier: Tier::Block }.into()),
        ("beam, width 2", beam(2).into()),
        ("beam, width 4", beam(4).into()),
    ]
}

/// Mean and half of its 95 % interval.
fn interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0);
    (mean, T * (variance / n).sqrt())
}

/// A figure per seed: its mean, and the mean of its differences to another strategy's on the same formulas.
fn figure(values: &[f64], others: &[f64], digits: usize) -> String {
    let differences: Vec<f64> = values.iter().zip(others).map(|(value, other)| value - other).collect();
    let ((mean, half), (more, give)) = (interval(values), interval(&differences));
    format!("{mean:.digits$} +- {half:.digits$} ({more:+.digits$} +- {give:.digits$})")
}

#[test]
#[ignore = "prints a table"]
fn hypervolumes_of_strategies_at_equal_evaluations() {
    for (blocks, evaluations) in [(2, 100), (4, 100), (4, 300)] {
        println!("\n{blocks} blocks, {evaluations} evaluations, in brackets against the first:");
        let mut first = None;
        for (place, (name, _)) in strategies(evaluations, 0).iter().enumerate() {
            let of_seed = |seed| {
                let mut experiment = experiment(strategies(evaluations, seed)[place].1.clone());
                experiment.network.blocks = blocks;
                run(&experiment, &harms(&experiment, 100 + seed), evaluations as usize)
            };
            let found: (Vec<f64>, Vec<f64>) = (1..=SEEDS).map(of_seed).unzip();
            let (areas, savings) = first.get_or_insert_with(|| found.clone());
            let (area, saving) = (figure(&found.0, areas, 4), figure(&found.1, savings, 2));
            println!("{name:20}  hypervolume {area}, saving within 3 % {saving} %");
        }
    }
}
