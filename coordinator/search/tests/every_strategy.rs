//! What holds of every strategy by name.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::strategy::StrategySpec;
use qslm_search::{AnyStrategy, Playback, Tell, registry};
use qslm_testing::{every_strategy, experiment, run_told};

fn specs() -> Vec<StrategySpec> {
    every_strategy().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[test]
fn every_kind_is_among_those_that_are_tested() {
    let tested: Vec<String> = specs().iter().map(|spec| spec.kind().to_owned()).collect();
    let kinds: Vec<&str> = registry().iter().map(|entry| entry.kind).collect();
    assert_eq!(tested, kinds);
}

/// The first generation of a strategy that waits for tells.
fn tell(of: &Experiment) -> Arc<Tell> {
    let candidate = Candidate::new(&of.network, |_| "f16".parse().unwrap());
    Arc::new(Tell { candidates: vec![candidate.encode()], last: true })
}

#[test]
fn a_stage_has_one_name_in_the_plan_and_in_the_search() {
    for spec in specs() {
        let mut of = experiment(spec.clone());
        // Some strategies spend a budget.
        of.constraints.min_saving = Some(0.8);
        let first = {
            let mut playback = Playback::new(of.clone(), 1, []).unwrap();
            playback.propose(|_| Ok::<_, ()>(false)).unwrap();
            playback.candidates() as u64
        };
        let outline = AnyStrategy::parse(&spec).unwrap().outline(&of, first);
        let planned: Vec<&str> = outline.iter().map(|stage| stage.stage.as_str()).collect();
        let mut ahead = planned.iter();
        let (_, stages) = run_told(&of, &[tell(&of)], |_| false);
        assert!(!stages.is_empty(), "{}", spec.kind());
        let mut stages: Vec<&str> = stages.into_iter().map(|(stage, _)| stage).collect();
        stages.dedup();
        if spec.kind() == "external" {
            assert_eq!((stages, planned), (vec!["external"], vec![]), "nobody can plan what is told");
            continue;
        }
        for stage in &stages {
            assert!(ahead.any(|next| next == stage), "{}: {stages:?}, planned {planned:?}", spec.kind());
        }
    }
}
