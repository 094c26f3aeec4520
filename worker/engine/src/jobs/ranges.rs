//! The kind `ranges`: static ranges of activations, seen while the float network reads calibration data.

use std::collections::BTreeMap;
use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::Member;
use qslm_common::scheme::{Calibration, Span};
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::{Inputs, JobError, Kind, Watch, over_data, parameters, read_document, write_document};
use crate::model::SpikeGpt;
use crate::task::{Dataset, calibrate};

/// The kind.
pub const RANGES: Kind =
    Kind { name: "ranges", about: "smallest and largest input of every matrix over calibration data", make };

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
}

impl Ranges {
    /// The job that sees the ranges of a checkpoint over some data.
    pub fn job(&self, checkpoint: ContentHash, data: &Data) -> Job {
        over_data(&RANGES, checkpoint, data).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<Calibration, JobError> {
        read_document(&RANGES, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Ranges { task, member } = parameters(job)?;
    let text = job.inputs.get("text").and_then(JobInput::artifact);
    let text = text.ok_or_else(|| JobError::invalid("input \"text\" is no artifact"))?;
    let float = inputs.float(member)?;
    let data = inputs.data(&task, float.network())?;
    write_document(&see(&float, &data, text, watch)?, out)
}

/// Sees the ranges of a float network's activations over all of `data`, which was read from the file `text`.
///
/// # Errors
/// [`JobError::NotFinite`] names the matrix whose input is none, [`JobError::Interrupted`] comes between two sequences.
pub fn see(
    float: &SpikeGpt,
    data: &Dataset,
    text: ContentHash,
    watch: &dyn Watch,
) -> Result<Calibration, JobError> {
    let mut ranges = BTreeMap::<String, Span>::new();
    for index in 0..data.len() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let seen = calibrate(float, data, index..index + 1);
        for (unit, span) in seen.map_err(|error| JobError::NotFinite(error.to_string()))? {
            // A minimum does not depend on the order.
            ranges.entry(unit).and_modify(|known| *known = known.union(span)).or_insert(span);
        }
        watch.progress(index as u64 + 1, data.len() as u64);
    }
    Ok(Calibration { data: text, sequences: data.len() as u32, ranges })
}
