//! The kind `fisher`: what matrices lose under schemes, as the Fisher information of the float network predicts it.

use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::Member;
use qslm_common::task::{Data, Task};
use qslm_engine::jobs::{
    Asked, Inputs, JobError, Kind, UnitLosses, Watch, over_data, parameters, read_document, weight_errors,
    with_codes, write_document,
};
use serde::{Deserialize, Serialize};

use crate::fisher::{Fisher, loss};
use crate::tensors::Tensors;

/// The kind.
pub const FISHER: Kind = Kind {
    name: "fisher",
    about: "losses of matrices by scheme, as the Fisher information predicts them",
    make,
};

/// Seed of what the network draws: any does.
const SEED: u64 = 1;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FisherLosses {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Units with schemes.
    pub units: Vec<(String, String)>,
}

impl FisherLosses {
    /// The job for a checkpoint; `codes` are artifacts with the calibrated codes of units, if some schemes are calibrated.
    pub fn job(
        &self,
        checkpoint: ContentHash,
        data: &Data,
        codes: impl IntoIterator<Item = ContentHash>,
    ) -> Job {
        with_codes(over_data(&FISHER, checkpoint, data), codes).parameters(self)
    }

    /// What the artifact says, in nats per token or sentence.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<UnitLosses, JobError> {
        read_document(&FISHER, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let FisherLosses { task, member, units } = parameters(job)?;
    let checkpoint = super::checkpoint_to_train(inputs, member)?;
    let network = checkpoint.network();
    let asked = Asked::read(&units, &network.units())?;
    let data = inputs.data(&task, network)?;
    let steps = (data.len() + asked.len()) as u64;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fisher = Fisher::new(network, &Tensors::of_checkpoint(&checkpoint), SEED, threads);
    for (done, tokens) in data.inputs().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        fisher.add(tokens);
        watch.progress(done as u64 + 1, steps);
    }
    let (fisher, artifacts) = (fisher.finish(), inputs.codes(job)?);
    let mut losses = UnitLosses::new();
    for (done, asked) in asked.iter().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let name = &asked.unit.name;
        let predicted = loss(fisher.get(name), &weight_errors(asked, &checkpoint, &artifacts)?);
        if !predicted.is_finite() {
            return Err(JobError::NotFinite(format!("{name}: its gradients are not finite")));
        }
        losses.entry(name.clone()).or_default().insert(asked.scheme, predicted);
        watch.progress((data.len() + done) as u64 + 1, steps);
    }
    write_document(&losses, out)
}
