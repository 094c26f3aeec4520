//! The program `qslm-coordinator`: its flags, and how it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Parser;
use qslm_common::bytes;
use qslm_program::{Coded, LogFlags, Port, limits};
use qslm_transport::{Monitor, Tokens, listen};
use serde::Serialize;

use crate::settings::Settings;
use crate::until_done::until_done;
use crate::{Coordinator, Ports};

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
  qslm-coordinator --listen '[::]:7477' --tokens tokens --certificate tls.crt --key tls.key
  qslm-coordinator --store sweep.redb --until-done
  QSLM_COORDINATOR_STORE=/data/qslm.redb qslm-coordinator

Exit codes:
  0    told to stop, or done (--until-done): all experiments have ended, whether they finished or were cancelled
  1    failed
  2    settings that make no sense
  143  told to stop before all was done (--until-done)"
)]
// One field for each flag.
struct Flags {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Address and port to listen on; [::] is every address of both families [default: 127.0.0.1:7477]
    #[arg(long, value_parser = qslm_program::address)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Address and port of the live view for browsers, or off [default: 127.0.0.1:7478]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    web: Option<Port>,
    /// The store, which keeps everything; input files are kept beside it [default: qslm.redb]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    /// Seconds until the leases of a silent worker expire and go to others, 1 to 3600 [default: 15]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ttl_s: Option<f64>,
    /// Different workers that may vanish over one shard before its trial has failed, 2 to 1000 [default: 3]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_vanished_workers: Option<u32>,
    /// Address and port of health checks and metrics, without TLS or tokens, or off [default: off]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    monitor: Option<Port>,
    /// File of tokens, lines of ROLE NAME TOKEN [default: none, and everyone may do everything]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<PathBuf>,
    /// The certificate in PEM that callers see; turns TLS on
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    /// Callers need a certificate that one of these signed (mutual TLS)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ca: Option<PathBuf>,
    /// Listen beyond this machine without authentication: whoever reaches the port may do anything
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure: Option<bool>,
    /// Connections at a time; more wait, 1 to 100000 [default: 4096]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    /// Calls per second of one connection; more are told to wait, 1 to 1000000 [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    calls_per_second: Option<u32>,
    /// End with exit code 0 once all experiments have ended and whoever waited for them has the results
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    until_done: Option<bool>,
    /// Seconds that --until-done keeps results ready where nobody says that they are collected, 1 to 86400 [default: 600]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    collect_within_s: Option<f64>,
    /// Send traces to this OpenTelemetry collector (OTLP over gRPC, http://HOST:4317)
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<String>,
    /// Uploads that one client may have under way, 1 to 1000000 [default: 8]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    uploads_per_client: Option<u32>,
    /// Experiments of one client that have not ended, 1 to 1000000 [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    experiments_per_client: Option<u32>,
    /// Bytes that uploaded files, made artifacts and checkpoints of jobs together may take [default: 256 GiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts_max_bytes: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    log: LogFlags,
}

/// Runs the program with the flags of this process.
pub fn main() -> ExitCode {
    match qslm_program::flags::<Flags>() {
        Ok(flags) => qslm_program::run(flags.config.as_deref(), "QSLM_COORDINATOR", &flags, run),
        Err(code) => code,
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let _log = qslm_program::init_service_log(&settings.log, settings.log_format)?;
    let stop = qslm_program::cancelled_by_signals()?;
    let (options, door) = (settings.options()?, settings.door()?);
    let tls = if door.tls.is_some() { "on" } else { "off" };
    let tokens = door.tokens.as_ref().map_or(0, Tokens::count);
    // Driver, committer and whoever waits for them; the store, sockets, and files that are handed in or out.
    limits::ensure_threads(3)?;
    limits::ensure_files(32)?;
    check_file_limit(settings.max_connections);
    let patience = settings.until_done()?;
    let coordinator = Coordinator::open(&settings.store, options)?;
    let listener = listen(settings.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, store = %settings.store.display(), tls, tokens, "listening");
    let web = match settings.web {
        Port::Off => None,
        Port::On(wanted) => {
            let listener = listen(wanted).await.with_context(|| {
                format!("web = \"{wanted}\": cannot listen there; choose another address, or off")
            })?;
            let scheme = if door.tls.is_some() { "https" } else { "http" };
            tracing::info!(address = %format!("{scheme}://{}", listener.local_addr()?), "live view");
            Some(listener)
        }
    };
    let monitor = match settings.monitor {
        Port::Off => None,
        Port::On(wanted) => Some(Monitor::bind(wanted).await?),
    };
    let done = patience.map(|patience| {
        let (driver, collected) = (coordinator.driver().clone(), coordinator.collected().clone());
        tokio::spawn(until_done(driver, collected, patience, stop.clone()))
    });
    coordinator.serve(Ports { grpc: listener, web, monitor }, door, stop).await?;
    // Serving ends with `stop`, and so does whoever looks for the end.
    let is_done = match done {
        Some(done) => Some(done.await?),
        None => None,
    };
    tracing::info!("{}", if is_done == Some(true) { "done" } else { "stopped" });
    // One that was to stay until the end and did not has to be started again, by a Kubernetes Job for one.
    if is_done == Some(false) {
        return Err(Coded::error(128 + qslm_program::signal(), anyhow!("stopped before all was done")));
    }
    Ok(())
}

/// Asks the system for as many open files as it allows, and says so if connections may lack some.
fn check_file_limit(connections: u32) {
    // A store, artifacts, the live view, and what the system itself opens.
    let needed = u64::from(connections) + 512;
    match rlimit::increase_nofile_limit(needed) {
        Ok(allowed) if allowed >= needed => {}
        Ok(allowed) => {
            tracing::warn!(
                allowed,
                needed,
                "max_connections = {connections} may not be reached: the limit of open files is lower"
            );
        }
        Err(error) => tracing::warn!(%error, "cannot tell how many files may be open"),
    }
}
