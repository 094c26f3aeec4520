//! The kind `output_errors`: what share of a linear's outputs is off under each scheme, which the calibration inputs alone tell.
//!
//! `tr(E H E^T) / tr(W H W^T)` with the second moments H of the inputs and the weights' errors E. It needs no backward pass, and
//! knows nothing of what the network makes of the outputs. Rows of an embedding are outputs themselves, each taken as often as
//! the others; of a binary one only signs are read, and these are never off.

use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::Member;
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::coded::units_with_embedding;
use super::gptq::{see, units_of};
use super::{
    Asked, Inputs, JobError, Kind, UnitLosses, Watch, over_data, parameters, read_document, weight_errors,
    with_codes, write_document,
};

/// The kind.
pub const OUTPUT_ERRORS: Kind = Kind {
    name: "output_errors",
    about: "errors of the outputs of one block, or of the head, by scheme",
    make,
};

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputErrors {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Part of the network: the index of a block, or that after the last for the head.
    pub part: u32,
    /// Units with schemes.
    pub units: Vec<(String, String)>,
}

impl OutputErrors {
    /// The job for a checkpoint; `codes` holds the calibrated codes of the part, if some of its schemes are calibrated.
    pub fn job(&self, checkpoint: ContentHash, data: &Data, codes: Option<ContentHash>) -> Job {
        with_codes(over_data(&OUTPUT_ERRORS, checkpoint, data), codes).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<UnitLosses, JobError> {
        read_document(&OUTPUT_ERRORS, artifact)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let OutputErrors { task, member, part, units } = parameters(job)?;
    let float = inputs.float(member)?;
    let linears = units_of(float.network(), part);
    let asked = Asked::read(&units, &units_with_embedding(float.network(), part))?;
    let data = inputs.data(&task, float.network())?;
    let steps = (data.len() + asked.len()) as u64;
    let hessians = see(&float, &data, part, &linears, watch, steps)?;
    let (checkpoint, artifacts) = (inputs.checkpoint(member)?, inputs.codes(job)?);
    let mut losses = UnitLosses::new();
    for (done, asked) in asked.iter().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let name = &asked.unit.name;
        let of_unit = linears.iter().zip(&hessians).find(|(unit, _)| unit.name == *name);
        let size = |weights: &[f32]| match of_unit {
            Some((_, hessian)) => hessian.output_error(weights),
            None if member.binary_embedding => 0.0,
            None => weights.iter().map(|w| f64::from(*w) * f64::from(*w)).sum(),
        };
        let whole = size(&checkpoint.tensor(name)).max(f64::MIN_POSITIVE);
        let error = size(&weight_errors(asked, &checkpoint, &artifacts)?);
        losses.entry(name.clone()).or_default().insert(asked.scheme, error / whole);
        watch.progress((data.len() + done) as u64 + 1, steps);
    }
    write_document(&losses, out)
}

#[cfg(test)]
mod tests {
    use super::super::inputs::tests::inputs;
    use super::*;
    use crate::model::Hook;
    use crate::task::watch_part;

    const TEXT: &str = "a b a b b a a b b b a a b a b b a b a a a b a b\n";

    /// Inputs of one linear as they come.
    struct Inputs32(&'static str, Vec<f32>);

    impl Hook for Inputs32 {
        fn input(&mut self, unit: &str, x: &[f32]) {
            if unit == self.0 {
                self.1.extend(x);
            }
        }
    }

    #[test]
    fn errors_are_shares_of_the_outputs_that_are_off() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), TEXT);
        let unit = "blocks.0.ffn.key.weight";
        let schemes = ["f32", "f16", "int4:full:channel:f16", "int2:full:channel:f16"];
        let units = schemes.map(|scheme| (unit.to_owned(), scheme.to_owned())).to_vec();
        let task = Task::Perplexity { window: 8, stride: 8, windows: None };
        let parameters = OutputErrors { task: task.clone(), member: true.into(), part: 0, units };
        let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
        let job = parameters.job(ContentHash::of(b"c"), &data, None);
        let mut artifact = Vec::new();
        make(&job, &inputs, &(), &mut artifact).unwrap();
        let losses = OutputErrors::read(&artifact).unwrap();
        let loss = |text: &str| losses[unit][&text.parse().unwrap()];
        assert_eq!(loss("f32"), 0.0);
        let rest = ["f16", "int4:full:channel:f16", "int2:full:channel:f16"].map(loss);
        assert!(0.0 < rest[0] && rest[0] < rest[1] && rest[1] < rest[2] && rest[2] < 1.0, "{rest:?}");

        // The same, output by output.
        let (float, checkpoint) = (inputs.float(true).unwrap(), inputs.checkpoint(true).unwrap());
        let data = inputs.data(&task, float.network()).unwrap();
        let mut seen = Inputs32(unit, Vec::new());
        (0..data.len()).for_each(|index| watch_part(&float, &data, index, 0, &mut seen));
        let (weights, (_, columns)) = (checkpoint.tensor(unit), checkpoint.network().shape_of(unit));
        let scheme = "int2:full:channel:f16".parse().unwrap();
        let stored = crate::quant::fake_quantize(weights.clone(), columns, scheme, unit);
        let (mut off, mut whole) = (0.0, 0.0);
        for x in seen.1.chunks(columns) {
            for (row, stored) in weights.chunks(columns).zip(stored.chunks(columns)) {
                let product =
                    |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
                off += (product(stored) - product(row)).powi(2);
                whole += product(row).powi(2);
            }
        }
        assert!((rest[2] / (off / whole) - 1.0).abs() < 1e-4, "{} {}", rest[2], off / whole);
    }
}
