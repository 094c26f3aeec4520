//! Checkpoints: files of named tensors, checked before anything computes with them.
//!
//! The shape of the network is read off the tensors themselves. A file is taken only if it holds exactly the
//! tensors of such a network, in those shapes, with finite numbers. What training tools put around their
//! names is taken off.

pub mod calibrated;
mod file;
mod naming;
pub mod packed;
mod parts;
mod recognise;
mod safe_file;
mod shape;
mod shards;
mod stored;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use qslm_common::network::{Member, Network};

use crate::quant::Codes;
use file::TensorFile;
use naming::Naming;
pub(crate) use parts::coded_codes;
pub use recognise::{Recognised, Vocabulary, recognise, vocabulary};
pub use stored::{Stored, Unreadable};

/// The parameters of a network: 32-bit floats, or the codes of a packed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    network: Network,
    tensors: BTreeMap<String, Values>,
    manifest: Option<packed::Manifest>,
    notes: Vec<String>,
}

/// The header of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// The shape of the network.
    pub network: Network,
    /// The manifest of a packed file.
    pub manifest: Option<packed::Manifest>,
    /// The changes made to the names of its tensors, a sentence each.
    pub notes: Vec<String>,
}

/// A tensor of any file, as the file lists it; a network may have no such tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Type, as the file's format calls it.
    pub dtype: String,
    /// Sizes, the outermost first.
    pub shape: Vec<usize>,
}

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    Floats(Vec<f32>),
    Codes(Codes),
}

impl Values {
    /// The floats that they are or stand for.
    pub(crate) fn into_floats(self) -> Vec<f32> {
        match self {
            Self::Floats(values) => values,
            Self::Codes(codes) => codes.dequantize(),
        }
    }
}

/// Error of a file that is not a checkpoint of a SpikeGPT network.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// Neither container format could be read.
    #[error("not a {format} checkpoint: {reason}")]
    Format {
        /// The format that the file looks like.
        format: &'static str,
        /// The reader's words, on one line.
        reason: String,
    },
    /// Something that is no checkpoint at all.
    #[error("not a checkpoint: it is {0}")]
    Foreign(&'static str),
    /// Names that two readings would fit.
    #[error("ambiguous checkpoint: {0}")]
    Ambiguous(String),
    /// An index without one of its files.
    #[error("shard {0}, which the index names, is not there")]
    NoShard(String),
    /// A tensor of the network is not there.
    #[error("missing tensor {0}")]
    Missing(String),
    /// A tensor that no such network has.
    #[error("extra tensor {name}, which is not part of a SpikeGPT of {blocks} blocks")]
    Extra {
        /// Name in the file.
        name: String,
        /// The number of blocks found in the file.
        blocks: u32,
    },
    /// A tensor in a shape that contradicts the others.
    #[error("tensor {name} has shape {given:?}, expected {expected}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        given: Vec<usize>,
        /// The shape that it should have, given the other tensors.
        expected: String,
    },
    /// A tensor of integers or of an unknown type.
    #[error("tensor {name} has type {given}, expected f16, bf16, f32 or f64")]
    Type {
        /// Name of the tensor.
        name: String,
        /// Type in the file.
        given: String,
    },
    /// NaN or infinity among the weights.
    #[error("tensor {name} holds {value} at index {index}: weights must be finite")]
    NotFinite {
        /// Name of the tensor.
        name: String,
        /// The first such number.
        value: f32,
        /// Row-major index.
        index: usize,
    },
    /// What the file says of its own network, which is none of the family.
    #[error("config.{key} = {given}: expected {expected}")]
    Configuration {
        /// Key of its configuration.
        key: &'static str,
        /// Its value.
        given: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Sizes beyond any network.
    #[error(transparent)]
    Network(#[from] qslm_common::network::InvalidNetwork),
}

impl Checkpoint {
    /// Reads a PyTorch (`.pth`) or safetensors file, float or packed; which of them is seen from the bytes.
    ///
    /// `member` says what the tensors do not tell: whether a float model was trained to see only the sign of its embedding,
    /// and its dynamics. A packed file says so itself.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor, what it is and what it should be. Nothing that a PyTorch file
    /// may carry besides tensors is ever executed.
    pub fn load(path: &Path, member: impl Into<Member>) -> Result<Self, CheckpointError> {
        let mut file = file::open(path)?;
        if let Some((manifest, file)) = file.packed()? {
            let tensors = packed::read(file, &manifest)?;
            let (network, manifest, notes) = (manifest.network, Some(manifest), Vec::new());
            return Ok(Self { network, tensors, manifest, notes });
        }
        let (naming, network) = float_network(&file, member.into())?;
        let mut tensors = BTreeMap::new();
        for name in naming.names() {
            let in_file = naming.in_file(name);
            let values = file.read(in_file)?;
            check_finite(in_file, &values)?;
            tensors.insert(name.clone(), Values::Floats(values));
        }
        Ok(Self { network, tensors, manifest: None, notes: naming.notes() })
    }

    /// Reads only the shape of the network and the manifest of a packed file, without the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], except for what only the weights can show.
    pub fn inspect(path: &Path, member: impl Into<Member>) -> Result<Inspected, CheckpointError> {
        let mut file = file::open(path)?;
        if let Some((manifest, _)) = file.packed()? {
            return Ok(Inspected { network: manifest.network, manifest: Some(manifest), notes: Vec::new() });
        }
        let (naming, network) = float_network(&file, member.into())?;
        Ok(Inspected { network, manifest: None, notes: naming.notes() })
    }

    /// Every tensor of a file in one of the formats that are read, whatever it is of.
    ///
    /// # Errors
    /// If the file is of none of them, or broken.
    pub fn list(path: &Path) -> Result<Vec<TensorEntry>, CheckpointError> {
        Ok(file::open(path)?.listed())
    }

    /// True if a file is the index of a checkpoint in several files: to be hashed and sent it has to become
    /// one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_sharded(path: &Path) -> Result<bool, CheckpointError> {
        Ok(file::is_index(&file::start_of(path)?))
    }

    /// Writes a checkpoint in several files as one, always the same bytes; `index` says which tensor is in
    /// which file.
    ///
    /// # Errors
    /// If the shards are not as the index says, or something cannot be read or written.
    pub fn join(index: &Path, to: &mut dyn Write) -> Result<(), CheckpointError> {
        shards::Shards::open(index)?.join(to)
    }

    /// The changes made to the names of the file's tensors, a sentence each; none for a file that has them as
    /// they should be.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The manifest of a packed file; `None` for a float one.
    pub fn manifest(&self) -> Option<&packed::Manifest> {
        self.manifest.as_ref()
    }

    /// The shape of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The row-major values of a tensor by its checkpoint name.
    ///
    /// # Panics
    /// If the network has no tensor of that name: loading made sure of all that it has.
    pub fn tensor(&self, name: &str) -> Cow<'_, [f32]> {
        match self.tensors.get(name) {
            Some(Values::Floats(values)) => Cow::Borrowed(values),
            Some(Values::Codes(codes)) => Cow::Owned(codes.dequantize()),
            None => panic!("the network has no tensor {name}"),
        }
    }

    /// As [`Checkpoint::tensor`], but takes the values out, so that they need not be there twice.
    ///
    /// # Panics
    /// If the network has no tensor of that name, or it was taken before.
    pub fn take(&mut self, name: &str) -> Vec<f32> {
        match self.tensors.remove(name) {
            Some(values) => values.into_floats(),
            None => panic!("the network has no tensor {name}, or not any more"),
        }
    }

    /// Puts other values into a tensor.
    ///
    /// # Panics
    /// If the network has no tensor of that name and size.
    pub fn replace(&mut self, name: &str, values: Vec<f32>) {
        assert_eq!(self.tensor(name).len(), values.len(), "{name} has another size");
        self.tensors.insert(name.to_owned(), Values::Floats(values));
    }

    /// The codes of a matrix, if the file stores such.
    pub fn codes(&self, name: &str) -> Option<&Codes> {
        match self.tensors.get(name)? {
            Values::Floats(_) => None,
            Values::Codes(codes) => Some(codes),
        }
    }
}

/// The map between the names of a float file and those of its network, and the network.
fn float_network(file: &TensorFile, member: Member) -> Result<(Naming, Network), CheckpointError> {
    let mut naming = Naming::read(&file.names(), &file.metadata())?;
    let types: BTreeMap<String, String> =
        file.listed().into_iter().map(|tensor| (tensor.name, tensor.dtype)).collect();
    let is_buffer = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        let is_float = |dtype: &String| FLOATS.iter().any(|float| dtype.eq_ignore_ascii_case(float));
        MASKS.contains(&last) || !types.get(naming.in_file(name)).is_some_and(is_float)
    };
    let network = shape::network(&naming.shapes(&file.shapes()), member, is_buffer);
    // What is wrong is named as the file names it.
    let (network, buffers) = network.map_err(|error| match error {
        CheckpointError::Missing(name) => CheckpointError::Missing(naming.would_be(&name)),
        CheckpointError::Extra { name, blocks } => {
            CheckpointError::Extra { name: naming.in_file(&name).to_owned(), blocks }
        }
        CheckpointError::Shape { name, given, expected } => {
            CheckpointError::Shape { name: naming.in_file(&name).to_owned(), given, expected }
        }
        other => other,
    })?;
    naming.leave_aside(&buffers);
    Ok((naming, network))
}

/// Types of parameters; a tensor of another type that no network has is a buffer: a counter, a mask.
const FLOATS: [&str; 4] = ["f16", "bf16", "f32", "f64"];

/// Buffers of floats that the published code registers and its networks do not compute with.
const MASKS: [&str; 2] = ["copy_mask", "tiny_mask"];

fn check_finite(name: &str, values: &[f32]) -> Result<(), CheckpointError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(CheckpointError::NotFinite { name: name.to_owned(), value: values[index], index }),
    }
}
