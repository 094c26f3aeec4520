//! Queries of a ledger: nothing here changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qslm_common::evidence::Evidence;
use qslm_common::job::{AddressedJob, JobKey, JobKind};
use qslm_common::task::Shard;
use qslm_common::trial::{Addressed, TrialKey};
use qslm_common::work::{Part, Work, WorkKey};

use super::open::{OpenWork, ShardState};
use super::queue::STRAGGLES;
use super::{LeaseId, Ledger, Moment, Owner};

/// State of an open job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenJob {
    /// The job.
    pub job: Arc<AddressedJob>,
    /// Owners that wait for it.
    pub owners: Vec<Owner>,
    /// True if it waits for the artifacts of others.
    pub waits: bool,
    /// Workers that do it.
    pub workers: Vec<String>,
    /// Time since which the first of them has it.
    pub since: Option<Moment>,
    /// Progress of the one that is further: steps done, of so many.
    pub progress: Option<(u64, u64)>,
}

/// Shards of an owner's open work, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardCounts {
    /// Shards that wait for a worker.
    pub pending: u32,
    /// Leases that workers hold on the owner's account.
    pub leased: u32,
    /// Shards that are settled.
    pub settled: u32,
}

impl Ledger {
    /// True if a lease is in force. Fencing: what comes under any other is counted as fenced.
    pub fn is_out(&self, lease: LeaseId) -> bool {
        self.leases.get(lease).is_some()
    }

    /// Work that a lease in force is for.
    pub fn leased(&self, lease: LeaseId) -> Option<&Work> {
        self.open.get(&self.leases.get(lease)?.work).map(|open| &open.work)
    }

    /// An open trial, what its settled shards gave, and how many shards it has.
    pub fn shard_results(&self, key: &TrialKey) -> Option<(Arc<Addressed>, BTreeMap<Shard, Evidence>, u32)> {
        let open = self.open.get(&WorkKey::Trial(*key))?;
        let of = open.shards.len() as u32;
        let settled = (0..of).zip(&open.shards).filter_map(|(index, shard)| match shard.result() {
            Some(Part::Counts(part)) => Some((Shard { index, of }, part.clone())),
            _ => None,
        });
        Some((open.work.trial()?.clone(), settled.collect(), of))
    }

    /// Time at which the next lease runs out.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.leases.next_end()
    }

    /// True if there may be a shard to grant: a pending one, or a straggler's (speculative execution).
    pub fn has_work(&self, now: Moment) -> bool {
        let straggles = || self.leases.iter().next().is_some_and(|oldest| oldest.since + STRAGGLES.1 <= now);
        self.queues.values().any(|queue| !queue.pending.is_empty()) || straggles()
    }

    /// Owners of an open trial or job.
    pub fn owners(&self, key: impl Into<WorkKey>) -> &[Owner] {
        self.open.get(&key.into()).map_or(&[], |open| &open.owners)
    }

    /// State of an open job.
    pub fn job(&self, key: JobKey) -> Option<OpenJob> {
        self.state_of(self.open.get(&key.into())?)
    }

    /// States of all open jobs, in the order of their keys.
    pub fn jobs(&self) -> impl Iterator<Item = OpenJob> {
        // Jobs come after all trials.
        let first = WorkKey::Job(JobKey::from_bytes([0; 32]));
        self.open.range(first..).filter_map(|(_, open)| self.state_of(open))
    }

    /// Kinds of an owner's jobs that wait for a worker.
    pub fn pending_kinds(&self, owner: Owner) -> BTreeSet<JobKind<'_>> {
        let pending = self.queues.get(&owner).into_iter().flat_map(|queue| &queue.pending);
        let keys = pending.filter_map(|(order, _)| self.by_order.get(order));
        let jobs = keys.filter_map(|key| self.open.get(key)?.work.job());
        jobs.map(|job| job.job.kind()).collect()
    }

    fn state_of(&self, open: &OpenWork) -> Option<OpenJob> {
        let leases = open.shards.iter().flat_map(ShardState::leases);
        let leases: Vec<_> = leases.filter_map(|lease| self.leases.get(*lease)).collect();
        Some(OpenJob {
            job: open.work.job()?.clone(),
            owners: open.owners.clone(),
            waits: !open.waits_for.is_empty(),
            workers: leases.iter().map(|lease| lease.worker.clone()).collect(),
            since: leases.iter().map(|lease| lease.since).min(),
            progress: leases.iter().filter_map(|lease| lease.progress).max(),
        })
    }

    /// Number of a worker's leases on an owner's account.
    pub fn leases_of(&self, worker: &str, owner: Owner) -> usize {
        let leases = self.leases.of_worker(worker).into_iter();
        leases.filter(|id| self.leases.get(*id).is_some_and(|lease| lease.owner == owner)).count()
    }

    /// Number of an owner's open trials and jobs.
    pub fn open_count(&self, owner: Owner) -> u32 {
        self.queues.get(&owner).map_or(0, |queue| queue.open)
    }

    /// Shards of an owner's open work by state.
    pub fn shard_counts(&self, owner: Owner) -> ShardCounts {
        self.queues.get(&owner).map_or(ShardCounts::default(), |queue| ShardCounts {
            pending: queue.pending.len() as u32,
            leased: queue.leased,
            settled: queue.settled,
        })
    }
}
