//! Work: what workers lease, and what comes of it.
//!
//! There are two kinds. A [`Trial`](crate::trial::Trial) is cut into shards, each of which gives counts, and the counts add
//! up to a measurement. A [`Job`](crate::job::Job) is one piece and gives an artifact. Leases, fencing, expiry, speculative
//! execution and retries are the same for both.

use std::fmt;
use std::sync::Arc;

use crate::evidence::{Engines, Evidence};
use crate::hash::ContentHash;
use crate::job::{AddressedJob, JobKey};
use crate::trial::{Addressed, TrialKey};

/// Work: a trial, whose parts are counts, or a job, which makes an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A candidate to measure.
    Trial(Arc<Addressed>),
    /// An artifact to make.
    Job(Arc<AddressedJob>),
}

/// Content address of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkKey {
    /// That of a trial.
    Trial(TrialKey),
    /// That of a job.
    Job(JobKey),
}

/// Artifact that a job made, and the engines that did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Hash of the artifact.
    pub artifact: ContentHash,
    /// Engines that made it; several if several made the same.
    pub engines: Engines,
}

/// What a lease gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Counts of a trial's shard.
    Counts(Evidence),
    /// Artifact of a job.
    Artifact(Made),
}

impl Work {
    /// Content address.
    pub fn key(&self) -> WorkKey {
        match self {
            Self::Trial(trial) => WorkKey::Trial(trial.key),
            Self::Job(job) => WorkKey::Job(job.key),
        }
    }

    /// The trial, if it is one.
    pub fn trial(&self) -> Option<&Arc<Addressed>> {
        match self {
            Self::Trial(trial) => Some(trial),
            Self::Job(_) => None,
        }
    }

    /// The job, if it is one.
    pub fn job(&self) -> Option<&Arc<AddressedJob>> {
        match self {
            Self::Trial(_) => None,
            Self::Job(job) => Some(job),
        }
    }
}

impl Part {
    /// True if both say the same, whoever computed them.
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counts(one), Self::Counts(other)) => one.counts == other.counts,
            (Self::Artifact(one), Self::Artifact(other)) => one.artifact == other.artifact,
            _ => false,
        }
    }
}

impl WorkKey {
    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Trial(key) => key.as_bytes(),
            Self::Job(key) => key.as_bytes(),
        }
    }

    /// The hash, whatever it is of.
    pub fn hash(&self) -> ContentHash {
        ContentHash::from_bytes(*self.as_bytes())
    }
}

impl From<TrialKey> for WorkKey {
    fn from(key: TrialKey) -> Self {
        Self::Trial(key)
    }
}

impl From<JobKey> for WorkKey {
    fn from(key: JobKey) -> Self {
        Self::Job(key)
    }
}

/// `trial HASH` or `job HASH`.
impl fmt::Display for WorkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trial(key) => write!(f, "trial {key}"),
            Self::Job(key) => write!(f, "job {key}"),
        }
    }
}
