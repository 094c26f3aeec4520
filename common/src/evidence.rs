//! Evidence: the counts of a result, which engines they come from, and how they scatter.
//!
//! Counts alone decide what a candidate is worth. But last bits differ between processors and backends, so a
//! result carries the [`Fingerprint`] of whatever measured it; a trial whose shards went to several machines
//! has several.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::measurement::Counts;
use crate::spread::Spread;

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

/// Counts and what is known beside them. Two results agree if their counts do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The counts.
    pub counts: Counts,
    /// Backing of the counts.
    pub backing: Backing,
}

/// What is known of counts beside themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backing {
    /// Engines that counted.
    pub engines: Engines,
    /// Spread around the float model's losses; `None` in a result of an earlier version.
    pub spread: Option<Spread>,
}

impl Backing {
    /// Takes in what is known of the same counts elsewhere. Commutative, associative and idempotent.
    pub fn join(&mut self, other: Self) {
        self.engines.extend(other.engines);
        self.spread = match (self.spread, other.spread) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

impl From<Engines> for Backing {
    /// Backing of counts whose spread is not known.
    fn from(engines: Engines) -> Self {
        Self { engines, spread: None }
    }
}

impl From<Counts> for Evidence {
    /// Evidence of counts whose engines are not known.
    fn from(counts: Counts) -> Self {
        Self { counts, backing: Backing::default() }
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
