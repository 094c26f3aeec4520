//! Evidence: the counts of a result, and which engines they come from.
//!
//! Counts alone decide what a candidate is worth. But last bits differ between processors and backends, so a
//! result carries the [`Fingerprint`] of whatever measured it; a trial whose shards went to several machines
//! has several.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::measurement::Counts;

/// The longest description of an engine, in characters.
pub const LONGEST_ENGINE: usize = 200;

/// The name of an engine on a kind of machine: the first eight bytes of the hash of its description, such as
/// `qslm 0.1.0, engine 3, native, x86_64 avx2 fma`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The name of the engine that is described so.
    pub fn of(description: &str) -> Self {
        let hash = ContentHash::of(description.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The engines that took part in a result; none where that is not known.
pub type Engines = BTreeSet<Fingerprint>;

/// Counts and where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The counts.
    pub counts: Counts,
    /// Engines that counted.
    pub engines: Engines,
}

impl From<Counts> for Evidence {
    /// Evidence of counts whose engines are not known.
    fn from(counts: Counts) -> Self {
        Self { counts, engines: Engines::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_beginning_of_a_hash() {
        let text = "qslm 0.1.0, engine 3, native, x86_64 avx2";
        let name = Fingerprint::of(text);
        assert_ne!(name, Fingerprint::of("qslm 0.1.0, engine 3, native, x86_64"));
        let bytes: String = name.0.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(ContentHash::of(text.as_bytes()).to_string().starts_with(&bytes));
    }
}
