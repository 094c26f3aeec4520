//! The program `qslm-worker`: its flags, and how it starts and ends.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Parser;
use qslm_common::bytes;
use qslm_common::hash::ContentHash;
use qslm_program::{Coded, LogFlags, Port, limits};
use qslm_transport::{AccessFlags, Monitor, Traces};
use serde::Serialize;

use crate::agent::Ended;
use crate::backoff::chance;
use crate::capabilities::{detect, parse_labels};
use crate::monitor::{self, Tally};
use crate::settings::Settings;
use crate::{Agent, ArtifactCache, Evaluator, Spool};

/// Measure shards of trials for a coordinator.
///
/// Settings: defaults < --config FILE < QSLM_WORKER_* variables < flags.
#[derive(Debug, Parser, Serialize)]
#[command(
    name = "qslm-worker",
    version,
    after_help = "\
Examples:
  qslm-worker --coordinator http://10.0.0.5:7477
  qslm-worker --slots 4 --cache-dir /var/cache/qslm
  qslm-worker --coordinator https://coordinator:7477 --ca ca.crt --token-file token --until-done
  QSLM_WORKER_COORDINATOR=http://coordinator:7477 qslm-worker

Exit codes:
  0    told to stop, or done (--until-done)
  1    failed
  2    settings that make no sense
  4    the coordinator is of another version
  7    the coordinator does not let this worker in
  143  told to stop before all was done (--until-done)"
)]
// As many fields as there are settings, which it mirrors.
struct Flags {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The coordinator's address [default: http://127.0.0.1:7477]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,
    /// A name unique among the coordinator's workers [default: made up]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Evaluations at a time, one thread each; 0 for one per core [default: 0]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u32>,
    /// Work only for the experiment with this name or id, which may be submitted later [default: any]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    experiment: Option<String>,
    /// Folder for fetched checkpoints and data, and for results while the coordinator is away [default: qslm
    /// in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_dir: Option<PathBuf>,
    /// Bytes that the cache may take [default: 20 GiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_max_bytes: Option<u64>,
    /// Seconds between two checkpoints of a job, from which another worker goes on if this one is lost [default: 60]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_every_s: Option<f64>,
    /// End with exit code 0 when the experiment of --experiment has ended; without one, when all have
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    until_done: Option<bool>,
    /// Labels of this worker, which experiments may demand: zone=a,rack=7
    #[arg(long, value_name = "LABEL=VALUE,..")]
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    access: AccessFlags,
    /// Seconds to wait for a coordinator that does not know the token yet, which a rotation may be about to mend [default: 120]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token_patience_s: Option<f64>,
    /// Address and port of health checks and metrics, without TLS or tokens, or off [default: off]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    monitor: Option<Port>,
    /// Send traces to this OpenTelemetry collector (OTLP over gRPC, http://HOST:4317)
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    log: LogFlags,
}

/// Runs the program with the flags of this process.
pub fn main() -> ExitCode {
    match qslm_program::flags::<Flags>() {
        Ok(flags) => qslm_program::run(flags.config.as_deref(), "QSLM_WORKER", &flags, run),
        Err(code) => code,
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let _log = qslm_program::init_service_log(&settings.log, settings.log_format)?;
    let stop = qslm_program::cancelled_by_signals()?;
    let slots = settings.slots().map_err(Coded::setting)?;
    let connector = settings.connector().map_err(Coded::setting)?;
    ensure_room(slots as usize)?;
    let checkpoint_every = settings.checkpoint_every().map_err(Coded::setting)?;
    let token_patience = settings.token_patience().map_err(Coded::setting)?;
    let crash_at = settings.crash_at.parse().context("crash_at").map_err(Coded::setting)?;
    let labels = parse_labels(&settings.labels).map_err(Coded::setting)?;
    let capabilities = detect(labels);
    capabilities.validate().map_err(Coded::setting)?;
    let tally = Arc::new(Tally::default());
    if let Port::On(address) = settings.monitor {
        let port = Monitor::bind(address).await?;
        tokio::spawn(monitor::serve(port, tally.clone(), stop.clone()));
    }
    let spool =
        settings.cache_dir.join("spool").join(ContentHash::of(settings.coordinator.as_bytes()).short());
    let spool = Spool::open(&spool).with_context(|| format!("spool {}", spool.display()))?;
    let name = if settings.name.is_empty() { made_up_name() } else { settings.name };
    let traces = Traces::start(&settings.traces, "qslm-worker", &name).map_err(Coded::setting)?;
    let agent = Agent {
        name,
        traces: traces.clone(),
        slots,
        experiment: Some(settings.experiment).filter(|id| !id.is_empty()),
        evaluator: Arc::new(Evaluator::new(slots as usize)),
        cache: Arc::new(ArtifactCache::new(settings.cache_dir, settings.cache_max_bytes)?),
        spool: Some(spool),
        capabilities,
        tally,
        checkpoint_every,
        token_patience,
        until_done: settings.until_done,
        crash_at,
    };
    tracing::info!(worker = agent.name, slots, coordinator = settings.coordinator, "working");
    let ended = agent.run(connector, stop).await;
    if let Some(traces) = traces {
        tokio::task::spawn_blocking(move || traces.end()).await?;
    }
    let ended = ended?;
    tracing::info!("{}", if ended == Ended::Done { "done" } else { "stopped" });
    // A worker that was to stay until the end and did not has to be started again, by a Kubernetes Job for one.
    if settings.until_done && ended == Ended::Stopped {
        return Err(Coded::error(128 + qslm_program::signal(), anyhow!("stopped before all was done")));
    }
    Ok(())
}

/// Fails if the system will not let a worker have what so many evaluations at a time take: a thread each, its connection
/// and files.
fn ensure_room(slots: usize) -> anyhow::Result<()> {
    let room = limits::ensure_threads(slots).and_then(|()| limits::ensure_files(32 + 4 * slots));
    room.with_context(|| format!("slots = {slots}"))
}

/// A name that no other worker has: the process number alone repeats from container to container.
fn made_up_name() -> String {
    format!("worker-{}-{:08x}", std::process::id(), chance() as u32)
}
