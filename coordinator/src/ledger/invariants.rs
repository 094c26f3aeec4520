//! Invariants of a ledger, numbered: they hold between any two events. Tests check all of them after every
//! step; those that take no search are checked always.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::job::JobKey;
use qslm_common::work::{Work, WorkKey};

use super::{Ledger, Owner, PendingShard, ShardCounts};

/// A broken invariant, by number. It means that this program is wrong; what is on disk is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {0} of the ledger does not hold: {1}")]
pub struct Broken(pub u32, pub String);

fn holds(number: u32, ok: bool, what: &dyn std::fmt::Debug) -> Result<(), Broken> {
    if ok { Ok(()) } else { Err(Broken(number, format!("{what:?}"))) }
}

impl Ledger {
    /// Checks what can be told without going through trials and leases.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_totals(&self) -> Result<(), Broken> {
        // 7. A lease is found alike by number, worker and end.
        holds(7, self.leases.are_as_many(), &self.leases.len())?;
        // 10. Every lease is on the account of one owner who has a queue.
        let leased: u64 = self.queues.values().map(|queue| u64::from(queue.leased)).sum();
        holds(10, leased == self.leases.len() as u64, &(leased, self.leases.len()))?;
        // 11. Work is found alike by address and by order.
        holds(11, self.open.len() == self.by_order.len(), &(self.open.len(), self.by_order.len()))
    }

    /// Checks every invariant.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        self.check_totals()?;
        let mut leased = BTreeSet::new();
        let mut waiting: BTreeMap<Owner, BTreeSet<PendingShard>> = BTreeMap::new();
        let mut counts: BTreeMap<Owner, (u32, ShardCounts)> = BTreeMap::new();
        let (mut suspects, mut lapsed) = (BTreeSet::new(), BTreeMap::new());
        let limit = self.limits.vanished as usize;
        for (key, open) in &self.open {
            // 1. Work is filed under its own content address.
            let own = match &open.work {
                Work::Trial(trial) => {
                    let own = WorkKey::from(trial.trial.key());
                    own == *key && trial.candidate == trial.trial.candidate.id()
                }
                Work::Job(job) => WorkKey::from(job.job.key()) == *key,
            };
            holds(1, own && open.work.key() == *key, key)?;
            holds(11, self.by_order.get(&open.order) == Some(key), key)?;
            // 2. Open work has a shard that is not settled.
            holds(2, open.shards.iter().any(|shard| !shard.is_settled()), key)?;
            // 16. What waits is a job, and waits for open jobs of all its owners. Nothing of it is out.
            let has_owners = |job: &JobKey| open.owners.iter().all(|owner| self.owners(*job).contains(owner));
            let idle = open.shards.iter().all(|shard| shard.leases().is_empty());
            let waits = open.work.job().is_some() && idle && open.waits_for.iter().all(has_owners);
            holds(16, open.waits_for.is_empty() || waits, &(key, &open.waits_for))?;
            // 12. Open work has an owner, and none twice.
            let owners: BTreeSet<_> = open.owners.iter().collect();
            holds(12, !owners.is_empty() && owners.len() == open.owners.len(), &open.owners)?;
            for (shard, place) in open.shards.iter().zip(open.places()) {
                for lease in shard.leases() {
                    // 3. No lease is for two shards.
                    holds(3, leased.insert(*lease), lease)?;
                    // 4. A lease knows the shard that it is for, and is on the account of an owner of the work.
                    let is_for = |l: &super::Lease| {
                        (l.work, l.shard.index) == (*key, place.1) && open.owners.contains(&l.owner)
                    };
                    holds(4, self.leases.get(*lease).is_some_and(is_for), lease)?;
                }
                // 9. A shard is out twice at most, and never twice to one worker.
                let known = shard.leases().iter().filter_map(|lease| self.leases.get(*lease));
                let workers: BTreeSet<_> = known.map(|lease| &lease.worker).collect();
                let out = shard.leases().len();
                holds(9, out <= 2 && workers.len() == out, &shard.leases())?;
                suspects.extend(
                    Some(place).filter(|_| !shard.is_settled() && shard.vanished().len() + 1 >= limit),
                );
                lapsed.extend(shard.vanished().values().map(|lease| (*lease, (*key, place.1))));
            }
            for owner in &open.owners {
                let (count, shards) = counts.entry(*owner).or_default();
                *count += 1;
                shards.settled += open.settled();
                waiting.entry(*owner).or_default().extend(open.pending());
            }
        }
        for lease in self.leases.iter() {
            counts.entry(lease.owner).or_default().1.leased += 1;
        }
        for (owner, queue) in &self.queues {
            // 5. The pending shards of an owner are exactly the open ones without a lease of its work that waits for no job.
            holds(5, waiting.remove(owner).unwrap_or_default() == queue.pending, &(owner, &queue.pending))?;
            // 8. Work and shards of an owner are counted right.
            let (open, shards) = counts.remove(owner).unwrap_or_default();
            let counted = (queue.open, queue.leased, queue.settled);
            holds(8, counted == (open, shards.leased, shards.settled), &(owner, counted))?;
        }
        // 13. The suspects are the open shards that one more vanished worker condemns.
        holds(13, suspects == self.suspects, &(&suspects, &self.suspects))?;
        // 14. A lease that ran out over an open shard is counted once, and is not in force.
        holds(14, lapsed == self.lapsed, &(&lapsed, &self.lapsed))?;
        holds(14, lapsed.keys().all(|lease| self.leases.get(*lease).is_none()), &lapsed)?;
        // 15. Whoever has a suspect alone has nothing else in hand.
        for lease in self.leases.iter().filter(|lease| lease.alone) {
            holds(15, self.leases.of_worker(&lease.worker).len() == 1, &lease)?;
        }
        holds(12, waiting.is_empty() && counts.is_empty(), &"an owner without a queue")?;
        // 6. No lease is for a shard that is not out.
        holds(6, self.leases.ids().all(|lease| leased.contains(&lease)), &self.leases)?;
        holds(7, self.leases.agree(), &self.leases)
    }
}
