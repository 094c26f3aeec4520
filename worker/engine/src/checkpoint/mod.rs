//! Checkpoints: files of named tensors, checked before anything computes with them.
//!
//! The shape of the network is read off the tensors themselves. A file is taken only if it holds exactly
//! the tensors of such a network, in those shapes, with finite numbers.

mod file;
pub mod packed;
mod safe_file;
mod shape;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use qslm_common::network::Network;
use qslm_common::scheme::Integer;

use crate::quant::{Quantized, dequantize};

/// The parameters of a network: 32-bit floats, or the codes of a packed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    network: Network,
    tensors: BTreeMap<String, Values>,
    manifest: Option<packed::Manifest>,
}

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    Floats(Vec<f32>),
    Codes(Codes),
}

/// A matrix as a packed file stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// Its codes with their scales.
    pub quantized: Quantized,
    /// The scheme that they were made by.
    pub scheme: Integer,
    columns: usize,
}

impl Codes {
    fn values(&self) -> Vec<f32> {
        dequantize(&self.quantized, self.columns, self.scheme)
    }
}

/// Why a file is not a checkpoint of a SpikeGPT network.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// Neither container format could be read.
    #[error("not a {format} checkpoint: {reason}")]
    Format {
        /// What the file looks like.
        format: &'static str,
        /// The reader's words, on one line.
        reason: String,
    },
    /// A tensor of the network is not there.
    #[error("missing tensor {0}")]
    Missing(String),
    /// A tensor that no such network has.
    #[error("extra tensor {name}, which is not part of a SpikeGPT of {blocks} blocks")]
    Extra {
        /// Its name in the file.
        name: String,
        /// The number of blocks found in the file.
        blocks: u32,
    },
    /// A tensor in a shape that contradicts the others.
    #[error("tensor {name} has shape {given:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape in the file.
        given: Vec<usize>,
        /// What it should be, given the other tensors.
        expected: String,
    },
    /// A tensor of integers or of an unknown type.
    #[error("tensor {name} has type {given}, expected f16, bf16, f32 or f64")]
    Type {
        /// Its name.
        name: String,
        /// Its type in the file.
        given: String,
    },
    /// NaN or infinity among the weights.
    #[error("tensor {name} holds {value} at index {index}: weights must be finite")]
    NotFinite {
        /// Its name.
        name: String,
        /// The first such number.
        value: f32,
        /// Its row-major index.
        index: usize,
    },
    /// Sizes beyond any network.
    #[error(transparent)]
    Network(#[from] qslm_common::network::InvalidNetwork),
}

impl Checkpoint {
    /// Reads a PyTorch (`.pth`) or safetensors file, float or packed; which of them is seen from the bytes.
    ///
    /// `binary_embedding` says whether a float model was trained to see only the sign of its embedding, which
    /// the tensors do not tell; a packed file says so itself.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor, what it is and what it should be. Nothing that a PyTorch file
    /// may carry besides tensors is ever executed.
    pub fn load(path: &Path, binary_embedding: bool) -> Result<Self, CheckpointError> {
        let mut file = file::open(path)?;
        if let Some((manifest, file)) = file.packed()? {
            let tensors = packed::read(file, &manifest)?;
            return Ok(Self { network: manifest.network, tensors, manifest: Some(manifest) });
        }
        let network = shape::network(&file.shapes(), binary_embedding)?;
        let mut tensors = BTreeMap::new();
        for name in file.names() {
            let values = file.read(&name)?;
            check_finite(&name, &values)?;
            tensors.insert(name, Values::Floats(values));
        }
        Ok(Self { network, tensors, manifest: None })
    }

    /// Reads only the shape of the network and the manifest of a packed file, without the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], except for what only the weights can show.
    pub fn inspect(
        path: &Path,
        binary_embedding: bool,
    ) -> Result<(Network, Option<packed::Manifest>), CheckpointError> {
        let mut file = file::open(path)?;
        match file.packed()? {
            Some((manifest, _)) => Ok((manifest.network, Some(manifest))),
            None => Ok((shape::network(&file.shapes(), binary_embedding)?, None)),
        }
    }

    /// What a packed file says about itself; `None` for a float one.
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
            Some(Values::Codes(codes)) => Cow::Owned(codes.values()),
            None => panic!("the network has no tensor {name}"),
        }
    }

    /// As [`Checkpoint::tensor`], but takes the values out, so that they need not be there twice.
    ///
    /// # Panics
    /// If the network has no tensor of that name, or it was taken before.
    pub fn take(&mut self, name: &str) -> Vec<f32> {
        match self.tensors.remove(name) {
            Some(Values::Floats(values)) => values,
            Some(Values::Codes(codes)) => codes.values(),
            None => panic!("the network has no tensor {name}, or not any more"),
        }
    }

    /// The codes of a matrix, if the file stores such.
    pub fn codes(&self, name: &str) -> Option<&Codes> {
        match self.tensors.get(name)? {
            Values::Floats(_) => None,
            Values::Codes(codes) => Some(codes),
        }
    }
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), CheckpointError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(CheckpointError::NotFinite { name: name.to_owned(), value: values[index], index }),
    }
}
