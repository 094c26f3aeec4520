//! Cache of artifacts on this machine: fetched from the coordinator by hash, checked, kept within a bound.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use qslm_common::hash::ContentHash;
use qslm_program::hash_file;
use qslm_proto::v1::FetchArtifactRequest;
use qslm_proto::v1::work_client::WorkClient;
use qslm_transport::Link;
use tokio::sync::Mutex;

/// A folder of artifacts, each named by its hash.
pub struct ArtifactCache {
    folder: PathBuf,
    max_bytes: u64,
    /// Artifacts that this process fetched or checked, with their sizes. Held while fetching, so that nothing is fetched twice.
    checked: Mutex<BTreeMap<ContentHash, u64>>,
}

/// Reason why an artifact is not there.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk fails or is full.
    #[error("artifact cache {folder}: {error}")]
    Io {
        /// The cache's folder.
        folder: PathBuf,
        /// The words of the system.
        #[source]
        error: io::Error,
    },
    /// The coordinator does not hand it out.
    #[error("cannot fetch artifact {hash}: {}", .status.message())]
    Fetch {
        /// Hash of the artifact.
        hash: ContentHash,
        /// The coordinator's answer. Its words are in the text; it is no source, which would say them twice.
        status: tonic::Status,
    },
    /// Content that is not what was asked for.
    #[error("the coordinator sent {actual} for artifact {hash}")]
    OtherContent {
        /// The hash that was asked for.
        hash: ContentHash,
        /// The hash of what came.
        actual: ContentHash,
    },
    /// An artifact that does not fit into the cache.
    #[error("artifact {hash} is larger than the cache (cache_max_bytes = {max_bytes})")]
    TooLarge {
        /// Hash of the artifact.
        hash: ContentHash,
        /// The bound of the cache.
        max_bytes: u64,
    },
}

impl ArtifactCache {
    /// A cache in `folder`, made if it is not there, of at most `max_bytes`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: PathBuf, max_bytes: u64) -> Result<Self, CacheError> {
        match fs::create_dir_all(&folder) {
            Ok(()) => Ok(Self { folder, max_bytes, checked: Mutex::default() }),
            Err(error) => Err(CacheError::Io { folder, error }),
        }
    }

    /// The path of an artifact, fetched through `client` if it is not there.
    ///
    /// # Errors
    /// [`CacheError`] says why it cannot be had.
    pub async fn ensure(
        &self,
        hash: ContentHash,
        client: &mut WorkClient<Link>,
    ) -> Result<PathBuf, CacheError> {
        let path = self.folder.join(hash.to_string());
        let mut checked = self.checked.lock().await;
        let size = || fs::metadata(&path).map(|metadata| metadata.len()).ok();
        // One that was cut short meanwhile would be read beyond its end.
        let known = checked.get(&hash).is_some_and(|checked| size() == Some(*checked));
        if !known {
            // A file left by an earlier process may have been damaged since.
            let intact = tokio::task::block_in_place(|| hash_file(&path).is_ok_and(|found| found == hash));
            if !intact {
                self.fetch(hash, &path, client).await?;
            }
            checked.extend(size().map(|size| (hash, size)));
        }
        // So that what is in use is thrown out last.
        if let Ok(file) = File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(path)
    }

    /// A file without a name on the cache's disk, for what is made here.
    ///
    /// # Errors
    /// If none can be made.
    pub fn scratch(&self) -> io::Result<File> {
        // Somebody may have tidied up.
        fs::create_dir_all(&self.folder)?;
        tempfile::tempfile_in(&self.folder)
    }

    /// The first of these artifacts that is not any more what was fetched; it is fetched again next time.
    pub async fn first_damaged(&self, hashes: &[ContentHash]) -> Option<ContentHash> {
        let mut checked = self.checked.lock().await;
        let is_damaged = |hash: &&ContentHash| {
            let path = self.folder.join(hash.to_string());
            tokio::task::block_in_place(|| hash_file(&path).map_or(true, |found| found != **hash))
        };
        let damaged = hashes.iter().find(is_damaged).copied()?;
        checked.remove(&damaged);
        Some(damaged)
    }

    async fn fetch(
        &self,
        hash: ContentHash,
        path: &Path,
        client: &mut WorkClient<Link>,
    ) -> Result<(), CacheError> {
        let refuse = |status| CacheError::Fetch { hash, status };
        let failed = |error| CacheError::Io { folder: self.folder.clone(), error };
        let request = FetchArtifactRequest { hash: hash.as_bytes().to_vec() };
        let mut stream = client.fetch_artifact(request).await.map_err(refuse)?.into_inner();
        // Somebody may have tidied up.
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = stream.message().await.map_err(refuse)? {
            size += chunk.data.len() as u64;
            if size > self.max_bytes {
                return Err(CacheError::TooLarge { hash, max_bytes: self.max_bytes });
            }
            hasher.update(&chunk.data);
            tokio::task::block_in_place(|| file.write_all(&chunk.data)).map_err(failed)?;
        }
        let actual = ContentHash::from_bytes(*hasher.finalize().as_bytes());
        if actual != hash {
            return Err(CacheError::OtherContent { hash, actual });
        }
        self.make_room(size).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        tracing::info!(artifact = %hash, bytes = size, "fetched");
        Ok(())
    }

    /// Throws out the artifacts used longest ago until `size` more bytes fit.
    fn make_room(&self, size: u64) -> io::Result<()> {
        let mut artifacts = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_artifact = entry.file_name().to_str().is_some_and(|n| n.parse::<ContentHash>().is_ok());
            let metadata = entry.metadata()?;
            if is_artifact && metadata.is_file() {
                artifacts.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        artifacts.sort();
        let mut total: u64 = artifacts.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in artifacts {
            if total.saturating_add(size) <= self.max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_artifacts_used_longest_ago_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::new(folder.path().to_owned(), 100).unwrap();
        let put = |name: &str, age: u64| {
            let path = folder.path().join(ContentHash::of(name.as_bytes()).to_string());
            fs::write(&path, [0; 40]).unwrap();
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let (old, new) = (put("old", 100), put("new", 1));
        fs::write(folder.path().join("not-an-artifact"), [0; 40]).unwrap();
        cache.make_room(20).unwrap();
        assert!(old.exists() && new.exists());
        cache.make_room(50).unwrap();
        assert!(!old.exists() && new.exists());
        assert!(folder.path().join("not-an-artifact").exists());
    }
}
