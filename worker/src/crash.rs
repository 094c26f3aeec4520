//! Places at which a worker can be told to die, so that tests see what it leaves behind.

use qslm_program::CrashPoints;

/// A place in the life of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// The coordinator has a job's artifact and did not hear that the job is done.
    ArtifactPut,
}

/// Crash plan of a worker.
pub type CrashPlan = qslm_program::CrashPlan<CrashPoint>;

impl CrashPoints for CrashPoint {
    const ALL: &'static [(&'static str, Self)] = &[("artifact-put", Self::ArtifactPut)];
}
