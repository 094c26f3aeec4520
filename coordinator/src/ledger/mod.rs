//! The ledger: which shards of an experiment are open, who works on them, and what they gave.
//!
//! A pure state machine. Times come in as arguments, lease numbers from the caller, and nothing here waits,
//! stores or sends. A shard goes round this way:
//!
//! ```text
//!              grant                settle
//!   pending ----------> leased ------------------> settled
//!      ^                  |   \                       ^
//!      |  expire, release |    \ settle by anyone     |
//!      +------------------+     +---------------------+
//!
//!   too many failures or expiries: the whole trial is failed, its other shards are withdrawn
//! ```
//!
//! A result for a shard that is still open is taken from anyone, because results are deterministic and
//! work is not thrown away; a second result changes nothing. So, when nothing is pending, a shard that has been out
//! for much longer than others took is given to a second worker, too: the first result wins.

mod invariants;
mod leases;
mod trial;

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::task::Shard;
use qslm_common::trial::Trial;

use leases::{Lease, Leases};
use trial::{OpenTrial, ShardState};
pub use trial::{Outcome, Settled};

/// Milliseconds since the coordinator started.
pub type Millis = u64;
/// A lease's number; never given twice.
pub type LeaseId = u64;

/// How often a shard may come back before its trial is given up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Failures of one shard that the worker calls retryable.
    pub failures: u32,
    /// Leases of one shard that ran out: its evaluation may be what kills workers.
    pub expiries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { failures: 3, expiries: 10 }
    }
}

/// A shard is a straggler's if it is out for so many times what shards took on average, and at least so long.
const STRAGGLES: (u64, Millis) = (3, 1000);

/// The open trials of an experiment's current generation.
#[derive(Debug, Default)]
pub struct Ledger {
    limits: Limits,
    trials: BTreeMap<ContentHash, OpenTrial>,
    /// Shards to grant, in the order in which trials were opened.
    pending: BTreeSet<(u64, u32, ContentHash)>,
    leases: Leases,
    /// Settled shards of the open trials.
    settled: u32,
    /// Settled leases, and how long they were out together.
    durations: (u64, Millis),
    opened: u64,
}

/// What a worker gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The lease's number.
    pub lease: LeaseId,
    /// What to measure.
    pub trial: Trial,
    /// On which part of the data.
    pub shard: Shard,
}

/// Shards of the open trials, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardCounts {
    /// Waiting for a worker.
    pub pending: u32,
    /// With a worker.
    pub leased: u32,
    /// Done.
    pub settled: u32,
}

impl Ledger {
    /// A ledger without trials.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Opens a trial of `of` shards, some of which may be settled already. Opening an open trial again
    /// changes nothing. A trial whose shards are all settled comes back as complete at once.
    pub fn open(&mut self, trial: Trial, of: u32, settled: &BTreeMap<Shard, Counts>) -> Settled {
        let key = trial.key();
        if self.trials.contains_key(&key) {
            return Settled::Known;
        }
        let order = self.opened;
        self.opened += 1;
        let shards = (0..of).map(|index| match settled.get(&Shard { index, of }) {
            Some(counts) => ShardState::Settled(counts.clone()),
            None => ShardState::default(),
        });
        let open = OpenTrial { order, trial, shards: shards.collect() };
        self.settled += open.settled();
        let unsettled = open.shards.iter().zip(0..).filter(|(shard, _)| !shard.is_settled());
        self.pending.extend(unsettled.map(|(_, index)| (order, index, key)));
        self.trials.insert(key, open);
        self.complete(key)
    }

    /// Grants the next pending shard, oldest trial first; or else a straggler's.
    pub fn grant(&mut self, lease: LeaseId, worker: &str, now: Millis, ends: Millis) -> Option<Grant> {
        let pending = self.pending.pop_first().map(|(_, index, key)| (key, index));
        let (key, index) = pending.or_else(|| self.straggler(worker, now))?;
        let open = self.trials.get_mut(&key)?;
        let shard = Shard { index, of: open.shards.len() as u32 };
        open.shards[index as usize].grant(lease);
        self.leases.insert(lease, Lease { trial: key, shard, worker: worker.to_owned(), since: now, ends });
        Some(Grant { lease, trial: open.trial.clone(), shard })
    }

    /// The shard that has been out for longest, if that is much longer than usual, with another worker than this
    /// one, and with one only.
    fn straggler(&self, worker: &str, now: Millis) -> Option<(ContentHash, u32)> {
        let (settled, together) = self.durations;
        let patience = (STRAGGLES.0 * together.checked_div(settled)?).max(STRAGGLES.1);
        let late = self.leases.iter().take_while(|lease| lease.since + patience <= now);
        let alone = |lease: &&Lease| {
            let shards = self.trials.get(&lease.trial).map(|open| &open.shards);
            let shard = shards.and_then(|shards| shards.get(lease.shard.index as usize));
            lease.worker != worker && shard.is_some_and(|shard| shard.leases().len() == 1)
        };
        late.filter(alone).map(|lease| (lease.trial, lease.shard.index)).next()
    }

    /// Hears from a worker which leases it holds: those run until `ends` now, its others are taken back.
    /// Removes from `held` what it found, so that the rest is known to nobody.
    pub fn extend(&mut self, worker: &str, held: &mut BTreeSet<LeaseId>, ends: Millis) {
        for id in self.leases.of_worker(worker) {
            if held.remove(&id) {
                self.leases.extend(id, ends);
            } else {
                self.release(id);
            }
        }
    }

    /// Takes a result for a shard, under a lease or not.
    pub fn settle(&mut self, key: ContentHash, shard: Shard, counts: Counts, now: Millis) -> Settled {
        let Some(open) = self.trials.get_mut(&key) else { return Settled::Unknown };
        if shard.of as usize != open.shards.len() || shard.index >= shard.of {
            return Settled::Unknown;
        }
        let network = &open.trial.network;
        if !counts.is_plausible(network.populations().len(), network.channels) {
            return Settled::Implausible;
        }
        let state = &mut open.shards[shard.index as usize];
        if let ShardState::Settled(known) = state {
            return if *known == counts { Settled::Known } else { Settled::Conflict };
        }
        let leases = state.leases().to_vec();
        *state = ShardState::Settled(counts);
        self.settled += 1;
        let order = open.order;
        self.pending.remove(&(order, shard.index, key));
        for lease in leases.into_iter().filter_map(|lease| self.leases.remove(lease)) {
            self.durations.0 += 1;
            self.durations.1 += now.saturating_sub(lease.since);
        }
        self.complete(key)
    }

    /// Takes a failure under a lease. A failure under a lease that has ended means nothing any more.
    pub fn fail(&mut self, id: LeaseId, retryable: bool, reason: &str) -> Settled {
        let Some(lease) = self.leases.remove(id) else { return Settled::Unknown };
        let limit = self.limits.failures;
        let Some(state) = self.shard_mut(&lease) else { return Settled::Unknown };
        let failures = state.return_failed(id);
        if retryable && failures < limit {
            self.make_pending(&lease);
            return Settled::Recorded;
        }
        let times = if failures > 1 { format!(" ({failures} times)") } else { String::new() };
        self.give_up(lease.trial, format!("{reason}{times}"))
    }

    /// Takes back every lease that has run out. Returns the trials that are given up for it.
    pub fn expire(&mut self, now: Millis) -> Vec<(ContentHash, Outcome)> {
        let mut given_up = Vec::new();
        for id in self.leases.over(now) {
            // Giving up a trial withdraws its other leases.
            let Some(lease) = self.leases.remove(id) else { continue };
            let limit = self.limits.expiries;
            let Some(state) = self.shard_mut(&lease) else { continue };
            let expiries = state.return_expired(id);
            if expiries < limit {
                self.make_pending(&lease);
                continue;
            }
            let reason = format!("{expiries} workers went silent while evaluating it");
            if let Settled::Complete(key, outcome) = self.give_up(lease.trial, reason) {
                given_up.push((key, outcome));
            }
        }
        given_up
    }

    /// When the next lease runs out.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.leases.next_end()
    }

    /// Whether there is a shard to grant.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether no trial is open.
    pub fn is_empty(&self) -> bool {
        self.trials.is_empty()
    }

    /// Number of open trials.
    pub fn open_trials(&self) -> usize {
        self.trials.len()
    }

    /// Shards of the open trials by state.
    pub fn shard_counts(&self) -> ShardCounts {
        ShardCounts {
            pending: self.pending.len() as u32,
            leased: self.leases.len() as u32,
            settled: self.settled,
        }
    }

    /// Withdraws everything that is open.
    pub fn clear(&mut self) {
        self.trials.clear();
        self.pending.clear();
        self.leases.clear();
        self.settled = 0;
    }

    /// Gives a lease's shard back without counting it against the shard.
    fn release(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(id) else { return };
        if let Some(state) = self.shard_mut(&lease) {
            state.return_unharmed(id);
            self.make_pending(&lease);
        }
    }

    fn shard_mut(&mut self, lease: &Lease) -> Option<&mut ShardState> {
        self.trials.get_mut(&lease.trial)?.shards.get_mut(lease.shard.index as usize)
    }

    /// Puts a shard that came back with the pending ones, unless another worker still has it.
    fn make_pending(&mut self, lease: &Lease) {
        if let Some(open) = self.trials.get(&lease.trial)
            && open.shards[lease.shard.index as usize].leases().is_empty()
        {
            self.pending.insert((open.order, lease.shard.index, lease.trial));
        }
    }

    /// Closes a trial as failed.
    fn give_up(&mut self, key: ContentHash, reason: String) -> Settled {
        match self.remove(key) {
            Some(open) => Settled::Complete(key, Outcome::Failed(open.trial, reason)),
            None => Settled::Unknown,
        }
    }

    /// Closes a trial if all its shards are settled.
    fn complete(&mut self, key: ContentHash) -> Settled {
        let sum = self.trials.get(&key).map(OpenTrial::sum);
        match sum {
            None => Settled::Unknown,
            Some(None) => Settled::Recorded,
            Some(Some(counts)) => match self.remove(key) {
                Some(open) => Settled::Complete(key, open.outcome(counts)),
                None => Settled::Unknown,
            },
        }
    }

    fn remove(&mut self, key: ContentHash) -> Option<OpenTrial> {
        let open = self.trials.remove(&key)?;
        self.settled -= open.settled();
        for (shard, index) in open.shards.iter().zip(0..) {
            self.pending.remove(&(open.order, index, key));
            for lease in shard.leases() {
                self.leases.remove(*lease);
            }
        }
        Some(open)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
