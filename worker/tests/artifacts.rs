//! The artifact cache against coordinators of its own: what is fetched is checked, and fetched once.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use qslm_common::hash::ContentHash;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::work_server::{Work, WorkServer};
use qslm_proto::v1::{
    ArtifactChunk, FetchArtifactRequest, FetchCheckpointRequest, PutArtifactRequest, PutArtifactResponse,
    ReportRequest, ReportResponse,
};
use qslm_transport::{Access, Connector, Link};
use qslm_worker::ArtifactCache;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Sends the same chunks for every hash.
struct Sender {
    chunks: Vec<Vec<u8>>,
    fetched: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Work for Sender {
    async fn report(&self, _: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type FetchArtifactStream = ReceiverStream<Result<ArtifactChunk, Status>>;

    async fn fetch_artifact(
        &self,
        _: Request<FetchArtifactRequest>,
    ) -> Result<Response<Self::FetchArtifactStream>, Status> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        for chunk in &self.chunks {
            sender.try_send(Ok(ArtifactChunk { data: chunk.clone() })).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put_artifact(
        &self,
        _: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn put_checkpoint(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<PutArtifactResponse>, Status> {
        self.put_artifact(request).await
    }

    type FetchCheckpointStream = ReceiverStream<Result<ArtifactChunk, Status>>;

    async fn fetch_checkpoint(
        &self,
        _: Request<FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A client of a coordinator that sends these chunks, and how often it was asked.
async fn serve(chunks: &[&[u8]]) -> (WorkClient<Link>, Arc<AtomicU32>) {
    let fetched = Arc::new(AtomicU32::new(0));
    let sender = Sender { chunks: chunks.iter().map(|c| c.to_vec()).collect(), fetched: fetched.clone() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(WorkServer::new(sender))
            .serve_with_incoming(incoming),
    );
    let connector = Connector::new(&url, Access::default()).unwrap();
    (WorkClient::new(connector.connect().await.unwrap()), fetched)
}

fn cache(folder: &Path, max_bytes: u64) -> ArtifactCache {
    ArtifactCache::new(folder.to_owned(), max_bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_fetched_once_and_again_only_when_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (mut client, fetched) = serve(&[b"one ", b"two"]).await;
    let hash = ContentHash::of(b"one two");
    let first = cache(folder.path(), 100);
    let path = first.ensure(hash, &mut client).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"one two");
    first.ensure(hash, &mut client).await.unwrap();
    // Another process finds it, and checks it.
    cache(folder.path(), 100).ensure(hash, &mut client).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    std::fs::write(&path, b"one tvo").unwrap();
    cache(folder.path(), 100).ensure(hash, &mut client).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
    assert_eq!(std::fs::read(&path).unwrap(), b"one two");
    // One that was cut short would be read beyond its end.
    std::fs::write(&path, b"one t").unwrap();
    first.ensure(hash, &mut client).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_do_not_match_their_hash_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut client, _) = serve(&[b"something else"]).await;
    let hash = ContentHash::of(b"what was asked for");
    let error = cache(folder.path(), 100).ensure(hash, &mut client).await.unwrap_err().to_string();
    assert!(error.contains("for artifact") && error.contains(&hash.to_string()), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_larger_than_the_cache_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut client, _) = serve(&[&[0; 60], &[0; 60]]).await;
    let error = cache(folder.path(), 100).ensure(ContentHash::of(&[0; 120]), &mut client).await.unwrap_err();
    assert!(error.to_string().contains("larger than the cache (cache_max_bytes = 100)"), "{error}");
}
