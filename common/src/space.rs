//! The search space: which schemes a unit may take, and which units move together at which tier.
//!
//! Every unit has a ladder of schemes, from the widest to the narrowest, and a candidate is a rung (or
//! float) for every unit. Strategies move rungs; they never invent schemes.

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::footprint::footprint_bytes;
use crate::network::{Module, Network, Place, Unit};
use crate::scheme::{Granularity, Integer, Range, Rounding, Scheme, Symmetry, Width};

/// The schemes that a search may give to units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Widths from the widest to the narrowest, each once; 16 and 32 are floats.
    pub bits: Vec<Width>,
    /// The symmetry of every integer scheme.
    pub symmetry: Symmetry,
    /// The granularity of every integer scheme.
    pub granularity: Granularity,
    /// The rounding of every integer scheme.
    pub rounding: Rounding,
    /// The range of every integer scheme.
    pub range: Range,
    /// What the embedding may take.
    pub embedding: Embedding,
}

/// What happens to the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embedding {
    /// One lossless bit per weight; for models with a binary embedding only.
    Sign,
    /// The same ladder as every other unit, as published work does.
    Quantize,
    /// Left in float.
    Float,
}

/// How finely a search moves: which units share a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The whole network.
    Global,
    /// The embedding, each block, the head.
    Block,
    /// The embedding, each att and ffn, the head.
    Module,
    /// Each matrix.
    Matrix,
}

/// Units that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `network`, `emb`, `blocks.3`, `blocks.3.att`, `head`, or a unit's name.
    pub name: String,
    /// Names of its units.
    pub units: Vec<String>,
}

/// A space that cannot be searched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpace {
    /// No bit-width.
    #[error("bits = []: expected at least one of 2 to 8, 16 and 32")]
    NoBits,
    /// Widths out of order or repeated.
    #[error("bits must fall from the widest to the narrowest, each once")]
    Order,
    /// `sign` on a model that feeds real-valued embeddings.
    #[error("embedding = \"sign\": only the embedding of a binary-embedding model can be kept in one bit")]
    Sign,
}

impl Space {
    /// Checks the space against the network.
    ///
    /// # Errors
    /// [`InvalidSpace`] says what is wrong.
    pub fn validate(&self, network: &Network) -> Result<(), InvalidSpace> {
        if self.bits.is_empty() {
            return Err(InvalidSpace::NoBits);
        }
        if self.bits.windows(2).any(|pair| pair[0] <= pair[1]) {
            return Err(InvalidSpace::Order);
        }
        if self.embedding == Embedding::Sign && !network.binary_embedding {
            return Err(InvalidSpace::Sign);
        }
        Ok(())
    }

    /// Number of rungs of a ladder.
    pub fn rungs(&self) -> usize {
        self.bits.len()
    }

    /// The scheme of `unit` at `rung`, 0 being the widest. The embedding may have one scheme at all rungs.
    pub fn scheme(&self, unit: &Unit, rung: usize) -> Scheme {
        match (unit.place, self.embedding) {
            (Place::Embedding, Embedding::Sign) => Scheme::Sign,
            (Place::Embedding, Embedding::Float) => Scheme::Float,
            _ => match self.bits[rung.min(self.bits.len() - 1)] {
                Width::Float => Scheme::Float,
                Width::Half => Scheme::Half,
                Width::Integer(bits) => {
                    let Self { symmetry, granularity, rounding, range, .. } = *self;
                    Scheme::Integer(Integer { bits, symmetry, granularity, rounding, range })
                }
            },
        }
    }

    /// The candidate with every unit at `rung`.
    pub fn uniform(&self, network: &Network, rung: usize) -> Candidate {
        Candidate::new(network, |unit| self.scheme(unit, rung))
    }

    /// Whether the units of `group` change at all from rung to rung.
    pub fn can_move(&self, network: &Network, group: &Group) -> bool {
        let moves = |unit: &Unit| unit.place != Place::Embedding || self.embedding == Embedding::Quantize;
        network.units().iter().any(|unit| group.units.contains(&unit.name) && moves(unit))
    }

    /// Bytes of the smallest candidate of the space: every unit at its narrowest rung. With groups, a
    /// narrower scheme is never larger, so nothing in the space is smaller.
    pub fn smallest_footprint(&self, network: &Network) -> u64 {
        footprint_bytes(network, &self.uniform(network, self.rungs() - 1))
    }
}

/// The groups of a tier, in the order of the network.
pub fn groups(network: &Network, tier: Tier) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for unit in network.units() {
        let name = group_name(&unit, tier);
        match groups.last_mut().filter(|group| group.name == name) {
            Some(group) => group.units.push(unit.name),
            None => groups.push(Group { name, units: vec![unit.name] }),
        }
    }
    groups
}

/// The name of the group that `unit` belongs to at `tier`.
fn group_name(unit: &Unit, tier: Tier) -> String {
    match (tier, unit.place) {
        (Tier::Global, _) => "network".to_owned(),
        (Tier::Matrix, _) => unit.name.clone(),
        (_, Place::Embedding) => "emb".to_owned(),
        (_, Place::Head) => "head".to_owned(),
        (Tier::Block, Place::Block(block, _)) => format!("blocks.{block}"),
        (Tier::Module, Place::Block(block, Module::Att)) => format!("blocks.{block}.att"),
        (Tier::Module, Place::Block(block, Module::Ffn)) => format!("blocks.{block}.ffn"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    pub(crate) fn space(bits: &[u8], embedding: Embedding) -> Space {
        Space {
            bits: bits.iter().map(|bits| Width::try_from(*bits).unwrap()).collect(),
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Channel,
            rounding: Rounding::Nearest,
            range: Range::MinMax,
            embedding,
        }
    }

    #[test]
    fn the_groups_of_every_tier_tile_the_units() {
        let counts = [(Tier::Global, 1), (Tier::Block, 20), (Tier::Module, 38), (Tier::Matrix, 128)];
        let units: Vec<_> = PUBLISHED.units().into_iter().map(|unit| unit.name).collect();
        for (tier, count) in counts {
            let groups = groups(&PUBLISHED, tier);
            assert_eq!(groups.len(), count, "{tier:?}");
            let members: Vec<_> = groups.into_iter().flat_map(|group| group.units).collect();
            assert_eq!(members, units);
        }
    }

    #[test]
    fn a_sign_embedding_stays_put_while_the_rest_moves() {
        let space = space(&[8, 4], Embedding::Sign);
        assert_eq!(space.uniform(&PUBLISHED, 1).scheme("emb.weight"), Scheme::Sign);
        assert_eq!(space.uniform(&PUBLISHED, 1).scheme("head.weight").to_string(), "int4:symmetric:channel");
        let groups = groups(&PUBLISHED, Tier::Block);
        assert!(!space.can_move(&PUBLISHED, &groups[0]));
        assert!(space.can_move(&PUBLISHED, &groups[1]));
        assert!(super::tests::space(&[8], Embedding::Quantize).can_move(&PUBLISHED, &groups[0]));
    }

    #[test]
    fn floats_are_rungs_too() {
        let space = space(&[32, 16, 8], Embedding::Quantize);
        let head = |rung| space.uniform(&PUBLISHED, rung).scheme("head.weight").to_string();
        assert_eq!([head(0), head(1), head(2)], ["f32", "f16", "int8:symmetric:channel"]);
    }

    #[test]
    fn a_space_that_cannot_be_searched_is_refused() {
        assert_eq!(space(&[], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::NoBits));
        assert_eq!(space(&[4, 8], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::Order));
        assert_eq!(space(&[4, 4], Embedding::Float).validate(&PUBLISHED), Err(InvalidSpace::Order));
        let real = Network { binary_embedding: false, ..PUBLISHED };
        assert_eq!(space(&[4], Embedding::Sign).validate(&real), Err(InvalidSpace::Sign));
        assert_eq!(space(&[8, 4, 2], Embedding::Sign).validate(&PUBLISHED), Ok(()));
    }
}
