//! Calibrated codes: the artifact that holds codes which follow from more than the weights.
//!
//! A safetensors file: per unit and scheme the tensors that a packed file would have, under `UNIT/SCHEME`, and in its
//! header what they were calibrated with. A candidate names the artifact of a unit; whoever builds or packs a network
//! reads the codes from it and never chooses them anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use qslm_common::candidate::{Candidate, VECTORS};
use qslm_common::hash::ContentHash;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use serde::{Deserialize, Serialize};

use super::parts::{Parts, Tensors, pack_matrix, views};
use super::safe_file::SafeFile;
use super::{CheckpointError, Values};
use crate::quant::{Codes, Stored, Weights, store};

/// The key of the manifest in the header's metadata.
const MANIFEST: &str = "qslm.codes";
/// Version of the layout above.
const FORMAT: u32 = 1;

/// Manifest of an artifact with codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    units: BTreeMap<String, CalibratedUnit>,
}

/// What the codes of a unit were calibrated with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedUnit {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Tokens whose inputs were seen.
    pub tokens: u64,
    /// Damping of the Hessian, as a multiple of the mean of its diagonal.
    pub damping: f64,
    /// Columns that no input reached.
    pub dead_columns: usize,
}

/// Codes of units on their way into an artifact.
#[derive(Default)]
pub struct CodesWriter {
    units: BTreeMap<String, CalibratedUnit>,
    tensors: Tensors,
}

impl CodesWriter {
    /// Adds a unit, of which codes follow.
    pub fn unit(&mut self, name: &str, unit: CalibratedUnit) {
        self.units.insert(name.to_owned(), unit);
    }

    /// Adds the codes of a unit under a scheme.
    pub fn codes(&mut self, unit: &str, scheme: Scheme, codes: Codes) {
        let stored = Some(Stored::Integer(codes));
        self.tensors.extend(pack_matrix(&name_of(unit, scheme), Vec::new(), &[], stored, &[]));
    }

    /// Adds values of a one-dimensional parameter, which are on the grid of a scheme already: as their codes, or floats.
    pub fn vector(&mut self, name: &str, values: &[f32], scheme: Scheme) {
        let weights = Weights { values, columns: values.len(), unit: name };
        let stored = store(weights, scheme);
        self.tensors.extend(pack_matrix(&name_of(name, scheme), vec![values.len()], values, stored, &[]));
    }

    /// The artifact: the same bytes for the same codes.
    ///
    /// # Errors
    /// The container's words.
    pub fn finish(self) -> Result<Vec<u8>, String> {
        let manifest = Manifest { format: FORMAT, units: self.units };
        let manifest = serde_json::to_string(&manifest).map_err(|error| error.to_string())?;
        // One entry, because the order of several is not fixed.
        let header = HashMap::from([(MANIFEST.to_owned(), manifest)]);
        let views = views(&self.tensors).map_err(|error| error.to_string())?;
        safetensors::serialize(views, Some(header)).map_err(|error| error.to_string())
    }
}

fn name_of(unit: &str, scheme: Scheme) -> String {
    format!("{unit}/{scheme}")
}

/// An artifact with codes, whose header was read and checked.
#[derive(Debug, Clone)]
pub struct CodesFile {
    bytes: Vec<u8>,
    units: BTreeMap<String, CalibratedUnit>,
}

/// Reason why calibrated codes cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodesError {
    /// Nobody has it.
    #[error("artifact {0}, which holds calibrated codes, is not at hand")]
    Missing(ContentHash),
    /// A file that cannot be read.
    #[error("artifact with calibrated codes: {0}")]
    Unreadable(String),
    /// Something that is no such artifact, or lacks the codes.
    #[error("calibrated codes of {unit}: {reason}")]
    Invalid {
        /// Name of the unit.
        unit: String,
        /// What is wrong.
        reason: String,
    },
}

impl CodesFile {
    /// Reads an artifact.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        Self::of(std::fs::read(path)?)
    }

    /// Artifact of its bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn of(bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Format { format: "codes", reason };
        let file = SafeFile::of(Cursor::new(&bytes), bytes.len() as u64)?;
        let text = file.entry(MANIFEST).ok_or_else(|| refuse(format!("no {MANIFEST} in its header")))?;
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| refuse(format!("manifest: {error}")))?;
        if manifest.format != FORMAT {
            let given = manifest.format;
            return Err(refuse(format!("format {given}, this version reads format {FORMAT}")));
        }
        Ok(Self { bytes, units: manifest.units })
    }

    /// Units with codes in it, by name.
    pub fn units(&self) -> &BTreeMap<String, CalibratedUnit> {
        &self.units
    }

    /// Schemes under which the artifact has codes of a unit.
    ///
    /// # Errors
    /// If the header cannot be read.
    pub fn schemes(&self, unit: &str) -> Result<BTreeSet<Scheme>, CheckpointError> {
        let file = SafeFile::of(Cursor::new(&self.bytes), self.bytes.len() as u64)?;
        let names = file.names();
        let of_unit = names.iter().filter_map(|name| name.strip_prefix(unit)?.strip_prefix('/'));
        Ok(of_unit.filter_map(|rest| rest.strip_suffix(".codes")?.parse().ok()).collect())
    }

    /// The codes of a `[rows, columns]` unit under a scheme.
    ///
    /// # Errors
    /// If there are none, or what is there does not fit.
    pub fn codes(&self, unit: &str, shape: (usize, usize), scheme: Scheme) -> Result<Codes, CodesError> {
        let refuse = |reason: String| CodesError::Invalid { unit: unit.to_owned(), reason };
        let known = self.units.get(unit).ok_or_else(|| refuse("the artifact has none".to_owned()))?;
        let (rows, columns) = shape;
        if (known.rows, known.columns) != shape {
            let there = (known.rows, known.columns);
            return Err(refuse(format!("they are of shape {there:?}, expected {shape:?}")));
        }
        let file = SafeFile::of(Cursor::new(&self.bytes), self.bytes.len() as u64);
        let mut file = file.map_err(|error| refuse(error.to_string()))?;
        match Parts::new(&mut file).matrix(&name_of(unit, scheme), rows, columns, scheme) {
            Ok(Values::Codes(codes)) => Ok(codes),
            Ok(Values::Floats(_)) => Err(refuse(format!("{scheme} has none"))),
            Err(CheckpointError::Missing(_)) => Err(refuse(format!("the artifact has none under {scheme}"))),
            Err(error) => Err(refuse(error.to_string())),
        }
    }
}

impl CodesFile {
    /// The values of a one-dimensional parameter of so many elements under a scheme.
    ///
    /// # Errors
    /// If there are none, or what is there does not fit.
    pub fn vector_values(&self, name: &str, size: usize, scheme: Scheme) -> Result<Vec<f32>, CodesError> {
        self.vector(name, size, scheme).map(Values::into_floats)
    }

    /// The values of a one-dimensional parameter of so many elements under a scheme, and their codes, if it has some.
    ///
    /// # Errors
    /// If there are none, or what is there does not fit.
    pub(super) fn vector(&self, name: &str, size: usize, scheme: Scheme) -> Result<Values, CodesError> {
        let refuse = |reason: String| CodesError::Invalid { unit: name.to_owned(), reason };
        let file = SafeFile::of(Cursor::new(&self.bytes), self.bytes.len() as u64);
        let mut file = file.map_err(|error| refuse(error.to_string()))?;
        match Parts::new(&mut file).matrix(&name_of(name, scheme), 1, size, scheme) {
            Ok(values) => Ok(values),
            Err(CheckpointError::Missing(_)) => Err(refuse(format!("the artifact has none under {scheme}"))),
            Err(error) => Err(refuse(error.to_string())),
        }
    }
}

/// Whoever has artifacts with calibrated codes.
pub trait CodeSource: Sync {
    /// The artifact of a hash.
    ///
    /// # Errors
    /// [`CodesError`], if it is not there or cannot be read.
    fn artifact(&self, hash: ContentHash) -> Result<Arc<CodesFile>, CodesError>;
}

/// Nobody has any.
impl CodeSource for () {
    fn artifact(&self, hash: ContentHash) -> Result<Arc<CodesFile>, CodesError> {
        Err(CodesError::Missing(hash))
    }
}

/// Artifacts that were read.
impl CodeSource for BTreeMap<ContentHash, Arc<CodesFile>> {
    fn artifact(&self, hash: ContentHash) -> Result<Arc<CodesFile>, CodesError> {
        self.get(&hash).cloned().ok_or(CodesError::Missing(hash))
    }
}

/// The codes of a unit that a candidate takes from an artifact; `None` if they follow from the weights.
pub(crate) fn codes_of(
    source: &dyn CodeSource,
    candidate: &Candidate,
    network: &Network,
    unit: &str,
) -> Option<Result<Codes, CodesError>> {
    let hash = candidate.codes_of(unit)?;
    let artifact = source.artifact(hash);
    Some(artifact.and_then(|file| file.codes(unit, network.shape_of(unit), candidate.scheme(unit))))
}

/// The values of a one-dimensional parameter that a candidate takes from an artifact; `None` if they are the checkpoint's.
pub(crate) fn vector_of(
    source: &dyn CodeSource,
    candidate: &Candidate,
    name: &str,
    size: usize,
) -> Option<Result<Values, CodesError>> {
    let artifact = source.artifact(candidate.codes_of(VECTORS)?);
    Some(artifact.and_then(|file| file.vector(name, size, candidate.vectors())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Statistics, quantize};

    const UNIT: &str = "blocks.0.att.key.weight";

    fn codes(scheme: Scheme) -> Codes {
        let Scheme::Integer { format, quantizer } = scheme.uncalibrated() else { panic!("{scheme}") };
        let values: Vec<f32> = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
        quantize(Weights { values: &values, columns: 8, unit: UNIT }, format, quantizer, &Statistics::NONE)
    }

    fn file(schemes: &[Scheme]) -> Vec<u8> {
        let mut writer = CodesWriter::default();
        writer.unit(UNIT, CalibratedUnit { rows: 6, columns: 8, tokens: 5, damping: 0.01, dead_columns: 0 });
        schemes.iter().for_each(|scheme| writer.codes(UNIT, *scheme, codes(*scheme)));
        writer.finish().unwrap()
    }

    fn schemes() -> Vec<Scheme> {
        let texts = [
            "int3:affine:channel:gptq",
            "int2:full:group4:f16:gptq:least_squares",
            "int2:ternary:tensor:pow2:gptq",
        ];
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn codes_come_back_as_they_were_put() {
        let artifact = CodesFile::of(file(&schemes())).unwrap();
        for scheme in schemes() {
            assert_eq!(artifact.codes(UNIT, (6, 8), scheme), Ok(codes(scheme)), "{scheme}");
        }
        assert_eq!(file(&schemes()), file(&schemes()));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let artifact = CodesFile::of(file(&schemes()[..1])).unwrap();
        let refused =
            |unit: &str, shape, scheme| artifact.codes(unit, shape, scheme).unwrap_err().to_string();
        let [first, second] = [schemes()[0], schemes()[1]];
        assert!(refused("head.weight", (6, 8), first).ends_with("head.weight: the artifact has none"));
        assert!(refused(UNIT, (8, 6), first).ends_with("they are of shape (6, 8), expected (8, 6)"));
        assert!(refused(UNIT, (6, 8), second).contains("has none under int2:full:group4"));
        let hash = ContentHash::of(b"a");
        assert_eq!(().artifact(hash).unwrap_err(), CodesError::Missing(hash));
    }

    #[test]
    fn what_is_no_such_artifact_is_refused_wherever_it_is_cut() {
        let whole = file(&schemes());
        for cut in (0..whole.len()).step_by(7) {
            assert!(CodesFile::of(whole[..cut].to_vec()).is_err(), "{cut} bytes");
        }
        let other = String::from_utf8_lossy(&whole).contains("qslm.codes");
        assert!(other);
        let renamed: Vec<u8> = whole.iter().map(|byte| if *byte == b'.' { b':' } else { *byte }).collect();
        assert!(CodesFile::of(renamed).unwrap_err().to_string().contains("no qslm.codes in its header"));
    }
}
