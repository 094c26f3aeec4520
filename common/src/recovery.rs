//! Recovery: training of quantized candidates that a search found, and what becomes of them.
//!
//! When the search is over, the smallest candidates of the front within reach of the bound are trained, each by a job that
//! any worker does. What a trainer leaves is codes, scales and vectors in an artifact, which a new candidate names; those
//! are measured on the same data as every other and stand on the same front.

use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, VECTORS};
use crate::footprint::float_bytes;
use crate::hash::ContentHash;
use crate::job::{Job, JobInput};
use crate::network::{Network, Unit};
use crate::scheme::Scheme;
use crate::task::MAX_WINDOW;

/// Training of the smallest candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Text that is trained on.
    pub text: ContentHash,
    /// Candidates that are trained, at most.
    pub candidates: u32,
    /// Largest loss of a candidate that is trained, as a multiple of the bound on quality.
    pub reach: f64,
    /// How each of them is trained.
    pub plan: TrainingPlan,
}

/// Plan of a training run: quantization-aware training by distillation and cross entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// Predictions of a window.
    pub window: u32,
    /// Windows of a batch.
    pub batch: u32,
    /// Steps.
    pub steps: u32,
    /// Highest learning rate of matrices and vectors, after a warm-up and before a cosine down to a fiftieth.
    pub rate: f64,
    /// Share of the divergence from the float network's predictions in the loss; the rest is cross entropy.
    pub distillation: f64,
    /// Seed of the windows.
    pub seed: u64,
}

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

/// Kind of the jobs that train; the engine of the workers knows it.
pub const KIND: &str = "qat";

/// Bytes of an artifact's header at most.
const HEADER: u64 = 1 << 20;

impl Recovery {
    /// Everything that makes no sense.
    pub fn problems(&self) -> Vec<InvalidRecovery> {
        let plan = &self.plan;
        let windows = (1.0..=f64::from(MAX_WINDOW), "1 to 65536");
        let checked = [
            ("candidates", f64::from(self.candidates), (1.0..=1000.0, "1 to 1000")),
            ("reach", self.reach, (1.0..=1e6, "1 to 1000000")),
            ("window", f64::from(plan.window), windows),
            ("batch", f64::from(plan.batch), (1.0..=4096.0, "1 to 4096")),
            ("steps", f64::from(plan.steps), (1.0..=1e7, "1 to 10000000")),
            ("rate", plan.rate, (1e-9..=1.0, "1e-9 to 1")),
            ("distillation", plan.distillation, (0.0..=1.0, "0 to 1")),
        ];
        let wrong = checked.into_iter().filter(|(_, value, (range, _))| !range.contains(value));
        wrong.map(|(key, value, (_, bound))| InvalidRecovery { key, value, bound }).collect()
    }

    /// The job that trains a candidate of a checkpoint of this shape; `None` if it has nothing that a trainer could leave codes of, or rounds what training
    /// computes in floats.
    pub fn job(
        &self,
        network: &Network,
        checkpoint: ContentHash,
        tokenizer: ContentHash,
        candidate: &Candidate,
    ) -> Option<Job> {
        let student = student(network, candidate)?;
        // A checkpoint of it holds all weights in float, with two moments each.
        let bytes = float_bytes(network) + HEADER;
        let parameters = Parameters {
            binary_embedding: network.binary_embedding,
            candidate: student.encode(),
            plan: self.plan.clone(),
        };
        let job = Job::new(KIND, bytes)
            .input("checkpoint", JobInput::Artifact(checkpoint))
            .input("text", JobInput::Artifact(self.text))
            .input("tokenizer", JobInput::Artifact(tokenizer));
        Some(job.parameters(&parameters))
    }

    /// The candidate that a trainer made of another: its schemes, with codes and vectors from the artifact.
    pub fn trained(network: &Network, candidate: &Candidate, artifact: ContentHash) -> Option<Candidate> {
        let student = student(network, candidate)?;
        let trained: Vec<String> = student
            .schemes()
            .filter(|(_, scheme)| scheme.is_trained())
            .map(|(unit, _)| unit.to_owned())
            .collect();
        let names = trained.iter().map(String::as_str).chain([VECTORS]);
        Some(student.with_codes(names, Some(artifact)))
    }
}

/// Parameters of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// True if the embedding is binary.
    pub binary_embedding: bool,
    /// Canonical text of the candidate, without artifacts.
    pub candidate: String,
    /// The plan.
    pub plan: TrainingPlan,
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

    fn recovery() -> Recovery {
        let plan =
            TrainingPlan { window: 128, batch: 16, steps: 400, rate: 5e-4, distillation: 1.0, seed: 1 };
        Recovery { text: ContentHash::of(b"train"), candidates: 2, reach: 10.0, plan }
    }

    fn job(experiment: &Experiment, candidate: &Candidate) -> Option<Job> {
        recovery().job(&experiment.network, experiment.checkpoint, experiment.data.tokenizer, candidate)
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_bound() {
        assert_eq!(recovery().problems(), []);
        let plan = TrainingPlan { steps: 0, rate: f64::NAN, distillation: 1.5, ..recovery().plan };
        let words: Vec<_> =
            Recovery { reach: 0.5, plan, ..recovery() }.problems().iter().map(ToString::to_string).collect();
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
    fn a_student_names_no_artifact_and_what_was_trained_names_one_for_all() {
        let experiment = experiment();
        let uniform = experiment.space.uniform(&experiment.network, 2);
        let calibrated = uniform.clone().with(["head.weight"], "int2:full:channel:f16:gptq".parse().unwrap());
        let calibrated = calibrated.with_codes(["head.weight"], Some(ContentHash::of(b"codes")));
        let job = job(&experiment, &calibrated).unwrap();
        let parameters: Parameters =
            serde_json::from_value(serde_json::Value::Object(job.parameters.into_iter().collect())).unwrap();
        let student = Candidate::decode(&parameters.candidate).unwrap();
        assert_eq!((student.artifacts().len(), job.inputs.len()), (0, 3));
        assert_eq!(student.scheme("head.weight").to_string(), "int2:full:channel:f16:trained");
        let artifact = ContentHash::of(b"trained");
        let trained = Recovery::trained(&experiment.network, &calibrated, artifact).unwrap();
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
        assert!(job(&experiment, &Candidate::float(&experiment.network)).is_none());
        let half = uniform.clone().with(["head.weight"], Scheme::Half);
        assert!(job(&experiment, &half).is_none());
        let inner = uniform.with_activations(["head.weight"], "int8:affine:dynamic".parse().ok());
        assert!(job(&experiment, &inner).is_none());
    }
}
