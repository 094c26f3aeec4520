//! The shape of a network: its units, its vectors, its LIF populations, and how they nest.
//!
//! The one idea is a tree: [`Network::tree`] says what contains what, and the tiers of a search, the groups
//! that move together, the order in which costs walk the network are depths and walks of it. Everything
//! follows from a few sizes, so that a coordinator can plan a search without reading a checkpoint. What *is*
//! SpikeGPT (its names, how many matrices a block has, which population follows which half) stands in
//! `spikegpt.rs` alone.

mod dynamics;
mod family;
mod spikegpt;

pub use dynamics::{
    Comparison, Constant, Dynamics, InvalidConstant, InvalidParameter, Neuron, NotTrained, Parameter,
    Placement, Reset,
};
pub use family::{Family, Member, UnknownFamily};
pub use spikegpt::{
    EMBEDDING, HEAD, InvalidNetwork, LOG_TAU, LOG_THRESHOLD, MATRICES, Network, block_units, population_name,
    short_name,
};

/// One weight matrix, by its checkpoint name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Key in the checkpoint, such as `blocks.3.ffn.key.weight`.
    pub name: String,
    /// Output channels (for the embedding: tokens).
    pub rows: usize,
    /// Input channels.
    pub columns: usize,
    /// Place in the hierarchy.
    pub place: UnitPlace,
}

/// The place of a unit in the hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitPlace {
    /// The embedding: a look-up.
    Embedding,
    /// A matrix of a block.
    Block(u32, Module),
    /// The head.
    Head,
}

/// The two halves of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// Time mixing.
    Att,
    /// Channel mixing.
    Ffn,
}

/// A parameter of at most one dimension: of a layer norm, of mixing, of decay, or a scalar of a population.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vector {
    /// Key in the checkpoint, such as `blocks.0.ln0.bias`.
    pub name: String,
    /// `[D]`, `[1, 1, D]` or `[]`.
    pub shape: Vec<usize>,
}

impl Vector {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// LIF neurons that fire into the residual stream together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Population {
    /// Index in the order in which spikes are counted.
    pub index: usize,
    /// Name, such as `blocks.3.lif1`.
    pub name: String,
    /// Number of neurons.
    pub neurons: u32,
}

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// The root: the whole network.
    Network,
    /// The embedding.
    Embedding,
    /// A block, by its index.
    Block(u32),
    /// A half of a block.
    Module(Module),
    /// The head.
    Head,
}

/// A part of a network with the parts that it contains, in the order of the forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name: `network`, `emb`, `blocks.3`, `blocks.3.att`, `head`.
    pub name: String,
    /// Kind of part.
    pub kind: NodeKind,
    /// Parts of it; none for one that holds units.
    pub children: Vec<Node>,
    /// Units that belong to it and to none of its parts.
    pub units: Vec<Unit>,
    /// Population that fires after its units, if any.
    pub population: Option<Population>,
}

impl Node {
    /// Nodes at a depth, 0 being this one. A leaf that is less deep stands for itself, so that the nodes of
    /// every depth hold every unit once.
    pub fn at_depth(&self, depth: usize) -> Vec<&Self> {
        if depth == 0 || self.children.is_empty() {
            return vec![self];
        }
        self.children.iter().flat_map(|child| child.at_depth(depth - 1)).collect()
    }

    /// Leaves in the order of the forward pass.
    pub fn leaves(&self) -> Vec<&Self> {
        self.at_depth(usize::MAX)
    }

    /// Units of it and of all its parts, in the order of the network.
    pub fn all_units(&self) -> impl Iterator<Item = &Unit> {
        self.leaves().into_iter().flat_map(|leaf| &leaf.units)
    }

    /// Populations of it and of all its parts, in the order in which spikes are counted.
    pub fn all_populations(&self) -> impl Iterator<Item = &Population> {
        self.leaves().into_iter().filter_map(|leaf| leaf.population.as_ref())
    }
}

impl Unit {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.rows as u64 * self.columns as u64
    }

    /// True if inputs are multiplied by the matrix. The embedding is a look-up.
    pub fn is_linear(&self) -> bool {
        self.place != UnitPlace::Embedding
    }

    /// Index of the block that it is in; `None` for embedding and head.
    pub fn block(&self) -> Option<u32> {
        match self.place {
            UnitPlace::Block(block, _) => Some(block),
            UnitPlace::Embedding | UnitPlace::Head => None,
        }
    }
}

#[cfg(test)]
pub(crate) use spikegpt::tests;
