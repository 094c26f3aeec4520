//! Tensors by name out of the two container formats, as 32-bit floats.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use safetensors::Dtype;

use super::CheckpointError;
use super::packed::{self, Manifest};
use super::safe_file::SafeFile;

/// An open checkpoint file.
pub(super) enum TensorFile {
    /// PyTorch's own formats; tensors are read when asked for.
    PyTorch(BTreeMap<String, pytorch_reader::Tensor>),
    /// safetensors; tensors are read when asked for.
    SafeTensors(SafeFile),
}

/// Opens a file and reads the names and shapes of its tensors.
pub(super) fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
    if looks_like_safetensors(path)? {
        return Ok(TensorFile::SafeTensors(SafeFile::open(path)?));
    }
    let reader = PytorchReader::new(path).map_err(|error| refuse("PyTorch", &error))?;
    Ok(TensorFile::PyTorch(reader.into_tensors().into_iter().collect()))
}

/// A safetensors file starts with the length of a JSON header, then the header's opening brace.
fn looks_like_safetensors(path: &Path) -> Result<bool, CheckpointError> {
    let mut start = Vec::new();
    File::open(path)?.take(9).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(refuse("PyTorch or safetensors", &"the file is empty"));
    }
    Ok(start.get(8) == Some(&b'{') && start[4..8] == [0; 4])
}

/// The reader's words, on one line.
fn refuse(format: &'static str, reason: &dyn std::fmt::Display) -> CheckpointError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    CheckpointError::Format { format, reason }
}

impl TensorFile {
    /// The manifest of a packed file, with the file.
    pub(super) fn packed(&mut self) -> Result<Option<(Manifest, &mut SafeFile)>, CheckpointError> {
        match self {
            Self::PyTorch(_) => Ok(None),
            Self::SafeTensors(file) => Ok(packed::manifest(file)?.map(|manifest| (manifest, file))),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.shapes().into_keys().collect()
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::PyTorch(tensors) => {
                tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
            }
            Self::SafeTensors(file) => {
                let shape = |name: String| file.info(&name).map(|info| (name, info.shape.clone()));
                file.names().into_iter().filter_map(shape).collect()
            }
        }
    }

    /// The row-major values of a tensor.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let missing = || CheckpointError::Missing(name.to_owned());
        let wrong_type = |given: String| CheckpointError::Type { name: name.to_owned(), given };
        match self {
            Self::PyTorch(tensors) => {
                // Taken out, so that a tensor's bytes do not outlive their conversion.
                let tensor = tensors.remove(name).ok_or_else(missing)?;
                let float = match tensor.dtype() {
                    DType::F16 => Float::F16,
                    DType::BF16 => Float::BF16,
                    DType::F32 => Float::F32,
                    DType::F64 => Float::F64,
                    other => return Err(wrong_type(format!("{other:?}"))),
                };
                let bytes = tensor.read().map_err(|error| refuse("PyTorch", &error))?;
                Ok(float.decode(&bytes))
            }
            Self::SafeTensors(file) => {
                let (dtype, bytes) = file.read(name)?;
                let float = match dtype {
                    Dtype::F16 => Float::F16,
                    Dtype::BF16 => Float::BF16,
                    Dtype::F32 => Float::F32,
                    Dtype::F64 => Float::F64,
                    other => return Err(wrong_type(format!("{other:?}"))),
                };
                Ok(float.decode(&bytes))
            }
        }
    }
}

/// The float types that a checkpoint may store.
#[derive(Clone, Copy)]
enum Float {
    F16,
    BF16,
    F32,
    F64,
}

impl Float {
    /// Little-endian bytes as 32-bit floats; 64-bit ones are rounded.
    fn decode(self, bytes: &[u8]) -> Vec<f32> {
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
