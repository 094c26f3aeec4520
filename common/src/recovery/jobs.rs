//! Jobs of a recovery: those of one trainer for one candidate, each after those whose artifacts it takes.

use serde::{Deserialize, Serialize};

use super::{Recovery, Trainer, TrainingPlan, student};
use crate::candidate::Candidate;
use crate::footprint::float_bytes;
use crate::hash::ContentHash;
use crate::job::{CHECKPOINT_TIMES, Job, JobInput, LARGEST_DOCUMENT};
use crate::network::{Member, Network};

/// Kinds of the jobs; the engine of the workers knows them.
pub mod kinds {
    /// Training end to end.
    pub const QAT: &str = "qat";
    /// Training block by block.
    pub const BLOCK_AP: &str = "block_ap";
    /// Training of the steps of frozen codes, end to end. Takes `codes`, the artifact of [`BLOCK_AP`].
    pub const E2E_QP: &str = "e2e_qp";
    /// A round of a module. Takes `state`, what the round before left of the module, and `before_0`, `before_1`, .., what it
    /// left of the modules in front of it; in the first round none of them.
    pub const MREM: &str = "mrem";
    /// Bytes that the codes of an artifact, `codes`, take when they are entropy-coded: a [`CodedSizes`](crate::storage::CodedSizes)
    /// as JSON, which the search reads.
    pub const CODED_ARTIFACT: &str = "coded_artifact";
    /// Codes of the modules, joined. Takes `module_0`, `module_1`, .., the states of the last round.
    pub const MREM_JOIN: &str = "mrem_join";
}

/// Bytes of an artifact's header at most.
const HEADER: u64 = 1 << 20;

/// Parameters of the jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Canonical text of the candidate, without artifacts.
    pub candidate: String,
    /// The plan.
    pub plan: TrainingPlan,
    /// Module and round, both from 0, of a job of the kind [`kinds::MREM`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<(u32, u32)>,
}

impl Recovery {
    /// The job that finds out what the codes of what was trained take when they are entropy-coded.
    pub fn sizes(trained: &Job) -> Job {
        Job::new(kinds::CODED_ARTIFACT, LARGEST_DOCUMENT).input("codes", JobInput::Job(trained.key()))
    }

    /// The jobs that train a candidate of a checkpoint of this shape; the last of them makes the artifact that
    /// [`Recovery::trained`] takes. `None` if it has nothing that a trainer could leave codes of, or rounds what training
    /// computes in floats.
    pub fn jobs(
        &self,
        network: &Network,
        checkpoint: ContentHash,
        tokenizer: ContentHash,
        candidate: &Candidate,
    ) -> Option<Vec<Job>> {
        let parameters = Parameters {
            member: network.into(),
            candidate: student(network, candidate)?.encode(),
            plan: self.plan.clone(),
            module: None,
        };
        // A checkpoint of a job holds all weights in float, with two moments each.
        let bytes = float_bytes(network) + HEADER;
        let job = |kind: &str, module: Option<(u32, u32)>| {
            // What a round of a module leaves is as much, because the next one goes on from it.
            let largest = if kind == kinds::MREM { CHECKPOINT_TIMES * bytes } else { bytes };
            Job::new(kind, largest)
                .on(self.backend)
                .input("checkpoint", JobInput::Artifact(checkpoint))
                .input("text", JobInput::Artifact(self.text))
                .input("tokenizer", JobInput::Artifact(tokenizer))
                .parameters(&Parameters { module, ..parameters.clone() })
        };
        let after = |job: Job, name: &str, other: &Job| job.input(name, JobInput::Job(other.key()));
        Some(match self.plan.trainer {
            Trainer::Qat => vec![job(kinds::QAT, None)],
            Trainer::BlockAp { end_to_end_steps: 0, .. } => vec![job(kinds::BLOCK_AP, None)],
            Trainer::BlockAp { .. } => {
                let blocks = job(kinds::BLOCK_AP, None);
                let steps = after(job(kinds::E2E_QP, None), "codes", &blocks);
                vec![blocks, steps]
            }
            Trainer::Mrem { modules, rounds } => {
                let mut all: Vec<Vec<Job>> = Vec::new();
                for round in 0..rounds {
                    let before = all.last().map_or(&[][..], Vec::as_slice);
                    let one = |module: u32| {
                        let mut one = job(kinds::MREM, Some((module, round)));
                        for (index, other) in before.iter().enumerate().take(module as usize + 1) {
                            let name = match index == module as usize {
                                true => "state".to_owned(),
                                false => format!("before_{index}"),
                            };
                            one = after(one, &name, other);
                        }
                        one
                    };
                    let jobs = (0..modules).map(one).collect();
                    all.push(jobs);
                }
                let last = all.last().map_or(&[][..], Vec::as_slice);
                let names = last.iter().enumerate();
                let join = names.fold(job(kinds::MREM_JOIN, None), |join, (index, module)| {
                    after(join, &format!("module_{index}"), module)
                });
                all.into_iter().flatten().chain([join]).collect()
            }
        })
    }
}
