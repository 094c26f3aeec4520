//! The driver: the one owner of all state, on a thread of its own.
//!
//! It takes whatever requests have arrived, applies them to the ledger, writes everything to the store in one
//! transaction, and only then answers, lets the searches go on and grants leases. What arrives while a transaction is
//! written goes into the next. There are no locks, and nobody else reads the clock for the ledger.

mod request;
mod running;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use qslm_common::experiment::Experiment;
use qslm_proto::v1::ExperimentStatus;
use tokio::sync::{oneshot, watch};

use crate::crash::{CrashPlan, CrashPoint};
use crate::ledger::{Broken, Closed, Grant, LeaseId, Ledger, Limits, Millis, Outcome, Owner, Settled};
use crate::store::{ExperimentRecord, Store, StoreError, Write};

pub use request::{Change, Finished, Handle, Refusal, Report, ReportAnswer, ShardOutcome, Submission};
use request::{Reply, Request};
use running::Running;

/// Requests that may wait for the driver; more are refused with [`Refusal::Busy`].
const QUEUE: usize = 4096;
/// Requests that go into one transaction.
const BATCH: usize = 512;
/// How long the driver sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// How a coordinator behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a lease lasts after the last report that lists it.
    pub lease_ttl: Duration,
    /// When to die, for tests.
    pub crash_at: CrashPlan,
}

impl Default for Options {
    fn default() -> Self {
        Self { lease_ttl: Duration::from_secs(15), crash_at: CrashPlan::default() }
    }
}

/// Why a driver ended. Whatever was acknowledged is on disk.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This program is wrong; the next start reads everything from the store.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// The state of a coordinator.
struct Driver {
    store: Store,
    options: Options,
    ledger: Ledger,
    /// In the order of submission; the index is the owner's number in the ledger.
    experiments: Vec<Running>,
    next_lease: LeaseId,
    /// When each worker was last heard of.
    workers: BTreeMap<String, Millis>,
    /// Reports that are to be answered: at once, or when there is work.
    waiting: Vec<Waiting>,
    /// What the next transaction writes.
    writes: Vec<Write>,
    /// Answers that go out once the transaction is on disk.
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Answers about experiments that go out once the searches went on.
    submitted: Vec<(usize, Reply<ExperimentStatus>)>,
    /// Whether a search has more to look up in the store.
    unfinished: bool,
}

/// A report without an answer yet.
struct Waiting {
    worker: String,
    slots: u32,
    /// The only experiment that the worker works for, or any.
    experiment: Option<String>,
    dropped: Vec<LeaseId>,
    /// When it has to be answered, work or not.
    until: Millis,
    reply: Reply<ReportAnswer>,
}

/// The thread of a driver; it gives the error that ended it, if any.
pub type Thread = std::thread::JoinHandle<Result<(), DriverError>>;

/// Starts a driver on `store`. Experiments that were under way go on. The thread ends when every handle is
/// gone or asked to stop.
///
/// # Errors
/// [`DriverError`] if the store's experiments cannot be read.
pub fn start(store: Store, options: Options) -> Result<(Handle, Thread), DriverError> {
    let (sender, receiver) = sync_channel(QUEUE);
    let mut driver = Driver::new(store, options)?;
    let thread = std::thread::spawn(move || driver.run(&receiver));
    Ok((Handle::new(sender), thread))
}

impl Driver {
    /// A driver at the time 0.
    fn new(store: Store, options: Options) -> Result<Self, DriverError> {
        let mut driver = Self {
            // A restarted coordinator must not give a lease number twice.
            next_lease: store.epoch() << 32,
            store,
            options,
            ledger: Ledger::new(Limits::default()),
            experiments: Vec::new(),
            workers: BTreeMap::new(),
            waiting: Vec::new(),
            writes: Vec::new(),
            answers: Vec::new(),
            submitted: Vec::new(),
            unfinished: false,
        };
        for record in driver.store.experiments()? {
            driver.options.crash_at.pass(CrashPoint::Starting);
            let failures = driver.store.failures(&record.experiment.id())?;
            driver.add(record, failures);
        }
        driver.finish_batch(0)?;
        Ok(driver)
    }

    fn add(
        &mut self,
        record: ExperimentRecord,
        failures: BTreeMap<qslm_common::hash::ContentHash, String>,
    ) -> usize {
        let index = self.experiments.len();
        self.experiments.push(Running::new(index as Owner, record, failures));
        index
    }

    fn run(&mut self, requests: &Receiver<Request>) -> Result<(), DriverError> {
        let started = Instant::now();
        let now = || started.elapsed().as_millis() as Millis;
        loop {
            let mut open = true;
            match requests.recv_timeout(self.until_due(now())) {
                Ok(request) => open = self.apply(request, now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for request in requests.try_iter().take(BATCH) {
                open &= self.apply(request, now());
            }
            self.finish_batch(now())?;
            if !open {
                return Ok(());
            }
        }
    }

    /// Time until a lease runs out, a waiting report has to be answered, or a search has something to do.
    fn until_due(&self, now: Millis) -> Duration {
        if self.unfinished || !self.writes.is_empty() {
            return Duration::ZERO;
        }
        let reports = self.waiting.iter().map(|waiting| waiting.until);
        let due = self.ledger.next_expiry().into_iter().chain(reports).min();
        due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(now)).min(IDLE))
    }

    /// Expires, commits, answers, advances and grants, in this order.
    fn finish_batch(&mut self, now: Millis) -> Result<(), DriverError> {
        for closed in self.ledger.expire(now) {
            self.close(closed);
        }
        if !self.writes.is_empty() {
            self.options.crash_at.pass(CrashPoint::BeforeCommit);
            self.store.commit(&self.writes)?;
            self.options.crash_at.pass(CrashPoint::AfterCommit);
            self.writes.clear();
        }
        for answer in self.answers.drain(..) {
            answer();
        }
        self.unfinished = false;
        for index in 0..self.experiments.len() {
            self.advance(index)?;
        }
        let ttl = self.ttl();
        self.workers.retain(|_, seen| *seen + ttl > now);
        for (index, reply) in std::mem::take(&mut self.submitted) {
            // Whoever submits what was measured before wants to hear that it is finished.
            if self.experiments[index].is_looking_up() {
                self.submitted.push((index, reply));
            } else {
                drop(reply.send(Ok(self.status(index, now))));
            }
        }
        self.answer_reports(now)?;
        let workers = self.workers.len() as u32;
        for running in self.experiments.iter_mut().filter(|running| running.is_watched()) {
            running.publish(&self.ledger, now, workers);
        }
        Ok(self.ledger.check_totals()?)
    }

    fn ttl(&self) -> Millis {
        self.options.lease_ttl.as_millis() as Millis
    }

    /// Lets a search go on. Everything that was settled has to be on disk.
    fn advance(&mut self, index: usize) -> Result<(), DriverError> {
        let complete = self.experiments[index].advance(&mut self.ledger, &self.store)?;
        self.unfinished |= self.experiments[index].is_looking_up();
        for closed in complete {
            self.close(closed);
        }
        Ok(())
    }

    /// Applies one request. `false` asks the driver to stop.
    fn apply(&mut self, request: Request, now: Millis) -> bool {
        match request {
            Request::Report(report, reply) => self.report(report, reply, now),
            Request::Submit(submission, reply) => self.submit(*submission, reply),
            Request::List(reply) => {
                let all = (0..self.experiments.len()).map(|index| self.status(index, now)).collect();
                self.answer(reply, Ok(all));
            }
            Request::Get(id, reply) => self.with(&id, reply, |driver, index| driver.status(index, now)),
            Request::Watch(id, reply) => self.with(&id, reply, |driver, index| {
                let workers = driver.workers.len() as u32;
                driver.experiments[index].publish(&driver.ledger, now, workers);
                driver.experiments[index].watch()
            }),
            Request::Front(id, reply) => {
                self.with(&id, reply, |driver, index| driver.experiments[index].front_document());
            }
            Request::Change(id, change, reply) => match self.find(&id) {
                Ok(index) => {
                    self.change(index, change);
                    self.submitted.push((index, reply));
                }
                Err(refusal) => self.answer(reply, Err(refusal)),
            },
            Request::Stop => return false,
        }
        true
    }

    fn status(&mut self, index: usize, now: Millis) -> ExperimentStatus {
        let workers = self.workers.len() as u32;
        self.experiments[index].status(&self.ledger, now, workers)
    }

    /// Answers after the next commit.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: Result<T, Refusal>) {
        // Nobody may be waiting any more, which is their business.
        self.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Answers with what `f` makes of the experiment of this id.
    fn with<T: Send + 'static>(&mut self, id: &str, reply: Reply<T>, f: impl FnOnce(&mut Self, usize) -> T) {
        let value = self.find(id).map(|index| f(self, index));
        self.answer(reply, value);
    }

    /// The experiment with this id, or the only one whose id starts so.
    fn find(&self, id: &str) -> Result<usize, Refusal> {
        let ids = || self.experiments.iter().map(Running::id).enumerate();
        if let Some((index, _)) = ids().find(|(_, known)| *known == id) {
            return Ok(index);
        }
        let matches: Vec<_> = ids().filter(|(_, known)| known.starts_with(id)).collect();
        match matches[..] {
            [(index, _)] if !id.is_empty() => Ok(index),
            [] | [_] => Err(Refusal::NotFound(format!("no experiment {id:?}"))),
            _ => Err(Refusal::Ambiguous(format!("{} experiments start with {id:?}", matches.len()))),
        }
    }

    /// Adds an experiment; one that is there already goes on, even if it was cancelled or paused.
    fn submit(&mut self, submission: Submission, reply: Reply<ExperimentStatus>) {
        let Submission { experiment, shards, priority } = submission;
        let id = experiment.id();
        let known = self.experiments.iter().position(|running| running.id() == id);
        let index = known.unwrap_or_else(|| {
            let order = self.experiments.len() as u64;
            let record = ExperimentRecord::new(order, shards, priority.unwrap_or(0), experiment);
            self.writes.push(Write::Experiment(record.clone()));
            self.add(record, BTreeMap::new())
        });
        self.change(index, Change { cancelled: Some(false), paused: Some(false), priority });
        self.submitted.push((index, reply));
    }

    /// Changes what a person may change of an experiment.
    fn change(&mut self, index: usize, change: Change) {
        let running = &mut self.experiments[index];
        if running.is_finished() {
            return;
        }
        let known = running.record();
        let record = ExperimentRecord {
            cancelled: change.cancelled.unwrap_or(known.cancelled),
            paused: change.paused.unwrap_or(known.paused),
            priority: change.priority.unwrap_or(known.priority),
            ..known.clone()
        };
        if record == *known {
            return;
        }
        if record.cancelled {
            self.ledger.withdraw(index as Owner);
        }
        self.writes.push(Write::Experiment(record.clone()));
        running.change(record);
    }

    /// Takes a worker's report. It is answered in [`Driver::answer_reports`], after the commit.
    fn report(&mut self, report: Report, reply: Reply<ReportAnswer>, now: Millis) {
        self.workers.insert(report.worker.clone(), now);
        // One call per worker: an older one that still waits was given up by its caller.
        self.waiting.retain(|waiting| waiting.worker != report.worker);
        let news = !report.finished.is_empty();
        for finished in report.finished {
            self.settle(finished, now);
        }
        let mut unknown: BTreeSet<LeaseId> = report.held.into_iter().collect();
        self.ledger.extend(&report.worker, &mut unknown, now + self.ttl());
        let wait = if news || !unknown.is_empty() || report.slots == 0 { 0 } else { report.wait_ms };
        self.waiting.push(Waiting {
            worker: report.worker,
            slots: report.slots,
            experiment: report.experiment,
            dropped: unknown.into_iter().collect(),
            until: now + Millis::from(wait),
            reply,
        });
    }

    /// Takes what a worker made of a shard.
    fn settle(&mut self, finished: Finished, now: Millis) {
        let Finished { lease, trial, shard, outcome } = finished;
        let owners = self.ledger.owners(&trial).to_vec();
        let settled = match outcome {
            ShardOutcome::Counts(counts) => {
                let settled = self.ledger.settle(trial, shard, counts.clone(), now);
                if matches!(settled, Settled::Recorded | Settled::Complete(_)) {
                    for owner in &owners {
                        self.experiments[*owner as usize].note_speed(now, counts.positions);
                    }
                }
                // A result for a trial that is not open is kept, too: it was cancelled meanwhile, or the search has not
                // come back to it since this coordinator started. A lease that nobody ever got proves nothing.
                let late = matches!(settled, Settled::Unknown) && lease < self.next_lease;
                if late || matches!(settled, Settled::Recorded) {
                    self.writes.push(Write::Shard(trial, shard, counts));
                }
                settled
            }
            ShardOutcome::Failure { reason, retryable } => self.ledger.fail(lease, retryable, &reason),
        };
        match settled {
            Settled::Complete(closed) => self.close(closed),
            Settled::Conflict => {
                tracing::error!(%trial, ?shard, "a shard came back with other counts than were recorded; the first ones stay");
            }
            Settled::Implausible => {
                tracing::warn!(%trial, lease, "refused counts that this network cannot give");
                let reason = "a worker reported counts that this network cannot give";
                if let Settled::Complete(closed) = self.ledger.fail(lease, true, reason) {
                    self.close(closed);
                }
            }
            Settled::Recorded | Settled::Known | Settled::Unknown => {}
        }
    }

    /// Files a closed trial with everyone who waited for it.
    fn close(&mut self, closed: Closed) {
        let Closed { trial, owners, outcome } = closed;
        if let Outcome::Measured(counts) = &outcome {
            self.options.crash_at.pass(CrashPoint::UpdatingFront);
            self.writes.push(Write::Measurement(trial.key, counts.clone()));
        }
        for owner in owners {
            let Some(running) = self.experiments.get_mut(owner as usize) else { continue };
            match &outcome {
                Outcome::Measured(counts) => running.measured(&trial, counts.clone()),
                Outcome::Failed(reason) => {
                    running.failed(&trial, reason);
                    self.writes.push(Write::Failure(running.id().to_owned(), trial.key, reason.clone()));
                }
            }
        }
    }

    /// Answers the reports that are due and those for which there is work.
    fn answer_reports(&mut self, now: Millis) -> Result<(), DriverError> {
        for waiting in std::mem::take(&mut self.waiting) {
            // A caller that is gone would let its leases run out.
            if waiting.reply.is_closed() {
                continue;
            }
            let mut leases = Vec::new();
            while (leases.len() as u32) < waiting.slots
                && let Some(grant) = self.grant(&waiting, now)?
            {
                leases.push(grant);
            }
            if leases.is_empty() && waiting.until > now {
                self.waiting.push(waiting);
                continue;
            }
            let answer = ReportAnswer { leases, dropped: waiting.dropped, ttl: self.options.lease_ttl };
            drop(waiting.reply.send(Ok(answer)));
        }
        Ok(())
    }

    /// The next shard for a worker: of the experiment with the highest priority; among equals, of the one that has
    /// the fewest shards out, so that they share the workers evenly.
    fn grant(&mut self, waiting: &Waiting, now: Millis) -> Result<Option<Grant>, DriverError> {
        let eligible = self.experiments.iter().enumerate().filter(|(_, running)| {
            running.is_active() && waiting.experiment.as_ref().is_none_or(|only| running.id() == only)
        });
        let turn = |(index, running): (usize, &Running)| {
            (Reverse(running.priority()), self.ledger.shard_counts(index as Owner).leased, index)
        };
        let mut turns: Vec<_> = eligible.map(turn).collect();
        turns.sort_unstable();
        for (_, _, index) in turns {
            if self.ledger.shard_counts(index as Owner).pending == 0 {
                self.advance(index)?;
            }
            let (lease, ends) = (self.next_lease, now + self.ttl());
            if let Some(grant) = self.ledger.grant(index as Owner, lease, &waiting.worker, now, ends) {
                self.next_lease += 1;
                return Ok(Some(grant));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
