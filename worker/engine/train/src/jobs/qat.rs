//! The kind `qat`: quantization-aware training of one candidate. What it leaves is an artifact with codes, scales and vectors,
//! which a candidate names.
//!
//! A run goes on from its last checkpoint, and from there or from the start it makes the same bytes, with however many
//! threads. On a graphics card it goes on, too, but other cards and runs make other bytes of the same quality.

use std::io::Write;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::network::{Member, Network};
use qslm_common::recovery::{self, Optimizer, Parameters, TrainingPlan, kinds};
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::task::Dataset;

use super::stepping::{Stepping, go_on};
use crate::distil::{Plan, Run, Teacher, Trained};
use crate::lessons::Lessons;
use crate::optimizer::{Adam, Lion, Method};
use crate::schedule::Schedule;
use crate::states::States;
use crate::step::Settings;

/// The kind.
pub const QAT: Kind =
    Kind { name: kinds::QAT, about: "codes, scales and vectors of a candidate, trained", make };

/// Steps over which the rate rises, at most, and their share of all.
const WARM_UP: u32 = 50;
const WARM_UP_SHARE: u32 = 8;
/// Share of the highest rate at the last step.
const FLOOR: f64 = 0.02;
/// Learning rate of scales, as a share of their mean; of Lion, whose every step has the full length.
const SCALE_RATE: f32 = 1e-2;
const SCALE_RATE_OF_LION: f32 = 2e-3;
/// Largest norm of a gradient.
const CLIP: f64 = 1.0;

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Parameters { member, candidate, plan, .. } = parameters(job)?;
    let candidate = candidate_of(&candidate)?;
    let checkpoint = super::checkpoint_to_train(inputs, member)?;
    let network = *checkpoint.network();
    let trained = train(inputs, &checkpoint, &candidate, (&plan, job.backend), watch)?;
    let artifact = artifact(&network, &candidate, &trained);
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}

/// Trains a candidate of a checkpoint on the input `text`, which has labelled sentences for a classifier, from the checkpoint
/// of the job if there is one.
pub(super) fn train(
    inputs: &Inputs,
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    (plan, backend): (&TrainingPlan, Backend),
    watch: &dyn Watch,
) -> Result<Trained, JobError> {
    let network = checkpoint.network();
    let (data, teacher) = (text(inputs, network, plan)?, teacher(inputs, network, plan)?);
    let run = Run::new(checkpoint, teacher, candidate, Lessons::of(&data), plan_of(plan));
    let mut run = run.map_err(JobError::invalid)?;
    run.compute_on(backend, checkpoint).map_err(JobError::invalid)?;
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the run begins anew.
        run.restore(saved);
    }
    go_on(&mut run, (0, plan.steps.into()), watch)?;
    Ok(run.trained())
}

/// The text that a plan draws its windows from, or the sentences that a classifier learns from.
pub(super) fn text(
    inputs: &Inputs,
    network: &Network,
    plan: &TrainingPlan,
) -> Result<Arc<Dataset>, JobError> {
    let task = match network.is_classifier() {
        true => Task::Accuracy { sentences: None },
        false => Task::Perplexity { window: plan.window, stride: plan.window, windows: None },
    };
    task.validate().map_err(JobError::invalid)?;
    inputs.data(&task, network)
}

/// The float network, if a plan follows its logits.
pub(super) fn teacher(
    inputs: &Inputs,
    network: &Network,
    plan: &TrainingPlan,
) -> Result<Option<Teacher>, JobError> {
    if plan.distillation == 0.0 {
        return Ok(None);
    }
    inputs.float(Member::from(network)).map(Some)
}

/// Reads the candidate that a job names.
pub(super) fn candidate_of(text: &str) -> Result<Candidate, JobError> {
    Candidate::decode(text).map_err(|error| JobError::Invalid(format!("candidate: {error}")))
}

impl Stepping for Run<'_> {
    fn done(&self) -> u64 {
        self.steps().into()
    }

    fn step(&mut self) -> Result<f64, JobError> {
        Ok(Self::step(self).objective)
    }

    fn save(&self) -> Vec<u8> {
        Self::save(self)
    }
}

/// The plan of a run end to end.
pub(super) fn plan_of(plan: &TrainingPlan) -> Plan {
    let rate = plan.rate as f32;
    let (method, scale_rate) = match plan.optimizer {
        Optimizer::Adam => (Method::Adam(Adam::default()), SCALE_RATE),
        Optimizer::Lion => (Method::Lion(Lion::default()), SCALE_RATE_OF_LION),
    };
    let states = match plan.states {
        recovery::States::F32 => States::Float,
        recovery::States::Int8 => States::Int8 { seed: plan.seed },
    };
    let settings = Settings {
        method,
        states,
        schedule: Schedule {
            steps: plan.steps,
            warm_up: WARM_UP.min(plan.steps / WARM_UP_SHARE),
            floor: FLOOR,
        },
        rate,
        vector_rate: rate,
        scale_rate,
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

/// The artifact with what was trained.
pub(super) fn artifact(
    network: &Network,
    candidate: &Candidate,
    trained: &Trained,
) -> Result<Vec<u8>, String> {
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
