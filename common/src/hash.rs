//! Content hashes: the names of checkpoints, data sets, candidates and trials.
//!
//! One idea: a thing is named by the BLAKE3 hash of its bytes, or of a canonical text of it. Who
//! computes the bytes is left to the owner of the thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A BLAKE3 hash: 32 bytes, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash([u8; 32]);

/// A text that is not a [`ContentHash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a content hash: expected 64 hexadecimal digits")]
pub struct InvalidHash {
    /// Text that was given, cut to 80 characters.
    pub given: String,
}

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash with these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits: enough to tell the candidates of one experiment apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidHash { given: text.chars().take(80).collect() };
        let hash = blake3::Hash::from_hex(text).map_err(|_| invalid())?;
        // Uppercase digits parse too; one spelling only, so that a hash can be a file's name.
        let hash = Self(*hash.as_bytes());
        if hash.to_string() == text { Ok(hash) } else { Err(invalid()) }
    }
}

/// Makes a type of its own out of the hash that names one kind of thing, so that no two kinds are confused. It is read and
/// written as the hash is.
macro_rules! named_hash {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $Name($crate::hash::ContentHash);

        impl $Name {
            /// The name of what has this canonical text.
            pub fn of(text: &[u8]) -> Self {
                Self($crate::hash::ContentHash::of(text))
            }

            /// The name with these 32 bytes.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self($crate::hash::ContentHash::from_bytes(bytes))
            }

            /// The 32 bytes of the hash.
            pub fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }

            /// The first 12 hexadecimal digits.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$Name> for $crate::hash::ContentHash {
            fn from(name: $Name) -> Self {
                name.0
            }
        }

        impl From<$crate::hash::ContentHash> for $Name {
            fn from(hash: $crate::hash::ContentHash) -> Self {
                Self(hash)
            }
        }
    };
}

pub(crate) use named_hash;

impl TryFrom<String> for ContentHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text() {
        let hash = ContentHash::of(b"spike");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.short().len(), 12);
    }

    #[test]
    fn anything_but_64_lowercase_digits_is_refused() {
        let upper = ContentHash::of(b"spike").to_string().to_uppercase();
        for text in ["", "00", "../../etc/passwd", upper.as_str(), &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<ContentHash>().is_err(), "{text:?}");
        }
    }
}
