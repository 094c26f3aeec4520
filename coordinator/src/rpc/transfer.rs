//! Artifacts on the wire: a stream of pieces, read from and written to disk as they come, so that memory does not grow with
//! an artifact.

use std::fs::File;
use std::io::Read;

use qslm_common::hash::ContentHash;
use qslm_proto::convert;
use qslm_proto::v1::{ArtifactChunk, PutArtifactRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{CHUNK, refuse};
use crate::store::Artifacts;

/// Stream of an artifact's pieces.
pub(super) type ChunkStream = ReceiverStream<Result<ArtifactChunk, Status>>;

/// Opens an artifact and sends it, piece by piece.
pub(super) async fn fetch(artifacts: &Artifacts, hash: ContentHash) -> Result<ChunkStream, Status> {
    let artifacts = artifacts.clone();
    // It may have to be read as a whole first.
    let file = tokio::task::spawn_blocking(move || artifacts.open(&hash))
        .await
        .map_err(|error| Status::internal(format!("artifact {hash}: {error}")))?
        .map_err(refuse)?;
    // A slow reader holds up its own stream only.
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || send_chunks(file, &sender));
    Ok(ReceiverStream::new(receiver))
}

/// Sends a file in pieces until its end or until nobody listens.
fn send_chunks(mut file: File, sender: &mpsc::Sender<Result<ArtifactChunk, Status>>) {
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        let piece = match file.by_ref().take(CHUNK as u64).read_to_end(&mut data) {
            Ok(0) => return,
            Ok(_) => Ok(ArtifactChunk { data }),
            Err(error) => Err(Status::internal(format!("cannot read the artifact: {error}"))),
        };
        let last = piece.is_err();
        if sender.blocking_send(piece).is_err() || last {
            return;
        }
    }
}

/// Stores an artifact of at most `bound` bytes, whose first message has come.
pub(super) async fn store(
    artifacts: &Artifacts,
    first: PutArtifactRequest,
    mut stream: Streaming<PutArtifactRequest>,
    bound: u64,
) -> Result<(), Status> {
    let hash = convert::hash("hash", &first.hash)?;
    let mut writer = tokio::task::block_in_place(|| artifacts.create(hash)).map_err(refuse)?;
    let (mut message, mut size) = (Some(first), 0);
    while let Some(PutArtifactRequest { data, .. }) = message {
        size += data.len() as u64;
        if size > bound {
            return Err(Status::out_of_range(format!("artifact {hash}: more than {bound} bytes")));
        }
        tokio::task::block_in_place(|| writer.write(&data)).map_err(refuse)?;
        message = stream.message().await?;
    }
    tokio::task::block_in_place(|| writer.finish()).map_err(refuse)
}
