//! The kind `qat`: quantization-aware training of one candidate. What it leaves is an artifact with codes, scales and vectors,
//! which a candidate names.
//!
//! A run goes on from its last checkpoint, and from there or from the start it makes the same bytes, with however many
//! threads.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::network::Network;
use qslm_common::recovery::{Optimizer, Parameters, TrainingPlan, kinds};
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};
use qslm_engine::kernels::gradient::lif::Reset;

use crate::distil::{Plan, Run, Trained};
use crate::lessons::Lessons;
use crate::optimizer::{Adam, Lion, Method};
use crate::schedule::Schedule;
use crate::step::Settings;

/// The kind.
pub const QAT: Kind =
    Kind { name: kinds::QAT, about: "codes, scales and vectors of a candidate, trained", make };

/// Steps over which the rate rises, at most, and their share of all.
const WARM_UP: u32 = 50;
const WARM_UP_SHARE: u32 = 8;
/// Share of the highest rate at the last step.
const FLOOR: f64 = 0.02;
/// Learning rate of scales, as a share of their mean.
const SCALE_RATE: f32 = 1e-2;
/// Largest norm of a gradient.
const CLIP: f64 = 1.0;

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Parameters { binary_embedding, candidate, plan, .. } = parameters(job)?;
    let candidate =
        Candidate::decode(&candidate).map_err(|error| JobError::Invalid(format!("candidate: {error}")))?;
    let checkpoint = inputs.checkpoint(binary_embedding)?;
    let network = *checkpoint.network();
    let trained = train(inputs, &checkpoint, &candidate, &plan, watch)?;
    let artifact = artifact(&network, &candidate, &trained);
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}

/// Trains a candidate of a checkpoint on the input `text`, which has labelled sentences for a classifier, from the checkpoint
/// of the job if there is one.
pub(super) fn train(
    inputs: &Inputs,
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    plan: &TrainingPlan,
    watch: &dyn Watch,
) -> Result<Trained, JobError> {
    let network = checkpoint.network();
    let task = match network.is_classifier() {
        true => Task::Accuracy { sentences: None },
        false => Task::Perplexity { window: plan.window, stride: plan.window, windows: None },
    };
    task.validate().map_err(JobError::invalid)?;
    let data = inputs.data(&task, network)?;
    let teacher = match plan.distillation {
        0.0 => None,
        _ => Some(inputs.float(network.binary_embedding)?),
    };
    let run = Run::new(checkpoint, teacher, candidate, Lessons::of(&data), plan_of(plan));
    let mut run = run.map_err(JobError::invalid)?;
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the run begins anew.
        run.restore(saved);
    }
    while run.steps() < plan.steps {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let loss = run.step();
        if !loss.objective.is_finite() {
            let step = run.steps();
            return Err(JobError::NotFinite(format!(
                "step {step}: the loss is not finite; try a lower rate"
            )));
        }
        watch.progress(run.steps().into(), plan.steps.into());
        if watch.is_checkpoint_due() {
            watch.save_checkpoint(run.save());
        }
    }
    Ok(run.trained(checkpoint))
}

fn plan_of(plan: &TrainingPlan) -> Plan {
    let rate = plan.rate as f32;
    let method = match plan.optimizer {
        Optimizer::Adam => Method::Adam(Adam::default()),
        Optimizer::Lion => Method::Lion(Lion::default()),
    };
    let settings = Settings {
        method,
        schedule: Schedule {
            steps: plan.steps,
            warm_up: WARM_UP.min(plan.steps / WARM_UP_SHARE),
            floor: FLOOR,
        },
        rate,
        vector_rate: rate,
        scale_rate: SCALE_RATE,
        zero_point_rate: 0.0,
        weight_decay: 0.0,
        bit_cost: plan.bit_cost as f32,
        clip: CLIP,
        reset: Reset::Attached,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let (window, batch) = (plan.window as usize, plan.batch as usize);
    Plan { settings, share: plan.distillation as f32, window, batch, seed: plan.seed }
}

fn artifact(network: &Network, candidate: &Candidate, trained: &Trained) -> Result<Vec<u8>, String> {
    let mut writer = CodesWriter::default();
    for unit in network.units() {
        let scheme = candidate.scheme(&unit.name);
        let Some(codes) = trained.codes.get(&unit.name).filter(|_| scheme.is_trained()) else { continue };
        let (rows, columns, tokens) = (unit.rows, unit.columns, trained.tokens);
        writer.unit(&unit.name, CalibratedUnit { rows, columns, tokens, damping: 0.0, dead_columns: 0 });
        writer.codes(&unit.name, scheme, codes.clone());
    }
    for vector in network.vectors() {
        writer.vector(&vector.name, trained.tensors.get(&vector.name), candidate.vectors());
    }
    writer.finish()
}
