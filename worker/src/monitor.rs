//! Health and metrics of a worker: that it lives, and what it did. All else a coordinator knows better.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use qslm_transport::Monitor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Counters of what the agents of this process did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Shards in hand: being evaluated, or waiting for a thread.
    pub holding: AtomicU64,
    /// Shards measured.
    pub measured: AtomicU64,
    /// Shards that could not be measured.
    pub failed: AtomicU64,
    /// Tokens processed.
    pub tokens: AtomicU64,
    /// Multiply-accumulates that evaluations computed.
    pub computed: AtomicU64,
    /// Multiply-accumulates that evaluations found in the prefix cache instead.
    pub reused: AtomicU64,
    /// Calls that the coordinator refused or did not answer.
    pub unanswered: AtomicU64,
}

impl Tally {
    /// Name, whether it only grows, help, and value.
    fn table(&self) -> [(&'static str, bool, &'static str, &AtomicU64); 7] {
        [
            (
                "qslm_worker_holding",
                false,
                "Shards in hand: being evaluated, or waiting for a thread",
                &self.holding,
            ),
            ("qslm_worker_measured", true, "Shards measured", &self.measured),
            ("qslm_worker_failed", true, "Shards that could not be measured", &self.failed),
            ("qslm_worker_tokens", true, "Tokens processed", &self.tokens),
            (
                "qslm_worker_macs_computed",
                true,
                "Multiply-accumulates that evaluations computed",
                &self.computed,
            ),
            (
                "qslm_worker_macs_reused",
                true,
                "Multiply-accumulates that evaluations found in the prefix cache instead",
                &self.reused,
            ),
            (
                "qslm_worker_unanswered",
                true,
                "Calls that the coordinator refused or did not answer",
                &self.unanswered,
            ),
        ]
    }
}

/// Serves the port until `stop` is cancelled.
pub async fn serve(port: Monitor, tally: Arc<Tally>, stop: CancellationToken) {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let metrics = move || {
        let tally = tally.clone();
        async move { Some(text(&tally)) }
    };
    if let Err(error) = port.serve(Routes::new(health), metrics, stop).await {
        tracing::error!(%error, "health and metrics stopped");
    }
}

fn text(tally: &Tally) -> String {
    let mut registry = Registry::default();
    for (name, counter, help, value) in tally.table() {
        let value = value.load(Ordering::Relaxed);
        if counter {
            registry.register(name, help, ConstCounter::new(value));
        } else {
            registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        }
    }
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// Name, kind and help of every metric, in the order of the answer.
pub fn reference() -> Vec<(String, &'static str, &'static str)> {
    let row = |(name, counter, help, _): (&str, bool, &'static str, &AtomicU64)| match counter {
        true => (format!("{name}_total"), "counter", help),
        false => (name.to_owned(), "gauge", help),
    };
    Tally::default().table().map(row).to_vec()
}
