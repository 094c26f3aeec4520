//! The ledger: which work is open, whose it is, who works on it, and what it gave.
//!
//! A pure state machine. Times come in as arguments, lease numbers from the caller, and nothing here waits,
//! stores or sends. Work is a trial of some shards, or a job, which is one. A shard goes round this way:
//!
//! ```text
//!             made             grant                settle
//!   waiting -------> pending ----------> leased ------------------> settled
//!                       ^                 |   \                        ^
//!                       | expire, release |    \ settle by anyone      |
//!                       +-----------------+     +----------------------+
//!
//!   fail, or too many workers that vanish: the whole trial or job is failed, its other shards are withdrawn
//! ```
//!
//! A fault of a machine (its disk, cache, memory, network) is none of the work's: such a shard is handed back and waits
//! for another worker. Only a failure of the evaluation itself, or several workers that vanish over one shard, count
//! against it. A worker that vanishes takes all its leases with it, and only one of them can be why. So a shard that
//! one more vanished worker condemns is a *suspect*: it is granted alone, to a worker that has nothing else in hand and
//! gets nothing else meanwhile, after all other work. What is innocent comes through then.
//!
//! A result for a shard that is still open is taken from anyone, because results are deterministic and
//! work is not thrown away; a second result changes nothing. Speculative execution: when nothing is pending, a shard that
//! has been out for much longer than others took, a straggler's, is leased to a second worker, too: the first result wins.
//!
//! Work has owners, the experiments that wait for it. However many there are, it is done once: its shards
//! wait in the queue of each owner, and are granted from whichever queue has its turn first. A job may wait for the
//! artifacts of other jobs, which its owners have opened, too; when one of those fails, it fails with it.

mod invariants;
mod leases;
mod moment;
mod open;
mod queries;
mod queue;
mod vanished;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use qslm_common::evidence::Evidence;
use qslm_common::job::{AddressedJob, JobKey};
use qslm_common::task::Shard;
use qslm_common::trial::{Addressed, TrialKey};
use qslm_common::work::{Made, Part, Work, WorkKey};

pub use invariants::Broken;
use leases::{Lease, Leases};
pub use moment::Moment;
pub use open::{Closed, Opened, Outcome, Settled};
use open::{OpenWork, PendingShard, ShardState};
pub use queries::{OpenJob, ShardCounts};
use queue::{Queue, kind};
pub use vanished::Expired;

/// Lease id: the number of a lease and its fencing token; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Id after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Owner of a trial: the number of an experiment, in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u32);

impl Owner {
    /// Owner of the jobs that people ask for apart from any experiment.
    pub const PEOPLE: Self = Self(u32::MAX);

    /// The owner at a place in a list of experiments.
    pub fn at(index: usize) -> Self {
        Self(index as u32)
    }

    /// Place of the owner in a list of experiments.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Limits beyond which a trial has failed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Different workers that vanish over one shard: its evaluation may be what kills them. Two at least.
    pub vanished: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { vanished: 3 }
    }
}

/// Ledger of the open trials, of the queues of their owners, and of the leases.
#[derive(Debug, Default)]
pub struct Ledger {
    limits: Limits,
    /// Open trials and jobs.
    open: BTreeMap<WorkKey, OpenWork>,
    /// The open work by the order in which it was opened.
    by_order: BTreeMap<u64, WorkKey>,
    queues: BTreeMap<Owner, Queue>,
    leases: Leases,
    /// Open shards that one more vanished worker condemns.
    suspects: BTreeSet<PendingShard>,
    /// Leases that ran out over open shards: whoever comes back with one still in hand has not vanished.
    lapsed: BTreeMap<LeaseId, (WorkKey, u32)>,
    opened: u64,
}

/// Grant: a new lease, as its worker gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The lease's number.
    pub lease: LeaseId,
    /// The trial to measure, or the job to do.
    pub work: Work,
    /// Shard: the slice of the data to measure a trial on. A job is one.
    pub shard: Shard,
    /// Owner on whose account it is.
    pub owner: Owner,
}

#[cfg(test)]
impl Grant {
    /// The trial of a lease that is for one.
    pub(crate) fn trial(&self) -> &Arc<Addressed> {
        self.work.trial().expect("a lease for a trial")
    }
}

impl Ledger {
    /// A ledger without trials.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Opens a trial of `of` shards, some of which may be settled already. If it is open already, `owner` becomes
    /// one more of its owners. A trial whose shards are all settled comes back as complete at once.
    pub fn open(
        &mut self,
        owner: Owner,
        trial: Arc<Addressed>,
        of: u32,
        settled: &BTreeMap<Shard, Evidence>,
    ) -> Opened {
        self.open_work(owner, trial.key.into(), |order| OpenWork::trial(order, trial, of, settled))
    }

    /// Opens a job that waits for the artifacts of others, all of which the owner has opened and none of which is made. If it
    /// is open already, `owner` becomes one more of its owners.
    pub fn open_job(&mut self, owner: Owner, job: Arc<AddressedJob>, waits_for: BTreeSet<JobKey>) -> Opened {
        let is_known = |key: &JobKey| self.owners(*key).contains(&owner);
        if let Some(unknown) = waits_for.iter().find(|key| !is_known(key)) {
            return Opened::Unknown(*unknown);
        }
        self.open_work(owner, job.key.into(), |order| OpenWork::job(order, job, waits_for))
    }

    fn open_work(&mut self, owner: Owner, key: WorkKey, make: impl FnOnce(u64) -> OpenWork) -> Opened {
        let opened = &mut self.opened;
        let by_order = &mut self.by_order;
        let open = self.open.entry(key).or_insert_with(|| {
            let order = *opened;
            *opened += 1;
            by_order.insert(order, key);
            make(order)
        });
        if open.owners.contains(&owner) {
            return Opened::Known;
        }
        open.owners.push(owner);
        let queue = self.queues.entry(owner).or_default();
        queue.open += 1;
        queue.settled += open.settled();
        queue.pending.extend(open.pending());
        self.complete(key).map_or(Opened::Waiting, Opened::Complete)
    }

    /// Grants the owner's next pending shard, oldest trial first; or else, speculatively, a straggler's. Affinity: of the
    /// next few it is one whose slice of the data nobody but this worker had last, if there is one. A suspect comes last,
    /// and alone.
    pub fn grant(
        &mut self,
        owner: Owner,
        lease: LeaseId,
        worker: &str,
        now: Moment,
        ends: Moment,
    ) -> Option<Grant> {
        self.grant_able(owner, lease, worker, &|_| true, now, ends)
    }

    /// As [`Ledger::grant`], of the work that the worker is `able` to do.
    pub fn grant_able(
        &mut self,
        owner: Owner,
        lease: LeaseId,
        worker: &str,
        able: &dyn Fn(&Work) -> bool,
        now: Moment,
        ends: Moment,
    ) -> Option<Grant> {
        if self.leases.works_alone(worker) {
            return None;
        }
        let next = self.next_pending(owner, worker, able);
        let (key, index) = match next {
            Some((order, index)) => (*self.by_order.get(&order)?, index),
            None => self.straggler(owner, worker, able, now)?,
        };
        let open = self.open.get_mut(&key)?;
        let alone = self.suspects.contains(&(open.order, index));
        let shard = Shard { index, of: open.shards.len() as u32 };
        open.shards[index as usize].grant(lease);
        for owner in &open.owners {
            if let Some(queue) = self.queues.get_mut(owner) {
                queue.pending.remove(&(open.order, index));
            }
        }
        let work = open.work.clone();
        let queue = self.queues.entry(owner).or_default();
        queue.leased += 1;
        if next.is_some() && shard.of > 1 && queue.last_worker.get(&index).is_none_or(|last| last != worker) {
            queue.last_worker.insert(index, worker.to_owned());
        }
        let worker = worker.to_owned();
        self.leases.insert(
            lease,
            Lease { work: key, shard, worker, owner, since: now, ends, alone, progress: None },
        );
        Some(Grant { lease, work, shard, owner })
    }

    /// Heartbeat: hears from a worker which leases it holds. Those run until `ends` now, its others are taken
    /// back. Removes from `held` what it found, so that the rest is known to nobody.
    pub fn extend(&mut self, worker: &str, held: &mut BTreeSet<LeaseId>, ends: Moment) {
        for id in self.leases.of_worker(worker) {
            if held.remove(&id) {
                self.leases.extend(id, ends);
            } else {
                self.hand_back(id);
            }
        }
        for id in &*held {
            self.forgive(*id, worker);
        }
    }

    /// Notes how far a job is, as the worker says that has the lease: steps done, of so many. Nothing is decided by it.
    pub fn note_progress(&mut self, worker: &str, lease: LeaseId, done: u64, of: u64) {
        if let Some(lease) = self.leases.get_mut(lease).filter(|lease| lease.worker == worker) {
            lease.progress = Some((done.min(of), of));
        }
    }

    /// Takes a result for a shard, under a lease or not.
    pub fn settle(
        &mut self,
        key: TrialKey,
        shard: Shard,
        result: impl Into<Evidence>,
        now: Moment,
    ) -> Settled {
        let result = result.into();
        let open = self.open.get(&key.into()).filter(|open| shard.of as usize == open.shards.len());
        let Some(trial) = open.and_then(|open| open.work.trial()).filter(|_| shard.index < shard.of) else {
            return Settled::Unknown;
        };
        if !trial.trial.protocol.could_give(&result.counts) {
            return Settled::Implausible;
        }
        self.settle_part(key.into(), shard.index, Part::Counts(result), now)
    }

    /// Takes the artifact of a job, which is stored by now, under a lease or not.
    pub fn settle_job(&mut self, key: JobKey, made: Made, now: Moment) -> Settled {
        if !self.open.contains_key(&key.into()) {
            return Settled::Unknown;
        }
        self.settle_part(key.into(), 0, Part::Artifact(made), now)
    }

    fn settle_part(&mut self, key: WorkKey, index: u32, result: Part, now: Moment) -> Settled {
        let Some(open) = self.open.get_mut(&key) else { return Settled::Unknown };
        let state = &mut open.shards[index as usize];
        if let ShardState::Settled(known) = state {
            return if known.agrees_with(&result) { Settled::Known } else { Settled::Conflict };
        }
        let leases = state.leases().to_vec();
        for lapsed in state.vanished().values() {
            self.lapsed.remove(lapsed);
        }
        *state = ShardState::Settled(result);
        self.suspects.remove(&(open.order, index));
        for owner in &open.owners {
            if let Some(queue) = self.queues.get_mut(owner) {
                queue.settled += 1;
                queue.pending.remove(&(open.order, index));
            }
        }
        for lease in leases {
            if let Some(lease) = self.end(lease)
                && let Some(queue) = self.queues.get_mut(&lease.owner)
            {
                queue.durations[kind(key)].add(now.since(lease.since));
            }
        }
        self.complete(key).map_or(Settled::Recorded, Settled::Complete)
    }

    /// Takes a failure of the evaluation under a lease: it would fail anywhere, so the work is closed, with the jobs that
    /// wait for its artifact. Fencing: a failure under a lease that has ended means nothing any more.
    pub fn fail(&mut self, id: LeaseId, reason: &str) -> Vec<Closed> {
        self.end(id).map_or_else(Vec::new, |lease| self.close_failed(lease.work, reason))
    }

    /// Takes a lease's shard back without counting it against the trial. Returns on whose account it was, if it was in force.
    pub fn hand_back(&mut self, id: LeaseId) -> Option<Owner> {
        let lease = self.end(id)?;
        if let Some(state) = self.shard_mut(&lease) {
            state.return_unharmed(id);
            self.make_pending(&lease);
        }
        Some(lease.owner)
    }

    /// Withdraws an owner. What nobody else waits for is closed without a result.
    pub fn withdraw(&mut self, owner: Owner) {
        let own = self.open.iter().filter(|(_, open)| open.owners.contains(&owner));
        for key in own.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.leave(owner, key);
        }
        self.queues.remove(&owner);
    }

    /// Withdraws an owner from one trial or job. If nobody else waits for it, it is closed without a result.
    pub fn leave(&mut self, owner: Owner, key: impl Into<WorkKey>) {
        let key = key.into();
        let Some(open) = self.open.get_mut(&key).filter(|open| open.owners.contains(&owner)) else {
            return;
        };
        let Some(heir) = open.owners.iter().copied().find(|other| *other != owner) else {
            self.remove(key);
            return;
        };
        open.owners.retain(|other| *other != owner);
        let mut inherited = 0;
        for id in open.shards.iter().flat_map(ShardState::leases) {
            if let Some(lease) = self.leases.get_mut(*id).filter(|lease| lease.owner == owner) {
                lease.owner = heir;
                inherited += 1;
            }
        }
        self.queues.entry(heir).or_default().leased += inherited;
        if let Some(queue) = self.queues.get_mut(&owner) {
            queue.leased -= inherited;
            queue.open -= 1;
            queue.settled -= open.settled();
            for place in open.places() {
                queue.pending.remove(&place);
            }
        }
    }

    /// Ends a lease; what becomes of its shard is up to the caller.
    fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(id)?;
        if let Some(queue) = self.queues.get_mut(&lease.owner) {
            queue.leased -= 1;
        }
        Some(lease)
    }

    fn shard_mut(&mut self, lease: &Lease) -> Option<&mut ShardState> {
        self.open.get_mut(&lease.work)?.shards.get_mut(lease.shard.index as usize)
    }

    /// Puts a shard that came back with the pending ones, unless another worker still has it.
    fn make_pending(&mut self, lease: &Lease) {
        if let Some(open) = self.open.get(&lease.work)
            && open.shards[lease.shard.index as usize].is_pending()
        {
            for owner in &open.owners {
                if let Some(queue) = self.queues.get_mut(owner) {
                    queue.pending.insert((open.order, lease.shard.index));
                }
            }
        }
    }

    /// Closes work as failed, with the jobs that wait for its artifact: that will not be made.
    fn close_failed(&mut self, key: WorkKey, reason: impl Into<String>) -> Vec<Closed> {
        let Some(open) = self.remove(key) else { return Vec::new() };
        let mut closed = vec![open.end(Outcome::Failed(reason.into()))];
        for waiting in self.waiting_for(key) {
            closed.extend(self.close_failed(waiting, format!("what it is made from cannot be made: {key}")));
        }
        closed
    }

    /// Closes work if all its shards are settled. Jobs that waited for its artifact alone become pending.
    fn complete(&mut self, key: WorkKey) -> Option<Closed> {
        let outcome = self.open.get(&key)?.outcome()?;
        let closed = self.remove(key)?.end(outcome);
        for waiting in self.waiting_for(key) {
            self.supply(waiting, key);
        }
        Some(closed)
    }

    /// Jobs that wait for the artifact of another, in the order of their keys.
    fn waiting_for(&self, key: WorkKey) -> Vec<WorkKey> {
        let WorkKey::Job(job) = key else { return Vec::new() };
        let waiting = self.open.iter().filter(|(_, open)| open.waits_for.contains(&job));
        waiting.map(|(key, _)| *key).collect()
    }

    /// Notes that an artifact is made that a job waits for.
    fn supply(&mut self, waiting: WorkKey, made: WorkKey) {
        let (Some(open), WorkKey::Job(made)) = (self.open.get_mut(&waiting), made) else { return };
        open.waits_for.remove(&made);
        for owner in &open.owners {
            if let Some(queue) = self.queues.get_mut(owner) {
                queue.pending.extend(open.pending());
            }
        }
    }

    fn remove(&mut self, key: WorkKey) -> Option<OpenWork> {
        let open = self.open.remove(&key)?;
        self.by_order.remove(&open.order);
        for lease in open.shards.iter().flat_map(ShardState::leases) {
            self.end(*lease);
        }
        for (place, shard) in open.places().zip(&open.shards) {
            self.suspects.remove(&place);
            for lapsed in shard.vanished().values() {
                self.lapsed.remove(lapsed);
            }
        }
        let settled = open.settled();
        for owner in &open.owners {
            if let Some(queue) = self.queues.get_mut(owner) {
                queue.open -= 1;
                queue.settled -= settled;
                for place in open.places() {
                    queue.pending.remove(&place);
                }
            }
        }
        Some(open)
    }
}

#[cfg(test)]
mod tests;
