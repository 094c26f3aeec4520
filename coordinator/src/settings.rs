//! Settings of a coordinator. Each may stand in the file, in `QSLM_COORDINATOR_NAME`, or be a flag.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::web::Web;

/// What a coordinator can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Address and port of the live view for browsers, or `off`.
    pub web: Web,
    /// The redb file that keeps everything; input files are kept beside it.
    pub store: PathBuf,
    /// Seconds after which a silent worker's leases are given to others, 1 to 3600.
    pub lease_ttl_s: f64,
    /// What is logged: a level, or directives such as `info,qslm_coordinator=debug`.
    pub log: String,
    /// For tests: dies at the n-th pass of a point, such as `after-commit:3`; see [`crate::CrashPoint`].
    pub crash_at: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7477)),
            web: Web::On(SocketAddr::from(([127, 0, 0, 1], 7478))),
            store: PathBuf::from("qslm.redb"),
            lease_ttl_s: 15.0,
            log: "info".to_owned(),
            crash_at: String::new(),
        }
    }
}

impl Settings {
    /// What the coordinator itself has to know.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn options(&self) -> anyhow::Result<Options> {
        let crash_at = self.crash_at.parse().context("crash_at")?;
        Ok(Options { lease_ttl: self.lease_ttl()?, crash_at })
    }

    fn lease_ttl(&self) -> anyhow::Result<Duration> {
        let seconds = self.lease_ttl_s;
        ensure!((1.0..=3600.0).contains(&seconds), "lease_ttl_s = {seconds}: expected 1 to 3600 seconds");
        Ok(Duration::from_secs_f64(seconds))
    }
}
