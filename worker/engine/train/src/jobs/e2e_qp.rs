//! The kind `e2e_qp`: the steps of codes that `block_ap` chose, end to end. Codes, zero points and vectors stay what they are.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::network::Network;
use qslm_common::recovery::{Parameters, Trainer, TrainingPlan, kinds};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};

use super::qat::{artifact, candidate_of, plan_of, teacher, text};
use super::stepping::go_on;
use crate::distil::{Plan, Run, Trained};
use crate::lessons::Lessons;
use crate::step::Settings;

/// The kind.
pub const E2E_QP: Kind =
    Kind { name: kinds::E2E_QP, about: "steps of frozen codes of a candidate, trained end to end", make };

/// Input with the codes.
const CODES: &str = "codes";

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Parameters { member, candidate, plan, .. } = parameters(job)?;
    let candidate = candidate_of(&candidate)?;
    let Trainer::BlockAp { end_to_end_steps, end_to_end_rate } = plan.trainer else {
        return Err(JobError::invalid("plan: e2e_qp is the second phase of the trainer block_ap"));
    };
    let checkpoint = super::checkpoint_to_train(inputs, member)?;
    let network = checkpoint.network();
    let frozen = read(inputs, network, &candidate)?;
    // The same windows as the first phase, at the second one's length and rate.
    let plan = TrainingPlan { steps: end_to_end_steps, ..plan };
    let (data, teacher) = (text(inputs, network, &plan)?, teacher(inputs, network, &plan)?);
    let run =
        Run::new(&checkpoint, teacher, &candidate, Lessons::of(&data), steps_only(&plan, end_to_end_rate));
    let mut run = run.map_err(JobError::invalid)?;
    run.freeze(&frozen);
    if let Some(saved) = watch.checkpoint() {
        // One that cannot be read is none: the run begins anew.
        run.restore(saved);
    }
    go_on(&mut run, (0, plan.steps.into()), watch)?;
    let artifact = artifact(network, &candidate, &run.trained());
    out.write_all(&artifact.map_err(JobError::Invalid)?).map_err(JobError::artifact)
}

/// A plan that trains nothing but scales.
fn steps_only(plan: &TrainingPlan, rate: f64) -> Plan {
    let plan = plan_of(plan);
    let settings = Settings {
        rate: 0.0,
        vector_rate: 0.0,
        zero_point_rate: 0.0,
        scale_rate: rate as f32,
        // Codes stay, and with them what they cost.
        bit_cost: 0.0,
        ..plan.settings
    };
    Plan { settings, ..plan }
}

/// Codes and vectors of the first phase.
fn read(inputs: &Inputs, network: &Network, candidate: &Candidate) -> Result<Trained, JobError> {
    let file = inputs.codes_file(CODES)?;
    let refuse = |error| JobError::Invalid(format!("{CODES}: {error}"));
    let mut frozen = Trained::default();
    for unit in network.units() {
        let scheme = candidate.scheme(&unit.name);
        if scheme.is_trained() {
            let codes = file.codes(&unit.name, (unit.rows, unit.columns), scheme).map_err(refuse)?;
            frozen.codes.insert(unit.name, codes);
        }
    }
    for vector in network.vectors() {
        let size = network.channels as usize;
        let values = file.vector_values(&vector.name, size, candidate.vectors()).map_err(refuse)?;
        frozen.tensors.insert(&vector.name, values);
    }
    Ok(frozen)
}
