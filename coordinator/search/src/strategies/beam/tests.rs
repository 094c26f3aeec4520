//! Tests of the beam search.

use std::collections::BTreeMap;

use qslm_common::constraints::Constraints;
use qslm_common::cost::Cost;
use qslm_common::scheme::{Symmetry, Width};
use qslm_common::space::{ActivationSpace, MembraneSpace};
use qslm_common::strategy::StrategySpec;
use qslm_common::trade_off::TradeOff;
use qslm_testing::{experiment, measure, run};

use super::*;
use crate::testing::start;
use crate::{Grid, problems};

const BEAM: Beam = Beam { tier: Tier::Matrix, width: 3, gate_sequences: None, gate_loss: None };

/// Candidates that the search of a strategy measures on all data.
fn measured(experiment: &Experiment) -> BTreeSet<CandidateId> {
    run(experiment, |_| false).0.iter().map(|(id, _)| *id).collect()
}

fn with(experiment: &Experiment, strategy: impl Into<StrategySpec>) -> Experiment {
    Experiment { strategy: strategy.into(), ..experiment.clone() }
}

/// The greedy search, written slowly: from what was kept, every narrower level of the next group, the best of them kept.
/// Returns what it measures below the sensitivity stage, and what it keeps.
fn greedy(experiment: &Experiment) -> (BTreeSet<CandidateId>, Candidate) {
    let Experiment { network, space, trade_off, constraints, .. } = experiment;
    let float = Candidate::float(network);
    let mut archive = qslm_common::archive::Archive::default();
    archive.insert(experiment, &float, measure(&float));
    let mut seen = BTreeSet::new();
    let is_better = |archive: &Archive, a: &Candidate, b: &Candidate| {
        let before = archive.float(experiment).unwrap();
        let (a, b) = (archive.get(&a.id()).unwrap(), archive.get(&b.id()).unwrap());
        let cost = |entry: &Entry| entry.measured().cost(trade_off.cost()).unwrap();
        let value = |entry: &Entry| trade_off.value(before.measured(), entry.measured());
        match constraints.bounds_quality() {
            true => {
                constraints.allow_loss(&before.counts, a.measured())
                    && (cost(a), a.counts.nll) < (cost(b), b.counts.nll)
            }
            false => value(a) > value(b),
        }
    };
    let mut current = (float.clone(), None::<BTreeMap<String, usize>>);
    let all = space.groups(network, Axis::Weights, Tier::Matrix);
    let nll = |candidate: &Candidate| measure(candidate).nll.0;
    let alone = |unit: &String| {
        let group = Group {
            axis: Axis::Weights,
            name: unit.clone(),
            members: vec![unit.clone()],
            levels: space.levels(Axis::Weights),
        };
        nll(&space.place(float.clone(), &group, space.levels(Axis::Weights) / 2)) - nll(&float)
    };
    let mut try_all = |current: &mut (Candidate, Option<BTreeMap<String, usize>>), tried: Vec<_>| {
        for (candidate, levels) in tried {
            archive.insert(experiment, &candidate, measure(&candidate));
            seen.insert(candidate.id());
            if is_better(&archive, &candidate, &current.0) {
                *current = (candidate, Some(levels));
            }
        }
    };
    let uniform = |level| {
        let levels = all.iter().map(|group| (group.name.clone(), level)).collect::<BTreeMap<_, _>>();
        (space.uniform(network, level), levels)
    };
    try_all(&mut current, (0..5).map(uniform).collect());
    for tier in [Tier::Block, Tier::Module, Tier::Matrix] {
        let mut groups = space.groups(network, Axis::Weights, tier);
        groups.retain(|group| tier == Tier::Block || group.name != "head" && group.name != "head.weight");
        groups.sort_by_key(|group| group.members.iter().map(&alone).sum::<u64>());
        for group in groups {
            let levels = current.1.clone().unwrap_or_default();
            let first = group.members.iter().map(|unit| levels.get(unit).map_or(0, |level| level + 1));
            let narrower = first.min().unwrap()..5;
            let placed = |level| {
                let mut levels = levels.clone();
                levels.extend(group.members.iter().map(|unit| (unit.clone(), level)));
                (space.place(current.0.clone(), &group, level), levels)
            };
            let tried = narrower.map(placed).collect();
            try_all(&mut current, tried);
        }
    }
    (seen, current.0)
}

#[test]
fn with_a_width_of_one_it_is_greedy() {
    let one = Beam { width: 1, ..BEAM };
    let bounded = experiment(one.clone());
    assert_eq!(problems(&bounded), []);
    let tight = Constraints { max_perplexity_increase: Some(1e-5), ..Default::default() };
    for constraints in [bounded.constraints.clone(), Constraints::default(), tight] {
        let experiment = Experiment { constraints, ..bounded.clone() };
        let (archive, _) = run(&experiment, |_| false);
        let (seen, kept) = greedy(&experiment);
        let probes = start(&experiment).probes().into_iter().map(|probe| probe.candidate.id());
        let mut all: BTreeSet<CandidateId> = probes.chain(seen).collect();
        all.insert(Candidate::float(&experiment.network).id());
        assert_eq!(archive.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), all);
        assert!(archive.get(&kept.id()).is_some());
        assert!(
            archive == run(&with(&experiment, Tiered::default()), |_| false).0,
            "it is the tiered search"
        );
    }
}

#[test]
fn with_a_width_of_one_it_is_the_tiered_search_over_all_axes_too() {
    let mut all = experiment(Beam { width: 1, ..BEAM });
    let bits = [8, 6, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    all.space.activations = Some(ActivationSpace { bits, symmetry: Symmetry::Affine, calibration: None });
    all.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
    all.trade_off = TradeOff::EpsilonConstraint { cost: Cost::Energy };
    assert_eq!(problems(&all), []);
    // What was tried before is not proposed again, which the tiered search does where blocks come to what all together were.
    assert!(run(&all, |_| false).0 == run(&with(&all, Tiered::default()), |_| false).0);
    let wide = with(&all, BEAM);
    assert!(run(&wide, |_| false).0.len() > run(&all, |_| false).0.len());
}

#[test]
fn with_a_width_of_all_it_is_exhaustive() {
    // Sensitivity on part of the data, so that nothing but the beam is a result.
    let all = Beam { tier: Tier::Block, width: 1000, gate_sequences: Some(4), gate_loss: None };
    let mut beam = experiment(all);
    beam.constraints = Constraints::default();
    let grid = with(&beam, Grid { tier: Tier::Block });
    assert_eq!(measured(&beam).len(), 126);
    assert_eq!(measured(&beam), measured(&grid));
    // Within a bound it goes everywhere that is good enough.
    let bounded = Experiment { constraints: experiment(BEAM).constraints, ..beam };
    let (archive, _) = run(&bounded, |_| false);
    let (every, _) = run(&grid, |_| false);
    let float = every.float(&grid).unwrap();
    let good: Vec<_> = every
        .iter()
        .filter(|(_, entry)| bounded.constraints.allow_loss(&float.counts, entry.measured()))
        .collect();
    assert!((20..120).contains(&good.len()), "{}", good.len());
    assert!(good.iter().all(|(id, entry)| archive.get(id) == Some(*entry)));
}

#[test]
fn wider_beams_find_what_is_no_worse() {
    let chosen = |width| {
        let experiment = experiment(Beam { width, ..BEAM });
        run(&experiment, |_| false).0.chosen().unwrap().entry.footprint_bytes
    };
    let widths = [1, 2, 4, 8].map(chosen);
    assert!(widths.is_sorted_by(|a, b| a >= b), "{widths:?}");
}

#[test]
fn the_path_is_the_same_every_time_also_where_candidates_fail() {
    let experiment = experiment(Beam { gate_sequences: Some(4), gate_loss: Some(0.05), ..BEAM });
    let fails = |candidate: &Candidate| candidate.id().as_bytes()[0] < 80;
    let (archive, stages) = run(&experiment, fails);
    assert_eq!((archive.clone(), stages.clone()), run(&experiment, fails));
    assert!(archive.chosen().is_some() && stages.len() > 20);
    assert_eq!(run(&experiment, |_| true).1, [("sensitivity", 1)], "nothing to compare with");
    let float = Candidate::float(&experiment.network);
    assert_eq!(run(&experiment, |candidate| *candidate != float).0.len(), 1);
}

#[test]
fn what_is_in_the_archive_beforehand_changes_no_generation() {
    let experiment = experiment(Beam { gate_sequences: Some(4), gate_loss: Some(0.05), ..BEAM });
    let (whole, stages) = run(&experiment, |_| false);
    let mut again = start(&experiment);
    let mut path = Vec::new();
    while let Step::Measure(generation) = again.next(&whole) {
        path.push((generation.stage, generation.candidates.len()));
    }
    assert_eq!(path, stages);
}

#[test]
fn what_loses_too_much_on_part_of_the_data_does_not_go_on() {
    let open = Beam { gate_sequences: Some(4), ..BEAM };
    let gated = Beam { gate_loss: Some(0.03), ..open.clone() };
    let (without, _) = run(&experiment(open), |_| false);
    let experiment = experiment(gated);
    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages[..3], [("sensitivity", 1), ("sensitivity", 16), ("global", 5)]);
    assert_eq!(stages[3], ("global", 3), "two widths lose more than 3 %");
    let float = archive.float(&experiment).unwrap();
    assert!(archive.iter().all(|(_, entry)| quality_loss(&float.counts, &entry.counts) <= 0.03));
    assert!(archive.len() < without.len(), "{} {}", archive.len(), without.len());
    // The part tells as much as the whole here, so the gate costs nothing.
    assert_eq!(archive.chosen().unwrap().id, without.chosen().unwrap().id);
    let everything = with(&experiment, Beam { gate_sequences: Some(4), gate_loss: Some(0.0), ..BEAM });
    assert_eq!(run(&everything, |_| false).0.len(), 1, "nothing goes through");
}

#[test]
fn a_budget_in_bytes_is_met_where_it_can_be() {
    let mut bounded = experiment(BEAM);
    let small = bounded.space.uniform(&bounded.network, 3);
    for most in [bounded.footprint(&small), bounded.space.smallest_footprint(&bounded.network)] {
        bounded.constraints = Constraints { max_footprint_bytes: Some(most), ..Default::default() };
        assert_eq!(problems(&bounded), []);
        let chosen = run(&bounded, |_| false).0.chosen().unwrap().entry.footprint_bytes;
        assert!(chosen <= most, "{chosen} {most}");
    }
}

#[test]
fn no_more_is_proposed_than_was_told() {
    let gated = Beam { gate_sequences: Some(4), gate_loss: Some(0.05), ..BEAM };
    let strategies = [
        BEAM,
        Beam { width: 1, ..BEAM },
        Beam { tier: Tier::Global, ..BEAM },
        Beam { width: 20, tier: Tier::Module, ..BEAM },
        Beam { gate_loss: None, ..gated.clone() },
        gated,
    ];
    for strategy in strategies {
        for constraints in [Constraints::default(), experiment(BEAM).constraints] {
            let experiment = Experiment { constraints, ..experiment(strategy.clone()) };
            let mut search = start(&experiment);
            let Step::Measure(first) = search.next(&Archive::default()) else { panic!("nothing first") };
            let first = first.candidates.len() as u64;
            let outline = strategy.outline(&experiment, first);
            let outlined: u64 = outline.iter().map(|stage| stage.candidates_at_most).sum();
            assert_eq!(outlined, first + search.remaining_at_most().unwrap(), "{strategy:?}");
            let (mut archive, mut of_stages) = (Archive::default(), BTreeMap::<_, u64>::new());
            let (mut search, mut on_subset) = (start(&experiment), 0);
            let mut most = u64::MAX;
            while let Step::Measure(generation) = search.next(&archive) {
                let count = generation.candidates.len() as u64;
                *of_stages.entry(generation.stage).or_default() += count;
                on_subset += if generation.subset.is_some() { count } else { 0 };
                let left = search.remaining_at_most().unwrap();
                assert!(left + count <= most, "what is left only falls: {left} {count} {most}");
                most = left;
                for candidate in generation.candidates.iter() {
                    match generation.subset {
                        Some(_) => archive.insert_on_subset(candidate.id(), measure(&candidate)),
                        None => archive.insert(&experiment, &candidate, measure(&candidate)),
                    }
                }
            }
            for (stage, count) in of_stages {
                let plan = outline.iter().find(|plan| plan.stage == stage).unwrap();
                assert!(count <= plan.candidates_at_most, "{stage}: {count} {plan:?}");
            }
            assert!(on_subset <= strategy.subset(&experiment).map_or(0, |subset| subset.candidates));
        }
    }
}

#[test]
fn what_makes_no_sense_is_named_with_its_bound() {
    let words = |strategy: Beam| -> Vec<String> {
        problems(&experiment(strategy)).iter().map(ToString::to_string).collect()
    };
    let wrong = Beam { width: 0, gate_sequences: Some(0), gate_loss: Some(-1.0), ..BEAM };
    assert_eq!(
        words(wrong),
        [
            "strategy.width = 0: expected 1 to 1000",
            "strategy.gate_sequences = 0: expected 1 or more",
            "strategy.gate_loss = -1: expected 0 to 1000000",
        ]
    );
    let alone = Beam { gate_loss: Some(0.1), ..BEAM };
    assert_eq!(words(alone), ["strategy.gate_loss: expected with strategy.gate_sequences only"]);
    let mut all = Beam { gate_sequences: Some(8), gate_loss: Some(0.1), ..BEAM };
    all.fit(8);
    assert_eq!(all, BEAM, "a gate on all of the data is none");
    let mut inner = experiment(BEAM);
    inner.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
    assert!(problems(&inner)[0].to_string().contains("trade_off.cost"));
}
