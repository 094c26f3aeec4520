//! The kind `holdout`: counts of a candidate and of the float model on a part of data that the search did not see.

use std::io::Write;

use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::measurement::Counts;
use qslm_common::network::Member;
use qslm_common::spread::Spread;
use qslm_common::task::{Data, Shard, Task};
use serde::{Deserialize, Serialize};

use super::{
    BACKEND, Inputs, JobError, Kind, Watch, over_data, parameters, read_document, with_codes, write_document,
};
use crate::model::SpikeGpt;
use crate::task::{EvaluateError, evaluate_each, spread};

/// The kind.
pub const HOLDOUT: Kind = Kind {
    name: "holdout",
    about: "counts of a candidate and of the float model on a part of data that was held out",
    make,
};

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// Task: how the data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Canonical text of the candidate.
    pub candidate: String,
    /// The part of the data: its index, and how many there are.
    pub shard: (u32, u32),
}

/// Counts of both over the same sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Counts of the float model.
    pub float: Counts,
    /// Counts of the candidate.
    pub counts: Counts,
    /// Spread of the candidate's losses around the float model's.
    pub spread: Spread,
}

impl Holdout {
    /// The job that counts on a part of some data.
    pub fn job(&self, checkpoint: ContentHash, data: &Data) -> Job {
        let artifacts = Candidate::decode(&self.candidate).map(|candidate| candidate.artifacts());
        with_codes(over_data(&HOLDOUT, checkpoint, data), artifacts.unwrap_or_default()).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<HeldOut, JobError> {
        read_document(&HOLDOUT, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Holdout { task, member, candidate, shard: (index, of) } = parameters(job)?;
    let shard = Shard { index, of };
    if !shard.is_valid() {
        return Err(JobError::Invalid(format!("shard: {index} of {of}")));
    }
    let candidate =
        Candidate::decode(&candidate).map_err(|error| JobError::Invalid(format!("candidate: {error}")))?;
    let checkpoint = inputs.checkpoint(member)?;
    let network = checkpoint.network();
    let data = inputs.data(&task, network)?;
    let mut done = 0;
    let codes = inputs.codes(job)?;
    let mut each = |candidate: &Candidate| {
        let model =
            SpikeGpt::with_codes(&checkpoint, candidate, &codes, BACKEND).map_err(JobError::invalid)?;
        let each = evaluate_each(&model, &data, shard.range(data.len()), None, &|| watch.is_interrupted());
        done += 1;
        watch.progress(done, 2);
        each.map_err(why)
    };
    let (before, after) = (each(&Candidate::float(network))?, each(&candidate)?);
    let spread = spread(task.quality(), &before, &after);
    let sum =
        |each: &[Counts]| Counts::sum(network.population_count(), each).map_err(|error| why(error.into()));
    write_document(&HeldOut { float: sum(&before)?, counts: sum(&after)?, spread }, out)
}

fn why(error: EvaluateError) -> JobError {
    match error {
        EvaluateError::Interrupted => JobError::Interrupted,
        other => JobError::NotFinite(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::tests::inputs;
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), "a b a b b a a b b b a a\n");
        let network = *inputs.checkpoint(true).unwrap().network();
        let task = Task::Perplexity { window: 2, stride: 2, windows: None };
        let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
        let candidate = Candidate::new(&network, |_| "int2:symmetric:tensor".parse().unwrap());
        let part = |index, of| {
            let candidate = candidate.encode();
            let holdout = Holdout { task: task.clone(), member: true.into(), candidate, shard: (index, of) };
            let mut artifact = Vec::new();
            make(&holdout.job(ContentHash::of(b"c"), &data), &inputs, &(), &mut artifact).map(|()| artifact)
        };
        let read = |index, of| Holdout::read(&part(index, of).unwrap()).unwrap();
        let whole = read(0, 1);
        assert!(whole.spread.sequences > 2 && whole.spread.squares > 0, "{whole:?}");
        let (mut sum, other) = (read(0, 2), read(1, 2));
        sum.float.add(&other.float).unwrap();
        sum.counts.add(&other.counts).unwrap();
        sum.spread.add(other.spread);
        assert_eq!(sum, whole);
        assert_eq!(part(2, 2).unwrap_err().to_string(), "shard: 2 of 2");
    }
}
