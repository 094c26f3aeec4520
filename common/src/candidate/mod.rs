//! A candidate: one scheme for every unit of a network, and what its activations and membranes are kept in.
//!
//! The one idea is that it is total: every unit has a scheme, and what is not said of activations, membranes
//! and one-dimensional parameters is float. Its id is the hash of its canonical text, which `text.rs` writes
//! and reads.

mod text;

pub use text::CandidateId;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::hash::ContentHash;
use crate::network::{EMBEDDING, Network, Unit};
use crate::scheme::{Activation, InvalidScheme, Membrane, Scheme};

/// Name of all one-dimensional parameters where names of units stand.
pub const VECTORS: &str = "vectors";

/// A total map from the units of a network to schemes, and partial ones for activations and membranes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The units in name order. Candidates that were made from each other share the list: a search has a
    /// million.
    units: Arc<[String]>,
    /// The scheme of each of them.
    schemes: Vec<Scheme>,
    /// Scheme of one-dimensional parameters, each with scales of its own.
    vectors: Scheme,
    /// Artifacts that hold the codes of units whose scheme is calibrated, by the unit's name.
    codes: BTreeMap<String, Held>,
    /// Activations that enter a linear, by the name of its matrix; float where absent.
    activations: BTreeMap<String, Activation>,
    /// The potentials of a LIF population, by its name; float where absent.
    membranes: BTreeMap<String, Membrane>,
}

/// Codes of a unit that an artifact holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Held {
    artifact: ContentHash,
    /// Bytes that they take when they are entropy-coded, where neither their scheme nor a table of the experiment says so.
    bytes: Option<u64>,
}

/// Difference of one candidate from another. To apply it takes no search by name, which a grid of a million
/// candidates is glad of.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Schemes by the unit's place in name order.
    schemes: Vec<(usize, Scheme)>,
    vectors: Option<Scheme>,
    codes: Vec<(String, Option<Held>)>,
    activations: Vec<(String, Option<Activation>)>,
    membranes: Vec<(String, Option<Membrane>)>,
}

/// Reason why a candidate does not fit a network, or a text is no candidate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCandidate {
    /// The text does not start with the header line.
    #[error("not a candidate: the first line is not {:?}", text::HEADER)]
    Header,
    /// A line is of no known form, or names are out of order or repeated.
    #[error(
        "line {0} of the candidate is not `UNIT SCHEME`, `vectors all SCHEME`, `weights UNIT from HASH [BYTES]`, \
         `activation UNIT SCHEME` or `membrane POPULATION SCHEME`, in this order and in name order"
    )]
    Line(usize),
    /// A scheme does not parse.
    #[error("unit {unit}: {error}")]
    Scheme {
        /// The unit named on the line.
        unit: String,
        /// The problem with its scheme.
        #[source]
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
    /// A calibrated scheme without an artifact that holds the codes.
    #[error("unit {0}: its scheme is calibrated, and no artifact is named that holds its codes")]
    NoCodes(String),
    /// Codes of an artifact for a unit whose scheme takes none.
    #[error("weights of {0}: its scheme takes no codes from an artifact")]
    Codes(String),
    /// Widths by the frequency of tokens of a matrix whose rows are none.
    #[error(
        "unit {0}: rounding frequency is for the embedding and the head of a language model, whose rows are tokens"
    )]
    NoTokens(String),
    /// A calibrated scheme for what nothing is multiplied with.
    #[error("unit {0}: calibrated schemes are for linear layers")]
    NotLinear(String),
    /// An activation scheme for what is no linear layer.
    #[error("activation of {0}: the network has no such linear layer")]
    Activation(String),
    /// A membrane scheme for what is no LIF population.
    #[error("membrane of {0}: the network has no such LIF population")]
    Membrane(String),
}

impl Candidate {
    /// The candidate that gives every unit of `network` the scheme that `choose` returns for it.
    pub fn new(network: &Network, mut choose: impl FnMut(&Unit) -> Scheme) -> Self {
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
            codes: BTreeMap::new(),
            activations: BTreeMap::new(),
            membranes: BTreeMap::new(),
        }
    }

    /// The network as it is: every unit in float.
    pub fn float(network: &Network) -> Self {
        Self::new(network, |_| Scheme::Float)
    }

    /// Copy of the candidate with another scheme for the named units. One that is calibrated also takes
    /// [`Candidate::with_codes`].
    pub fn with<'a>(mut self, units: impl IntoIterator<Item = &'a str>, scheme: Scheme) -> Self {
        for unit in units {
            if let Some(index) = self.index(unit) {
                self.schemes[index] = scheme;
            }
            if !scheme.is_calibrated() {
                self.codes.remove(unit);
            }
        }
        self
    }

    /// Copy of the candidate whose named units take their codes from an artifact; [`VECTORS`] their values.
    pub fn with_codes<'a>(
        mut self,
        units: impl IntoIterator<Item = &'a str>,
        artifact: Option<ContentHash>,
    ) -> Self {
        put(&mut self.codes, units, artifact.map(|artifact| Held { artifact, bytes: None }));
        self
    }

    /// Copy of the candidate that says what a unit's codes take when they are entropy-coded. Only of codes that an artifact
    /// holds.
    #[must_use]
    pub fn with_coded_bytes(mut self, unit: &str, bytes: u64) -> Self {
        if let Some(held) = self.codes.get_mut(unit) {
            held.bytes = Some(bytes);
        }
        self
    }

    fn index(&self, unit: &str) -> Option<usize> {
        self.units.binary_search_by(|name| name.as_str().cmp(unit)).ok()
    }

    /// Copy of the candidate with another scheme for its one-dimensional parameters, whose values are the checkpoint's.
    pub fn with_vectors(mut self, scheme: Scheme) -> Self {
        self.vectors = scheme;
        self.codes.remove(VECTORS);
        self
    }

    /// Copy of the candidate with other activations into the named units; `None` for float.
    pub fn with_activations<'a>(
        mut self,
        units: impl IntoIterator<Item = &'a str>,
        scheme: Option<Activation>,
    ) -> Self {
        put(&mut self.activations, units, scheme);
        self
    }

    /// Copy of the candidate with other membranes of the named populations; `None` for float.
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

    /// Scheme of the one-dimensional parameters.
    pub fn vectors(&self) -> Scheme {
        self.vectors
    }

    /// Artifact that holds the codes of a unit, or the values of [`VECTORS`]; `None` if these follow from the checkpoint.
    pub fn codes_of(&self, unit: &str) -> Option<ContentHash> {
        self.codes.get(unit).map(|held| held.artifact)
    }

    /// Artifacts by the units whose codes they hold, in name order.
    pub fn codes(&self) -> impl Iterator<Item = (&str, ContentHash)> {
        self.codes.iter().map(|(unit, held)| (unit.as_str(), held.artifact))
    }

    /// Bytes of entropy-coded codes by unit, in name order, where the candidate says so.
    pub fn coded_bytes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.codes.iter().filter_map(|(unit, held)| Some((unit.as_str(), held.bytes?)))
    }

    /// Artifacts that it is made from, each once, in the order of their hashes.
    pub fn artifacts(&self) -> BTreeSet<ContentHash> {
        self.codes.values().map(|held| held.artifact).collect()
    }

    /// Scheme of what enters the linear layer of a unit; `None` for float.
    pub fn activation(&self, unit: &str) -> Option<Activation> {
        self.activations.get(unit).copied()
    }

    /// Scheme of the potentials of a LIF population; `None` for float.
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

    /// Patch that turns `base`, which has the same units, into this candidate.
    pub fn patch_from(&self, base: &Self) -> Patch {
        let pairs = self.schemes.iter().zip(&base.schemes).enumerate();
        Patch {
            schemes: pairs
                .filter(|(_, (new, old))| new != old)
                .map(|(index, (new, _))| (index, *new))
                .collect(),
            vectors: Some(self.vectors).filter(|new| *new != base.vectors),
            codes: differences(&base.codes, &self.codes),
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
        for (unit, artifact) in &patch.codes {
            put(&mut self.codes, [unit.as_str()], *artifact);
        }
        for (name, scheme) in &patch.activations {
            put(&mut self.activations, [name.as_str()], *scheme);
        }
        for (name, scheme) in &patch.membranes {
            put(&mut self.membranes, [name.as_str()], *scheme);
        }
    }

    /// Checks that the candidate covers exactly the units of `network` and misuses no scheme.
    ///
    /// # Errors
    /// The first unit that is missing, unknown, marked `sign` without being a binary embedding, calibrated without
    /// codes, or with widths by the frequency of tokens where its rows are none; the first activation or membrane of something that the network does not have.
    pub fn validate(&self, network: &Network) -> Result<(), InvalidCandidate> {
        let units = network.units();
        for unit in &units {
            let index = self.index(&unit.name);
            let index = index.ok_or_else(|| InvalidCandidate::Missing(unit.name.clone()))?;
            let lossless = unit.name == EMBEDDING && network.binary_embedding;
            if self.schemes[index] == Scheme::Sign && !lossless {
                return Err(InvalidCandidate::Sign(unit.name.clone()));
            }
            let by_frequency = self.schemes[index].is_by_frequency();
            if by_frequency && !network.has_token_rows(&unit.name) {
                return Err(InvalidCandidate::NoTokens(unit.name.clone()));
            }
            match (self.schemes[index].is_calibrated(), self.codes.contains_key(&unit.name)) {
                (true, _) if !unit.is_linear() && !by_frequency => {
                    return Err(InvalidCandidate::NotLinear(unit.name.clone()));
                }
                (true, false) => return Err(InvalidCandidate::NoCodes(unit.name.clone())),
                (false, true) => return Err(InvalidCandidate::Codes(unit.name.clone())),
                _ => {}
            }
        }
        if self.vectors.is_calibrated() {
            return Err(InvalidCandidate::NotLinear("vectors".to_owned()));
        }
        if self.vectors == Scheme::Sign {
            return Err(InvalidCandidate::Sign("vectors".to_owned()));
        }
        let known = |name: &str| units.iter().any(|unit| unit.name == name);
        if let Some(name) = self.codes.keys().find(|name| *name != VECTORS && !known(name)) {
            return Err(InvalidCandidate::Unknown(name.clone()));
        }
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

/// Entries that have to be put into `old` to make it `new`.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) const TINY: Network = Network {
        vocabulary: 96,
        channels: 48,
        hidden: 192,
        blocks: 4,
        outputs: 96,
        binary_embedding: true,
        dynamics: crate::network::Dynamics::SPIKEGPT,
    };

    pub(super) fn uniform(scheme: &str) -> Candidate {
        let scheme = scheme.parse().unwrap();
        Candidate::new(&TINY, |_| scheme)
    }

    #[test]
    fn a_patch_turns_one_candidate_into_the_other() {
        let one = uniform("int4:symmetric:channel")
            .with_activations(["head.weight"], "int8:affine:dynamic".parse().ok())
            .with_membranes(["blocks.0.lif1"], "fixed8:1".parse().ok());
        let other = uniform("int4:symmetric:channel")
            .with(["head.weight", "emb.weight"], Scheme::Float)
            .with_vectors(Scheme::Half)
            .with(["blocks.0.att.key.weight"], "int3:affine:channel:gptq".parse().unwrap())
            .with_codes(["blocks.0.att.key.weight"], Some(ContentHash::of(b"codes")))
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
    fn a_calibrated_scheme_and_the_artifact_with_its_codes_go_together() {
        let (key, gptq) = ("blocks.0.att.key.weight", "int3:affine:channel:gptq".parse().unwrap());
        let (float, artifact) = (Candidate::float(&TINY), Some(ContentHash::of(b"codes")));
        let without = float.clone().with([key], gptq);
        assert_eq!(without.validate(&TINY), Err(InvalidCandidate::NoCodes(key.to_owned())));
        let with = without.with_codes([key], artifact);
        assert_eq!((with.validate(&TINY), with.codes_of(key)), (Ok(()), artifact));
        let unasked = float.clone().with_codes([key], artifact);
        assert_eq!(unasked.validate(&TINY), Err(InvalidCandidate::Codes(key.to_owned())));
        assert_eq!(
            with.with([key], Scheme::Float),
            float,
            "whoever changes the scheme leaves no codes behind"
        );
        let embedding = float.with([EMBEDDING], gptq).with_codes([EMBEDDING], artifact);
        assert_eq!(embedding.validate(&TINY), Err(InvalidCandidate::NotLinear(EMBEDDING.to_owned())));
    }

    #[test]
    fn widths_by_the_frequency_of_tokens_are_for_matrices_whose_rows_are_tokens() {
        let (scheme, artifact) =
            ("int3:full:channel:f16:frequency".parse().unwrap(), Some(ContentHash::of(b"codes")));
        let of = |unit: &str| Candidate::float(&TINY).with([unit], scheme).with_codes([unit], artifact);
        for unit in ["emb.weight", "head.weight"] {
            assert_eq!(of(unit).validate(&TINY), Ok(()), "{unit}");
        }
        let without = Candidate::float(&TINY).with(["emb.weight"], scheme);
        assert_eq!(without.validate(&TINY), Err(InvalidCandidate::NoCodes("emb.weight".to_owned())));
        let key = "blocks.0.att.key.weight";
        assert_eq!(of(key).validate(&TINY), Err(InvalidCandidate::NoTokens(key.to_owned())));
        // Classes are no tokens; a classifier reads such all the same.
        let classifier = Network { outputs: 2, ..TINY };
        let error = of("head.weight").validate(&classifier).unwrap_err();
        assert_eq!(error, InvalidCandidate::NoTokens("head.weight".to_owned()));
        assert_eq!(of("emb.weight").validate(&classifier), Ok(()));
    }

    #[test]
    fn sign_is_refused_where_it_is_not_lossless() {
        let sign = Candidate::float(&TINY).with(["emb.weight"], Scheme::Sign);
        assert_eq!(sign.validate(&TINY), Ok(()));
        assert!(sign.validate(&Network { binary_embedding: false, ..TINY }).is_err());
        let head = Candidate::float(&TINY).with(["head.weight"], Scheme::Sign);
        assert_eq!(head.validate(&TINY), Err(InvalidCandidate::Sign("head.weight".to_owned())));
    }
}
