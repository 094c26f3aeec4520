//! One job, from its inputs to an artifact that the coordinator has: fetch, make, put.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use qslm_common::ENGINE_VERSION;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_engine::jobs::{Inputs, JobError, Watch};
use qslm_program::panic_words;
use qslm_proto::convert;
use qslm_proto::v1;
use qslm_proto::v1::work_client::WorkClient;
use qslm_train::jobs;
use qslm_transport::Link;

use crate::backoff::backoff;
use crate::cache::ArtifactCache;
use crate::checkpoints::{Checkpoints, Saved, fetch_checkpoint, put_checkpoints};
use crate::failure::{Cause, EvaluationFailure};
use crate::fetch::{fetch, is_passing};
use crate::put::messages_of;

/// Does the job of a lease. Returns the hash of the artifact, which the coordinator has by then.
pub(crate) async fn make(
    lease: u64,
    job: Job,
    inputs: BTreeMap<String, Vec<u8>>,
    cache: &ArtifactCache,
    client: WorkClient<Link>,
    (interrupt, progress): (Arc<AtomicBool>, Arc<Progress>),
    checkpoints: Checkpoints,
) -> Result<ContentHash, EvaluationFailure> {
    if job.engine_version != ENGINE_VERSION {
        let wanted = job.engine_version;
        let words = format!("this worker's engine is version {ENGINE_VERSION}, the job needs {wanted}");
        return Err(EvaluationFailure::machine(Cause::Other, words));
    }
    let mut files = BTreeMap::new();
    let mut hashes = Vec::new();
    for name in job.inputs.keys() {
        let bytes = inputs.get(name).map(Vec::as_slice).unwrap_or_default();
        let hash = convert::hash("inputs", bytes).map_err(|error| {
            EvaluationFailure::machine(
                Cause::Other,
                format!("this worker cannot read input {name:?}: {error}"),
            )
        })?;
        files.insert(name.clone(), fetch(hash, cache, &client, &interrupt).await?);
        hashes.push(hash);
    }
    let disk = |error: io::Error| EvaluationFailure::machine(Cause::Disk, format!("artifact: {error}"));
    let file = cache.scratch().map_err(disk)?;
    let Checkpoints { every, is_there } = checkpoints;
    let largest = job.largest_checkpoint();
    let left = if is_there { fetch_checkpoint(lease, largest, client.clone()).await } else { None };
    let saved = Arc::new(Saved::default());
    let watching = OnLease { interrupt: interrupt.clone(), progress, left, saved: saved.clone() };
    let mut working = tokio::task::spawn_blocking(move || {
        let mut out = Bounded::new(file, job.largest);
        let files = Inputs::new(files);
        let making = AssertUnwindSafe(|| jobs::make(&job, &files, &watching, &mut out));
        let made = catch_unwind(making).unwrap_or_else(|panic| {
            let words = panic_words(&*panic).unwrap_or("no message");
            Err(JobError::Panicked(format!("the job panicked: {words}")))
        });
        made.and_then(|()| out.finish().map_err(JobError::artifact))
    });
    let putting = put_checkpoints(lease, every, &saved, client.clone());
    let made = tokio::select! {
        made = &mut working => made,
        never = putting => match never {},
    };
    let made = made.map_err(|error| EvaluationFailure::machine(Cause::Other, error))?;
    // As for trials: before a job fails for what is in a file, it has to be that file.
    let (hash, file) = match (made, cache.first_damaged(&hashes).await) {
        (Err(JobError::Interrupted), _) => return Err(EvaluationFailure::Interrupted),
        (_, Some(damaged)) => {
            let words = format!("artifact {damaged} was damaged in the cache while a job read it");
            return Err(EvaluationFailure::machine(Cause::Disk, words));
        }
        (Err(error), None) => return Err(failure(&error)),
        (Ok(made), None) => made,
    };
    put(lease, hash, file, client, &interrupt).await?;
    Ok(hash)
}

/// Whose fault it is that a job made nothing.
fn failure(error: &JobError) -> EvaluationFailure {
    match error {
        // Another worker may know it, or have a disk that works.
        JobError::Kind(_) => EvaluationFailure::machine(Cause::Other, error),
        JobError::Backend(_) => EvaluationFailure::machine(Cause::Backend, error),
        JobError::Io { .. } => EvaluationFailure::machine(Cause::Disk, error),
        JobError::Invalid(_) => EvaluationFailure::evaluation(Cause::Other, error),
        JobError::NotFinite(_) => EvaluationFailure::evaluation(Cause::NotFinite, error),
        JobError::Panicked(_) => EvaluationFailure::evaluation(Cause::Panic, error),
        JobError::Interrupted => EvaluationFailure::Interrupted,
    }
}

/// Progress of a job: steps done, of so many.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    of: AtomicU64,
}

impl Progress {
    /// Steps done, of so many; `None` before the first.
    pub(crate) fn read(&self) -> Option<(u64, u64)> {
        let (done, of) = (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        (of > 0).then_some((done.min(of), of))
    }
}

/// A lease that is not wanted any more stops its job, and whoever asks hears how far it is.
struct OnLease {
    interrupt: Arc<AtomicBool>,
    progress: Arc<Progress>,
    /// Checkpoint of an earlier lease.
    left: Option<Vec<u8>>,
    saved: Arc<Saved>,
}

impl Watch for OnLease {
    fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    fn progress(&self, done: u64, of: u64) {
        self.progress.done.store(done, Ordering::Relaxed);
        self.progress.of.store(of, Ordering::Relaxed);
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.left.as_deref()
    }

    fn is_checkpoint_due(&self) -> bool {
        self.saved.is_due.swap(false, Ordering::Relaxed)
    }

    fn save_checkpoint(&self, checkpoint: Vec<u8>) {
        self.saved.save(checkpoint);
    }
}

/// A file that is hashed as it is written, up to a bound.
struct Bounded {
    file: File,
    hasher: blake3::Hasher,
    left: u64,
    most: u64,
}

impl Bounded {
    fn new(file: File, most: u64) -> Self {
        Self { file, hasher: blake3::Hasher::new(), left: most, most }
    }

    /// The hash of what was written, and the file at its beginning.
    fn finish(mut self) -> io::Result<(ContentHash, File)> {
        self.file.rewind()?;
        Ok((ContentHash::from_bytes(*self.hasher.finalize().as_bytes()), self.file))
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| {
            io::Error::other(format!("it has more than the {} bytes that its job states", self.most))
        })?;
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Puts an artifact, piece by piece. A coordinator that is away is waited for, until the lease is taken away.
async fn put(
    lease: u64,
    hash: ContentHash,
    file: File,
    mut client: WorkClient<Link>,
    interrupt: &AtomicBool,
) -> Result<(), EvaluationFailure> {
    for failures in 1.. {
        let fault = |error| EvaluationFailure::machine(Cause::Disk, format!("artifact: {error}"));
        let mut copy = file.try_clone().map_err(fault)?;
        copy.rewind().map_err(fault)?;
        let (messages, reading) = messages_of(copy, hash, lease);
        let sent = client.put_artifact(messages).await;
        match (sent, reading.await) {
            (_, Ok(Err(error))) => return Err(fault(error)),
            (Ok(_), _) => return Ok(()),
            (Err(status), _) if is_passing(status.code()) => {
                tracing::warn!(artifact = %hash, code = %status.code(), said = status.message(), "cannot be put now");
            }
            (Err(status), _) => {
                return Err(EvaluationFailure::machine(
                    Cause::Other,
                    format!("artifact: {}", status.message()),
                ));
            }
        }
        tokio::time::sleep(backoff(failures)).await;
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
    }
    Err(EvaluationFailure::Interrupted)
}

/// The job of a lease.
///
/// # Errors
/// In one line, if the text is none that this program can read.
pub(crate) fn read(job: &v1::Job) -> Result<Job, EvaluationFailure> {
    Job::decode(&job.text).map_err(|error| {
        EvaluationFailure::machine(Cause::Other, format!("this worker cannot read the job: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_has_no_more_bytes_than_its_job_states() {
        let mut out = Bounded::new(tempfile::tempfile().unwrap(), 5);
        out.write_all(b"four").unwrap();
        let error = out.write_all(b"more").unwrap_err().to_string();
        assert_eq!(error, "it has more than the 5 bytes that its job states");
        out.write_all(b"5").unwrap();
        let (hash, file) = out.finish().unwrap();
        assert_eq!(
            (hash, io::read_to_string(file).unwrap()),
            (ContentHash::of(b"four5"), "four5".to_owned())
        );
    }
}
