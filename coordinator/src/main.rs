//! `qslm-coordinator`: serves experiments to workers and people.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use qslm_coordinator::Coordinator;
use qslm_coordinator::settings::Settings;
use qslm_coordinator::web::Web;
use serde::Serialize;
use tokio::net::TcpListener;

/// Lease quantization trials to workers and keep every result.
///
/// Settings: defaults < --config FILE < QSLM_COORDINATOR_* variables < flags.
#[derive(Debug, Parser, Serialize)]
#[command(
    name = "qslm-coordinator",
    version,
    after_help = "\
Examples:
  qslm-coordinator --store sweep.redb
  qslm-coordinator --listen 0.0.0.0:7477 --lease-ttl-s 30 --web off
  QSLM_COORDINATOR_STORE=/data/qslm.redb qslm-coordinator"
)]
struct Flags {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:7477]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Address and port of the live view for browsers, or off [default: 127.0.0.1:7478]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    web: Option<Web>,
    /// The file that keeps everything; inputs are kept beside it [default: qslm.redb]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    /// Seconds until a silent worker's leases go to others, 1 to 3600 [default: 15]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ttl_s: Option<f64>,
    /// What is logged: a level or directives [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    qslm_program::run(flags.config.as_deref(), "QSLM_COORDINATOR", &flags, run)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    qslm_program::init_log(&settings.log)?;
    let stop = qslm_program::cancelled_by_signals()?;
    let coordinator = Coordinator::open(&settings.store, settings.options()?)?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, store = %settings.store.display(), "listening");
    let web = match settings.web {
        Web::Off => None,
        Web::On(wanted) => {
            let listener = TcpListener::bind(wanted).await.with_context(|| {
                format!("web = \"{wanted}\": cannot listen there; choose another address, or off")
            })?;
            tracing::info!(address = %format!("http://{}", listener.local_addr()?), "live view");
            Some(listener)
        }
    };
    coordinator.serve(listener, web, stop).await?;
    tracing::info!("stopped");
    Ok(())
}
