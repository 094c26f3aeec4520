//! The committer: a thread that writes one batch after the other, while the driver goes on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use qslm_common::hash::ContentHash;

use super::request::Request;
use crate::crash::{CrashPlan, CrashPoint};
use crate::store::{Store, StoreError, Write};

/// What the committer did since the coordinator started.
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

/// A look at [`Metrics`].
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

    fn note(&self, writes: u64, started: Instant) {
        let elapsed = started.elapsed();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes, Ordering::Relaxed);
        self.micros.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
        self.batch.observe(writes as f64);
        self.seconds.observe(elapsed.as_secs_f64());
    }
}

/// A way to hand batches to the thread.
pub(super) struct Committer {
    batches: Sender<Vec<Write>>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. It reports to the driver through `driver`.
    pub(super) fn start(
        store: Arc<Store>,
        crash_at: CrashPlan,
        metrics: Arc<Metrics>,
        driver: SyncSender<Request>,
    ) -> std::io::Result<Self> {
        let (batches, receiver) = channel();
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
            let work = AssertUnwindSafe(|| work(&store, crash_at, &metrics, &receiver, &driver));
            if let Err(panic) = catch_unwind(work) {
                // The driver would wait for ever.
                let error = CommitError::Panicked(panic_words(&*panic));
                drop(driver.send(Request::Committed(Err(error))));
            }
        })?;
        Ok(Self { batches, thread })
    }

    /// Writes a batch; [`Request::Committed`] follows.
    pub(super) fn commit(&self, writes: Vec<Write>) {
        // The thread ends after an error only, which ends the driver, too.
        drop(self.batches.send(writes));
    }

    /// Ends the thread, so that nobody holds the store any more.
    pub(super) fn join(self) {
        drop(self.batches);
        // If it panicked, the driver knows.
        drop(self.thread.join());
    }
}

fn work(
    store: &Store,
    mut crash_at: CrashPlan,
    metrics: &Metrics,
    batches: &Receiver<Vec<Write>>,
    driver: &SyncSender<Request>,
) {
    for writes in batches {
        let started = Instant::now();
        crash_at.pass(CrashPoint::BeforeCommit);
        let committed = store.commit(&writes).map(|()| measured(&writes)).map_err(CommitError::Store);
        crash_at.pass(CrashPoint::AfterCommit);
        metrics.note(writes.len() as u64, started);
        let failed = committed.is_err();
        if driver.send(Request::Committed(committed)).is_err() || failed {
            return;
        }
    }
}

/// The trials whose sums are among the changes.
pub(super) fn measured(writes: &[Write]) -> Vec<ContentHash> {
    let trial = |write: &Write| match write {
        Write::Measurement(trial, _) => Some(*trial),
        _ => None,
    };
    writes.iter().filter_map(trial).collect()
}

/// What the driver hears of a batch.
pub(super) type Committed = Result<Vec<ContentHash>, CommitError>;

/// Why a batch may not be on disk.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that writes is gone.
    #[error("the thread that writes the store panicked: {0}")]
    Panicked(String),
}

/// What a panic said, on one line.
pub(super) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}
