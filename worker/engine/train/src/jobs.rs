//! Kinds of jobs that train, beside those of the engine.

mod block_ap;
mod control;
mod e2e_qp;
mod fisher;
mod mrem;
mod qat;
mod stepping;

use std::io::Write;
use std::sync::Arc;

use qslm_common::job::Job;
use qslm_common::network::Member;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{Inputs, JobError, KINDS, Kind, Watch, make_of};

pub use block_ap::BLOCK_AP;
pub use control::{CONTROL, control_of, read_control};
pub use e2e_qp::E2E_QP;
pub use fisher::{FISHER, FisherLosses};
pub use mrem::{MREM, MREM_JOIN};
pub use qat::QAT;

/// Every kind of job that a worker knows.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().chain([&BLOCK_AP, &CONTROL, &E2E_QP, &FISHER, &MREM, &MREM_JOIN, &QAT])
}

/// The float checkpoint of a job that goes back through its network.
///
/// # Errors
/// [`JobError`], also if such a network is not trained.
fn checkpoint_to_train(inputs: &Inputs, member: Member) -> Result<Arc<Checkpoint>, JobError> {
    let checkpoint = inputs.checkpoint(member)?;
    checkpoint.network().dynamics.trainable().map_err(JobError::invalid)?;
    Ok(checkpoint)
}

/// Makes a job's artifact.
///
/// # Errors
/// [`JobError`].
pub fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    make_of(kinds(), job, inputs, watch, out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds().count());
        assert!(names.contains("qat") && names.contains("gptq"));
    }
}
