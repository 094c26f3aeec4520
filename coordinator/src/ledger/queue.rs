//! Queue of an owner, and how a worker's next shard is chosen from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qslm_common::work::{Work, WorkKey};

use super::leases::Lease;
use super::open::PendingShard;
use super::{Ledger, Moment, Owner};

/// Speculative execution: a shard is a straggler's if it is out for so many times what shards took on average, and at
/// least so long.
pub(super) const STRAGGLES: (u32, Duration) = (3, Duration::from_secs(1));

/// Pending shards that are looked through for one that suits a worker.
const LOOK: usize = 64;

/// Queue of one owner: the shards that it waits for, its counts, and the affinity of workers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Shards to grant, in the order in which their work was opened.
    pub(super) pending: BTreeSet<PendingShard>,
    /// Open trials and jobs.
    pub(super) open: u32,
    /// Leases on this owner's account.
    pub(super) leased: u32,
    /// Settled shards of the open work.
    pub(super) settled: u32,
    /// Settled leases of trials on this owner's account, and those of jobs.
    pub(super) durations: [Durations; 2],
    /// Affinity: the worker that had a slice of the data last, by the shard's index. Candidates begin alike, and what a
    /// worker computed of one it need not compute again of the next on the same slice.
    pub(super) last_worker: BTreeMap<u32, String>,
}

/// Settled leases, and how long they were out together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Durations {
    pub(super) leases: u32,
    pub(super) together: Duration,
}

impl Durations {
    pub(super) fn add(&mut self, time: Duration) {
        self.leases = self.leases.saturating_add(1);
        self.together = self.together.saturating_add(time);
    }

    /// Time after which a lease that is still out is a straggler's, once any has settled.
    fn patience(self) -> Option<Duration> {
        let (times, least) = STRAGGLES;
        Some(self.together.checked_div(self.leases)?.saturating_mul(times).max(least))
    }
}

/// Index of a queue's durations: jobs are compared with jobs, which take much longer.
pub(super) fn kind(work: WorkKey) -> usize {
    usize::from(matches!(work, WorkKey::Job(_)))
}

impl Ledger {
    /// The owner's next pending shard that suits a worker.
    pub(super) fn next_pending(
        &self,
        owner: Owner,
        worker: &str,
        able: &dyn Fn(&Work) -> bool,
    ) -> Option<PendingShard> {
        let queue = self.queues.get(&owner)?;
        // An experiment's trials are alike; jobs are not. Asked last, since it is looked up.
        let is_able = |place: &&PendingShard| {
            let work = self.by_order.get(&place.0).and_then(|key| self.open.get(key));
            work.is_some_and(|open| able(&open.work))
        };
        let sound = || queue.pending.iter().filter(|place| !self.suspects.contains(place));
        let suits = |place: &&PendingShard| queue.last_worker.get(&place.1).is_none_or(|last| last == worker);
        // Rather another's than none.
        let fits = |place: &&PendingShard| suits(place) && is_able(place);
        let next = sound().take(LOOK).find(fits).or_else(|| sound().find(is_able));
        let suspect = || queue.pending.iter().find(is_able).filter(|_| !self.leases.any_of(worker));
        next.or_else(suspect).copied()
    }

    /// The owner's shard that has been out for longest, if that is much longer than usual, with another worker than
    /// this one, and with one only.
    pub(super) fn straggler(
        &self,
        owner: Owner,
        worker: &str,
        able: &dyn Fn(&Work) -> bool,
        now: Moment,
    ) -> Option<(WorkKey, u32)> {
        let patience = self.queues.get(&owner)?.durations.map(Durations::patience);
        let least = patience.iter().flatten().min()?;
        let is_late =
            |lease: &&Lease| patience[kind(lease.work)].is_some_and(|time| lease.since + time <= now);
        let late = self.leases.iter().take_while(|lease| lease.since + *least <= now).filter(is_late);
        let alone = |lease: &&Lease| {
            let open = self.open.get(&lease.work);
            let open = open.filter(|open| open.owners.contains(&owner) && able(&open.work));
            // What another card makes is other bytes, which would look like a fault of one of the two.
            let open = open.filter(|open| open.work.job().is_none_or(|job| !job.job.backend.is_gpu()));
            let shard =
                open.and_then(|open| Some((open.order, open.shards.get(lease.shard.index as usize)?)));
            lease.worker != worker
                && shard.is_some_and(|(order, shard)| {
                    shard.leases().len() == 1 && !self.suspects.contains(&(order, lease.shard.index))
                })
        };
        late.filter(alone).map(|lease| (lease.work, lease.shard.index)).next()
    }
}
