//! Bytes on their way to the coordinator, read as they are sent.

use std::io::{self, Read};

use qslm_common::hash::ContentHash;
use qslm_program::in_pieces;
use qslm_proto::v1::PutArtifactRequest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Messages that carry bytes under a lease, and the task that reads them, which knows whether it could.
pub fn messages_of(
    reader: impl Read + Send + 'static,
    hash: ContentHash,
    lease: u64,
) -> (ReceiverStream<PutArtifactRequest>, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(4);
    // Set in the first message only.
    let (mut name, mut under) = (hash.as_bytes().to_vec(), lease);
    let reading = tokio::task::spawn_blocking(move || {
        in_pieces(reader, |data| {
            let (hash, lease) = (std::mem::take(&mut name), std::mem::take(&mut under));
            sender.blocking_send(PutArtifactRequest { hash, data, lease }).is_ok()
        })
    });
    (ReceiverStream::new(receiver), reading)
}
