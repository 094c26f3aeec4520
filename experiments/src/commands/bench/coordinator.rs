//! `qslm bench coordinator`: trials that cost nothing, through the real path: gRPC on loopback, a durable store on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use qslm_common::ENGINE_VERSION;
use qslm_common::demands::Demands;
use qslm_common::hash::ContentHash;
use qslm_common::space::Tier;
use qslm_common::task::Shard;
use qslm_common::trial::Trial;
use qslm_proto::PROTOCOL;
use qslm_proto::convert;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{ExperimentStatus, GetRequest, Lease, ReportRequest, ShardReport, shard_report};
use qslm_search::Random;
use qslm_transport::{Connector, Link};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{StoreFolder, check_workers, quantile, show, workload};
use crate::client::{Embedded, submit};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::output::peak_memory_bytes;
use crate::spec::Resolved;

/// Leases taken one by one for the idle latency.
const IDLE_LEASES: usize = 500;

/// Measure the coordinator: completions per second and latencies, with evaluations that cost nothing
#[derive(Debug, Args)]
pub struct CoordinatorBench {
    /// Numbers of worker connections, one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    workers: Vec<u32>,
    /// Trials per measurement, each of one shard
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    trials: u32,
    /// Evaluations that a worker has in hand
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Leave the store of the last measurement here, to look at something large
    #[arg(long, value_name = "STORE")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    place: StoreFolder,
}

/// Printed row; its keys are part of the interface. Times are in milliseconds.
// A document: one field for each figure.
#[derive(Serialize)]
struct Throughput {
    workers: u32,
    trials: u64,
    /// Results on disk and acknowledged, per second.
    completions_per_second: f64,
    /// Microseconds per result when 1,000 are on record, and at the end, each over the next or last 10,000; the ratio of
    /// the second to the first. Absent for fewer than 22,000 trials.
    early_micros: Option<f64>,
    late_micros: Option<f64>,
    late_to_early: Option<f64>,
    /// Time from sending results to hearing that they are safe.
    acknowledged_p50: f64,
    acknowledged_p99: f64,
    /// Time from asking for a lease to having it, one at a time on an idle system.
    lease_p50: f64,
    lease_p99: f64,
    /// Time from submitting to the answer.
    submit: f64,
    /// Results in a transaction (group commit), on average, and milliseconds that one takes.
    batch: f64,
    commit: f64,
    /// Time from starting a coordinator on the store, with all but one of the results, to the first lease.
    restart: f64,
    peak_memory_mib: f64,
}

/// Times of a run in which workers went through all trials.
struct Loaded {
    status: ExperimentStatus,
    submitted: Duration,
    /// Milliseconds of each lease of an idle system, and of each acknowledgement.
    idle: Vec<f64>,
    latencies: Vec<f64>,
    seconds: f64,
    /// Seconds until each result was acknowledged.
    times: Vec<f64>,
}

impl CoordinatorBench {
    pub(super) async fn run(self) -> Outcome {
        let mut rows = Vec::new();
        for workers in &self.workers {
            check_workers(*workers, 256)?;
            rows.push(self.measure(*workers).await?);
        }
        let columns = [
            "workers",
            "trials",
            "completions_per_second",
            "late_to_early",
            "acknowledged_p50",
            "acknowledged_p99",
            "lease_p50",
            "lease_p99",
            "submit",
            "batch",
            "commit",
            "restart",
            "peak_memory_mib",
        ];
        show(&rows, &columns, self.place.output)
    }

    /// Submits, and lets so many workers go through it.
    async fn load(&self, workers: u32, embedded: &Embedded, resolved: &Resolved) -> Outcome<Loaded> {
        let mut client = embedded.connect().await?;
        let started = Instant::now();
        let id = submit(&mut client, resolved, None).await?.id;
        let submitted = started.elapsed();
        let idle = idle_leases(&embedded.connector()?).await?;

        let started = Instant::now();
        let progress = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let progress = progress.clone();
            tasks.spawn(work(embedded.connector()?, format!("bench-{worker}"), self.slots, progress));
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            latencies.extend(done.map_err(anyhow::Error::from)??);
        }
        let seconds = started.elapsed().as_secs_f64();
        let status = client.get(GetRequest { experiment: id }).await?.into_inner();
        let times = times_of(&progress.lock().unwrap_or_else(PoisonError::into_inner), started);
        Ok(Loaded { status, submitted, idle, latencies, seconds, times })
    }

    async fn measure(&self, workers: u32) -> Outcome<Throughput> {
        let folder = self.place.folder()?;
        let store = folder.path().join("bench.redb");
        // Both ends of every connection are here.
        qslm_program::limits::ensure_files(32 + 2 * workers as usize)?;
        let embedded = Embedded::start(&store).await?;
        let resolved = experiment(folder.path(), self.trials)?;
        let measured = self.load(workers, &embedded, &resolved).await;
        let commits = embedded.commits();
        let Loaded { status, submitted, mut idle, mut latencies, seconds, times } =
            embedded.stop_after(measured).await?;
        if status.state() != State::Finished || status.measured != u64::from(self.trials) + 1 {
            let (measured, trials) = (status.measured, self.trials + 1);
            return Err(Failure::new(Exit::Failure, format!("{measured} of {trials} trials were recorded")));
        }
        if let Some(keep) = &self.keep {
            let place = crate::place::OutputPlace::vacant(keep, crate::place::Made::Store, &[], false)?;
            let file = place.start()?;
            std::fs::copy(&store, file.path()).map_err(|error| Failure::file(keep, &error))?;
            file.finish()?;
        }
        let restart = restart(&store, &resolved, self.trials).await?;
        latencies.sort_by(f64::total_cmp);
        idle.sort_by(f64::total_cmp);
        let (early, late) = match times.len() {
            0..22_000 => (None, None),
            all => (
                Some((times[11_000] - times[1_000]) * 1e2),
                Some((times[all - 1] - times[all - 10_001]) * 1e2),
            ),
        };
        Ok(Throughput {
            early_micros: early,
            late_micros: late,
            late_to_early: late.zip(early).map(|(late, early)| late / early),
            workers,
            trials: status.measured,
            completions_per_second: status.measured as f64 / seconds,
            acknowledged_p50: quantile(&latencies, 0.5),
            acknowledged_p99: quantile(&latencies, 0.99),
            lease_p50: quantile(&idle, 0.5),
            lease_p99: quantile(&idle, 0.99),
            submit: submitted.as_secs_f64() * 1e3,
            batch: commits.writes as f64 / commits.commits.max(1) as f64,
            commit: commits.micros as f64 / 1e3 / commits.commits.max(1) as f64,
            restart,
            peak_memory_mib: peak_memory_bytes().unwrap_or(0) as f64 / f64::from(1 << 20),
        })
    }
}

/// A random search, with files that nobody reads.
pub(super) fn experiment(folder: &Path, trials: u32) -> Outcome<Resolved> {
    let path = folder.join("empty");
    std::fs::write(&path, b"").map_err(|error| Failure::file(&path, &error))?;
    drawn(trials, vec![(ContentHash::of(b""), path.into())])
}

/// A random search of so many trials.
fn drawn(trials: u32, files: Vec<(ContentHash, Input)>) -> Outcome<Resolved> {
    let strategy = Random { tier: Tier::Matrix, trials, seed: 1 };
    Ok(Resolved {
        experiment: workload::experiment(strategy.clone())?,
        strategy: strategy.into(),
        shards: 1,
        files,
        positions: 1,
        sequences: 1,
        demands: Demands::default(),
        holdout: None,
        origins: Default::default(),
    })
}

/// Times at which results were acknowledged, with their numbers.
type Progress = Arc<Mutex<Vec<(Instant, usize)>>>;

/// Seconds from the start to each acknowledged result.
fn times_of(progress: &[(Instant, usize)], started: Instant) -> Vec<f64> {
    let times = progress.iter().flat_map(|(at, results)| std::iter::repeat_n(*at - started, *results));
    times.map(|time| time.as_secs_f64()).collect()
}

/// A connection of a worker.
pub(super) async fn channel(connector: &Connector) -> Outcome<WorkClient<Link>> {
    Ok(WorkClient::new(connector.connect().await.map_err(anyhow::Error::from)?))
}

pub(super) fn request(
    worker: &str,
    finished: Vec<ShardReport>,
    holding: Vec<u64>,
    free_slots: u32,
) -> ReportRequest {
    ReportRequest {
        worker: worker.to_owned(),
        engine_version: ENGINE_VERSION,
        finished,
        holding,
        free_slots,
        wait_ms: 1000,
        experiment: String::new(),
        prefetch: 0,
        protocol: PROTOCOL,
        capabilities: Some(workload::capabilities().into()),
        session: 0,
        progress: Vec::new(),
    }
}

/// Milliseconds until a coordinator that starts on the store has read all of it and grants the one trial that is new.
async fn restart(store: &Path, resolved: &Resolved, trials: u32) -> Outcome<f64> {
    // The same draws and one more: a search that was interrupted just before its end.
    let interrupted = drawn(trials + 1, resolved.files.clone())?;
    let embedded = Embedded::start(store).await?;
    submit(&mut embedded.connect().await?, &interrupted, None).await?;
    embedded.stop().await?;
    let started = Instant::now();
    let embedded = Embedded::start(store).await?;
    let mut client = channel(&embedded.connector()?).await?;
    loop {
        let answer = client.report(request("restart", vec![], vec![], 1)).await?.into_inner();
        if !answer.leases.is_empty() {
            break;
        }
    }
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    embedded.stop().await?;
    Ok(milliseconds)
}

/// Milliseconds of each of some calls that ask for one lease and report nothing.
async fn idle_leases(connector: &Connector) -> Outcome<Vec<f64>> {
    let mut client = channel(connector).await?;
    let (mut times, mut holding) = (Vec::new(), Vec::new());
    for _ in 0..IDLE_LEASES {
        let started = Instant::now();
        let answer = client.report(request("idle", vec![], holding.clone(), 1)).await?.into_inner();
        times.push(started.elapsed().as_secs_f64() * 1e3);
        holding.extend(answer.leases.into_iter().map(|lease| lease.id));
        // Handed back now and then, so that what is listed stays short.
        if holding.len() >= 16 {
            holding.clear();
        }
    }
    client.report(request("idle", vec![], vec![], 0)).await?;
    Ok(times)
}

/// A worker that knows every answer: reports and asks until there is no more work. Milliseconds of every call that
/// carried results.
async fn work(connector: Connector, name: String, slots: u32, progress: Progress) -> Outcome<Vec<f64>> {
    let mut client = channel(&connector).await?;
    let (mut times, mut finished) = (Vec::new(), Vec::new());
    loop {
        let carries = !finished.is_empty();
        let results = finished.len();
        let started = Instant::now();
        let call = client.report(request(&name, std::mem::take(&mut finished), vec![], slots));
        let answer =
            tokio::time::timeout(Duration::from_secs(30), call).await.map_err(anyhow::Error::from)??;
        if carries {
            times.push(started.elapsed().as_secs_f64() * 1e3);
            progress.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), results));
        }
        let leases = answer.into_inner().leases;
        if leases.is_empty() && !carries {
            return Ok(times);
        }
        for lease in leases {
            finished.push(finish(lease)?);
        }
    }
}

/// Report of a worker on a lease, as simulated.
pub(super) fn finish(lease: Lease) -> Outcome<ShardReport> {
    let missing = || Failure::new(Exit::Failure, "a lease without a trial");
    let trial = Trial::try_from(lease.trial.ok_or_else(missing)?).map_err(anyhow::Error::from)?;
    let shard = Shard { index: lease.index, of: lease.of };
    let counts = workload::counts(&trial.candidate, shard);
    Ok(ShardReport {
        lease: lease.id,
        trial: trial.key().as_bytes().to_vec(),
        index: lease.index,
        of: lease.of,
        outcome: Some(shard_report::Outcome::Counts(convert::write_counts(&counts, None))),
        seconds: 0.0,
        engine: String::new(),
        job: Vec::new(),
    })
}
