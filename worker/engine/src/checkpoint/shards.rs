//! A checkpoint in several safetensors files, with an index that says which tensor is in which:
//! `model.safetensors.index.json`.
//!
//! It is read where it lies. To be hashed and sent it becomes one file, which is the same bytes whenever and
//! wherever it is made: tensors in the order of their names, and nothing else but the shards' metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::safe_file::SafeFile;

/// Bytes of the largest index that is read.
const LARGEST_INDEX: u64 = 100_000_000;

/// The shards of an index, opened.
pub(super) struct Shards {
    files: Vec<SafeFile>,
    /// Indices of the files that have the tensors, by name.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    /// Files that have the tensors, by name.
    weight_map: BTreeMap<String, String>,
}

/// An entry of a header, its parts in the order in which they are written.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(BTreeMap<String, String>),
    Tensor { dtype: Dtype, shape: &'a [usize], data_offsets: (usize, usize) },
}

/// True if a file that begins so may be an index: a text in braces.
pub(super) fn may_be_index(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

fn refuse(reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Format { format: "sharded", reason: reason.into() }
}

impl Shards {
    /// Opens every shard that the index names. They lie beside it.
    pub(super) fn open(index: &Path) -> Result<Self, CheckpointError> {
        let size = std::fs::metadata(index)?.len();
        if size > LARGEST_INDEX {
            return Err(refuse(format!("an index of {size} bytes, expected at most {LARGEST_INDEX}")));
        }
        let text = std::fs::read(index)?;
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        let parsed: Index = serde_json::from_slice(text).map_err(|error| {
            let words =
                "it is a JSON text, but no index that says in its weight_map which tensor is in which file";
            refuse(format!("{words}: {error}"))
        })?;
        let names: BTreeSet<&String> = parsed.weight_map.values().collect();
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut files = Vec::new();
        for name in &names {
            // A file of the same folder, whatever the index says.
            if Path::new(name).file_name().is_none_or(|only| only != name.as_str()) {
                return Err(refuse(format!("the index names {name:?}, which is no file beside it")));
            }
            let path = folder.join(name);
            if !path.is_file() {
                return Err(CheckpointError::NoShard((*name).clone()));
            }
            files.push(SafeFile::open(&path).map_err(|error| refuse(format!("{name}: {error}")))?);
        }
        let mut places = BTreeMap::new();
        for (tensor, file) in &parsed.weight_map {
            let at = names.iter().position(|name| *name == file).unwrap_or_default();
            if files[at].info(tensor).is_none() {
                return Err(refuse(format!("{file} has no tensor {tensor}, which the index says is there")));
            }
            places.insert(tensor.clone(), at);
        }
        Ok(Self { files, places })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.places.keys()
    }

    /// The shard that has a tensor.
    pub(super) fn shard(&mut self, tensor: &str) -> Option<&mut SafeFile> {
        self.files.get_mut(*self.places.get(tensor)?)
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, tensor: &str) -> Option<&TensorInfo> {
        self.files.get(*self.places.get(tensor)?)?.info(tensor)
    }

    /// The metadata of all shards; of two entries of one name the first shard's.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        self.files.iter().rev().flat_map(SafeFile::entries).collect()
    }

    /// Writes all of it as one file.
    pub(super) fn join(&mut self, to: &mut dyn Write) -> Result<(), CheckpointError> {
        let metadata = self.metadata();
        let mut header = BTreeMap::new();
        if !metadata.is_empty() {
            header.insert("__metadata__", Entry::Metadata(metadata));
        }
        let mut end = 0;
        for name in self.places.keys() {
            let Some(TensorInfo { dtype, shape, data_offsets: (from, to) }) = self.info(name) else {
                continue;
            };
            let start = end;
            end += to - from;
            header.insert(name, Entry::Tensor { dtype: *dtype, shape, data_offsets: (start, end) });
        }
        let mut header = serde_json::to_vec(&header).map_err(|error| refuse(error.to_string()))?;
        // Tensors begin where eight bytes begin, as the format asks for.
        header.resize(header.len().next_multiple_of(8), b' ');
        to.write_all(&(header.len() as u64).to_le_bytes())?;
        to.write_all(&header)?;
        let Self { files, places } = self;
        for (name, at) in places {
            to.write_all(&files[*at].read(name)?.1)?;
        }
        to.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::hash::ContentHash;
    use safetensors::tensor::TensorView;
    use serde_json::Value;

    use super::*;

    fn write(path: &Path, tensors: &[(&str, f32)]) {
        let bytes: Vec<[u8; 4]> = tensors.iter().map(|(_, value)| value.to_le_bytes()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, _), bytes)| (*name, TensorView::new(Dtype::F32, vec![1], bytes).unwrap()));
        safetensors::serialize_to_file(views, Some([("format".to_owned(), "pt".to_owned())].into()), path)
            .unwrap();
    }

    fn index(folder: &Path, map: Value) -> std::path::PathBuf {
        let path = folder.join("model.safetensors.index.json");
        std::fs::write(&path, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
        path
    }

    #[test]
    fn shards_become_the_same_bytes_every_time() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("1.safetensors"), &[("c", 3.0), ("a", 1.0)]);
        write(&folder.path().join("2.safetensors"), &[("b", 2.0), ("not in the index", 9.0)]);
        let map = serde_json::json!({ "c": "1.safetensors", "b": "2.safetensors", "a": "1.safetensors" });
        let mut joined = Vec::new();
        Shards::open(&index(folder.path(), map)).unwrap().join(&mut joined).unwrap();
        let file = safetensors::SafeTensors::deserialize(&joined).unwrap();
        for (name, value) in [("a", 1.0f32), ("b", 2.0), ("c", 3.0)] {
            assert_eq!(file.tensor(name).unwrap().data(), value.to_le_bytes());
        }
        assert_eq!(file.len(), 3);
        // Experiments are named by it: it stays, whatever libraries do.
        let golden = "09cfb20464e4012eaab7343c57b66d484cafb1e35c3d4377f3895b19c1176841";
        assert_eq!(ContentHash::of(&joined).to_string(), golden);
    }

    #[test]
    fn a_length_that_looks_like_a_brace_makes_no_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for length in [0x7bu64, 0x7b20] {
            let header = format!("{:width$}", "{}", width = length as usize);
            std::fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
            assert!(!crate::checkpoint::Checkpoint::is_sharded(&path).unwrap());
        }
        std::fs::write(&path, "\u{feff} {\"weight_map\": {}}").unwrap();
        assert!(crate::checkpoint::Checkpoint::is_sharded(&path).unwrap());
    }

    #[test]
    fn an_index_that_does_not_fit_its_shards_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("1.safetensors"), &[("a", 1.0)]);
        let refused = |map: Value| Shards::open(&index(folder.path(), map)).err().unwrap().to_string();
        let words = refused(serde_json::json!({ "a": "2.safetensors" }));
        assert_eq!(words, "shard 2.safetensors, which the index names, is not there");
        assert!(
            refused(serde_json::json!({ "b": "1.safetensors" })).contains("1.safetensors has no tensor b")
        );
        for elsewhere in ["../1.safetensors", "/etc/passwd", "..", "x/1.safetensors", ""] {
            let words = refused(serde_json::json!({ "a": elsewhere }));
            assert!(words.contains("which is no file beside it"), "{words}");
        }
        assert!(refused(serde_json::json!(["a"])).contains("no index"));
    }
}
