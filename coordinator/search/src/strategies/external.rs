//! External: candidates that somebody outside tells, a generation at a time, and the float model before them.

use std::collections::VecDeque;
use std::sync::Arc;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use serde::{Deserialize, Serialize};

use crate::{Generation, Key, Problem, Search, StagePlan, Step, Strategy, Tell};

/// A search from outside. It has no parameters: what is told later is all that there is to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {}

impl Strategy for External {
    const KIND: &'static str = "external";
    const ABOUT: &'static str = "Candidates that another program tells a coordinator, a generation at a time, and learns the \
                                 results of: an optimizer of your own. See docs/external.md.";
    const KEYS: &'static [Key] = &[];

    fn problems(&self, _experiment: &Experiment) -> Vec<Problem> {
        Vec::new()
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let float = Candidate::float(&experiment.network);
        Box::new(ExternalSearch { float: Some(float), tells: VecDeque::new(), has_last: false })
    }

    fn caption(&self) -> String {
        "candidates that were told from outside".to_owned()
    }

    fn outline(&self, _experiment: &Experiment, _first: u64) -> Vec<StagePlan> {
        // How many candidates follow the float model, nobody knows.
        Vec::new()
    }
}

/// The search under way.
struct ExternalSearch {
    /// The float model, until it is proposed.
    float: Option<Candidate>,
    /// Tells that are not proposed yet.
    tells: VecDeque<Arc<Tell>>,
    /// True if the last tell is proposed.
    has_last: bool,
}

impl Search for ExternalSearch {
    fn next(&mut self, _archive: &Archive) -> Step {
        let propose = |candidates| {
            Step::Measure(Generation { stage: External::KIND, candidates, subset: None, may_race: true })
        };
        if let Some(float) = self.float.take() {
            return propose(std::iter::once(float).collect());
        }
        if self.has_last {
            return Step::Finished;
        }
        let Some(tell) = self.tells.pop_front() else { return Step::Wait };
        self.has_last = tell.last;
        match tell.candidates.is_empty() {
            true => Step::Finished,
            false => propose(tell.decode().collect()),
        }
    }

    fn told(&mut self, tell: &Arc<Tell>) {
        self.tells.push_back(tell.clone());
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let is_over = self.has_last || self.tells.iter().any(|tell| tell.last);
        let to_come = self.tells.iter().map(|tell| tell.candidates.len() as u64).sum::<u64>();
        is_over.then(|| to_come + u64::from(self.float.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use qslm_testing::experiment;

    use super::*;

    #[test]
    fn a_generation_follows_the_other_as_they_are_told_and_the_last_one_ends_the_search() {
        let experiment = experiment(External {});
        let mut search = External {}.start(&experiment);
        let archive = Archive::default();
        let tell = |levels: &[usize], last| {
            let text = |level: &usize| experiment.space.uniform(&experiment.network, *level).encode();
            Arc::new(Tell { candidates: levels.iter().map(text).collect(), last })
        };
        let next = |search: &mut Box<dyn Search>| match search.next(&archive) {
            Step::Measure(generation) => format!("{} {}", generation.stage, generation.candidates.len()),
            step => format!("{step:?}"),
        };
        assert_eq!((next(&mut search), next(&mut search)), ("external 1".to_owned(), "Wait".to_owned()));
        assert_eq!(search.remaining_at_most(), None);
        search.told(&tell(&[0, 1], false));
        search.told(&tell(&[2], true));
        assert_eq!(search.remaining_at_most(), Some(3));
        assert_eq!(
            (next(&mut search), next(&mut search)),
            ("external 2".to_owned(), "external 1".to_owned())
        );
        assert_eq!((next(&mut search), search.remaining_at_most()), ("Finished".to_owned(), Some(0)));
        // Nothing may follow the last one: whoever tells is told so, and the search would not look at it.
        search.told(&tell(&[3], false));
        assert_eq!(next(&mut search), "Finished");
        // An empty last tell ends it as well.
        let mut search = External {}.start(&experiment);
        search.told(&tell(&[], true));
        assert_eq!((next(&mut search), next(&mut search)), ("external 1".to_owned(), "Finished".to_owned()));
        assert_eq!(next(&mut search), "Finished");
    }
}
