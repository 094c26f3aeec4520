//! Content hashes of files and other readers: the one way from bytes on a disk to a [`ContentHash`].

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use qslm_common::hash::ContentHash;

/// The content hash of a file.
///
/// # Errors
/// If it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<ContentHash> {
    hash_reader(File::open(path)?)
}

/// The content hash of everything that a reader gives.
///
/// # Errors
/// If it cannot be read.
pub fn hash_reader(reader: impl Read) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader)?;
    Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_hash_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(hash_file(&path).unwrap(), ContentHash::of(&bytes));
        assert_eq!(hash_file(&folder.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
