//! A candidate: one scheme for every unit of a network, and what its activations and membranes are kept in.
//!
//! Its canonical encoding is a text: a line per unit in name order, then one for the one-dimensional parameters, then
//! a line per quantized activation, then a line per quantized membrane; what has no line is float. Its id is the hash of that text. The encoding is
//! what travels, what is stored and what is hashed: there is no second form.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::str::FromStr;
use std::sync::Arc;

use crate::hash::ContentHash;
use crate::network::{Network, UnitPlace};
use crate::scheme::{Activation, InvalidScheme, Membrane, Scheme};

/// First line of the canonical encoding. A later version adds lines, it never changes these.
const HEADER: &str = "qslm candidate 1";

/// First words of the line of one-dimensional parameters: `vectors all SCHEME`.
const VECTORS: [&str; 2] = ["vectors", "all"];
/// First word of the line of a quantized activation: `activation UNIT SCHEME`.
const ACTIVATION: &str = "activation";
/// First word of the line of a quantized membrane: `membrane POPULATION SCHEME`.
const MEMBRANE: &str = "membrane";

/// A total map from the units of a network to schemes, and partial ones for activations and membranes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The units in name order. Candidates that were made from each other share the list: a search has a million.
    units: Arc<[String]>,
    /// The scheme of each of them.
    schemes: Vec<Scheme>,
    /// How one-dimensional parameters are stored, each with scales of its own.
    vectors: Scheme,
    /// What enters a linear, by the name of its matrix; float where absent.
    activations: BTreeMap<String, Activation>,
    /// The potentials of a LIF population, by its name; float where absent.
    membranes: BTreeMap<String, Membrane>,
}

/// What one candidate has otherwise than another. To apply it takes no search by name, which a grid of a million
/// candidates is glad of.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// By the unit's place in name order.
    schemes: Vec<(usize, Scheme)>,
    vectors: Option<Scheme>,
    activations: Vec<(String, Option<Activation>)>,
    membranes: Vec<(String, Option<Membrane>)>,
}

/// Why a candidate does not fit a network, or a text is no candidate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCandidate {
    /// The text does not start with the header line.
    #[error("not a candidate: the first line is not {HEADER:?}")]
    Header,
    /// A line is of no known form, or names are out of order or repeated.
    #[error(
        "line {0} of the candidate is not `UNIT SCHEME`, `vectors all SCHEME`, `activation UNIT SCHEME` or \
         `membrane POPULATION SCHEME`, in this order and in name order"
    )]
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
    /// An activation scheme for what is no linear layer.
    #[error("activation of {0}: the network has no such linear layer")]
    Activation(String),
    /// A membrane scheme for what is no LIF population.
    #[error("membrane of {0}: the network has no such LIF population")]
    Membrane(String),
}

impl Candidate {
    /// The candidate that gives every unit of `network` the scheme that `choose` returns for it.
    pub fn new(network: &Network, mut choose: impl FnMut(&crate::network::Unit) -> Scheme) -> Self {
        let mut units = network.units();
        units.sort_by(|a, b| a.name.cmp(&b.name));
        let schemes = units.iter().map(&mut choose).collect();
        Self { units: units.into_iter().map(|unit| unit.name).collect(), schemes, ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            units: Arc::default(),
            schemes: Vec::new(),
            vectors: Scheme::Float,
            activations: BTreeMap::new(),
            membranes: BTreeMap::new(),
        }
    }

    /// The network as it is: every unit in float.
    pub fn float(network: &Network) -> Self {
        Self::new(network, |_| Scheme::Float)
    }

    /// The same candidate with another scheme for the named units.
    pub fn with<'a>(mut self, units: impl IntoIterator<Item = &'a str>, scheme: Scheme) -> Self {
        for unit in units {
            if let Some(index) = self.index(unit) {
                self.schemes[index] = scheme;
            }
        }
        self
    }

    fn index(&self, unit: &str) -> Option<usize> {
        self.units.binary_search_by(|name| name.as_str().cmp(unit)).ok()
    }

    /// The same candidate with its one-dimensional parameters stored otherwise.
    pub fn with_vectors(mut self, scheme: Scheme) -> Self {
        self.vectors = scheme;
        self
    }

    /// The same candidate with other activations into the named units; `None` for float.
    pub fn with_activations<'a>(
        mut self,
        units: impl IntoIterator<Item = &'a str>,
        scheme: Option<Activation>,
    ) -> Self {
        put(&mut self.activations, units, scheme);
        self
    }

    /// The same candidate with other membranes of the named populations; `None` for float.
    pub fn with_membranes<'a>(
        mut self,
        populations: impl IntoIterator<Item = &'a str>,
        scheme: Option<Membrane>,
    ) -> Self {
        put(&mut self.membranes, populations, scheme);
        self
    }

    /// The scheme of a unit; float for a name that is not in the network.
    pub fn scheme(&self, unit: &str) -> Scheme {
        self.index(unit).map_or(Scheme::Float, |index| self.schemes[index])
    }

    /// All units with their schemes, in name order.
    pub fn schemes(&self) -> impl Iterator<Item = (&str, Scheme)> {
        self.units.iter().map(String::as_str).zip(self.schemes.iter().copied())
    }

    /// How one-dimensional parameters are stored.
    pub fn vectors(&self) -> Scheme {
        self.vectors
    }

    /// What enters the linear layer of a unit; `None` for float.
    pub fn activation(&self, unit: &str) -> Option<Activation> {
        self.activations.get(unit).copied()
    }

    /// What the potentials of a LIF population are kept in; `None` for float.
    pub fn membrane(&self, population: &str) -> Option<Membrane> {
        self.membranes.get(population).copied()
    }

    /// The quantized activations, in name order.
    pub fn activations(&self) -> impl Iterator<Item = (&str, Activation)> {
        self.activations.iter().map(|(unit, scheme)| (unit.as_str(), *scheme))
    }

    /// The quantized membranes, in name order.
    pub fn membranes(&self) -> impl Iterator<Item = (&str, Membrane)> {
        self.membranes.iter().map(|(population, scheme)| (population.as_str(), *scheme))
    }

    /// What turns `base`, which has the same units, into this candidate.
    pub fn patch_from(&self, base: &Self) -> Patch {
        let pairs = self.schemes.iter().zip(&base.schemes).enumerate();
        Patch {
            schemes: pairs
                .filter(|(_, (new, old))| new != old)
                .map(|(index, (new, _))| (index, *new))
                .collect(),
            vectors: Some(self.vectors).filter(|new| *new != base.vectors),
            activations: differences(&base.activations, &self.activations),
            membranes: differences(&base.membranes, &self.membranes),
        }
    }

    /// Takes over what a patch says.
    pub fn apply(&mut self, patch: &Patch) {
        for (index, scheme) in &patch.schemes {
            if let Some(slot) = self.schemes.get_mut(*index) {
                *slot = *scheme;
            }
        }
        self.vectors = patch.vectors.unwrap_or(self.vectors);
        for (name, scheme) in &patch.activations {
            put(&mut self.activations, [name.as_str()], *scheme);
        }
        for (name, scheme) in &patch.membranes {
            put(&mut self.membranes, [name.as_str()], *scheme);
        }
    }

    /// Hash of the canonical encoding.
    pub fn id(&self) -> ContentHash {
        ContentHash::of(self.encode().as_bytes())
    }

    /// The canonical encoding: the header, then the lines of units, activations and membranes.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(64 * (1 + self.schemes.len()));
        text.extend([HEADER, "\n"]);
        // Writing to a string does not fail.
        let line = |text: &mut String, start: &[&str], scheme: &dyn Display| {
            start.iter().for_each(|word| text.extend([word, " "]));
            let _ = writeln!(text, "{scheme}");
        };
        // Units share few schemes, and a scheme takes longer to write than to copy.
        let mut written: Vec<(Scheme, std::ops::Range<usize>)> = Vec::new();
        for (unit, scheme) in self.schemes() {
            text.extend([unit, " "]);
            if let Some((_, range)) = written.iter().find(|(known, _)| *known == scheme) {
                text.extend_from_within(range.clone());
            } else {
                let start = text.len();
                let _ = write!(text, "{scheme}");
                written.push((scheme, start..text.len()));
            }
            text.push('\n');
        }
        if self.vectors != Scheme::Float {
            line(&mut text, &VECTORS, &self.vectors);
        }
        for (unit, scheme) in &self.activations {
            line(&mut text, &[ACTIVATION, unit], scheme);
        }
        for (population, scheme) in &self.membranes {
            line(&mut text, &[MEMBRANE, population], scheme);
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
        let body = body.ok_or(InvalidCandidate::Header)?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(InvalidCandidate::Line(1 + body.split('\n').count()));
        }
        let mut candidate = Self::empty();
        let mut units: Vec<String> = Vec::new();
        for (index, line) in body.split_terminator('\n').enumerate() {
            let number = index + 2;
            let words: Vec<&str> = line.split(' ').collect();
            let (activations, membranes) = (&mut candidate.activations, &mut candidate.membranes);
            let inside = activations.is_empty() && membranes.is_empty();
            match words[..] {
                [unit, scheme] if inside && candidate.vectors == Scheme::Float => {
                    in_order(units.last(), unit, number)?;
                    candidate.schemes.push(canonical(unit, scheme, number)?);
                    units.push(unit.to_owned());
                }
                [first, second, scheme] if [first, second] == VECTORS && inside => {
                    let new = canonical(first, scheme, number)?;
                    // Once only, and only where there is something to say.
                    if new == Scheme::Float || candidate.vectors != Scheme::Float {
                        return Err(InvalidCandidate::Line(number));
                    }
                    candidate.vectors = new;
                }
                [ACTIVATION, unit, scheme] if membranes.is_empty() => {
                    append(activations, unit, scheme, number)?;
                }
                [MEMBRANE, population, scheme] => append(membranes, population, scheme, number)?,
                _ => return Err(InvalidCandidate::Line(number)),
            }
        }
        candidate.units = units.into();
        Ok(candidate)
    }

    /// Checks that the candidate covers exactly the units of `network` and misuses no scheme.
    ///
    /// # Errors
    /// The first unit that is missing, unknown, or marked `sign` without being a binary embedding; the first
    /// activation or membrane of something that the network does not have.
    pub fn validate(&self, network: &Network) -> Result<(), InvalidCandidate> {
        let units = network.units();
        for unit in &units {
            let index = self.index(&unit.name);
            let index = index.ok_or_else(|| InvalidCandidate::Missing(unit.name.clone()))?;
            let lossless = unit.place == UnitPlace::Embedding && network.binary_embedding;
            if self.schemes[index] == Scheme::Sign && !lossless {
                return Err(InvalidCandidate::Sign(unit.name.clone()));
            }
        }
        if self.vectors == Scheme::Sign {
            return Err(InvalidCandidate::Sign("vectors".to_owned()));
        }
        let known = |name: &str| units.iter().any(|unit| unit.name == name);
        if let Some(name) = self.units.iter().find(|name| !known(name)) {
            return Err(InvalidCandidate::Unknown(name.clone()));
        }
        let linear = |name: &str| units.iter().any(|unit| unit.name == name && unit.is_linear());
        if let Some(name) = self.activations.keys().find(|name| !linear(name)) {
            return Err(InvalidCandidate::Activation(name.clone()));
        }
        let populations = network.populations();
        match self.membranes.keys().find(|name| !populations.contains(name)) {
            Some(name) => Err(InvalidCandidate::Membrane(name.clone())),
            None => Ok(()),
        }
    }
}

/// What has to be put into `old` to make it `new`.
fn differences<T: Copy + PartialEq>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Vec<(String, Option<T>)> {
    let changed = new.iter().filter(|(name, scheme)| old.get(*name) != Some(scheme));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let changed = changed.map(|(name, scheme)| (name.clone(), Some(*scheme)));
    changed.chain(gone.map(|name| (name.clone(), None))).collect()
}

/// Gives every name the scheme, or takes it away.
fn put<'a, T: Copy>(
    map: &mut BTreeMap<String, T>,
    names: impl IntoIterator<Item = &'a str>,
    scheme: Option<T>,
) {
    for name in names {
        match scheme {
            Some(scheme) => drop(map.insert(name.to_owned(), scheme)),
            None => drop(map.remove(name)),
        }
    }
}

/// Adds what a line says, which has to be in name order.
fn append<T>(
    map: &mut BTreeMap<String, T>,
    name: &str,
    text: &str,
    line: usize,
) -> Result<(), InvalidCandidate>
where
    T: FromStr<Err = InvalidScheme> + ToString,
{
    in_order(map.last_key_value().map(|(last, _)| last), name, line)?;
    map.insert(name.to_owned(), canonical(name, text, line)?);
    Ok(())
}

/// Refuses a name that is none, or does not come after `last`.
fn in_order(last: Option<&String>, name: &str, line: usize) -> Result<(), InvalidCandidate> {
    let later = last.is_none_or(|last| last.as_str() < name);
    if later && !name.is_empty() { Ok(()) } else { Err(InvalidCandidate::Line(line)) }
}

/// The scheme of `name`, in the words that `encode` writes: `int04` parses, but is not canonical.
fn canonical<T>(name: &str, text: &str, line: usize) -> Result<T, InvalidCandidate>
where
    T: FromStr<Err = InvalidScheme> + ToString,
{
    let scheme: T =
        text.parse().map_err(|error| InvalidCandidate::Scheme { unit: name.to_owned(), error })?;
    if scheme.to_string() == text { Ok(scheme) } else { Err(InvalidCandidate::Line(line)) }
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
        assert_eq!(decode("qslm candidate 1\nmembrane a fixed8:1\nb f32\n"), InvalidCandidate::Line(3));
        assert_eq!(
            decode("qslm candidate 1\nactivation a int8:affine:static:1.0:2\n"),
            InvalidCandidate::Line(2)
        );
        assert!(matches!(
            decode("qslm candidate 1\na int9:affine:tensor\n"),
            InvalidCandidate::Scheme { .. }
        ));
    }

    #[test]
    fn activations_and_membranes_are_lines_of_their_own() {
        let plain = uniform("int4:symmetric:channel");
        let more = plain
            .clone()
            .with_activations(["head.weight"], "int8:affine:static:-1.5:3".parse().ok())
            .with_activations(["blocks.0.att.key.weight"], "int6:symmetric:dynamic".parse().ok())
            .with_membranes(["blocks.0.lif1"], "fixed8:1".parse().ok());
        let text = more.encode();
        let added = text.strip_prefix(&plain.encode()).unwrap();
        assert_eq!(
            added,
            "activation blocks.0.att.key.weight int6:symmetric:dynamic\n\
             activation head.weight int8:affine:static:-1.5:3\nmembrane blocks.0.lif1 fixed8:1\n"
        );
        assert_eq!(Candidate::decode(&text), Ok(more.clone()));
        assert_eq!(more.validate(&TINY), Ok(()));
        let vectors = more.clone().with_vectors("int8:affine:tensor".parse().unwrap());
        let text = vectors.encode();
        assert!(text.contains("\nvectors all int8:affine:tensor\nactivation "), "{text}");
        assert_eq!(Candidate::decode(&text), Ok(vectors));
        let back = more.with_activations(["head.weight", "blocks.0.att.key.weight"], None);
        assert_eq!(back.with_membranes(["blocks.0.lif1"], None), plain);
    }

    #[test]
    fn a_patch_turns_one_candidate_into_the_other() {
        let one = uniform("int4:symmetric:channel")
            .with_activations(["head.weight"], "int8:affine:dynamic".parse().ok())
            .with_membranes(["blocks.0.lif1"], "fixed8:1".parse().ok());
        let other = uniform("int4:symmetric:channel")
            .with(["head.weight", "emb.weight"], Scheme::Float)
            .with_vectors(Scheme::Half)
            .with_activations(["blocks.1.att.key.weight"], "int8:affine:dynamic".parse().ok())
            .with_membranes(["blocks.0.lif1"], "fixed4:1".parse().ok());
        for (from, to) in [(&one, &other), (&other, &one), (&one, &one)] {
            let mut patched = from.clone();
            patched.apply(&to.patch_from(from));
            assert_eq!(patched, *to);
        }
    }

    #[test]
    fn an_activation_or_membrane_that_is_not_there_is_refused() {
        let float = Candidate::float(&TINY);
        let embedding = float.clone().with_activations(["emb.weight"], "int8:affine:dynamic".parse().ok());
        assert_eq!(embedding.validate(&TINY), Err(InvalidCandidate::Activation("emb.weight".to_owned())));
        let membrane = float.with_membranes(["blocks.4.lif1"], "fixed8:1".parse().ok());
        assert_eq!(membrane.validate(&TINY), Err(InvalidCandidate::Membrane("blocks.4.lif1".to_owned())));
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
        fn whatever_decodes_encodes_to_the_same_bytes(text in "(qslm candidate 1\n)?([a-c] (f32|sign|int[2-9]:affine:tensor)\n?){0,4}(vectors all (f16|f32|int8:affine:tensor)\n){0,2}(activation [ab] int[2-9]:affine:(dynamic|static:-?[012]:1)\n){0,2}(membrane [ab] fixed8:[0-9]\n){0,2}") {
            if let Ok(candidate) = Candidate::decode(&text) {
                prop_assert_eq!(candidate.encode(), text);
            }
        }
    }
}
