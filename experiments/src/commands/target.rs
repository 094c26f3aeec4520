//! Which coordinator a command talks to.

use std::path::PathBuf;

use clap::Args;
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
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    coordinator: String,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    token_file: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        let [ca, certificate, key, token_file] = Default::default();
        Self { coordinator: "http://127.0.0.1:7477".to_owned(), ca, certificate, key, token_file }
    }
}

impl Target {
    /// The way to the coordinator that the settings name.
    pub fn connector(&self) -> Outcome<Connector> {
        let settings = qslm_program::settings::load(self.config.as_deref(), "QSLM_CLIENT", self);
        let connector = settings.and_then(|Settings { coordinator, ca, certificate, key, token_file }| {
            Connector::new(&coordinator, Access { ca, certificate, key, token_file })
        });
        connector.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))
    }

    /// Connects to the coordinator that the settings name.
    pub async fn connect(&self) -> Outcome<Client> {
        connect(&self.connector()?).await
    }
}

/// A coordinator, or a store that no coordinator has open.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// Read this store instead of asking a coordinator
    #[arg(long, value_name = "FILE", conflicts_with_all = ["coordinator", "config"])]
    store: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Source {
    /// Calls `f` with a connection.
    pub async fn with<T>(&self, f: impl AsyncFnOnce(&mut Client) -> Outcome<T>) -> Outcome<T> {
        let Some(store) = &self.store else { return f(&mut self.target.connect().await?).await };
        Failure::unless_file(store)?;
        let embedded = Embedded::start(store).await?;
        let value = match embedded.connect().await {
            Ok(mut client) => f(&mut client).await,
            Err(failure) => Err(failure),
        };
        embedded.stop_after(value).await
    }
}
