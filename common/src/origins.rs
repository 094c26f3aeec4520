//! Origins of files: the addresses that an experiment's checkpoint and data were fetched from, for whoever asks later.
//!
//! They decide nothing. What is measured is named by content, so an experiment has the same id wherever its files came from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// Files of an experiment, and characters of an address, that are taken.
const MOST: usize = 64;
const LONGEST: usize = 1024;

/// Addresses that files were fetched from, by content hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origins(BTreeMap<ContentHash, String>);

/// Origins that are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigins {
    /// More files than an experiment has.
    #[error("{0} files: expected at most {MOST}")]
    TooMany(usize),
    /// Words that are no address.
    #[error("{0}: expected an address of 1 to {LONGEST} characters")]
    Address(ContentHash),
}

impl Origins {
    /// Of no files.
    pub const NONE: Self = Self(BTreeMap::new());

    /// Origins of these files.
    ///
    /// # Errors
    /// [`InvalidOrigins`] names what is none.
    pub fn new(origins: impl IntoIterator<Item = (ContentHash, String)>) -> Result<Self, InvalidOrigins> {
        let origins: BTreeMap<_, _> = origins.into_iter().collect();
        if origins.len() > MOST {
            return Err(InvalidOrigins::TooMany(origins.len()));
        }
        let is_address = |text: &String| {
            (1..=LONGEST).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        match origins.iter().find(|(_, text)| !is_address(text)) {
            Some((hash, _)) => Err(InvalidOrigins::Address(*hash)),
            None => Ok(Self(origins)),
        }
    }

    /// Address of a file, if it was fetched.
    pub fn of(&self, file: &ContentHash) -> Option<&str> {
        self.0.get(file).map(String::as_str)
    }

    /// True if no file was fetched, or it is not known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The files, with their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&ContentHash, &String)> {
        self.0.iter()
    }

    /// Takes over what others know. The order leaves no trace: of two addresses of one file the smaller one stays.
    pub fn join(&mut self, other: Self) {
        for (hash, address) in other.0 {
            let known = self.0.entry(hash).or_insert_with(|| address.clone());
            if address < *known {
                *known = address;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_line_of_a_bounded_length() {
        let hash = ContentHash::of(b"model");
        let of = |address: &str| Origins::new([(hash, address.to_owned())]);
        assert_eq!(of("hf://a/b/c").unwrap().of(&hash), Some("hf://a/b/c"));
        for address in ["", "two\nlines", &"x".repeat(1025)] {
            assert_eq!(of(address), Err(InvalidOrigins::Address(hash)));
        }
        let many = (0..65u8).map(|file| (ContentHash::of(&[file]), "hf://a/b/c".to_owned()));
        assert_eq!(Origins::new(many), Err(InvalidOrigins::TooMany(65)));
    }

    #[test]
    fn the_order_of_joining_leaves_no_trace() {
        let of = |file: &[u8], address: &str| (ContentHash::of(file), address.to_owned());
        let one = Origins::new([of(b"a", "hf://x/y/a"), of(b"b", "hf://x/y/b")]).unwrap();
        let other = Origins::new([of(b"a", "hf://w/y/a"), of(b"c", "hf://x/y/c")]).unwrap();
        let joined = |mut first: Origins, second: &Origins| {
            first.join(second.clone());
            first
        };
        assert_eq!(joined(one.clone(), &other), joined(other.clone(), &one));
        assert_eq!(joined(one, &other).of(&ContentHash::of(b"a")), Some("hf://w/y/a"));
    }
}
