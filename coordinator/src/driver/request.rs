//! What may be asked of the driver, and the handle to ask it.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use qslm_common::demands::{Capabilities, Demands};
use qslm_common::experiment::Experiment;
use qslm_common::measurement::Counts;
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_report::ReportDocument;
use tokio::sync::{oneshot, watch};

use super::commit_metrics::Metrics;
use super::committed::Committed;
use super::events::Event;
use super::status::{ExperimentStatus, WorkerStatus};
use super::tally::Tally;
use crate::ledger::{Grant, LeaseId, Owner};
use crate::store::{ExperimentRecord, Store};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// One request.
pub(super) enum Request {
    Report(WorkerReport, Reply<ReportAnswer>),
    Submit(Box<Submission>, Reply<ExperimentStatus>),
    List(Reply<Vec<ExperimentStatus>>),
    Get(String, Reply<ExperimentStatus>),
    Watch(String, Reply<watch::Receiver<Option<ExperimentStatus>>>),
    Front(String, Reply<String>),
    Describe(String, Reply<ReportDocument>),
    Cluster(Reply<ClusterView>),
    Snapshot(Reply<Snapshot>),
    Source(String, Reply<ReplaySource>),
    Change(String, Change, Reply<ExperimentStatus>),
    Retry(String, Vec<String>, Reply<ExperimentStatus>),
    /// The committer has a batch on disk: the trials whose sums were in it.
    Committed(Committed),
    Stop,
}

/// An experiment as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What it is.
    pub experiment: Experiment,
    /// Shards per trial.
    pub shards: u32,
    /// Its priority; `None` for 0, or for the one that it has.
    pub priority: Option<i32>,
    /// Which workers may evaluate it; `None` for any, or for those that it has.
    pub demands: Option<Demands>,
}

impl Submission {
    /// An experiment of the usual priority.
    pub fn new(experiment: Experiment, shards: u32) -> Self {
        Self { experiment, shards, priority: None, demands: None }
    }
}

/// What a person may change of an experiment; `None` leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether it is ended. What was measured stays.
    pub cancelled: Option<bool>,
    /// Whether it is held up: workers get no more shards of it.
    pub paused: Option<bool>,
    /// Experiments of a higher one are worked on first.
    pub priority: Option<i32>,
    /// Which workers may evaluate it.
    pub demands: Option<Demands>,
}

/// Who works, and what happened lately.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Workers heard of within a lease's time, by name.
    pub workers: Vec<WorkerStatus>,
    /// The last events, oldest first.
    pub events: Vec<Event>,
}

/// Everything that is counted.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All experiments, in the order of submission.
    pub experiments: Vec<ExperimentStatus>,
    /// Workers heard of within a lease's time, by name.
    pub workers: Vec<WorkerStatus>,
    /// What happened since the coordinator started.
    pub tally: Tally,
}

/// What an experiment's candidates are read from.
#[derive(Clone)]
pub struct ReplaySource {
    /// The experiment.
    pub record: ExperimentRecord,
    /// Gone when the coordinator has stopped: whoever reads does not keep it open.
    pub store: Weak<Store>,
}

/// Why a request was not met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such experiment.
    #[error("{0}")]
    NotFound(String),
    /// The beginning of an id fits several experiments.
    #[error("{0}")]
    Ambiguous(String),
    /// An experiment that cannot be searched.
    #[error("{0}")]
    Invalid(String),
    /// Too many requests wait already.
    #[error("the coordinator is busy")]
    Busy,
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
    /// It ended, and why; what was acknowledged is in the store.
    #[error("the coordinator failed: {0}")]
    Failed(Arc<str>),
    /// A worker reported again before this report was answered, or another one has the same name.
    #[error("a later report of worker {0:?} took the place of this one")]
    Superseded(String),
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerReport {
    /// The worker's name.
    pub worker: String,
    /// What it finished since it was last answered.
    pub finished: Vec<Finished>,
    /// What it is working on.
    pub held: Vec<LeaseId>,
    /// How many more leases it wants.
    pub slots: u32,
    /// How many more it would take beforehand, if there is plenty.
    pub prefetch: u32,
    /// How long it would wait for them.
    pub wait_ms: u32,
    /// The only experiment that it works for, or any.
    pub experiment: Option<String>,
    /// What it can do.
    pub capabilities: Arc<Capabilities>,
    /// Which of its processes says so; 0 if unknown.
    pub session: u64,
}

/// A shard that a worker is done with.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The lease under which it was done.
    pub lease: LeaseId,
    /// The trial's content address.
    pub trial: TrialKey,
    /// Which shard.
    pub shard: Shard,
    /// What measured it, in a few words; may be empty.
    pub engine: String,
    /// What came of it.
    pub outcome: ShardOutcome,
}

/// What came of a shard.
#[derive(Debug, Clone, PartialEq)]
pub enum ShardOutcome {
    /// It was measured.
    Counts(Counts),
    /// It was not.
    Failure {
        /// Why, on one line.
        reason: String,
        /// Whose fault it is.
        fault: Fault,
    },
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The evaluation's: it fails anywhere, so the trial has failed.
    Evaluation,
    /// The machine's: it counts against the worker.
    Machine,
    /// Nobody's: the worker was told to stop.
    Nobody,
}

/// What a worker is told. By then all that it reported is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportAnswer {
    /// New work.
    pub leases: Vec<Grant>,
    /// The ids of the experiments that it is for, by their numbers.
    pub experiments: BTreeMap<Owner, String>,
    /// Leases it listed that are not its own any more.
    pub dropped: Vec<LeaseId>,
    /// How long a lease lasts after the last report that lists it.
    pub ttl: Duration,
    /// Whether all that it could work for has ended.
    pub done: bool,
    /// Why it is set aside, if it is.
    pub set_aside: Option<String>,
}

/// A way to ask the driver. Clones ask the same driver.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Request>,
    metrics: Arc<Metrics>,
    ended: Ended,
    _last: Arc<Last>,
}

/// Why the driver ended, once it has.
pub(super) type Ended = watch::Receiver<Option<Refusal>>;

/// How long a driver that drops a request may take to say why it ends: it waits for what is being written.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stops the driver when the last handle is gone: the committer holds a sender, too, so the driver would not notice.
struct Last(SyncSender<Request>);

impl Drop for Last {
    fn drop(&mut self) {
        // A driver that is gone, or has too much to do to be asked, needs nobody to stop it.
        drop(self.0.try_send(Request::Stop));
    }
}

impl Handle {
    pub(super) fn new(sender: SyncSender<Request>, metrics: Arc<Metrics>, ended: Ended) -> Self {
        Self { _last: Arc::new(Last(sender.clone())), sender, metrics, ended }
    }

    /// What the committer did so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        match self.sender.try_send(request(reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Refusal::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(self.ended().await),
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.ended().await),
        }
    }

    /// Why the driver gives no answers any more. Waits until it has ended.
    pub async fn ended(&self) -> Refusal {
        let mut ended = self.ended.clone();
        match tokio::time::timeout(PATIENCE, ended.wait_for(Option::is_some)).await {
            Ok(Ok(why)) => why.clone().unwrap_or(Refusal::Stopping),
            _ => Refusal::Stopping,
        }
    }

    /// Hands in a report and waits for the answer.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn report(&self, report: WorkerReport) -> Result<ReportAnswer, Refusal> {
        self.ask(|reply| Request::Report(report, reply)).await
    }

    /// Adds an experiment, or finds it.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn submit(&self, submission: Submission) -> Result<ExperimentStatus, Refusal> {
        self.ask(|reply| Request::Submit(Box::new(submission), reply)).await
    }

    /// All experiments in the order of submission.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn list(&self) -> Result<Vec<ExperimentStatus>, Refusal> {
        self.ask(Request::List).await
    }

    /// One experiment by its id or the beginning of it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn get(&self, id: String) -> Result<ExperimentStatus, Refusal> {
        self.ask(|reply| Request::Get(id, reply)).await
    }

    /// The status of an experiment as it changes; there is one from the start.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn watch(&self, id: String) -> Result<watch::Receiver<Option<ExperimentStatus>>, Refusal> {
        self.ask(|reply| Request::Watch(id, reply)).await
    }

    /// The front document of an experiment.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn front(&self, id: String) -> Result<String, Refusal> {
        self.ask(|reply| Request::Front(id, reply)).await
    }

    /// All that there is to see of an experiment.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn describe(&self, id: String) -> Result<ReportDocument, Refusal> {
        self.ask(|reply| Request::Describe(id, reply)).await
    }

    /// Who works, and what happened lately.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn cluster(&self) -> Result<ClusterView, Refusal> {
        self.ask(Request::Cluster).await
    }

    /// Everything that is counted. The answer comes after a commit, so it also tells that the store works.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn snapshot(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Snapshot).await
    }

    /// What an experiment's candidates are read from.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn source(&self, id: String) -> Result<ReplaySource, Refusal> {
        self.ask(|reply| Request::Source(id, reply)).await
    }

    /// Ends, holds up or advances an experiment.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn change(&self, id: String, change: Change) -> Result<ExperimentStatus, Refusal> {
        self.ask(|reply| Request::Change(id, change, reply)).await
    }

    /// Opens failed trials of an experiment again: those whose addresses begin so, or all.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such experiment or failed trial, or [`Refusal::Ambiguous`].
    pub async fn retry(&self, id: String, trials: Vec<String>) -> Result<ExperimentStatus, Refusal> {
        self.ask(|reply| Request::Retry(id, trials, reply)).await
    }

    /// Asks the driver to end after the requests before this one. Blocks while the queue is full.
    pub fn stop(&self) {
        // A driver that is gone already has stopped.
        drop(self.sender.send(Request::Stop));
    }
}
