//! `qslm bench jobs`: jobs that cost nothing, and artifacts up and down, through the real path: gRPC on loopback, a
//! durable store on disk.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, Job};
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{
    Capabilities, Lease, MakeRequest, PutArtifactRequest, ReportRequest, ShardReport, shard_report,
};
use qslm_transport::{Connector, Link};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Code;

use super::coordinator::{channel, request};
use super::{StoreFolder, check, check_workers, quantile, show, transfer};
use crate::client::{Client, Embedded};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::peak_memory_bytes;

/// Kind of the jobs, which no engine knows.
const KIND: &str = "bench";
/// Mebibytes of the largest artifact that a coordinator takes.
const LARGEST_MIB: u32 = 16 << 10;
/// Jobs that one request asks for.
const AT_ONCE: usize = 1000;
/// Time between two reports of a worker that sends something large. Shorter than a lease.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Time after which a call that is not answered has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measure jobs: how fast artifacts travel, and jobs per second, with jobs that cost nothing
///
/// Peak memory is that of the whole process, coordinator and workers, from its start. It never falls: what a larger
/// artifact adds to it is what memory grows by.
#[derive(Debug, Args)]
pub struct JobsBench {
    /// Sizes of artifacts that go up and down in MiB, the smallest first; each takes twice that on the disk
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [16, 256])]
    artifact_mib: Vec<u32>,
    /// Numbers of worker connections, one measurement of jobs each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    workers: Vec<u32>,
    /// Jobs per measurement
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    jobs: u32,
    /// Bytes of the artifact that each of them makes
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=262_144)
    )]
    job_bytes: u32,
    /// Jobs that a worker has in hand
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    slots: u32,
    #[command(flatten)]
    place: StoreFolder,
}

/// Printed row; its keys are part of the interface. Times are in milliseconds but for `seconds`.
// A document: one field for each figure.
#[derive(Default, Serialize)]
struct JobsRow {
    /// `artifact up` (from a worker to the coordinator's disk), `artifact down` (back, hashed) or `jobs`.
    what: &'static str,
    workers: u32,
    jobs: u64,
    /// Bytes of the artifact, of each one if there are many.
    artifact_bytes: u64,
    seconds: f64,
    /// Mebibytes of an artifact that travels alone, per second.
    mib_per_second: Option<f64>,
    /// Jobs whose artifacts are on disk and on record, per second.
    jobs_per_second: Option<f64>,
    /// Time from asking for all of the jobs to the answer.
    asked: Option<f64>,
    /// Time from sending an artifact to hearing that it is on disk.
    put_p50: Option<f64>,
    put_p99: Option<f64>,
    /// Time from reporting artifacts to hearing that they are on record.
    acknowledged_p50: Option<f64>,
    acknowledged_p99: Option<f64>,
    /// Peak memory of this process so far.
    peak_memory_mib: f64,
}

impl JobsBench {
    pub(super) async fn run(self) -> Outcome {
        for workers in &self.workers {
            check_workers(*workers, 256)?;
        }
        for mebibytes in &self.artifact_mib {
            check("--artifact-mib", *mebibytes, LARGEST_MIB)?;
        }
        let mut rows = Vec::new();
        // The smallest first, and before any other work, which would hide what they add to the peak.
        for mebibytes in self.artifact_mib.iter().copied().collect::<BTreeSet<u32>>() {
            rows.extend(self.transfer(mebibytes).await?);
        }
        for workers in &self.workers {
            rows.push(self.measure(*workers).await?);
        }
        let columns = [
            "what",
            "workers",
            "jobs",
            "artifact_bytes",
            "seconds",
            "mib_per_second",
            "jobs_per_second",
            "asked",
            "put_p50",
            "put_p99",
            "acknowledged_p50",
            "acknowledged_p99",
            "peak_memory_mib",
        ];
        show(&rows, &columns, self.place.output)
    }

    /// Sends one artifact up and down.
    async fn transfer(&self, mebibytes: u32) -> Outcome<[JobsRow; 2]> {
        let folder = self.place.folder()?;
        let path = folder.path().join("artifact");
        let hash = tokio::task::block_in_place(|| transfer::make_file(&path, mebibytes))?;
        let embedded = Embedded::start(&folder.path().join("bench.redb")).await?;
        let measured = up_and_down(&embedded, &path, hash, mebibytes).await;
        embedded.stop_after(measured).await
    }

    /// Many jobs, by so many workers.
    async fn measure(&self, workers: u32) -> Outcome<JobsRow> {
        let folder = self.place.folder()?;
        // Both ends of every connection are here, and a file for every artifact on its way.
        qslm_program::limits::ensure_files(32 + (workers * (2 + self.slots)) as usize)?;
        let embedded = Embedded::start(&folder.path().join("bench.redb")).await?;
        let measured = self.load(workers, &embedded).await;
        embedded.stop_after(measured).await
    }

    async fn load(&self, workers: u32, embedded: &Embedded) -> Outcome<JobsRow> {
        let job = |number| Job::new(KIND, self.job_bytes.into()).parameter("number", number).into();
        let jobs: Vec<AddressedJob> = (0..self.jobs).map(job).collect();
        let mut client = embedded.connect().await?;
        let started = Instant::now();
        ask(&mut client, &jobs).await?;
        let asked = started.elapsed().as_secs_f64() * 1e3;

        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(work(embedded.connector()?, format!("bench-{worker}"), self.slots));
        }
        let mut all = Seen::default();
        while let Some(seen) = tasks.join_next().await {
            let seen = seen.map_err(anyhow::Error::from)??;
            all.puts.extend(seen.puts);
            all.acknowledged.extend(seen.acknowledged);
            all.last = all.last.max(seen.last);
        }
        verify(&mut client, &jobs, |job| ContentHash::of(&content(job))).await?;
        all.puts.sort_by(f64::total_cmp);
        all.acknowledged.sort_by(f64::total_cmp);
        let seconds = all.last.map_or(0.0, |last| (last - started).as_secs_f64());
        Ok(JobsRow {
            what: "jobs",
            workers,
            jobs: self.jobs.into(),
            artifact_bytes: self.job_bytes.into(),
            seconds,
            jobs_per_second: Some(f64::from(self.jobs) / seconds),
            asked: Some(asked),
            put_p50: Some(quantile(&all.puts, 0.5)),
            put_p99: Some(quantile(&all.puts, 0.99)),
            acknowledged_p50: Some(quantile(&all.acknowledged, 0.5)),
            acknowledged_p99: Some(quantile(&all.acknowledged, 0.99)),
            ..JobsRow::at_peak()
        })
    }
}

impl JobsRow {
    /// A row that says nothing yet but how much memory was taken so far.
    fn at_peak() -> Self {
        let peak_memory_mib = peak_memory_bytes().unwrap_or(0) as f64 / f64::from(1 << 20);
        Self { peak_memory_mib, ..Self::default() }
    }
}

/// Puts the artifact of a job as its worker, and fetches it.
async fn up_and_down(
    embedded: &Embedded,
    path: &Path,
    hash: ContentHash,
    mebibytes: u32,
) -> Outcome<[JobsRow; 2]> {
    let bytes = u64::from(mebibytes) << 20;
    let row = |what: &'static str, started: Instant| {
        let seconds = started.elapsed().as_secs_f64();
        JobsRow {
            what,
            workers: 1,
            jobs: 1,
            artifact_bytes: bytes,
            seconds,
            mib_per_second: Some(f64::from(mebibytes) / seconds),
            ..JobsRow::at_peak()
        }
    };
    let mut client = embedded.connect().await?;
    let job = [AddressedJob::from(Job::new(KIND, bytes))];
    ask(&mut client, &job).await?;
    let mut worker = channel(&embedded.connector()?).await?;
    let leases = worker.report(report("bench", vec![], vec![], 1)).await?.into_inner().leases;
    let lease = leases.first().ok_or_else(|| Failure::new(Exit::Failure, "no lease of a job"))?;
    let started = Instant::now();
    let sending = transfer::put(worker.clone(), lease.id, hash, path);
    tokio::pin!(sending);
    loop {
        tokio::select! {
            sent = &mut sending => break sent?,
            () = tokio::time::sleep(HEARTBEAT) => {
                worker.report(report("bench", vec![], vec![lease.id], 0)).await?;
            }
        }
    }
    let up = row("artifact up", started);
    worker.report(report("bench", vec![made(lease, &job[0], hash)], vec![], 0)).await?;
    verify(&mut client, &job, |_| hash).await?;
    let started = Instant::now();
    transfer::fetch(worker, hash).await?;
    Ok([up, row("artifact down", started)])
}

/// Asks for jobs. Returns the hashes of the artifacts of those that are made.
async fn ask(client: &mut Client, jobs: &[AddressedJob]) -> Outcome<Vec<Vec<u8>>> {
    let mut artifacts = Vec::new();
    for some in jobs.chunks(AT_ONCE) {
        let texts = some.iter().map(|job| job.job.encode()).collect();
        let answer = client.make(MakeRequest { jobs: texts, retry: false }).await?.into_inner();
        artifacts.extend(answer.jobs.into_iter().map(|status| status.artifact));
    }
    Ok(artifacts)
}

/// Fails unless every job made what it was to make.
async fn verify(
    client: &mut Client,
    jobs: &[AddressedJob],
    wanted: impl Fn(&AddressedJob) -> ContentHash,
) -> Outcome {
    let artifacts = ask(client, jobs).await?;
    let right =
        jobs.iter().zip(&artifacts).filter(|(job, artifact)| artifact[..] == wanted(job).as_bytes()[..]);
    match right.count() {
        all if all == jobs.len() => Ok(()),
        made => Err(Failure::new(Exit::Failure, format!("{made} of {} jobs were made", jobs.len()))),
    }
}

/// A report of a worker that is able to do the jobs.
fn report(worker: &str, finished: Vec<ShardReport>, holding: Vec<u64>, free_slots: u32) -> ReportRequest {
    let report = request(worker, finished, holding, free_slots);
    let able = Capabilities { jobs: vec![KIND.to_owned()], ..report.capabilities.unwrap_or_default() };
    ReportRequest { capabilities: Some(able), ..report }
}

/// What a worker reports of a lease whose artifact is put.
fn made(lease: &Lease, job: &AddressedJob, hash: ContentHash) -> ShardReport {
    ShardReport {
        lease: lease.id,
        index: lease.index,
        of: lease.of,
        outcome: Some(shard_report::Outcome::Artifact(hash.as_bytes().to_vec())),
        job: job.key.as_bytes().to_vec(),
        ..ShardReport::default()
    }
}

/// Artifact of a small job: another one for each.
fn content(job: &AddressedJob) -> Vec<u8> {
    let key = job.key.as_bytes().iter().copied();
    key.cycle().take(usize::try_from(job.job.largest).unwrap_or(usize::MAX)).collect()
}

/// Observations of one worker, or of all together.
#[derive(Default)]
struct Seen {
    /// Milliseconds of each artifact, and of each report that carried results.
    puts: Vec<f64>,
    acknowledged: Vec<f64>,
    /// When the last result was on record.
    last: Option<Instant>,
}

/// A worker to whom jobs cost nothing: puts and reports until there is no more work.
async fn work(connector: Connector, name: String, slots: u32) -> Outcome<Seen> {
    let mut client = channel(&connector).await?;
    let (mut seen, mut finished) = (Seen::default(), Vec::new());
    // Artifacts on their way, with the lease of each.
    let (mut puts, mut in_hand) = (JoinSet::new(), HashMap::new());
    loop {
        let carries = !finished.is_empty();
        let free = slots.saturating_sub(in_hand.len() as u32);
        let holding = in_hand.values().copied().collect();
        let started = Instant::now();
        let call = client.report(report(&name, std::mem::take(&mut finished), holding, free));
        let answer = tokio::time::timeout(PATIENCE, call).await.map_err(anyhow::Error::from)??;
        if carries {
            seen.acknowledged.push(started.elapsed().as_secs_f64() * 1e3);
            seen.last = Some(Instant::now());
        }
        for lease in answer.into_inner().leases {
            let id = lease.id;
            in_hand.insert(puts.spawn(do_job(client.clone(), lease)).id(), id);
        }
        if puts.is_empty() && !carries {
            return Ok(seen);
        }
        // As soon as anything is done, with all that is done by then.
        while finished.is_empty()
            && let Some(first) = puts.join_next_with_id().await
        {
            let mut next = Some(first);
            while let Some(done) = next {
                let (task, done) = done.map_err(anyhow::Error::from)?;
                in_hand.remove(&task);
                if let Some((milliseconds, report)) = done? {
                    seen.puts.push(milliseconds);
                    finished.push(report);
                }
                next = puts.try_join_next_with_id();
            }
        }
    }
}

/// Does the job of a lease and puts what it made. Returns how many milliseconds that took, and the report; nothing if
/// another worker was faster, which gets a job that is out for long, too.
async fn do_job(mut client: WorkClient<Link>, lease: Lease) -> Outcome<Option<(f64, ShardReport)>> {
    let text = lease.job.as_ref().map(|job| job.text.as_str()).unwrap_or_default();
    let job = AddressedJob::from(Job::decode(text).map_err(anyhow::Error::from)?);
    let data = content(&job);
    let hash = ContentHash::of(&data);
    let message = PutArtifactRequest { hash: hash.as_bytes().to_vec(), data, lease: lease.id };
    let started = Instant::now();
    let call = client.put_artifact(tokio_stream::once(message));
    match tokio::time::timeout(PATIENCE, call).await.map_err(anyhow::Error::from)? {
        Err(status) if status.code() == Code::FailedPrecondition => Ok(None),
        Err(status) => Err(status.into()),
        Ok(_) => Ok(Some((started.elapsed().as_secs_f64() * 1e3, made(&lease, &job, hash)))),
    }
}
