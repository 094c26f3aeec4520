//! Serving: calls and pages of accepted connections, until told to stop.
//!
//! Futures are boxed here, at the border of the package: what speaks HTTP is then compiled once, with it, and not once more
//! with every program that serves.

use std::io;
use std::pin::Pin;

use axum::Router;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::incoming::Incoming;

/// A future whose type is nobody's business.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Serves calls of accepted connections as `server` bounds them, until `stop` is cancelled.
///
/// # Errors
/// If the socket fails.
pub fn serve_calls(
    mut server: Server,
    routes: Routes,
    incoming: Incoming,
    stop: CancellationToken,
) -> Boxed<'static, Result<(), tonic::transport::Error>> {
    let server = server.add_routes(routes);
    Box::pin(server.serve_with_incoming_shutdown(incoming.stream(), stop.cancelled_owned()))
}

/// Serves pages on accepted connections, until `stop` is cancelled.
///
/// # Errors
/// If the socket fails.
pub fn serve_pages(
    pages: Router,
    incoming: Incoming,
    stop: CancellationToken,
) -> Boxed<'static, io::Result<()>> {
    Box::pin(axum::serve(incoming, pages).with_graceful_shutdown(stop.cancelled_owned()).into_future())
}
