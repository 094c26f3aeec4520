//! Requests to the driver, and the handle that makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use qslm_common::demands::{Capabilities, Demands};
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, Job, JobKey};
use qslm_common::measurement::Counts;
use qslm_common::origins::Origins;
use qslm_common::spread::Spread;
use qslm_common::task::Shard;
use qslm_common::work::WorkKey;
use qslm_report::ReportDocument;
use qslm_search::Tell;
use tokio::sync::{oneshot, watch};

use super::commit_metrics::Metrics;
use super::committed::Committed;
use super::status::{ExperimentStatus, JobCounts, JobUnderWay, Making, WorkerStatus};
use super::tally::Tally;
use super::told_view::ToldView;
use crate::ledger::{Grant, LeaseId, Owner, ShardCounts};
use crate::store::{Event, ExperimentRecord, Store};

/// Sender of the answer to a request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Request to the driver.
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
    Tell(String, u64, Tell, Reply<u64>),
    Prune(String, u64, Vec<u32>, Reply<Vec<u32>>),
    Told(String, u64, Reply<ToldView>),
    Make(MakeRequest, Reply<Making>),
    LeasedJob(LeaseId, Reply<Option<Arc<AddressedJob>>>),
    /// The committer has a batch on disk: the trials whose sums were in it.
    Committed(Committed),
    Stop,
}

/// An experiment as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The experiment.
    pub experiment: Experiment,
    /// Shards per trial.
    pub shards: u32,
    /// Priority; `None` for 0, or for the one that it has.
    pub priority: Option<i32>,
    /// Demands on the workers that may evaluate it; `None` for none, or for those that it has.
    pub demands: Option<Demands>,
    /// Addresses that its files were fetched from, as far as they are known; added to those that it has.
    pub origins: Origins,
}

impl Submission {
    /// An experiment of the usual priority.
    pub fn new(experiment: Experiment, shards: u32) -> Self {
        Self { experiment, shards, priority: None, demands: None, origins: Origins::default() }
    }
}

/// Request for artifacts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MakeRequest {
    /// Jobs; one that reads what another makes comes after it.
    pub jobs: Vec<Job>,
    /// Jobs whose artifacts were made and are lost.
    pub lost: BTreeSet<JobKey>,
    /// True to try again what failed.
    pub retry: bool,
}

/// Change of an experiment by a person; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Cancellation: true ends it, false lets it go on. What was measured stays.
    pub cancelled: Option<bool>,
    /// Pause: true holds it up, and workers get no more shards of it.
    pub paused: Option<bool>,
    /// Priority: experiments of a higher one are worked on first.
    pub priority: Option<i32>,
    /// Demands on the workers that may evaluate it.
    pub demands: Option<Demands>,
    /// Addresses that its files were fetched from, added to those that are known.
    pub origins: Origins,
}

/// View of the cluster: its workers, the jobs under way and the last events.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Workers heard of within a lease's time, by name.
    pub workers: Vec<WorkerStatus>,
    /// Jobs under way, those first that workers have; not more than people can look at.
    pub jobs: Vec<JobUnderWay>,
    /// The last events, oldest first.
    pub events: Vec<Event>,
}

/// Snapshot of everything that is counted.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All experiments, in the order of submission.
    pub experiments: Vec<ExperimentStatus>,
    /// Workers heard of within a lease's time, by name.
    pub workers: Vec<WorkerStatus>,
    /// Open jobs.
    pub jobs: JobCounts,
    /// Jobs that people asked for, as the shards of an experiment.
    pub of_people: ShardCounts,
    /// Counts of what happened since the coordinator started.
    pub tally: Tally,
}

/// Source of a replay: an experiment and the store that has its candidates.
#[derive(Clone)]
pub struct ReplaySource {
    /// The experiment.
    pub record: ExperimentRecord,
    /// Store with the results; gone when the coordinator has stopped, because a reader does not keep it open.
    pub store: Weak<Store>,
}

/// Reason why a request was not met.
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
    /// What was asked for is there already, and is another.
    #[error("{0}")]
    Conflict(String),
    /// Not what can be asked for now.
    #[error("{0}")]
    NotNow(String),
    /// Back-pressure: too many requests wait already.
    #[error("the coordinator is busy")]
    Busy,
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The driver failed, for this reason; what was acknowledged is in the store.
    #[error("the coordinator failed: {0}")]
    Failed(Arc<str>),
    /// A later report took the place of this one: the worker reported again before it was answered, or
    /// another worker has the same name.
    #[error("a later report of worker {0:?} took the place of this one")]
    Superseded(String),
}

/// Report of a worker: heartbeat, results and request for leases in one call.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerReport {
    /// The worker's name.
    pub worker: String,
    /// Shards that it finished since it was last answered.
    pub finished: Vec<Finished>,
    /// Leases that it holds. The heartbeat extends them, and its others are taken back.
    pub held: Vec<LeaseId>,
    /// Number of further leases that it wants.
    pub slots: u32,
    /// Prefetch: number of leases that it would take beyond these, if there is plenty.
    pub prefetch: u32,
    /// Longest time in milliseconds that it would wait for them (long polling).
    pub wait_ms: u32,
    /// The only experiment that it works for, or any.
    pub experiment: Option<String>,
    /// Capabilities of the worker.
    pub capabilities: Arc<Capabilities>,
    /// Session: the one of its processes that reports; 0 if unknown.
    pub session: u64,
    /// Progress of the jobs that it holds leases of: steps done, of so many.
    pub progress: Vec<(LeaseId, u64, u64)>,
}

/// A shard that a worker is done with.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The lease under which it was done.
    pub lease: LeaseId,
    /// Content address of the trial or job.
    pub work: WorkKey,
    /// The shard of the trial; a job is one.
    pub shard: Shard,
    /// Description of the engine that measured it, in a few words; may be empty.
    pub engine: String,
    /// Outcome of the shard.
    pub outcome: ShardOutcome,
}

/// Outcome of a shard, as a worker reports it.
#[derive(Debug, Clone, PartialEq)]
pub enum ShardOutcome {
    /// Counts, with their spread if the worker tells it: the shard was measured.
    Counts(Counts, Option<Spread>),
    /// Artifact: the job made it, and its bytes are on disk.
    Artifact(ContentHash),
    /// Failure: the shard was not measured.
    Failure {
        /// Reason, on one line.
        reason: String,
        /// Fault: what the failure counts against.
        fault: Fault,
    },
}

/// Fault: what a failure counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The evaluation's: it fails anywhere, so the trial has failed.
    Evaluation,
    /// The machine's: it counts against the worker.
    Machine,
    /// Nobody's: the worker was told to stop.
    Nobody,
}

/// Answer to a report. By then all that was reported is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportAnswer {
    /// New leases.
    pub leases: Vec<Grant>,
    /// Hashes of the inputs of those that are for jobs, by name.
    pub inputs: BTreeMap<LeaseId, BTreeMap<String, ContentHash>>,
    /// Ids of the experiments that the leases are for, by owner.
    pub experiments: BTreeMap<Owner, String>,
    /// Leases it listed that are not its own any more.
    pub dropped: Vec<LeaseId>,
    /// Time to live of a lease, from the last report that lists it.
    pub ttl: Duration,
    /// True if there is no lease because all that it could work for has ended.
    pub done: bool,
    /// Reason why it is set aside, if its circuit breaker is open for an experiment.
    pub set_aside: Option<String>,
}

/// Handle to a driver. Clones ask the same driver.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Request>,
    metrics: Arc<Metrics>,
    ended: Ended,
    /// Store, for what reads it beside the driver; gone with the driver.
    store: Weak<Store>,
    _last: Arc<Last>,
}

/// Reason why the driver ended, once it has.
pub(super) type Ended = watch::Receiver<Option<Refusal>>;

/// Timeout for a driver that drops a request to say why it ends: it waits for what is being written.
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
    pub(super) fn new(
        sender: SyncSender<Request>,
        metrics: Arc<Metrics>,
        ended: Ended,
        store: Weak<Store>,
    ) -> Self {
        Self { _last: Arc::new(Last(sender.clone())), sender, metrics, ended, store }
    }

    /// The store, as long as the driver has it: read beside the driver, whom that does not hold up.
    pub fn store(&self) -> Weak<Store> {
        self.store.clone()
    }

    /// Metrics of the committer so far.
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

    /// Reason why the driver gives no answers any more. Waits until it has ended.
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

    /// Report document of an experiment: all that there is to see.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::Ambiguous`].
    pub async fn describe(&self, id: String) -> Result<ReportDocument, Refusal> {
        self.ask(|reply| Request::Describe(id, reply)).await
    }

    /// View of the cluster: its workers and the last events.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn cluster(&self) -> Result<ClusterView, Refusal> {
        self.ask(Request::Cluster).await
    }

    /// Snapshot of everything that is counted. The answer comes after a commit, so it also tells that the
    /// store works.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn snapshot(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Snapshot).await
    }

    /// Source of a replay: an experiment and the store that has its candidates.
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

    /// Tells an experiment its next generation, or once more one that it was told. Returns how many it was told.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if it was told something else under this number, [`Refusal::NotNow`] if another number is the
    /// next one, or nothing can be told.
    pub async fn tell(&self, id: String, number: u64, tell: Tell) -> Result<u64, Refusal> {
        self.ask(|reply| Request::Tell(id, number, tell, reply)).await
    }

    /// Prunes candidates of a tell, by their places. Returns those that are pruned; the others were measured or failed before.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such experiment, tell or place, or [`Refusal::Ambiguous`].
    pub async fn prune(&self, id: String, number: u64, places: Vec<u32>) -> Result<Vec<u32>, Refusal> {
        self.ask(|reply| Request::Prune(id, number, places, reply)).await
    }

    /// What has become of the candidates of a tell so far.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such experiment or tell, or [`Refusal::Ambiguous`].
    pub async fn told(&self, id: String, number: u64) -> Result<ToldView, Refusal> {
        self.ask(|reply| Request::Told(id, number, reply)).await
    }

    /// Opens jobs that are not made yet, and says what has become of all.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if one reads what another makes that was not asked for.
    pub async fn make(&self, request: MakeRequest) -> Result<Making, Refusal> {
        self.ask(|reply| Request::Make(request, reply)).await
    }

    /// The job of a lease, if that is in force and for a job.
    ///
    /// # Errors
    /// [`Refusal`] if the driver is busy or gone.
    pub async fn leased_job(&self, lease: LeaseId) -> Result<Option<Arc<AddressedJob>>, Refusal> {
        self.ask(|reply| Request::LeasedJob(lease, reply)).await
    }

    /// Asks the driver to end after the requests before this one. Blocks while the queue is full.
    pub fn stop(&self) {
        // A driver that is gone already has stopped.
        drop(self.sender.send(Request::Stop));
    }
}
