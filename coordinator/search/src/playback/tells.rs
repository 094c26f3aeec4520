//! Tells: what somebody outside proposes, handed to the search in order, and again whenever it starts over.

use std::sync::Arc;

use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::trial::{Addressed, TrialKey};

use super::Playback;
use crate::{AnyStrategy, Tell};

impl Playback {
    /// True if the candidates of the search come from outside.
    pub fn takes_tells(&self) -> bool {
        matches!(self.strategy, AnyStrategy::External(_))
    }

    /// Takes the next tell.
    pub fn tell(&mut self, tell: Arc<Tell>) {
        self.search.told(&tell);
        self.tells.push(tell);
        self.waiting = false;
    }

    /// Hands a search that starts over all that was told.
    pub(super) fn tell_again(&mut self) {
        self.waiting = false;
        for tell in &self.tells {
            self.search.told(tell);
        }
    }

    /// Tells so far, in their order.
    pub fn tells(&self) -> &[Arc<Tell>] {
        &self.tells
    }

    /// Names of the candidates of a tell, and of the trials that measure them.
    pub fn addresses(&self, tell: &Tell) -> Vec<(CandidateId, TrialKey)> {
        let address = |candidate: Candidate| {
            let trial = Addressed::from(self.whole.trial(candidate));
            (trial.candidate, trial.key)
        };
        tell.decode().map(address).collect()
    }
}
