//! Units under schemes that a job is asked about: the codes of each, from an artifact if they are calibrated, and what they are
//! off by.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::hash::ContentHash;
use qslm_common::network::Unit;
use qslm_common::scheme::Scheme;

use super::JobError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::calibrated::CodesFile;
use crate::quant::{Codes, Statistics, Weights, fake_quantize, quantize};

/// What units lose under schemes, by unit and scheme: the artifact of a job that predicts it.
pub type UnitLosses = BTreeMap<String, BTreeMap<Scheme, f64>>;

/// A unit under a scheme, of a parameter `units`.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The matrix.
    pub unit: Unit,
    /// Its scheme.
    pub scheme: Scheme,
}

impl Asked {
    /// Reads what is asked about, of a parameter with names and texts of schemes.
    ///
    /// # Errors
    /// [`JobError::Invalid`] names the first that is not among `known`, or has no scheme.
    pub fn read(wanted: &[(String, String)], known: &[Unit]) -> Result<Vec<Self>, JobError> {
        let of = |(name, text): &(String, String)| {
            let refuse = |words: String| JobError::Invalid(format!("units: {name} {text}: {words}"));
            let unit = known.iter().find(|unit| unit.name == *name);
            let unit = unit.ok_or_else(|| refuse("no matrix of the part".to_owned()))?.clone();
            let scheme = text.parse().map_err(|error| refuse(format!("{error}")))?;
            Ok(Self { unit, scheme })
        };
        wanted.iter().map(of).collect()
    }

    /// Something that makes no sense about it.
    fn invalid(&self, words: &str) -> JobError {
        JobError::Invalid(format!("units: {} {}: {words}", self.unit.name, self.scheme))
    }

    /// Its codes.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if the scheme has no codes, or no artifact holds them.
    pub fn codes(
        &self,
        checkpoint: &Checkpoint,
        artifacts: &BTreeMap<ContentHash, Arc<CodesFile>>,
    ) -> Result<Codes, JobError> {
        let (Unit { name, rows, columns, .. }, scheme) = (&self.unit, self.scheme);
        let Scheme::Integer { format, quantizer } = scheme else { return Err(self.invalid("no codes")) };
        if scheme.is_calibrated() {
            let file = artifacts.values().find(|file| file.units().contains_key(name));
            let file = file.ok_or_else(|| self.invalid("no input holds its codes"))?;
            return file.codes(name, (*rows, *columns), scheme).map_err(JobError::invalid);
        }
        let values = checkpoint.tensor(name);
        let weights = Weights { values: &values, columns: *columns, unit: name };
        Ok(quantize(weights, format, quantizer, &Statistics::NONE))
    }
}

/// What the weights of a unit are off by under its scheme, `[rows, columns]`.
///
/// # Errors
/// As [`Asked::codes`].
pub fn weight_errors(
    asked: &Asked,
    checkpoint: &Checkpoint,
    artifacts: &BTreeMap<ContentHash, Arc<CodesFile>>,
) -> Result<Vec<f32>, JobError> {
    let (unit, values) = (&asked.unit, checkpoint.tensor(&asked.unit.name));
    let mut errors = match asked.scheme {
        Scheme::Integer { .. } => asked.codes(checkpoint, artifacts)?.dequantize(),
        scheme => fake_quantize(values.clone(), unit.columns, scheme, &unit.name),
    };
    errors.iter_mut().zip(values.iter()).for_each(|(restored, w)| *restored -= w);
    Ok(errors)
}
