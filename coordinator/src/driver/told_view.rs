//! View of a tell: what became of its candidates so far.

use std::sync::Arc;

use qslm_common::archive::Entry;
use qslm_common::candidate::CandidateId;
use qslm_common::measurement::Counts;
use qslm_common::trial::TrialKey;
use qslm_search::Tell;

/// View of what became of a tell.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldView {
    /// The tell.
    pub tell: Arc<Tell>,
    /// Candidates of the tell, in their order.
    pub candidates: Vec<ToldCandidate>,
    /// The float model; `None` before it is measured.
    pub float: Option<Entry>,
    /// Counts of the float model's shards, in their order; empty if they are not all known.
    pub float_shards: Vec<Counts>,
    /// True if the experiment has ended: what is open stays so.
    pub has_ended: bool,
}

/// Candidate that was told.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldCandidate {
    /// Id of the candidate.
    pub candidate: CandidateId,
    /// The trial that measures it.
    pub trial: TrialKey,
    /// State of the candidate.
    pub state: ToldState,
}

/// State of a candidate that was told.
#[derive(Debug, Clone, PartialEq)]
pub enum ToldState {
    /// Open: measured some day.
    Open {
        /// Counts of its first shards, without a gap.
        prefix: Vec<Counts>,
        /// Number of its shards; 0 before it is on its way.
        of: u32,
    },
    /// Measured.
    Measured(Box<Entry>),
    /// Pruned: by a race, or from outside.
    Pruned,
    /// Failed, for this reason.
    Failed(String),
}
