//! The kind `control`: what the float network gains by the same training, for whoever compares a trained candidate with the
//! checkpoint as it was.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::measurement::Counts;
use qslm_common::network::Member;
use qslm_common::recovery::{Recovery, TrainingPlan};
use qslm_common::task::Task;
use qslm_engine::jobs::holdout::HeldOut;
use qslm_engine::jobs::{BACKEND, Inputs, JobError, Kind, Watch, parameters};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{evaluate_each, spread};
use serde::{Deserialize, Serialize};

use super::qat;

/// The kind.
pub const CONTROL: Kind =
    Kind { name: "control", about: "counts of the float network after the same training, and before", make };

/// Bytes of the artifact, at most.
const LARGEST: u64 = 16 << 20;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    /// Task: how the data is cut.
    task: Task,
    #[serde(rename = "binary_embedding")]
    member: Member,
    plan: TrainingPlan,
}

/// The job that trains the float network of an experiment as its recovery trains candidates. Its artifact is a bound for a
/// checkpoint, too: of float weights with two moments each.
pub fn control_of(experiment: &Experiment, recovery: &Recovery, data: ContentHash) -> Job {
    let parameters = Control {
        task: experiment.task.clone(),
        member: (&experiment.network).into(),
        plan: recovery.plan.clone(),
    };
    let bytes = LARGEST + experiment.network.parameters() * 4;
    Job::new(CONTROL.name, bytes)
        .on(recovery.backend)
        .input("checkpoint", JobInput::Artifact(experiment.checkpoint))
        .input("text", JobInput::Artifact(recovery.text))
        .input("tokenizer", JobInput::Artifact(experiment.data.tokenizer))
        .input("data", JobInput::Artifact(data))
        .parameters(&parameters)
}

/// What the artifact of such a job says.
///
/// # Errors
/// [`JobError::Invalid`] if it is none of this kind.
pub fn read_control(artifact: &[u8]) -> Result<HeldOut, JobError> {
    serde_json::from_slice(artifact).map_err(JobError::invalid)
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Control { task, member, plan } = parameters(job)?;
    let mut checkpoint = (*super::checkpoint_to_train(inputs, member)?).clone();
    let network = *checkpoint.network();
    let float = Candidate::float(&network);
    let data = inputs.data_of("data", &task, &network)?;
    let counts = |model: &SpikeGpt| {
        let each = evaluate_each(model, &data, 0..data.len(), None, &|| watch.is_interrupted());
        each.map_err(JobError::invalid)
    };
    let before = counts(&*inputs.float(member)?)?;
    let trained = qat::train(inputs, &checkpoint, &float, (&plan, job.backend), watch)?;
    for (name, values) in trained.tensors.iter() {
        checkpoint.replace(name, values.to_vec());
    }
    let model = SpikeGpt::from_checkpoint(checkpoint, &float, &(), BACKEND).map_err(JobError::invalid)?;
    let after = counts(&model)?;
    let spread = spread(task.quality(), &before, &after);
    let sum = |each: &[Counts]| Counts::sum(network.population_count(), each).map_err(JobError::invalid);
    let document = HeldOut { float: sum(&before)?, counts: sum(&after)?, spread };
    serde_json::to_writer(out, &document).map_err(|error| JobError::artifact(error.into()))
}
