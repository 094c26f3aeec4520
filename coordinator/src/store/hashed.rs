//! Hashes of files that were read, so that each is read once per start for that.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Seek};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use qslm_common::hash::ContentHash;
use qslm_program::hash_reader;

use super::file_id::FileId;

/// Hashes by the names of the files. Clones know the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashed {
    files: Arc<Mutex<BTreeMap<ContentHash, Entry>>>,
}

/// The known hash of a file, if there is one. Held while the file is read.
type Entry = Arc<Mutex<Option<Known>>>;

/// A file as it was when it was read, and the hash of its content.
#[derive(Debug)]
struct Known {
    state: State,
    hash: ContentHash,
}

/// State of a file, which changes when somebody writes to it or puts another in its place.
#[derive(Debug, PartialEq, Eq)]
struct State {
    file_id: Option<FileId>,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self { file_id: FileId::of(metadata), bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Hashed {
    /// The hash of an open file, which is at its beginning afterwards. The first time this takes as long as reading it, and
    /// whoever else asks for the same file waits for that.
    pub(super) fn hash(&self, name: &ContentHash, file: &mut File) -> io::Result<ContentHash> {
        let entry = self.entry(name);
        let mut known = lock(&entry);
        let state = State::of(&file.metadata()?);
        if let Some(known) = known.as_ref().filter(|known| known.state == state) {
            return Ok(known.hash);
        }
        let hash = hash_reader(&mut *file)?;
        file.rewind()?;
        *known = Some(Known { state, hash });
        Ok(hash)
    }

    /// Takes the word of whoever wrote the file.
    pub(super) fn note(&self, name: &ContentHash, file: &File) -> io::Result<()> {
        let entry = self.entry(name);
        let state = State::of(&file.metadata()?);
        *lock(&entry) = Some(Known { state, hash: *name });
        Ok(())
    }

    fn entry(&self, name: &ContentHash) -> Entry {
        lock(&self.files).entry(*name).or_default().clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_read_once_and_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let (hashed, name) = (Hashed::default(), ContentHash::of(b"content"));
        let mut file = File::open(&path).unwrap();
        assert_eq!(hashed.hash(&name, &mut file).unwrap(), name);
        assert_eq!(io::read_to_string(&file).unwrap(), "content", "it can be read from its beginning");
        // At its end there would be nothing to hash: it is not read again.
        assert_eq!(hashed.hash(&name, &mut file).unwrap(), name);
        assert_eq!(file.read(&mut [0]).unwrap(), 0);
        for other in ["conten", "content."] {
            std::fs::write(&path, other).unwrap();
            let hash = hashed.hash(&name, &mut File::open(&path).unwrap()).unwrap();
            assert_eq!(hash, ContentHash::of(other.as_bytes()));
        }
    }
}
