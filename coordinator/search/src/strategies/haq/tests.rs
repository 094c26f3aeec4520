use qslm_common::cost::Cost;
use qslm_common::front_document::FrontDocument;
use qslm_common::scheme::{Symmetry, Width};
use qslm_common::space::{ActivationSpace, MembraneSpace};
use qslm_testing::{experiment, measure, run};

use super::*;
use crate::testing::start;
use crate::{Random, problems};

const HAQ: Haq = Haq { tier: Tier::Matrix, episodes: 60, parallel: 4, hidden: 16, seed: 7 };

/// An experiment whose file may have half of the bytes between the smallest and the largest.
fn bounded(strategy: Haq) -> Experiment {
    let mut experiment = experiment(strategy);
    let bytes = |level| experiment.footprint(&experiment.space.uniform(&experiment.network, level));
    experiment.constraints.max_footprint_bytes = Some(bytes(0).midpoint(bytes(4)));
    experiment
}

#[test]
fn every_candidate_but_the_float_model_is_within_the_budget() {
    let experiment = bounded(HAQ);
    assert_eq!(problems(&experiment), []);
    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages[0], ("haq", 5), "the float model comes first");
    let most = experiment.constraints.max_footprint_bytes.unwrap();
    let within = archive.iter().filter(|(_, entry)| entry.footprint_bytes <= most).count();
    assert_eq!(within, archive.len() - 1);
    assert!(archive.len() > 50, "{}", archive.len());
}

#[test]
fn flash_and_ram_are_budgets_of_their_own() {
    let mut experiment = bounded(HAQ);
    let widths = |bits: &[u8]| bits.iter().map(|bits| Width::try_from(*bits).unwrap()).collect::<Vec<_>>();
    experiment.space.bits = widths(&[8, 4, 2]);
    experiment.space.membranes = Some(MembraneSpace { bits: vec![16, 8, 4], integer_bits: 1 });
    experiment.space.activations =
        Some(ActivationSpace { bits: widths(&[8, 4]), symmetry: Symmetry::Affine, calibration: None });
    let uniform = experiment.space.uniform(&experiment.network, 1);
    experiment.constraints.max_footprint_bytes = Some(experiment.footprint(&uniform));
    // 5 floats of state for each of 16 channels in 2 blocks; of 64 potentials 2 bytes, 1 or a half; and the widest linears,
    // ffn.key and the head: 64 words out, 16 inputs of 8 or 4 bits in.
    let (state, wide) = (640.0, 256.0);
    let ram = state + 64.0 + wide + 16.0;
    experiment.constraints.max = [(Cost::WorkingMemory, ram)].into();
    experiment.trade_off = qslm_common::trade_off::TradeOff::EpsilonConstraint { cost: Cost::WorkingMemory };
    assert_eq!(problems(&experiment), []);
    let (archive, _) = run(&experiment, |_| false);
    let is_within = |entry: &qslm_common::archive::Entry| {
        entry.footprint_bytes <= experiment.footprint(&uniform)
            && entry.measured().cost(Cost::WorkingMemory).unwrap() <= ram
    };
    let float = Candidate::float(&experiment.network).id();
    assert!(archive.iter().all(|(id, entry)| *id == float || is_within(entry)));
    assert!(archive.len() > 50);
    experiment.constraints.max = [(Cost::WorkingMemory, state + 32.0 + wide + 7.0)].into();
    let words: Vec<_> = problems(&experiment).iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "strategy haq: working_memory of at most 935 cannot be met: with every group at its last level it is 936"
        ]
    );
}

#[test]
fn the_same_seed_takes_the_same_path_also_where_candidates_fail() {
    let experiment = bounded(HAQ);
    let fails = |candidate: &Candidate| candidate.id().as_bytes()[0] < 40;
    let front = || FrontDocument::new(&experiment, &run(&experiment, fails).0).to_json();
    assert_eq!(front(), front());
    let other = Experiment { strategy: Haq { seed: 8, ..HAQ }.into(), ..experiment.clone() };
    assert_ne!(run(&other, fails).0, run(&experiment, fails).0);
}

#[test]
fn a_search_that_starts_over_with_all_results_takes_the_same_path() {
    let experiment = bounded(HAQ);
    let (mut archive, _) = run(&experiment, |_| false);
    // As a rewound search finds it, with more than it proposed.
    let more = experiment.space.uniform(&experiment.network, 4);
    archive.insert(&experiment, &more, measure(&more));
    let (mut search, mut again) = (start(&experiment), Archive::default());
    while let Step::Measure(generation) = search.next_at_last(&archive) {
        for candidate in generation.candidates.iter() {
            again.insert(&experiment, &candidate, measure(&candidate));
        }
    }
    assert_eq!(again, run(&experiment, |_| false).0);
}

#[test]
fn nothing_is_proposed_twice_and_a_small_space_ends() {
    let experiment = bounded(Haq { tier: Tier::Global, episodes: 200, ..HAQ });
    let (archive, stages) = run(&experiment, |_| false);
    let proposed: usize = stages.iter().map(|(_, count)| count).sum();
    assert_eq!(proposed, archive.len());
    // The float model, and the widths that are within the budget.
    assert!((2..=6).contains(&archive.len()), "{}", archive.len());
}

#[test]
fn without_the_float_model_there_is_nothing_to_learn() {
    let experiment = bounded(HAQ);
    let float = Candidate::float(&experiment.network).id();
    let (_, stages) = run(&experiment, |candidate| candidate.id() == float);
    assert_eq!(stages, [("haq", 5)]);
}

#[test]
fn it_finds_more_within_the_budget_than_as_many_drawn_at_random() {
    let learned = bounded(Haq { episodes: 200, hidden: 32, ..HAQ });
    let mut random = experiment(Random { tier: Tier::Matrix, trials: 200, seed: 7 });
    random.constraints = learned.constraints.clone();
    let best = |experiment: &Experiment| {
        let most = experiment.constraints.max_footprint_bytes.unwrap();
        let (archive, _) = run(experiment, |_| false);
        let within = archive.iter().filter(|(_, entry)| entry.footprint_bytes <= most);
        within.map(|(_, entry)| entry.counts.nll.nats()).fold(f64::INFINITY, f64::min)
    };
    let (learned, drawn) = (best(&learned), best(&random));
    assert!(learned < drawn, "{learned} {drawn}");
}

#[test]
fn rewards_are_bounded_and_tell_quality_alone() {
    let close = |loss, reward_of: f64| (reward(Some(loss)) - reward_of).abs() < 1e-12;
    assert!(close(0.03, -0.3) && close(0.0, 0.0) && close(-0.01, 0.1));
    assert_eq!([reward(Some(f64::INFINITY)), reward(Some(f64::NAN)), reward(None)], [-10.0; 3]);
    let float = measure(&Candidate::float(&experiment(HAQ).network));
    assert_eq!(loss(&float, &float), 0.0);
    assert_eq!([deviation(19), deviation(20), deviation(21)], [None, Some(0.5), Some(0.495)]);
}

#[test]
fn what_makes_no_sense_is_named_with_its_bound() {
    let words = |experiment: &Experiment| -> Vec<String> {
        problems(experiment).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        words(&bounded(Haq { episodes: 0, parallel: 101, hidden: 0, ..HAQ })),
        [
            "strategy.episodes = 0: expected 1 to 10000",
            "strategy.parallel = 101: expected 1 to 100",
            "strategy.hidden = 0: expected 1 to 1000"
        ]
    );
    assert_eq!(
        words(&experiment(HAQ)),
        [
            "strategy haq: expected a budget: constraints.max_footprint_bytes, min_saving, or the max of a cost that \
          schemes alone decide"
        ]
    );
    assert_eq!(
        words(&bounded(Haq { episodes: 10_000, hidden: 300, ..HAQ })),
        [
            "strategy.hidden = 300: to learn from all episodes takes 9367 billion multiplications, expected at most 1200: \
          lower hidden or episodes"
        ]
    );
    assert_eq!(
        words(&bounded(Haq { parallel: 20, hidden: 300, ..HAQ })),
        [
            "strategy.hidden = 300: to learn from a generation takes 19 billion multiplications, expected at most 10: lower \
          hidden or parallel"
        ]
    );
    assert_eq!(
        words(&bounded(Haq { episodes: 600, hidden: 300, ..HAQ })),
        [""; 0],
        "as published, over 15 groups"
    );
    let mut many = bounded(HAQ);
    many.network.blocks = 200;
    many.constraints = Default::default();
    assert_eq!(words(&many), ["strategy.tier: 1401 groups: expected at most 1000"]);
}
