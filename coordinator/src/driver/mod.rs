//! The driver: the one owner of all state, on a thread of its own.
//!
//! Event loop: it takes the requests that have arrived, applies them to the ledger, lets the searches go on,
//! and grants leases to workers that wait (long polling). What has to be kept goes to the committer, one
//! transaction at a time (group commit): what arrives while a transaction is written goes into the next.
//! Callers that handed in results or asked for a change are answered when that is on disk. There are no
//! locks, and nobody else reads the clock for the ledger.
//!
//! Leases are granted for what follows from results that are not on disk yet. Nothing is lost by that: if the
//! coordinator dies now, those results were not acknowledged, come again, and the search proposes the same.

mod absence;
mod breaker;
mod commit_metrics;
mod committed;
mod committer;
mod estimate;
mod events;
mod jobs;
mod journal;
mod outbox;
mod presentation;
mod rate;
mod reports;
mod request;
mod results;
mod run;
mod search_run;
mod serve;
mod status;
mod tally;
mod told;
mod told_view;
mod traced;
mod view;
mod workers;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use qslm_common::ENGINE_VERSION;
use qslm_common::evidence::Fingerprint;
use qslm_search::Playback;
use qslm_transport::Traces;
use tokio::sync::watch;

use crate::crash::{CrashPlan, CrashPoint};
use crate::ledger::{Broken, LeaseId, Ledger, Limits, Moment, Owner};
use crate::store::{ExperimentRecord, Store, StoreError, Write};

pub use crate::store::Event;
use absence::AbsenceNews;
pub use absence::WorkerAbsence;
pub use commit_metrics::{Commits, Metrics};
pub use committed::CommitError;
use committer::{Committer, words_of};
pub use jobs::JOBS;
use jobs::Jobs;
use journal::Journal;
use outbox::{Acknowledged, Outbox, Submitted};
use presentation::Presentation;
use request::Request;
pub use request::{
    Change, ClusterView, Fault, Finished, Handle, MakeRequest, Refusal, ReplaySource, ReportAnswer,
    ShardOutcome, Snapshot, Submission, WorkerReport,
};
use run::ExperimentRun;
use search_run::{History, SearchRun, StartPlayback};
pub use status::{
    Best, ExperimentStatus, JobCounts, JobState, JobStatus, JobUnderWay, Making, State, Summary,
    WorkerCounts, WorkerStatus,
};
pub use tally::Tally;
pub use told_view::{ToldCandidate, ToldState, ToldView};
use view::View;
use workers::Workers;

/// Requests that may wait for the driver; more are refused with [`Refusal::Busy`].
const QUEUE: usize = 4096;
/// Requests that go into one transaction.
const BATCH: usize = 512;
/// Times that a search may ask for jobs before others have their turn.
const ROUNDS: usize = 16;
/// Characters of an unknown id that are quoted.
const SHOWN: usize = 100;
/// Longest sleep of the driver while nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// Options of a coordinator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time to live of a lease: it is counted from the grant, and anew from every heartbeat, a report that
    /// lists the lease.
    pub lease_ttl: Duration,
    /// Limits beyond which a trial has failed.
    pub limits: Limits,
    /// Crash plan: the point at which the coordinator dies, for tests.
    pub crash_at: CrashPlan,
    /// Destination of traces, if there is one.
    pub traces: Option<Traces>,
    /// True if a store is read that nobody works on: what is under way in it is interrupted.
    pub only_reads: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15),
            limits: Limits::default(),
            crash_at: CrashPlan::default(),
            traces: None,
            only_reads: false,
        }
    }
}

/// Reason why a driver ended. What was acknowledged is on disk.
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
    /// An experiment on record has a strategy that this program does not know.
    #[error("experiment {id}: {error}")]
    Strategy {
        /// The experiment.
        id: String,
        /// Reason why it cannot be read.
        #[source]
        error: serde_json::Error,
    },
    /// A broken invariant: this program is wrong; the next start reads everything from the store.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A panic of the driver's thread, in its words: this program is wrong here, too.
    #[error("the thread that decides panicked: {0}")]
    Panicked(String),
}

impl DriverError {
    /// Error of a panic, in its words.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::Panicked(words_of(panic))
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
    start: StartPlayback,
    ledger: Ledger,
    /// Experiments in the order of submission; the index is the owner's number in the ledger.
    experiments: Vec<ExperimentRun>,
    /// Jobs that people asked for.
    jobs: Jobs,
    workers: Workers,
    outbox: Outbox,
    journal: Journal,
    next_lease: LeaseId,
    /// Descriptions of the engines that results name, by fingerprint.
    engines: BTreeMap<Fingerprint, String>,
    /// Callers that submitted or changed an experiment, which is on disk now.
    submitted: Vec<Submitted>,
    /// Questions about experiments of which more is to be looked up: half an answer would be a wrong one.
    parked: Vec<Request>,
    /// True if a search has more to look up in the store.
    unfinished: bool,
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
    let store = Arc::downgrade(&driver.store);
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
    Ok((Handle::new(sender, metrics, ended, store), thread))
}

impl Driver {
    /// A driver at the time 0.
    fn new(store: Store, options: Options) -> Result<Self, DriverError> {
        Self::with_searches(store, options, Playback::new)
    }

    /// A driver at the time 0 whose searches start so.
    fn with_searches(store: Store, options: Options, start: StartPlayback) -> Result<Self, DriverError> {
        let journal = Journal::new(&options, store.events()?);
        let mut driver = Self {
            start,
            // A restarted coordinator must not give a lease number twice.
            next_lease: LeaseId(store.epoch() << 32),
            engines: store.engines()?,
            store: Arc::new(store),
            ledger: Ledger::new(options.limits),
            experiments: Vec::new(),
            jobs: Jobs::default(),
            workers: Workers::default(),
            outbox: Outbox::default(),
            journal,
            submitted: Vec::new(),
            parked: Vec::new(),
            unfinished: false,
            options,
        };
        for record in driver.store.experiments()? {
            driver.options.crash_at.pass(CrashPoint::Starting);
            driver.resume(record)?;
        }
        driver.turn(Moment::START)?;
        Ok(driver)
    }

    /// Goes on with an experiment on record.
    fn resume(&mut self, record: ExperimentRecord) -> Result<(), DriverError> {
        let id = record.experiment.id();
        let history = History {
            failures: self.store.failures(&id)?,
            retried: self.store.retried(&id)?,
            bindings: self.store.bindings(&id)?,
            tells: self.store.tells(&id)?,
            prunes: self.store.prunes(&id)?,
        };
        let presentation = Presentation::new(self.store.timeline(&id)?, self.store.comparisons(&id)?);
        let finished = record.finished;
        let added = self.add(record, history, presentation);
        let index = added.map_err(|error| DriverError::Strategy { id: id.clone(), error })?;
        if self.experiments[index].search.is_outdated() && !finished {
            let words =
                format!("it was submitted for another engine than version {ENGINE_VERSION}: it stays paused");
            tracing::warn!(experiment = id, "{words}");
            self.journal.remember(&id, words);
        }
        Ok(())
    }

    /// Adds an experiment. Returns its index.
    fn add(
        &mut self,
        record: ExperimentRecord,
        history: History,
        presentation: Presentation,
    ) -> Result<usize, serde_json::Error> {
        let index = self.experiments.len();
        let search = SearchRun::new(Owner::at(index), record, history, self.start)?;
        self.experiments
            .push(ExperimentRun { search, view: View::new(presentation, self.options.only_reads) });
        Ok(index)
    }

    fn run(&mut self, requests: &Receiver<Request>, committer: &Committer) -> Result<(), DriverError> {
        let started = Instant::now();
        let now = || Moment::after_start(started.elapsed());
        let mut open = true;
        // Who asked for something before the end is still answered.
        while open || self.outbox.is_writing() {
            match requests.recv_timeout(self.until_due(now())) {
                Ok(request) => open &= self.apply(request, now())?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for request in requests.try_iter().take(BATCH) {
                open &= self.apply(request, now())?;
            }
            self.turn(now())?;
            while !self.outbox.is_writing() && !self.outbox.is_empty() {
                let writes = self.outbox.take_batch();
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
    fn until_due(&self, now: Moment) -> Duration {
        if self.unfinished {
            return Duration::ZERO;
        }
        let due = self.ledger.next_expiry().into_iter().chain(self.workers.next_due(now)).min();
        due.map_or(IDLE, |due| due.since(now).min(IDLE))
    }

    /// Expires, advances, grants and shows, in this order. Writes nothing.
    fn turn(&mut self, now: Moment) -> Result<(), DriverError> {
        self.journal.set_time(now);
        let expired = self.ledger.expire(now);
        self.lapsed(expired);
        self.unfinished = false;
        self.advance_all()?;
        for request in std::mem::take(&mut self.parked) {
            self.apply(request, now)?;
        }
        self.forget_silent_workers(now);
        self.look_for_stuck();
        self.note_absence(now);
        for (index, reply) in std::mem::take(&mut self.submitted) {
            // Whoever submits what was measured before wants to hear that it is finished.
            if self.experiments[index].search.is_looking_up() {
                self.submitted.push((index, reply));
            } else {
                drop(reply.send(Ok(self.status(index, now))));
            }
        }
        self.answer_reports(now)?;
        self.tell(now);
        for index in 0..self.experiments.len() {
            if self.experiments[index].view.is_watched() {
                self.publish(index, now);
            }
        }
        Ok(self.ledger.check_totals()?)
    }

    /// Writes down how far experiments are, and what happened.
    fn tell(&mut self, now: Moment) {
        for ExperimentRun { search, view } in &mut self.experiments {
            let sample = view.sample(search, now, self.journal.unix_ms());
            // What is best changes with every other result at first; once a second is enough.
            let tells = sample.is_some() || view.has_turned(search);
            for text in if tells { view.news(search) } else { Vec::new() } {
                self.journal.note(search.id(), text);
            }
            if let Some(sample) = sample {
                self.outbox.write(Write::Sample(search.id().to_owned(), sample));
            }
        }
        for event in self.journal.take_fresh_events() {
            self.outbox.write(Write::Event(event));
        }
    }

    /// Notes which experiments no worker may go on with, and tells of each once that lasts.
    fn note_absence(&mut self, now: Moment) {
        for (index, ExperimentRun { search, view }) in self.experiments.iter_mut().enumerate() {
            let is_without = search.is_active() && self.workers.counts(index, search).suitable == 0;
            match view.absence().note(is_without, now) {
                Some(AbsenceNews::Lasts(words)) => {
                    tracing::warn!(experiment = search.id(), "{words}");
                    self.journal.remember(search.id(), words);
                }
                Some(AbsenceNews::Over) if search.is_active() => {
                    self.journal.note(search.id(), "a worker is here again");
                }
                Some(AbsenceNews::Over) | None => {}
            }
        }
    }

    /// Hears that the batch is on disk: callers that wait for that are answered.
    fn committed(&mut self) {
        let Acknowledged { submitted, reports } = self.outbox.committed();
        self.submitted.extend(submitted);
        self.workers.waiting.extend(reports);
    }

    /// Lets every search go on: first those that workers may wait for, then those of which it is known that nothing is
    /// left to do.
    fn advance_all(&mut self) -> Result<(), DriverError> {
        for known_as_finished in [false, true] {
            for index in 0..self.experiments.len() {
                if self.experiments[index].search.record().finished == known_as_finished {
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
        for _ in 0..ROUNDS {
            let run = &mut self.experiments[index];
            let complete = run.advance(&mut self.ledger, &self.store, self.outbox.unwritten())?;
            let search = &mut run.search;
            self.unfinished |= search.is_looking_up();
            if search.is_finished() && !search.record().finished {
                let record = ExperimentRecord { finished: true, ..search.record().clone() };
                self.outbox.write(Write::Experiment(record.clone()));
                search.change(record);
            }
            let jobs = search.take_jobs();
            let asks_for_none = jobs.is_empty();
            for job in jobs {
                self.provide(index, job)?;
            }
            for closed in complete {
                self.close(closed);
            }
            // With all artifacts on record, the search goes on at once.
            if asks_for_none {
                return Ok(());
            }
        }
        self.unfinished = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
