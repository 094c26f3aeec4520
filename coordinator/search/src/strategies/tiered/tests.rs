//! Tests of the tiered search.

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::Candidate;
use qslm_common::constraints::Constraints;
use qslm_common::cost::Cost;
use qslm_common::footprint::float_bytes;
use qslm_common::scheme::{Scheme, Symmetry};
use qslm_common::space::{ActivationSpace, MembraneSpace, Rule};
use qslm_common::strategy::StrategySpec;
use qslm_common::trade_off::TradeOff;

use qslm_testing::{experiment, measure, run};

use super::*;
use crate::testing::start;
use crate::{Grid, Step, problems};

fn qslm() -> Experiment {
    experiment(Tiered::default())
}

#[test]
fn the_tiers_come_in_the_papers_order() {
    let (_, stages) = run(&qslm(), |_| false);
    let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
    order.dedup();
    assert_eq!(order, ["sensitivity", "global", "block", "module", "matrix"]);
    // The float model and the 15 units that move; the five widths.
    assert_eq!(stages[..2], [("sensitivity", 16), ("global", 5)]);
}

#[test]
fn sensitivity_may_be_told_by_part_of_the_data() {
    let strategy = Tiered { sensitivity_sequences: Some(4), ..Tiered::default() };
    let mut experiment = experiment(strategy);
    let mut search = start(&experiment);
    let Step::Measure(float) = search.next(&Archive::default()) else { panic!("no float model") };
    assert_eq!((float.candidates.len(), float.subset), (1, None), "on all data");
    assert_eq!(
        search.remaining_at_most().unwrap(),
        16 + {
            let mut all = start(&qslm());
            all.next(&Archive::default());
            all.remaining_at_most().unwrap()
        }
    );

    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages[..3], [("sensitivity", 1), ("sensitivity", 16), ("global", 5)]);
    let (whole, _) = run(&qslm(), |_| false);
    assert_eq!(archive.chosen().unwrap().id, whole.chosen().unwrap().id);
    assert!(archive.len() <= whole.len() - 10, "what is measured on part is no result");

    // Part of the data that is all of them is no part.
    experiment.task = experiment.task.first(4);
    assert_eq!(run(&experiment, |_| false).1[..2], [("sensitivity", 16), ("global", 5)]);
}

/// Experiment as of [`qslm`], and activations and membranes too.
fn everything() -> Experiment {
    let mut experiment = qslm();
    let bits = [8, 6, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    experiment.space.activations =
        Some(ActivationSpace { bits, symmetry: Symmetry::Affine, calibration: None });
    experiment.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
    experiment.trade_off = TradeOff::EpsilonConstraint { cost: Cost::Energy };
    assert_eq!(problems(&experiment), []);
    experiment
}

#[test]
fn activations_and_then_membranes_are_lowered_tier_by_tier() {
    let experiment = everything();
    let (archive, stages) = run(&experiment, |_| false);
    let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
    order.dedup();
    let expected = [
        "sensitivity",
        "global",
        "block",
        "module",
        "matrix",
        "activations, global",
        "activations, block",
        "activations, module",
        "activations, matrix",
        "membranes, global",
    ];
    assert_eq!(order[..10], expected);
    // The float model, 15 units, their 15 activations and 4 populations.
    assert_eq!(stages[0].1, 35);
    let chosen = archive.chosen().unwrap();
    let widths: std::collections::BTreeSet<_> =
        chosen.candidate.activations().map(|(_, scheme)| scheme.bits.get()).collect();
    assert!(widths.len() > 1, "activations differ from site to site: {widths:?}");
    assert!(chosen.candidate.membranes().count() > 0);
    let weights_only = run(&qslm(), |_| false).0;
    let narrow = weights_only.chosen().unwrap();
    let narrow = experiment.device.costs(&experiment.network, narrow.candidate, &narrow.entry.counts);
    assert!(chosen.entry.costs[&Cost::Energy] < narrow[&Cost::Energy]);
}

#[test]
fn every_tier_only_makes_the_chosen_candidate_smaller() {
    let experiment = qslm();
    let (archive, _) = run(&experiment, |_| false);
    let bounded = |level| {
        let uniform = experiment.space.uniform(&experiment.network, level);
        let entry = archive.get(&uniform.id()).unwrap();
        let float = archive.float(&experiment).unwrap();
        experiment.constraints.allow_quality(&float.counts, &entry.counts).then_some(entry.footprint_bytes)
    };
    let best_uniform = (0..5).filter_map(bounded).min().unwrap();
    let smallest = archive.iter().filter(|(_, entry)| {
        experiment.constraints.allow_quality(&archive.float(&experiment).unwrap().counts, &entry.counts)
    });
    let smallest = smallest.map(|(_, entry)| entry.footprint_bytes).min().unwrap();
    assert!(smallest < best_uniform, "{smallest} {best_uniform}");
}

#[test]
fn the_search_comes_close_to_the_exhaustive_optimum() {
    // Small enough for the grid over blocks to be a bound that the finer tiers may beat.
    let chosen = |strategy: StrategySpec| {
        let experiment = experiment(strategy);
        let (archive, _) = run(&experiment, |_| false);
        archive.chosen().unwrap().entry.footprint_bytes
    };
    let grid = chosen(Grid { tier: Tier::Block }.into());
    let tiered = chosen(Tiered::default().into());
    assert!(tiered <= grid, "tiered {tiered}, grid over blocks {grid}");
}

#[test]
fn the_path_is_the_same_every_time() {
    let (first, stages) = run(&qslm(), |_| false);
    let (second, again) = run(&qslm(), |_| false);
    assert_eq!((first, stages), (second, again));
}

#[test]
fn without_a_bound_the_trade_off_decides() {
    let experiment = Experiment { constraints: Constraints::default(), ..qslm() };
    let (archive, _) = run(&experiment, |_| false);
    let float = archive.float(&experiment).unwrap();
    let value = |entry: &Entry| experiment.trade_off.value(float.measured(), entry.measured());
    let chosen = value(archive.chosen().unwrap().entry);
    let uniform =
        |level| value(archive.get(&experiment.space.uniform(&experiment.network, level).id()).unwrap());
    assert!((0..5).all(|level| chosen >= uniform(level)));
}

#[test]
fn a_failed_candidate_is_passed_over() {
    let experiment = qslm();
    let fails = |candidate: &Candidate| candidate.encode().contains("int2:");
    let (archive, _) = run(&experiment, fails);
    let chosen = archive.chosen().unwrap();
    assert!(!fails(chosen.candidate));
    assert!(chosen.entry.footprint_bytes < float_bytes(&experiment.network) / 4);
}

#[test]
fn a_float_model_that_fails_ends_the_search() {
    let experiment = qslm();
    let float = Candidate::float(&experiment.network);
    let (archive, stages) = run(&experiment, |candidate| *candidate == float);
    assert_eq!(stages.len(), 1);
    assert!(archive.chosen().is_none());
}

#[test]
fn the_number_of_candidates_left_is_a_bound() {
    for experiment in [qslm(), everything()] {
        let mut search = start(&experiment);
        let (mut archive, mut bounds, mut sizes) = (Archive::default(), vec![], vec![]);
        while let Step::Measure(generation) = search.next(&archive) {
            bounds.push(search.remaining_at_most().unwrap());
            sizes.push(generation.candidates.len() as u64);
            for candidate in generation.candidates.iter() {
                let counts = measure(&candidate);
                archive.insert(&experiment, &candidate, counts);
            }
        }
        for (index, bound) in bounds.into_iter().enumerate() {
            let left: u64 = sizes[index + 1..].iter().sum();
            assert!(left <= bound, "after generation {index}: {left} proposed, {bound} announced");
        }
    }
}

#[test]
fn rules_and_ties_are_searched_as_they_stand() {
    let mut experiment = qslm();
    let four = experiment.space.ladder().filter(|scheme| scheme.bits() == 4 || scheme.bits() == 3).collect();
    experiment.space.rules = vec![Rule { units: "blocks.*.ffn.*".to_owned(), schemes: four }];
    experiment.space.ties = vec![["att.key", "att.value", "att.receptance"].map(str::to_owned).to_vec()];
    assert_eq!(problems(&experiment), []);
    let (archive, stages) = run(&experiment, |_| false);
    // The float model; of each block one tie, the output and three matrices of ffn; the head.
    assert_eq!(stages[0], ("sensitivity", 1 + 2 * 5 + 1));
    let space = &experiment.space;
    let allowed = |candidate: &Candidate, group: &Group| {
        let float = candidate.scheme(&group.members[0]) == Scheme::Float;
        float || space.level_of(candidate, group).is_some()
    };
    for known in archive.front() {
        for group in experiment.moving(Tier::Matrix).iter().filter(|group| group.axis == Axis::Weights) {
            assert!(allowed(known.candidate, group), "{}: {:?}", group.name, known.candidate);
        }
    }
    assert!(archive.chosen().is_some());
}

fn guided() -> Experiment {
    experiment(Tiered { plain: Some(false), ..Tiered::default() })
}

#[test]
fn sums_spare_what_is_far_beyond_the_bound_and_nothing_is_lost_by_it() {
    let (plain, _) = run(&qslm(), |_| false);
    let (spared, _) = run(&guided(), |_| false);
    assert!(spared.len() + 5 < plain.len(), "{} of {}", spared.len(), plain.len());
    assert_eq!(spared.chosen().unwrap().id, plain.chosen().unwrap().id);
}

#[test]
fn a_budget_alone_steers_the_search() {
    let mut budget = guided();
    let uniform = budget.space.uniform(&budget.network, 3);
    let most = budget.footprint(&uniform) + 100;
    budget.constraints = Constraints { max_footprint_bytes: Some(most), ..Constraints::default() };
    assert_eq!(problems(&budget), []);
    let (archive, stages) = run(&budget, |_| false);
    let (chosen, uniform) = (archive.chosen().unwrap(), archive.get(&uniform.id()).unwrap());
    assert!(chosen.entry.footprint_bytes <= most);
    let best =
        archive.iter().filter(|(_, entry)| entry.footprint_bytes <= most).map(|(_, e)| e.counts.nll.0).min();
    assert!(best.unwrap() < uniform.counts.nll.0, "mixed widths lose less in as many bytes");
    let used = archive.iter().map(|(_, entry)| entry.footprint_bytes).filter(|bytes| *bytes <= most).max();
    assert!(used.unwrap() as f64 >= 0.99 * most as f64, "{used:?} of {most}");
    assert!(stages.iter().any(|(stage, _)| *stage == "allocation"), "{stages:?}");
    let planned: u64 = Tiered { plain: Some(false), ..Tiered::default() }
        .outline(&budget, 16)
        .iter()
        .map(|plan| plan.candidates_at_most)
        .sum();
    assert!(stages.iter().map(|(_, count)| *count as u64).sum::<u64>() <= planned);
}

#[test]
fn bounds_that_cannot_be_met_together_end_with_the_nearest() {
    let mut both = guided();
    let smallest = both.space.uniform(&both.network, 4);
    both.constraints.max_footprint_bytes = Some(both.footprint(&smallest));
    both.constraints.max_perplexity_increase = Some(0.001);
    let (archive, stages) = run(&both, |_| false);
    assert!(archive.chosen().is_none(), "nothing meets both");
    assert!(archive.get(&smallest.id()).is_some(), "the smallest was tried");
    assert!(stages.len() < 100, "{stages:?}");
    let good =
        |entry: &Entry| both.constraints.allow_quality(&archive.float(&both).unwrap().counts, &entry.counts);
    assert!(archive.iter().any(|(_, entry)| good(entry)), "and what is good enough");
}

#[test]
fn what_a_spec_means_is_guided_unless_it_is_plain() {
    let read = |text: &str| {
        let mut strategy: Tiered = serde_json::from_str(text).unwrap();
        strategy.write_out();
        serde_json::to_string(&strategy).unwrap()
    };
    assert_eq!(read("{}"), r#"{"sensitivity_bits":null,"plain":false}"#);
    assert_eq!(read(r#"{"plain":true}"#), r#"{"sensitivity_bits":null}"#);
}
