//! Adding a strategy: a worked example that is compiled and run.
//!
//! The strategy below quantizes one block at a time, every block at every width, the rest float. It would be added by
//! moving the first half of this file to `src/strategies/`, and one line, `"one_block" => OneBlock`, in
//! `src/strategies/mod.rs`. Specs, the reference, `--dry-run`, reports, resuming and clusters then know it.
#![allow(clippy::unwrap_used)]

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Tier};
use qslm_search::{Generation, Grid, Key, Problem, Search, Step, Strategy};
use qslm_testing::{experiment, measure};
use serde::{Deserialize, Serialize};

// What stands in the strategy's file.

/// One block at a time, in the order of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneBlock {
    /// Blocks to try.
    first: u32,
}

impl Strategy for OneBlock {
    const KIND: &'static str = "one_block";
    const ABOUT: &'static str = "One block at a time, the rest float.";
    const KEYS: &'static [Key] =
        &[Key { name: "first", takes: "1 or more", default: "required", means: "blocks to try" }];

    fn problems(&self, _experiment: &Experiment) -> Vec<Problem> {
        let words = "strategy.first = 0: expected 1 or more";
        (self.first == 0).then(|| Problem::new("strategy.first", words)).into_iter().collect()
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let (space, network) = (&experiment.space, &experiment.network);
        let float = Candidate::float(network);
        let groups = space.groups(network, Axis::Weights, Tier::Block).into_iter().take(self.first as usize);
        let mut generations = vec![("float", vec![float.clone()])];
        generations.extend(groups.map(|group| {
            let at = |level| space.place(float.clone(), &group, level);
            ("block", (0..space.levels(Axis::Weights)).map(at).collect())
        }));
        generations.reverse();
        Box::new(OneBlockSearch(generations))
    }
}

/// Generations that are left, the last one first.
struct OneBlockSearch(Vec<(&'static str, Vec<Candidate>)>);

impl Search for OneBlockSearch {
    fn next(&mut self, _archive: &Archive) -> Step {
        self.0.pop().map_or(Step::Finished, |(stage, candidates)| {
            let candidates = candidates.into_iter().collect();
            Step::Measure(Generation { stage, candidates, subset: None, may_race: true })
        })
    }

    fn remaining_at_most(&self) -> Option<u64> {
        Some(self.0.iter().map(|(_, candidates)| candidates.len() as u64).sum())
    }
}

// What stands in its test.

#[test]
fn a_strategy_is_run_to_its_end() {
    let experiment = experiment(Grid { tier: Tier::Block });
    let strategy: OneBlock = serde_json::from_str(r#"{"first":2}"#).unwrap();
    assert_eq!(strategy.problems(&experiment), []);
    assert_eq!(OneBlock { first: 0 }.problems(&experiment)[0].key, "strategy.first");

    let mut search = strategy.start(&experiment);
    assert_eq!(search.remaining_at_most(), Some(11));
    let (mut archive, mut stages) = (Archive::default(), Vec::new());
    while let Step::Measure(generation) = search.next(&archive) {
        stages.push((generation.stage, generation.candidates.len()));
        for candidate in generation.candidates.iter() {
            let counts = measure(&candidate);
            archive.insert(&experiment, &candidate, counts);
        }
    }
    // The float model, then five widths of each of two blocks.
    assert_eq!(stages, [("float", 1), ("block", 5), ("block", 5)]);
    assert!(archive.chosen().is_some());
}
