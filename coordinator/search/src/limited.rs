//! A search that ends after so many candidates, whatever its strategy.
//!
//! What counts is what the strategy proposes, the float model and its sensitivities included, in the order of its proposals;
//! so the end does not depend on who measures what. What is trained after the search comes on top.

use std::sync::Arc;

use qslm_common::archive::Archive;
use qslm_common::candidate::CandidateId;
use qslm_common::experiment::Experiment;

use crate::strategy::Probe;
use crate::{Generation, Problem, Search, StagePlan, Step, Tell};

/// A search, and how many candidates it may still propose.
struct Limited {
    search: Box<dyn Search>,
    left: u64,
}

/// The search within the experiment's limit, if it has one.
pub(crate) fn within_limit(search: Box<dyn Search>, experiment: &Experiment) -> Box<dyn Search> {
    match experiment.max_candidates {
        None => search,
        Some(left) => Box::new(Limited { search, left }),
    }
}

/// What is wrong with a limit: one of an experiment whose candidates come from outside, where whoever tells them decides.
pub(crate) fn problem(experiment: &Experiment) -> Option<Problem> {
    let is_told = experiment.strategy.kind() == "external";
    let words = "max_candidates does not go with strategy external: whoever tells candidates decides how many there are";
    (is_told && experiment.max_candidates.is_some()).then(|| Problem::new("max_candidates", words))
}

/// Stages as far as the limit of an experiment lets them propose anything.
pub fn stages_within_limit(mut stages: Vec<StagePlan>, experiment: &Experiment) -> Vec<StagePlan> {
    let Some(mut left) = experiment.max_candidates else { return stages };
    for stage in &mut stages {
        stage.candidates_at_most = stage.candidates_at_most.min(left);
        left -= stage.candidates_at_most;
    }
    stages
}

impl Search for Limited {
    fn next(&mut self, archive: &Archive) -> Step {
        if self.left == 0 {
            return Step::Finished;
        }
        match self.search.next(archive) {
            Step::Measure(generation) => {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let candidates = generation.candidates.first(most);
                self.left -= candidates.len() as u64;
                Step::Measure(Generation { candidates, ..generation })
            }
            step => step,
        }
    }

    fn told(&mut self, tell: &Arc<Tell>) {
        self.search.told(tell);
    }

    fn remaining_at_most(&self) -> Option<u64> {
        // What is left is a bound also where the strategy knows none.
        Some(self.search.remaining_at_most().map_or(self.left, |remaining| remaining.min(self.left)))
    }

    fn probes(&self) -> Vec<Probe> {
        self.search.probes()
    }

    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        self.search.predictions()
    }
}

#[cfg(test)]
mod tests {
    use qslm_testing::{every_strategy, experiment, measure};

    use super::*;
    use crate::{AnyStrategy, Playback};

    /// Candidates that a search proposes, in its order.
    fn proposed(experiment: &Experiment) -> Vec<CandidateId> {
        let strategy = AnyStrategy::parse(&experiment.strategy).unwrap();
        let mut search = within_limit(strategy.start(experiment), experiment);
        let (mut archive, mut proposed) = (Archive::default(), Vec::new());
        loop {
            match search.next_at_last(&archive) {
                Step::Measure(generation) => {
                    assert!(!generation.candidates.is_empty());
                    for candidate in generation.candidates.iter() {
                        proposed.push(candidate.id());
                        archive.insert(experiment, &candidate, measure(&candidate));
                    }
                }
                Step::Finished => return proposed,
                step => panic!("{step:?}"),
            }
        }
    }

    #[test]
    fn every_strategy_proposes_what_it_would_have_up_to_the_limit() {
        for text in every_strategy() {
            let spec: qslm_common::strategy::StrategySpec = serde_json::from_str(&text).unwrap();
            let kind = spec.kind();
            // See `problem`.
            if kind == "external" {
                continue;
            }
            let mut experiment = experiment(spec.clone());
            // Some strategies spend a budget.
            experiment.constraints.min_saving = Some(0.8);
            let all = proposed(&experiment);
            for most in [1, 3, 17, 1_000_000] {
                experiment.max_candidates = Some(most);
                assert!(crate::problems(&experiment).is_empty(), "{kind}");
                let expected = &all[..all.len().min(most as usize)];
                assert_eq!(proposed(&experiment), expected, "{kind} within {most}");
                let strategy = AnyStrategy::parse(&spec).unwrap();
                let stages = stages_within_limit(strategy.outline(&experiment, 1), &experiment);
                assert!(stages.iter().map(|stage| stage.candidates_at_most).sum::<u64>() <= most, "{kind}");
            }
        }
    }

    #[test]
    fn a_limit_is_part_of_an_experiment_only_where_it_has_one_and_bounds_what_remains() {
        let spec = r#"{"kind":"grid","tier":"block"}"#;
        let spec: qslm_common::strategy::StrategySpec = serde_json::from_str(spec).unwrap();
        let mut limited = experiment(spec.clone());
        assert!(!limited.encode().contains("max_candidates"));
        let id = limited.id();
        limited.max_candidates = Some(7);
        assert_ne!(limited.id(), id);
        assert_eq!(crate::decode(&limited.encode()).unwrap().max_candidates, Some(7));
        let mut playback = Playback::new(limited.clone(), 1, []).unwrap();
        playback.propose(|_| Ok::<_, ()>(false)).unwrap();
        assert_eq!((playback.progress().0, playback.remaining_at_most()), (7, Some(0)));
        limited.max_candidates = Some(0);
        let words = crate::decode(&limited.encode()).unwrap_err().to_string();
        assert_eq!(words, "max_candidates = 0: expected at least 1");
        limited.max_candidates = Some(1);
        limited.strategy = serde_json::from_str(r#"{"kind":"external"}"#).unwrap();
        assert!(crate::decode(&limited.encode()).unwrap_err().to_string().contains("does not go with"));
    }
}
