//! `qslm bench coordinator`: trials that cost nothing, through the real path: gRPC on loopback, a durable store on disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use qslm_common::ENGINE_VERSION;
use qslm_common::cost::{Cost, Device};
use qslm_common::experiment::{Backend, Experiment, Strategy};
use qslm_common::hash::ContentHash;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::network::Network;
use qslm_common::objective::{Constraints, Objective};
use qslm_common::scheme::{Granularity, Range, Rounding, Symmetry, Width};
use qslm_common::space::{Embedding, Space, Tier};
use qslm_common::task::{Data, Task};
use qslm_common::trade_off::TradeOff;
use qslm_common::trial::Trial;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{GetRequest, Lease, ReportRequest, ShardReport, shard_report};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::{quantile, show};
use crate::client::{Embedded, connect, submit};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, peak_memory_bytes};
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
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    trials: u32,
    /// Evaluations that a worker has in hand
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Where the stores are made, on the disk to be measured; they are removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What is printed; keys are part of the interface. Times are in milliseconds.
#[derive(Serialize)]
struct Row {
    workers: u32,
    trials: u64,
    /// Results on disk and acknowledged, per second.
    completions_per_second: f64,
    /// From sending results to hearing that they are safe.
    acknowledged_p50: f64,
    acknowledged_p99: f64,
    /// From asking for a lease to having it, one at a time on an idle system.
    lease_p50: f64,
    lease_p99: f64,
    /// From submitting to the first lease.
    submit: f64,
    peak_memory_mib: f64,
}

impl CoordinatorBench {
    pub(super) async fn run(self) -> Outcome {
        let mut rows = Vec::new();
        for workers in &self.workers {
            if !(1..=256).contains(workers) {
                return Err(Failure::new(Exit::Usage, format!("--workers {workers}: expected 1 to 256")));
            }
            rows.push(self.measure(*workers).await?);
        }
        let columns = [
            "workers",
            "trials",
            "completions_per_second",
            "acknowledged_p50",
            "acknowledged_p99",
            "lease_p50",
            "lease_p99",
            "submit",
            "peak_memory_mib",
        ];
        show(&rows, &columns, self.output)
    }

    async fn measure(&self, workers: u32) -> Outcome<Row> {
        std::fs::create_dir_all(&self.folder).map_err(|error| Failure::file(&self.folder, &error))?;
        let folder = tempfile::tempdir_in(&self.folder).map_err(anyhow::Error::from)?;
        let embedded = Embedded::start(&folder.path().join("bench.redb")).await?;
        let resolved = experiment(folder.path(), self.trials)?;
        let mut client = connect(&embedded.url).await?;
        let started = Instant::now();
        let id = submit(&mut client, &resolved, None).await?.id;
        let submitted = started.elapsed();
        let mut idle = idle_leases(&embedded.url).await?;

        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(work(embedded.url.clone(), format!("bench-{worker}"), self.slots));
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            latencies.extend(done.map_err(anyhow::Error::from)??);
        }
        let seconds = started.elapsed().as_secs_f64();
        let status = client.get(GetRequest { experiment: id }).await?.into_inner();
        embedded.stop().await?;
        if status.state() != State::Finished || status.measured != u64::from(self.trials) + 1 {
            let (measured, trials) = (status.measured, self.trials + 1);
            return Err(Failure::new(Exit::Failure, format!("{measured} of {trials} trials were recorded")));
        }
        latencies.sort_by(f64::total_cmp);
        idle.sort_by(f64::total_cmp);
        Ok(Row {
            workers,
            trials: status.measured,
            completions_per_second: status.measured as f64 / seconds,
            acknowledged_p50: quantile(&latencies, 0.5),
            acknowledged_p99: quantile(&latencies, 0.99),
            lease_p50: quantile(&idle, 0.5),
            lease_p99: quantile(&idle, 0.99),
            submit: submitted.as_secs_f64() * 1e3,
            peak_memory_mib: peak_memory_bytes().unwrap_or(0) as f64 / f64::from(1 << 20),
        })
    }
}

/// A random search over a network that nobody runs, with files that nobody reads.
fn experiment(folder: &Path, trials: u32) -> Outcome<Resolved> {
    let path = folder.join("empty");
    std::fs::write(&path, b"").map_err(|error| Failure::file(&path, &error))?;
    let file = ContentHash::of(b"");
    let network =
        Network { vocabulary: 64, channels: 16, hidden: 64, blocks: 4, outputs: 64, binary_embedding: true };
    let bits = [8, 6, 4, 3, 2].into_iter().filter_map(|bits| Width::try_from(bits).ok()).collect();
    let experiment = Experiment {
        name: "bench".to_owned(),
        engine_version: ENGINE_VERSION,
        backend: Backend::default(),
        checkpoint: file,
        network,
        data: Data { text: file, tokenizer: file },
        task: Task::Perplexity { window: 8, stride: 8, windows: None },
        space: Space {
            bits,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Channel,
            rounding: Rounding::default(),
            range: Range::default(),
            embedding: Embedding::Sign,
            vectors: None,
            activations: None,
            membranes: None,
        },
        constraints: Constraints::default(),
        objectives: vec![Objective::Perplexity, Objective::Cost(Cost::Footprint)],
        trade_off: TradeOff::default(),
        strategy: Strategy::Random { tier: Tier::Matrix, trials, seed: 1 },
        device: Device::default(),
    };
    experiment.validate().map_err(|error| Failure::new(Exit::Failure, error))?;
    Ok(Resolved { experiment, shards: 1, files: vec![(file, path)], positions: 1 })
}

async fn channel(url: &str) -> Outcome<WorkClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(anyhow::Error::from)?.tcp_nodelay(true);
    Ok(WorkClient::new(endpoint.connect().await.map_err(anyhow::Error::from)?))
}

fn request(worker: &str, finished: Vec<ShardReport>, holding: Vec<u64>, free_slots: u32) -> ReportRequest {
    ReportRequest {
        worker: worker.to_owned(),
        engine_version: ENGINE_VERSION,
        finished,
        holding,
        free_slots,
        wait_ms: 1000,
        experiment: String::new(),
    }
}

/// Milliseconds of each of some calls that ask for one lease and report nothing.
async fn idle_leases(url: &str) -> Outcome<Vec<f64>> {
    let mut client = channel(url).await?;
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
async fn work(url: String, name: String, slots: u32) -> Outcome<Vec<f64>> {
    let mut client = channel(&url).await?;
    let (mut times, mut finished) = (Vec::new(), Vec::new());
    loop {
        let carries = !finished.is_empty();
        let started = Instant::now();
        let call = client.report(request(&name, std::mem::take(&mut finished), vec![], slots));
        let answer =
            tokio::time::timeout(Duration::from_secs(30), call).await.map_err(anyhow::Error::from)??;
        if carries {
            times.push(started.elapsed().as_secs_f64() * 1e3);
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

/// A plausible result that follows from the candidate alone.
fn finish(lease: Lease) -> Outcome<ShardReport> {
    let missing = || Failure::new(Exit::Failure, "a lease without a trial");
    let trial = Trial::try_from(lease.trial.ok_or_else(missing)?).map_err(anyhow::Error::from)?;
    let id = trial.candidate.id();
    let nll = 1 << 24 | u64::from(id.as_bytes()[0]);
    let counts = Counts { nll: Nll(nll), tokens: 1, positions: 1, ..Counts::zero(8) };
    Ok(ShardReport {
        lease: lease.id,
        trial: trial.key().as_bytes().to_vec(),
        index: lease.index,
        of: lease.of,
        outcome: Some(shard_report::Outcome::Counts((&counts).into())),
        seconds: 0.0,
    })
}
