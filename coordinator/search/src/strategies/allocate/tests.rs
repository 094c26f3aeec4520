//! Tests of allocation.

use qslm_common::cost::Cost;
use qslm_common::scheme::Width;
use qslm_common::trade_off::TradeOff;
use qslm_testing::{experiment, run};

use super::*;

fn allocate() -> Experiment {
    experiment(Allocate { tier: Tier::Matrix, sensitivity_sequences: None })
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
    let planned = Allocate { tier: Tier::Matrix, sensitivity_sequences: None }.outline(&experiment, 31);
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
    let on_part = experiment(Allocate { tier: Tier::Matrix, sensitivity_sequences: Some(4) });
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

#[test]
fn errors_fall_with_bits_and_steps_and_the_logarithm_is_one() {
    let error = |text: &str| squared_error(text.parse().unwrap());
    let widths: Vec<f64> = (2..=8).map(|bits| error(&format!("int{bits}:symmetric:channel"))).collect();
    assert!(widths.windows(2).all(|pair| pair[1] < pair[0]));
    assert!(error("int2:full:channel") < error("int2:symmetric:channel"));
    assert!((error("ec:1.08:channel") - 0.0976).abs() < 0.001);
    assert!(error("ec:0.70:channel:gptq") < error("ec:0.70:channel"));
    for x in [0.0f64, 0.03, 0.5, 3.0] {
        assert!((ln_1p(x) - x.ln_1p()).abs() < 1e-12, "{x}");
    }
}

#[test]
fn what_it_cannot_spend_bytes_on_is_refused() {
    let mut one_level = allocate();
    one_level.space.bits = vec![Width::try_from(4).unwrap()];
    let problems = Allocate { tier: Tier::Matrix, sensitivity_sequences: Some(0) }.problems(&one_level);
    let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        words[0].contains("sensitivity_sequences = 0") && words[1].contains("at least two levels"),
        "{words:?}"
    );
}
