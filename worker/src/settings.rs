//! Settings of a worker. Each may stand in the file, in `QSLM_WORKER_NAME`, or be a flag.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use qslm_common::bytes;
use qslm_program::{LogFormat, Port};
use qslm_transport::{Access, Connector};
use serde::{Deserialize, Serialize};

use crate::CHECKPOINT_EVERY;

/// Settings of a worker. There are many in one struct, since files and variables name each by one word.
// One field for each setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The coordinator's address.
    pub coordinator: String,
    /// A name unique among the coordinator's workers; made up if empty.
    pub name: String,
    /// Evaluations at a time, one thread each, 1 to 1024; 0 for one per core.
    pub slots: u32,
    /// The name or id of the only experiment to work for, which may come later; any if empty.
    pub experiment: String,
    /// Folder of fetched checkpoints and data, and of results while the coordinator is away.
    pub cache_dir: PathBuf,
    /// Bytes that the cache may take.
    #[serde(deserialize_with = "bytes::whole")]
    pub cache_max_bytes: u64,
    /// Seconds between two checkpoints of a job, from which another worker goes on if this one is lost.
    pub checkpoint_every_s: f64,
    /// True to end, with exit code 0, when the experiment has ended; without one, when all have.
    pub until_done: bool,
    /// Labels that people tell this worker by, which experiments may demand: `zone=a,rack=7`.
    pub labels: String,
    /// Certificate authority of the coordinator, in PEM; the system's roots if empty.
    pub ca: PathBuf,
    /// This worker's own certificate in PEM, where the coordinator asks for one.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// A file that holds this worker's token.
    pub token_file: PathBuf,
    /// Seconds that a worker which was never let in waits for the coordinator to know its token, or for another in its file.
    pub token_patience_s: f64,
    /// Address and port of health and metrics for the cluster's own machinery, or `off`.
    pub monitor: Port,
    /// Collector of traces: OpenTelemetry, OTLP over gRPC, `http://HOST:4317`; none if empty.
    pub traces: String,
    /// Level of the log, or directives such as `info,qslm_worker=debug`.
    pub log: String,
    /// Form of the log: `text` for people, or `json`, an object per line.
    pub log_format: LogFormat,
    /// For tests: dies at the n-th pass of a point, such as `artifact-put:1`; see [`crate::CrashPoint`].
    pub crash_at: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            coordinator: "http://127.0.0.1:7477".to_owned(),
            name: String::new(),
            slots: 0,
            experiment: String::new(),
            cache_dir: dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("qslm"),
            cache_max_bytes: 20 << 30,
            checkpoint_every_s: CHECKPOINT_EVERY.as_secs_f64(),
            until_done: false,
            labels: String::new(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            token_file: PathBuf::new(),
            token_patience_s: 120.0,
            monitor: Port::Off,
            traces: String::new(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            crash_at: String::new(),
        }
    }
}

impl Settings {
    /// The way to the coordinator.
    ///
    /// # Errors
    /// One line that names the address or file.
    pub fn connector(&self) -> anyhow::Result<Connector> {
        let Self { ca, certificate, key, token_file, .. } = self.clone();
        Connector::new(&self.coordinator, Access { ca, certificate, key, token_file })
    }

    /// The time between two checkpoints of a job.
    ///
    /// # Errors
    /// If it is less than a millisecond or more than a day.
    pub fn checkpoint_every(&self) -> anyhow::Result<Duration> {
        let seconds = self.checkpoint_every_s;
        ensure!(
            (0.001..=86_400.0).contains(&seconds),
            "checkpoint_every_s = {seconds}: expected 0.001 to 86400"
        );
        Ok(Duration::from_secs_f64(seconds))
    }

    /// The time for which a token that is not known is tried.
    ///
    /// # Errors
    /// If it is negative or more than a day.
    pub fn token_patience(&self) -> anyhow::Result<Duration> {
        let seconds = self.token_patience_s;
        ensure!((0.0..=86_400.0).contains(&seconds), "token_patience_s = {seconds}: expected 0 to 86400");
        Ok(Duration::from_secs_f64(seconds))
    }

    /// The number of slots, with 0 replaced by the number of cores.
    ///
    /// # Errors
    /// If there are more than 1024.
    pub fn slots(&self) -> anyhow::Result<u32> {
        ensure!(self.slots <= 1024, "slots = {}: expected 0 to 1024", self.slots);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from) as u32;
        Ok(if self.slots == 0 { cores() } else { self.slots })
    }
}
