//! Search space: the schemes that a unit may take, and the units that move together at each tier.
//!
//! Every unit has a ladder of schemes, its levels, from the widest to the narrowest: widths, at each of them one
//! quantizer or several, or the schemes as they are listed. So have, where they are
//! searched, the activations that enter each linear and the membranes of each LIF population. A candidate is
//! a level (or float) for each of them. Strategies move levels; they never invent schemes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::hash::ContentHash;
use crate::network::{EMBEDDING, MATRICES, Network, Unit};
use crate::scheme::{
    Activation, ActivationRange, Calibration, Granularity, InvalidScheme, Membrane, Range, Rounding, Scales,
    Scheme, Symmetry, Width,
};
use crate::storage::{CodedSizes, Storage};

mod groups;
mod ladder;
mod rules;

use groups::groups;
pub use groups::{Group, Tier};
use ladder::check_ladder;
pub use rules::Rule;

fn is_usual(scales: &Scales) -> bool {
    *scales == Scales::default()
}

/// The schemes that a search may give to units, and how a file stores them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Widths from the widest to the narrowest, each once; 16 and 32 are floats. None if [`Space::schemes`] are listed.
    pub bits: Vec<Width>,
    /// The symmetry of every integer scheme.
    pub symmetry: Symmetry,
    /// The granularity of every integer scheme.
    pub granularity: Granularity,
    /// The rounding of every integer scheme, or the first of several.
    pub rounding: Rounding,
    /// Further roundings: each width has a level with [`Space::rounding`], then one with each of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_roundings: Vec<Rounding>,
    /// The range of every integer scheme.
    pub range: Range,
    /// The range of integer schemes of fewer than four bits, where it is another: there the outermost weights of a row
    /// would take most of the few levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow_range: Option<Range>,
    /// The scales of every integer scheme.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub scales: Scales,
    /// Schemes of the ladder from the largest to the smallest, in place of widths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemes: Vec<Scheme>,
    /// Units with a ladder of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Matrices of a block, such as `att.key`, that move together at the matrix tier: lists of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ties: Vec<Vec<String>>,
    /// What files may store codes as; packed ones only if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<Storage>,
    /// Bytes of entropy-coded codes, by unit and scheme.
    #[serde(default, skip_serializing_if = "CodedSizes::is_empty")]
    pub coded: CodedSizes,
    /// Artifacts that hold calibrated codes, by unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ContentHash>,
    /// Treatment of the embedding.
    pub embedding: Embedding,
    /// Ladder of one-dimensional parameters; floats only if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<VectorSpace>,
    /// Ladder of what enters linear layers; floats only if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationSpace>,
    /// Ladder of membranes; floats only if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membranes: Option<MembraneSpace>,
}

/// The ladder of one-dimensional parameters: layer norms, mixing and decay. All of them move together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorSpace {
    /// Widths from the widest to the narrowest, each once; one scale per vector.
    pub bits: Vec<Width>,
}

/// The ladder of activations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationSpace {
    /// Widths from the widest to the narrowest, each once; 32 is float, 16 is not offered.
    pub bits: Vec<Width>,
    /// The symmetry of every activation scheme.
    pub symmetry: Symmetry,
    /// Ranges for all tokens, seen on calibration data. Absent: each token's own range.
    pub calibration: Option<Calibration>,
}

/// The ladder of membranes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembraneSpace {
    /// Widths in bits from the widest to the narrowest, each once: 2 to 16, or 32 for float.
    pub bits: Vec<u8>,
    /// Bits before the point; see [`Membrane`].
    pub integer_bits: u8,
}

/// Axis of the space: one of the things that can be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// The weights of a unit.
    Weights,
    /// The one-dimensional parameters.
    Vectors,
    /// The activations that enter the linear layer of a unit.
    Activations,
    /// The potentials of a LIF population.
    Membranes,
}

/// Treatment of the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embedding {
    /// One lossless bit per weight; for models with a binary embedding only.
    Sign,
    /// The same ladder as every other unit, as published work does.
    Quantize,
    /// As [`Embedding::Quantize`], where a scheme is by the frequency of tokens with that of its rows, too. Apart from it,
    /// because what spaces with such schemes meant before is on record.
    Frequency,
    /// Left in float.
    Float,
}

impl Embedding {
    /// True if the embedding moves along a ladder.
    pub fn moves(self) -> bool {
        matches!(self, Self::Quantize | Self::Frequency)
    }
}

/// A space that cannot be searched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpace {
    /// No bit-width.
    #[error("{0}bits = []: expected at least one width")]
    NoBits(&'static str),
    /// Widths out of order or repeated.
    #[error("{0}bits must fall from the widest to the narrowest, each once")]
    Order(&'static str),
    /// Widths beside schemes, either of which is the ladder.
    #[error("schemes: they are the ladder, so widths are left out")]
    TwoLadders,
    /// A scheme of the ladder that takes more bytes than the one before it.
    #[error("schemes: {0} takes more bytes than the one before it: expected the largest first")]
    Grows(Scheme),
    /// A scheme listed twice, or one that is for the embedding alone.
    #[error("schemes: {0}: expected float or integer schemes, each once")]
    Listed(Scheme),
    /// A scheme of the ladder that there is not.
    #[error("{scheme}: {error}")]
    Scheme {
        /// The scheme.
        scheme: Scheme,
        /// What is wrong with it.
        error: InvalidScheme,
    },
    /// Roundings of which one is there twice.
    #[error("quantizer: {0} is there twice")]
    TwiceRounded(Rounding),
    /// A step in place of a width, and storage that takes a byte for each code.
    #[error("schemes: {0}: codes without a width are for storage with \"rans\"")]
    Uncoded(Scheme),
    /// Codes that a trainer leaves, in a ladder.
    #[error("schemes: {0}: codes are trained of candidates that a search found, by [recovery]")]
    Trained(Scheme),
    /// Widths by the frequency of tokens, and a head whose rows are classes.
    #[error("schemes: {0}: rows of this network's head are no tokens; frequency is for language models")]
    NoTokens(Scheme),
    /// An embedding by the frequency of tokens, without a scheme for it.
    #[error(
        "embedding = \"frequency\": none of its schemes is by frequency, such as int3:full:channel:frequency"
    )]
    NoFrequency,
    /// Entropy-coded storage, and a unit under a scheme of which nobody knows what it takes then.
    #[error("coded: nobody knows what the entropy-coded codes of {0} take under {1}")]
    NoSize(String, Scheme),
    /// A calibrated scheme, and a unit without codes.
    #[error("codes: no artifact holds the calibrated codes of {0}")]
    NoCodes(String),
    /// A rule for nothing.
    #[error("rule.units = {0:?}: matches no unit; they are called emb, blocks.0.att.key and so on, and head")]
    NoUnit(String),
    /// A rule without a scheme.
    #[error("rule of {0:?}: expected at least one scheme")]
    EmptyRule(String),
    /// A matrix that there is not, or one that is tied twice.
    #[error("tie: {0:?}: expected {names}, each once", names = matrix_names())]
    Tied(String),
    /// Matrices that cannot be tied.
    #[error("tie = [{0}]: expected two matrices or more, of one half of a block, att or ffn")]
    LooseTie(String),
    /// A width that activations do not have.
    #[error("activations.bits: activations have 2 to 8 bits, or 32")]
    HalfActivations,
    /// A width that membranes do not have, or too many bits before the point.
    #[error(
        "membranes: {bits} bits, {integer_bits} before the point: expected 2 to 16 bits or 32, and fewer before the point"
    )]
    Membrane {
        /// The width.
        bits: u8,
        /// Bits of it before the point.
        integer_bits: u8,
    },
    /// Codes for weights alone.
    #[error("activations.symmetry = \"{0}\": it is for weights; activations are symmetric or affine")]
    WeightsOnly(Symmetry),
    /// A linear without a calibrated range.
    #[error("activations.calibration: no range for {0}")]
    Uncalibrated(String),
    /// `sign` on a model that feeds real-valued embeddings.
    #[error("embedding = \"sign\": only the embedding of a binary-embedding model can be kept in one bit")]
    Sign,
}

impl InvalidSpace {
    /// Key path within `[space]`.
    pub fn key(&self) -> String {
        match self {
            Self::NoBits(of) | Self::Order(of) => format!("{of}bits"),
            Self::TwoLadders | Self::Grows(_) | Self::Listed(_) | Self::Uncoded(_) => "schemes".to_owned(),
            Self::Trained(_) | Self::NoTokens(_) | Self::TwiceRounded(_) | Self::Scheme { .. } => {
                "quantizer".to_owned()
            }
            Self::NoUnit(_) | Self::EmptyRule(_) => "rule".to_owned(),
            Self::Tied(_) | Self::LooseTie(_) => "tie".to_owned(),
            Self::NoCodes(_) => "codes".to_owned(),
            Self::NoSize(..) => "coded".to_owned(),
            Self::HalfActivations => "activations.bits".to_owned(),
            Self::WeightsOnly(_) => "activations.symmetry".to_owned(),
            Self::Membrane { .. } => "membranes.bits".to_owned(),
            Self::Uncalibrated(_) => "activations.calibration".to_owned(),
            Self::Sign | Self::NoFrequency => "embedding".to_owned(),
        }
    }
}

impl Space {
    /// The space of widths with what is usual everywhere else.
    pub fn of(bits: Vec<Width>, embedding: Embedding) -> Self {
        Self {
            bits,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Channel,
            rounding: Rounding::default(),
            more_roundings: Vec::new(),
            range: Range::default(),
            narrow_range: None,
            scales: Scales::default(),
            schemes: Vec::new(),
            rules: Vec::new(),
            ties: Vec::new(),
            storage: Vec::new(),
            coded: CodedSizes::default(),
            codes: BTreeMap::new(),
            embedding,
            vectors: None,
            activations: None,
            membranes: None,
        }
    }

    /// Checks the space against the network.
    ///
    /// # Errors
    /// [`InvalidSpace`] says what is wrong.
    pub fn validate(&self, network: &Network) -> Result<(), InvalidSpace> {
        self.validate_ladder(network)?;
        self.validate_rules(network)?;
        if self.embedding == Embedding::Sign && !network.binary_embedding {
            return Err(InvalidSpace::Sign);
        }
        if let Some(vectors) = &self.vectors {
            check_ladder("vectors.", &vectors.bits)?;
        }
        if let Some(activations) = &self.activations {
            check_ladder("activations.", &activations.bits)?;
            if activations.bits.contains(&Width::Half) {
                return Err(InvalidSpace::HalfActivations);
            }
            if !activations.symmetry.is_general() {
                return Err(InvalidSpace::WeightsOnly(activations.symmetry));
            }
            let ranges = activations.calibration.as_ref().map(|calibration| &calibration.ranges);
            let missing =
                |unit: &Unit| unit.is_linear() && ranges.is_some_and(|r| !r.contains_key(&unit.name));
            if let Some(unit) = network.units().into_iter().find(missing) {
                return Err(InvalidSpace::Uncalibrated(unit.name));
            }
        }
        if let Some(MembraneSpace { bits, integer_bits }) = &self.membranes {
            check_ladder("membranes.", bits)?;
            let wrong = |bits: &&u8| **bits != 32 && Membrane::new(**bits, *integer_bits).is_err();
            if let Some(bits) = bits.iter().find(wrong) {
                return Err(InvalidSpace::Membrane { bits: *bits, integer_bits: *integer_bits });
            }
        }
        Ok(())
    }

    /// Axes that this space lets move.
    pub fn axes(&self) -> Vec<Axis> {
        let vectors = self.vectors.as_ref().map(|_| Axis::Vectors);
        let activations = self.activations.as_ref().map(|_| Axis::Activations);
        let membranes = self.membranes.as_ref().map(|_| Axis::Membranes);
        [Some(Axis::Weights), vectors, activations, membranes].into_iter().flatten().collect()
    }

    /// Number of levels of the ladder of an axis; 0 if it does not move.
    pub fn levels(&self, axis: Axis) -> usize {
        match axis {
            Axis::Weights => self.ladder().count(),
            Axis::Vectors => self.vectors.as_ref().map_or(0, |space| space.bits.len()),
            Axis::Activations => self.activations.as_ref().map_or(0, |space| space.bits.len()),
            Axis::Membranes => self.membranes.as_ref().map_or(0, |space| space.bits.len()),
        }
    }

    /// Scheme of one-dimensional parameters at `level`, 0 being the widest.
    pub fn vector_scheme(&self, level: usize) -> Scheme {
        let width = self.vectors.as_ref().and_then(|space| space.bits.get(level)).copied();
        // A row of biases may well be all but zero.
        let symmetry = if self.symmetry.is_general() { self.symmetry } else { Symmetry::Symmetric };
        self.at(width.unwrap_or(Width::Float), symmetry, Granularity::Tensor, self.rounding).uncalibrated()
    }

    /// The candidate with every unit at `level`.
    pub fn uniform(&self, network: &Network, level: usize) -> Candidate {
        let candidate = Candidate::new(network, |unit| self.scheme(&unit.name, level));
        let calibrated = |unit: &&Unit| candidate.scheme(&unit.name).is_calibrated();
        let units: Vec<Unit> = network.units().iter().filter(calibrated).cloned().collect();
        units.iter().fold(candidate.clone(), |candidate, unit| self.with_codes(candidate, &unit.name))
    }

    /// The candidate with the codes of a unit, whose scheme is calibrated.
    fn with_codes(&self, candidate: Candidate, unit: &str) -> Candidate {
        candidate.with_codes([unit], self.codes.get(unit).copied())
    }

    /// Scheme of the activations that enter `unit` at `level`, 0 being the widest; `None` for float.
    pub fn activation(&self, unit: &str, level: usize) -> Option<Activation> {
        let space = self.activations.as_ref()?;
        let Width::Integer(bits) = *space.bits.get(level)? else { return None };
        let range = match &space.calibration {
            None => ActivationRange::Dynamic,
            Some(calibration) => ActivationRange::Static(*calibration.ranges.get(unit)?),
        };
        Some(Activation { bits, symmetry: space.symmetry, range })
    }

    /// Scheme of membranes at `level`, 0 being the widest; `None` for float.
    pub fn membrane(&self, level: usize) -> Option<Membrane> {
        let space = self.membranes.as_ref()?;
        Membrane::new(*space.bits.get(level)?, space.integer_bits).ok()
    }

    /// The candidate with all of `group` at `level`.
    pub fn place(&self, candidate: Candidate, group: &Group, level: usize) -> Candidate {
        let members = group.members.iter().map(String::as_str);
        match group.axis {
            Axis::Weights => self.with_schemes(candidate, group, &self.schemes_of(group, level)),
            Axis::Vectors => candidate.with_vectors(self.vector_scheme(level)),
            Axis::Activations => members.fold(candidate, |candidate, unit| {
                candidate.with_activations([unit], self.activation(unit, level))
            }),
            Axis::Membranes => candidate.with_membranes(members, self.membrane(level)),
        }
    }

    /// The candidate with all of `group` as it is where the whole network is at `level`.
    pub fn place_as_uniform(&self, candidate: Candidate, group: &Group, level: usize) -> Candidate {
        if group.axis != Axis::Weights {
            return self.place(candidate, group, level);
        }
        let schemes = group.members.iter().map(|unit| self.scheme(unit, level)).collect::<Vec<_>>();
        self.with_schemes(candidate, group, &schemes)
    }

    fn with_schemes(&self, candidate: Candidate, group: &Group, schemes: &[Scheme]) -> Candidate {
        group.members.iter().zip(schemes).fold(candidate, |candidate, (unit, scheme)| {
            let candidate = candidate.with([unit.as_str()], *scheme);
            if scheme.is_calibrated() { self.with_codes(candidate, unit) } else { candidate }
        })
    }

    /// Schemes of the units of a group at a level; the last where the group has no such level.
    pub fn schemes_of(&self, group: &Group, level: usize) -> Vec<Scheme> {
        if self.rules.is_empty() {
            return group.members.iter().map(|unit| self.scheme(unit, level)).collect();
        }
        let mut steps = self.steps(group);
        let last = steps.len().saturating_sub(1);
        if steps.is_empty() { Vec::new() } else { steps.swap_remove(level.min(last)) }
    }

    /// The level of a group in a candidate; `None` for what is at none of its levels, such as float.
    pub fn level_of(&self, candidate: &Candidate, group: &Group) -> Option<usize> {
        (0..group.levels).find(|level| self.place(candidate.clone(), group, *level) == *candidate)
    }

    /// The groups of an axis at a tier that change at all from level to level, in the order of the network.
    pub fn groups(&self, network: &Network, axis: Axis, tier: Tier) -> Vec<Group> {
        let mut all = groups(network, axis, tier);
        if self.levels(axis) == 0 {
            all.clear();
        }
        if axis == Axis::Weights && tier == Tier::Matrix && !self.ties.is_empty() {
            all = self.tied(all);
        }
        for group in &mut all {
            let ruled = axis == Axis::Weights && !self.rules.is_empty();
            group.levels = if ruled { self.steps(group).len() } else { self.levels(axis) };
        }
        if axis == Axis::Weights && !self.embedding.moves() {
            // The rest of the network moves; the embedding stays what it is at every level.
            all.retain(|group| group.members != [EMBEDDING]);
        }
        if !self.rules.is_empty() {
            // What a rule leaves one scheme has that at every level, too.
            all.retain(|group| axis != Axis::Weights || group.levels > 1 || self.levels(axis) == 1);
        }
        all
    }
}

/// Names of the matrices of a block, in words.
fn matrix_names() -> String {
    let [most @ .., last] = MATRICES;
    format!("{} or {last}", most.join(", "))
}

#[cfg(test)]
mod tests;
