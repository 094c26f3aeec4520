//! The end of a coordinator that was started for a sweep (`--until-done`): when all has ended, and nobody needs it any more.
//!
//! It looks once a second. Experiments that have ended are not enough: whoever submitted them still has to read fronts and
//! artifacts, and workers to hear that there is nothing more to do. Submitters say when they have what they want (the call
//! `Collect`); without a word the results stay ready for a while. What is submitted meanwhile begins it anew.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::driver::Handle;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Experiments whose results were collected, as submitters say. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Collected(Arc<Mutex<BTreeSet<String>>>);

impl Collected {
    /// Notes that the results of an experiment were collected.
    pub fn note(&self, id: String) {
        self.ids().insert(id);
    }

    fn ids(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Patience of a coordinator once all experiments have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Time in which every worker reports, and so hears that there is nothing more to do.
    pub farewell: Duration,
    /// Time for which results are ready for whoever does not say that they are collected.
    pub collect: Duration,
}

/// Cancels `stop` and returns true once all experiments have ended and their results were collected; false if it was
/// cancelled before.
pub async fn until_done(
    driver: Handle,
    collected: Collected,
    patience: Patience,
    stop: CancellationToken,
) -> bool {
    let mut end = End::new(patience);
    let mut due = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => return false,
        }
        // A driver that is busy is asked again; one that is gone has ended the server, too.
        let (Ok(experiments), Ok(cluster)) = (driver.list().await, driver.cluster().await) else { continue };
        let states: Vec<_> = experiments.iter().map(|one| (one.id.as_str(), one.state.has_ended())).collect();
        if end.has_come(&states, cluster.workers.len(), &mut collected.ids(), Instant::now()) {
            tracing::info!(experiments = experiments.len(), "all experiments have ended");
            stop.cancel();
            return true;
        }
    }
}

/// What was seen so far.
struct End {
    patience: Patience,
    /// Experiments that were under way at some time.
    open: BTreeSet<String>,
    /// True once there was a worker, which hears of the end within the time of a lease.
    had_workers: bool,
    /// Time since which all experiments have ended.
    ended: Option<Instant>,
}

impl End {
    fn new(patience: Patience) -> Self {
        Self { patience, open: BTreeSet::new(), had_workers: false, ended: None }
    }

    /// True if nobody needs the coordinator any more, given its experiments and whether each has ended, and its workers.
    fn has_come(
        &mut self,
        experiments: &[(&str, bool)],
        workers: usize,
        collected: &mut BTreeSet<String>,
        now: Instant,
    ) -> bool {
        self.had_workers |= workers > 0;
        let open = experiments.iter().filter(|(_, has_ended)| !has_ended).map(|(id, _)| (*id).to_owned());
        let open: BTreeSet<String> = open.collect();
        if experiments.is_empty() || !open.is_empty() {
            // One that goes on has other results in the end.
            collected.retain(|id| !open.contains(id));
            self.open.extend(open);
            self.ended = None;
            return false;
        }
        let waited = now.duration_since(*self.ended.get_or_insert(now));
        // What had ended before this process began is nobody's to say, so somebody has to have said something.
        let all = !collected.is_empty() && self.open.is_subset(collected);
        // Workers that have not come yet would wait for ever for one that is gone.
        let early = all && self.had_workers && waited >= self.patience.farewell;
        early || waited >= self.patience.collect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end that is looked at second by second.
    struct Looked {
        end: End,
        begun: Instant,
        collected: BTreeSet<String>,
    }

    impl Looked {
        fn new() -> Self {
            let patience = Patience { farewell: Duration::from_secs(3), collect: Duration::from_secs(10) };
            Self { end: End::new(patience), begun: Instant::now(), collected: BTreeSet::new() }
        }

        fn at(&mut self, second: u64, experiments: &[(&str, bool)], workers: usize) -> bool {
            let now = self.begun + Duration::from_secs(second);
            self.end.has_come(experiments, workers, &mut self.collected, now)
        }

        fn collect(&mut self, id: &str) {
            self.collected.insert(id.to_owned());
        }
    }

    #[test]
    fn without_an_experiment_it_waits_for_one() {
        let mut looked = Looked::new();
        assert!(!looked.at(0, &[], 1) && !looked.at(1000, &[], 1));
    }

    #[test]
    fn it_ends_when_all_is_collected_and_workers_have_heard() {
        let mut looked = Looked::new();
        assert!(!looked.at(0, &[("a", false), ("b", true)], 1));
        assert!(!looked.at(1, &[("a", true), ("b", true)], 0));
        looked.collect("b");
        assert!(!looked.at(5, &[("a", true), ("b", true)], 0), "a was under way, and nobody has it");
        looked.collect("a");
        assert!(looked.at(6, &[("a", true), ("b", true)], 0));
        let mut early = Looked::new();
        assert!(!early.at(0, &[("a", false)], 1));
        early.collect("a");
        assert!(!early.at(1, &[("a", false)], 1), "said too early");
        assert!(!early.at(2, &[("a", true)], 1) && !early.at(6, &[("a", true)], 1));
        early.collect("a");
        assert!(early.at(7, &[("a", true)], 0));
    }

    #[test]
    fn it_waits_for_workers_that_never_came_and_for_who_never_collects_but_not_for_ever() {
        for (workers, collects) in [(0, true), (1, false)] {
            let mut looked = Looked::new();
            if collects {
                looked.collect("a");
            }
            assert!(!looked.at(0, &[("a", true)], workers) && !looked.at(9, &[("a", true)], workers));
            assert!(looked.at(10, &[("a", true)], workers));
        }
    }

    #[test]
    fn what_is_submitted_meanwhile_begins_it_anew() {
        let mut looked = Looked::new();
        assert!(!looked.at(0, &[("a", true)], 0));
        assert!(!looked.at(9, &[("a", true), ("b", false)], 0));
        assert!(
            !looked.at(10, &[("a", true), ("b", true)], 0) && !looked.at(19, &[("a", true), ("b", true)], 0)
        );
        assert!(looked.at(20, &[("a", true), ("b", true)], 0));
    }
}
