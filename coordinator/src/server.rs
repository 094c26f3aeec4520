//! A coordinator as a whole: store, driver and services on one socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use qslm_program::Coded;
use qslm_proto::v1::experiments_server::ExperimentsServer;
use qslm_proto::v1::work_server::WorkServer;
use qslm_transport::serving::{Boxed, serve_calls};
use qslm_transport::{Gate, Incoming, Monitor, ServerTls, Tokens, Traces};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::crash::CrashPlan;
use crate::driver::{self, DriverError, Handle, Options};
use crate::metrics;
use crate::rpc::{self, ExperimentsService, Quotas, WorkService};
use crate::store::{Artifacts, Store, StoreError};
use crate::until_done::Collected;
use crate::web;

/// Time in which open calls may end once the coordinator stops. hyper may wait for ever on a stuck connection
/// (hyper#4170), so the end does not depend on it.
const DRAIN: Duration = Duration::from_secs(2);

/// Silence after which a connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Calls that one connection may have under way; more wait with the caller.
const MOST_STREAMS: u32 = 128;

/// Bytes of a call's headers.
const LARGEST_HEADERS: u32 = 16 << 10;

/// Ports on which a coordinator listens.
pub struct Ports {
    /// Port for workers and people's programs.
    pub grpc: TcpListener,
    /// Port for browsers.
    pub web: Option<TcpListener>,
    /// Port for the cluster's own machinery.
    pub monitor: Option<Monitor>,
}

impl Ports {
    /// Ports of a coordinator for programs only.
    pub fn grpc(listener: TcpListener) -> Self {
        Self { grpc: listener, web: None, monitor: None }
    }
}

/// Access policy: who may come in, and how many.
pub struct AccessPolicy {
    /// Encryption of connections, if there is any.
    pub tls: Option<ServerTls>,
    /// Tokens with their roles; everyone may do everything if there are none.
    pub tokens: Option<Tokens>,
    /// Connections at a time, of programs and of browsers each.
    pub max_connections: usize,
    /// Calls per second that one connection may make.
    pub calls_per_second: u32,
    /// Quotas of each client.
    pub quotas: Quotas,
}

impl Default for AccessPolicy {
    /// Policy of a coordinator that only this process uses.
    fn default() -> Self {
        Self {
            tls: None,
            tokens: None,
            max_connections: 10_000,
            calls_per_second: u32::MAX,
            quotas: Quotas::NONE,
        }
    }
}

/// A coordinator on an open store.
pub struct Coordinator {
    driver: Handle,
    thread: driver::Thread,
    artifacts: Artifacts,
    traces: Option<Traces>,
    crash_at: CrashPlan,
    collected: Collected,
}

impl Coordinator {
    /// Opens the store, making it if it is not there, and goes on with its experiments.
    ///
    /// # Errors
    /// [`DriverError`] if the store is in use, broken, or of another version.
    pub fn open(store: &Path, options: Options) -> Result<Self, DriverError> {
        let store = Store::open(store)?;
        let artifacts = Artifacts::beside(store.path()).map_err(|error| {
            let path = Artifacts::of(store.path()).folder().to_owned();
            StoreError::Io { path, error }
        })?;
        // A job may have been done while another worker still left checkpoints of it.
        let checkpoints = artifacts.checkpoints();
        for job in store.made(&checkpoints.jobs())?.keys() {
            checkpoints.remove(job);
        }
        Self::on(store, artifacts, options)
    }

    /// Opens a store to answer questions about it; nothing of it changes, on disk.
    ///
    /// # Errors
    /// [`DriverError`] if the store is not there, in use, broken, or of another version.
    pub fn open_to_read(store: &Path) -> Result<Self, DriverError> {
        let artifacts = Artifacts::of(store);
        let options = Options { only_reads: true, ..Options::default() };
        Self::on(Store::open_to_read(store)?, artifacts, options)
    }

    fn on(store: Store, artifacts: Artifacts, options: Options) -> Result<Self, DriverError> {
        let (traces, crash_at) = (options.traces.clone(), options.crash_at);
        let (driver, thread) = driver::start(store, options)?;
        Ok(Self { driver, thread, artifacts, traces, crash_at, collected: Collected::default() })
    }

    /// Driver, for callers in the same process.
    pub fn driver(&self) -> &Handle {
        &self.driver
    }

    /// Experiments whose results were collected while it runs.
    pub fn collected(&self) -> &Collected {
        &self.collected
    }

    /// Store of the artifacts.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Serves on `ports` whoever `door` lets in, until `stop` is cancelled or the store fails, then closes the store.
    ///
    /// # Errors
    /// If a certificate, the socket or the store fails.
    pub fn serve(
        self,
        ports: Ports,
        door: AccessPolicy,
        stop: CancellationToken,
    ) -> Boxed<'static, anyhow::Result<()>> {
        Box::pin(self.serve_until(ports, door, stop))
    }

    async fn serve_until(
        self,
        ports: Ports,
        door: AccessPolicy,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Self { driver, thread, artifacts, traces, crash_at, collected } = self;
        let AccessPolicy { tls, tokens, max_connections, calls_per_second, quotas } = door;
        artifacts.set_most(quotas.artifacts_max_bytes);
        let tls = tls.map(ServerTls::watched).transpose().map_err(Coded::setting)?.map(Arc::new);
        let gate = Arc::new(Gate::new(tokens, rpc::needs, calls_per_second));
        let accept = |listener| Incoming::new(listener, tls.clone(), max_connections, stop.clone());
        // These are guests here: if they fail, the experiments go on.
        let mut guests = JoinSet::new();
        if let Some(listener) = ports.web {
            let serving = web::serve(accept(listener), gate.clone(), driver.clone(), stop.clone());
            guests.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the live view stopped");
                }
            });
        }
        let (reporter, health) = tonic_health::server::health_reporter();
        guests.spawn(rpc::watch_health(driver.clone(), reporter, stop.clone()));
        if let Some(monitor) = ports.monitor {
            let (asked, guarded) = (driver.clone(), gate.clone());
            let metrics = move || {
                let (driver, gate) = (asked.clone(), guarded.clone());
                async move { metrics::text(&driver, gate.denied()).await.ok() }
            };
            let serving = monitor.serve(Routes::new(health.clone()), metrics, stop.clone());
            guests.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "health and metrics stopped");
                }
            });
        }
        let work = WorkService::new(driver.clone(), artifacts.clone(), traces.is_some(), crash_at);
        let experiments = ExperimentsService::new(driver.clone(), artifacts, quotas, collected);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(qslm_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let routes = Routes::new(WorkServer::new(work))
            .add_service(ExperimentsServer::new(experiments))
            .add_service(reflection)
            .add_service(health);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .max_concurrent_streams(MOST_STREAMS)
            .http2_max_header_list_size(LARGEST_HEADERS);
        let serving = serve_calls(server, gate.guard(routes), accept(ports.grpc), stop.clone());
        let mut serving = tokio::spawn(serving);
        let ended = tokio::task::spawn_blocking(move || thread.join());
        tokio::pin!(ended);
        let mut served = None;
        let ended_first = tokio::select! {
            biased;
            store = &mut ended => Some(store?),
            () = stop.cancelled() => None,
            result = &mut serving => {
                served = Some(result);
                None
            }
        };
        // Whatever the reason, the store is closed when this returns. Waiting reports and watchers end with the driver, so
        // the server can drain.
        stop.cancel();
        let store = match ended_first {
            Some(store) => store,
            None => {
                tokio::task::spawn_blocking(move || driver.stop()).await?;
                ended.await?
            }
        };
        match served {
            Some(result) => result?.context("serving")?,
            None if tokio::time::timeout(DRAIN, &mut serving).await.is_err() => serving.abort(),
            None => {}
        }
        let all = async { while guests.join_next().await.is_some() {} };
        // Whoever is not done by then is dropped.
        drop(tokio::time::timeout(DRAIN, all).await);
        if let Some(traces) = traces {
            tokio::task::spawn_blocking(move || traces.end()).await?;
        }
        match store {
            Ok(result) => Ok(result?),
            Err(panic) => Err(DriverError::panicked(&*panic).into()),
        }
    }
}
