//! Metrics of group commit: transactions, the changes in them, and the time that they take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Counters and histograms of the committer since the coordinator started.
#[derive(Debug)]
pub struct Metrics {
    commits: AtomicU64,
    writes: AtomicU64,
    micros: AtomicU64,
    batch: Histogram,
    seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let [commits, writes, micros] = Default::default();
        // 1 to 1,024 changes; half a millisecond to four seconds.
        let (batch, seconds) = (exponential_buckets(1.0, 2.0, 11), exponential_buckets(0.0005, 2.0, 14));
        Self { commits, writes, micros, batch: Histogram::new(batch), seconds: Histogram::new(seconds) }
    }
}

/// The counters of [`Metrics`] at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Commits {
    /// Transactions.
    pub commits: u64,
    /// Changes that they wrote together.
    pub writes: u64,
    /// Microseconds that they took together.
    pub micros: u64,
}

impl Metrics {
    /// The figures now.
    pub fn read(&self) -> Commits {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Commits { commits: read(&self.commits), writes: read(&self.writes), micros: read(&self.micros) }
    }

    /// Changes per transaction, and seconds that transactions took.
    pub fn histograms(&self) -> (Histogram, Histogram) {
        (self.batch.clone(), self.seconds.clone())
    }

    /// Counts a transaction of so many changes.
    pub(super) fn note(&self, writes: u64, started: Instant) {
        let elapsed = started.elapsed();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes, Ordering::Relaxed);
        self.micros.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
        self.batch.observe(writes as f64);
        self.seconds.observe(elapsed.as_secs_f64());
    }
}
