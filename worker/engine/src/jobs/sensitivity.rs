//! The kind `sensitivity`: scores of some units by every measure, each unit quantized alone.

use std::collections::BTreeMap;
use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::Unit;
use qslm_common::scheme::Scheme;
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::{BACKEND, Inputs, JobError, Kind, Watch, over_data, parameters, read_document, write_document};
use crate::model::SpikeGpt;
use crate::task::EvaluateError;
use crate::task::sensitivity::{Comparison, MEASURES, MiniBatch};

/// The kind.
pub const SENSITIVITY: Kind =
    Kind { name: "sensitivity", about: "scores of units by every measure, each quantized alone", make };

/// Units of one job: the float network runs once for all of them.
pub const UNITS_AT_ONCE: usize = 8;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// Task: how the data is cut.
    pub task: Task,
    /// Sequences of the data that are run, from its beginning.
    pub sequences: u32,
    /// Sequences for measures of a mini-batch.
    pub mini_batch: u32,
    /// Tokens that LSAQ compares.
    pub top_k: u32,
    /// True if the embedding is binary.
    pub binary_embedding: bool,
    /// Scheme of every unit to score, by its name.
    pub units: BTreeMap<String, String>,
}

/// Scores of one unit, by the name of the measure; `None` where a measure does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitScores {
    /// Name of the unit.
    pub unit: String,
    /// Scheme that it was quantized to, alone.
    pub scheme: String,
    /// Scores by measure.
    pub scores: BTreeMap<String, Option<f64>>,
}

impl Sensitivity {
    /// The job that scores the units of a checkpoint over some data.
    pub fn job(&self, checkpoint: ContentHash, data: &Data) -> Job {
        over_data(&SENSITIVITY, checkpoint, data).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<Vec<UnitScores>, JobError> {
        read_document(&SENSITIVITY, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Sensitivity { task, sequences, mini_batch, top_k, binary_embedding, units } = parameters(job)?;
    let checkpoint = inputs.checkpoint(binary_embedding)?;
    let network = checkpoint.network();
    let data = inputs.data(&task.first(sequences), network)?;
    let float = Candidate::float(network);
    let build =
        |candidate: &Candidate| SpikeGpt::new(&checkpoint, candidate, BACKEND).map_err(JobError::invalid);
    let mini_batch = MiniBatch { sequences: mini_batch as usize, top_k: top_k as usize };
    let comparison = Comparison::new(&checkpoint, build(&float)?, &data, MEASURES, mini_batch);
    // In the network's order, which is that of every table.
    let known: Vec<Unit> = network.units();
    if let Some(name) = units.keys().find(|name| known.iter().all(|unit| unit.name != **name)) {
        return Err(JobError::Invalid(format!("units: {name:?} is no matrix of the checkpoint")));
    }
    let wanted: Vec<&Unit> = known.iter().filter(|unit| units.contains_key(&unit.name)).collect();
    let mut rows = Vec::new();
    for (done, unit) in wanted.iter().enumerate() {
        let text = &units[&unit.name];
        let scheme: Scheme =
            text.parse().map_err(|error| JobError::Invalid(format!("units.{}: {error}", unit.name)))?;
        let changed = build(&float.clone().with([unit.name.as_str()], scheme))?;
        let scores = comparison.scores(unit, scheme, &changed, &|| watch.is_interrupted());
        let scores = scores.map_err(|error| match error {
            EvaluateError::Interrupted => JobError::Interrupted,
            other => JobError::NotFinite(format!("{}: {other}", unit.name)),
        })?;
        let named = MEASURES.iter().map(|measure| measure.name.to_owned()).zip(scores);
        rows.push(UnitScores { unit: unit.name.clone(), scheme: text.clone(), scores: named.collect() });
        watch.progress(done as u64 + 1, wanted.len() as u64);
    }
    write_document(&rows, out)
}
