//! Absence: since when no worker that may evaluate an experiment is here, and how many of its leases were lost with their
//! workers since its last result. Nothing is decided by it.

use std::time::Duration;

use qslm_report::condition::without_worker;

use crate::ledger::Moment;

/// Absence of workers from one experiment.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Time since which no worker may evaluate it, though it has work.
    since: Option<Moment>,
    /// Leases that were lost with their workers since the last result.
    vanished: u64,
    /// True if it was told that this lasts.
    is_told: bool,
}

/// Absence of workers, as people see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerAbsence {
    /// Time for which no worker was here that may evaluate the experiment; zero while one is.
    pub without_worker: Duration,
    /// Leases that were lost with their workers since the last result.
    pub vanished_leases: u64,
}

impl WorkerAbsence {
    /// A sentence, once it lasts.
    pub fn words(&self) -> Option<String> {
        without_worker(self.without_worker.as_secs(), self.vanished_leases)
    }

    /// The same in whole minutes, so that whoever watches hears of it once a minute.
    pub(super) fn by_the_minute(self) -> Self {
        Self { without_worker: Duration::from_secs(self.without_worker.as_secs() / 60 * 60), ..self }
    }
}

impl Absence {
    /// Notes whether a worker is wanted and none is here. Returns a sentence the first time that it is worth one.
    pub(super) fn note(&mut self, is_without: bool, now: Moment) -> Option<String> {
        if !is_without {
            (self.since, self.is_told) = (None, false);
            return None;
        }
        self.since.get_or_insert(now);
        let words = self.at(now).words().filter(|_| !self.is_told);
        self.is_told |= words.is_some();
        words
    }

    /// Notes that a lease was lost with its worker.
    pub(super) fn note_lapse(&mut self) {
        self.vanished += 1;
    }

    /// Notes a result.
    pub(super) fn note_result(&mut self) {
        self.vanished = 0;
    }

    /// Absence at a time.
    pub(super) fn at(&self, now: Moment) -> WorkerAbsence {
        let without_worker = self.since.map_or(Duration::ZERO, |since| now.since(since));
        WorkerAbsence { without_worker, vanished_leases: self.vanished }
    }
}
