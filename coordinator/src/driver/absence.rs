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

/// News of an absence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AbsenceNews {
    /// It lasts, in a sentence.
    Lasts(String),
    /// It is over: a worker is here, or none is wanted any more.
    Over,
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
    /// Notes whether a worker is wanted and none is here. Returns the news: once when it is worth a sentence, and once when
    /// that is over.
    pub(super) fn note(&mut self, is_without: bool, now: Moment) -> Option<AbsenceNews> {
        if !is_without {
            self.since = None;
            return std::mem::take(&mut self.is_told).then_some(AbsenceNews::Over);
        }
        self.since.get_or_insert(now);
        let words = self.at(now).words().filter(|_| !self.is_told)?;
        self.is_told = true;
        Some(AbsenceNews::Lasts(words))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_told_once_and_its_end_once() {
        let mut absence = Absence::default();
        let at = |seconds: u64| Moment(seconds * 1000);
        assert_eq!((absence.note(true, at(0)), absence.note(true, at(59))), (None, None));
        let lasts = AbsenceNews::Lasts("no worker for 1 minute".to_owned());
        assert_eq!((absence.note(true, at(60)), absence.note(true, at(600))), (Some(lasts), None));
        assert_eq!(
            (absence.note(false, at(601)), absence.note(false, at(602))),
            (Some(AbsenceNews::Over), None)
        );
        assert_eq!(
            (absence.note(true, at(700)), absence.note(false, at(720))),
            (None, None),
            "too short to tell"
        );
    }
}
