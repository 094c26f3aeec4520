//! Talking to a coordinator: one that runs elsewhere, or one started here on a store.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qslm_common::hash::ContentHash;
use qslm_coordinator::driver::{Commits, DriverError, Handle};
use qslm_coordinator::{AccessPolicy, Coordinator, Options, Ports};
use qslm_program::limits;
use qslm_proto::v1::experiments_client::ExperimentsClient;
use qslm_proto::v1::{
    ExperimentStatus, FetchArtifactRequest, GetRequest, MissingArtifactsRequest, PutArtifactRequest,
    SubmitRequest,
};
use qslm_report::ReportDocument;
use qslm_transport::{Access, Connector, Link};
use qslm_worker::put;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::spec::Resolved;

/// A connection for people's calls.
pub type Client = ExperimentsClient<Link>;

/// Bytes of the largest answer that is taken: a front of thousands of candidates has megabytes.
const LARGEST: usize = 1 << 30;

/// Report of an experiment, as the coordinator tells it.
pub async fn describe(client: &mut Client, experiment: &str) -> Outcome<ReportDocument> {
    read_report(&describe_as_text(client, experiment).await?)
}

/// Text of the report of an experiment; [`read_report`] reads it.
pub async fn describe_as_text(client: &mut Client, experiment: &str) -> Outcome<String> {
    let request = GetRequest { experiment: experiment.to_owned() };
    Ok(client.describe(request).await?.into_inner().json)
}

/// Reads the text of a report.
pub fn read_report(text: &str) -> Outcome<ReportDocument> {
    let unreadable =
        |error| Failure::new(Exit::Failure, format!("the coordinator's report cannot be read: {error}"));
    serde_json::from_str(text).map_err(unreadable)
}

/// A coordinator in this process, on a real socket of the loopback interface.
pub struct Embedded {
    /// Address for workers and clients.
    pub url: String,
    /// Folder of its artifacts; workers of this process use them in place.
    pub artifacts: PathBuf,
    driver: Handle,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Embedded {
    /// Opens `store`, making it if it is not there, and serves it.
    pub async fn start(store: &Path) -> Outcome<Self> {
        Self::serve(|| Coordinator::open(store, Options::default())).await
    }

    /// Opens a `store` that is there and answers questions about it; nothing of it changes.
    pub async fn start_to_read(store: &Path) -> Outcome<Self> {
        Self::serve(|| Coordinator::open_to_read(store)).await
    }

    async fn serve(open: impl FnOnce() -> Result<Coordinator, DriverError>) -> Outcome<Self> {
        // Driver, committer and whoever waits for them; the store, sockets, and files that are handed in.
        limits::ensure_threads(3)?;
        limits::ensure_files(16)?;
        let coordinator = open().map_err(|error| match error {
            DriverError::Store(error) => error.into(),
            other => Failure::new(Exit::Failure, other),
        })?;
        let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot listen: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        let artifacts = coordinator.artifacts().folder().to_owned();
        let driver = coordinator.driver().clone();
        let stop = CancellationToken::new();
        let serving =
            tokio::spawn(coordinator.serve(Ports::grpc(listener), AccessPolicy::default(), stop.clone()));
        Ok(Self { url, artifacts, driver, stop, serving })
    }

    /// The way to it.
    pub fn connector(&self) -> Outcome<Connector> {
        Ok(Connector::new(&self.url, Access::default())?)
    }

    /// A connection to it.
    pub async fn connect(&self) -> Outcome<Client> {
        connect(&self.connector()?, Duration::ZERO).await
    }

    /// A way to ask its driver without a socket.
    #[cfg(test)]
    pub(crate) fn driver(&self) -> Handle {
        self.driver.clone()
    }

    /// Counters of its group commit so far.
    pub fn commits(&self) -> Commits {
        self.driver.metrics().read()
    }

    /// Closes the store.
    pub async fn stop(self) -> Outcome {
        self.stop.cancel();
        match self.serving.await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Failure::new(Exit::Failure, format!("the coordinator ended: {error}"))),
        }
    }

    /// Closes the store after `outcome`. The failure of the coordinator comes first: all else that failed followed from it.
    pub async fn stop_after<T>(self, outcome: Outcome<T>) -> Outcome<T> {
        self.stop().await?;
        outcome
    }
}

/// Connects to a coordinator. One that is not there yet is waited for, `patience` at most.
pub async fn connect(connector: &Connector, patience: Duration) -> Outcome<Client> {
    let begun = Instant::now();
    let link = connector.connect_within(patience).await.map_err(|cause| {
        let (url, seconds) = (connector.url(), patience.as_secs_f64());
        let tried = match !patience.is_zero() && begun.elapsed() >= patience {
            true => format!("; tried for {seconds} s (--connect-timeout)"),
            false => String::new(),
        };
        Failure::new(Exit::Unavailable, format!("no coordinator answers at {url}: {cause}{tried}"))
    })?;
    Ok(Client::new(link).max_decoding_message_size(LARGEST))
}

/// Uploads what the coordinator does not have, then submits.
pub async fn submit(
    client: &mut Client,
    resolved: &Resolved,
    priority: Option<i32>,
) -> Outcome<ExperimentStatus> {
    upload_missing(client, resolved.files.iter().map(|(hash, file)| (hash, file))).await?;
    let experiment = resolved.experiment.encode();
    let demands = Some(resolved.demands.clone().into());
    let origins = resolved.origins.iter().map(|(hash, origin)| (hash.to_string(), origin.clone())).collect();
    let request = SubmitRequest { experiment, shards: resolved.shards, priority, demands, origins };
    Ok(client.submit(request).await?.into_inner())
}

/// Fetches an artifact of at most so many bytes.
pub async fn fetch(client: &mut Client, hash: ContentHash, largest: u64) -> Outcome<Vec<u8>> {
    let request = FetchArtifactRequest { hash: hash.as_bytes().to_vec() };
    let mut stream = client.fetch_artifact(request).await?.into_inner();
    let mut artifact = Vec::new();
    while let Some(piece) = stream.message().await? {
        artifact.extend(piece.data);
        if artifact.len() as u64 > largest {
            let words = format!("artifact {hash} has more than the {largest} bytes that its job states");
            return Err(Failure::new(Exit::Failure, words));
        }
    }
    if ContentHash::of(&artifact) != hash {
        return Err(Failure::new(
            Exit::Failure,
            format!("the coordinator sent something else than artifact {hash}"),
        ));
    }
    Ok(artifact)
}

/// Uploads those of these files that the coordinator does not have.
pub async fn upload_missing(
    client: &mut Client,
    files: impl Iterator<Item = (&ContentHash, &Input)>,
) -> Outcome {
    let files: Vec<_> = files.collect();
    let hashes = files.iter().map(|(hash, _)| hash.as_bytes().to_vec()).collect();
    let missing = client.missing_artifacts(MissingArtifactsRequest { hashes }).await?.into_inner().hashes;
    for (hash, file) in files {
        if missing.iter().any(|missing| missing == hash.as_bytes()) {
            upload(client, hash, file.path()).await?;
        }
    }
    Ok(())
}

async fn upload(client: &mut Client, hash: &ContentHash, path: &Path) -> Outcome {
    let (messages, reading) = messages_of(path, hash, 0)?;
    let sent = client.put_artifact(messages).await;
    match reading.await {
        Ok(Err(error)) => Err(Failure::file(path, &error)),
        _ => Ok(sent.map(drop)?),
    }
}

/// Messages that carry a file, by a worker under a lease, read from disk as they are sent; and the task that reads,
/// which knows whether it could.
pub(crate) fn messages_of(
    path: &Path,
    hash: &ContentHash,
    lease: u64,
) -> Outcome<(ReceiverStream<PutArtifactRequest>, JoinHandle<io::Result<()>>)> {
    let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
    Ok(put::messages_of(file, *hash, lease))
}
