//! Expiry: leases that run out, and what a worker that vanishes says about the shards that it had.
//!
//! A worker that vanishes takes all its leases with it, and only one of them can be why. A shard that one more vanished
//! worker condemns is a *suspect*: it is granted alone. What is innocent is measured then.

use qslm_common::work::WorkKey;

use super::leases::Lease;
use super::open::Closed;
use super::{LeaseId, Ledger, Moment, Owner};

/// Expired leases, and what their end led to.
#[derive(Debug, Default, PartialEq)]
pub struct Expired {
    /// Leases that ran out, with the workers that had them, and the owners on whose account.
    pub lapsed: Vec<(LeaseId, String, Owner)>,
    /// Work that has failed for it.
    pub failed: Vec<Closed>,
}

impl Ledger {
    /// Takes back every lease of a worker whose process is gone, as if they had run out.
    pub fn vanish(&mut self, worker: &str) -> Expired {
        self.expire_all(self.leases.of_worker(worker))
    }

    /// Takes back every lease that has run out.
    pub fn expire(&mut self, now: Moment) -> Expired {
        self.expire_all(self.leases.over(now))
    }

    fn expire_all(&mut self, leases: Vec<LeaseId>) -> Expired {
        let mut expired = Expired::default();
        for id in leases {
            // Work that is closed as failed withdraws its other leases.
            let Some(lease) = self.end(id) else { continue };
            expired.lapsed.push((id, lease.worker.clone(), lease.owner));
            expired.failed.extend(self.lapse(id, &lease));
        }
        expired
    }

    /// Counts a worker that vanished against the shard that it had. Work fails only if it was alone with the last one.
    fn lapse(&mut self, id: LeaseId, lease: &Lease) -> Vec<Closed> {
        let limit = self.limits.vanished as usize;
        let Some(state) = self.shard_mut(lease) else { return Vec::new() };
        let earlier = state.return_vanished(id, &lease.worker);
        let workers: Vec<String> = state.vanished().keys().cloned().collect();
        if let Some(earlier) = earlier {
            self.lapsed.remove(&earlier);
        }
        self.lapsed.insert(id, (lease.work, lease.shard.index));
        if lease.alone && workers.len() >= limit {
            let number = workers.len();
            let reason = format!("{number} workers vanished while evaluating it: {}", workers.join(", "));
            return self.close_failed(lease.work, reason);
        }
        self.suspect(lease.work, lease.shard.index);
        self.make_pending(lease);
        Vec::new()
    }

    /// Hears that a worker came back with a lease still in hand that had run out.
    pub(super) fn forgive(&mut self, id: LeaseId, worker: &str) {
        let Some((key, index)) = self.lapsed.get(&id).copied() else { return };
        let open = self.open.get_mut(&key);
        if let Some(state) = open.and_then(|open| open.shards.get_mut(index as usize))
            && state.forgive(id, worker)
        {
            self.lapsed.remove(&id);
            self.suspect(key, index);
        }
    }

    /// Notes whether one more vanished worker would condemn a shard.
    pub(super) fn suspect(&mut self, key: WorkKey, index: u32) {
        let Some(open) = self.open.get(&key) else { return };
        let vanished = open.shards[index as usize].vanished().len();
        let place = (open.order, index);
        if vanished + 1 >= self.limits.vanished as usize {
            self.suspects.insert(place);
        } else {
            self.suspects.remove(&place);
        }
    }
}
