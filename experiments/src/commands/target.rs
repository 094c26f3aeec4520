//! Target of a command: the coordinator that it talks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use qslm_coordinator::store::Artifacts;
use qslm_transport::{Access, AccessFlags, Connector};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Embedded, connect};
use crate::exit::{Exit, Failure, Outcome};

/// Settings: defaults < --config FILE < QSLM_CLIENT_* variables < flags.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Target {
    /// The coordinator's address [default: http://127.0.0.1:7477]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    access: AccessFlags,
    /// Seconds to wait for a coordinator that cannot be reached; 0 tries once [default: 10; 60 with submit --wait]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<f64>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

/// Time for which commands wait for a coordinator unless told otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Time for which those wait that stay until an experiment has ended.
pub(super) const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Seconds that they may be told to wait: a day.
const MOST_PATIENCE: f64 = 86_400.0;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    coordinator: String,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    token_file: PathBuf,
    /// Time to wait, in seconds.
    connect_timeout: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        let [ca, certificate, key, token_file] = Default::default();
        let coordinator = "http://127.0.0.1:7477".to_owned();
        Self { coordinator, ca, certificate, key, token_file, connect_timeout: None }
    }
}

impl Settings {
    /// The way to the coordinator, and how long to wait for it if that is set.
    fn connector(self) -> anyhow::Result<(Connector, Option<Duration>)> {
        let Self { coordinator, ca, certificate, key, token_file, connect_timeout } = self;
        if let Some(seconds) = connect_timeout {
            ensure!(
                (0.0..=MOST_PATIENCE).contains(&seconds),
                "connect_timeout = {seconds}: expected 0 to {MOST_PATIENCE} seconds"
            );
        }
        let connector = Connector::new(&coordinator, Access { ca, certificate, key, token_file })?;
        Ok((connector, connect_timeout.map(Duration::from_secs_f64)))
    }
}

impl Target {
    /// The way to the coordinator that the settings name, and how long to wait for it if they say so.
    fn way(&self) -> Outcome<(Connector, Option<Duration>)> {
        let settings = qslm_program::settings::load(self.config.as_deref(), "QSLM_CLIENT", self);
        let way = settings.and_then(Settings::connector);
        way.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))
    }

    /// The way to the coordinator that the settings name.
    pub fn connector(&self) -> Outcome<Connector> {
        Ok(self.way()?.0)
    }

    /// Connects to the coordinator that the settings name.
    pub async fn connect(&self) -> Outcome<Client> {
        self.connect_within(PATIENCE).await
    }

    /// The same, with another time to wait for it unless the settings say how long.
    pub async fn connect_within(&self, patience: Duration) -> Outcome<Client> {
        let (connector, patience) = self.way_within(patience)?;
        connect(&connector, patience).await
    }

    /// Files that say how to reach it, to be kept from being written to.
    pub fn files(&self) -> Vec<PathBuf> {
        self.config.iter().cloned().chain(self.access.files().map(Path::to_owned)).collect()
    }

    /// The way to it, and how long it is waited for.
    pub fn way_within(&self, patience: Duration) -> Outcome<(Connector, Duration)> {
        let (connector, set) = self.way()?;
        Ok((connector, set.unwrap_or(patience)))
    }
}

/// A coordinator, or a store that no coordinator has open.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// Read this store instead of asking a coordinator
    #[arg(long, value_name = "FILE", conflicts_with_all = ["coordinator", "config", "connect_timeout"])]
    store: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Source {
    /// Files that are read of it, to be kept from being written to: the store with its input files, settings.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let beside = |store: &PathBuf| std::fs::read_dir(Artifacts::of(store).folder()).ok();
        let artifacts = self.store.iter().filter_map(beside).flatten().flatten().map(|file| file.path());
        let store = self.store.iter().cloned().chain(artifacts);
        store.chain(self.target.files()).collect()
    }

    /// Calls `f` with a connection.
    pub async fn with<T>(&self, f: impl AsyncFnOnce(&mut Client) -> Outcome<T>) -> Outcome<T> {
        let Some(store) = &self.store else { return f(&mut self.target.connect().await?).await };
        Failure::unless_file(store)?;
        let embedded = Embedded::start_to_read(store).await?;
        let value = match embedded.connect().await {
            Ok(mut client) => f(&mut client).await.map_err(|failure| failure.of_store(store)),
            Err(failure) => Err(failure),
        };
        embedded.stop_after(value).await
    }
}
