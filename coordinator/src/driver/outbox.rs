//! Outbox: what goes to disk, and who hears of it then. Group commit: what arrives while a transaction is written goes
//! into the next.

use std::collections::HashMap;

use qslm_common::evidence::Evidence;
use qslm_common::trial::TrialKey;

use super::request::{Refusal, Reply};
use super::status::ExperimentStatus;
use super::workers::Waiting;
use crate::store::Write;

/// Outbox: the next batch, the batch in flight, and the sums that are not on disk yet.
#[derive(Default)]
pub(super) struct Outbox {
    next: Batch,
    /// The transaction that is being written.
    in_flight: Option<Batch>,
    /// Sums that are not on disk yet.
    unwritten: HashMap<TrialKey, Evidence>,
}

/// Batch: the writes of one transaction, and the callers that are answered once they are on disk.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    submitted: Vec<Submitted>,
    reports: Vec<(u64, Waiting)>,
}

/// An experiment by its index, and who submitted or changed it.
pub(super) type Submitted = (usize, Reply<ExperimentStatus>);

/// Callers to answer now that a transaction is on disk.
pub(super) struct Acknowledged {
    pub(super) submitted: Vec<Submitted>,
    /// Reports that brought something, by number.
    pub(super) reports: Vec<(u64, Waiting)>,
}

impl Outbox {
    /// Adds to the next transaction.
    pub(super) fn write(&mut self, write: Write) {
        self.next.writes.push(write);
    }

    /// Adds the sum of a trial to the next transaction.
    pub(super) fn write_sum(&mut self, trial: TrialKey, evidence: Evidence) {
        self.write(Write::Measurement(trial, evidence.clone()));
        self.unwritten.insert(trial, evidence);
    }

    /// Answers after the next transaction.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: Result<T, Refusal>) {
        // Nobody may be waiting any more, which is their business.
        self.next.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Answers with the status of an experiment after the next transaction.
    pub(super) fn answer_with_status(&mut self, index: usize, reply: Reply<ExperimentStatus>) {
        self.next.submitted.push((index, reply));
    }

    /// Answers a report after the next transaction.
    pub(super) fn answer_report(&mut self, number: u64, report: Waiting) {
        self.next.reports.push((number, report));
    }

    /// Sums that are on the way to the store.
    pub(super) fn unwritten(&self) -> &HashMap<TrialKey, Evidence> {
        &self.unwritten
    }

    /// True if the next batch has neither writes nor answers.
    pub(super) fn is_empty(&self) -> bool {
        let Batch { writes, answers, submitted, reports } = &self.next;
        writes.is_empty() && answers.is_empty() && submitted.is_empty() && reports.is_empty()
    }

    /// True if a batch is in flight.
    pub(super) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Takes what is to be written next; [`Outbox::committed`] has to follow, before the next batch is taken.
    pub(super) fn take_batch(&mut self) -> Vec<Write> {
        let mut batch = std::mem::take(&mut self.next);
        let writes = std::mem::take(&mut batch.writes);
        self.in_flight = Some(batch);
        writes
    }

    /// Notes that the sums of these trials are on disk.
    pub(super) fn written(&mut self, trials: &[TrialKey]) {
        for trial in trials {
            tracing::debug!(%trial, "recorded");
            self.unwritten.remove(trial);
        }
    }

    /// Notes that the batch is on disk: answers go out, and callers that need more than an answer are
    /// returned.
    pub(super) fn committed(&mut self) -> Acknowledged {
        let batch = self.in_flight.take().unwrap_or_default();
        for answer in batch.answers {
            answer();
        }
        Acknowledged { submitted: batch.submitted, reports: batch.reports }
    }
}
