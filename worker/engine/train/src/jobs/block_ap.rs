//! The kind `block_ap`: all parameters of a candidate block by block, then those of its head. What it leaves is an artifact as
//! that of `qat`.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::recovery::{Parameters, TrainingPlan, kinds};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};

use super::qat::{artifact, not_finite, plan_of, teacher, text};
use crate::block_ap::BlockAp;
use crate::distil::Plan;
use crate::lessons::Lessons;
use crate::step::Settings;

/// The kind.
pub const BLOCK_AP: Kind = Kind {
    name: kinds::BLOCK_AP,
    about: "codes, scales and vectors of a candidate, trained block by block",
    make,
};

/// Learning rate of zero points, in codes.
const ZERO_POINT_RATE: f32 = 1e-2;

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Parameters { binary_embedding, candidate, plan, .. } = parameters(job)?;
    let candidate =
        Candidate::decode(&candidate).map_err(|error| JobError::Invalid(format!("candidate: {error}")))?;
    let checkpoint = inputs.checkpoint(binary_embedding)?;
    let network = checkpoint.network();
    let (data, teacher) = (text(inputs, network, &plan)?, teacher(inputs, network, &plan)?);
    let run = BlockAp::new(&checkpoint, teacher, &candidate, Lessons::of(&data), plan_of_parts(&plan));
    let mut run = run.map_err(JobError::invalid)?;
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the run begins anew.
        run.restore(saved).map_err(JobError::invalid)?;
    }
    while run.steps() < run.all_steps() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let loss = run.step().map_err(JobError::invalid)?;
        if loss.is_some_and(|(_, loss)| !loss.objective.is_finite()) {
            return Err(not_finite(run.steps()));
        }
        watch.progress(run.steps(), run.all_steps());
        if watch.is_checkpoint_due() {
            watch.save_checkpoint(run.save());
        }
    }
    let trained = run.trained();
    let artifact = artifact(network, &candidate, &trained, trained.tokens);
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}

/// The plan of a run of parts: as end to end, but zero points are learned, too. A bit costs what it says in units of the
/// part's loss, as a mean over the part's weights.
pub(super) fn plan_of_parts(plan: &TrainingPlan) -> Plan {
    let plan = plan_of(plan);
    Plan { settings: Settings { zero_point_rate: ZERO_POINT_RATE, ..plan.settings }, ..plan }
}
