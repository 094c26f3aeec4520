//! Circuit breakers: a worker that cannot measure an experiment's shards gets fewer of them, then none, until
//! it can.
//!
//! A fault of a machine (a full disk, a damaged cache, too little memory) is none of the trial's, so it must not use up the
//! trial's chances; and other workers should have the shard first. Each pair of worker and experiment has a breaker:
//!
//! ```text
//!            fault                    4th fault in a row
//!   closed --------> backing off ------------------------> open: the worker is set aside
//!     ^                   |  one shard after the pause           |  one shard after the pause
//!     +---- a result -----+----------------- a result -----------+
//! ```
//!
//! Pauses double with every fault. By experiment, because what is damaged may be a file that one experiment alone needs.
//! The clock is the driver's; nothing of this is kept over a restart, and no result depends on it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::{Moment, Owner};

/// The pause after a first fault, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Faults in a row that open a breaker.
const OPENS_AFTER: u32 = 4;
/// Time for which the breakers of a worker that is not here any more are kept after its last pause.
const KEPT: Duration = Duration::from_secs(600);

/// Circuit breakers of all workers, one for each experiment. A worker without faults has none.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    by_worker: BTreeMap<String, BTreeMap<Owner, Breaker>>,
}

/// Circuit breaker of a worker that had faults with an experiment.
#[derive(Debug)]
struct Breaker {
    /// Faults in a row; those during a pause count as one with the one that began it.
    in_a_row: u32,
    /// The end of the pause.
    until: Moment,
    /// The last reason.
    reason: String,
}

impl Breaker {
    fn is_open(&self) -> bool {
        self.in_a_row >= OPENS_AFTER
    }
}

/// Effect of a fault on its breaker.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Tripped {
    /// No change: the worker pauses already.
    No,
    /// Back-off: the worker gets nothing of the experiment for so long.
    Pause(Duration),
    /// Open: the worker is set aside. From now on it gets one shard at a time, to see whether the cause is
    /// gone.
    Open(Duration),
}

impl Breakers {
    /// Notes that a worker could not measure a shard, for a reason of its own.
    pub(super) fn fault(&mut self, worker: &str, owner: Owner, reason: &str, now: Moment) -> Tripped {
        let breakers = self.by_worker.entry(worker.to_owned()).or_default();
        let breaker = breakers.entry(owner).or_insert(Breaker {
            in_a_row: 0,
            until: Moment::START,
            reason: String::new(),
        });
        reason.clone_into(&mut breaker.reason);
        if now < breaker.until {
            return Tripped::No;
        }
        breaker.in_a_row += 1;
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << (breaker.in_a_row - 1).min(16)).min(longest);
        breaker.until = now + pause;
        if breaker.in_a_row == OPENS_AFTER { Tripped::Open(pause) } else { Tripped::Pause(pause) }
    }

    /// Notes that a worker measured a shard. Returns whether it had been set aside.
    pub(super) fn success(&mut self, worker: &str, owner: Owner) -> bool {
        let Some(breakers) = self.by_worker.get_mut(worker) else { return false };
        let closed = breakers.remove(&owner);
        if breakers.is_empty() {
            self.by_worker.remove(worker);
        }
        closed.is_some_and(|breaker| breaker.is_open())
    }

    /// True if a worker may have a shard of an experiment, given how many leases it has: none during a pause,
    /// and one alone after it.
    pub(super) fn allows(&self, worker: &str, owner: Owner, now: Moment, leases: impl Fn() -> usize) -> bool {
        self.get(worker, owner).is_none_or(|breaker| breaker.until <= now && leases() == 0)
    }

    /// Reason why a worker is set aside, its last fault, if its breaker is open.
    pub(super) fn open(&self, worker: &str, owner: Owner) -> Option<&str> {
        self.get(worker, owner).filter(|breaker| breaker.is_open()).map(|breaker| breaker.reason.as_str())
    }

    /// The experiments for which a worker is set aside, and the last reason.
    pub(super) fn open_for(&self, worker: &str) -> (Vec<Owner>, Option<&str>) {
        let breakers = self.by_worker.get(worker).into_iter().flatten();
        let open = breakers.clone().filter(|(_, breaker)| breaker.is_open()).map(|(owner, _)| *owner);
        let last = breakers.max_by_key(|(_, breaker)| breaker.until);
        (open.collect(), last.map(|(_, breaker)| breaker.reason.as_str()))
    }

    /// Time at which a worker's next pause ends.
    pub(super) fn next_end(&self, worker: &str, now: Moment) -> Option<Moment> {
        let breakers = self.by_worker.get(worker)?.values();
        breakers.map(|breaker| breaker.until).filter(|until| *until > now).min()
    }

    /// True if there is no breaker, because no worker had a fault lately.
    pub(super) fn is_empty(&self) -> bool {
        self.by_worker.is_empty()
    }

    /// Forgets the breakers of workers that are not here any more, once their last pause is long over.
    pub(super) fn forget(&mut self, is_here: impl Fn(&str) -> bool, now: Moment) {
        self.by_worker.retain(|worker, breakers| {
            is_here(worker) || breakers.values().any(|breaker| breaker.until + KEPT > now)
        });
    }

    fn get(&self, worker: &str, owner: Owner) -> Option<&Breaker> {
        self.by_worker.get(worker)?.get(&owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_the_worker_is_set_aside_and_a_result_ends_it_all() {
        let mut breakers = Breakers::default();
        let mut now = Moment::START;
        let millis = Duration::from_millis;
        for (pause, opens) in [(500, false), (1000, false), (2000, false), (4000, true), (8000, false)] {
            let (pause, almost) = (millis(pause), millis(pause - 1));
            let tripped = breakers.fault("a", Owner(0), "disk", now);
            assert_eq!(tripped, if opens { Tripped::Open(pause) } else { Tripped::Pause(pause) });
            assert_eq!(breakers.fault("a", Owner(0), "disk", now + almost), Tripped::No);
            assert!(!breakers.allows("a", Owner(0), now + almost, || 0));
            assert!(breakers.allows("a", Owner(0), now + pause, || 0), "one to try");
            assert!(!breakers.allows("a", Owner(0), now + pause, || 1), "and one alone");
            assert_eq!(breakers.next_end("a", now), Some(now + pause));
            now += pause;
        }
        assert_eq!(breakers.open("a", Owner(0)), Some("disk"));
        assert!(breakers.success("a", Owner(0)), "it had been set aside");
        assert!(breakers.allows("a", Owner(0), now, || 5) && breakers.open("a", Owner(0)).is_none());
        assert_eq!(breakers.fault("a", Owner(0), "disk", now), Tripped::Pause(millis(500)));
    }

    #[test]
    fn a_breaker_is_about_one_worker_and_one_experiment() {
        let mut breakers = Breakers::default();
        breakers.fault("a", Owner(0), "damaged", Moment::START);
        assert!(
            breakers.allows("a", Owner(1), Moment::START, || 3)
                && breakers.allows("b", Owner(0), Moment::START, || 3)
        );
        let kept = Moment::START + KEPT;
        breakers.forget(|_| false, kept);
        assert!(!breakers.by_worker.is_empty());
        breakers.forget(|_| true, kept + Duration::from_secs(1));
        assert!(!breakers.by_worker.is_empty());
        breakers.forget(|_| false, kept + Duration::from_secs(1));
        assert!(breakers.by_worker.is_empty());
    }

    #[test]
    fn no_pause_is_longer_than_a_minute() {
        let (mut breakers, mut now) = (Breakers::default(), Moment::START);
        for _ in 0..100 {
            breakers.fault("a", Owner(0), "disk", now);
            let end = breakers.next_end("a", now).unwrap();
            assert!(end.since(now) <= PAUSE.1);
            now = end;
        }
    }
}
