//! A coordinator as a whole: store, driver and services on one socket.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use qslm_proto::v1::experiments_server::ExperimentsServer;
use qslm_proto::v1::work_server::WorkServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::driver::{self, DriverError, Handle, Options};
use crate::rpc::{ExperimentsService, WorkService};
use crate::store::{Artifacts, Store, StoreError};
use crate::web;

/// How long open calls may take to end once the coordinator stops. hyper may wait for ever on a stuck
/// connection (hyper#4170), so the end does not depend on it.
const DRAIN: Duration = Duration::from_secs(2);

/// A connection on which nothing comes back for so long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A coordinator on an open store.
pub struct Coordinator {
    driver: Handle,
    thread: driver::Thread,
    artifacts: Artifacts,
}

impl Coordinator {
    /// Opens the store, making it if it is not there, and goes on with its experiments.
    ///
    /// # Errors
    /// [`DriverError`] if the store is in use, broken, or of another version.
    pub fn open(store: &Path, options: Options) -> Result<Self, DriverError> {
        let store = Store::open(store)?;
        let artifacts = Artifacts::beside(store.path())
            .map_err(|error| StoreError::Io { path: store.path().to_owned(), error })?;
        let (driver, thread) = driver::start(store, options)?;
        Ok(Self { driver, thread, artifacts })
    }

    /// The driver, for whoever is in the same process.
    pub fn driver(&self) -> &Handle {
        &self.driver
    }

    /// Where the artifacts are.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Serves on `listener`, and the live view on `web`, until `stop` is cancelled or the store fails, then closes the
    /// store.
    ///
    /// # Errors
    /// If the socket or the store fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        web: Option<TcpListener>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Self { driver, thread, artifacts } = self;
        // The view is a guest here: if it fails, the experiments go on.
        let view = web.map(|listener| {
            let serving = web::serve(listener, driver.clone(), stop.clone());
            tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the live view stopped");
                }
            })
        });
        let work = WorkService::new(driver.clone(), artifacts.clone());
        let experiments = ExperimentsService::new(driver.clone(), artifacts);
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(WorkServer::new(work))
            .add_service(ExperimentsServer::new(experiments))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );
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
        if let Some(mut view) = view
            && tokio::time::timeout(DRAIN, &mut view).await.is_err()
        {
            view.abort();
        }
        match store {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
