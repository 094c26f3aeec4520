//! The kind `block_ap`: all parameters of a candidate block by block, then those of its head. What it leaves is an artifact as
//! that of `qat`.

use std::io::Write;

use qslm_common::job::Job;
use qslm_common::recovery::{Parameters, TrainingPlan, kinds};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};

use super::qat::{artifact, candidate_of, plan_of, teacher, text};
use super::stepping::{Stepping, go_on};
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
    let Parameters { member, candidate, plan, .. } = parameters(job)?;
    let candidate = candidate_of(&candidate)?;
    let checkpoint = super::checkpoint_to_train(inputs, member)?;
    let network = checkpoint.network();
    let (data, teacher) = (text(inputs, network, &plan)?, teacher(inputs, network, &plan)?);
    let run = BlockAp::new(&checkpoint, teacher, &candidate, Lessons::of(&data), plan_of_parts(&plan));
    let mut run = run.map_err(JobError::invalid)?;
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the run begins anew.
        run.restore(saved).map_err(JobError::invalid)?;
    }
    let all = run.all_steps();
    go_on(&mut run, (0, all), watch)?;
    let artifact = artifact(network, &candidate, &run.trained());
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}

/// The plan of a run of parts: as end to end, but zero points are learned, too. A bit costs what it says in units of the
/// part's loss, as a mean over the part's weights.
pub(super) fn plan_of_parts(plan: &TrainingPlan) -> Plan {
    let plan = plan_of(plan);
    Plan { settings: Settings { zero_point_rate: ZERO_POINT_RATE, ..plan.settings }, ..plan }
}

impl Stepping for BlockAp<'_> {
    fn done(&self) -> u64 {
        self.steps()
    }

    fn step(&mut self) -> Result<f64, JobError> {
        let loss = Self::step(self).map_err(JobError::invalid)?;
        // None is left when all stages are done.
        Ok(loss.map_or(0.0, |(_, loss)| loss.objective))
    }

    fn save(&self) -> Vec<u8> {
        Self::save(self)
    }
}
