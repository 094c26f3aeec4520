//! Checkpoints, texts and tokenizers by content hash, in a folder beside the store.
//!
//! A file is written under a temporary name, hashed on the way, and renamed to its hash only if the hash is
//! the one announced; so a file under a hash's name has that content.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use qslm_common::hash::ContentHash;
use tempfile::NamedTempFile;

/// The folder.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
}

/// An artifact on its way in.
pub struct ArtifactWriter {
    announced: ContentHash,
    hasher: blake3::Hasher,
    size: u64,
    file: NamedTempFile,
    target: PathBuf,
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
        Ok(Self { folder: name.into() })
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
        self.hasher.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// Makes the artifact visible and durable.
    ///
    /// # Errors
    /// [`ArtifactError::OtherContent`] if the hash is not the announced one; nothing is kept then.
    pub fn finish(self) -> Result<(), ArtifactError> {
        let actual = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        if actual != self.announced {
            return Err(ArtifactError::OtherContent { announced: self.announced, actual });
        }
        self.file.as_file().sync_all()?;
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
}
