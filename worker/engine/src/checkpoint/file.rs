//! Tensors by name out of the two container formats, as 32-bit floats.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::packed::{self, Manifest};
use super::safe_file::SafeFile;
use super::shards::{self, Shards};
use super::{CheckpointError, TensorEntry};
use crate::foreign;

/// An open checkpoint file.
pub(super) enum TensorFile {
    /// PyTorch's own formats; tensors are read when asked for.
    PyTorch(BTreeMap<String, pytorch_reader::Tensor>),
    /// safetensors; tensors are read when asked for.
    SafeTensors(SafeFile),
    /// Several safetensors; tensors are read when asked for.
    Shards(Shards),
}

/// Opens a file and reads the names and shapes of its tensors.
pub(super) fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
    if path.is_dir() {
        let words = "a folder: name its file, or the model.safetensors.index.json of several";
        return Err(CheckpointError::Foreign(words));
    }
    let start = start_of(path)?;
    if start.is_empty() {
        return Err(refuse("PyTorch or safetensors", &"the file is empty"));
    }
    if looks_like_safetensors(&start) {
        return Ok(TensorFile::SafeTensors(SafeFile::open(path)?));
    }
    if let Some(foreign) = foreign::recognise(&start) {
        return Err(CheckpointError::Foreign(foreign.what));
    }
    if is_index(&start) {
        return Ok(TensorFile::Shards(Shards::open(path)?));
    }
    let reader = PytorchReader::new(path).map_err(|error| refuse("PyTorch", &error))?;
    Ok(TensorFile::PyTorch(reader.into_tensors().into_iter().collect()))
}

/// Beginning of a file, long enough to see what it is.
pub(super) fn start_of(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let mut start = Vec::new();
    File::open(path)?.take(foreign::ENOUGH as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// True if a file that begins so may be the index of several. The length that a safetensors file starts with
/// may look like a brace, too.
pub(super) fn is_index(start: &[u8]) -> bool {
    !looks_like_safetensors(start) && shards::may_be_index(start)
}

/// A safetensors file starts with the length of a JSON header, then the header's opening brace.
fn looks_like_safetensors(start: &[u8]) -> bool {
    start.get(8) == Some(&b'{') && start[4..8] == [0; 4]
}

/// The reader's words, on one line.
pub(super) fn refuse(format: &'static str, reason: &dyn std::fmt::Display) -> CheckpointError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    CheckpointError::Format { format, reason }
}

impl TensorFile {
    /// The manifest of a packed file, with the file.
    pub(super) fn packed(&mut self) -> Result<Option<(Manifest, &mut SafeFile)>, CheckpointError> {
        match self {
            Self::PyTorch(_) | Self::Shards(_) => Ok(None),
            Self::SafeTensors(file) => Ok(packed::manifest(file)?.map(|manifest| (manifest, file))),
        }
    }

    /// The names of all tensors, in their order.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::PyTorch(tensors) => tensors.keys().cloned().collect(),
            Self::SafeTensors(file) => {
                let mut names = file.names();
                names.sort();
                names
            }
            Self::Shards(shards) => shards.names().cloned().collect(),
        }
    }

    /// A safetensors header's free metadata.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        match self {
            Self::PyTorch(_) => BTreeMap::new(),
            Self::SafeTensors(file) => file.entries().collect(),
            Self::Shards(shards) => shards.metadata(),
        }
    }

    /// Name, type and shape of every tensor, none of which is read.
    pub(super) fn listed(&self) -> Vec<TensorEntry> {
        let safe = |name: String, info: Option<&TensorInfo>| {
            let info = info?;
            Some(TensorEntry { name, dtype: format!("{:?}", info.dtype), shape: info.shape.clone() })
        };
        match self {
            Self::PyTorch(tensors) => {
                let listed = |(name, tensor): (&String, &pytorch_reader::Tensor)| TensorEntry {
                    name: name.clone(),
                    dtype: format!("{:?}", tensor.dtype()),
                    shape: tensor.shape().to_vec(),
                };
                tensors.iter().map(listed).collect()
            }
            Self::SafeTensors(file) => {
                self.names().into_iter().filter_map(|name| safe(name.clone(), file.info(&name))).collect()
            }
            Self::Shards(shards) => {
                shards.names().filter_map(|name| safe(name.clone(), shards.info(name))).collect()
            }
        }
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.listed().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    /// The row-major values of a tensor.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (float, bytes) = self.bytes(name)?;
        Ok(float.decode(&bytes))
    }

    /// The bytes of a tensor, and what they are.
    pub(super) fn bytes(&mut self, name: &str) -> Result<(Float, Vec<u8>), CheckpointError> {
        let missing = || CheckpointError::Missing(name.to_owned());
        let wrong_type = |given: String| CheckpointError::Type { name: name.to_owned(), given };
        match self {
            Self::PyTorch(tensors) => {
                let tensor = tensors.get(name).ok_or_else(missing)?;
                let float = match tensor.dtype() {
                    DType::F16 => Float::F16,
                    DType::BF16 => Float::BF16,
                    DType::F32 => Float::F32,
                    DType::F64 => Float::F64,
                    other => return Err(wrong_type(format!("{other:?}"))),
                };
                // Nothing of it is kept there.
                Ok((float, tensor.read().map_err(|error| refuse("PyTorch", &error))?))
            }
            Self::SafeTensors(file) => bytes_of(file, name),
            Self::Shards(shards) => bytes_of(shards.shard(name).ok_or_else(missing)?, name),
        }
    }
}

fn bytes_of(file: &mut SafeFile, name: &str) -> Result<(Float, Vec<u8>), CheckpointError> {
    let (dtype, bytes) = file.read(name)?;
    let float = match dtype {
        Dtype::F16 => Float::F16,
        Dtype::BF16 => Float::BF16,
        Dtype::F32 => Float::F32,
        Dtype::F64 => Float::F64,
        other => {
            let (name, given) = (name.to_owned(), format!("{other:?}"));
            return Err(CheckpointError::Type { name, given });
        }
    };
    Ok((float, bytes))
}

/// The float types that a checkpoint may store.
#[derive(Clone, Copy)]
pub(super) enum Float {
    F16,
    BF16,
    F32,
    F64,
}

impl Float {
    /// Little-endian bytes as 32-bit floats; 64-bit ones are rounded.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
        }
        match self {
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        }
    }
}
