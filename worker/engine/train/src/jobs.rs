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
use qslm_engine::jobs::{BACKEND, Inputs, JobError, KINDS, Kind, Watch, make_of};

use crate::step::trains_on;

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

/// Kinds that are made on other backends than native, too: those that train end to end.
const ON_ANY_BACKEND: [&Kind; 2] = [&CONTROL, &QAT];

/// Makes a job's artifact.
///
/// # Errors
/// [`JobError`].
pub fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Job { kind, backend, .. } = job;
    if *backend != BACKEND && !ON_ANY_BACKEND.iter().any(|known| known.name == kind) {
        let words = format!("backend = {backend}: jobs of the kind {kind} are made on {BACKEND} alone");
        return Err(JobError::Invalid(words));
    }
    if !trains_on(*backend) {
        return Err(JobError::Backend(*backend));
    }
    make_of(kinds(), job, inputs, watch, out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use qslm_common::backend::Backend;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds().count());
        assert!(names.contains("qat") && names.contains("gptq"));
    }

    #[test]
    fn a_job_of_another_backend_is_refused_by_whoever_cannot_make_it() {
        let refused = |kind: &str, backend| {
            let job = Job::new(kind, 1).on(backend);
            make(&job, &Inputs::default(), &(), &mut Vec::new()).unwrap_err().to_string()
        };
        let words = "backend = cuda: jobs of the kind gptq are made on native alone";
        assert_eq!(refused("gptq", Backend::Cuda), words);
        assert_eq!(refused("qat", Backend::Integer), "backend = integer: this program makes no such job");
        // On native it is the next thing that is missing.
        assert!(refused("qat", Backend::Native).starts_with("parameters of qat"));
    }
}
