//! MREM (arXiv 2109.15082): modules of several blocks that train side by side, in rounds.
//!
//! In the paper modules pass batches on through queues, so what a module sees depends on timing. Here a round of a module is a
//! pure function: what the modules in front of it had become *a round before* makes its inputs, mixed with the float
//! network's, of which there is less in every round. This file has the rules that all who train modules agree on.

use qslm_common::network::Network;

use crate::part::Part;

/// Passes of a step through a block or a head that trains: its own, the float network's, and back, which costs two.
const PASSES: u64 = 4;
/// Passes through a block in front: the quantized network's and the float network's.
const PASSES_BEFORE: u64 = 2;
/// What the exponentials of a logit cost in all, in multiply-accumulates; measured on AVX-512.
const SOFTMAX: u64 = 128;

/// The modules of a network: contiguous blocks, the last one with the head and perhaps with no block. They are cut so that the
/// one that takes longest takes least; of cuts that are as good, the one whose first modules are longest.
///
/// What a module costs counts what is in front of it, whose blocks its inputs come through.
///
/// # Panics
/// If there are no modules, or more than blocks.
pub fn modules(network: &Network, modules: u32) -> Vec<Part> {
    let (blocks, cost) = (network.blocks, Cost::of(network));
    assert!((1..=blocks).contains(&modules), "{modules} modules of {blocks} blocks");
    // Longer first modules only make the last one shorter, so whether a bound can be kept is seen by filling them up to it.
    let (mut low, mut high) = (0, cost.module(0, blocks) + cost.head);
    while low < high {
        let bound = low + (high - low) / 2;
        let starts = starts_within(blocks, modules, bound, cost);
        let fits = starts.is_some_and(|starts| {
            let last = starts.last().copied().unwrap_or(0);
            cost.module(last, blocks) + cost.head <= bound
        });
        if fits { high = bound } else { low = bound + 1 }
    }
    let starts = starts_within(blocks, modules, low, cost).unwrap_or_default();
    let ends = starts.iter().skip(1).copied().chain([blocks]);
    let parts = starts.iter().zip(ends).enumerate();
    let part = |(index, (start, end)): (usize, (&u32, u32))| Part {
        embedding: false,
        blocks: *start..end,
        head: index + 1 == modules as usize,
    };
    parts.map(part).collect()
}

/// What a step costs, in multiply-accumulates of a token.
#[derive(Debug, Clone, Copy)]
struct Cost {
    block: u64,
    head: u64,
}

impl Cost {
    fn of(network: &Network) -> Self {
        let units = network.units();
        let block = units.iter().filter(|unit| unit.block() == Some(0));
        let (channels, outputs) = (u64::from(network.channels), u64::from(network.outputs));
        Self {
            block: block.map(qslm_common::network::Unit::weights).sum(),
            head: outputs * (PASSES * channels + SOFTMAX),
        }
    }

    /// Cost of a module of blocks, without a head.
    fn module(self, start: u32, end: u32) -> u64 {
        let (before, own) = (u64::from(start), u64::from(end - start));
        (PASSES_BEFORE * before + PASSES * own) * self.block
    }
}

/// Where modules start if each but the last has as many blocks as cost no more than a bound, and at least one; `None` if one
/// costs more.
fn starts_within(blocks: u32, modules: u32, bound: u64, cost: Cost) -> Option<Vec<u32>> {
    let mut starts = vec![0];
    for module in 1..modules {
        let start = starts[starts.len() - 1];
        // One for each of the modules between.
        let most = blocks - (modules - 1 - module);
        let end = (start + 1..=most).take_while(|end| cost.module(start, *end) <= bound).last()?;
        starts.push(end);
    }
    Some(starts)
}

/// Share of the float network's residual stream in a module's inputs: 1 in the first round, 0 in the last of several.
pub fn share_of_float(round: u32, rounds: u32) -> f32 {
    match rounds {
        0 | 1 => 1.0,
        _ => (1.0 - f64::from(round) / f64::from(rounds - 1)).max(0.0) as f32,
    }
}

/// Steps of a module before a round, of so many over all rounds.
pub fn steps_before(round: u32, rounds: u32, steps: u32) -> u32 {
    (u64::from(steps) * u64::from(round) / u64::from(rounds.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(blocks: u32, channels: u32, vocabulary: u32) -> Network {
        let (hidden, outputs) = (4 * channels, vocabulary);
        Network {
            vocabulary,
            channels,
            hidden,
            blocks,
            outputs,
            binary_embedding: true,
            dynamics: qslm_common::network::Dynamics::SPIKEGPT,
        }
    }

    fn longest(network: &Network, parts: &[Part]) -> u64 {
        let cost = Cost::of(network);
        let of = |part: &Part| {
            cost.module(part.blocks.start, part.blocks.end) + if part.head { cost.head } else { 0 }
        };
        parts.iter().map(of).max().unwrap_or(0)
    }

    /// Every way to cut blocks, the last module perhaps with none.
    fn cuts(blocks: u32, modules: u32) -> Vec<Vec<Part>> {
        fn starts(from: u32, blocks: u32, left: u32) -> Vec<Vec<u32>> {
            if left == 0 {
                return vec![vec![]];
            }
            let rest = |start: u32| {
                starts(start, blocks, left - 1).into_iter().map(move |rest| [vec![start], rest].concat())
            };
            (from + 1..=blocks).flat_map(rest).collect()
        }
        let cut = |starts: Vec<u32>| {
            let starts = [vec![0], starts].concat();
            let ends = starts.clone().into_iter().skip(1).chain([blocks]);
            let parts = starts.iter().zip(ends).map(|(start, end)| Part::blocks(*start..end));
            let mut parts: Vec<Part> = parts.collect();
            parts.last_mut().unwrap().head = true;
            parts
        };
        starts(0, blocks, modules - 1).into_iter().map(cut).collect()
    }

    #[test]
    fn no_cut_has_a_shorter_longest_module() {
        for (blocks, channels, vocabulary) in [(4, 128, 2048), (18, 768, 50_277), (7, 64, 100), (1, 16, 24)] {
            let network = network(blocks, channels, vocabulary);
            for count in 1..=blocks.min(5) {
                let parts = modules(&network, count);
                assert_eq!(parts.len() as u32, count);
                assert_eq!((parts[0].blocks.start, parts[parts.len() - 1].blocks.end), (0, blocks));
                assert!(parts.windows(2).all(|pair| pair[0].blocks.end == pair[1].blocks.start));
                let (last, others) = parts.split_last().unwrap();
                assert!(last.head && others.iter().all(|part| !part.head && !part.blocks.is_empty()));
                let best = cuts(blocks, count).iter().map(|parts| longest(&network, parts)).min();
                assert_eq!(Some(longest(&network, &parts)), best, "{count} of {blocks}: {parts:?}");
            }
        }
        assert_eq!(
            modules(&network(18, 768, 50_277), 1),
            [Part { embedding: false, ..Part::whole(&network(18, 768, 50_277)) }]
        );
    }

    #[test]
    fn inputs_are_float_in_the_first_round_and_quantized_in_the_last() {
        assert_eq!([0, 1, 2, 3, 4].map(|round| share_of_float(round, 5)), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!([0, 1].map(|round| share_of_float(round, 2)), [1.0, 0.0]);
        assert_eq!(share_of_float(0, 1), 1.0);
    }

    #[test]
    fn steps_are_split_evenly_over_the_rounds() {
        let before = |steps| (0..=3).map(move |round| steps_before(round, 3, steps)).collect::<Vec<_>>();
        assert_eq!(
            (before(9), before(10), before(3)),
            (vec![0, 3, 6, 9], vec![0, 3, 6, 10], vec![0, 1, 2, 3])
        );
        assert_eq!(steps_before(1000, 1000, u32::MAX), u32::MAX);
    }
}
