//! Leases that are in force: found by number, by worker and by the time they end, because every report asks
//! for its worker's and every turn of the driver for those that are over.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::task::Shard;
use qslm_common::work::WorkKey;

use super::{LeaseId, Moment, Owner};

/// Lease: a shard in a worker's hands for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) work: WorkKey,
    pub(super) shard: Shard,
    pub(super) worker: String,
    /// Owner on whose account it is.
    pub(super) owner: Owner,
    pub(super) since: Moment,
    pub(super) ends: Moment,
    /// True if its worker may have nothing else in hand.
    pub(super) alone: bool,
    /// Progress of a job: steps done, of so many, as its worker said last.
    pub(super) progress: Option<(u64, u64)>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    by_worker: BTreeMap<String, BTreeSet<LeaseId>>,
    by_end: BTreeSet<(Moment, LeaseId)>,
    /// Number of leases whose workers may have nothing else in hand: almost always none.
    alone: usize,
}

impl Leases {
    pub(super) fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.by_worker.entry(lease.worker.clone()).or_default().insert(id);
        self.by_end.insert((lease.ends, id));
        self.alone += usize::from(lease.alone);
        self.by_id.insert(id, lease);
    }

    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_end.remove(&(lease.ends, id));
        self.alone -= usize::from(lease.alone);
        if let Some(own) = self.by_worker.get_mut(&lease.worker) {
            own.remove(&id);
            if own.is_empty() {
                self.by_worker.remove(&lease.worker);
            }
        }
        Some(lease)
    }

    pub(super) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.by_id.get_mut(&id)
    }

    /// Lets a lease run until `ends`.
    pub(super) fn extend(&mut self, id: LeaseId, ends: Moment) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            self.by_end.remove(&(lease.ends, id));
            self.by_end.insert((ends, id));
            lease.ends = ends;
        }
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// All leases, in the order in which they were granted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_id.values()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LeaseId> {
        self.by_id.keys().copied()
    }

    pub(super) fn of_worker(&self, worker: &str) -> Vec<LeaseId> {
        self.by_worker.get(worker).into_iter().flatten().copied().collect()
    }

    /// True if a worker has any lease.
    pub(super) fn any_of(&self, worker: &str) -> bool {
        self.by_worker.contains_key(worker)
    }

    /// True if a worker has a lease beside which it may have no other.
    pub(super) fn works_alone(&self, worker: &str) -> bool {
        let own = self.by_worker.get(worker).filter(|_| self.alone > 0).into_iter().flatten();
        own.filter_map(|id| self.by_id.get(id)).any(|lease| lease.alone)
    }

    /// Leases that have run out at `now`, first the ones that did so first.
    pub(super) fn over(&self, now: Moment) -> Vec<LeaseId> {
        self.by_end.range(..=(now, LeaseId(u64::MAX))).map(|(_, id)| *id).collect()
    }

    pub(super) fn next_end(&self) -> Option<Moment> {
        self.by_end.first().map(|(ends, _)| *ends)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True if there are as many leases by number as by end: what can be checked at once.
    pub(super) fn are_as_many(&self) -> bool {
        self.by_id.len() == self.by_end.len()
    }

    /// True if all three ways to find a lease find the same ones.
    pub(super) fn agree(&self) -> bool {
        let by_end: BTreeSet<_> = self.by_id.iter().map(|(id, lease)| (lease.ends, *id)).collect();
        let mut by_worker: BTreeMap<String, BTreeSet<LeaseId>> = BTreeMap::new();
        for (id, lease) in &self.by_id {
            by_worker.entry(lease.worker.clone()).or_default().insert(*id);
        }
        let alone = self.by_id.values().filter(|lease| lease.alone).count();
        by_end == self.by_end && by_worker == self.by_worker && alone == self.alone
    }
}
