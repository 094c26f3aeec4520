//! The driver: the one owner of all state, on a thread of its own.
//!
//! It takes whatever requests have arrived, applies them to the ledger, lets the searches go on, and grants leases to
//! workers that wait. What has to be kept goes to the committer, one transaction at a time: what arrives while a
//! transaction is written goes into the next. Whoever handed in results or asked for a change is answered when that is
//! on disk. There are no locks, and nobody else reads the clock for the ledger.
//!
//! Leases are granted for what follows from results that are not on disk yet. Nothing is lost by that: if the
//! coordinator dies now, those results were not acknowledged, come again, and the search proposes the same.

mod breaker;
mod committer;
mod events;
mod reports;
mod request;
mod running;
mod seen;
mod speed;
mod tally;
mod traced;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qslm_common::ENGINE_VERSION;
use qslm_common::evidence::{Evidence, Fingerprint};
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_proto::v1::ExperimentStatus;
use qslm_report::ReportDocument as ExperimentReport;
use qslm_transport::Traces;
use tokio::sync::{oneshot, watch};

use crate::crash::{CrashPlan, CrashPoint};
use crate::ledger::{Broken, Closed, Expired, LeaseId, Ledger, Limits, Millis, Outcome, Owner};
use crate::store::{ExperimentRecord, Store, StoreError, Write};

use breaker::Breakers;
pub use committer::{CommitError, Commits, Metrics};
use committer::{Committer, panic_words};
pub use events::Event;
use events::Events;
pub use reports::WorkerStatus;
use reports::{Waiting, Worker};
pub use request::{
    Change, ClusterView, Fault, Finished, Handle, Refusal, ReplaySource, ReportAnswer, ShardOutcome,
    Snapshot, Submission, WorkerReport,
};
use request::{Reply, Request};
use running::{ExperimentRun, WorkerCounts};
use seen::Presentation;
pub use tally::Tally;
use traced::Traced;

/// Requests that may wait for the driver; more are refused with [`Refusal::Busy`].
const QUEUE: usize = 4096;
/// Requests that go into one transaction.
const BATCH: usize = 512;
/// Characters of an unknown id that are quoted.
const SHOWN: usize = 100;
/// How long the driver sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// How a coordinator behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a lease lasts after the last report that lists it.
    pub lease_ttl: Duration,
    /// When a trial has failed.
    pub limits: Limits,
    /// When to die, for tests.
    pub crash_at: CrashPlan,
    /// Where to send traces, if anywhere.
    pub traces: Option<Traces>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15),
            limits: Limits::default(),
            crash_at: CrashPlan::default(),
            traces: None,
        }
    }
}

/// Why a driver ended. Whatever was acknowledged is on disk.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A batch may not be on disk.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// This program is wrong; the next start reads everything from the store.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// So it is here.
    #[error("the thread that decides panicked: {0}")]
    Panicked(String),
}

impl DriverError {
    /// What a panic said.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::Panicked(panic_words(panic))
    }

    /// Says what failed first, where this is what follows from it.
    fn explained(self, store: &Store) -> Self {
        match self {
            Self::Store(error) | Self::Commit(CommitError::Store(error)) => Self::Store(store.explain(error)),
            other => other,
        }
    }
}

/// The state of a coordinator.
struct Driver {
    store: Arc<Store>,
    options: Options,
    ledger: Ledger,
    /// In the order of submission; the index is the owner's number in the ledger.
    experiments: Vec<ExperimentRun>,
    next_lease: LeaseId,
    /// Milliseconds since 1970 at the time 0, to tell people when something was. Nothing is decided by it.
    born_unix_ms: u64,
    /// The time of the request or turn under way.
    now: Millis,
    events: Events,
    traced: Option<Traced>,
    workers: HashMap<String, Worker>,
    /// Who had faults lately.
    breakers: Breakers,
    /// Changes when a worker comes, goes, can do something else, or has faults.
    staffing: u64,
    /// The workers of an experiment, by its index, and the staffing of which that holds.
    staff: Vec<(u64, WorkerCounts)>,
    tally: Tally,
    /// Evaluations that all workers together may have in hand, not counting what they take beforehand.
    capacity: u64,
    /// Reports by number that are to be answered: at once, or when there is work.
    waiting: BTreeMap<u64, Waiting>,
    reports: u64,
    /// What the next transaction writes, and who hears of it then.
    next: Batch,
    /// The same for the transaction that is being written.
    in_flight: Option<Batch>,
    /// Sums that are not on disk yet.
    unwritten: HashMap<ContentHash, Evidence>,
    /// What the engines are that results name.
    engines: BTreeMap<Fingerprint, String>,
    /// Whoever submitted or changed an experiment, which is on disk now.
    submitted: Vec<(usize, Reply<ExperimentStatus>)>,
    /// Questions about experiments of which more is to be looked up: half an answer would be a wrong one.
    parked: Vec<Request>,
    /// Whether a search has more to look up in the store.
    unfinished: bool,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    submitted: Vec<(usize, Reply<ExperimentStatus>)>,
    /// Reports that brought something.
    reports: Vec<(u64, Waiting)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.answers.is_empty()
            && self.submitted.is_empty()
            && self.reports.is_empty()
    }
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
    let metrics = Arc::new(Metrics::default());
    let committer =
        Committer::start(driver.store.clone(), driver.options.crash_at, metrics.clone(), sender.clone())?;
    let (say, ended) = watch::channel(None);
    let thread = std::thread::Builder::new().name("driver".to_owned()).spawn(move || {
        let run = AssertUnwindSafe(|| driver.run(&receiver, &committer));
        let end = catch_unwind(run).unwrap_or_else(|panic| Err(DriverError::panicked(&*panic)));
        // In this order, so that the committer does not wait for a driver that hears nothing more.
        drop(receiver);
        committer.join();
        let end = end.map_err(|error| error.explained(&driver.store));
        // Before those who wait for the driver see that it is gone.
        let why = |error: &DriverError| Refusal::Failed(error.to_string().into());
        say.send_replace(Some(end.as_ref().err().map_or(Refusal::Stopping, why)));
        end
    })?;
    Ok((Handle::new(sender, metrics, ended), thread))
}

impl Driver {
    /// A driver at the time 0.
    fn new(store: Store, options: Options) -> Result<Self, DriverError> {
        let mut driver = Self {
            // A restarted coordinator must not give a lease number twice.
            next_lease: store.epoch() << 32,
            engines: store.engines()?,
            store: Arc::new(store),
            ledger: Ledger::new(options.limits),
            experiments: Vec::new(),
            born_unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            now: 0,
            events: Events::default(),
            traced: options.traces.clone().map(Traced::new),
            workers: HashMap::new(),
            breakers: Breakers::default(),
            staffing: 1,
            staff: Vec::new(),
            tally: Tally::default(),
            capacity: 0,
            waiting: BTreeMap::new(),
            reports: 0,
            next: Batch::default(),
            in_flight: None,
            unwritten: HashMap::new(),
            submitted: Vec::new(),
            parked: Vec::new(),
            unfinished: false,
            options,
        };
        for record in driver.store.experiments()? {
            driver.options.crash_at.pass(CrashPoint::Starting);
            let id = record.experiment.id();
            let failures = driver.store.failures(&id)?;
            let retried = driver.store.retried(&id)?;
            let seen = Presentation::new(driver.store.timeline(&id)?, driver.store.comparisons(&id)?);
            let finished = record.finished;
            let index = driver.add(record, failures, retried, seen);
            if driver.experiments[index].is_outdated() && !finished {
                let words = format!(
                    "it was submitted for another engine than version {ENGINE_VERSION}: it stays paused"
                );
                tracing::warn!(experiment = id, "{words}");
                driver.note(&id, words);
            }
        }
        driver.turn(0)?;
        Ok(driver)
    }

    fn add(
        &mut self,
        record: ExperimentRecord,
        failures: BTreeMap<ContentHash, String>,
        retried: u64,
        seen: Presentation,
    ) -> usize {
        let index = self.experiments.len();
        self.experiments.push(ExperimentRun::new(index as Owner, record, failures, retried, seen));
        index
    }

    /// Remembers something for people who look on.
    fn note(&mut self, experiment: &str, text: impl Into<String>) {
        self.events.note(self.born_unix_ms + self.now, experiment, text);
    }

    fn run(&mut self, requests: &Receiver<Request>, committer: &Committer) -> Result<(), DriverError> {
        let started = Instant::now();
        let now = || started.elapsed().as_millis() as Millis;
        let mut open = true;
        // Who asked for something before the end is still answered.
        while open || self.in_flight.is_some() {
            match requests.recv_timeout(self.until_due(now())) {
                Ok(request) => open &= self.apply(request, now())?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for request in requests.try_iter().take(BATCH) {
                open &= self.apply(request, now())?;
            }
            self.turn(now())?;
            while self.in_flight.is_none() && !self.next.is_empty() {
                let writes = self.take_batch();
                if writes.is_empty() {
                    // What is answered without a commit is no truer than what follows one.
                    self.store.still_there()?;
                    self.committed();
                    self.turn(now())?;
                } else {
                    committer.commit(writes);
                }
            }
        }
        Ok(())
    }

    /// Time until a lease runs out, a waiting report has to be answered, or a search has something to do.
    fn until_due(&self, now: Millis) -> Duration {
        if self.unfinished {
            return Duration::ZERO;
        }
        let reports = self.waiting.values().map(|waiting| waiting.until);
        let pauses =
            self.waiting.values().filter_map(|waiting| self.breakers.next_end(waiting.worker(), now));
        let due = self.ledger.next_expiry().into_iter().chain(reports).chain(pauses).min();
        due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(now)).min(IDLE))
    }

    /// Expires, advances, grants and shows, in this order. Writes nothing.
    fn turn(&mut self, now: Millis) -> Result<(), DriverError> {
        self.now = now;
        let expired = self.ledger.expire(now);
        self.lapsed(expired);
        self.unfinished = false;
        self.advance_all()?;
        for request in std::mem::take(&mut self.parked) {
            self.apply(request, now)?;
        }
        self.forget_silent_workers(now);
        self.look_for_stuck();
        for (index, reply) in std::mem::take(&mut self.submitted) {
            // Whoever submits what was measured before wants to hear that it is finished.
            if self.experiments[index].is_looking_up() {
                self.submitted.push((index, reply));
            } else {
                drop(reply.send(Ok(self.status(index, now))));
            }
        }
        self.answer_reports(now)?;
        self.tell(now);
        for index in 0..self.experiments.len() {
            if self.experiments[index].is_watched() {
                let staff = self.staff(index);
                self.experiments[index].publish(&self.ledger, now, staff);
            }
        }
        Ok(self.ledger.check_totals()?)
    }

    /// Follows up leases that ran out, or were lost with their worker.
    fn lapsed(&mut self, expired: Expired) {
        self.tally.expired += expired.lapsed.len() as u64;
        for (lease, worker, owner) in expired.lapsed {
            self.note("", format!("a lease of {worker} ran out; its shard goes to another worker"));
            tracing::info!(worker, lease, "a lease ran out; its shard goes to another worker");
            if let Some(traced) = &mut self.traced {
                traced.ended(lease, Some("it ran out"), self.born_unix_ms + self.now);
            }
            self.fault(&worker, owner, "it vanished with work in hand", self.now);
        }
        for closed in expired.given_up {
            self.close(closed);
        }
    }

    /// Writes down how far experiments are, and what is new about them.
    fn tell(&mut self, now: Millis) {
        let unix_ms = self.born_unix_ms + now;
        for running in &mut self.experiments {
            let sample = running.sample(now, unix_ms);
            // What is best changes with every other result at first; once a second is enough.
            let news = if sample.is_some() || running.has_turned() { running.news() } else { Vec::new() };
            for text in news {
                self.events.note(unix_ms, running.id(), text);
            }
            self.next.writes.extend(sample.map(|sample| Write::Sample(running.id().to_owned(), sample)));
        }
    }

    /// Takes what is to be written next; [`Driver::committed`] has to follow, before the next batch is taken.
    fn take_batch(&mut self) -> Vec<Write> {
        let mut batch = std::mem::take(&mut self.next);
        let writes = std::mem::take(&mut batch.writes);
        self.in_flight = Some(batch);
        writes
    }

    /// Hears that the batch is on disk: whoever waits for that is answered.
    fn committed(&mut self) {
        let Some(batch) = self.in_flight.take() else { return };
        for answer in batch.answers {
            answer();
        }
        self.submitted.extend(batch.submitted);
        self.waiting.extend(batch.reports);
    }

    /// Hears that these trials are on disk.
    fn forget_written(&mut self, written: &[ContentHash]) {
        for trial in written {
            tracing::debug!(%trial, "recorded");
            self.unwritten.remove(trial);
        }
    }

    fn ttl(&self) -> Millis {
        self.options.lease_ttl.as_millis() as Millis
    }

    /// Lets every search go on: first those that workers may wait for, then those of which it is known that nothing is
    /// left to do.
    fn advance_all(&mut self) -> Result<(), DriverError> {
        for known_as_finished in [false, true] {
            for index in 0..self.experiments.len() {
                if self.experiments[index].record().finished == known_as_finished {
                    self.advance(index)?;
                }
            }
            if self.unfinished {
                break;
            }
        }
        Ok(())
    }

    /// Lets a search go on.
    fn advance(&mut self, index: usize) -> Result<(), DriverError> {
        let running = &mut self.experiments[index];
        let complete = running.advance(&mut self.ledger, &self.store, &self.unwritten)?;
        self.unfinished |= running.is_looking_up();
        if running.is_finished() && !running.record().finished {
            let record = ExperimentRecord { finished: true, ..running.record().clone() };
            self.next.writes.push(Write::Experiment(record.clone()));
            running.change(record);
        }
        for closed in complete {
            self.close(closed);
        }
        Ok(())
    }

    /// Applies one request. `false` asks the driver to stop.
    fn apply(&mut self, request: Request, now: Millis) -> Result<bool, DriverError> {
        self.now = now;
        if self.has_to_wait(&request) {
            self.parked.push(request);
            return Ok(true);
        }
        match request {
            Request::Report(report, reply) => self.report(report, reply, now),
            Request::Submit(submission, reply) => self.submit(*submission, reply),
            Request::List(reply) => {
                let all = (0..self.experiments.len()).map(|index| self.status(index, now)).collect();
                self.answer(reply, Ok(all));
            }
            Request::Get(id, reply) => self.with(&id, reply, |driver, index| driver.status(index, now)),
            Request::Watch(id, reply) => self.with(&id, reply, |driver, index| {
                let staff = driver.staff(index);
                driver.experiments[index].publish(&driver.ledger, now, staff);
                driver.experiments[index].watch()
            }),
            Request::Front(id, reply) => {
                self.with(&id, reply, |driver, index| driver.experiments[index].front_document());
            }
            Request::Describe(id, reply) => self.with(&id, reply, |driver, index| {
                let staff = driver.staff(index);
                driver.experiments[index].report(&driver.ledger, now, staff, &driver.engines)
            }),
            Request::Cluster(reply) => {
                let cluster = self.cluster(now);
                self.answer(reply, Ok(cluster));
            }
            Request::Snapshot(reply) => {
                let experiments = (0..self.experiments.len()).map(|index| self.status(index, now)).collect();
                let ClusterView { workers, .. } = self.cluster(now);
                self.answer(reply, Ok(Snapshot { experiments, workers, tally: self.tally }));
            }
            Request::Source(id, reply) => self.with(&id, reply, |driver, index| ReplaySource {
                record: driver.experiments[index].record().clone(),
                store: Arc::downgrade(&driver.store),
            }),
            Request::Change(id, change, reply) => match self.find(&id) {
                Ok(index) => {
                    self.change(index, change);
                    self.next.submitted.push((index, reply));
                }
                Err(refusal) => self.answer(reply, Err(refusal)),
            },
            Request::Retry(id, trials, reply) => {
                let retried = self.find(&id).and_then(|index| self.retry(index, &trials).map(|()| index));
                match retried {
                    Ok(index) => self.next.submitted.push((index, reply)),
                    Err(refusal) => self.answer(reply, Err(refusal)),
                }
            }
            Request::Committed(written) => {
                self.forget_written(&written?);
                self.committed();
            }
            Request::Stop => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a question is about an experiment of which more is to be looked up.
    fn has_to_wait(&self, request: &Request) -> bool {
        let loading = |index: usize| self.experiments[index].is_looking_up();
        match request {
            Request::List(_) => (0..self.experiments.len()).any(loading),
            Request::Get(id, _)
            | Request::Watch(id, _)
            | Request::Front(id, _)
            | Request::Describe(id, _)
            | Request::Source(id, _) => self.find(id).is_ok_and(loading),
            _ => false,
        }
    }

    /// Workers by name, and what happened lately.
    fn cluster(&mut self, now: Millis) -> ClusterView {
        let mut workers: Vec<WorkerStatus> =
            self.workers.iter_mut().map(|(name, worker)| worker.status(name, now, &self.breakers)).collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        ClusterView { workers, events: self.events.list() }
    }

    fn status(&mut self, index: usize, now: Millis) -> ExperimentStatus {
        let staff = self.staff(index);
        self.experiments[index].status(&self.ledger, now, staff)
    }

    /// Answers after the next commit.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: Result<T, Refusal>) {
        // Nobody may be waiting any more, which is their business.
        self.next.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Answers with what `f` makes of the experiment of this id.
    fn with<T: Send + 'static>(&mut self, id: &str, reply: Reply<T>, f: impl FnOnce(&mut Self, usize) -> T) {
        let value = self.find(id).map(|index| f(self, index));
        self.answer(reply, value);
    }

    /// The experiment with this id, or the only one whose id starts so.
    fn find(&self, id: &str) -> Result<usize, Refusal> {
        let ids = || self.experiments.iter().map(ExperimentRun::id).enumerate();
        if let Some((index, _)) = ids().find(|(_, known)| *known == id) {
            return Ok(index);
        }
        let matches: Vec<_> = ids().filter(|(_, known)| known.starts_with(id)).collect();
        // What is quoted travels back in a header, which has a bound.
        let shown: String = id.chars().take(SHOWN).collect();
        match matches[..] {
            [(index, _)] if !id.is_empty() => Ok(index),
            [] | [_] => Err(Refusal::NotFound(format!("no experiment {shown:?}"))),
            _ => Err(Refusal::Ambiguous(format!("{} experiments start with {shown:?}", matches.len()))),
        }
    }

    /// Adds an experiment; one that is there already goes on, even if it was cancelled or paused.
    fn submit(&mut self, submission: Submission, reply: Reply<ExperimentStatus>) {
        let Submission { experiment, shards, priority, demands } = submission;
        let id = experiment.id();
        let known = self.experiments.iter().position(|running| running.id() == id);
        let index = known.unwrap_or_else(|| {
            let order = self.experiments.len() as u64;
            let record = ExperimentRecord::new(order, shards, priority.unwrap_or(0), experiment);
            self.next.writes.push(Write::Experiment(record.clone()));
            self.note(&id, "submitted");
            self.add(record, BTreeMap::new(), 0, Presentation::default())
        });
        self.change(index, Change { cancelled: Some(false), paused: Some(false), priority, demands });
        self.next.submitted.push((index, reply));
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
            demands: change.demands.unwrap_or_else(|| known.demands.clone()),
            ..known.clone()
        };
        if record == *known {
            return;
        }
        if record.cancelled {
            self.ledger.withdraw(index as Owner);
        }
        self.next.writes.push(Write::Experiment(record.clone()));
        running.change(record);
        // What is demanded may have changed.
        self.staffing += 1;
    }

    /// Opens failed trials again: those whose addresses begin so, or all. The search starts over, as after a restart of the
    /// coordinator, so that it goes on as if they had never failed.
    fn retry(&mut self, index: usize, trials: &[String]) -> Result<(), Refusal> {
        let running = &self.experiments[index];
        let retried = running.failed_trials(trials)?;
        if retried.is_empty() {
            return Ok(());
        }
        let (id, record) = (running.id().to_owned(), running.record().clone());
        let record = ExperimentRecord { finished: false, cancelled: false, paused: false, ..record };
        self.note(&id, format!("{} failed trials are opened again", retried.len()));
        self.next.writes.extend(retried.iter().map(|trial| Write::Retry(id.clone(), *trial)));
        self.next.writes.push(Write::Experiment(record.clone()));
        self.ledger.withdraw(index as Owner);
        self.experiments[index].start_over(record, &retried);
        Ok(())
    }

    /// Files a closed trial with everyone who waited for it.
    fn close(&mut self, closed: Closed) {
        if let Some(traced) = &mut self.traced {
            let ids = closed.owners.iter().filter_map(|owner| self.experiments.get(*owner as usize));
            let ids: Vec<&str> = ids.map(ExperimentRun::id).collect();
            traced.closed(&closed, ids.join(" "), self.born_unix_ms + self.now);
        }
        let Closed { trial, owners, outcome } = closed;
        if let Outcome::Measured(evidence) = &outcome {
            self.options.crash_at.pass(CrashPoint::UpdatingFront);
            self.next.writes.push(Write::Measurement(trial.key, evidence.clone()));
            self.unwritten.insert(trial.key, evidence.clone());
        }
        for owner in owners {
            let Some(running) = self.experiments.get_mut(owner as usize) else { continue };
            if let Outcome::Failed(reason) = &outcome {
                let text = format!("{} failed: {reason}", trial.candidate.short());
                self.events.note(self.born_unix_ms + self.now, running.id(), text);
            }
            match &outcome {
                Outcome::Measured(evidence) => running.measured(&trial, evidence.clone()),
                Outcome::Failed(reason) => {
                    running.failed(&trial, reason);
                    let failure = Write::Failure(running.id().to_owned(), trial.key, reason.clone());
                    self.next.writes.push(failure);
                }
            }
        }
    }
}

#[cfg(test)]
mod ends;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
