//! Tests of allocation by the law.

use qslm_common::cost::Cost;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::scheme::Width;
use qslm_common::space::{Tier, VectorSpace};
use qslm_common::strategy::StrategySpec;
use qslm_common::trade_off::TradeOff;
use qslm_testing::{experiment, measure, run};

use super::*;
use crate::{Allocate, Strategy};

/// As it stands in the texts of experiments from before there was a regression.
const LAW: Allocate =
    Allocate { tier: Tier::Matrix, sensitivity_sequences: None, fit: None, table: None, losses: Vec::new() };

fn allocate() -> Experiment {
    experiment(LAW)
}

#[test]
fn the_stages_come_in_order_and_no_more_is_measured_than_was_planned() {
    let experiment = allocate();
    let (archive, stages) = run(&experiment, |_| false);
    let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
    order.dedup();
    assert_eq!(order, ["sensitivity", "allocation", "neighbours"]);
    // The float model, and 15 units at two levels.
    assert_eq!(stages[0], ("sensitivity", 31));
    let planned = LAW.outline(&experiment, 31);
    let most: u64 = planned.iter().map(|stage| stage.candidates_at_most).sum();
    assert!(archive.len() as u64 <= most, "{} of {most}", archive.len());
}

#[test]
fn it_finds_what_the_tiers_find_or_less_with_fewer_candidates() {
    let smallest = TradeOff::EpsilonConstraint { cost: Cost::Footprint };
    let [allocate, tiers] = [allocate(), experiment(crate::Tiered::default())]
        .map(|one| Experiment { trade_off: smallest, ..one });
    let (allocated, _) = run(&allocate, |_| false);
    let (tiered, _) = run(&tiers, |_| false);
    let bytes = |archive: &Archive| archive.chosen().unwrap().entry.footprint_bytes;
    assert!(bytes(&allocated) <= bytes(&tiered), "{} {}", bytes(&allocated), bytes(&tiered));
    assert!(allocated.len() < tiered.len(), "{} {}", allocated.len(), tiered.len());
}

#[test]
fn sensitivity_may_be_told_by_part_of_the_data() {
    let on_part = experiment(Allocate { sensitivity_sequences: Some(4), ..LAW });
    let (archive, stages) = run(&on_part, |_| false);
    assert_eq!(stages[..2], [("sensitivity", 1), ("sensitivity", 31)]);
    let (whole, _) = run(&allocate(), |_| false);
    assert_eq!(archive.chosen().unwrap().id, whole.chosen().unwrap().id);
}

#[test]
fn a_group_that_cannot_be_measured_stays_as_it_is() {
    let experiment = allocate();
    let head = "head.weight";
    let (archive, _) = run(&experiment, |candidate| {
        let float = Candidate::float(&experiment.network);
        *candidate == float.clone().with([head], candidate.scheme(head)) && candidate.scheme(head).bits() < 8
    });
    let chosen = archive.chosen().unwrap();
    assert_eq!(chosen.candidate.scheme(head).bits(), 8);
}

#[test]
fn the_hull_holds_no_allocation_that_another_beats() {
    // Three groups with three levels: of all 27 allocations none on the path is beaten in both.
    let tables = [
        vec![(100, 0.0), (80, 1.0), (60, 5.0)],
        vec![(100, 0.0), (95, 0.1), (50, 1.5)],
        vec![(100, 0.0), (99, 3.0), (70, 3.5)],
    ];
    // Bytes of the whole, of which each table tells those with its group alone lowered.
    let path = hull(100, &tables);
    let all = (0..27usize).map(|n| [n % 3, n / 3 % 3, n / 9]);
    let value = |levels: &[usize]| {
        let of = |index: usize| tables[index][levels[index]];
        let saved: u64 = (0..3).map(|index| 100 - of(index).0).sum();
        (100i64 - saved as i64, (0..3).map(|index| of(index).1).sum::<f64>())
    };
    assert!(
        path.len() >= 4 && path.windows(2).all(|pair| pair[1].bytes < pair[0].bytes || pair[0].bytes < 100)
    );
    for one in &path[..path.len() - 1] {
        let (bytes, loss) = value(&one.levels);
        assert!((loss - one.loss).abs() < 1e-12);
        let beats = |levels: [usize; 3]| {
            let other = value(&levels);
            other.0 <= bytes && other.1 < loss - 1e-12
        };
        assert!(!all.clone().any(beats), "{one:?}");
    }
}

/// Addresses of all that is proposed, in order, in one hash.
fn path(experiment: &Experiment, fails: impl Fn(&Candidate) -> bool) -> String {
    let mut search = crate::testing::start(experiment);
    let (mut archive, mut ids) = (Archive::default(), String::new());
    while let crate::Step::Measure(generation) = search.next(&archive) {
        for candidate in generation.candidates.iter() {
            ids += &format!("{} {:?} {}\n", generation.stage, generation.subset, candidate.id());
            match generation.subset {
                _ if fails(&candidate) => {}
                Some(_) => archive.insert_on_subset(candidate.id(), measure(&candidate)),
                None => archive.insert(experiment, &candidate, measure(&candidate)),
            }
        }
    }
    ContentHash::of(ids.as_bytes()).to_string()[..16].to_owned()
}

#[test]
fn what_is_on_record_keeps_its_path() {
    let plain = allocate();
    let on_part = r#"{"kind":"allocate","tier":"module","sensitivity_sequences":4}"#;
    let on_part = experiment(serde_json::from_str::<StrategySpec>(on_part).unwrap());
    let mut unbounded = allocate();
    unbounded.constraints = Default::default();
    let mut tight = allocate();
    tight.constraints.max_perplexity_increase = Some(1e-7);
    let mut vectors = allocate();
    vectors.space.vectors =
        Some(VectorSpace { bits: [16, 8].map(|bits| Width::try_from(bits).unwrap()).to_vec() });
    let no = |_: &Candidate| false;
    let float = Candidate::float(&plain.network);
    let some = |candidate: &Candidate| candidate.id().as_bytes()[3] < 40 && *candidate != float;
    let paths = [
        path(&plain, no),
        path(&plain, some),
        path(&on_part, no),
        path(&on_part, some),
        path(&unbounded, no),
        path(&tight, no),
        path(&vectors, no),
    ];
    // As they were before there was a regression.
    let before = [
        "68453f92bfc44f54",
        "caa41ffcbdb7c616",
        "600f3fa324a72f00",
        "171a1ea0624aebf0",
        "62375c495ffe2eb4",
        "078173d010aaea93",
        "c2ebbd6f2c362a2d",
    ];
    assert_eq!(paths, before);
}
