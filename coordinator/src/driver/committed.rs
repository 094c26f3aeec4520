//! Outcome of a batch that was handed to the committer.

use qslm_common::trial::TrialKey;

use crate::store::StoreError;

/// Outcome of a batch, as the driver hears of it: the trials whose sums are on disk now.
pub(super) type Committed = Result<Vec<TrialKey>, CommitError>;

/// Reason why a batch may not be on disk.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A panic of the thread that writes, in its words.
    #[error("the thread that writes the store panicked: {0}")]
    Panicked(String),
}
