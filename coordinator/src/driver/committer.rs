//! Group commit: a thread that writes one batch after the other, while the driver goes on. What arrives while a transaction
//! is written goes into the next one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use qslm_common::trial::TrialKey;
use qslm_program::panic_words;

use super::commit_metrics::Metrics;
use super::committed::CommitError;
use super::request::Request;
use crate::crash::{CrashPlan, CrashPoint};
use crate::store::{Store, Write};

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
                let error = CommitError::Panicked(words_of(&*panic));
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
        // Events come when they come; whoever dies at the n-th commit means one of what was asked for or found.
        let counts = writes.iter().any(|write| !matches!(write, Write::Event(_)));
        if counts {
            crash_at.pass(CrashPoint::BeforeCommit);
        }
        let committed = store.commit(&writes).map(|()| measured(&writes)).map_err(CommitError::Store);
        if counts {
            crash_at.pass(CrashPoint::AfterCommit);
        }
        if committed.is_ok() {
            tell_of_artifacts(&writes);
        }
        metrics.note(writes.len() as u64, started);
        let failed = committed.is_err();
        if driver.send(Request::Committed(committed)).is_err() || failed {
            return;
        }
    }
}

/// Logs which jobs' artifacts are on record now. The driver does so for trials, of which it needs to know.
fn tell_of_artifacts(writes: &[Write]) {
    for write in writes {
        if let Write::Made(job, made) = write {
            tracing::debug!(%job, artifact = %made.artifact, "recorded");
        }
    }
}

/// The trials whose sums are among the changes.
pub(super) fn measured(writes: &[Write]) -> Vec<TrialKey> {
    let trial = |write: &Write| match write {
        Write::Measurement(trial, _) => Some(*trial),
        _ => None,
    };
    writes.iter().filter_map(trial).collect()
}

/// Words of a panic, on one line.
pub(super) fn words_of(panic: &(dyn Any + Send)) -> String {
    panic_words(panic).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
