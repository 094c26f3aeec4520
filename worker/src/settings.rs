//! Settings of a worker. Each may stand in the file, in `QSLM_WORKER_NAME`, or be a flag.

use std::path::PathBuf;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// What a worker can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The coordinator's address.
    pub coordinator: String,
    /// A name unique among the coordinator's workers; made up if empty.
    pub name: String,
    /// Evaluations at a time, one thread each, 1 to 1024; 0 for one per core.
    pub slots: u32,
    /// The id of the only experiment to work for; any if empty.
    pub experiment: String,
    /// Where fetched checkpoints and data are kept, and results while the coordinator is away.
    pub cache_dir: PathBuf,
    /// Bytes that the cache may take.
    pub cache_max_bytes: u64,
    /// What is logged: a level, or directives such as `info,qslm_worker=debug`.
    pub log: String,
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
            log: "info".to_owned(),
        }
    }
}

impl Settings {
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
