//! Artifacts on the wire: a stream of pieces, read from and written to disk as they come, so that memory does not grow with
//! an artifact.

use std::fs::File;

use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use qslm_program::in_pieces;
use qslm_proto::convert::{self, Invalid};
use qslm_proto::v1::{ArtifactChunk, FetchArtifactRequest, PutArtifactRequest, PutArtifactResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use crate::store::{Artifacts, CheckpointRefused, JobCheckpoints};

/// Stream of an artifact's pieces.
pub(super) type ChunkStream = ReceiverStream<Result<ArtifactChunk, Status>>;

/// Opens an artifact and sends it, piece by piece.
pub(super) async fn fetch(
    artifacts: &Artifacts,
    request: Request<FetchArtifactRequest>,
) -> Result<Response<ChunkStream>, Status> {
    let hash = convert::hash("hash", &request.into_inner().hash)?;
    let artifacts = artifacts.clone();
    // It may have to be read as a whole first.
    let file = tokio::task::spawn_blocking(move || artifacts.open(&hash))
        .await
        .map_err(|error| Status::internal(format!("artifact {hash}: {error}")))?
        .map_err(refuse)?;
    Ok(send(file))
}

/// Sends the rest of a file, piece by piece.
pub(super) fn send(file: File) -> Response<ChunkStream> {
    send_with(file, ())
}

/// The same, with something that is held until all is sent or nobody listens.
pub(super) fn send_with(file: File, held: impl Send + 'static) -> Response<ChunkStream> {
    // A slow reader holds up its own stream only.
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        send_chunks(file, &sender);
        drop(held);
    });
    Response::new(ReceiverStream::new(receiver))
}

/// Sends a file until its end or until nobody listens.
fn send_chunks(file: File, sender: &mpsc::Sender<Result<ArtifactChunk, Status>>) {
    let sent = in_pieces(file, |data| sender.blocking_send(Ok(ArtifactChunk { data })).is_ok());
    if let Err(error) = sent {
        let failure = Status::internal(format!("cannot read the artifact: {error}"));
        // Whoever has hung up does not need to know.
        drop(sender.blocking_send(Err(failure)));
    }
}

/// An artifact on its way in: its first message, and those that follow.
pub(super) struct Upload {
    pub(super) first: PutArtifactRequest,
    rest: Streaming<PutArtifactRequest>,
}

impl Upload {
    /// Waits for the first message, which says what comes.
    pub(super) async fn begin(request: Request<Streaming<PutArtifactRequest>>) -> Result<Self, Status> {
        let mut rest = request.into_inner();
        let first = rest.message().await?.ok_or_else(|| Invalid::new("hash", "missing"))?;
        Ok(Self { first, rest })
    }

    /// Hash of what comes, as it is announced.
    pub(super) fn hash(&self) -> Result<ContentHash, Invalid> {
        convert::hash("hash", &self.first.hash)
    }

    /// Stores an artifact of at most `bound` bytes.
    pub(super) async fn store(
        self,
        artifacts: &Artifacts,
        bound: u64,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        let hash = self.hash()?;
        let mut writer = tokio::task::block_in_place(|| artifacts.create(hash)).map_err(refuse)?;
        self.receive(bound, |data| writer.write(data).map_err(refuse)).await?;
        tokio::task::block_in_place(|| writer.finish()).map_err(refuse)?;
        Ok(Response::new(PutArtifactResponse {}))
    }

    /// Stores a checkpoint of a job, of at most `bound` bytes.
    pub(super) async fn store_checkpoint(
        self,
        checkpoints: &JobCheckpoints,
        job: &JobKey,
        bound: u64,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        let refuse = |error: CheckpointRefused| {
            let words = format!("checkpoint of job {job}: {error}");
            match error {
                CheckpointRefused::OtherContent => Status::data_loss(words),
                CheckpointRefused::TooMuch(_) => Status::resource_exhausted(words),
                CheckpointRefused::Unwritable(_) => Status::internal(words),
            }
        };
        let hash = self.hash()?;
        let mut writer = tokio::task::block_in_place(|| checkpoints.create(job, hash)).map_err(refuse)?;
        self.receive(bound, |data| writer.write(data).map_err(refuse)).await?;
        tokio::task::block_in_place(|| writer.finish()).map_err(refuse)?;
        Ok(Response::new(PutArtifactResponse {}))
    }

    /// Receives at most `bound` bytes, piece by piece.
    async fn receive(
        mut self,
        bound: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let hash = self.hash()?;
        let (mut message, mut size) = (Some(self.first), 0);
        while let Some(PutArtifactRequest { data, .. }) = message {
            size += data.len() as u64;
            if size > bound {
                return Err(Status::out_of_range(format!("artifact {hash}: more than {bound} bytes")));
            }
            tokio::task::block_in_place(|| write(&data))?;
            message = self.rest.message().await?;
        }
        Ok(())
    }
}
