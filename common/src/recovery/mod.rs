//! Recovery: training of quantized candidates that a search found, and what becomes of them.
//!
//! When the search is over, the smallest candidates of the front within reach of the bound are trained, each by a job that
//! any worker does. What a trainer leaves is codes, scales and vectors in an artifact, which a new candidate names; those
//! are measured on the same data as every other and stand on the same front.

mod jobs;
mod plan;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::candidate::{Candidate, VECTORS};
use crate::hash::ContentHash;
use crate::network::{Network, Unit};
use crate::scheme::Scheme;
use crate::storage::CodedSizes;

pub use jobs::{Parameters, kinds};
pub use plan::{Optimizer, States, Trainer, TrainingPlan};

/// Training of the smallest candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Text that is trained on; of a classifier, labelled sentences (`sentence TAB label`).
    pub text: ContentHash,
    /// Candidates that are trained, at most.
    pub candidates: u32,
    /// Largest loss of a candidate that is trained, as a multiple of the bound on quality.
    pub reach: f64,
    /// How each of them is trained.
    pub plan: TrainingPlan,
    /// Backend that finds gradients: native, the same bits everywhere, or that of a graphics card.
    #[serde(default, skip_serializing_if = "plan::is_default")]
    pub backend: Backend,
}

/// A key with its value and its bound.
type Checked = (&'static str, f64, (RangeInclusive<f64>, &'static str));

/// A recovery that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} = {value}: expected {bound}")]
pub struct InvalidRecovery {
    /// Key within `[recovery]`.
    pub key: &'static str,
    /// The value that was given.
    pub value: f64,
    /// The range that it has to be in.
    pub bound: &'static str,
}

impl InvalidRecovery {
    /// Of keys with their values and bounds, those that are out of them.
    fn of(checked: Vec<Checked>) -> impl Iterator<Item = Self> {
        let wrong = checked.into_iter().filter(|(_, value, (range, _))| !range.contains(value));
        wrong.map(|(key, value, (_, bound))| Self { key, value, bound })
    }
}

/// A backend that does not train so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotTrainOn {
    /// One that trains nothing.
    #[error("backend = {0}: expected native, cuda or wgpu")]
    Backend(Backend),
    /// A trainer that only native has.
    #[error("backend = {0}: qat alone trains on graphics cards")]
    Trainer(Backend),
}

impl Recovery {
    /// Checks that the trainer trains on the backend.
    ///
    /// # Errors
    /// [`CannotTrainOn`].
    pub fn check_backend(&self) -> Result<(), CannotTrainOn> {
        match (self.backend, &self.plan.trainer) {
            (Backend::Native, _) => Ok(()),
            (backend, _) if !backend.is_gpu() => Err(CannotTrainOn::Backend(backend)),
            (_, Trainer::Qat) => Ok(()),
            (backend, _) => Err(CannotTrainOn::Trainer(backend)),
        }
    }

    /// Everything that makes no sense.
    pub fn problems(&self, network: &Network) -> Vec<InvalidRecovery> {
        let checked = vec![
            ("candidates", f64::from(self.candidates), (1.0..=1000.0, "1 to 1000")),
            ("reach", self.reach, (1.0..=1e6, "1 to 1000000")),
        ];
        InvalidRecovery::of(checked).chain(self.plan.problems(network)).collect()
    }

    /// The candidate that a trainer made of another: its schemes, with codes and vectors from the artifact, and what those codes
    /// take when they are entropy-coded.
    pub fn trained(
        network: &Network,
        candidate: &Candidate,
        artifact: ContentHash,
        sizes: &CodedSizes,
    ) -> Option<Candidate> {
        let student = student(network, candidate)?;
        let trained: Vec<String> = student
            .schemes()
            .filter(|(_, scheme)| scheme.is_trained())
            .map(|(unit, _)| unit.to_owned())
            .collect();
        let names = trained.iter().map(String::as_str).chain([VECTORS]);
        let mut made = student.with_codes(names, Some(artifact));
        for unit in &trained {
            if let Some(bytes) = sizes.get(unit, made.scheme(unit)) {
                made = made.with_coded_bytes(unit, bytes);
            }
        }
        Some(made)
    }
}

/// The candidate with codes that a trainer is to leave, and no artifact yet. The embedding, of which a binary network sees the
/// signs alone, stays as it is.
fn student(network: &Network, candidate: &Candidate) -> Option<Candidate> {
    if candidate.activations().next().is_some() || candidate.membranes().next().is_some() {
        return None;
    }
    let units = network.units();
    let mut student = candidate.clone().with_vectors(candidate.vectors());
    for unit in units.iter().filter(|unit| unit.is_linear()) {
        let Scheme::Integer { .. } = candidate.scheme(&unit.name) else { return None };
        let trained = candidate.scheme(&unit.name).trained();
        student = student.with([unit.name.as_str()], trained).with_codes([unit.name.as_str()], None);
    }
    let is_lossless = |unit: &Unit| unit.is_linear() || candidate.scheme(&unit.name) == Scheme::Sign;
    units.iter().all(is_lossless).then_some(student)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::experiment::tests::experiment;
    use crate::job::{Job, JobInput};

    fn recovery() -> Recovery {
        let plan = TrainingPlan { seed: 1, ..TrainingPlan::default() };
        let backend = Backend::default();
        Recovery { text: ContentHash::of(b"train"), candidates: 2, reach: 10.0, plan, backend }
    }

    fn jobs(experiment: &Experiment, plan: TrainingPlan, candidate: &Candidate) -> Option<Vec<Job>> {
        let recovery = Recovery { plan, ..recovery() };
        recovery.jobs(&experiment.network, experiment.checkpoint, experiment.data.tokenizer, candidate)
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_bound() {
        assert_eq!(recovery().problems(&experiment().network), []);
        let plan = TrainingPlan { steps: 0, rate: f64::NAN, distillation: 1.5, ..recovery().plan };
        let words: Vec<_> = Recovery { reach: 0.5, plan, ..recovery() }
            .problems(&experiment().network)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            words,
            [
                "reach = 0.5: expected 1 to 1000000",
                "steps = 0: expected 1 to 10000000",
                "rate = NaN: expected 1e-9 to 1",
                "distillation = 1.5: expected 0 to 1"
            ]
        );
    }

    #[test]
    fn a_graphics_card_trains_end_to_end_and_its_jobs_say_so() {
        let experiment = experiment();
        let uniform = experiment.space.uniform(&experiment.network, 2);
        let on = |backend, trainer| Recovery {
            backend,
            plan: TrainingPlan { trainer, ..recovery().plan },
            ..recovery()
        };
        let refused = |recovery: Recovery| recovery.check_backend().unwrap_err().to_string();
        assert_eq!(refused(on(Backend::Flex, Trainer::Qat)), "backend = flex: expected native, cuda or wgpu");
        let modules = Trainer::Mrem { modules: 2, rounds: 2 };
        assert_eq!(on(Backend::Native, modules.clone()).check_backend(), Ok(()));
        assert_eq!(refused(on(Backend::Wgpu, modules)), "backend = wgpu: qat alone trains on graphics cards");
        let card = on(Backend::Cuda, Trainer::Qat);
        assert_eq!(card.check_backend(), Ok(()));
        let jobs = |recovery: &Recovery| {
            let (checkpoint, tokenizer) = (experiment.checkpoint, experiment.data.tokenizer);
            recovery.jobs(&experiment.network, checkpoint, tokenizer, &uniform).unwrap()
        };
        let [here, there] = [recovery(), card].map(|recovery| jobs(&recovery).remove(0));
        assert_eq!((here.backend, there.backend), (Backend::Native, Backend::Cuda));
        assert_eq!(there.on(Backend::Native), here, "nothing else differs");
    }

    #[test]
    fn a_student_names_no_artifact_and_what_was_trained_names_one_for_all() {
        let experiment = experiment();
        let uniform = experiment.space.uniform(&experiment.network, 2);
        let calibrated = uniform.clone().with(["head.weight"], "int2:full:channel:f16:gptq".parse().unwrap());
        let calibrated = calibrated.with_codes(["head.weight"], Some(ContentHash::of(b"codes")));
        let [job] = jobs(&experiment, recovery().plan, &calibrated).unwrap().try_into().unwrap();
        let parameters: Parameters =
            serde_json::from_value(serde_json::Value::Object(job.parameters.into_iter().collect())).unwrap();
        let student = Candidate::decode(&parameters.candidate).unwrap();
        assert_eq!((student.artifacts().len(), job.inputs.len()), (0, 3));
        assert_eq!(student.scheme("head.weight").to_string(), "int2:full:channel:f16:trained");
        let artifact = ContentHash::of(b"trained");
        let trained =
            Recovery::trained(&experiment.network, &calibrated, artifact, CodedSizes::NONE).unwrap();
        assert_eq!(trained.validate(&experiment.network), Ok(()));
        assert_eq!(trained.artifacts().into_iter().collect::<Vec<_>>(), [artifact]);
        assert_eq!(trained.codes_of(VECTORS), Some(artifact));
        assert_eq!(Candidate::decode(&trained.encode()), Ok(trained.clone()));
        assert_eq!(experiment.footprint(&trained), experiment.footprint(&calibrated));
    }

    #[test]
    fn what_cannot_be_trained_has_no_job() {
        let experiment = experiment();
        let uniform = experiment.space.uniform(&experiment.network, 2);
        assert!(jobs(&experiment, recovery().plan, &Candidate::float(&experiment.network)).is_none());
        let half = uniform.clone().with(["head.weight"], Scheme::Half);
        assert!(jobs(&experiment, recovery().plan, &half).is_none());
        let inner = uniform.with_activations(["head.weight"], "int8:affine:dynamic".parse().ok());
        assert!(jobs(&experiment, recovery().plan, &inner).is_none());
    }

    #[test]
    fn jobs_of_a_trainer_wait_for_those_whose_artifacts_they_take() {
        let experiment = experiment();
        let uniform = experiment.space.uniform(&experiment.network, 2);
        let of = |trainer| {
            let plan = TrainingPlan { trainer, ..recovery().plan };
            let jobs = jobs(&experiment, plan, &uniform).unwrap();
            assert!(jobs.iter().all(|job| job.validate().is_ok()), "workers read every one");
            let keys: Vec<_> = jobs.iter().map(Job::key).collect();
            let place = |input: &JobInput| match input {
                JobInput::Artifact(_) => None,
                JobInput::Job(key) => Some(keys.iter().position(|other| other == key).unwrap()),
            };
            let waits = jobs.iter().map(|job| {
                let names = job.inputs.iter().filter_map(|(name, input)| Some((name.clone(), place(input)?)));
                (job.kind.clone(), names.collect::<Vec<_>>())
            });
            waits.collect::<Vec<_>>()
        };
        let name = |name: &str, place| (name.to_owned(), place);
        let phases = Trainer::BlockAp { end_to_end_steps: 5, end_to_end_rate: 1e-3 };
        assert_eq!(
            of(phases),
            [("block_ap".to_owned(), vec![]), ("e2e_qp".to_owned(), vec![name("codes", 0)])]
        );
        let rounds = of(Trainer::Mrem { modules: 2, rounds: 2 });
        let kinds: Vec<_> = rounds.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["mrem", "mrem", "mrem", "mrem", "mrem_join"]);
        assert!(rounds[0].1.is_empty() && rounds[1].1.is_empty());
        assert_eq!(rounds[2].1, [name("state", 0)]);
        assert_eq!(rounds[3].1, [name("before_0", 0), name("state", 1)]);
        assert_eq!(rounds[4].1, [name("module_0", 2), name("module_1", 3)]);
    }

    #[test]
    fn plans_keep_the_text_that_they_had_when_there_was_one_trainer() {
        let text = r#"{"window":128,"batch":16,"steps":400,"rate":0.0005,"distillation":1.0,"seed":1}"#;
        assert_eq!(serde_json::to_string(&recovery().plan).unwrap(), text);
        assert_eq!(serde_json::from_str::<TrainingPlan>(text).unwrap(), recovery().plan);
        let trainer = Trainer::Mrem { modules: 2, rounds: 401 };
        let plan = TrainingPlan { trainer, ..recovery().plan };
        let problems = Recovery { plan, ..recovery() }.problems(&experiment().network);
        let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["rounds = 401: expected 1 to the number of steps, at most 1000"]);
    }
}
