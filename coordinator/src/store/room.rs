//! Room: how many bytes the files beside a store may take together, and how many they take.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Room for the files of some folders. Whoever has a copy takes from the same room.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folders: Vec<PathBuf>,
    /// Bytes that are there or under way.
    used: AtomicU64,
    /// Bytes that there may be.
    most: AtomicU64,
}

/// There is no room for more than so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all artifacts together may take {0} bytes (artifacts_max_bytes)")]
pub struct NoRoom(pub u64);

/// Bytes that are taken for a file under way: given back when it is dropped, unless they are kept.
#[derive(Debug)]
pub(super) struct Claim {
    room: Room,
    taken: u64,
    /// Bytes that may be taken beyond the room: those of a file that has to go.
    beyond: u64,
}

impl Room {
    /// Room without a bound, nothing of which is taken.
    pub(super) fn of(folders: Vec<PathBuf>) -> Self {
        Self(Arc::new(Inner { folders, used: AtomicU64::new(0), most: AtomicU64::new(u64::MAX) }))
    }

    /// Sets the bound.
    pub(super) fn set_most(&self, bytes: u64) {
        self.0.most.store(bytes, Ordering::Relaxed);
    }

    /// Counts what is there. A folder that is not there takes nothing.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(super) fn count(&self) -> io::Result<()> {
        let mut used = 0;
        for folder in &self.0.folders {
            let entries = match std::fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                used += entry?.metadata()?.len();
            }
        }
        self.0.used.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// Takes nothing yet, for a file to come. `beyond` are bytes that it may take though there is no room.
    pub(super) fn claim(&self, beyond: u64) -> Claim {
        Claim { room: self.clone(), taken: 0, beyond }
    }

    /// Gives bytes back.
    pub(super) fn give_back(&self, bytes: u64) {
        // There may be less than that, if somebody removed the folder.
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Claim {
    /// Takes more bytes.
    ///
    /// # Errors
    /// [`NoRoom`]; they are taken all the same, until this is dropped.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.taken += bytes;
        let most = self.room.0.most.load(Ordering::Relaxed);
        let used = self.room.0.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > most.saturating_add(self.beyond) { Err(NoRoom(most)) } else { Ok(()) }
    }

    /// Keeps what was taken; gives back what the file takes the place of.
    pub(super) fn keep(mut self, replaced: u64) {
        self.taken = replaced;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.room.give_back(self.taken);
    }
}

/// Bytes of a file; none if it is not there.
pub(super) fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_takes_room_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(vec![folder.path().to_owned(), folder.path().join("none")]);
        std::fs::write(folder.path().join("a"), "1234").unwrap();
        room.count().unwrap();
        room.set_most(10);
        let mut claim = room.claim(0);
        assert_eq!((claim.take(6), claim.take(1)), (Ok(()), Err(NoRoom(10))));
        drop(claim);
        let mut claim = room.claim(0);
        assert_eq!(claim.take(6), Ok(()));
        claim.keep(0);
        assert_eq!(room.claim(0).take(1), Err(NoRoom(10)));
        assert_eq!(room.claim(1).take(1), Ok(()));
        // In the place of one of four bytes.
        let mut claim = room.claim(4);
        claim.take(3).unwrap();
        claim.keep(4);
        assert_eq!((room.claim(0).take(1), room.claim(0).take(2)), (Ok(()), Err(NoRoom(10))));
        room.give_back(u64::MAX);
        assert_eq!(room.claim(0).take(10), Ok(()));
    }
}
