//! Resources that a worker needs for a network: memory for so many slots, as measured.
//!
//! The formula is a bound that real runs stay below, not a sum of what is allocated: freed memory stays with the process, and a
//! candidate's matrices are there twice while the next one is built.

use qslm_common::footprint::float_bytes;
use qslm_common::network::Network;
use qslm_engine::kernels::loss;

use crate::evaluator::CACHED_PER_SLOT;

/// Bytes of the program itself, with its threads, a tokenizer of a few thousand words and a text.
const PROGRAM: u64 = 24 << 20;

/// Resources of one network and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Weights as floats, in bytes.
    weights: u64,
    /// Bytes of the largest matrix as floats.
    largest_matrix: u64,
    /// Bytes of the buffers of one window, with the recurrent state.
    activations: u64,
}

impl Resources {
    /// Threads that a slot keeps busy: an evaluation is one.
    pub const THREADS_PER_SLOT: u32 = 1;

    /// Resources for windows of so many tokens, or sentences of at most as many.
    pub fn of(network: &Network, window: u32) -> Self {
        let floats = |numbers: u64| 4 * numbers;
        let (channels, hidden) = (u64::from(network.channels), u64::from(network.hidden));
        // Inside a block, or behind the last one, where logits are made piece by piece.
        let block = 6 * channels + hidden;
        let head = 3 * channels + u64::from(network.outputs).min(loss::PIECE as u64);
        let window = floats(u64::from(window) * block.max(head));
        let largest = network.units().iter().map(qslm_common::network::Unit::weights).max();
        Self {
            weights: float_bytes(network),
            largest_matrix: floats(largest.unwrap_or(0)),
            activations: window + floats(network.state_numbers()),
        }
    }

    /// Bytes that a measurement of one checkpoint by so many threads takes (`qslm eval`): the weights once, and a few copies of
    /// a matrix while it is read and prepared for products.
    pub fn of_evaluation(&self, threads: u32) -> u64 {
        PROGRAM + self.weights + 4 * self.largest_matrix + u64::from(threads) * self.activations
    }

    /// Bytes that a worker needs whatever its slots: the checkpoint, the float model beside which all are measured, one model
    /// that is being built, and as much again as two of those that went before, which the allocator does not give back.
    pub fn shared(&self) -> u64 {
        PROGRAM + 5 * self.weights
    }

    /// Bytes that a slot needs beside that: its candidate's weights, twice while the next one takes their place, and a window.
    pub fn per_slot(&self) -> u64 {
        2 * self.weights + self.activations
    }

    /// Bytes to give a worker of so many slots, with what it keeps for later of what candidates share: a gigabyte per slot, or
    /// a quarter of its memory if that is less.
    pub fn of_worker(&self, slots: u32) -> u64 {
        let needed = self.shared() + u64::from(slots) * self.per_slot();
        (needed + u64::from(slots) * CACHED_PER_SLOT).min(needed.div_ceil(3) * 4)
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::network::Dynamics;

    use super::*;

    const BUNDLED: Network = Network {
        vocabulary: 2048,
        channels: 128,
        hidden: 512,
        blocks: 4,
        outputs: 2048,
        binary_embedding: true,
        dynamics: Dynamics::SPIKEGPT,
    };

    fn mb(bytes: u64) -> u64 {
        bytes.div_ceil(1_000_000)
    }

    /// Peaks of `qslm eval` (VmHWM) on networks with random weights, in megabytes.
    #[test]
    fn an_evaluation_takes_what_is_told_or_up_to_a_fifth_less() {
        let network = |channels, blocks| Network { channels, hidden: 4 * channels, blocks, ..BUNDLED };
        for (network, window, threads, measured) in [
            (network(128, 4), 512, 1, 33),
            (network(128, 4), 512, 4, 42),
            (network(128, 4), 1024, 4, 47),
            (network(256, 6), 128, 1, 51),
            (network(256, 6), 512, 4, 69),
            (network(512, 8), 128, 1, 151),
            (network(512, 8), 512, 4, 187),
            (network(768, 12), 128, 1, 443),
            (network(768, 12), 512, 4, 486),
        ] {
            let told = mb(Resources::of(&network, window).of_evaluation(threads));
            let bounds = measured..=measured * 5 / 4;
            assert!(
                bounds.contains(&told),
                "{told} MB told, {measured} measured: {network:?}, {window}, {threads}"
            );
        }
    }

    #[test]
    fn a_worker_takes_the_shared_part_once_and_each_slot_its_own() {
        let resources = Resources::of(&BUNDLED, 512);
        let [one, two, four] = [1, 2, 4].map(|slots| resources.of_worker(slots));
        assert!(one < two && two < four && four < 4 * one, "{one} {two} {four}");
        // 1 GiB more per slot where a quarter is more than that.
        let published = Network {
            vocabulary: 50_277,
            outputs: 50_277,
            channels: 768,
            hidden: 3072,
            blocks: 18,
            ..BUNDLED
        };
        let resources = Resources::of(&published, 1024);
        assert_eq!(resources.of_worker(1), resources.shared() + resources.per_slot() + CACHED_PER_SLOT);
        assert!(resources.of_worker(4) <= 16 << 30, "four slots fit the request of overlays/large");
    }
}
