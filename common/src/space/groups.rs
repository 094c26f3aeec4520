//! Tiers and groups: which units move together.

use serde::{Deserialize, Serialize};

use super::Axis;
use crate::network::{Network, Node};

/// Tier: how finely a search moves, that is, which units share a scheme.
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

impl Tier {
    /// Name in specs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Block => "block",
            Self::Module => "module",
            Self::Matrix => "matrix",
        }
    }

    /// Depth of its groups in [`Network::tree`]; matrices are the members of the leaves.
    fn depth(self) -> usize {
        match self {
            Self::Global => 0,
            Self::Block => 1,
            Self::Module | Self::Matrix => 2,
        }
    }
}

/// Members that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Axis on which its members move.
    pub axis: Axis,
    /// `network`, `emb`, `blocks.3`, `blocks.3.att`, `head`, or a member's name.
    pub name: String,
    /// Number of its levels.
    pub levels: usize,
    /// Names of its units; of its populations for [`Axis::Membranes`]; `vectors` for [`Axis::Vectors`].
    pub members: Vec<String>,
}

/// The groups of an axis at a tier, in the order of the network. They tile the axis: every unit is in one of
/// them, for activations every linear, for membranes every population. All vectors are one member. How many levels they
/// have is the space's to say.
pub(super) fn groups(network: &Network, axis: Axis, tier: Tier) -> Vec<Group> {
    let single = |name: String| Group { axis, members: vec![name.clone()], name, levels: 0 };
    if axis == Axis::Vectors {
        return vec![single("vectors".to_owned())];
    }
    let tree = network.tree();
    let mut groups = Vec::new();
    for part in tree.at_depth(tier.depth()) {
        let members = members(part, axis);
        // A part has one population at most, which is known by its own name.
        if tier == Tier::Matrix || (axis == Axis::Membranes && part.children.is_empty()) {
            groups.extend(members.into_iter().map(single));
        } else if !members.is_empty() {
            groups.push(Group { axis, name: part.name.clone(), members, levels: 0 });
        }
    }
    groups
}

/// The names of what an axis moves in a part of the network, in its order.
fn members(part: &Node, axis: Axis) -> Vec<String> {
    match axis {
        Axis::Weights => part.all_units().map(|unit| unit.name.clone()).collect(),
        Axis::Activations => {
            part.all_units().filter(|unit| unit.is_linear()).map(|unit| unit.name.clone()).collect()
        }
        Axis::Membranes => part.all_populations().map(|population| population.name.clone()).collect(),
        Axis::Vectors => Vec::new(),
    }
}
