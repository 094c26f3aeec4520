//! `qslm-worker`: measures candidates for a coordinator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use qslm_common::hash::ContentHash;
use qslm_worker::settings::Settings;
use qslm_worker::{Agent, ArtifactCache, Evaluator, Spool};
use serde::Serialize;

/// Measure quantization candidates for a coordinator.
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
  QSLM_WORKER_COORDINATOR=http://coordinator:7477 qslm-worker"
)]
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
    /// Work for the experiment with this id only [default: any]
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    experiment: Option<String>,
    /// Where fetched checkpoints and data are kept, and results while the coordinator is away [default: qslm in the
    /// user's cache folder]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_dir: Option<PathBuf>,
    /// Bytes that the cache may take [default: 20 GiB]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_max_bytes: Option<u64>,
    /// What is logged: a level or directives [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    qslm_program::run(flags.config.as_deref(), "QSLM_WORKER", &flags, run)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    qslm_program::init_log(&settings.log)?;
    let stop = qslm_program::cancelled_by_signals()?;
    let slots = settings.slots()?;
    let spool =
        settings.cache_dir.join("spool").join(ContentHash::of(settings.coordinator.as_bytes()).short());
    let spool = Spool::open(&spool).with_context(|| format!("spool {}", spool.display()))?;
    let agent = Agent {
        name: if settings.name.is_empty() { made_up_name() } else { settings.name },
        slots,
        experiment: Some(settings.experiment).filter(|id| !id.is_empty()),
        evaluator: Arc::new(Evaluator::new(slots as usize)),
        cache: Arc::new(ArtifactCache::new(settings.cache_dir, settings.cache_max_bytes)?),
        spool: Some(spool),
    };
    tracing::info!(worker = agent.name, slots, coordinator = settings.coordinator, "working");
    agent.run(&settings.coordinator, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// A name that no other worker has: the process number alone repeats from container to container.
fn made_up_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let chance = RandomState::new().build_hasher().finish();
    format!("worker-{}-{:08x}", std::process::id(), chance as u32)
}
