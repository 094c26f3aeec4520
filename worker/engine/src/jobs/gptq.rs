//! The kind `gptq`: calibrated codes of the matrices of one part of the network, under all schemes that are asked for.
//!
//! The float network reads the calibration data as far as the part, each matrix's second moments of inputs are summed
//! up and factorized, and codes are chosen; the moments never leave the job. Inputs are those of the float network, so
//! that codes depend on (matrix, scheme, calibration data) alone and parts can be made side by side.

use std::collections::BTreeMap;
use std::io::Write;

use qslm_common::footprint::unit_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::{Member, Network, Unit, UnitPlace};
use qslm_common::scheme::Scheme;
use qslm_common::task::{Data, Task};
use serde::{Deserialize, Serialize};

use super::{Inputs, JobError, Kind, Watch, parameters};
use crate::checkpoint::calibrated::{CalibratedUnit, CodesWriter};
use crate::model::{Hook, SpikeGpt};
use crate::quant::{Hessian, InputMoments, Statistics, Weights, quantize};
use crate::task::{Dataset, watch_part};

/// The kind.
pub const GPTQ: Kind =
    Kind { name: "gptq", about: "calibrated codes of the matrices of one block, or of the head", make };

/// Bytes of an artifact's header at most.
const HEADER: u64 = 1 << 20;

/// Parameters of the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gptq {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Member of the family that the checkpoint is of.
    #[serde(rename = "binary_embedding")]
    pub member: Member,
    /// Part of the network: the index of a block, or that after the last for the head.
    pub part: u32,
    /// Schemes, all of which are calibrated.
    pub schemes: Vec<String>,
    /// Damping of the Hessian, as a multiple of the mean of its diagonal. Raised by tens until it suffices.
    pub damping: f64,
    /// True if columns are taken by falling second moment of their input instead of as they are.
    pub act_order: bool,
}

/// Damping unless a spec or flag says otherwise; what others give is in docs/model.md.
pub const DAMPING: f64 = 0.1;

/// The most damping that may be asked for.
pub const MOST_DAMPING: f64 = 1000.0;

/// Matrices of a part of a network: those of a block, or the head.
pub fn units_of(network: &Network, part: u32) -> Vec<Unit> {
    let belongs = |unit: &Unit| match unit.block() {
        Some(block) => block == part,
        None => part == network.blocks && matches!(unit.place, UnitPlace::Head),
    };
    network.units().into_iter().filter(belongs).collect()
}

/// Number of parts of a network: its blocks, and the head.
pub fn parts(network: &Network) -> u32 {
    network.blocks + 1
}

impl Gptq {
    /// The job that makes the codes of a part of a checkpoint of this shape.
    pub fn job(&self, network: &Network, checkpoint: ContentHash, data: &Data) -> Job {
        let schemes = || self.schemes.iter().filter_map(|scheme| scheme.parse::<Scheme>().ok());
        let units = units_of(network, self.part);
        let bytes: u64 = units.iter().flat_map(|unit| schemes().map(|scheme| unit_bytes(unit, scheme))).sum();
        Job::new(GPTQ.name, bytes + HEADER)
            .input("checkpoint", JobInput::Artifact(checkpoint))
            .input("text", JobInput::Artifact(data.text))
            .input("tokenizer", JobInput::Artifact(data.tokenizer))
            .parameters(self)
    }
}

fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let Gptq { task, member, part, schemes, damping, act_order } = parameters(job)?;
    let schemes = schemes.iter().map(|text| calibrated(text)).collect::<Result<Vec<_>, _>>()?;
    if !(0.0..=MOST_DAMPING).contains(&damping) {
        return Err(JobError::Invalid(format!("damping = {damping}: expected 0 to {MOST_DAMPING}")));
    }
    let float = inputs.float(member)?;
    let network = float.network();
    let units = units_of(network, part);
    if units.is_empty() {
        return Err(JobError::Invalid(format!("part = {part}: expected 0 to {}", network.blocks)));
    }
    let data = inputs.data(&task, network)?;
    let has_tokens = part == network.blocks && network.predicts_tokens();
    if let Some(scheme) = schemes.iter().find(|scheme| scheme.is_by_frequency() && !has_tokens) {
        let words =
            format!("schemes: {scheme}: it is for the head of a language model, whose rows are tokens");
        return Err(JobError::Invalid(words));
    }
    let token_counts = has_tokens.then(|| data.token_counts(network.vocabulary));
    let steps = data.len() as u64 + units.len() as u64;
    let hessians = see(&float, &data, part, &units, watch, steps)?;
    let checkpoint = inputs.checkpoint(member)?;
    let mut writer = CodesWriter::default();
    for (done, (unit, hessian)) in units.iter().zip(hessians).enumerate() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        let factor = hessian.factor(damping, act_order);
        let factor = factor.map_err(|error| JobError::NotFinite(format!("{}: {error}", unit.name)))?;
        let statistics = Statistics {
            inputs: Some(&factor),
            hessian: Some(&hessian),
            sample: Some(hessian.sample()),
            token_counts: token_counts.as_deref(),
            gradients: None,
        };
        let values = checkpoint.tensor(&unit.name);
        let weights = Weights { values: &values, columns: unit.columns, unit: &unit.name };
        let dead_columns = hessian.diagonal().filter(|moment| *moment == 0.0).count();
        let (rows, columns, tokens) = (unit.rows, unit.columns, hessian.tokens());
        writer.unit(
            &unit.name,
            CalibratedUnit { rows, columns, tokens, damping: factor.damping(), dead_columns },
        );
        for scheme in &schemes {
            if let Scheme::Integer { format, quantizer } = *scheme {
                writer.codes(&unit.name, *scheme, quantize(weights, format, quantizer, &statistics));
            }
        }
        watch.progress(data.len() as u64 + done as u64 + 1, steps);
    }
    let artifact = writer.finish().map_err(JobError::Invalid)?;
    out.write_all(&artifact).map_err(JobError::artifact)
}

/// A scheme whose codes calibration makes.
///
/// # Errors
/// [`JobError::Invalid`] if it is another one, or none.
pub(super) fn calibrated(text: &str) -> Result<Scheme, JobError> {
    let scheme: Scheme = text.parse().map_err(|error| JobError::Invalid(format!("schemes: {error}")))?;
    match scheme.is_calibrated() && !scheme.is_trained() {
        true => Ok(scheme),
        false => Err(JobError::Invalid(format!("schemes: {scheme} takes no calibration"))),
    }
}

/// Hessians of units of a part while a float network reads all of `data`, in the units' order. `watch` hears of its
/// sequences among so many steps.
///
/// # Errors
/// [`JobError::NotFinite`] names the matrix whose input is none, [`JobError::Interrupted`] comes between two sequences.
pub fn see(
    float: &SpikeGpt,
    data: &Dataset,
    part: u32,
    units: &[Unit],
    watch: &dyn Watch,
    steps: u64,
) -> Result<Vec<Hessian>, JobError> {
    let moments = units.iter().map(|unit| (unit.name.clone(), InputMoments::new(unit.columns)));
    let mut seen = Seen { by_unit: moments.collect() };
    for index in 0..data.len() {
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        watch_part(float, data, index, part, &mut seen);
        watch.progress(index as u64 + 1, steps);
    }
    let finish = |unit: &Unit| {
        let moments = seen.by_unit.remove(&unit.name).unwrap_or_else(|| InputMoments::new(unit.columns));
        moments
            .finish()
            .ok_or_else(|| JobError::NotFinite(format!("the input of {} is not finite", unit.name)))
    };
    units.iter().map(finish).collect()
}

/// Sums up the inputs of every linear that it knows.
struct Seen {
    by_unit: BTreeMap<String, InputMoments>,
}

impl Hook for Seen {
    fn input(&mut self, unit: &str, x: &[f32]) {
        if let Some(moments) = self.by_unit.get_mut(unit) {
            moments.add(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::tests::inputs;
    use super::*;
    use crate::checkpoint::calibrated::CodesFile;

    const TEXT: &str = "a b a b b a a b b b a a b a b b a b a a a b a b\n";

    fn gptq(part: u32) -> Gptq {
        Gptq {
            task: Task::Perplexity { window: 4, stride: 4, windows: None },
            member: true.into(),
            part,
            schemes: vec![
                "int3:affine:channel:gptq".to_owned(),
                "int2:full:group8:f16:gptq:least_squares".to_owned(),
            ],
            damping: DAMPING,
            act_order: false,
        }
    }

    fn artifact(gptq: &Gptq, inputs: &Inputs) -> Result<Vec<u8>, JobError> {
        let network = *inputs.checkpoint(true)?.network();
        let data = Data { text: ContentHash::of(b"t"), tokenizer: ContentHash::of(b"k") };
        let job = gptq.job(&network, ContentHash::of(b"c"), &data);
        let mut artifact = Vec::new();
        make(&job, inputs, &(), &mut artifact)?;
        assert!(artifact.len() as u64 <= job.largest, "{} of {} bytes", artifact.len(), job.largest);
        Ok(artifact)
    }

    #[test]
    fn every_matrix_but_the_embedding_gets_codes_and_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), TEXT);
        let checkpoint = inputs.checkpoint(true).unwrap();
        let network = *checkpoint.network();
        let mut units = Vec::new();
        for part in 0..parts(&network) {
            let gptq = gptq(part);
            let (bytes, again) = (artifact(&gptq, &inputs).unwrap(), artifact(&gptq, &inputs).unwrap());
            assert_eq!(bytes, again);
            let file = CodesFile::of(bytes).unwrap();
            for (unit, made) in file.units() {
                assert!((20..=24).contains(&made.tokens), "{unit}: {}", made.tokens);
                for scheme in &gptq.schemes {
                    let scheme: Scheme = scheme.parse().unwrap();
                    let codes = file.codes(unit, network.shape_of(unit), scheme).unwrap();
                    // Close to the weights, as nearest ones are.
                    let values = checkpoint.tensor(unit);
                    let error = |other: &[f32]| {
                        values.iter().zip(other).map(|(w, v)| f64::from(w - v).powi(2)).sum::<f64>()
                    };
                    let weights = Weights { values: &values, columns: codes.columns, unit };
                    let Scheme::Integer { format, quantizer } = scheme.uncalibrated() else {
                        panic!("{scheme}")
                    };
                    let nearest = quantize(weights, format, quantizer, &Statistics::NONE);
                    assert_eq!(nearest.scales, codes.scales, "grids are those of the weights");
                    assert!(
                        error(&codes.dequantize()) <= 6.0 * error(&nearest.dequantize()) + 1e-9,
                        "{unit} {scheme}"
                    );
                }
                units.push(unit.clone());
            }
        }
        let mut linears: Vec<_> =
            network.units().into_iter().filter(Unit::is_linear).map(|unit| unit.name).collect();
        linears.sort();
        units.sort();
        assert_eq!(units, linears);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs(folder.path(), TEXT);
        let refused = |gptq: Gptq| artifact(&gptq, &inputs).unwrap_err().to_string();
        assert!(refused(gptq(9)).starts_with("part = 9: expected 0 to "), "{}", refused(gptq(9)));
        assert_eq!(refused(Gptq { damping: -1.0, ..gptq(0) }), "damping = -1: expected 0 to 1000");
        let schemes = vec!["int3:affine:channel".to_owned()];
        assert_eq!(refused(Gptq { schemes, ..gptq(0) }), "schemes: int3:affine:channel takes no calibration");
    }
}
