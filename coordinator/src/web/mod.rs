//! The live view: pages for people who look on, on a port of their own. Nothing here changes anything.
//!
//! A page is what the coordinator knows when it is asked for, with a stream of server-sent events that brings the same
//! part of the page again whenever it has changed. However many people look on, a page is made at most once a second.

mod pages;
mod refusal;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use qslm_common::hash::ContentHash;
use qslm_report::page::{self, Page};
use qslm_transport::serving::serve_pages;
use qslm_transport::{Gate, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use pages::{Content, Pages};

use crate::driver::{Handle, Refusal};

/// Streams that may be open; more are refused.
const MOST_STREAMS: usize = 256;
/// Time between two looks of a stream for something new.
const OFTEN: Duration = Duration::from_secs(1);
const NAVIGATION: &[(&str, &str)] = &[("/", "Experiments"), ("/workers", "Workers")];
const SCRIPT: &str = include_str!("live.js");

/// Headers of every answer: a page may show itself, and hear from where it came.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// State that the handlers share.
#[derive(Clone)]
struct Site {
    pages: Arc<Pages>,
    driver: Handle,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves the pages on `listener` until `stop` is cancelled.
///
/// # Errors
/// If the socket fails.
pub async fn serve(
    incoming: Incoming,
    gate: Arc<Gate>,
    driver: Handle,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let on_loopback = incoming.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let site = Site {
        pages: Arc::new(Pages::new(driver.clone())),
        driver,
        streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        stop: stop.clone(),
    };
    let router = Router::new()
        .route("/", get(experiments))
        .route("/workers", get(workers))
        .route("/experiments/{id}", get(experiment))
        .route("/experiments/{id}/report.html", get(report_html))
        .route("/experiments/{id}/report.json", get(report_json))
        .route("/experiments/{id}/front.json", get(front_json))
        .route("/live/experiments", get(live_experiments))
        .route("/live/workers", get(live_workers))
        .route("/live/experiments/{id}", get(live_experiment))
        .route("/live.js", get(async || with_type("text/javascript; charset=utf-8", SCRIPT)))
        .fallback(async || (StatusCode::NOT_FOUND, "no such page\n"))
        .with_state(site);
    let router = gate.guard_pages(router).layer(middleware::from_fn(refusal::frame));
    let router = router.layer(middleware::from_fn_with_state(on_loopback, check_host));
    serve_pages(router, incoming, stop).await
}

/// A page from elsewhere can have its own name point here (DNS rebinding), but it cannot choose which name is asked for.
async fn check_host(State(on_loopback): State<bool>, request: Request, next: Next) -> Response {
    // HTTP/2 says it in the address, HTTP/1 in a header.
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(Authority::as_str).or(header).unwrap_or_default();
    if on_loopback && !names_loopback(host) {
        return (StatusCode::MISDIRECTED_REQUEST, "this is for http://localhost only\n").into_response();
    }
    next.run(request).await
}

/// True if a host, with a port or without, is this machine by a name that cannot mean another.
fn names_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn experiments(State(site): State<Site>) -> Response {
    site.page("qslm", Content::Experiments, "/live/experiments").await
}

async fn workers(State(site): State<Site>) -> Response {
    site.page("qslm: workers", Content::Workers, "/live/workers").await
}

async fn experiment(State(site): State<Site>, Path(id): Path<String>) -> Response {
    // Under its whole id, so that a bookmark of an abbreviation cannot come to mean something else.
    match site.driver.get(id).await {
        Ok(status) => {
            let live = format!("/live/experiments/{}", status.id);
            site.page(&format!("qslm: {}", status.id), Content::Experiment(status.id), &live).await
        }
        Err(refusal) => refuse(&refusal),
    }
}

async fn report_html(State(site): State<Site>, Path(id): Path<String>) -> Response {
    match site.driver.describe(id).await {
        Ok(report) => with_type("text/html; charset=utf-8", page::file(&report)),
        Err(refusal) => refuse(&refusal),
    }
}

async fn report_json(State(site): State<Site>, Path(id): Path<String>) -> Response {
    match site.driver.describe(id).await {
        Ok(report) => {
            let json = serde_json::to_string(&report).expect("the keys of every map of a report are text");
            with_type("application/json", json + "\n")
        }
        Err(refusal) => refuse(&refusal),
    }
}

async fn front_json(State(site): State<Site>, Path(id): Path<String>) -> Response {
    match site.driver.front(id).await {
        Ok(json) => with_type("application/json", json),
        Err(refusal) => refuse(&refusal),
    }
}

async fn live_experiments(State(site): State<Site>) -> Response {
    site.live(Content::Experiments).await
}

async fn live_workers(State(site): State<Site>) -> Response {
    site.live(Content::Workers).await
}

async fn live_experiment(State(site): State<Site>, Path(id): Path<String>) -> Response {
    match site.driver.get(id).await {
        Ok(status) => site.live(Content::Experiment(status.id)).await,
        Err(refusal) => refuse(&refusal),
    }
}

impl Site {
    /// A whole page.
    async fn page(&self, title: &str, content: Content, live: &str) -> Response {
        match self.pages.get(&content).await {
            Ok(body) => {
                let page = Page::live(title, &body, NAVIGATION, live, &revision(&body)).html();
                with_type("text/html; charset=utf-8", page)
            }
            Err(refusal) => refuse(&refusal),
        }
    }

    /// A stream of what is on a page.
    async fn live(self, content: Content) -> Response {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "too many people look on\n").into_response();
        };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(self, content, sender, permit));
        let stream = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default());
        with_headers(stream.into_response())
    }
}

/// Sends what is on a page whenever it has changed, until nobody listens or the coordinator stops.
async fn follow(
    site: Site,
    content: Content,
    sender: mpsc::Sender<Result<Event, Infallible>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut sent: Option<Arc<str>> = None;
    let mut ticks = tokio::time::interval(OFTEN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = site.stop.cancelled() => return,
            () = sender.closed() => return,
        }
        match site.pages.get(&content).await {
            Ok(body) if sent.as_ref() != Some(&body) => {
                // Whoever reads slowly misses what was in between.
                let event = Event::default().id(revision(&body)).data(&*body);
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
                sent = Some(body);
            }
            Ok(_) | Err(Refusal::Busy) => {}
            Err(_) => return,
        }
    }
}

/// Revision of a page: tells its states apart, so that a browser does not draw again what it shows.
fn revision(body: &str) -> String {
    ContentHash::of(body.as_bytes()).short()
}

fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::NotFound(_) => StatusCode::NOT_FOUND,
        Refusal::Ambiguous(_) | Refusal::Conflict(_) | Refusal::NotNow(_) => StatusCode::CONFLICT,
        Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
        Refusal::Busy | Refusal::Stopping | Refusal::Failed(_) | Refusal::Superseded(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    with_headers((status, format!("{refusal}\n")).into_response())
}

fn with_type(kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    with_headers(response)
}

fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_names_of_this_machine() {
        let fine = ["localhost", "LOCALHOST:7478", "127.0.0.1:7478", "127.0.0.9", "[::1]:7478", "[::1]"];
        assert!(fine.into_iter().all(names_loopback));
        let other =
            ["", "evil.example:7478", "localhost.evil.example", "10.0.0.1:7478", "127.0.0.1.evil.example"];
        assert!(!other.into_iter().any(names_loopback));
    }
}
