//! Packed checkpoints: the file that is deployed. A safetensors file with a manifest in its header.
//!
//! Per unit, as its scheme asks: `UNIT` in f32 or f16; or `UNIT.codes` (packed), `UNIT.scales` (f32, f16 or powers
//! of two, one per run) and, if affine, `UNIT.zero_points` (int8); or `UNIT.signs` (one bit a weight).
//! One-dimensional parameters likewise, f32 unless the candidate says otherwise. The bytes of the tensors together
//! are exactly the footprint that a search reports; the header comes on top.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::footprint::footprint_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::scheme::{Activation, Membrane, Scheme};
use serde::{Deserialize, Serialize};

use super::calibrated::{CodeSource, codes_of};
use super::parts::{Parts, Tensors, pack_matrix, views};
use super::safe_file::SafeFile;
use super::{Checkpoint, CheckpointError, Values};
use crate::quant::{Stored, Weights, store};

/// The key of the manifest in the header's metadata.
const MANIFEST: &str = "qslm.manifest";
/// Version of the layout above.
const FORMAT: u32 = 1;

/// The manifest of a packed file: its schemes and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// The shape of the network.
    pub network: Network,
    /// Id of the candidate.
    pub candidate: CandidateId,
    /// The scheme of every unit.
    pub schemes: BTreeMap<String, Scheme>,
    /// The scheme of one-dimensional parameters.
    #[serde(default = "float", skip_serializing_if = "is_float")]
    pub vectors: Scheme,
    /// The artifacts that held calibrated codes, by unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ContentHash>,
    /// The schemes of quantized activations, by the linear that they enter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub activations: BTreeMap<String, Activation>,
    /// The schemes of quantized membranes, by population.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub membranes: BTreeMap<String, Membrane>,
    /// Origin of the file.
    pub provenance: Provenance,
}

fn float() -> Scheme {
    Scheme::Float
}

fn is_float(scheme: &Scheme) -> bool {
    *scheme == Scheme::Float
}

/// Origin of a packed file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the program that wrote it.
    pub qslm: String,
    /// Content hash of the checkpoint that was quantized.
    pub checkpoint: ContentHash,
    /// Id of the experiment that measured the candidate, if one did.
    pub experiment: Option<String>,
    /// The counts that the experiment measured.
    pub measurement: Option<Counts>,
}

/// Bytes of a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSize {
    /// The tensors: the footprint.
    pub tensors: u64,
    /// The header with the manifest.
    pub header: u64,
}

/// Writes `checkpoint` under `candidate` to `path`. Calibrated codes are read from `codes`, never chosen anew.
///
/// # Errors
/// If the candidate does not fit the network, codes are not at hand, the checkpoint is packed already, or the file
/// cannot be written.
pub fn write(
    path: &Path,
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    codes: &dyn CodeSource,
    provenance: Provenance,
) -> Result<PackedSize, CheckpointError> {
    let network = *checkpoint.network();
    let refuse = |reason: String| CheckpointError::Format { format: "packed", reason };
    if checkpoint.manifest().is_some() {
        return Err(refuse("it is packed already; start from the float checkpoint".to_owned()));
    }
    candidate.validate(&network).map_err(|error| refuse(error.to_string()))?;
    let schemes = candidate.schemes().map(|(unit, scheme)| (unit.to_owned(), scheme)).collect();
    let activations = candidate.activations().map(|(unit, scheme)| (unit.to_owned(), scheme)).collect();
    let membranes = candidate.membranes().map(|(name, scheme)| (name.to_owned(), scheme)).collect();
    let manifest = Manifest {
        format: FORMAT,
        network,
        candidate: candidate.id(),
        schemes,
        vectors: candidate.vectors(),
        codes: candidate.codes().map(|(unit, artifact)| (unit.to_owned(), artifact)).collect(),
        activations,
        membranes,
        provenance,
    };
    let mut tensors = Tensors::new();
    for unit in network.units() {
        let values = &checkpoint.tensor(&unit.name);
        let weights = Weights { values, columns: unit.columns, unit: &unit.name };
        let stored = match codes_of(codes, candidate, &network, &unit.name) {
            Some(codes) => Some(Stored::Integer(codes.map_err(|error| refuse(error.to_string()))?)),
            None => store(weights, candidate.scheme(&unit.name)),
        };
        tensors.extend(pack_matrix(&unit.name, vec![unit.rows, unit.columns], values, stored));
    }
    for vector in network.vectors() {
        let values = &checkpoint.tensor(&vector.name);
        // A row, whose columns are the last axis.
        let columns = vector.shape.last().copied().unwrap_or(1);
        let stored = store(Weights { values, columns, unit: &vector.name }, candidate.vectors());
        tensors.extend(pack_matrix(&vector.name, vector.shape, values, stored));
    }
    let manifest = serde_json::to_string(&manifest).map_err(|error| refuse(error.to_string()))?;
    let header = HashMap::from([(MANIFEST.to_owned(), manifest)]);
    let views = views(&tensors).map_err(|error| refuse(error.to_string()))?;
    safetensors::serialize_to_file(views, Some(header), path).map_err(|error| refuse(error.to_string()))?;
    let bytes: u64 = tensors.iter().map(|(.., bytes)| bytes.len() as u64).sum();
    debug_assert_eq!(bytes, footprint_bytes(&network, candidate));
    Ok(PackedSize { tensors: bytes, header: std::fs::metadata(path)?.len() - bytes })
}

/// The manifest of a safetensors file, if it is a packed one.
///
/// # Errors
/// If there is a manifest that cannot be read or is of another version.
pub(super) fn manifest(file: &SafeFile) -> Result<Option<Manifest>, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Format { format: "packed", reason };
    let Some(text) = file.entry(MANIFEST) else { return Ok(None) };
    let manifest: Manifest =
        serde_json::from_str(text).map_err(|error| refuse(format!("manifest: {error}")))?;
    if manifest.format != FORMAT {
        return Err(refuse(format!("format {}, this version reads format {FORMAT}", manifest.format)));
    }
    manifest.network.validate()?;
    let candidate = manifest.to_candidate();
    candidate.validate(&manifest.network).map_err(|error| refuse(format!("manifest: {error}")))?;
    // A name that is no unit leaves no trace in the candidate, so the numbers are compared too.
    if candidate.id() != manifest.candidate || manifest.schemes.len() != manifest.network.units().len() {
        return Err(refuse("manifest: the schemes are not those of the candidate that it names".to_owned()));
    }
    Ok(Some(manifest))
}

impl Manifest {
    /// The candidate that the file stores.
    pub fn to_candidate(&self) -> Candidate {
        let of = |unit: &str| self.schemes.get(unit).copied().unwrap_or(Scheme::Float);
        let weights = Candidate::new(&self.network, |unit| of(&unit.name));
        let weights = self.codes.iter().fold(weights, |candidate, (unit, artifact)| {
            candidate.with_codes([unit.as_str()], Some(*artifact))
        });
        self.quantize_inner(weights.with_vectors(self.vectors))
    }

    /// The candidate to build a model with from the file's weights, which are what their schemes made of them
    /// already: float weights, and the file's activations and membranes.
    pub fn to_run(&self) -> Candidate {
        self.quantize_inner(Candidate::float(&self.network))
    }

    fn quantize_inner(&self, candidate: Candidate) -> Candidate {
        let candidate = self.activations.iter().fold(candidate, |candidate, (unit, scheme)| {
            candidate.with_activations([unit.as_str()], Some(*scheme))
        });
        self.membranes.iter().fold(candidate, |candidate, (population, scheme)| {
            candidate.with_membranes([population.as_str()], Some(*scheme))
        })
    }
}

/// The tensors of a packed file: codes as they are, all else as the 32-bit floats that it stands for.
///
/// # Errors
/// The first part that is missing, extra, of another type or size, or not finite.
pub(super) fn read(
    file: &mut SafeFile,
    manifest: &Manifest,
) -> Result<BTreeMap<String, Values>, CheckpointError> {
    let mut parts = Parts::new(file);
    let mut tensors = BTreeMap::new();
    let candidate = manifest.to_candidate();
    for unit in manifest.network.units() {
        let weights = parts.matrix(&unit.name, unit.rows, unit.columns, candidate.scheme(&unit.name))?;
        tensors.insert(unit.name, weights);
    }
    for vector in manifest.network.vectors() {
        let values = parts.matrix(&vector.name, 1, vector.shape.iter().product(), candidate.vectors())?;
        tensors.insert(vector.name, values);
    }
    match parts.left() {
        Some(name) => Err(CheckpointError::Extra { name, blocks: manifest.network.blocks }),
        None => Ok(tensors),
    }
}
