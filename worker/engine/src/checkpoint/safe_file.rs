//! A safetensors file read tensor by tensor, so that loading needs little more memory than the weights.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::CheckpointError;

/// Bytes of the longest header that is read; the format's own bound.
const LARGEST_HEADER: u64 = 100_000_000;

/// An open file with its header read and checked: tensors lie one after the other up to the file's end.
pub(super) struct SafeFile<Source = File> {
    file: Source,
    /// Offset of the tensors.
    start: u64,
    metadata: Metadata,
}

impl SafeFile {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Self::of(file, size)
    }
}

impl<Source: Read + Seek> SafeFile<Source> {
    /// Reads the header of a source of so many bytes.
    pub(super) fn of(mut file: Source, size: u64) -> Result<Self, CheckpointError> {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER || length.saturating_add(8) > size {
            return Err(refuse(format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        // Reading it as metadata checks names, types, shapes and that no tensor overlaps another.
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| refuse(error.to_string()))?;
        let start = 8 + length;
        let promised = start + metadata.data_len() as u64;
        if promised != size {
            return Err(refuse(format!("the header promises {promised} bytes, the file has {size}")));
        }
        Ok(Self { file, start, metadata })
    }

    /// The names of all tensors, in the order of the file.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The header's free metadata.
    pub(super) fn entries(&self) -> impl Iterator<Item = (String, String)> {
        self.metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()))
    }

    /// An entry of the header's free metadata.
    pub(super) fn entry(&self, key: &str) -> Option<&String> {
        self.metadata.metadata().as_ref()?.get(key)
    }

    /// Type and bytes of a tensor.
    pub(super) fn read(&mut self, name: &str) -> Result<(Dtype, Vec<u8>), CheckpointError> {
        let info = self.info(name).ok_or_else(|| CheckpointError::Missing(name.to_owned()))?;
        let (dtype, (from, to)) = (info.dtype, info.data_offsets);
        let mut bytes = vec![0; to - from];
        self.file.seek(SeekFrom::Start(self.start + from as u64))?;
        self.file.read_exact(&mut bytes)?;
        Ok((dtype, bytes))
    }
}

/// The reader's words, on one line.
fn refuse(reason: String) -> CheckpointError {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    CheckpointError::Format { format: "safetensors", reason }
}
