//! A trial: one candidate measured under one protocol on one data set.
//!
//! It holds everything that the counts depend on and nothing else, so its hash is the content address under
//! which results are kept and shared between experiments.

use serde::Serialize;

use crate::backend::Backend;
use crate::candidate::Candidate;
use crate::hash::ContentHash;
use crate::network::Network;
use crate::task::{Data, Task};

/// Everything that a worker has to know to measure a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// [`crate::ENGINE_VERSION`] that the numbers are to come from.
    pub engine_version: u32,
    /// What computes the matrix products.
    pub backend: Backend,
    /// The checkpoint file.
    pub checkpoint: ContentHash,
    /// The shape that the checkpoint has to have.
    pub network: Network,
    /// The data files.
    pub data: Data,
    /// The protocol.
    pub task: Task,
    /// The scheme of every unit.
    pub candidate: Candidate,
}

impl Trial {
    /// The content address. The network's sizes follow from the checkpoint; whether its embedding is binary
    /// does not.
    pub fn key(&self) -> ContentHash {
        self.key_of(self.candidate.id())
    }

    /// [`Trial::key`], given the candidate's id: to hash a candidate takes longer than all the rest.
    pub fn key_of(&self, candidate: ContentHash) -> ContentHash {
        #[derive(Serialize)]
        struct Address<'a> {
            version: &'a str,
            engine_version: u32,
            backend: Backend,
            checkpoint: ContentHash,
            binary_embedding: bool,
            data: &'a Data,
            task: &'a Task,
            candidate: ContentHash,
        }
        let address = Address {
            version: "qslm trial 1",
            engine_version: self.engine_version,
            backend: self.backend,
            checkpoint: self.checkpoint,
            binary_embedding: self.network.binary_embedding,
            data: &self.data,
            task: &self.task,
            candidate,
        };
        // Only maps with non-text keys make this fail, and there are none.
        ContentHash::of(serde_json::to_string(&address).unwrap_or_default().as_bytes())
    }
}

/// A trial with its names, which take two hashes to work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// What to measure.
    pub trial: Trial,
    /// The id of its candidate.
    pub candidate: ContentHash,
    /// Its content address.
    pub key: ContentHash,
}

impl From<Trial> for Addressed {
    fn from(trial: Trial) -> Self {
        let candidate = trial.candidate.id();
        let key = trial.key_of(candidate);
        Self { trial, candidate, key }
    }
}
