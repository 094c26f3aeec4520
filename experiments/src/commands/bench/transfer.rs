//! An artifact on its way to a coordinator and back, as workers send and take it: in pieces and hashed, so that memory
//! does not grow with it.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use qslm_common::hash::ContentHash;
use qslm_program::{hash_file, hash_reader};
use qslm_proto::v1::FetchArtifactRequest;
use qslm_proto::v1::work_client::WorkClient;
use qslm_transport::Link;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;

use crate::client::messages_of;
use crate::exit::{Exit, Failure, Outcome};

/// Makes a file of so many mebibytes that are drawn by chance. Returns its hash.
pub(super) fn make_file(path: &Path, mebibytes: u32) -> Outcome<ContentHash> {
    let write = || {
        let mut file = File::create(path)?;
        let (mut rng, mut block) = (ChaCha8Rng::seed_from_u64(1), vec![0u8; 1 << 20]);
        for _ in 0..mebibytes {
            rng.fill(&mut block[..]);
            file.write_all(&block)?;
        }
        // Or the disk would be busy with it while something else is measured.
        file.sync_all()?;
        hash_file(path)
    };
    write().map_err(|error: io::Error| Failure::file(path, &error))
}

/// Puts a file under the lease of a job.
pub(super) async fn put(mut client: WorkClient<Link>, lease: u64, hash: ContentHash, path: &Path) -> Outcome {
    let (messages, reading) = messages_of(path, &hash, lease)?;
    let sent = client.put_artifact(messages).await;
    match reading.await {
        Ok(Err(error)) => Err(Failure::file(path, &error)),
        _ => Ok(sent.map(drop)?),
    }
}

/// Fetches an artifact and hashes it. Nothing is kept, so no disk but the coordinator's is measured.
pub(super) async fn fetch(mut client: WorkClient<Link>, hash: ContentHash) -> Outcome {
    let request = FetchArtifactRequest { hash: hash.as_bytes().to_vec() };
    let mut stream = client.fetch_artifact(request).await?.into_inner();
    let (sender, receiver) = mpsc::channel(4);
    let hashing =
        tokio::task::spawn_blocking(move || hash_reader(Pieces { receiver, piece: Cursor::default() }));
    while let Some(piece) = stream.message().await? {
        // Nobody takes it if hashing has failed, which is told below.
        if sender.send(piece.data).await.is_err() {
            break;
        }
    }
    drop(sender);
    let came = hashing.await.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    if came != hash {
        return Err(Failure::new(Exit::Failure, format!("the coordinator sent {came} for artifact {hash}")));
    }
    Ok(())
}

/// Pieces as they come, read as one.
struct Pieces {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let Some(next) = self.receiver.blocking_recv() else { return Ok(0) };
            self.piece = Cursor::new(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_one_whatever_their_sizes() {
        let (sender, receiver) = mpsc::channel(8);
        for piece in [&b"one"[..], b"", b"and another", b""] {
            sender.try_send(piece.to_vec()).unwrap();
        }
        drop(sender);
        let pieces = Pieces { receiver, piece: Cursor::default() };
        assert_eq!(io::read_to_string(pieces).unwrap(), "oneand another");
    }

    #[test]
    fn a_file_has_the_size_that_was_asked_for_and_is_named_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("artifact");
        let hash = make_file(&path, 2).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), ContentHash::of(&bytes)), (2 << 20, hash));
    }
}
