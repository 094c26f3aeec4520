//! Tally: counts of what happened since the coordinator started.

use crate::ledger::Settled;

/// Counts that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Leases given to workers.
    pub granted: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Shards that were measured, and jobs that were done, and kept.
    pub recorded: u64,
    /// Results of shards that were settled already.
    pub duplicate: u64,
    /// Fenced results: their lease had run out or been taken back; those that were new are kept all the same.
    pub fenced: u64,
    /// Results with other counts than were recorded for the same shard.
    pub conflicting: u64,
    /// Results with counts that the network cannot give.
    pub implausible: u64,
    /// Shards that a worker could not measure.
    pub failed: u64,
    /// Jobs whose artifacts were made.
    pub jobs_made: u64,
    /// Jobs that failed for good.
    pub jobs_failed: u64,
    /// Faults of machines: shards that a worker could not measure for a reason of its own, and leases that
    /// were lost with their worker.
    pub faults: u64,
}

impl Tally {
    /// Counts a failure that came under a lease that was in force, or not.
    pub(super) fn note_failure(&mut self, in_force: bool) {
        self.fenced += u64::from(!in_force);
        self.failed += 1;
    }

    /// Counts a result that came under a lease that was in force, or not.
    pub(super) fn note(&mut self, settled: &Settled, in_force: bool) {
        self.fenced += u64::from(!in_force);
        match settled {
            Settled::Recorded | Settled::Complete(_) => self.recorded += 1,
            Settled::Known => self.duplicate += 1,
            Settled::Conflict => self.conflicting += 1,
            Settled::Implausible => self.implausible += 1,
            Settled::Unknown => {}
        }
    }
}
