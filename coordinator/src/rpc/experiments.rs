//! The service that people call, through the `qslm` program.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::ENGINE_VERSION;
use qslm_common::demands::Demands;
use qslm_common::experiment::MAX_PRIORITY;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput, JobKey};
use qslm_common::task::MAX_SHARDS;
use qslm_proto::convert::{self, Invalid};
use qslm_proto::v1::experiments_server::Experiments;
use qslm_proto::v1::{
    BackupRequest, CandidatesResponse, ChangeRequest, ClusterRequest, ClusterResponse, CollectRequest,
    CollectResponse, DescribeResponse, ExperimentStatus, FetchArtifactRequest, FrontResponse, GetRequest,
    ListRequest, ListResponse, MakeRequest, MakeResponse, MissingArtifactsRequest, MissingArtifactsResponse,
    PruneRequest, PruneResponse, PutArtifactRequest, PutArtifactResponse, RetryRequest, SpaceResponse,
    SubmitRequest, TellRequest, TellResponse, ToldRequest, ToldResponse,
};
use qslm_search::list::MAX_LISTED;
use qslm_transport::gate::ClientName;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::backup::Backups;
use super::quotas::{ClientQuotas, Quotas};
use super::space::write_space;
use super::status::{write_event, write_job_under_way, write_making, write_status, write_worker};
use super::told::{self, read_tell};
use super::transfer::{ChunkStream, Upload, fetch};
use crate::driver::{self, Change, Handle, JobStatus, Submission};
use crate::replay::{Stopped, replay};
use crate::store::Artifacts;
use crate::until_done::Collected;

/// Submitting, watching and reading experiments.
pub struct ExperimentsService {
    driver: Handle,
    artifacts: Artifacts,
    quotas: ClientQuotas,
    backups: Backups,
    collected: Collected,
}

impl ExperimentsService {
    /// Serves what `driver` decides and stores into `artifacts`, no more for anybody than `quotas` say, and notes whose
    /// results are `collected`.
    pub fn new(driver: Handle, artifacts: Artifacts, quotas: Quotas, collected: Collected) -> Self {
        Self { driver, artifacts, quotas: ClientQuotas::new(quotas), backups: Backups::default(), collected }
    }

    /// Hashes of which there is no undamaged file. Files may have to be read for that.
    async fn missing(&self, hashes: Vec<ContentHash>) -> Result<Vec<ContentHash>, Status> {
        let artifacts = self.artifacts.clone();
        let look = move || hashes.into_iter().filter(|hash| !artifacts.has(hash)).collect();
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| Status::internal(format!("cannot look for artifacts: {error}")))
    }
}

#[tonic::async_trait]
impl Experiments for ExperimentsService {
    async fn missing_artifacts(
        &self,
        request: Request<MissingArtifactsRequest>,
    ) -> Result<Response<MissingArtifactsResponse>, Status> {
        let hashes = request.into_inner().hashes;
        let hashes: Vec<_> = hashes.iter().map(|h| convert::hash("hashes", h)).collect::<Result<_, _>>()?;
        let missing = self.missing(hashes).await?.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        Ok(Response::new(MissingArtifactsResponse { hashes: missing }))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        let _counts = self.quotas.upload(&client(&request))?;
        Upload::begin(request).await?.store(&self.artifacts, u64::MAX).await
    }

    type FetchArtifactStream = ChunkStream;

    async fn fetch_artifact(
        &self,
        request: Request<FetchArtifactRequest>,
    ) -> Result<Response<ChunkStream>, Status> {
        fetch(&self.artifacts, request).await
    }

    async fn make(&self, request: Request<MakeRequest>) -> Result<Response<MakeResponse>, Status> {
        let MakeRequest { jobs, retry } = request.into_inner();
        if !(1..=MAX_JOBS).contains(&jobs.len()) {
            let words = format!("{}: expected 1 to {MAX_JOBS}", jobs.len());
            return Err(Invalid::new("jobs", words).into());
        }
        let decode = |text: &String| Job::decode(text).map_err(|error| Invalid::new("jobs", error));
        let jobs: Vec<Job> = jobs.iter().map(decode).collect::<Result<_, _>>()?;
        if let Some(job) = jobs.iter().find(|job| job.engine_version != ENGINE_VERSION) {
            let given = job.engine_version;
            return Err(Status::failed_precondition(format!(
                "the job is for engine version {given}, the coordinator's is {ENGINE_VERSION}"
            )));
        }
        let named = jobs.iter().flat_map(|job| job.inputs.values());
        let inputs: BTreeSet<ContentHash> = named.filter_map(JobInput::artifact).collect();
        if let Some(hash) = self.missing(inputs.into_iter().collect()).await?.first() {
            return Err(Status::failed_precondition(format!("artifact {hash} has to be uploaded first")));
        }
        let mut request = driver::MakeRequest { jobs, lost: BTreeSet::new(), retry };
        let mut making = self.driver.make(request.clone()).await?;
        // What was made may be damaged or gone since: then it is made again.
        let made: BTreeMap<JobKey, ContentHash> = making.jobs.iter().filter_map(JobStatus::made).collect();
        let missing = self.missing(made.values().copied().collect()).await?;
        request.lost =
            made.into_iter().filter(|(_, hash)| missing.contains(hash)).map(|(key, _)| key).collect();
        if !request.lost.is_empty() {
            making = self.driver.make(request).await?;
        }
        Ok(Response::new(write_making(making)))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<ExperimentStatus>, Status> {
        let client = client(&request);
        let SubmitRequest { experiment, shards, priority, demands, origins } = request.into_inner();
        let experiment =
            qslm_search::decode(&experiment).map_err(|error| Invalid::new("experiment", error))?;
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(Invalid::new("shards", format!("{shards}: expected 1 to {MAX_SHARDS}")).into());
        }
        if let Some(hash) = self.missing(experiment.artifacts().into_iter().collect()).await?.first() {
            return Err(Status::failed_precondition(format!("artifact {hash} has to be uploaded first")));
        }
        let priority = check_priority(priority)?;
        let demands = demands.map(Demands::try_from).transpose()?;
        let origins = convert::origins(origins)?;
        let id = experiment.id();
        if self.quotas.is_full(&client, &id) {
            let all = self.driver.list().await?.into_iter();
            let ended = |status: &driver::ExperimentStatus| status.state.has_ended();
            self.quotas.forget(&all.filter(ended).map(|status| status.id).collect());
        }
        self.quotas.submit(&client, &id)?;
        let submission = Submission { experiment, shards, priority, demands, origins };
        let status = self.driver.submit(submission).await?;
        asked(&client, &status.id, "submits it");
        Ok(Response::new(write_status(status)))
    }

    async fn list(&self, _request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse {
            experiments: self.driver.list().await?.into_iter().map(write_status).collect(),
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<ExperimentStatus>, Status> {
        Ok(Response::new(write_status(self.driver.get(request.into_inner().experiment).await?)))
    }

    type WatchStream = ReceiverStream<Result<ExperimentStatus, Status>>;

    async fn watch(&self, request: Request<GetRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let status = self.driver.watch(request.into_inner().experiment).await?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(self.driver.clone(), status, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn front(&self, request: Request<GetRequest>) -> Result<Response<FrontResponse>, Status> {
        let json = self.driver.front(request.into_inner().experiment).await?;
        Ok(Response::new(FrontResponse { json }))
    }

    async fn describe(&self, request: Request<GetRequest>) -> Result<Response<DescribeResponse>, Status> {
        let report = self.driver.describe(request.into_inner().experiment).await?;
        let json = serde_json::to_string(&report)
            .map_err(|error| Status::internal(format!("the report cannot be written: {error}")))?;
        Ok(Response::new(DescribeResponse { json }))
    }

    type CandidatesStream = ReceiverStream<Result<CandidatesResponse, Status>>;

    async fn candidates(
        &self,
        request: Request<GetRequest>,
    ) -> Result<Response<Self::CandidatesStream>, Status> {
        let source = self.driver.source(request.into_inner().experiment).await?;
        // A slow reader holds up its own stream only.
        let (sender, receiver) = mpsc::channel(2);
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let out = sender.clone();
            let send = move |candidates| out.blocking_send(Ok(CandidatesResponse { candidates })).is_ok();
            let refusal = match tokio::task::spawn_blocking(move || replay(&source, send)).await {
                Ok(Ok(()) | Err(Stopped::Enough)) => return,
                Ok(Err(Stopped::Stopping)) => driver.ended().await.into(),
                Ok(Err(error @ (Stopped::Store(_) | Stopped::Artifact(_) | Stopped::Strategy(_)))) => {
                    Status::internal(error.to_string())
                }
                // What was sent so far would pass for all there is.
                Err(error) => Status::internal(format!("the candidates cannot be read: {error}")),
            };
            drop(sender.send(Err(refusal)).await);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cluster(&self, _request: Request<ClusterRequest>) -> Result<Response<ClusterResponse>, Status> {
        let cluster = self.driver.cluster().await?;
        Ok(Response::new(ClusterResponse {
            workers: cluster.workers.into_iter().map(write_worker).collect(),
            events: cluster.events.into_iter().map(write_event).collect(),
            jobs: cluster.jobs.into_iter().map(write_job_under_way).collect(),
        }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ExperimentStatus>, Status> {
        let client = client(&request);
        let ChangeRequest { experiment, cancelled, paused, priority } = request.into_inner();
        let change = Change { cancelled, paused, priority: check_priority(priority)?, ..Change::default() };
        let what = words_of(&change);
        let status = self.driver.change(experiment, change).await?;
        asked(&client, &status.id, &what);
        Ok(Response::new(write_status(status)))
    }

    async fn retry(&self, request: Request<RetryRequest>) -> Result<Response<ExperimentStatus>, Status> {
        let client = client(&request);
        let RetryRequest { experiment, trials } = request.into_inner();
        if trials.len() > MAX_TRIALS {
            return Err(Invalid::new("trials", format!("{}: {MAX_TRIALS} at most", trials.len())).into());
        }
        let status = self.driver.retry(experiment, trials).await?;
        asked(&client, &status.id, "opens failed trials again");
        Ok(Response::new(write_status(status)))
    }

    async fn space(&self, request: Request<GetRequest>) -> Result<Response<SpaceResponse>, Status> {
        let source = self.driver.source(request.into_inner().experiment).await?;
        Ok(Response::new(write_space(&source.record.experiment)))
    }

    async fn tell(&self, request: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        let client = client(&request);
        let TellRequest { experiment, number, candidates, last } = request.into_inner();
        let source = self.driver.source(experiment).await?;
        let id = source.record.experiment.id();
        let tell = read_tell(source, candidates, last).await?;
        asked(&client, &id, &format!("tells generation {number}"));
        Ok(Response::new(TellResponse { told: self.driver.tell(id, number, tell).await? }))
    }

    type ToldStream = ReceiverStream<Result<ToldResponse, Status>>;

    async fn told(&self, request: Request<ToldRequest>) -> Result<Response<Self::ToldStream>, Status> {
        let ToldRequest { experiment, number } = request.into_inner();
        let source = self.driver.source(experiment).await?;
        let (sender, receiver) = mpsc::channel(2);
        let told = told::Follow::begin(self.driver.clone(), source, number, sender).await?;
        tokio::spawn(told.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<PruneResponse>, Status> {
        let client = client(&request);
        let PruneRequest { experiment, number, places } = request.into_inner();
        if places.len() > MAX_LISTED {
            return Err(Invalid::new("places", format!("{}: {MAX_LISTED} at most", places.len())).into());
        }
        asked(&client, &experiment, &format!("prunes of generation {number}"));
        Ok(Response::new(PruneResponse { pruned: self.driver.prune(experiment, number, places).await? }))
    }

    type BackupStream = ChunkStream;

    async fn backup(&self, _request: Request<BackupRequest>) -> Result<Response<ChunkStream>, Status> {
        self.backups.send(&self.driver).await
    }

    async fn collect(&self, request: Request<CollectRequest>) -> Result<Response<CollectResponse>, Status> {
        let status = self.driver.get(request.into_inner().experiment).await?;
        if !status.state.has_ended() {
            let words = format!("{}: is {}; there is nothing to collect yet", status.id, status.state.name());
            return Err(Status::failed_precondition(words));
        }
        self.collected.note(status.id);
        Ok(Response::new(CollectResponse {}))
    }
}

/// Jobs that one request may ask for.
const MAX_JOBS: usize = 4096;

/// Failed trials that one request may name.
const MAX_TRIALS: usize = 10_000;

/// Passes on every change until the experiment has ended or nobody listens. A slow listener misses
/// intermediate states, never the last one.
async fn follow(
    driver: Handle,
    mut status: watch::Receiver<Option<driver::ExperimentStatus>>,
    sender: mpsc::Sender<Result<ExperimentStatus, Status>>,
) {
    loop {
        let now = status.borrow_and_update().clone();
        // There is one before anybody can ask.
        if let Some(now) = now {
            let ended = now.state.has_ended();
            if sender.send(Ok(write_status(now))).await.is_err() || ended {
                return;
            }
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() {
                let _ = sender.send(Err(driver.ended().await.into())).await;
                return;
            },
            () = sender.closed() => return,
        }
    }
}

/// Logs what a client asked for of an experiment, and who it is.
fn asked(client: &ClientName, experiment: &str, what: &str) {
    tracing::info!(client = client.0, experiment, "{what}");
}

/// Words for a change that a person asks for.
fn words_of(change: &Change) -> String {
    let cancelled = change.cancelled.map(|cancelled| if cancelled { "cancels it" } else { "resumes it" });
    let paused = change.paused.map(|paused| if paused { "pauses it" } else { "resumes it" });
    let state = cancelled.or(paused).map(str::to_owned);
    let priority = change.priority.map(|priority| format!("gives it priority {priority}"));
    state.into_iter().chain(priority).collect::<Vec<_>>().join(", ")
}

/// Caller. Whatever serves without a gate has one caller.
fn client<T>(request: &Request<T>) -> ClientName {
    request.extensions().get().cloned().unwrap_or_else(|| ClientName("somebody".to_owned()))
}

fn check_priority(priority: Option<i32>) -> Result<Option<i32>, Invalid> {
    match priority {
        Some(wrong) if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&wrong) => {
            Err(Invalid::new("priority", format!("{wrong}: expected -{MAX_PRIORITY} to {MAX_PRIORITY}")))
        }
        fine => Ok(fine),
    }
}
