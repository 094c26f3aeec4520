//! The kind `coded`: bytes that the codes of one part of the network take when they are entropy-coded, under all schemes
//! that are asked for.

use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::{EMBEDDING, Member, Network, Unit};
use qslm_common::recovery::kinds;
use qslm_common::storage::CodedSizes;
use serde::{Deserialize, Serialize};

use super::gptq::units_of;
use super::{
    Asked, Inputs, JobError, Kind, LARGEST_TABLE, Watch, parameters, read_document, with_codes,
    write_document,
};
use crate::checkpoint::coded_codes;
use crate::quant::Codes;

/// The kind.
pub const CODED: Kind =
    Kind { name: "coded", about: "bytes of the entropy-coded codes of one block, or of the head", make };

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coded {
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Part of the network: the index of a block, or that after the last for the head and the embedding.
    pub part: u32,
    /// Units with schemes of integers.
    pub units: Vec<(String, String)>,
}

/// Matrices of a part of a network, the embedding with the head.
pub fn units_with_embedding(network: &Network, part: u32) -> Vec<Unit> {
    let embedding =
        network.units().into_iter().filter(|unit| unit.name == EMBEDDING && part == network.blocks);
    embedding.chain(units_of(network, part)).collect()
}

impl Coded {
    /// The job for a checkpoint; `codes` hold the calibrated codes of the part, if some of its schemes are calibrated.
    pub fn job(&self, checkpoint: ContentHash, codes: impl IntoIterator<Item = ContentHash>) -> Job {
        let job = Job::new(CODED.name, LARGEST_TABLE).input("checkpoint", JobInput::Artifact(checkpoint));
        with_codes(job, codes).parameters(self)
    }

    /// What the artifact says.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if it is none of this kind.
    pub fn read(artifact: &[u8]) -> Result<CodedSizes, JobError> {
        read_document(&CODED, artifact)
    }
}

/// The kind of the same for codes that an artifact holds.
pub const CODED_ARTIFACT: Kind = Kind {
    name: kinds::CODED_ARTIFACT,
    about: "bytes of the entropy-coded codes of an artifact",
    make: make_of_artifact,
};

fn make_of_artifact(
    job: &Job,
    inputs: &Inputs,
    watch: &dyn Watch,
    out: &mut dyn Write,
) -> Result<(), JobError> {
    let NoParameters {} = parameters(job)?;
    let file = inputs.codes_file("codes")?;
    let mut sizes = CodedSizes::default();
    for (done, (name, unit)) in file.units().iter().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        for scheme in file.schemes(name).map_err(JobError::invalid)? {
            let codes = file.codes(name, (unit.rows, unit.columns), scheme).map_err(JobError::invalid)?;
            sizes.insert(name, scheme, bytes_of(&codes));
        }
        watch.progress(done as u64 + 1, file.units().len() as u64);
    }
    write_document(&sizes, out)
}

/// Parameters of a kind that has none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

/// Bytes of codes that are entropy-coded where that makes them smaller: others are stored as they are, and counted so.
fn bytes_of(codes: &Codes) -> u64 {
    let packed = || codes.format.code_bytes(codes.values.len() as u64);
    coded_codes(codes).map_or_else(packed, |coded| coded.len() as u64)
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Coded { member, part, units: wanted } = parameters(job)?;
    let checkpoint = inputs.checkpoint(member)?;
    let network = checkpoint.network();
    let (known, artifacts) = (units_with_embedding(network, part), inputs.codes(job)?);
    let mut sizes = CodedSizes::default();
    for (done, asked) in Asked::read(&wanted, &known)?.into_iter().enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let codes = asked.codes(&checkpoint, &artifacts)?;
        sizes.insert(&asked.unit.name, asked.scheme, bytes_of(&codes));
        watch.progress(done as u64 + 1, wanted.len() as u64);
    }
    write_document(&sizes, out)
}

#[cfg(test)]
mod tests {
    use super::super::inputs::tests::inputs;
    use super::*;
    use qslm_common::scheme::Scheme;

    use crate::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
    use crate::quant::{Statistics, Weights, quantize, rans};

    #[test]
    fn sizes_are_those_of_the_codes_and_never_above_the_packed_ones() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), "a\n");
        let checkpoint = inputs.checkpoint(true).unwrap();
        let part = checkpoint.network().blocks;
        let units = vec![
            ("head.weight".to_owned(), "int8:symmetric:tensor".to_owned()),
            ("emb.weight".to_owned(), "int2:full:channel:f16".to_owned()),
        ];
        let coded = Coded { member: true.into(), part, units: units.clone() };
        let mut artifact = Vec::new();
        make(&coded.job(ContentHash::of(b"c"), None), &inputs, &(), &mut artifact).unwrap();
        let sizes = Coded::read(&artifact).unwrap();
        for (unit, text) in units {
            let scheme: Scheme = text.parse().unwrap();
            let Scheme::Integer { format, quantizer } = scheme else { panic!("{scheme}") };
            let values = checkpoint.tensor(&unit);
            let (_, columns) = checkpoint.network().shape_of(&unit);
            let codes = quantize(
                Weights { values: &values, columns, unit: &unit },
                format,
                quantizer,
                &Statistics::NONE,
            );
            let expected =
                rans::coded_bytes(&codes.values, columns).min(format.code_bytes(values.len() as u64));
            assert_eq!(sizes.get(&unit, scheme), Some(expected), "{unit}");
        }
        // The same of an artifact with such codes.
        let (unit, scheme) = ("head.weight", "int4:full:channel:f16:trained".parse().unwrap());
        let Scheme::Integer { format, quantizer } = scheme else { panic!("{scheme}") };
        let (rows, columns) = checkpoint.network().shape_of(unit);
        let values = checkpoint.tensor(unit);
        let nearest =
            qslm_common::scheme::Quantizer { rounding: qslm_common::scheme::Rounding::Nearest, ..quantizer };
        let codes = quantize(Weights { values: &values, columns, unit }, format, nearest, &Statistics::NONE);
        let mut writer = CodesWriter::default();
        writer.unit(unit, CalibratedUnit { rows, columns, tokens: 1, damping: 0.0, dead_columns: 0 });
        writer.codes(unit, scheme, codes.clone());
        let path = folder.path().join("codes");
        std::fs::write(&path, writer.finish().unwrap()).unwrap();
        let of_artifact = Inputs::new([("codes".to_owned(), path.clone())].into());
        let job = Job::new(CODED_ARTIFACT.name, 1 << 20);
        let mut artifact = Vec::new();
        make_of_artifact(&job, &of_artifact, &(), &mut artifact).unwrap();
        let read: CodedSizes = serde_json::from_slice(&artifact).unwrap();
        assert_eq!(read.get(unit, scheme), Some(bytes_of(&codes)));
        std::fs::write(&path, b"none").unwrap();
        let error = make_of_artifact(&job, &of_artifact, &(), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, JobError::Io { .. } | JobError::Invalid(_)), "{error}");

        let refused = |units: &[(&str, &str)]| {
            let units =
                units.iter().map(|(unit, scheme)| ((*unit).to_owned(), (*scheme).to_owned())).collect();
            let job = Coded { member: true.into(), part, units }.job(ContentHash::of(b"c"), None);
            make(&job, &inputs, &(), &mut Vec::new()).unwrap_err().to_string()
        };
        assert_eq!(refused(&[("head.weight", "f16")]), "units: head.weight f16: no codes");
        assert!(
            refused(&[("blocks.0.att.key.weight", "int4:full:tensor")]).ends_with("no matrix of the part")
        );
        assert!(refused(&[("head.weight", "int4:full:tensor:gptq")]).ends_with("no input holds its codes"));
    }
}
