//! A checkpoint that stays on disk: a tensor is read whenever a matrix is made of it, and held against what it was.
//!
//! A worker keeps matrices in the form that products take. The floats that they are made of would be as large again, and are
//! wanted for a moment whenever a candidate has a scheme that no other had; the system keeps the file's pages as long as there
//! is room for them. A packed file is small, and is kept as it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use qslm_common::hash::ContentHash;
use qslm_common::network::{Member, Network};

use super::file::{self, TensorFile};
use super::{Checkpoint, CheckpointError, check_finite, float_network};
use crate::quant::Codes;

/// An open checkpoint, all of which was read and checked once.
pub struct Stored {
    network: Network,
    weights: Weights,
}

/// Where the values are.
enum Weights {
    /// In the file, by the network's names.
    OnDisk { file: Mutex<TensorFile>, tensors: BTreeMap<String, Place> },
    /// Those of a packed file.
    InMemory(Checkpoint),
}

/// A tensor in the file.
struct Place {
    in_file: String,
    /// Hash of its bytes when the file was opened.
    hash: ContentHash,
}

/// Error: a tensor that was there when the file was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tensor {name}, which was read before: {reason}")]
pub struct Unreadable {
    name: String,
    reason: String,
}

impl Stored {
    /// Opens a checkpoint, float or packed, and reads all of it once.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn open(path: &Path, member: impl Into<Member>) -> Result<Self, CheckpointError> {
        let member = member.into();
        let mut file = file::open(path)?;
        if file.packed()?.is_some() {
            let checkpoint = Checkpoint::load(path, member)?;
            return Ok(Self { network: *checkpoint.network(), weights: Weights::InMemory(checkpoint) });
        }
        let (naming, network) = float_network(&file, member)?;
        let mut tensors = BTreeMap::new();
        for name in naming.names() {
            let in_file = naming.in_file(name).to_owned();
            let (float, bytes) = file.bytes(&in_file)?;
            check_finite(&in_file, &float.decode(&bytes))?;
            tensors.insert(name.clone(), Place { in_file, hash: ContentHash::of(&bytes) });
        }
        Ok(Self { network, weights: Weights::OnDisk { file: Mutex::new(file), tensors } })
    }

    /// The shape of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The codes of a matrix, if the file stores such.
    pub(crate) fn codes(&self, name: &str) -> Option<&Codes> {
        match &self.weights {
            Weights::OnDisk { .. } => None,
            Weights::InMemory(checkpoint) => checkpoint.codes(name),
        }
    }

    /// The row-major values of a tensor by its checkpoint name.
    ///
    /// # Errors
    /// [`Unreadable`] if they are not what they were.
    ///
    /// # Panics
    /// If the network has no tensor of that name: opening made sure of all that it has.
    pub(crate) fn values(&self, name: &str) -> Result<Cow<'_, [f32]>, Unreadable> {
        let (file, tensors) = match &self.weights {
            Weights::OnDisk { file, tensors } => (file, tensors),
            Weights::InMemory(checkpoint) => return Ok(checkpoint.tensor(name)),
        };
        let Place { in_file, hash } =
            tensors.get(name).unwrap_or_else(|| panic!("the network has no tensor {name}"));
        let unreadable = |reason: String| Unreadable { name: in_file.clone(), reason };
        // Every read begins with its own place in the file.
        let read = file.lock().unwrap_or_else(PoisonError::into_inner).bytes(in_file);
        let (float, bytes) = read.map_err(|error| unreadable(error.to_string()))?;
        if ContentHash::of(&bytes) != *hash {
            return Err(unreadable("it has other bytes now".to_owned()));
        }
        Ok(float.decode(&bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    const MODEL: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/models/wikitext2-xs.safetensors");

    #[test]
    fn what_is_read_again_is_what_a_whole_checkpoint_holds() {
        let stored = Stored::open(Path::new(MODEL), true).unwrap();
        let whole = Checkpoint::load(Path::new(MODEL), true).unwrap();
        assert_eq!(stored.network(), whole.network());
        for name in ["emb.weight", "blocks.1.ffn.value.weight", "ln_out.bias", "emb.weight"] {
            assert_eq!(stored.values(name).unwrap(), whole.tensor(name), "{name}");
        }
    }

    #[test]
    fn a_tensor_that_is_damaged_later_is_refused_by_name() {
        let mut copy = tempfile::NamedTempFile::new().unwrap();
        copy.write_all(&std::fs::read(MODEL).unwrap()).unwrap();
        let stored = Stored::open(copy.path(), true).unwrap();
        let length = copy.as_file().metadata().unwrap().len();
        copy.seek(SeekFrom::Start(length - 2)).unwrap();
        copy.write_all(&[0x12, 0x34]).unwrap();
        let mut file = file::open(copy.path()).unwrap();
        let all = stored.network().units().into_iter().map(|unit| unit.name);
        let all = all.chain(stored.network().vectors().into_iter().map(|vector| vector.name));
        let refused: Vec<String> = all.filter(|name| stored.values(name).is_err()).collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        let error = stored.values(&refused[0]).unwrap_err().to_string();
        assert_eq!(error, format!("tensor {}, which was read before: it has other bytes now", refused[0]));
        assert!(file.bytes(&refused[0]).is_ok(), "the file as such is a checkpoint");
        // Somebody else's file under the name is another one.
        std::fs::remove_file(copy.path()).unwrap();
        assert!(stored.values("head.weight").is_ok() || refused[0] == "head.weight");
    }
}
