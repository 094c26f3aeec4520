//! Health and metrics of a program, for the cluster's own machinery.
//!
//! Kubernetes' gRPC probes know neither TLS nor tokens, and metrics are scraped by whoever runs the cluster. So this is a
//! port of its own without either, off unless asked for. It answers `grpc.health.v1.Health` and `GET /metrics`, tells no
//! more than names and numbers, and changes nothing; who may reach it is the network's business.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::incoming::Incoming;
use crate::listen::listen;
use crate::serving::serve_calls;

/// Connections at a time.
const MOST: usize = 64;
/// The format that Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The port, open and not yet served.
pub struct Monitor(TcpListener);

impl Monitor {
    /// Opens the port.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address).await;
        let listener = listener.with_context(|| format!("monitor = \"{address}\": cannot listen there"))?;
        tracing::info!(address = %listener.local_addr()?, "health and metrics");
        Ok(Self(listener))
    }

    /// Serves health by gRPC, and what `metrics` says, until `stop` is cancelled. `None` of it means: not now.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn serve<F, M>(self, health: Routes, metrics: M, stop: CancellationToken) -> anyhow::Result<()>
    where
        M: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<String>> + Send,
    {
        let answer = async move || -> Response {
            match metrics().await {
                Some(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
                None => (StatusCode::SERVICE_UNAVAILABLE, "not now\n").into_response(),
            }
        };
        let routes = health.into_axum_router().merge(Router::new().route("/metrics", get(answer)));
        let incoming = Incoming::new(self.0, None, MOST, stop.clone());
        serve_calls(Server::builder().accept_http1(true), routes.into(), incoming, stop).await?;
        Ok(())
    }
}
