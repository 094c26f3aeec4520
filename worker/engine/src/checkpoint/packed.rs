//! Packed checkpoints: the file that is deployed. A safetensors file with a manifest in its header.
//!
//! Per unit, as its scheme asks: `UNIT` in f32 or f16; or `UNIT.codes` (packed), `UNIT.scales` (f32, f16 or powers
//! of two, one per run) and, if affine, `UNIT.zero_points` (int8); or `UNIT.signs` (one bit a weight).
//! One-dimensional parameters likewise, f32 unless the candidate says otherwise. The bytes of the tensors together
//! are exactly the footprint that a search reports; the header comes on top.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use half::f16;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::footprint::footprint_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::scheme::{Activation, Format, Membrane, Scales, Scheme, Symmetry};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::safe_file::SafeFile;
use super::{Checkpoint, CheckpointError, Values};
use crate::quant::pack::{pack, pack_codes, unpack, unpack_codes};
use crate::quant::{Codes, Stored, Weights, exponent_of, power_of, store, to_half};

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

/// Named tensors on their way into a file.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Writes `checkpoint` under `candidate` to `path`.
///
/// # Errors
/// If the candidate does not fit the network, the checkpoint is packed already, or the file cannot be
/// written.
pub fn write(
    path: &Path,
    checkpoint: &Checkpoint,
    candidate: &Candidate,
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
        activations,
        membranes,
        provenance,
    };
    let mut tensors = Tensors::new();
    for unit in network.units() {
        let values = &checkpoint.tensor(&unit.name);
        let weights = Weights { values, columns: unit.columns, unit: &unit.name };
        let stored = store(weights, candidate.scheme(&unit.name));
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
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let views = views.map_err(|error| refuse(error.to_string()))?;
    safetensors::serialize_to_file(views, Some(header), path).map_err(|error| refuse(error.to_string()))?;
    let bytes: u64 = tensors.iter().map(|(.., bytes)| bytes.len() as u64).sum();
    debug_assert_eq!(bytes, footprint_bytes(&network, candidate));
    Ok(PackedSize { tensors: bytes, header: std::fs::metadata(path)?.len() - bytes })
}

/// The tensors that hold a matrix or a vector: as it is stored, or else its 32-bit floats.
fn pack_matrix(tensor: &str, shape: Vec<usize>, floats: &[f32], stored: Option<Stored>) -> Tensors {
    let part = |name: &str| format!("{tensor}.{name}");
    let bytes = |name: String, bytes: Vec<u8>| (name, Dtype::U8, vec![bytes.len()], bytes);
    match stored {
        None => vec![(tensor.to_owned(), Dtype::F32, shape, float_bytes(floats))],
        Some(Stored::Half(halves)) => {
            let halves = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            vec![(tensor.to_owned(), Dtype::F16, shape, halves)]
        }
        Some(Stored::Sign(signs)) => vec![bytes(part("signs"), pack(&signs, 1))],
        Some(Stored::Integer(Codes { format, values, scales, zero_points, .. })) => {
            let (dtype, bytes_of_scales) = scale_bytes(&scales, format.scales);
            let scales = (part("scales"), dtype, vec![scales.len()], bytes_of_scales);
            let mut tensors = vec![bytes(part("codes"), pack_codes(&values, format)), scales];
            if format.symmetry == Symmetry::Affine {
                let zeros: Vec<u8> = zero_points.iter().map(|zero| *zero as u8).collect();
                tensors.push((part("zero_points"), Dtype::I8, vec![zeros.len()], zeros));
            }
            tensors
        }
    }
}

/// Scales as they are stored, all of which are such numbers already.
fn scale_bytes(scales: &[f32], stored: Scales) -> (Dtype, Vec<u8>) {
    match stored {
        Scales::F32 => (Dtype::F32, float_bytes(scales)),
        Scales::F16 => (Dtype::F16, scales.iter().flat_map(|scale| to_half(*scale).to_le_bytes()).collect()),
        Scales::Pow2 => (Dtype::I8, scales.iter().map(|scale| exponent_of(*scale) as u8).collect()),
    }
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
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
    let left = file.names().into_iter().collect();
    let mut parts = Parts { file, left };
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
    match parts.left.pop_first() {
        Some(name) => Err(CheckpointError::Extra { name, blocks: manifest.network.blocks }),
        None => Ok(tensors),
    }
}

/// The tensors of a file that were not used yet.
struct Parts<'a> {
    file: &'a mut SafeFile,
    left: BTreeSet<String>,
}

impl Parts<'_> {
    fn matrix(
        &mut self,
        tensor: &str,
        rows: usize,
        columns: usize,
        scheme: Scheme,
    ) -> Result<Values, CheckpointError> {
        let count = rows * columns;
        let part = |name: &str| format!("{tensor}.{name}");
        match scheme {
            Scheme::Float => self.floats(tensor, count).map(Values::Floats),
            Scheme::Half => self.halves(tensor, count).map(Values::Floats),
            Scheme::Sign => {
                let bytes = self.bytes(&part("signs"), Dtype::U8, count.div_ceil(8))?;
                // `bytes` has made sure of the size.
                let signs = unpack(&bytes, 1, count).unwrap_or_default();
                let values = signs.into_iter().map(|bit| if bit == 0 { -1.0 } else { 1.0 });
                Ok(Values::Floats(values.collect()))
            }
            Scheme::Integer { format, .. } => {
                let scales = format.granularity.scales(rows, columns);
                Ok(Values::Codes(Codes {
                    format,
                    columns,
                    values: self.codes(&part("codes"), format, count)?,
                    scales: self.scales(&part("scales"), scales, format.scales)?,
                    zero_points: match format.symmetry {
                        Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => Vec::new(),
                        Symmetry::Affine => {
                            let bytes = self.bytes(&part("zero_points"), Dtype::I8, scales)?;
                            bytes.iter().map(|byte| *byte as i8).collect()
                        }
                    },
                }))
            }
        }
    }

    fn codes(&mut self, name: &str, format: Format, count: usize) -> Result<Vec<i8>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::U8, format.code_bytes(count as u64) as usize)?;
        // The size is right, and every byte of other codes makes some.
        unpack_codes(&bytes, format, count).ok_or_else(|| CheckpointError::Format {
            format: "packed",
            reason: format!("{name} holds a byte above 242, which five ternary codes do not make"),
        })
    }

    fn halves(&mut self, name: &str, count: usize) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::F16, 2 * count)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect())
    }

    /// Scales, all of which are numbers.
    fn scales(&mut self, name: &str, count: usize, stored: Scales) -> Result<Vec<f32>, CheckpointError> {
        match stored {
            Scales::F32 => self.floats(name, count),
            Scales::F16 => {
                let values = self.halves(name, count)?;
                super::check_finite(name, &values)?;
                Ok(values)
            }
            Scales::Pow2 => {
                let bytes = self.bytes(name, Dtype::I8, count)?;
                Ok(bytes.iter().map(|byte| power_of(*byte as i8)).collect())
            }
        }
    }

    fn floats(&mut self, name: &str, count: usize) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes(name, Dtype::F32, 4 * count)?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        super::check_finite(name, &values)?;
        Ok(values)
    }

    /// The bytes of a part, checked for type and size.
    fn bytes(&mut self, name: &str, dtype: Dtype, size: usize) -> Result<Vec<u8>, CheckpointError> {
        self.left.remove(name);
        let (given, bytes) = self.file.read(name)?;
        let refuse = |reason| Err(CheckpointError::Format { format: "packed", reason });
        if given != dtype {
            return refuse(format!("{name} has type {given:?}, expected {dtype:?}"));
        }
        if bytes.len() != size {
            return refuse(format!("{name} takes {} bytes, expected {size}", bytes.len()));
        }
        Ok(bytes)
    }
}
