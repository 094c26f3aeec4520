//! A candidate: one scheme for every unit of a network.
//!
//! Its canonical encoding is a text of one line per unit in name order, and its id is the hash of that
//! text. The encoding is what travels, what is stored and what is hashed: there is no second form.

use std::collections::BTreeMap;

use crate::hash::ContentHash;
use crate::network::{Network, Place};
use crate::scheme::{InvalidScheme, Scheme};

/// First line of the canonical encoding. A later version adds lines, it never changes these.
const HEADER: &str = "qslm candidate 1";

/// A total map from the units of a network to schemes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    schemes: BTreeMap<String, Scheme>,
}

/// Why a candidate does not fit a network, or a text is no candidate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCandidate {
    /// The text does not start with the header line.
    #[error("not a candidate: the first line is not {HEADER:?}")]
    Header,
    /// A line is not `unit scheme`, or units are out of order or repeated.
    #[error("line {0} of the candidate is not `unit scheme` in name order")]
    Line(usize),
    /// A scheme does not parse.
    #[error("unit {unit}: {error}")]
    Scheme {
        /// The unit named on the line.
        unit: String,
        /// What is wrong with its scheme.
        error: InvalidScheme,
    },
    /// A unit of the network has no scheme.
    #[error("unit {0} has no scheme")]
    Missing(String),
    /// A scheme for a unit that the network does not have.
    #[error("the network has no unit {0}")]
    Unknown(String),
    /// `sign` where it loses more than nothing.
    #[error("unit {0}: sign is for the embedding of a binary-embedding model only")]
    Sign(String),
}

impl Candidate {
    /// The candidate that gives every unit of `network` the scheme that `choose` returns for it.
    pub fn new(network: &Network, mut choose: impl FnMut(&crate::network::Unit) -> Scheme) -> Self {
        let schemes = network.units().into_iter().map(|unit| {
            let scheme = choose(&unit);
            (unit.name, scheme)
        });
        Self { schemes: schemes.collect() }
    }

    /// The network as it is: every unit in float.
    pub fn float(network: &Network) -> Self {
        Self::new(network, |_| Scheme::Float)
    }

    /// The same candidate with another scheme for the named units.
    pub fn with<'a>(&self, units: impl IntoIterator<Item = &'a str>, scheme: Scheme) -> Self {
        let mut changed = self.clone();
        for unit in units {
            if let Some(slot) = changed.schemes.get_mut(unit) {
                *slot = scheme;
            }
        }
        changed
    }

    /// The scheme of a unit; float for a name that is not in the network.
    pub fn scheme(&self, unit: &str) -> Scheme {
        self.schemes.get(unit).copied().unwrap_or(Scheme::Float)
    }

    /// All units with their schemes, in name order.
    pub fn schemes(&self) -> impl Iterator<Item = (&str, Scheme)> {
        self.schemes.iter().map(|(unit, scheme)| (unit.as_str(), *scheme))
    }

    /// Hash of the canonical encoding.
    pub fn id(&self) -> ContentHash {
        ContentHash::of(self.encode().as_bytes())
    }

    /// The canonical encoding: the header, then `unit scheme` per line in name order.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (unit, scheme) in &self.schemes {
            text.push_str(&format!("{unit} {scheme}\n"));
        }
        text
    }

    /// Reads a canonical encoding back. Only canonical texts are taken, so `encode` gives the same
    /// bytes again.
    ///
    /// # Errors
    /// [`InvalidCandidate`] names the line or unit.
    pub fn decode(text: &str) -> Result<Self, InvalidCandidate> {
        let body = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let mut schemes = BTreeMap::<String, Scheme>::new();
        let body = body.ok_or(InvalidCandidate::Header)?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(InvalidCandidate::Line(1 + body.split('\n').count()));
        }
        for (index, line) in body.split_terminator('\n').enumerate() {
            let refuse = InvalidCandidate::Line(index + 2);
            let Some((unit, text)) = line.split_once(' ') else { return Err(refuse) };
            let in_order = schemes.last_key_value().is_none_or(|(last, _)| last.as_str() < unit);
            if unit.is_empty() || !in_order {
                return Err(refuse);
            }
            let scheme: Scheme =
                text.parse().map_err(|error| InvalidCandidate::Scheme { unit: unit.to_owned(), error })?;
            // `int04` and `:nearest` parse, but are not what `encode` writes.
            if scheme.to_string() != text {
                return Err(refuse);
            }
            schemes.insert(unit.to_owned(), scheme);
        }
        Ok(Self { schemes })
    }

    /// Checks that the candidate covers exactly the units of `network` and misuses no scheme.
    ///
    /// # Errors
    /// The first unit that is missing, unknown, or marked `sign` without being a binary embedding.
    pub fn validate(&self, network: &Network) -> Result<(), InvalidCandidate> {
        let units = network.units();
        for unit in &units {
            let scheme = self.schemes.get(&unit.name);
            let scheme = scheme.ok_or_else(|| InvalidCandidate::Missing(unit.name.clone()))?;
            let lossless = unit.place == Place::Embedding && network.binary_embedding;
            if *scheme == Scheme::Sign && !lossless {
                return Err(InvalidCandidate::Sign(unit.name.clone()));
            }
        }
        let known = |name: &str| units.iter().any(|unit| unit.name == name);
        match self.schemes.keys().find(|name| !known(name)) {
            Some(name) => Err(InvalidCandidate::Unknown(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TINY: Network =
        Network { vocabulary: 96, channels: 48, hidden: 192, blocks: 4, outputs: 96, binary_embedding: true };

    fn uniform(scheme: &str) -> Candidate {
        let scheme = scheme.parse().unwrap();
        Candidate::new(&TINY, |_| scheme)
    }

    #[test]
    fn the_encoding_is_a_line_per_unit_and_its_hash_never_changes() {
        let text = uniform("int4:symmetric:channel").encode();
        assert!(text.starts_with("qslm candidate 1\nblocks.0.att.key.weight int4:symmetric:channel\n"));
        assert_eq!(text.lines().count(), 1 + 30);
        // A changed hash orphans every stored result: change HEADER and the store's version with it.
        assert_eq!(
            Candidate::decode("qslm candidate 1\n").unwrap().id(),
            ContentHash::of(b"qslm candidate 1\n")
        );
    }

    #[test]
    fn decoding_takes_canonical_texts_only() {
        let candidate = uniform("int3:affine:group64");
        assert_eq!(Candidate::decode(&candidate.encode()), Ok(candidate));
        let decode = |text: &str| Candidate::decode(text).unwrap_err();
        assert_eq!(decode("a f32\n"), InvalidCandidate::Header);
        assert_eq!(decode("qslm candidate 1\na f32"), InvalidCandidate::Line(2));
        assert_eq!(decode("qslm candidate 1\nb f32\na f32\n"), InvalidCandidate::Line(3));
        assert_eq!(decode("qslm candidate 1\na f32\na f32\n"), InvalidCandidate::Line(3));
        assert_eq!(decode("qslm candidate 1\na int04:affine:group64\n"), InvalidCandidate::Line(2));
        assert_eq!(decode("qslm candidate 1\na int4:affine:tensor:nearest\n"), InvalidCandidate::Line(2));
        assert!(matches!(
            decode("qslm candidate 1\na int9:affine:tensor\n"),
            InvalidCandidate::Scheme { .. }
        ));
    }

    #[test]
    fn a_candidate_covers_exactly_the_units() {
        assert_eq!(Candidate::float(&TINY).validate(&TINY), Ok(()));
        let more = Candidate::float(&Network { blocks: 5, ..TINY });
        assert!(matches!(more.validate(&TINY), Err(InvalidCandidate::Unknown(_))));
        let fewer = Candidate::float(&Network { blocks: 3, ..TINY });
        assert!(matches!(fewer.validate(&TINY), Err(InvalidCandidate::Missing(_))));
    }

    #[test]
    fn sign_is_refused_where_it_is_not_lossless() {
        let sign = Candidate::float(&TINY).with(["emb.weight"], Scheme::Sign);
        assert_eq!(sign.validate(&TINY), Ok(()));
        assert!(sign.validate(&Network { binary_embedding: false, ..TINY }).is_err());
        let head = Candidate::float(&TINY).with(["head.weight"], Scheme::Sign);
        assert_eq!(head.validate(&TINY), Err(InvalidCandidate::Sign("head.weight".to_owned())));
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(text in "(qslm candidate 1\n)?([a-c] (f32|sign|int[2-9]:affine:tensor)\n?){0,4}") {
            if let Ok(candidate) = Candidate::decode(&text) {
                prop_assert_eq!(candidate.encode(), text);
            }
        }
    }
}
