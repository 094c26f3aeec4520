//! An experiment under way: its search, and what people see of it.

use std::collections::HashMap;

use qslm_common::evidence::Evidence;
use qslm_common::front_document::FrontDocument;
use qslm_common::trial::Addressed;
use qslm_common::trial::TrialKey;

use super::search_run::SearchRun;
use super::view::View;
use crate::ledger::{Closed, Ledger};
use crate::store::{Store, StoreError};

/// An experiment with what people see of it.
pub(super) struct ExperimentRun {
    pub(super) search: SearchRun,
    pub(super) view: View,
}

impl ExperimentRun {
    pub(super) fn front_document(&self) -> String {
        let playback = self.search.playback();
        FrontDocument::new(playback.experiment(), playback.archive()).to_json()
    }

    /// Lets the search go on; see [`SearchRun::advance`].
    pub(super) fn advance(
        &mut self,
        ledger: &mut Ledger,
        store: &Store,
        unwritten: &HashMap<TrialKey, Evidence>,
    ) -> Result<Vec<Closed>, StoreError> {
        let Self { search, view } = self;
        search.advance(ledger, store, unwritten, &mut |playback, trial, new| view.file(playback, trial, new))
    }

    /// Files a measured trial.
    pub(super) fn measured(&mut self, trial: &Addressed, evidence: Evidence) {
        let Self { search, view } = self;
        search.measured(trial, evidence, &mut |playback, trial, new| view.file(playback, trial, new));
        view.count(search.playback().is_on_subset(trial));
    }
}
