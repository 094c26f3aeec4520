//! Copy of a running coordinator's store: received beside its place, checked, and only then put there.
//!
//! The coordinator sends what one commit left, as a store file. That names its artifacts, which are never taken away, so
//! they are fetched afterwards, each checked against its hash, and those that an earlier copy has are not fetched again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use qslm_common::hash::ContentHash;
use qslm_coordinator::store::{ArtifactError, Artifacts, Contents, Store};
use qslm_proto::v1::{ArtifactChunk, BackupRequest, FetchArtifactRequest};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};

/// Copy that has arrived and was checked.
pub struct StoreCopy {
    /// Everything in the store.
    pub contents: Contents,
    /// Bytes of the store file.
    pub bytes: u64,
    /// Artifacts that came with it.
    pub fetched: BTreeSet<ContentHash>,
    /// Bytes of these.
    pub fetched_bytes: u64,
    /// Artifacts that were at their place already.
    pub kept: BTreeSet<ContentHash>,
    /// Inputs that were left out.
    pub left_out: BTreeSet<ContentHash>,
}

/// Receives a store into a file that is there and artifacts into `artifacts`, but for those of which `has` says that they are
/// at their place.
pub async fn receive(
    client: &mut Client,
    store: &Path,
    artifacts: &Artifacts,
    inputs: bool,
    has: impl Fn(&ContentHash) -> bool,
) -> Outcome<StoreCopy> {
    let pieces = client.backup(BackupRequest {}).await?.into_inner();
    let bytes = write(pieces, store).await?;
    let contents = contents_of(store)?;
    let mut copy = StoreCopy {
        contents,
        bytes,
        fetched: BTreeSet::new(),
        fetched_bytes: 0,
        kept: BTreeSet::new(),
        left_out: BTreeSet::new(),
    };
    for (hash, was_made) in copy.contents.artifacts() {
        if !inputs && !was_made {
            copy.left_out.insert(hash);
        } else if has(&hash) {
            copy.kept.insert(hash);
        } else {
            let request = FetchArtifactRequest { hash: hash.as_bytes().to_vec() };
            let pieces = client.fetch_artifact(request).await?.into_inner();
            copy.fetched_bytes += keep(pieces, hash, artifacts).await?;
            copy.fetched.insert(hash);
        }
    }
    Ok(copy)
}

/// Moves what was fetched to its place beside `store`. What is damaged there is replaced.
pub fn settle(copy: &StoreCopy, from: &Artifacts, store: &Path) -> Outcome {
    let place =
        |error: io::Error| Failure::new(Exit::Failure, format!("{}.artifacts: {error}", store.display()));
    let to = Artifacts::beside(store).map_err(place)?;
    for hash in copy.fetched.iter().map(ContentHash::to_string) {
        std::fs::rename(from.folder().join(&hash), to.folder().join(&hash)).map_err(place)?;
    }
    // Renames are durable once the folder is.
    File::open(to.folder()).and_then(|folder| folder.sync_all()).map_err(place)
}

/// Writes what comes into a file; its bytes.
async fn write(
    mut pieces: impl Stream<Item = Result<ArtifactChunk, Status>> + Unpin,
    path: &Path,
) -> Outcome<u64> {
    let failed = |error: io::Error| Failure::file(path, &error);
    let (mut file, mut bytes) = (File::create(path).map_err(failed)?, 0);
    while let Some(piece) = pieces.next().await {
        let data = piece?.data;
        file.write_all(&data).map_err(failed)?;
        bytes += data.len() as u64;
    }
    Ok(bytes)
}

/// Everything in a store that came. Every checksum is compared, and every record read.
fn contents_of(path: &Path) -> Outcome<Contents> {
    let broken =
        |error| Failure::new(Exit::Failure, format!("what the coordinator sent is no whole store: {error}"));
    let read = || Store::open_to_read(path)?.contents();
    tokio::task::block_in_place(read).map_err(broken)
}

/// Keeps an artifact if it is the one of this hash; its bytes.
async fn keep(
    mut pieces: impl Stream<Item = Result<ArtifactChunk, Status>> + Unpin,
    hash: ContentHash,
    artifacts: &Artifacts,
) -> Outcome<u64> {
    let failed = |error: ArtifactError| Failure::new(Exit::Failure, format!("artifact {hash}: {error}"));
    let (mut writer, mut bytes) = (artifacts.create(hash).map_err(failed)?, 0);
    while let Some(piece) = pieces.next().await {
        let data = piece?.data;
        writer.write(&data).map_err(failed)?;
        bytes += data.len() as u64;
    }
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_artifact_that_is_not_what_its_name_says_is_refused_and_so_is_half_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::beside(&folder.path().join("s.redb")).unwrap();
        let hash = ContentHash::of(b"content");
        let piece = |data: &[u8]| Ok(ArtifactChunk { data: data.to_vec() });
        let pieces = |pieces: Vec<Result<ArtifactChunk, Status>>| tokio_stream::iter(pieces);
        let other = keep(pieces(vec![piece(b"con"), piece(b"tents")]), hash, &artifacts).await.unwrap_err();
        assert!(other.to_string().contains("the content hashes to "), "{other}");
        let cut = vec![piece(b"con"), Err(Status::unavailable("the coordinator is stopping"))];
        let cut = keep(pieces(cut), hash, &artifacts).await.unwrap_err();
        assert_eq!(
            (cut.exit(), cut.to_string().as_str()),
            (Exit::Unavailable, "coordinator: the coordinator is stopping")
        );
        assert_eq!(std::fs::read_dir(artifacts.folder()).unwrap().count(), 0);
        assert_eq!(keep(pieces(vec![piece(b"con"), piece(b"tent")]), hash, &artifacts).await.unwrap(), 7);
        assert!(artifacts.has(&hash));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn half_of_a_store_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, half) = (folder.path().join("whole"), folder.path().join("half"));
        drop(Store::open(&whole).unwrap());
        let bytes = std::fs::read(&whole).unwrap();
        let piece = |data: &[u8]| Ok(ArtifactChunk { data: data.to_vec() });
        assert_eq!(write(tokio_stream::iter([piece(&bytes)]), &half).await.unwrap(), bytes.len() as u64);
        assert_eq!(contents_of(&half).unwrap(), Contents::default());
        write(tokio_stream::iter([piece(&bytes[..bytes.len() / 2])]), &half).await.unwrap();
        let error = contents_of(&half).unwrap_err().to_string();
        assert!(error.starts_with("what the coordinator sent is no whole store: "), "{error}");
    }
}
