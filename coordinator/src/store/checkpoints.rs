//! Checkpoints of jobs: what a job under way left, so that its next lease goes on from there.
//!
//! One file per job, named by its key, in a folder beside the store. A later checkpoint takes the place of an earlier one,
//! and it goes when the job is done. Nothing depends on it but time: a job gives the same bytes from any checkpoint or from
//! none. So a file that is damaged or cut short is as good as none, and none is forced to disk. They take from the room of
//! the artifacts, and one for which there is none is not kept.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use tempfile::NamedTempFile;

use super::room::{Claim, NoRoom, Room, size};

/// The folder.
#[derive(Debug, Clone)]
pub struct JobCheckpoints {
    folder: PathBuf,
    room: Room,
}

/// A checkpoint on its way in.
pub struct CheckpointWriter {
    announced: ContentHash,
    hasher: blake3::Hasher,
    file: NamedTempFile,
    target: PathBuf,
    claim: Claim,
}

/// Reason why a checkpoint was not kept.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointRefused {
    /// The content is not what was announced.
    #[error("the content is not what was announced")]
    OtherContent,
    /// There is no room for it.
    #[error(transparent)]
    TooMuch(#[from] NoRoom),
    /// The disk fails or is full.
    #[error("cannot store it: {0}")]
    Unwritable(#[from] io::Error),
}

impl JobCheckpoints {
    /// A folder, made when it is needed.
    pub(super) fn new(folder: PathBuf, room: Room) -> Self {
        Self { folder, room }
    }

    /// True if a job left one, damaged or not.
    pub fn has(&self, job: &JobKey) -> bool {
        self.path(job).exists()
    }

    /// Opens the checkpoint of a job, if it is as it was left. Reads it to see.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn open(&self, job: &JobKey) -> io::Result<File> {
        let mut announced = [0; 32];
        let mut file = File::open(self.path(job))?;
        file.read_exact(&mut announced)?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut file, &mut hasher)?;
        if hasher.finalize() != announced {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "damaged"));
        }
        io::Seek::seek(&mut file, io::SeekFrom::Start(32))?;
        Ok(file)
    }

    /// Starts to store a checkpoint of a job under its announced hash.
    ///
    /// # Errors
    /// [`CheckpointRefused`]
    pub fn create(
        &self,
        job: &JobKey,
        announced: ContentHash,
    ) -> Result<CheckpointWriter, CheckpointRefused> {
        let mut claim = self.room.claim(0);
        claim.take(announced.as_bytes().len() as u64)?;
        std::fs::create_dir_all(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(announced.as_bytes())?;
        Ok(CheckpointWriter { announced, hasher: blake3::Hasher::new(), file, target: self.path(job), claim })
    }

    /// Removes the checkpoint of a job, if there is one.
    pub fn remove(&self, job: &JobKey) {
        let path = self.path(job);
        let bytes = size(&path);
        match std::fs::remove_file(path) {
            Ok(()) => self.room.give_back(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%job, %error, "cannot remove the checkpoint of a job that is done"),
        }
    }

    /// Jobs that left one.
    pub fn jobs(&self) -> Vec<JobKey> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let hash = |name: std::ffi::OsString| name.to_str()?.parse::<ContentHash>().ok();
        entries.filter_map(|entry| Some(JobKey::from_bytes(*hash(entry.file_name())?.as_bytes()))).collect()
    }

    fn path(&self, job: &JobKey) -> PathBuf {
        self.folder.join(job.to_string())
    }
}

impl CheckpointWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// If there is no room, or the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointRefused> {
        self.claim.take(bytes.len() as u64)?;
        self.hasher.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// Puts it in the place of the last one.
    ///
    /// # Errors
    /// If the hash is not the announced one, or the disk fails; nothing is kept then.
    pub fn finish(self) -> Result<(), CheckpointRefused> {
        if self.hasher.finalize() != *self.announced.as_bytes() {
            return Err(CheckpointRefused::OtherContent);
        }
        let replaced = size(&self.target);
        self.file.persist(self.target).map_err(|error| error.error)?;
        self.claim.keep(replaced);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_checkpoint_of_a_job_is_there_until_the_job_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(Vec::new());
        let checkpoints = JobCheckpoints::new(folder.path().join("s.redb.checkpoints"), room);
        let job = JobKey::of(b"job");
        assert!(!checkpoints.has(&job) && checkpoints.open(&job).is_err() && checkpoints.jobs().is_empty());
        let put = |announced: &[u8], bytes: &[u8]| {
            let mut writer = checkpoints.create(&job, ContentHash::of(announced)).unwrap();
            writer.write(bytes).unwrap();
            writer.finish()
        };
        put(b"one", b"one").unwrap();
        put(b"two", b"two").unwrap();
        assert_eq!(put(b"three", b"thre").unwrap_err().to_string(), "the content is not what was announced");
        assert_eq!(io::read_to_string(checkpoints.open(&job).unwrap()).unwrap(), "two");
        assert_eq!((checkpoints.has(&job), checkpoints.jobs()), (true, vec![job]));
        // What is damaged is as good as none.
        let path = checkpoints.path(&job);
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..20], b""] {
            std::fs::write(&path, damaged).unwrap();
            assert!(checkpoints.open(&job).is_err());
        }
        checkpoints.remove(&job);
        checkpoints.remove(&job);
        assert!(!checkpoints.has(&job) && checkpoints.jobs().is_empty());
    }
}
