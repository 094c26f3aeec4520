//! Tests of the surrogate search.

use qslm_common::cost::Cost;
use qslm_common::front_document::FrontDocument;
use qslm_common::hash::ContentHash;
use qslm_common::space::Axis;
use qslm_testing::{experiment, measure, run};

use super::*;
use crate::testing::start;
use crate::{Evolve, Grid, Random, problems};

const SURROGATE: Surrogate = Surrogate {
    tier: Tier::Matrix,
    initial: 40,
    iterations: 8,
    batch: 10,
    seed: 7,
    prune: None,
    sensitivity_sequences: None,
    warm_start: Vec::new(),
};

#[test]
fn it_beats_as_many_drawn_at_random_and_as_many_bred() {
    let predicted = experiment(SURROGATE);
    assert_eq!(problems(&predicted), []);
    let (archive, stages) = run(&predicted, |_| false);
    assert_eq!(stages[0], ("sample", 41), "the float model comes first");
    assert_eq!(stages[1..], [("surrogate", 10); 8]);
    assert_eq!(archive.len(), 121, "none is proposed twice");
    let area = |strategy: qslm_common::strategy::StrategySpec| {
        let experiment = experiment(strategy);
        run(&experiment, |_| false).0.hypervolume(&experiment).unwrap()
    };
    let drawn = area(Random { tier: Tier::Matrix, trials: 120, seed: 7 }.into());
    let bred = area(
        Evolve { tier: Tier::Matrix, population: 20, generations: 6, seed: 7, warm_start: Vec::new() }.into(),
    );
    let predicted = archive.hypervolume(&predicted).unwrap();
    assert!(predicted > drawn && predicted > bred, "{predicted} {drawn} {bred}");
}

#[test]
fn the_same_seed_takes_the_same_path_also_where_candidates_fail() {
    let experiment = experiment(Surrogate { prune: Some(2.0), ..SURROGATE });
    let fails = |candidate: &Candidate| candidate.id().as_bytes()[0] < 40;
    let path = |experiment: &Experiment| {
        let (archive, stages) = run(experiment, fails);
        (FrontDocument::new(experiment, &archive).to_json(), archive, stages)
    };
    assert_eq!(path(&experiment), path(&experiment));
    let strategy = Surrogate { prune: Some(2.0), seed: 8, ..SURROGATE }.into();
    let other = Experiment { strategy, ..experiment.clone() };
    assert_ne!(path(&other).1, path(&experiment).1);
}

#[test]
fn the_path_is_a_function_of_the_archive_alone() {
    // What is in the archive beforehand, as of a search that was interrupted, changes no generation.
    let experiment = experiment(SURROGATE);
    let (whole, _) = run(&experiment, |_| false);
    let (mut once, mut again) = (start(&experiment), start(&experiment));
    let mut archive = Archive::default();
    while let Step::Measure(generation) = once.next(&archive) {
        assert_eq!(again.next(&whole), Step::Measure(generation.clone()));
        for candidate in generation.candidates.iter() {
            archive.insert(&experiment, &candidate, measure(&candidate));
        }
    }
    assert_eq!((again.next(&whole), archive), (Step::Finished, whole));
}

#[test]
fn the_path_is_the_same_on_every_platform() {
    // A last bit that another processor or library rounds otherwise shows here.
    let experiment = experiment(SURROGATE);
    let mut search = start(&experiment);
    let (mut archive, mut path) = (Archive::default(), Vec::new());
    while let Step::Measure(generation) = search.next(&archive) {
        for candidate in generation.candidates.iter() {
            path.extend_from_slice(candidate.id().as_bytes());
            archive.insert(&experiment, &candidate, measure(&candidate));
        }
    }
    assert_eq!(ContentHash::of(&path).short(), "888738bc18c6");
}

#[test]
fn sensitive_groups_are_held_at_their_first_level() {
    let experiment = experiment(Surrogate { prune: Some(2.0), ..SURROGATE });
    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages[..2], [("sensitivity", 17), ("sample", 40)]);
    // Of every five weights one loses 0.5 at 2 bits, and one 0.1; the median loses 0.02.
    let probes = start(&experiment).probes();
    assert_eq!((probes.len(), probes[0].axis), (15, Axis::Weights));
    let first = experiment.space.uniform(&experiment.network, 0);
    let is_moved = |candidate: &Candidate, unit: &str| candidate.scheme(unit) != first.scheme(unit);
    let units: Vec<String> = first.schemes().map(|(unit, _)| unit.to_owned()).collect();
    let mut search = start(&experiment);
    let mut moved = BTreeSet::new();
    let (mut step, mut sampled) = (search.next(&archive), 0);
    while let Step::Measure(generation) = step {
        for candidate in generation.candidates.iter().filter(|_| generation.stage != "sensitivity") {
            moved.extend(units.iter().filter(|unit| is_moved(&candidate, unit)).cloned());
            sampled += 1;
        }
        step = search.next(&archive);
    }
    assert_eq!(sampled, 120);
    let held = |index: usize| matches!(index % 5, 2 | 4);
    let expected =
        units.iter().enumerate().filter(|(index, _)| units[*index] != "emb.weight" && !held(*index));
    assert_eq!(moved, expected.map(|(_, unit)| unit.clone()).collect());
}

#[test]
fn sensitivity_may_be_told_by_part_of_the_data() {
    let strategy = Surrogate { prune: Some(2.0), sensitivity_sequences: Some(4), ..SURROGATE };
    let experiment = experiment(strategy.clone());
    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages[..3], [("sensitivity", 1), ("sensitivity", 17), ("sample", 40)]);
    assert_eq!(archive.len(), 121, "what is measured on part is no result");
    let candidates = strategy.subset(&experiment).unwrap().candidates;
    assert_eq!(candidates, 17);
    let mut all = strategy;
    all.fit(4);
    assert_eq!(all.sensitivity_sequences, None, "part of the data that is all of them is no part");
}

#[test]
fn no_more_is_proposed_than_was_told() {
    let pruned = Surrogate { prune: Some(2.0), ..SURROGATE };
    let on_subset = Surrogate { sensitivity_sequences: Some(4), ..pruned.clone() };
    let small = Surrogate { tier: Tier::Global, ..SURROGATE };
    for strategy in [SURROGATE, pruned, on_subset, small] {
        let experiment = experiment(strategy.clone());
        let mut search = start(&experiment);
        let Step::Measure(first) = search.next(&Archive::default()) else { panic!("nothing first") };
        let most = first.candidates.len() as u64 + search.remaining_at_most().unwrap();
        let outline = strategy.outline(&experiment, first.candidates.len() as u64);
        let outlined: u64 = outline.iter().map(|stage| stage.candidates_at_most).sum();
        let proposed: usize = run(&experiment, |_| false).1.into_iter().map(|(_, count)| count).sum();
        assert!(proposed as u64 <= outlined.min(most), "{proposed} {outlined} {most}: {strategy:?}");
    }
}

#[test]
fn a_small_space_is_measured_whole_and_then_it_ends() {
    let small = experiment(Surrogate { tier: Tier::Block, initial: 30, iterations: 100, ..SURROGATE });
    let grid = experiment(Grid { tier: Tier::Block });
    let ids = |experiment: &Experiment| -> Vec<CandidateId> {
        run(experiment, |_| false).0.iter().map(|(id, _)| *id).collect()
    };
    assert_eq!(ids(&small), ids(&grid));
}

#[test]
fn where_nothing_can_be_measured_it_ends_and_where_little_can_it_goes_on() {
    let experiment = experiment(SURROGATE);
    assert_eq!(
        run(&experiment, |_| true).1.len(),
        1,
        "without the float model there is nothing to compare with"
    );
    let float = Candidate::float(&experiment.network);
    let (archive, stages) = run(&experiment, |candidate| *candidate != float);
    assert_eq!((archive.len(), stages.len()), (1, 9));
}

#[test]
fn a_budget_in_bytes_is_met_where_it_can_be() {
    let mut bounded = experiment(SURROGATE);
    let small = bounded.space.uniform(&bounded.network, 3);
    bounded.constraints = Default::default();
    bounded.constraints.max_footprint_bytes = Some(bounded.footprint(&small));
    let (archive, _) = run(&bounded, |_| false);
    let within =
        archive.iter().filter(|(_, entry)| entry.footprint_bytes <= bounded.footprint(&small)).count();
    assert!(within > 80, "{within} of {}", archive.len());
    let chosen = archive.chosen().unwrap().entry;
    let uniform = archive.get(&small.id()).unwrap();
    assert!(chosen.counts.nll < uniform.counts.nll, "mixed widths lose less in as many bytes");
}

#[test]
fn other_objectives_and_bounds_are_predicted_too() {
    let mut experiment = experiment(SURROGATE);
    experiment.objectives.push(Objective::Cost(Cost::Energy));
    let uniform = |level| experiment.space.uniform(&experiment.network, level);
    let energy = |candidate: &Candidate| experiment.costs(candidate, &measure(candidate))[&Cost::Energy];
    let (low, high) = (energy(&uniform(4)), energy(&uniform(0)));
    experiment.constraints = Default::default();
    experiment.constraints.max.insert(Cost::Energy, (low + high) / 2.0);
    assert_eq!(problems(&experiment), []);
    let (archive, _) = run(&experiment, |_| false);
    let most = experiment.constraints.max[&Cost::Energy];
    let within = archive.iter().filter(|(_, entry)| entry.costs[&Cost::Energy] <= most).count();
    assert!(within > 90, "{within} of {}", archive.len());
}

#[test]
fn what_makes_no_sense_is_named_with_its_bound() {
    let words = |strategy: Surrogate| -> Vec<String> {
        problems(&experiment(strategy)).iter().map(ToString::to_string).collect()
    };
    let wrong = Surrogate { initial: 1, iterations: 0, batch: 201, prune: Some(0.5), ..SURROGATE };
    assert_eq!(
        words(wrong),
        [
            "strategy.initial = 1: expected 2 to 2000",
            "strategy.iterations = 0: expected 1 to 10000",
            "strategy.batch = 201: expected 1 to 200",
            "strategy.prune = 0.5: expected 1 to 1000000",
        ]
    );
    let many = Surrogate { iterations: 10_000, ..SURROGATE };
    assert_eq!(words(many), ["strategy: 100040 candidates: expected 20000 at most"]);
    let alone = Surrogate { sensitivity_sequences: Some(3), ..SURROGATE };
    assert_eq!(words(alone), ["strategy.sensitivity_sequences: expected with strategy.prune only"]);
    let none = Surrogate { sensitivity_sequences: Some(0), prune: Some(2.0), ..SURROGATE };
    assert_eq!(words(none), ["strategy.sensitivity_sequences = 0: expected 1 or more"]);
}
