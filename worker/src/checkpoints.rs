//! Checkpoints of a job under way: saved now and then at the coordinator, fetched by whoever has the job next.
//!
//! Nothing depends on them but time, so whatever goes wrong with one is logged and forgotten.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qslm_common::hash::ContentHash;
use qslm_proto::v1::FetchCheckpointRequest;
use qslm_proto::v1::work_client::WorkClient;
use qslm_transport::Link;
use tokio::sync::Notify;

use crate::put::messages_of;

/// Time between two checkpoints of a job, unless set.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// Checkpoints of a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkpoints {
    /// Time between two of them.
    pub(crate) every: Duration,
    /// True if the coordinator has one of an earlier lease.
    pub(crate) is_there: bool,
}

/// The last checkpoint that a job saved and nobody put yet.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// True if it is time for another one.
    pub(crate) is_due: AtomicBool,
    last: Mutex<Option<Vec<u8>>>,
    is_there: Notify,
}

impl Saved {
    /// Takes a checkpoint in the place of the last one.
    pub(crate) fn save(&self, checkpoint: Vec<u8>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
        self.is_there.notify_one();
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Asks the job for a checkpoint every so often, and puts what it saves, until this is dropped.
pub(crate) async fn put_checkpoints(
    lease: u64,
    every: Duration,
    saved: &Saved,
    mut client: WorkClient<Link>,
) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        saved.is_due.store(true, Ordering::Relaxed);
        saved.is_there.notified().await;
        let Some(checkpoint) = saved.take() else { continue };
        let bytes = checkpoint.len();
        match put(lease, checkpoint, &mut client).await {
            Ok(()) => tracing::info!(bytes, "left a checkpoint"),
            Err(status) => {
                tracing::warn!(bytes, said = status.message(), "a checkpoint cannot be left now");
            }
        }
    }
}

async fn put(lease: u64, checkpoint: Vec<u8>, client: &mut WorkClient<Link>) -> Result<(), tonic::Status> {
    let hash = ContentHash::of(&checkpoint);
    // What is in memory can be read.
    let (messages, _reading) = messages_of(Cursor::new(checkpoint), hash, lease);
    client.put_checkpoint(messages).await.map(drop)
}

/// Checkpoint of at most `largest` bytes that an earlier lease left, if it can be fetched whole.
pub(crate) async fn fetch_checkpoint(
    lease: u64,
    largest: u64,
    mut client: WorkClient<Link>,
) -> Option<Vec<u8>> {
    let fetched = async {
        let mut stream = client.fetch_checkpoint(FetchCheckpointRequest { lease }).await?.into_inner();
        let mut checkpoint = Vec::new();
        while let Some(piece) = stream.message().await? {
            checkpoint.extend(piece.data);
            if checkpoint.len() as u64 > largest {
                return Err(tonic::Status::out_of_range("it is too large"));
            }
        }
        Ok::<_, tonic::Status>(checkpoint)
    };
    match fetched.await {
        Ok(checkpoint) => {
            tracing::info!(bytes = checkpoint.len(), "goes on from a checkpoint");
            Some(checkpoint)
        }
        Err(status) => {
            tracing::warn!(
                said = status.message(),
                "a checkpoint cannot be fetched: starts from the beginning"
            );
            None
        }
    }
}
