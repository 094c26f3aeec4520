//! Checkpoints, texts and tokenizers by content hash, in a folder beside the store.
//!
//! A file is written under a temporary name, hashed on the way, and renamed to its hash only if the hash is
//! the one announced; so a file under a hash's name has that content. Disks and people may change it later, so each is
//! hashed before it is first read, once per start. A damaged file is as good as none: the next upload replaces it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use qslm_common::hash::ContentHash;
use qslm_common::job::LARGEST_DOCUMENT;
use tempfile::NamedTempFile;

use super::checkpoints::JobCheckpoints;
use super::file_id::FileId;
use super::hashed::Hashed;
use super::room::{Claim, NoRoom, Room, size};

/// The folder.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
    checkpoints: JobCheckpoints,
    room: Room,
    hashed: Hashed,
}

/// An artifact on its way in.
pub struct ArtifactWriter {
    announced: ContentHash,
    hasher: blake3::Hasher,
    size: u64,
    file: NamedTempFile,
    target: PathBuf,
    claim: Claim,
    hashed: Hashed,
}

/// Reason why an artifact was not stored, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The content is not what was announced.
    #[error("the content hashes to {actual}, announced was {announced}")]
    OtherContent {
        /// The name it came under.
        announced: ContentHash,
        /// The hash of what came.
        actual: ContentHash,
    },
    /// More bytes than the largest checkpoint has.
    #[error("larger than {} bytes", Artifacts::LARGEST)]
    TooLarge,
    /// There is no room for more.
    #[error(transparent)]
    TooMuch(#[from] NoRoom),
    /// The disk fails or is full.
    #[error("{path}: cannot store the artifact: {error}")]
    Unwritable {
        /// The path that it would have.
        path: PathBuf,
        /// The words of the system.
        #[source]
        error: io::Error,
    },
    /// No such file.
    #[error("no artifact {hash}: {path}: no such file; submit its experiment again to upload it")]
    Missing {
        /// Hash of the artifact.
        hash: ContentHash,
        /// The path that it would have.
        path: PathBuf,
    },
    /// Content that is not what it was when it was stored.
    #[error("{path}: damaged: its content hashes to {actual}; submit its experiment again to replace it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The hash of what is in it.
        actual: ContentHash,
    },
    /// A disk that fails, or a file that may not be read.
    #[error("{path}: cannot read the artifact: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The words of the system.
        #[source]
        error: io::Error,
    },
}

impl Artifacts {
    /// Bytes of the largest artifact that is taken: 16 GiB.
    pub const LARGEST: u64 = 16 << 30;

    /// The folder of a store, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn beside(store: &Path) -> io::Result<Self> {
        let artifacts = Self::of(store);
        std::fs::create_dir_all(&artifacts.folder)?;
        artifacts.room.count()?;
        Ok(artifacts)
    }

    /// The folder of a store to look at, which may not be there.
    pub fn of(store: &Path) -> Self {
        let beside = |ending: &str| {
            let mut name = store.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let (folder, of_checkpoints) = (beside(".artifacts"), beside(".checkpoints"));
        let room = Room::of(vec![folder.clone(), of_checkpoints.clone()]);
        let checkpoints = JobCheckpoints::new(of_checkpoints, room.clone());
        Self { folder, checkpoints, room, hashed: Hashed::default() }
    }

    /// Checkpoints of jobs, which take from the same room.
    pub fn checkpoints(&self) -> &JobCheckpoints {
        &self.checkpoints
    }

    /// Bounds the bytes that artifacts and checkpoints of jobs take together.
    pub fn set_most(&self, bytes: u64) {
        self.room.set_most(bytes);
    }

    /// The folder of the artifacts.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// True if an artifact is there as it was stored. Reads it, unless that was done since the start.
    pub fn has(&self, hash: &ContentHash) -> bool {
        match self.open(hash) {
            Ok(_) => true,
            Err(ArtifactError::Missing { .. }) => false,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        }
    }

    /// Opens an artifact. Reads it to see whether it is as it was stored, unless that was done since the start.
    ///
    /// # Errors
    /// [`ArtifactError`] names the file that is missing, damaged or cannot be read.
    pub fn open(&self, hash: &ContentHash) -> Result<File, ArtifactError> {
        let path = self.path(hash);
        let opened = File::open(&path).and_then(|mut file| Ok((self.hashed.hash(hash, &mut file)?, file)));
        match opened {
            Ok((actual, file)) if actual == *hash => Ok(file),
            Ok((actual, _)) => Err(ArtifactError::Damaged { path, actual }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ArtifactError::Missing { hash: *hash, path })
            }
            Err(error) => Err(ArtifactError::Unreadable { path, error }),
        }
    }

    /// Content of a document: an artifact that a search reads.
    ///
    /// # Errors
    /// See [`Artifacts::open`]; also if it is longer than a document may be.
    pub fn document(&self, hash: &ContentHash) -> Result<Vec<u8>, ArtifactError> {
        let (mut content, path) = (Vec::new(), self.path(hash));
        let read = self.open(hash)?.take(LARGEST_DOCUMENT + 1).read_to_end(&mut content);
        let read = read.and_then(|bytes| match bytes as u64 > LARGEST_DOCUMENT {
            true => Err(io::Error::other(format!(
                "{bytes} bytes or more: a document has at most {LARGEST_DOCUMENT}"
            ))),
            false => Ok(content),
        });
        read.map_err(|error| ArtifactError::Unreadable { path, error })
    }

    /// Gives `target` every artifact that it does not have, as a link where both are on one disk. One that both have is
    /// replaced if only this one is undamaged; else content is checked when it is used.
    ///
    /// # Errors
    /// [`ArtifactError`] names the file that cannot be read or written.
    pub fn copy_to(&self, target: &Self) -> Result<(), ArtifactError> {
        let unreadable = |error| ArtifactError::Unreadable { path: self.folder.clone(), error };
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(unreadable)?,
        };
        for entry in entries {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            // Anything else is no artifact, or one that never became whole.
            let Some(hash) = name.to_str().and_then(|name| name.parse::<ContentHash>().ok()) else {
                continue;
            };
            let (from, to) = (entry.path(), target.path(&hash));
            if !to.exists() && std::fs::hard_link(&from, &to).is_ok() {
                continue;
            }
            let linked = || file_id(&to).is_some_and(|there| file_id(&from) == Some(there));
            if !to.exists() || !linked() && !target.has(&hash) && self.has(&hash) {
                let file = File::open(&from);
                let file = file.map_err(|error| ArtifactError::Unreadable { path: from, error })?;
                target.put(file, &to).map_err(|error| unwritable(to, error))?;
            }
        }
        Ok(())
    }

    fn put(&self, mut file: File, to: &Path) -> io::Result<()> {
        let mut copy = NamedTempFile::new_in(&self.folder)?;
        io::copy(&mut file, &mut copy)?;
        copy.as_file().sync_all()?;
        copy.persist(to).map_err(|error| error.error)?;
        Ok(())
    }

    /// Starts to store an artifact under its announced hash. Reads one that is there already, as [`Self::open`] does.
    ///
    /// # Errors
    /// If no file can be made in the folder.
    pub fn create(&self, announced: ContentHash) -> Result<ArtifactWriter, ArtifactError> {
        let target = self.path(&announced);
        // Somebody may have removed it. Nothing above it is made: without that there is no store either.
        if std::fs::create_dir(&self.folder).is_ok() {
            self.room.count().map_err(|error| unwritable(target.clone(), error))?;
        }
        let file = NamedTempFile::new_in(&self.folder).map_err(|error| unwritable(target.clone(), error))?;
        // What is damaged has to go, so it takes nobody's room.
        let damaged = target.exists() && self.open(&announced).is_err();
        let claim = self.room.claim(if damaged { size(&target) } else { 0 });
        Ok(ArtifactWriter {
            announced,
            hasher: blake3::Hasher::new(),
            size: 0,
            file,
            target,
            claim,
            hashed: self.hashed.clone(),
        })
    }

    pub(super) fn path(&self, hash: &ContentHash) -> PathBuf {
        self.folder.join(hash.to_string())
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    FileId::of(&std::fs::metadata(path).ok()?)
}

fn unwritable(path: PathBuf, error: io::Error) -> ArtifactError {
    ArtifactError::Unwritable { path, error }
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
        self.claim.take(bytes.len() as u64)?;
        self.hasher.update(bytes);
        // Not through the temporary file itself, which adds a name that tells nobody anything.
        let written = self.file.as_file_mut().write_all(bytes);
        written.map_err(|error| unwritable(self.target.clone(), error))
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
        let path = self.target.clone();
        self.keep().map_err(|error| unwritable(path, error))
    }

    fn keep(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let replaced = size(&self.target);
        let file = self.file.persist(&self.target).map_err(|error| error.error)?;
        self.claim.keep(replaced);
        self.hashed.note(&self.announced, &file)?;
        // The rename is durable once the folder is.
        let folder = self.target.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn bounded(store: &Path, bytes: u64) -> Artifacts {
        let artifacts = Artifacts::beside(store).unwrap();
        artifacts.set_most(bytes);
        artifacts
    }

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
    fn a_damaged_artifact_is_as_good_as_none_until_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("s.redb");
        let hash = ContentHash::of(b"content");
        let put = |artifacts: &Artifacts| {
            let mut writer = artifacts.create(hash).unwrap();
            writer.write(b"content")?;
            writer.finish()
        };
        let artifacts = Artifacts::beside(&store).unwrap();
        assert!(matches!(artifacts.open(&hash), Err(ArtifactError::Missing { .. })));
        put(&artifacts).unwrap();
        let path = artifacts.path(&hash);
        for (hours, damage) in (1..).zip(["", "conten", "content.", "CONTENT"]) {
            std::fs::write(&path, damage).unwrap();
            // Clocks of file systems are slow.
            let later = SystemTime::now() + Duration::from_secs(3600 * hours);
            File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
            // Also by a coordinator that never saw it otherwise, and where there is no room for two.
            let again = bounded(&store, 7);
            for artifacts in [&artifacts, &again] {
                assert!(!artifacts.has(&hash));
                let error = artifacts.open(&hash).unwrap_err().to_string();
                let actual = ContentHash::of(damage.as_bytes());
                assert!(error.starts_with(&format!("{}: damaged: ", path.display())), "{error}");
                assert!(error.contains(&actual.to_string()), "{error}");
            }
            put(&again).unwrap();
            assert!(again.has(&hash) && artifacts.has(&hash));
            let mut more = again.create(ContentHash::of(b"1")).unwrap();
            assert!(matches!(more.write(b"1"), Err(ArtifactError::TooMuch(_))), "the room is taken once");
        }
        // Whoever removes the folder removes the artifacts, not the place for them.
        std::fs::remove_dir_all(artifacts.folder()).unwrap();
        assert!(!artifacts.has(&hash));
        put(&artifacts).unwrap();
        assert!(artifacts.has(&hash));
    }

    #[test]
    fn artifacts_of_stores_that_are_joined_mend_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let beside = |name: &str| Artifacts::beside(&folder.path().join(name)).unwrap();
        let hash = ContentHash::of(b"content");
        let put = |name: &str, content: &str| {
            let artifacts = beside(name);
            std::fs::write(artifacts.path(&hash), content).unwrap();
            artifacts
        };
        let (damaged, sound) = (put("damaged", "conten"), put("sound", "content"));
        for (name, parts) in [("one", [&damaged, &sound]), ("other", [&sound, &damaged])] {
            let target = beside(name);
            for part in parts {
                part.copy_to(&target).unwrap();
            }
            assert_eq!(std::fs::read(target.path(&hash)).unwrap(), b"content", "{name}");
        }
        assert_eq!(std::fs::read(damaged.path(&hash)).unwrap(), b"conten", "what is read stays as it is");
        Artifacts::of(&folder.path().join("nowhere")).copy_to(&sound).unwrap();
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
        let artifacts = bounded(&store, 12);
        let error = put(&artifacts, b"thirteen byte", b"thirteen byte").unwrap_err().to_string();
        assert_eq!(error, "all artifacts together may take 12 bytes (artifacts_max_bytes)");
        assert!(matches!(put(&artifacts, b"x", b"nine byte"), Err(ArtifactError::OtherContent { .. })));
        for _ in 0..3 {
            put(&artifacts, b"sixsix", b"sixsix").unwrap();
        }
        assert!(matches!(put(&artifacts, b"seven7!", b"seven7!"), Err(ArtifactError::TooMuch(NoRoom(12)))));
        put(&artifacts, b"sixfit", b"sixfit").unwrap();
        // After a restart, too.
        let again = bounded(&store, 12);
        assert!(matches!(put(&again, b"1", b"1"), Err(ArtifactError::TooMuch(NoRoom(12)))));
    }

    #[test]
    fn checkpoints_of_jobs_take_from_the_same_room_until_their_jobs_are_done() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("s.redb");
        let artifacts = bounded(&store, 100);
        let put = |bytes: usize| {
            let content = vec![7; bytes];
            let mut writer = artifacts.create(ContentHash::of(&content))?;
            writer.write(&content)?;
            writer.finish()
        };
        let leave = |artifacts: &Artifacts, bytes: usize| {
            let content = vec![7; bytes];
            let mut writer = artifacts.checkpoints().create(&job(), ContentHash::of(&content))?;
            writer.write(&content)?;
            writer.finish()
        };
        put(20).unwrap();
        // Each with the hash of what is in it; the next takes the place of the last, once it is whole.
        leave(&artifacts, 8).unwrap();
        leave(&artifacts, 7).unwrap();
        let error = leave(&artifacts, 10).unwrap_err().to_string();
        assert_eq!(error, "all artifacts together may take 100 bytes (artifacts_max_bytes)");
        put(41).unwrap();
        assert!(matches!(put(1), Err(ArtifactError::TooMuch(NoRoom(100)))));
        let again = bounded(&store, 100);
        assert!(leave(&again, 0).is_err(), "what a coordinator finds takes room, too");
        artifacts.checkpoints().remove(&job());
        put(39).unwrap();
        assert!(matches!(put(1), Err(ArtifactError::TooMuch(NoRoom(100)))));
    }

    fn job() -> qslm_common::job::JobKey {
        qslm_common::job::JobKey::of(b"job")
    }
}
