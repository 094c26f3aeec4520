//! What is true of a ledger between any two events, numbered. Tests check it after every step.

use std::collections::BTreeSet;

use super::Ledger;
use super::trial::ShardState;

/// A broken invariant, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub u32, pub String);

impl Ledger {
    /// Checks every invariant.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        let holds = |number, ok: bool, what: &dyn std::fmt::Debug| {
            if ok { Ok(()) } else { Err(Broken(number, format!("{what:?}"))) }
        };
        let mut leased = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        for (key, open) in &self.trials {
            // 1. A trial is filed under its own content address.
            holds(1, *key == open.trial.key(), key)?;
            // 2. An open trial has a shard that is not settled.
            holds(2, open.shards.iter().any(|shard| !shard.is_settled()), key)?;
            for (shard, index) in open.shards.iter().zip(0u32..) {
                match shard {
                    ShardState::Settled(_) => {}
                    ShardState::Open { leases, .. } => {
                        if leases.is_empty() {
                            waiting.insert((open.order, index, *key));
                        }
                        for lease in leases {
                            // 3. No lease is for two shards.
                            holds(3, leased.insert(*lease), lease)?;
                            // 4. A lease knows the shard that it is for.
                            let known = self.leases.get(*lease);
                            let is_for = |l: &super::leases::Lease| (l.trial, l.shard.index) == (*key, index);
                            holds(4, known.is_some_and(is_for), lease)?;
                        }
                        // 9. A shard is out twice at most, and never twice to one worker.
                        let workers: BTreeSet<_> = leases
                            .iter()
                            .filter_map(|lease| self.leases.get(*lease))
                            .map(|l| &l.worker)
                            .collect();
                        holds(9, leases.len() <= 2 && workers.len() == leases.len(), leases)?;
                    }
                }
            }
        }
        // 5. The pending shards are exactly the open ones without a lease.
        holds(5, waiting == self.pending, &self.pending)?;
        // 6. No lease is for a shard that is not out.
        holds(6, self.leases.ids().all(|lease| leased.contains(&lease)), &self.leases)?;
        // 7. A lease is found alike by number, worker and end.
        holds(7, self.leases.agree(), &self.leases)?;
        // 8. The settled shards are counted right.
        let settled: u32 = self.trials.values().map(super::OpenTrial::settled).sum();
        holds(8, self.settled == settled, &self.settled)
    }
}
