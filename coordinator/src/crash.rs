//! Places at which a coordinator can be told to die, so that tests see what it leaves behind.

use qslm_program::CrashPoints;

/// A place in the life of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A stored experiment was read, before the coordinator serves anyone.
    Starting,
    /// A batch is about to be committed.
    BeforeCommit,
    /// A batch is on disk and nobody was answered.
    AfterCommit,
    /// A measured trial is about to enter the front.
    UpdatingFront,
    /// A job's artifact is on disk and its worker was not answered.
    ArtifactStored,
}

/// Crash plan of a coordinator.
pub type CrashPlan = qslm_program::CrashPlan<CrashPoint>;

impl CrashPoints for CrashPoint {
    const ALL: &'static [(&'static str, Self)] = &[
        ("starting", Self::Starting),
        ("before-commit", Self::BeforeCommit),
        ("after-commit", Self::AfterCommit),
        ("updating-front", Self::UpdatingFront),
        ("artifact-stored", Self::ArtifactStored),
    ];
}
