//! Storage: how a packed file holds the codes of a matrix. It changes no number that a network computes with, so it is in
//! no candidate and no trial's key, and no search moves it: a file takes for each matrix whichever is smaller.
//!
//! What packed codes take follows from their format alone. What entropy-coded ones take follows from the weights, so a
//! job finds it out for every unit and scheme that a search may choose, and an experiment carries the table.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::scheme::Scheme;

/// A form that codes may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Every code in the width of its format.
    Packed,
    /// Entropy-coded by rANS, with a table of frequencies per matrix.
    Rans,
}

/// Bytes of entropy-coded codes by unit and scheme, without scales and zero points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodedSizes {
    by_unit: BTreeMap<String, BTreeMap<Scheme, u64>>,
}

impl CodedSizes {
    /// No codes are entropy-coded.
    pub const NONE: &'static Self = &Self { by_unit: BTreeMap::new() };

    /// True if no codes are entropy-coded.
    pub fn is_empty(&self) -> bool {
        self.by_unit.is_empty()
    }

    /// Notes what the codes of a unit under a scheme take.
    pub fn insert(&mut self, unit: &str, scheme: Scheme, bytes: u64) {
        self.by_unit.entry(unit.to_owned()).or_default().insert(scheme, bytes);
    }

    /// Takes over what another table says.
    pub fn extend(&mut self, other: Self) {
        for (unit, sizes) in other.by_unit {
            self.by_unit.entry(unit).or_default().extend(sizes);
        }
    }

    /// The table with what a candidate says of codes that were made for it alone. Where no codes are entropy-coded, these are
    /// not either.
    pub fn of(&self, candidate: &Candidate) -> Cow<'_, Self> {
        let mut table = Cow::Borrowed(self);
        if !self.is_empty() {
            for (unit, bytes) in candidate.coded_bytes() {
                table.to_mut().insert(unit, candidate.scheme(unit), bytes);
            }
        }
        table
    }

    /// Bytes of a unit's codes under a scheme; `None` if they are not entropy-coded.
    pub fn get(&self, unit: &str, scheme: Scheme) -> Option<u64> {
        self.by_unit.get(unit)?.get(&scheme).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::experiment;
    use crate::hash::ContentHash;

    #[test]
    fn a_table_is_read_back_from_its_text() {
        let mut sizes = CodedSizes::default();
        sizes.insert("head.weight", "int4:full:channel:f16".parse().unwrap(), 40);
        let mut more = CodedSizes::default();
        more.insert("head.weight", "int3:full:channel:f16:gptq".parse().unwrap(), 30);
        sizes.extend(more);
        let text = serde_json::to_string(&sizes).unwrap();
        assert_eq!(
            text,
            "{\"head.weight\":{\"int3:full:channel:f16:gptq\":30,\"int4:full:channel:f16\":40}}"
        );
        assert_eq!(serde_json::from_str::<CodedSizes>(&text).unwrap(), sizes);
        assert_eq!(sizes.get("head.weight", Scheme::Float), None);
        assert!(CodedSizes::NONE.is_empty());
        let network = experiment().network;
        let scheme = "int4:full:channel:f16:trained".parse().unwrap();
        let trained = Candidate::float(&network).with(["head.weight"], scheme);
        let trained = trained.with_codes(["head.weight"], Some(ContentHash::of(b"codes")));
        assert_eq!(sizes.of(&trained).get("head.weight", scheme), None);
        let trained = trained.with_coded_bytes("head.weight", 7);
        assert_eq!(sizes.of(&trained).get("head.weight", scheme), Some(7));
        assert!(
            CodedSizes::NONE.of(&trained).is_empty(),
            "where none are entropy-coded, these are not either"
        );
    }
}
