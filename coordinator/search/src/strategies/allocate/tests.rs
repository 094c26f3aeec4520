//! Tests of allocation.

use std::collections::BTreeMap;

use qslm_common::constraints::Constraints;
use qslm_common::cost::Cost;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::scheme::Width;
use qslm_common::space::{Embedding, VectorSpace};
use qslm_common::storage::Storage;
use qslm_common::task::Task;
use qslm_common::trade_off::TradeOff;
use qslm_testing::{experiment, measure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::testing::start;

pub(super) const ALLOCATE: Allocate = Allocate::over(Tier::Matrix, Fit::Regression);

/// The experiment with other bounds.
fn bounded(constraints: Constraints) -> Experiment {
    Experiment { constraints, ..experiment(ALLOCATE) }
}

/// A search that came to its end.
pub(super) struct Played {
    pub(super) archive: Archive,
    /// Allocations in the order of the proposals.
    pub(super) proposed: Vec<Candidate>,
    predicted: BTreeMap<CandidateId, f64>,
    pub(super) stages: Vec<(&'static str, usize)>,
}

/// Plays a search over an archive that may hold something already.
fn play_on(
    mut archive: Archive,
    experiment: &Experiment,
    counts: impl Fn(&Candidate) -> Option<Counts>,
) -> Played {
    let (mut search, mut proposed, mut stages) = (start(experiment), Vec::new(), Vec::new());
    while let Step::Measure(generation) = search.next(&archive) {
        let left = search.remaining_at_most().unwrap();
        assert!(stages.len() < 8 && left < 100, "the search does not end");
        stages.push((generation.stage, generation.candidates.len()));
        for candidate in generation.candidates.iter() {
            let Some(counts) = counts(&candidate) else { continue };
            match generation.subset {
                Some(_) => archive.insert_on_subset(candidate.id(), counts),
                None => archive.insert(experiment, &candidate, counts),
            }
        }
        if generation.stage != SENSITIVITY {
            proposed.extend(generation.candidates.iter());
        }
    }
    assert_eq!(search.remaining_at_most(), Some(0));
    let predicted = search.predictions().into_iter().collect();
    Played { archive, proposed, predicted, stages }
}

pub(super) fn play(experiment: &Experiment, counts: impl Fn(&Candidate) -> Option<Counts>) -> Played {
    play_on(Archive::default(), experiment, counts)
}

pub(super) fn all_well(candidate: &Candidate) -> Option<Counts> {
    Some(measure(candidate))
}

/// Counts of whole allocations that lose less than their groups do alone, with noise of the candidate's own.
fn less_together(candidate: &Candidate) -> Option<Counts> {
    let counts = measure(candidate);
    let quantized = candidate.schemes().filter(|(_, scheme)| scheme.bits() < 16 && scheme.bits() > 1).count();
    let (lost, noise) = (counts.nll.nats() - 400.0, f64::from(candidate.id().as_bytes()[7]) / 256.0 - 0.5);
    let share = if quantized > 1 { 0.6 } else { 1.0 };
    Some(Counts { nll: Nll::from_nats(400.0 + share * lost + 0.02 * noise)?, ..counts })
}

fn bytes(experiment: &Experiment, level: usize) -> u64 {
    experiment.footprint(&experiment.space.uniform(&experiment.network, level))
}

pub(super) fn lost(played: &Played, experiment: &Experiment, id: &CandidateId) -> f64 {
    let nats = |entry: &qslm_common::archive::Entry| entry.counts.nll.nats() / 100.0;
    nats(played.archive.get(id).unwrap()) - nats(played.archive.float(experiment).unwrap())
}

#[test]
fn the_stages_come_in_order_and_no_more_is_measured_than_was_planned() {
    let experiment = experiment(ALLOCATE);
    let played = play(&experiment, less_together);
    let mut order: Vec<_> = played.stages.iter().map(|(stage, _)| *stage).collect();
    order.dedup();
    assert_eq!(order, ["sensitivity", "allocation", "neighbours"]);
    // The float model, and 15 units at two levels.
    assert_eq!(played.stages[0], ("sensitivity", 31));
    let planned = ALLOCATE.outline(&experiment, 31);
    for stage in planned {
        let all =
            played.stages.iter().filter(|(name, _)| *name == stage.stage).map(|(_, count)| *count as u64);
        assert!(all.sum::<u64>() <= stage.candidates_at_most, "{stage:?}");
    }
}

#[test]
fn a_budget_in_bytes_is_met_and_used() {
    let unbounded = bounded(Constraints::default());
    let (small, large) = (bytes(&unbounded, 4), bytes(&unbounded, 0));
    for part in 1..10 {
        let budget = small + (large - small) * part / 10;
        let constraints = Constraints { max_footprint_bytes: Some(budget), ..Default::default() };
        let by_loss = TradeOff::WeightedSum { mu: 0.0, cost: Cost::Footprint };
        let experiment = Experiment { trade_off: by_loss, ..bounded(constraints) };
        for counts in [all_well, less_together] {
            let played = play(&experiment, counts);
            let used = |bytes: u64| bytes as f64 / budget as f64;
            let all: Vec<f64> = played.proposed.iter().map(|one| used(experiment.footprint(one))).collect();
            assert!(all.iter().all(|used| *used <= 1.0), "budget {budget}: {all:?}");
            let chosen = used(played.archive.chosen().unwrap().entry.footprint_bytes);
            assert!(chosen >= 0.99, "budget {budget}: {chosen}");
        }
    }
}

#[test]
fn a_budget_loses_no_more_than_the_best_of_as_many_bytes() {
    // Of three groups every allocation can be measured.
    let mut experiment = bounded(Constraints::default());
    experiment.strategy = Allocate { tier: Tier::Block, ..ALLOCATE }.into();
    experiment.trade_off = TradeOff::WeightedSum { mu: 0.0, cost: Cost::Footprint };
    let grid = Experiment { strategy: crate::Grid { tier: Tier::Block }.into(), ..experiment.clone() };
    let (small, large) = (bytes(&experiment, 4), bytes(&experiment, 0));
    for part in 1..8 {
        let budget = small + (large - small) * part / 8;
        let bounds = Constraints { max_footprint_bytes: Some(budget), ..Default::default() };
        let all = qslm_testing::run(&Experiment { constraints: bounds.clone(), ..grid.clone() }, |_| false).0;
        let played = play(&Experiment { constraints: bounds, ..experiment.clone() }, all_well);
        let nats = |archive: &Archive| archive.chosen().unwrap().entry.counts.nll.nats() / 100.0;
        // What gains less is not worth an evaluation.
        let (found, best) = (nats(&played.archive), nats(&all));
        assert!(found - best < 1e-4, "budget {budget}: {found} {best}");
    }
}

#[test]
fn a_saving_is_a_budget_too() {
    let experiment = bounded(Constraints { min_saving: Some(0.88), ..Default::default() });
    let played = play(&experiment, all_well);
    let saving = |bytes| qslm_common::footprint::saving(&experiment.network, bytes);
    let savings: Vec<f64> = played.proposed.iter().map(|one| saving(experiment.footprint(one))).collect();
    assert!(savings.iter().all(|saving| *saving >= 0.88), "{savings:?}");
    assert!(savings.iter().any(|saving| *saving < 0.8815), "{savings:?}");
}

#[test]
fn a_bound_on_quality_is_met_by_no_more_bytes_than_the_tiers_and_the_law_find() {
    let smallest = TradeOff::EpsilonConstraint { cost: Cost::Footprint };
    let allocate = Experiment { trade_off: smallest, ..experiment(ALLOCATE) };
    let tiers = Experiment { strategy: crate::Tiered::default().into(), ..allocate.clone() };
    let law = Experiment { strategy: Allocate { fit: None, ..ALLOCATE }.into(), ..allocate.clone() };
    for counts in [all_well, less_together] {
        let [allocated, by_law] = [&allocate, &law].map(|one| play(one, counts).archive);
        let mut tiered = Archive::default();
        let mut search = start(&tiers);
        while let Step::Measure(generation) = search.next(&tiered) {
            generation.candidates.iter().for_each(|one| tiered.insert(&tiers, &one, counts(&one).unwrap()));
        }
        let bytes = |archive: &Archive| archive.chosen().unwrap().entry.footprint_bytes;
        assert!(bytes(&allocated) <= bytes(&tiered), "{} {}", bytes(&allocated), bytes(&tiered));
        assert!(bytes(&allocated) <= bytes(&by_law), "{} {}", bytes(&allocated), bytes(&by_law));
    }
}

/// Counts of a network in which the law does not quite hold, with noise of the candidate's own.
fn drawn(seed: u64, candidate: &Candidate) -> Option<Counts> {
    let noise = f64::from(candidate.id().as_bytes()[7]) / 256.0 - 0.5;
    let lost = super::budgets::lost(seed, candidate);
    Some(Counts { nll: Nll::from_nats(400.0 + 100.0 * (lost + 1e-3 * noise))?, ..measure(candidate) })
}

#[test]
fn over_many_networks_it_finds_no_larger_ones_than_the_law() {
    let smallest = TradeOff::EpsilonConstraint { cost: Cost::Footprint };
    let (mut by_law, mut fitted) = (0, 0);
    for seed in 0..60 {
        for (fit, bytes) in [(Fit::Law, &mut by_law), (Fit::Regression, &mut fitted)] {
            let mut experiment = experiment(Allocate { fit: Some(fit), ..ALLOCATE });
            experiment.trade_off = smallest;
            let played = play(&experiment, |candidate| drawn(seed, candidate));
            *bytes += played.archive.chosen().unwrap().entry.footprint_bytes;
        }
    }
    assert!(fitted <= by_law, "{fitted} {by_law}");
}

#[test]
fn a_bound_on_accuracy_is_met_by_mixed_widths() {
    let smallest = TradeOff::EpsilonConstraint { cost: Cost::Footprint };
    let quality = Constraints { max_accuracy_drop: Some(0.02), ..Default::default() };
    let task = Task::Accuracy { sentences: None };
    let experiment = Experiment { trade_off: smallest, task, ..bounded(quality) };
    // A nat lost is seven sentences of a thousand.
    let counts = |candidate: &Candidate| {
        let counts = measure(candidate);
        let hits = 900 - ((counts.nll.nats() - 400.0) * 7.0) as u64;
        Some(Counts { scored_tokens: 0, sentences: 1000, hits, ..counts })
    };
    let played = play(&experiment, counts);
    let chosen = played.archive.chosen().unwrap().entry;
    let uniform = (0..5).map(|level| experiment.space.uniform(&experiment.network, level));
    let allowed = uniform.filter(|one| counts(one).unwrap().hits >= 880);
    let best = allowed.map(|one| experiment.footprint(&one)).min().unwrap();
    assert!(chosen.counts.hits >= 880 && chosen.footprint_bytes < best, "{} {best}", chosen.footprint_bytes);
}

#[test]
fn both_bounds_are_met_where_they_can_be() {
    let quality = Constraints { max_perplexity_increase: Some(0.03), ..Default::default() };
    let smallest = TradeOff::EpsilonConstraint { cost: Cost::Footprint };
    let free = Experiment { trade_off: smallest, ..bounded(quality.clone()) };
    let least = play(&free, all_well).archive.chosen().unwrap().entry.footprint_bytes;
    for more in [0, 20, 200, 1000] {
        let both = Constraints { max_footprint_bytes: Some(least + more), ..quality.clone() };
        let experiment = Experiment { trade_off: smallest, ..bounded(both) };
        let played = play(&experiment, all_well);
        let chosen = played.archive.chosen().expect("both can be met");
        assert!(chosen.entry.footprint_bytes <= least + more);
        assert!(played.proposed.iter().all(|one| experiment.footprint(one) <= least + more));
    }
}

#[test]
fn bounds_that_do_not_meet_end_with_the_nearest_measured() {
    let small = bytes(&bounded(Constraints::default()), 4);
    let both = Constraints {
        max_footprint_bytes: Some(small + 200),
        max_perplexity_increase: Some(1e-6),
        ..Default::default()
    };
    let experiment = bounded(both);
    let played = play(&experiment, less_together);
    assert!(played.archive.chosen().is_none());
    let near =
        played.proposed.iter().filter(|one| experiment.footprint(one) as f64 > 0.99 * (small + 200) as f64);
    assert!(near.count() >= 3, "what loses least is measured at the budget");
    // Quality alone: the allocation that loses least does not meet it, so none does.
    let experiment = bounded(Constraints { max_perplexity_increase: Some(1e-7), ..Default::default() });
    let played = play(&experiment, all_well);
    assert!(
        played.archive.chosen().is_some_and(|chosen| chosen.candidate.schemes().all(|(_, s)| s.bits() != 8))
    );
    let top = experiment.space.uniform(&experiment.network, 0);
    assert!(played.proposed.contains(&top), "the one that loses least is measured");
    assert!(played.proposed.len() <= 6 + 1, "and then it ends: {}", played.proposed.len());
}

#[test]
fn a_cost_is_bounded_before_it_is_measured() {
    let free = bounded(Constraints { max_perplexity_increase: Some(0.5), ..Default::default() });
    let energy = |level| {
        let candidate = free.space.uniform(&free.network, level);
        free.costs(&candidate, &measure(&candidate))[&"energy".parse::<Cost>().unwrap()]
    };
    let most = (energy(2) + energy(3)) / 2.0;
    let max = BTreeMap::from([("energy".parse::<Cost>().unwrap(), most)]);
    let by_loss = TradeOff::WeightedSum { mu: 0.0, cost: Cost::Footprint };
    let experiment = Experiment { trade_off: by_loss, ..bounded(Constraints { max, ..Default::default() }) };
    let played = play(&experiment, all_well);
    let value = |candidate: &Candidate| {
        experiment.costs(candidate, &measure(candidate))[&"energy".parse::<Cost>().unwrap()]
    };
    assert!(played.proposed.iter().all(|one| value(one) <= most));
    let chosen = played.archive.chosen().unwrap();
    assert!(value(chosen.candidate) > 0.97 * most, "{} {most}", value(chosen.candidate));
    // A bound that nothing is within: the smallest is measured.
    let max = BTreeMap::from([("energy".parse::<Cost>().unwrap(), 1e-30)]);
    let played = play(&bounded(Constraints { max, ..Default::default() }), all_well);
    assert_eq!(played.proposed.len(), 1);
    assert_eq!(experiment.footprint(&played.proposed[0]), bytes(&experiment, 4));
}

#[test]
fn without_a_bound_the_whole_front_is_measured() {
    let experiment = bounded(Constraints::default());
    let played = play(&experiment, all_well);
    let mut sizes: Vec<u64> = played.proposed.iter().map(|one| experiment.footprint(one)).collect();
    sizes.sort_unstable();
    let (small, large) = (bytes(&experiment, 4), bytes(&experiment, 0));
    assert_eq!((sizes[0], *sizes.last().unwrap()), (small, large));
    let gap = sizes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(gap < (large - small) / 8, "{gap} of {}", large - small);
    let allocated = played.proposed.iter().map(Candidate::id);
    let on_front = allocated.filter(|id| played.archive.front().iter().any(|known| known.id == *id)).count();
    assert!(on_front >= 12, "{on_front}");
}

#[test]
fn predictions_come_near_what_is_measured() {
    let experiment = experiment(ALLOCATE);
    let played = play(&experiment, less_together);
    let misses = |candidates: &[Candidate]| {
        let miss = |one: &Candidate| {
            let measured = lost(&played, &experiment, &one.id());
            (played.predicted[&one.id()] - measured).abs() / measured
        };
        let mut misses: Vec<f64> = candidates.iter().map(miss).collect();
        misses.sort_by(f64::total_cmp);
        misses[misses.len() / 2]
    };
    assert_eq!(played.predicted.len(), played.proposed.len(), "every allocation is predicted");
    let (first, rest) = played.proposed.split_at(played.stages[1].1);
    // Together they lose 0.6 of what they do alone: the first round shows it.
    assert!(misses(first) > 0.4, "{}", misses(first));
    assert!(misses(rest) < 0.1, "{}", misses(rest));
}

#[test]
fn the_same_results_take_the_same_path_also_where_candidates_fail_or_it_starts_over() {
    let budget = Constraints { max_footprint_bytes: Some(5000), ..Default::default() };
    for constraints in [experiment(ALLOCATE).constraints, budget, Constraints::default()] {
        let experiment = bounded(constraints);
        let float = Candidate::float(&experiment.network);
        let counts = |candidate: &Candidate| {
            let fails = candidate.id().as_bytes()[3] < 40 && *candidate != float;
            (!fails).then(|| less_together(candidate)).flatten()
        };
        let played = play(&experiment, counts);
        assert!(played.archive.chosen().is_some(), "{:?} {}", played.stages, bytes(&experiment, 4));
        let again = play_on(played.archive.clone(), &experiment, counts);
        assert_eq!(again.proposed, played.proposed);
        let none = play(&experiment, |candidate| (*candidate == float).then(|| measure(candidate)));
        assert!(none.archive.len() == 1, "nothing but the float model can be measured");
    }
}

#[test]
fn by_the_law_a_search_that_starts_over_takes_its_path_again_too() {
    for seed in 0..20 {
        let experiment = experiment(Allocate { fit: None, ..ALLOCATE });
        let counts = |candidate: &Candidate| drawn(seed, candidate);
        let played = play(&experiment, counts);
        let again = play_on(played.archive.clone(), &experiment, counts);
        assert_eq!(again.proposed, played.proposed, "seed {seed}");
    }
}

#[test]
fn sensitivity_may_be_told_by_part_of_the_data() {
    let on_part = experiment(Allocate { sensitivity_sequences: Some(4), ..ALLOCATE });
    let played = play(&on_part, all_well);
    assert_eq!(played.stages[..2], [("sensitivity", 1), ("sensitivity", 31)]);
    let whole = play(&experiment(ALLOCATE), all_well);
    assert_eq!(played.proposed, whole.proposed);
}

#[test]
fn a_level_that_fails_alone_is_not_taken() {
    let experiment = experiment(ALLOCATE);
    let float = Candidate::float(&experiment.network);
    let head = "head.weight";
    let played = |narrowest: u8| {
        play(&experiment, |candidate| {
            let alone = *candidate == float.clone().with([head], candidate.scheme(head));
            let fails =
                alone && candidate.scheme(head).bits() < narrowest && candidate.scheme(head).bits() > 1;
            (!fails).then(|| measure(candidate))
        })
    };
    // Neither the middle level, 4 bits, nor the last, 2, can be measured.
    assert!(played(8).proposed.iter().all(|one| one.scheme(head).bits() == 8));
    assert!(played(3).proposed.iter().all(|one| one.scheme(head).bits() > 2));
}

#[test]
fn bytes_of_any_file_add_up_from_those_of_its_groups() {
    let mut packed = experiment(ALLOCATE);
    packed.space.embedding = Embedding::Quantize;
    let bits = [16, 8].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    packed.space.vectors = Some(VectorSpace { bits });
    let mut coded = packed.clone();
    coded.space.storage = vec![Storage::Packed, Storage::Rans];
    for (place, (unit, scheme)) in packed.space.unit_schemes(&packed.network).enumerate() {
        coded.space.coded.insert(&unit.name, scheme, 40 + 7 * (place as u64 % 11));
    }
    for experiment in [packed, coded] {
        for tier in [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix] {
            let allocate = Allocate { tier, ..ALLOCATE };
            let of_tier = Experiment { strategy: allocate.clone().into(), ..experiment.clone() };
            let archive = play(&of_tier, all_well).archive;
            let probes = Probes::new(&allocate, &of_tier);
            let model = model::Model::new(&probes, &archive).unwrap();
            let units = model.units();
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            for _ in 0..20 {
                let choices: Vec<usize> = units.iter().map(|unit| rng.random_range(0..unit.len())).collect();
                let bytes: u64 = units.iter().zip(&choices).map(|(unit, choice)| unit[*choice].bytes).sum();
                let candidate = probes.candidate(&model.levels(&choices));
                assert_eq!(bytes, of_tier.footprint(&candidate), "{tier:?} {choices:?}");
            }
        }
    }
}

#[test]
fn what_it_cannot_spend_bytes_on_is_refused() {
    let mut one_level = experiment(ALLOCATE);
    one_level.space.bits = vec![Width::try_from(4).unwrap()];
    let problems = Allocate { sensitivity_sequences: Some(0), ..ALLOCATE }.problems(&one_level);
    let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        words[0].contains("sensitivity_sequences = 0: expected 1 or more")
            && words[1].contains("at least two levels"),
        "{words:?}"
    );
    let impossible = bounded(Constraints { max_footprint_bytes: Some(10), ..Default::default() });
    let words: Vec<_> = crate::problems(&impossible).iter().map(ToString::to_string).collect();
    assert!(words[0].contains("max_footprint_bytes = 10 cannot be met: the smallest"), "{words:?}");
    let unknown = r#"{"kind":"allocate","tier":"matrix","fit":"best"}"#;
    let refused = crate::AnyStrategy::parse(&serde_json::from_str(unknown).unwrap()).unwrap_err().to_string();
    assert_eq!(refused, "unknown variant `best`, expected `law` or `regression`");
}

#[test]
fn a_spec_that_leaves_the_fit_out_means_the_regression_and_an_experiment_the_law() {
    let text = r#"{"kind":"allocate","tier":"matrix"}"#;
    let mut strategy = crate::AnyStrategy::parse(&serde_json::from_str(text).unwrap()).unwrap();
    assert_eq!(serde_json::to_string(&strategy.spec()).unwrap(), text);
    strategy.write_out();
    let written = r#"{"kind":"allocate","tier":"matrix","fit":"regression"}"#;
    assert_eq!(serde_json::to_string(&strategy.spec()).unwrap(), written);
    let law = Allocate { fit: Some(Fit::Law), ..ALLOCATE };
    let mut strategy = crate::AnyStrategy::from(law.clone());
    strategy.write_out();
    assert_eq!(strategy, law.clone().into(), "what is written stays");
    assert_eq!(serde_json::to_string(&strategy.spec()).unwrap(), text, "and has the id of before");
    let (by_law, left_out) = (experiment(law), experiment(Allocate { fit: None, ..ALLOCATE }));
    assert_eq!(play(&by_law, all_well).proposed, play(&left_out, all_well).proposed);
}
