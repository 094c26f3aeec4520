//! The service that workers call.

use std::sync::{Arc, Mutex, PoisonError};

use qslm_common::ENGINE_VERSION;
use qslm_common::evidence::LONGEST_ENGINE;
use qslm_common::job::{AddressedJob, JobKey};
use qslm_common::work::WorkKey;
use qslm_proto::PROTOCOL;
use qslm_proto::convert::{self, Invalid};
use qslm_proto::v1::shard_failure::Kind;
use qslm_proto::v1::work_server::Work;
use qslm_proto::v1::{
    FetchArtifactRequest, FetchCheckpointRequest, Job, Lease, PutArtifactRequest, PutArtifactResponse,
    ReportRequest, ReportResponse, ShardFailure, ShardReport, shard_report,
};
use qslm_transport::traces::TraceContext;
use tonic::{Request, Response, Status, Streaming};

use super::transfer::{ChunkStream, Upload, fetch, send};
use crate::crash::{CrashPlan, CrashPoint};
use crate::driver::{Fault, Finished, Handle, ReportAnswer, ShardOutcome, WorkerReport};
use crate::ledger::{Grant, LeaseId};
use crate::store::Artifacts;

/// Leases that one report may ask for.
const MAX_SLOTS: u32 = 1024;
/// Longest wait of a report for work (long polling).
const MAX_WAIT_MS: u32 = 30_000;
/// Characters of a worker's name.
const MAX_NAME: usize = 128;
/// Characters of a failure's reason that are kept.
const MAX_REASON: usize = 500;

/// Leases, results and artifacts for workers.
pub struct WorkService {
    driver: Handle,
    artifacts: Artifacts,
    /// True if traces are sent to a collector.
    traced: bool,
    /// Crash plan, for tests. Calls run side by side.
    crash_at: Mutex<CrashPlan>,
}

impl WorkService {
    /// Serves what `driver` decides and `artifacts` holds. Leases name their context in a trace if trials are `traced`. Dies
    /// where `crash_at` says.
    pub fn new(driver: Handle, artifacts: Artifacts, traced: bool, crash_at: CrashPlan) -> Self {
        Self { driver, artifacts, traced, crash_at: Mutex::new(crash_at) }
    }
}

#[tonic::async_trait]
impl Work for WorkService {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let mut report = read_report(request.into_inner())?;
        self.refuse_what_is_not_there(&mut report).await?;
        let is_done = |finished: &Finished| match (&finished.outcome, finished.work) {
            (ShardOutcome::Artifact(_), WorkKey::Job(job)) => Some(job),
            _ => None,
        };
        let done: Vec<JobKey> = report.finished.iter().filter_map(is_done).collect();
        let answer = self.driver.report(report).await?;
        if !done.is_empty() {
            let checkpoints = self.artifacts.checkpoints();
            tokio::task::block_in_place(|| done.iter().for_each(|job| checkpoints.remove(job)));
        }
        Ok(Response::new(ReportResponse {
            leases: answer.leases.iter().map(|grant| self.write_lease(grant, &answer)).collect(),
            dropped: answer.dropped.iter().map(|lease| lease.0).collect(),
            ttl_ms: u32::try_from(answer.ttl.as_millis()).unwrap_or(u32::MAX),
            done: answer.done,
            set_aside: answer.set_aside.unwrap_or_default(),
        }))
    }

    type FetchArtifactStream = ChunkStream;

    async fn fetch_artifact(
        &self,
        request: Request<FetchArtifactRequest>,
    ) -> Result<Response<ChunkStream>, Status> {
        fetch(&self.artifacts, request).await
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        let upload = Upload::begin(request).await?;
        let job = self.leased_job(upload.first.lease).await?;
        let stored = upload.store(&self.artifacts, job.job.largest).await?;
        self.crash_at.lock().unwrap_or_else(PoisonError::into_inner).pass(CrashPoint::ArtifactStored);
        Ok(stored)
    }

    async fn put_checkpoint(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        let upload = Upload::begin(request).await?;
        let job = self.leased_job(upload.first.lease).await?;
        upload.store_checkpoint(self.artifacts.checkpoints(), &job.key, job.job.largest_checkpoint()).await
    }

    type FetchCheckpointStream = ChunkStream;

    async fn fetch_checkpoint(
        &self,
        request: Request<FetchCheckpointRequest>,
    ) -> Result<Response<ChunkStream>, Status> {
        let job = self.leased_job(request.into_inner().lease).await?;
        let checkpoints = self.artifacts.checkpoints().clone();
        let opened = tokio::task::spawn_blocking(move || checkpoints.open(&job.key)).await;
        match opened.map_err(|error| Status::internal(error.to_string()))? {
            Ok(file) => Ok(send(file)),
            Err(error) => Err(Status::not_found(format!("checkpoint: {error}"))),
        }
    }
}

impl WorkService {
    /// The job of a lease; refuses one that has ended, or is for a trial.
    async fn leased_job(&self, lease: u64) -> Result<Arc<AddressedJob>, Status> {
        let job = self.driver.leased_job(LeaseId(lease)).await?;
        job.ok_or_else(|| {
            Status::failed_precondition(format!("lease {lease} is not in force, or not for a job"))
        })
    }

    fn write_lease(&self, grant: &Grant, answer: &ReportAnswer) -> Lease {
        let key = grant.work.key();
        let context = self.traced.then(|| TraceContext::of_lease(key.as_bytes(), grant.lease.0));
        let inputs = || answer.inputs.get(&grant.lease).into_iter().flatten();
        let bytes = || inputs().map(|(name, hash)| (name.clone(), hash.as_bytes().to_vec())).collect();
        Lease {
            id: grant.lease.0,
            trial: grant.work.trial().map(|trial| (&trial.trial).into()),
            index: grant.shard.index,
            of: grant.shard.of,
            traceparent: context.map_or(String::new(), |context| context.to_traceparent()),
            experiment: answer.experiments.get(&grant.owner).cloned().unwrap_or_default(),
            job: grant.work.job().map(|job| Job {
                text: job.job.encode(),
                inputs: bytes(),
                checkpoint: self.artifacts.checkpoints().has(&job.key),
            }),
        }
    }

    /// Turns reports of artifacts that were not put into failures of the machine. A job settles once its artifact is on
    /// disk here.
    async fn refuse_what_is_not_there(&self, report: &mut WorkerReport) -> Result<(), Status> {
        for finished in &mut report.finished {
            let ShardOutcome::Artifact(hash) = finished.outcome else { continue };
            let artifacts = self.artifacts.clone();
            // It may have to be read as a whole first.
            let there = tokio::task::spawn_blocking(move || artifacts.has(&hash)).await;
            if !there.map_err(|error| Status::internal(format!("artifact {hash}: {error}")))? {
                let reason = format!("artifact {hash} was reported and is not there");
                finished.outcome = ShardOutcome::Failure { reason, fault: Fault::Machine };
            }
        }
        Ok(())
    }
}

fn read_report(request: ReportRequest) -> Result<WorkerReport, Status> {
    if request.protocol != PROTOCOL {
        // Before there were versions, the field was not there.
        let given = request.protocol.max(1);
        return Err(Status::failed_precondition(format!(
            "the worker speaks protocol {given}, the coordinator {PROTOCOL}: upgrade the older one"
        )));
    }
    if request.engine_version != ENGINE_VERSION {
        let given = request.engine_version;
        return Err(Status::failed_precondition(format!(
            "the worker's engine is version {given}, the coordinator's is {ENGINE_VERSION}: their numbers may differ"
        )));
    }
    if !(1..=MAX_NAME).contains(&request.worker.chars().count()) {
        return Err(Invalid::new("worker", format!("a name has 1 to {MAX_NAME} characters")).into());
    }
    for (field, leases) in [("free_slots", request.free_slots), ("prefetch", request.prefetch)] {
        if leases > MAX_SLOTS {
            return Err(Invalid::new(field, format!("{leases}: expected 0 to {MAX_SLOTS}")).into());
        }
    }
    let finished = request.finished.into_iter().map(read_finished).collect::<Result<_, _>>()?;
    Ok(WorkerReport {
        worker: request.worker,
        finished,
        held: request.holding.into_iter().map(LeaseId).collect(),
        slots: request.free_slots,
        prefetch: request.prefetch,
        wait_ms: request.wait_ms.min(MAX_WAIT_MS),
        experiment: Some(request.experiment).filter(|id| !id.is_empty()),
        capabilities: Arc::new(request.capabilities.unwrap_or_default().try_into()?),
        session: request.session,
        progress: request.progress.iter().map(|said| (LeaseId(said.lease), said.done, said.of)).collect(),
    })
}

fn read_finished(report: ShardReport) -> Result<Finished, Invalid> {
    let outcome = match report.outcome {
        Some(shard_report::Outcome::Counts(counts)) => {
            let (counts, spread) = convert::read_counts(counts);
            ShardOutcome::Counts(counts, spread)
        }
        Some(shard_report::Outcome::Failure(failure)) => ShardOutcome::Failure {
            fault: read_fault(&failure),
            reason: one_line(&failure.reason, MAX_REASON),
        },
        Some(shard_report::Outcome::Artifact(hash)) => {
            ShardOutcome::Artifact(convert::hash("finished.artifact", &hash)?)
        }
        None => return Err(Invalid::new("finished.outcome", "neither counts, artifact nor failure")),
    };
    let work = match &report.job[..] {
        [] => WorkKey::Trial(convert::hash("finished.trial", &report.trial)?.into()),
        job => WorkKey::Job(convert::hash("finished.job", job)?.into()),
    };
    Ok(Finished {
        lease: LeaseId(report.lease),
        work,
        shard: convert::shard(report.index, report.of)?,
        engine: one_line(&report.engine, LONGEST_ENGINE),
        outcome,
    })
}

fn read_fault(failure: &ShardFailure) -> Fault {
    match failure.kind() {
        Kind::Evaluation => Fault::Evaluation,
        Kind::Machine => Fault::Machine,
        Kind::Interrupted => Fault::Nobody,
        // Workers that know no kinds call all but faults of the evaluation retryable.
        Kind::Unspecified if failure.retryable => Fault::Machine,
        Kind::Unspecified => Fault::Evaluation,
    }
}

/// Text that a peer wrote, on one line and cut to `most` characters.
fn one_line(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
