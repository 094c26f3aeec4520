//! The kind `sensitivity`: scores of some units by every measure, each unit quantized alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::{Member, Unit};
use qslm_common::scheme::Scheme;
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::{
    BACKEND, Inputs, JobError, Kind, Watch, over_data, parameters, read_document, with_codes, write_document,
};
use crate::task::EvaluateError;
use crate::task::sensitivity::{Comparison, MEASURES, MiniBatch, ScoreError, UnitScheme};

/// The kind.
pub const SENSITIVITY: Kind =
    Kind { name: "sensitivity", about: "scores of units by every measure, each quantized alone", make };

/// Units of one job: the float network runs once for all of them.
pub const UNITS_AT_ONCE: usize = 8;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// Task: how the data is cut.
    pub task: Task,
    /// Sequences of the data that are run, from its beginning.
    pub sequences: u32,
    /// Sequences for measures of a mini-batch.
    pub mini_batch: u32,
    /// Tokens that LSAQ compares.
    pub top_k: u32,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Scheme of every unit to score, by its name.
    pub units: BTreeMap<String, String>,
    /// Artifacts that hold the codes of units whose scheme is calibrated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ContentHash>,
}

/// Scores of one unit, by the name of the measure; `None` where a measure does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitScores {
    /// Name of the unit.
    pub unit: String,
    /// Scheme that it was quantized to, alone.
    pub scheme: String,
    /// Scores by measure.
    pub scores: BTreeMap<String, Option<f64>>,
}

impl Sensitivity {
    /// The job that scores the units of a checkpoint over some data.
    pub fn job(&self, checkpoint: ContentHash, data: &Data) -> Job {
        let artifacts: BTreeSet<ContentHash> = self.codes.values().copied().collect();
        with_codes(over_data(&SENSITIVITY, checkpoint, data), artifacts).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<Vec<UnitScores>, JobError> {
        read_document(&SENSITIVITY, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Sensitivity { task, sequences, mini_batch, top_k, member, units, codes } = parameters(job)?;
    let checkpoint = inputs.checkpoint(member)?;
    let network = checkpoint.network();
    let data = inputs.data(&task.first(sequences), network)?;
    let mini_batch = MiniBatch { sequences: mini_batch as usize, top_k: top_k as usize };
    let artifacts = inputs.codes(job)?;
    let comparison = Comparison::new(&checkpoint, BACKEND, &data, MEASURES, mini_batch)
        .map_err(JobError::invalid)?
        .with_codes(&artifacts);
    // In the network's order, which is that of every table.
    let known: Vec<Unit> = network.units();
    if let Some(name) = units.keys().find(|name| known.iter().all(|unit| unit.name != **name)) {
        return Err(JobError::Invalid(format!("units: {name:?} is no matrix of the checkpoint")));
    }
    let wanted: Vec<&Unit> = known.iter().filter(|unit| units.contains_key(&unit.name)).collect();
    let mut rows = scored_before(watch, &wanted, &units);
    for (done, unit) in wanted.iter().enumerate().skip(rows.len()) {
        let text = &units[&unit.name];
        let scheme: Scheme =
            text.parse().map_err(|error| JobError::Invalid(format!("units.{}: {error}", unit.name)))?;
        let stored = UnitScheme { scheme, codes: codes.get(&unit.name).copied() };
        let scores = comparison.scores(unit, stored, &|| watch.is_interrupted()).map_err(why)?;
        let named = MEASURES.iter().map(|measure| measure.name.to_owned()).zip(scores);
        rows.push(UnitScores { unit: unit.name.clone(), scheme: text.clone(), scores: named.collect() });
        watch.progress(done as u64 + 1, wanted.len() as u64);
        if watch.is_checkpoint_due() {
            let mut checkpoint = Vec::new();
            write_document(&rows, &mut checkpoint)?;
            watch.save_checkpoint(checkpoint);
        }
    }
    write_document(&rows, out)
}

fn why(error: ScoreError) -> JobError {
    match error {
        ScoreError::Build(error) => JobError::invalid(error),
        ScoreError::Evaluate { error: EvaluateError::Interrupted, .. } => JobError::Interrupted,
        ScoreError::Evaluate { .. } => JobError::NotFinite(error.to_string()),
    }
}

/// Rows of the units that were scored before, of a checkpoint. One that does not fit is as good as none.
fn scored_before(watch: &dyn Watch, wanted: &[&Unit], units: &BTreeMap<String, String>) -> Vec<UnitScores> {
    let rows = watch.checkpoint().and_then(|checkpoint| Sensitivity::read(checkpoint).ok());
    let fits = |rows: &Vec<UnitScores>| {
        rows.len() <= wanted.len()
            && rows.iter().zip(wanted).all(|(row, unit)| {
                row.unit == unit.name
                    && units.get(&row.unit) == Some(&row.scheme)
                    && MEASURES.iter().all(|measure| row.scores.contains_key(measure.name))
            })
    };
    rows.filter(fits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::inputs::tests::inputs;
    use super::*;

    /// A lease that ends once so many units are scored, with the checkpoints that it saw.
    #[derive(Default)]
    struct Lease {
        left: Option<Vec<u8>>,
        ends_after: Option<u64>,
        scored: Mutex<Vec<u64>>,
        saved: Mutex<Option<Vec<u8>>>,
    }

    impl Watch for Lease {
        fn is_interrupted(&self) -> bool {
            self.ends_after.is_some_and(|units| self.scored.lock().unwrap().len() as u64 >= units)
        }

        fn progress(&self, done: u64, _of: u64) {
            self.scored.lock().unwrap().push(done);
        }

        fn checkpoint(&self) -> Option<&[u8]> {
            self.left.as_deref()
        }

        fn is_checkpoint_due(&self) -> bool {
            true
        }

        fn save_checkpoint(&self, checkpoint: Vec<u8>) {
            *self.saved.lock().unwrap() = Some(checkpoint);
        }
    }

    #[test]
    fn a_job_that_goes_on_from_a_checkpoint_makes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), "a b a b b a a b b b a a\n");
        let network = *inputs.checkpoint(true).unwrap().network();
        let scheme = "int4:symmetric:tensor".to_owned();
        let units = network.units().into_iter().take(4).map(|unit| (unit.name, scheme.clone())).collect();
        let task = Task::Perplexity { window: 4, stride: 4, windows: None };
        let parameters = Sensitivity {
            task,
            sequences: 2,
            mini_batch: 1,
            top_k: 1,
            member: true.into(),
            units,
            codes: BTreeMap::new(),
        };
        let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
        let job = parameters.job(ContentHash::of(b"c"), &data);
        let make = |lease: &Lease| {
            let mut artifact = Vec::new();
            super::make(&job, &inputs, lease, &mut artifact).map(|()| artifact)
        };
        let whole = make(&Lease::default()).unwrap();
        assert_eq!(Sensitivity::read(&whole).unwrap().len(), 4);
        let first = Lease { ends_after: Some(2), ..Lease::default() };
        assert!(matches!(make(&first), Err(JobError::Interrupted)));
        let left = first.saved.into_inner().unwrap();
        let second = Lease { left: left.clone(), ..Lease::default() };
        assert_eq!(make(&second).unwrap(), whole);
        assert_eq!(second.scored.into_inner().unwrap(), [3, 4], "what was scored is not scored again");
        // What does not fit is as good as none: cut short, of other units, of too many.
        let left = left.unwrap();
        let others = String::from_utf8(left.clone()).unwrap().replace("int4", "int3");
        for wrong in [left[..left.len() - 1].to_vec(), others.into_bytes(), b"[]".to_vec(), b"7".to_vec()] {
            let lease = Lease { left: Some(wrong), ..Lease::default() };
            assert_eq!(make(&lease).unwrap(), whole);
            assert_eq!(lease.scored.into_inner().unwrap(), [1, 2, 3, 4]);
        }
    }
}
