//! Packed checkpoints: the file that is deployed. A safetensors file with a manifest in its header.
//!
//! Per unit, as its scheme asks: `UNIT` in f32 or f16; or `UNIT.codes` (packed) or `UNIT.rans` (entropy-coded, where that
//! is allowed and smaller), `UNIT.scales` (f32, f16 or powers
//! of two, one per run) and, if affine, `UNIT.zero_points` (int8); or `UNIT.signs` (one bit a weight).
//! One-dimensional parameters likewise, f32 unless the candidate says otherwise. The bytes of the tensors together
//! are exactly the footprint that a search reports; the header comes on top.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::conditions::Conditions;
use qslm_common::footprint::file_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::scheme::{Activation, Membrane, Scheme};
use qslm_common::storage::{CodedSizes, Storage};
use serde::{Deserialize, Serialize};

use super::calibrated::{CodeSource, CodesError, codes_of, vector_of};
use super::parts::{CODED, Parts, Tensors, coded_codes, pack_matrix, views};
use super::safe_file::SafeFile;
use super::{Checkpoint, CheckpointError, Values};
use crate::quant::{Statistics, Stored, Weights, quantize, store};

/// The key of the manifest in the header's metadata.
const MANIFEST: &str = "qslm.manifest";
/// Version of the layout above.
const FORMAT: u32 = 1;
/// Version of one with entropy-coded codes, which earlier readers do not know.
const CODED_FORMAT: u32 = 2;

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
    /// Bytes of entropy-coded codes, by unit, where the candidate says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub coded_bytes: BTreeMap<String, u64>,
    /// The schemes of quantized activations, by the linear that they enter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub activations: BTreeMap<String, Activation>,
    /// The schemes of quantized membranes, by population.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub membranes: BTreeMap<String, Membrane>,
    /// Bytes of codes that are entropy-coded, by unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rans: BTreeMap<String, u64>,
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
    /// False if graphics cards measured or trained, so that whoever repeats it gets other bits; absent otherwise.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub reproducible: bool,
    /// Conditions of that measurement; absent in files of an earlier version, and where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// Address that the checkpoint was fetched from, with its commit; absent if it was a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
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
    storage: &[Storage],
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
    let mut manifest = Manifest {
        format: FORMAT,
        network,
        candidate: candidate.id(),
        schemes,
        vectors: candidate.vectors(),
        codes: candidate.codes().map(|(unit, artifact)| (unit.to_owned(), artifact)).collect(),
        coded_bytes: candidate.coded_bytes().map(|(unit, bytes)| (unit.to_owned(), bytes)).collect(),
        activations,
        membranes,
        rans: BTreeMap::new(),
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
        let packed = pack_matrix(&unit.name, vec![unit.rows, unit.columns], values, stored, storage);
        let coded = format!("{}.{CODED}", unit.name);
        if let Some((.., bytes)) = packed.iter().find(|(name, ..)| *name == coded) {
            manifest.rans.insert(unit.name, bytes.len() as u64);
        }
        tensors.extend(packed);
    }
    if !manifest.rans.is_empty() {
        manifest.format = CODED_FORMAT;
    }
    for vector in network.vectors() {
        let values = &checkpoint.tensor(&vector.name);
        // A row, whose columns are the last axis.
        let columns = vector.shape.last().copied().unwrap_or(1);
        let size = values.len();
        let trained = vector_of(codes, candidate, &vector.name, size).transpose();
        let packed = match trained.map_err(|error| refuse(error.to_string()))? {
            Some(Values::Codes(codes)) => {
                pack_matrix(&vector.name, vector.shape, values, Some(Stored::Integer(codes)), &[])
            }
            Some(Values::Floats(values)) => {
                let weights = Weights { values: &values, columns, unit: &vector.name };
                let stored = store(weights, candidate.vectors());
                pack_matrix(&vector.name, vector.shape, &values, stored, &[])
            }
            None => {
                let stored = store(Weights { values, columns, unit: &vector.name }, candidate.vectors());
                pack_matrix(&vector.name, vector.shape, values, stored, &[])
            }
        };
        tensors.extend(packed);
    }
    let sizes = manifest.sizes();
    let manifest = serde_json::to_string(&manifest).map_err(|error| refuse(error.to_string()))?;
    let header = HashMap::from([(MANIFEST.to_owned(), manifest)]);
    let views = views(&tensors).map_err(|error| refuse(error.to_string()))?;
    safetensors::serialize_to_file(views, Some(header), path).map_err(|error| refuse(error.to_string()))?;
    let bytes: u64 = tensors.iter().map(|(.., bytes)| bytes.len() as u64).sum();
    debug_assert_eq!(bytes, file_bytes(&network, candidate, &sizes));
    Ok(PackedSize { tensors: bytes, header: std::fs::metadata(path)?.len() - bytes })
}

/// Bytes of all codes of a candidate, entropy-coded where that is smaller than packed.
///
/// # Errors
/// [`CodesError`] if calibrated codes are not at hand.
pub fn coded_sizes(
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    codes: &dyn CodeSource,
) -> Result<CodedSizes, CodesError> {
    let (network, mut sizes) = (checkpoint.network(), CodedSizes::default());
    for unit in network.units() {
        let scheme = candidate.scheme(&unit.name);
        let Scheme::Integer { format, quantizer } = scheme else { continue };
        let codes = match codes_of(codes, candidate, network, &unit.name) {
            Some(codes) => codes?,
            None => {
                let values = &checkpoint.tensor(&unit.name);
                let weights = Weights { values, columns: unit.columns, unit: &unit.name };
                quantize(weights, format, quantizer, &Statistics::NONE)
            }
        };
        if let Some(coded) = coded_codes(&codes) {
            sizes.insert(&unit.name, scheme, coded.len() as u64);
        }
    }
    Ok(sizes)
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
    if ![FORMAT, CODED_FORMAT].contains(&manifest.format) {
        let given = manifest.format;
        return Err(refuse(format!(
            "format {given}, this version reads formats {FORMAT} and {CODED_FORMAT}"
        )));
    }
    for (unit, bytes) in &manifest.rans {
        let (name, coded) = (format!("{unit}.{CODED}"), *bytes as usize);
        if file.info(&name).is_none_or(|tensor| tensor.data_offsets.1 - tensor.data_offsets.0 != coded) {
            return Err(refuse(format!("manifest: rans.{unit} = {bytes}: there is no such {name}")));
        }
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
        // Vectors first: another scheme of theirs takes their artifact away.
        let weights = Candidate::new(&self.network, |unit| of(&unit.name)).with_vectors(self.vectors);
        let weights = self.codes.iter().fold(weights, |candidate, (unit, artifact)| {
            candidate.with_codes([unit.as_str()], Some(*artifact))
        });
        let coded = self.coded_bytes.iter();
        let weights =
            coded.fold(weights, |candidate, (unit, bytes)| candidate.with_coded_bytes(unit, *bytes));
        self.quantize_inner(weights)
    }

    /// Bytes of the codes that the file holds entropy-coded.
    pub fn sizes(&self) -> CodedSizes {
        let mut sizes = CodedSizes::default();
        for (unit, bytes) in &self.rans {
            if let Some(scheme) = self.schemes.get(unit) {
                sizes.insert(unit, *scheme, *bytes);
            }
        }
        sizes
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
        let values = parts.matrix(&vector.name, 1, vector.elements(), candidate.vectors())?;
        tensors.insert(vector.name, values);
    }
    match parts.left() {
        Some(name) => Err(CheckpointError::Extra { name, blocks: manifest.network.blocks }),
        None => Ok(tensors),
    }
}
