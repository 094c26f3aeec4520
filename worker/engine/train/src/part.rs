//! A part of a network: contiguous blocks, and what stands before the first of them or after the last.
//!
//! The first norm goes with block 0, of which its name says that it is part; the last norm goes with the head.

use std::ops::Range;

use qslm_common::network::{EMBEDDING, Network};

/// A part of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// True if the embedding is in it, which only training end to end changes.
    pub embedding: bool,
    /// Blocks, of which there may be none.
    pub blocks: Range<u32>,
    /// True if the last norm and the head are in it.
    pub head: bool,
}

impl Part {
    /// The whole network.
    pub fn whole(network: &Network) -> Self {
        Self { embedding: true, blocks: 0..network.blocks, head: true }
    }

    /// Blocks, and nothing after them.
    pub fn blocks(blocks: Range<u32>) -> Self {
        Self { embedding: false, blocks, head: false }
    }

    /// The head alone, with the last norm.
    pub fn head(network: &Network) -> Self {
        Self { embedding: false, blocks: network.blocks..network.blocks, head: true }
    }

    /// True if the first norm is in it.
    pub fn has_start(&self) -> bool {
        self.blocks.contains(&0)
    }

    /// True if a parameter, or a tensor made of one, is in it.
    pub fn contains(&self, name: &str) -> bool {
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next());
        match block.and_then(|index| index.parse::<u32>().ok()) {
            Some(index) => self.blocks.contains(&index),
            None if name == EMBEDDING => self.embedding,
            None => self.head,
        }
    }

    /// The blocks, and a head after them if it is in it, as parts of their own: what is trained one after the other.
    pub fn stages(network: &Network) -> Vec<Self> {
        let blocks = (0..network.blocks).map(|index| Self::blocks(index..index + 1));
        blocks.chain([Self::head(network)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: Network = Network {
        vocabulary: 24,
        channels: 16,
        hidden: 64,
        blocks: 12,
        outputs: 24,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };

    #[test]
    fn every_parameter_is_in_one_stage_but_the_embedding_in_none() {
        let stages = Part::stages(&NETWORK);
        let units = NETWORK.units().into_iter().map(|unit| unit.name);
        for name in units.chain(NETWORK.vectors().into_iter().map(|vector| vector.name)) {
            let count = stages.iter().filter(|stage| stage.contains(&name)).count();
            assert_eq!(count, usize::from(name != EMBEDDING), "{name}");
            assert!(Part::whole(&NETWORK).contains(&name));
        }
        assert!(stages[0].contains("blocks.0.ln0.weight") && stages[0].has_start());
        assert!(stages[1].contains("blocks.1.att.key.weight.scales"));
        assert!(!stages[1].contains("blocks.11.att.key.weight"));
        assert!(stages[12].contains("ln_out.bias") && !stages[12].has_start());
    }
}
