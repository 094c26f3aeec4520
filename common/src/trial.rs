//! A trial: one candidate measured under one protocol on one data set.
//!
//! It holds everything that the counts depend on and nothing else, so its hash is the content address under
//! which results are kept and shared between experiments.

use std::sync::Arc;

use serde::Serialize;

use crate::backend::Backend;
use crate::candidate::{Candidate, CandidateId};
use crate::hash::{ContentHash, named_hash};
use crate::measurement::Counts;
use crate::network::{Dynamics, Network};
use crate::task::{Data, Task};

/// Protocol: everything but the candidate that the counts of a trial depend on. The trials of an experiment share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// [`crate::ENGINE_VERSION`] that the numbers are to come from.
    pub engine_version: u32,
    /// Backend of the matrix products.
    pub backend: Backend,
    /// The checkpoint file.
    pub checkpoint: ContentHash,
    /// The shape that the checkpoint has to have.
    pub network: Network,
    /// The data files.
    pub data: Data,
    /// Task: how the data is cut and scored.
    pub task: Task,
    /// True if the divergence from the float model is counted as well, for which that runs beside the candidate.
    pub kl: bool,
}

impl Protocol {
    /// Protocol on a subset: the first sequences of the data.
    pub fn first(&self, sequences: u32) -> Arc<Self> {
        Arc::new(Self { task: self.task.first(sequences), ..self.clone() })
    }

    /// True if counts could come from it: from a network of its shape, with a divergence exactly if it asks for one.
    pub fn could_give(&self, counts: &Counts) -> bool {
        let Network { channels, .. } = self.network;
        counts.is_plausible(self.network.population_count(), channels) && counts.kl.is_some() == self.kl
    }

    /// The trial that measures `candidate` by this protocol.
    pub fn trial(self: &Arc<Self>, candidate: Candidate) -> Trial {
        Trial { protocol: self.clone(), candidate }
    }
}

/// Trial: one candidate under one protocol; everything that a worker has to know to measure it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Protocol that it is measured by.
    pub protocol: Arc<Protocol>,
    /// Candidate that is measured: the scheme of every unit.
    pub candidate: Candidate,
}

named_hash! {
    /// Trial key: the content address of a trial, under which its results are kept and shared.
    TrialKey
}

impl Trial {
    /// The content address. The network's sizes follow from the checkpoint; whether its embedding is binary, and its
    /// dynamics, do not.
    pub fn key(&self) -> TrialKey {
        self.key_of(self.candidate.id())
    }

    /// [`Trial::key`], given the candidate's id: to hash a candidate takes longer than all the rest.
    pub fn key_of(&self, candidate: CandidateId) -> TrialKey {
        #[derive(Serialize)]
        struct Address<'a> {
            version: &'a str,
            engine_version: u32,
            backend: Backend,
            checkpoint: ContentHash,
            binary_embedding: bool,
            data: &'a Data,
            task: &'a Task,
            candidate: CandidateId,
            /// Absent: not counted, as before there was any such thing.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            kl: bool,
            /// Absent: SpikeGPT's.
            #[serde(skip_serializing_if = "Dynamics::is_default")]
            dynamics: Dynamics,
        }
        let address = Address {
            version: "qslm trial 1",
            engine_version: self.protocol.engine_version,
            backend: self.protocol.backend,
            checkpoint: self.protocol.checkpoint,
            binary_embedding: self.protocol.network.binary_embedding,
            data: &self.protocol.data,
            task: &self.protocol.task,
            candidate,
            kl: self.protocol.kl,
            dynamics: self.protocol.network.dynamics,
        };
        let text = serde_json::to_string(&address).expect("an address has no maps");
        TrialKey::of(text.as_bytes())
    }
}

/// A trial with its names, which take two hashes to work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// Trial to measure.
    pub trial: Trial,
    /// The id of its candidate.
    pub candidate: CandidateId,
    /// Its content address.
    pub key: TrialKey,
}

impl From<Trial> for Addressed {
    fn from(trial: Trial) -> Self {
        let candidate = trial.candidate.id();
        let key = trial.key_of(candidate);
        Self { trial, candidate, key }
    }
}
