//! Snapshot of an open store: what one commit left, as a store file of its own, while whoever writes goes on.
//!
//! A read transaction sees one commit, whatever is committed meanwhile. What is freed while it lasts stays in the file, and
//! under load that is a page per result, so it must not wait for anybody: rows are copied at the disk's speed into a file
//! without a name beside the store, and sent from there, however slow the receiver is.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use super::database::Store;
use super::error::StoreError;
use super::whole::{Written, copy_all};

/// Rows that are copied between two looks at whether anybody still wants them.
const OFTEN: u64 = 1024;
/// Bytes beside the snapshot that have to be left free, so that the store itself can go on growing.
const LEFT_FREE: u64 = 64 << 20;

/// Reason why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nobody wants it any more, or the coordinator stops.
    #[error("the snapshot was given up")]
    GivenUp,
    /// The disk has no room for a second file of this size.
    #[error("{folder}: a snapshot may take {needed} bytes and {LEFT_FREE} have to be left, {free} are free")]
    NoSpace {
        /// Folder of the store.
        folder: PathBuf,
        /// Bytes that it may take.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
    /// The folder of the store cannot be written to.
    #[error("{folder}: {error}")]
    Io {
        /// Folder of the store.
        folder: PathBuf,
        /// The words of the system.
        #[source]
        error: io::Error,
    },
    /// The store or its copy fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Copies what the last commit left into a store file without a name, which is returned at its beginning. `is_wanted` is
    /// asked now and then.
    ///
    /// # Errors
    /// [`SnapshotError`]; the store is as it was in any case.
    pub fn snapshot(&self, is_wanted: impl Fn() -> bool) -> Result<File, SnapshotError> {
        let folder = self.path().parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let failed = |error| SnapshotError::Io { folder: folder.to_owned(), error };
        let needed = std::fs::metadata(self.path()).map_err(failed)?.len();
        if let Some(free) = free_bytes(folder).filter(|free| *free < needed + LEFT_FREE) {
            return Err(SnapshotError::NoSpace { folder: folder.to_owned(), needed, free });
        }
        let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
        let copy = Self::in_file(file.try_clone().map_err(failed)?, folder)?;
        let mut rows = 0;
        let mut announce = || -> Written {
            rows += 1;
            match rows % OFTEN == 0 && !is_wanted() {
                true => Err(redb::Error::Io(io::ErrorKind::Interrupted.into())),
                false => Ok(()),
            }
        };
        // Two files, and an error of the copy is none of the store.
        let copied = self.read(|from| Ok(copy.write(|to| copy_all(from, to, &mut announce))))?;
        if !is_wanted() {
            return Err(SnapshotError::GivenUp);
        }
        copied?;
        // Closed, so that it is whole and was closed for whoever opens it.
        drop(copy);
        file.rewind().map_err(failed)?;
        Ok(file)
    }
}

/// Bytes that are free on the disk of a folder, as far as the system tells.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}
