//! Checkpoints, texts and tokenizers by content hash, in a folder beside the store.
//!
//! A file is written under a temporary name, hashed on the way, and renamed to its hash only if the hash is
//! the one announced; so a file under a hash's name has that content.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qslm_common::hash::ContentHash;
use tempfile::NamedTempFile;

/// The folder.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
    /// Bytes that are there or under way, and how many there may be.
    used: Arc<AtomicU64>,
    most: u64,
}

/// An artifact on its way in.
pub struct ArtifactWriter {
    announced: ContentHash,
    hasher: blake3::Hasher,
    size: u64,
    file: NamedTempFile,
    target: PathBuf,
    room: Room,
}

/// Bytes that are taken off what there is room for, until they are kept or the upload is over.
#[derive(Debug)]
struct Room {
    used: Arc<AtomicU64>,
    most: u64,
    taken: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<(), ArtifactError> {
        self.taken += bytes;
        if self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.most {
            return Err(ArtifactError::TooMuch(self.most));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Why an artifact was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The content is not what was announced.
    #[error("the content hashes to {actual}, announced was {announced}")]
    OtherContent {
        /// The name it came under.
        announced: ContentHash,
        /// What it is.
        actual: ContentHash,
    },
    /// More than anybody's checkpoint.
    #[error("larger than {} bytes", Artifacts::LARGEST)]
    TooLarge,
    /// There is no room for more.
    #[error("all artifacts together may take {0} bytes (artifacts_max_bytes)")]
    TooMuch(u64),
    /// The disk fails or is full.
    #[error("cannot store: {0}")]
    Io(#[from] io::Error),
}

impl Artifacts {
    /// Bytes of the largest artifact that is taken: 16 GiB.
    pub const LARGEST: u64 = 16 << 30;

    /// The folder of a store, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn beside(store: &Path) -> io::Result<Self> {
        let mut name = store.as_os_str().to_owned();
        name.push(".artifacts");
        std::fs::create_dir_all(&name)?;
        let mut used = 0;
        for entry in std::fs::read_dir(&name)? {
            used += entry?.metadata()?.len();
        }
        Ok(Self { folder: name.into(), used: Arc::new(used.into()), most: u64::MAX })
    }

    /// The same, of at most so many bytes together.
    #[must_use]
    pub fn at_most(self, bytes: u64) -> Self {
        Self { most: bytes, ..self }
    }

    /// Where the artifacts are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether an artifact is there.
    pub fn has(&self, hash: &ContentHash) -> bool {
        self.path(hash).is_file()
    }

    /// Opens an artifact; `NotFound` if it is not there.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn open(&self, hash: &ContentHash) -> io::Result<File> {
        File::open(self.path(hash))
    }

    /// Copies every artifact that `target` does not have, or links it where both are on one disk. Content is checked
    /// when it is used: workers hash what they fetch.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn copy_to(&self, target: &Self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            // Anything else is no artifact, or one that never became whole.
            let Some(hash) = name.to_str().and_then(|name| name.parse::<ContentHash>().ok()) else {
                continue;
            };
            let to = target.path(&hash);
            if !to.exists() && std::fs::hard_link(entry.path(), &to).is_err() {
                let copy = NamedTempFile::new_in(&target.folder)?;
                std::fs::copy(entry.path(), copy.path())?;
                copy.as_file().sync_all()?;
                copy.persist(&to).map_err(|error| error.error)?;
            }
        }
        Ok(())
    }

    /// Starts to store an artifact under its announced hash.
    ///
    /// # Errors
    /// If no file can be made in the folder.
    pub fn create(&self, announced: ContentHash) -> Result<ArtifactWriter, ArtifactError> {
        Ok(ArtifactWriter {
            announced,
            hasher: blake3::Hasher::new(),
            size: 0,
            file: NamedTempFile::new_in(&self.folder)?,
            target: self.path(&announced),
            room: Room { used: self.used.clone(), most: self.most, taken: 0 },
        })
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.folder.join(hash.to_string())
    }
}

impl ArtifactWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`] or a failing disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.size += bytes.len() as u64;
        if self.size > Artifacts::LARGEST {
            return Err(ArtifactError::TooLarge);
        }
        self.room.take(bytes.len() as u64)?;
        self.hasher.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// Makes the artifact visible and durable.
    ///
    /// # Errors
    /// [`ArtifactError::OtherContent`] if the hash is not the announced one; nothing is kept then.
    pub fn finish(mut self) -> Result<(), ArtifactError> {
        let actual = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        if actual != self.announced {
            return Err(ArtifactError::OtherContent { announced: self.announced, actual });
        }
        self.file.as_file().sync_all()?;
        // What is there already is replaced by the same.
        if !self.target.exists() {
            self.room.taken = 0;
        }
        self.file.persist(&self.target).map_err(|error| error.error)?;
        // The rename is durable once the folder is.
        let folder = self.target.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_announced_content_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::beside(&folder.path().join("s.redb")).unwrap();
        let hash = ContentHash::of(b"content");
        let put = |bytes: &[u8]| {
            let mut writer = artifacts.create(hash).unwrap();
            writer.write(bytes).unwrap();
            writer.finish()
        };
        assert!(matches!(put(b"other"), Err(ArtifactError::OtherContent { .. })));
        assert!(!artifacts.has(&hash));
        put(b"content").unwrap();
        assert_eq!(io::read_to_string(artifacts.open(&hash).unwrap()).unwrap(), "content");
        // Nothing but the artifact is left behind.
        assert_eq!(std::fs::read_dir(artifacts.folder()).unwrap().count(), 1);
    }

    #[test]
    fn there_is_room_for_so_many_bytes_and_what_was_not_kept_gives_its_room_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("s.redb");
        let put = |artifacts: &Artifacts, announced: &[u8], bytes: &[u8]| {
            let mut writer = artifacts.create(ContentHash::of(announced))?;
            writer.write(bytes)?;
            writer.finish()
        };
        let artifacts = Artifacts::beside(&store).unwrap().at_most(12);
        let error = put(&artifacts, b"thirteen byte", b"thirteen byte").unwrap_err().to_string();
        assert_eq!(error, "all artifacts together may take 12 bytes (artifacts_max_bytes)");
        assert!(matches!(put(&artifacts, b"x", b"nine byte"), Err(ArtifactError::OtherContent { .. })));
        for _ in 0..3 {
            put(&artifacts, b"sixsix", b"sixsix").unwrap();
        }
        assert!(matches!(put(&artifacts, b"seven7!", b"seven7!"), Err(ArtifactError::TooMuch(12))));
        put(&artifacts, b"sixfit", b"sixfit").unwrap();
        // After a restart, too.
        let again = Artifacts::beside(&store).unwrap().at_most(12);
        assert!(matches!(put(&again, b"1", b"1"), Err(ArtifactError::TooMuch(12))));
    }
}
