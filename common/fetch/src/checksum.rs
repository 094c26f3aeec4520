//! Checksums: what an address, the Hub or git says that a file's bytes hash to.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use ring::digest;

/// Hash that a file is held against, in lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256, which the Hub shows of large files.
    Sha256(String),
    /// BLAKE3, by which experiments name files.
    Blake3(String),
    /// SHA-1 of git's blob, which the Hub gives of small files.
    GitBlob(String),
}

/// A difference between a file and what was promised.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Other bytes.
    #[error("it hashes to {actual}, expected {wanted}")]
    Hash {
        /// Checksum that was promised.
        wanted: Checksum,
        /// That of the file.
        actual: Checksum,
    },
    /// More or fewer bytes.
    #[error("it has {actual} bytes, expected {wanted}")]
    Length {
        /// Bytes that were promised.
        wanted: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Io(io::Error),
}

impl Checksum {
    /// The checksum that an entity tag of the Hub is; `None` if it is none that is known.
    pub(crate) fn of_tag(tag: &str) -> Option<Self> {
        let tag = tag.to_ascii_lowercase();
        match (tag.bytes().all(|byte| byte.is_ascii_hexdigit()), tag.len()) {
            (true, 64) => Some(Self::Sha256(tag)),
            (true, 40) => Some(Self::GitBlob(tag)),
            _ => None,
        }
    }

    /// Name of the kind, and the digits.
    pub(crate) fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Sha256(digits) => ("sha256", digits),
            Self::Blake3(digits) => ("blake3", digits),
            Self::GitBlob(digits) => ("git", digits),
        }
    }

    /// The same kind of checksum of what a reader of so many bytes gives.
    fn of(&self, length: u64, reader: impl Read) -> io::Result<Self> {
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(digest_of(&digest::SHA256, b"", reader)?),
            Self::GitBlob(_) => {
                let header = format!("blob {length}\0");
                Self::GitBlob(digest_of(&digest::SHA1_FOR_LEGACY_USE_ONLY, header.as_bytes(), reader)?)
            }
            Self::Blake3(_) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(reader)?;
                Self::Blake3(hasher.finalize().to_hex().to_string())
            }
        })
    }
}

fn digest_of(
    algorithm: &'static digest::Algorithm,
    first: &[u8],
    mut reader: impl Read,
) -> io::Result<String> {
    let mut context = digest::Context::new(algorithm);
    context.update(first);
    let mut piece = vec![0; 1 << 16];
    loop {
        match reader.read(&mut piece)? {
            0 => break,
            read => context.update(&piece[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Holds a file against a checksum.
pub(crate) fn check_file(path: &Path, wanted: &Checksum) -> Result<(), CheckError> {
    let file = File::open(path).map_err(CheckError::Io)?;
    let length = file.metadata().map_err(CheckError::Io)?.len();
    let actual = wanted.of(length, file).map_err(CheckError::Io)?;
    if actual == *wanted {
        return Ok(());
    }
    Err(CheckError::Hash { wanted: wanted.clone(), actual })
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, digits) = self.parts();
        write!(f, "{kind} {digits}")
    }
}

impl FromStr for Checksum {
    type Err = String;

    /// `sha256=DIGITS` or `blake3=DIGITS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected #sha256=DIGITS or #blake3=DIGITS".to_owned();
        let (kind, digits) = text.split_once('=').ok_or_else(expected)?;
        let digits = digits.to_ascii_lowercase();
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("{kind} = {digits:?}: expected 64 hexadecimal digits"));
        }
        match kind {
            "sha256" => Ok(Self::Sha256(digits)),
            "blake3" => Ok(Self::Blake3(digits)),
            _ => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_what_the_usual_tools_print() {
        // printf hello | sha256sum, b3sum, git hash-object --stdin
        let all = [
            Checksum::Sha256("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned()),
            Checksum::Blake3("ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f".to_owned()),
            Checksum::GitBlob("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".to_owned()),
        ];
        for wanted in all {
            assert_eq!(wanted.of(5, &b"hello"[..]).unwrap(), wanted);
            assert_ne!(wanted.of(5, &b"hellO"[..]).unwrap(), wanted);
        }
    }

    #[test]
    fn a_checksum_is_a_kind_and_its_digits() {
        let digits = "AB".repeat(32);
        assert_eq!(format!("sha256={digits}").parse(), Ok(Checksum::Sha256("ab".repeat(32))));
        for (text, words) in [
            ("", "expected #sha256=DIGITS"),
            ("md5=00", "expected 64 hexadecimal digits"),
            ("sha256=00", "sha256 = \"00\": expected 64"),
            (&format!("sha512={digits}"), "expected #sha256=DIGITS or #blake3=DIGITS"),
        ] {
            let error = text.parse::<Checksum>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(Checksum::of_tag("tag"), None);
    }
}
