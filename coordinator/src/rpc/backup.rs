//! Backups: what one commit left, sent while the driver goes on.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Response, Status};

use super::transfer::{ChunkStream, send_with};
use crate::driver::Handle;
use crate::store::SnapshotError;

/// Backups under way: one at most, since each takes as much of the disk as the store.
#[derive(Debug, Clone)]
pub(super) struct Backups(Arc<Semaphore>);

impl Default for Backups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Backups {
    /// Takes a snapshot and sends it.
    pub(super) async fn send(&self, driver: &Handle) -> Result<Response<ChunkStream>, Status> {
        let place = self.0.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::failed_precondition("another backup is under way"))?;
        let Some(store) = driver.store().upgrade() else { return Err(driver.ended().await.into()) };
        let taken = tokio::task::spawn_blocking(move || {
            // Once nobody else has it, the driver is gone, and the store is to be closed.
            store.snapshot(|| Arc::strong_count(&store) > 1)
        });
        match taken.await.map_err(|error| Status::internal(format!("no snapshot: {error}")))? {
            Ok(file) => Ok(send_with(file, place)),
            Err(SnapshotError::GivenUp) => Err(driver.ended().await.into()),
            Err(error @ SnapshotError::NoSpace { .. }) => Err(Status::resource_exhausted(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}
