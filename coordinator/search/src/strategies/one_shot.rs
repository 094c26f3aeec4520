//! One-shot search: all candidates are known at the start and measured in one generation.

use qslm_common::archive::Archive;

use crate::{Candidates, Generation, Search, Step};

/// A generation, proposed once.
pub(super) struct OneShot(Option<Generation>);

impl OneShot {
    /// A search that proposes these and nothing else.
    pub(super) fn start(stage: &'static str, candidates: Candidates) -> Box<dyn Search> {
        Box::new(Self(Some(Generation { stage, candidates, subset: None, may_race: true })))
    }
}

impl Search for OneShot {
    fn next(&mut self, _archive: &Archive) -> Step {
        self.0.take().map_or(Step::Finished, Step::Measure)
    }

    fn remaining_at_most(&self) -> Option<u64> {
        Some(self.0.as_ref().map_or(0, |generation| generation.candidates.len() as u64))
    }
}
