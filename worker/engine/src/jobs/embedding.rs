//! The kind `embedding`: codes of the embedding under schemes by the frequency of tokens.
//!
//! Nothing is multiplied with the embedding, so there are no second moments to go by: how often each token occurs in the
//! calibration data decides the width or step of its row, and each weight is rounded to nearest.

use std::io::Write;

use qslm_common::footprint::unit_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::{EMBEDDING, Member, Network};
use qslm_common::scheme::Scheme;
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::gptq::calibrated;
use super::{Inputs, JobError, Kind, Watch, parameters};
use crate::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
use crate::quant::{Statistics, Weights, quantize};

/// The kind.
pub const EMBEDDING_CODES: Kind =
    Kind { name: "embedding", about: "codes of the embedding by how often tokens occur", make };

/// Bytes of an artifact's header at most.
const HEADER: u64 = 1 << 20;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingCodes {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Schemes, all of which are by the frequency of tokens.
    pub schemes: Vec<String>,
}

impl EmbeddingCodes {
    /// The job that makes the codes of the embedding of a checkpoint of this shape.
    pub fn job(&self, network: &Network, checkpoint: ContentHash, data: &Data) -> Job {
        let schemes = || self.schemes.iter().filter_map(|scheme| scheme.parse::<Scheme>().ok());
        let embedding = network.units().into_iter().filter(|unit| unit.name == EMBEDDING);
        let bytes: u64 =
            embedding.flat_map(|unit| schemes().map(move |scheme| unit_bytes(&unit, scheme))).sum();
        Job::new(EMBEDDING_CODES.name, bytes + HEADER)
            .input("checkpoint", JobInput::Artifact(checkpoint))
            .input("text", JobInput::Artifact(data.text))
            .input("tokenizer", JobInput::Artifact(data.tokenizer))
            .parameters(self)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let EmbeddingCodes { task, member, schemes } = parameters(job)?;
    let schemes = schemes.iter().map(|text| by_frequency(text)).collect::<Result<Vec<_>, _>>()?;
    let checkpoint = inputs.checkpoint(member)?;
    let network = checkpoint.network();
    let data = inputs.data(&task, network)?;
    let token_counts = data.token_counts(network.vocabulary);
    let statistics = Statistics { token_counts: Some(&token_counts), ..Statistics::NONE };
    let (rows, columns) = network.shape_of(EMBEDDING);
    let mut writer = CodesWriter::default();
    let tokens = token_counts.iter().sum();
    writer.unit(EMBEDDING, CalibratedUnit { rows, columns, tokens, damping: 0.0, dead_columns: 0 });
    let values = checkpoint.tensor(EMBEDDING);
    let weights = Weights { values: &values, columns, unit: EMBEDDING };
    for (done, scheme) in schemes.iter().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        if let Scheme::Integer { format, quantizer } = *scheme {
            writer.codes(EMBEDDING, *scheme, quantize(weights, format, quantizer, &statistics));
        }
        watch.progress(done as u64 + 1, schemes.len() as u64);
    }
    let artifact = writer.finish().map_err(JobError::Invalid)?;
    out.write_all(&artifact).map_err(JobError::artifact)
}

fn by_frequency(text: &str) -> Result<Scheme, JobError> {
    let scheme = calibrated(text)?;
    match scheme.is_by_frequency() {
        true => Ok(scheme),
        false => Err(JobError::Invalid(format!("schemes: {scheme}: no inputs calibrate an embedding"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::tests::inputs;
    use super::*;
    use crate::checkpoint::calibrated::CodesFile;

    const TEXT: &str = "a b a b b a a b b b a a b a b b a b a a a b a b\n";

    fn parameters(schemes: &[&str]) -> EmbeddingCodes {
        EmbeddingCodes {
            task: Task::Perplexity { window: 4, stride: 4, windows: None },
            member: false.into(),
            schemes: schemes.iter().map(|scheme| (*scheme).to_owned()).collect(),
        }
    }

    fn artifact(parameters: &EmbeddingCodes, inputs: &Inputs) -> Result<Vec<u8>, JobError> {
        let network = *inputs.checkpoint(false)?.network();
        let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
        let job = parameters.job(&network, ContentHash::of(b"c"), &data);
        let mut artifact = Vec::new();
        make(&job, inputs, &(), &mut artifact)?;
        assert!(artifact.len() as u64 <= job.largest, "{} of {} bytes", artifact.len(), job.largest);
        Ok(artifact)
    }

    #[test]
    fn tokens_that_occur_have_more_than_those_that_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), TEXT);
        let texts = ["int3:full:channel:f16:frequency", "ec0.50:channel:f16:frequency"];
        let bytes = artifact(&parameters(&texts), &inputs).unwrap();
        assert_eq!(bytes, artifact(&parameters(&texts), &inputs).unwrap());
        let (file, checkpoint) = (CodesFile::of(bytes).unwrap(), inputs.checkpoint(false).unwrap());
        let network = checkpoint.network();
        let task = Task::Perplexity { window: 4, stride: 4, windows: None };
        let counts = inputs.data(&task, network).unwrap().token_counts(network.vocabulary);
        let shape = network.shape_of(EMBEDDING);
        let scheme = |text: &str| text.parse::<Scheme>().unwrap();
        let codes = file.codes(EMBEDDING, shape, scheme(texts[0])).unwrap();
        let quarter = shape.0 / 4;
        let of_width = |width: u8| codes.widths.iter().filter(|other| **other == width).count();
        assert_eq!([2, 3, 4].map(of_width), [quarter, shape.0 - 2 * quarter, quarter]);
        let most = counts.iter().max().unwrap();
        for (count, width) in counts.iter().zip(&codes.widths).filter(|(count, _)| *count == most) {
            assert_eq!(*width, 4, "{count} times");
        }
        // Steps have no widths; those of frequent rows are finer than those of rare ones.
        let steps = file.codes(EMBEDDING, shape, scheme(texts[1])).unwrap();
        assert_eq!((steps.widths.len(), steps.scales.len()), (0, shape.0));
        let Scheme::Integer { format, quantizer } = scheme(texts[1]).uncalibrated() else {
            panic!("{texts:?}")
        };
        let weights = Weights { values: &checkpoint.tensor(EMBEDDING), columns: shape.1, unit: EMBEDDING };
        let plain = quantize(weights, format, quantizer, &Statistics::NONE);
        for (row, width) in codes.widths.iter().enumerate() {
            let finer = plain.scales[row].total_cmp(&steps.scales[row]);
            assert_eq!(finer, width.cmp(&3), "row {row}, which has {width} bits");
        }
    }

    #[test]
    fn what_inputs_would_calibrate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), TEXT);
        let refused = |scheme| artifact(&parameters(&[scheme]), &inputs).unwrap_err().to_string();
        let gptq = "int3:affine:channel:gptq";
        assert_eq!(refused(gptq), format!("schemes: {gptq}: no inputs calibrate an embedding"));
        assert_eq!(refused("int3:affine:channel"), "schemes: int3:affine:channel takes no calibration");
    }
}
