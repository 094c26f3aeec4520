//! Stochastic rounding: the upper of the two codes next to a weight with the probability of its distance to
//! the lower, so that a sum of many weights is right on average.

use qslm_common::hash::ContentHash;
use qslm_common::scheme::{Format, Range};

use crate::quant::{Codes, Quantizer, Statistics, Weights, round_each};

/// Rounding up or down at random. The draw follows from the seed, the unit and the weight's position alone.
#[derive(Debug, Clone, Copy)]
pub struct Stochastic {
    /// The seed of the draws.
    pub seed: u32,
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Stochastic {
    fn name(&self) -> &'static str {
        "stochastic"
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, _: &Statistics<'_>) -> Codes {
        round_each(weights, format, self.range, rounding(self.seed.into(), weights.unit))
    }
}

/// The rounding of numbers, in steps, by their positions: to the whole number above with the probability of the distance
/// to the one below. A seed and the name of what is rounded, such as a unit, say all draws.
pub fn rounding(seed: u64, name: &str) -> impl Fn(f32, usize) -> f32 + Copy + Send + Sync + use<> {
    let hash = ContentHash::of(format!("stochastic rounding {seed} {name}").as_bytes());
    let state = u64::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default());
    move |steps, at| {
        let below = steps.floor();
        let up = steps - below > draw(state, at as u64);
        if up { below + 1.0 } else { below }
    }
}

/// A number in [0, 1) for each position: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014) over a
/// counter, so that no draw depends on another.
fn draw(state: u64, at: u64) -> f32 {
    let mut z = state.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stochastic_rounding_is_right_on_average_and_the_same_every_time() {
        let rounded = rounding(7, "head.weight");
        for share in [0.1f32, 0.25, 0.5, 0.9] {
            let sum: f32 = (0..20_000).map(|at| rounded(3.0 + share, at) - 3.0).sum();
            assert!((sum / 20_000.0 - share).abs() < 0.02, "{share}: {}", sum / 20_000.0);
        }
        let all = |seed, unit| (0..64).map(|at| rounding(seed, unit)(0.5, at)).collect::<Vec<_>>();
        assert_eq!(all(7, "head.weight"), all(7, "head.weight"));
        assert_ne!(all(7, "head.weight"), all(8, "head.weight"));
        assert_ne!(all(7, "head.weight"), all(7, "emb.weight"));
    }

    #[test]
    fn the_draws_never_change() {
        // Stored results depend on them: a change here raises ENGINE_VERSION.
        let rounded = rounding(1, "head.weight");
        let ups: String = (0..32).map(|at| if rounded(0.5, at) > 0.0 { '1' } else { '0' }).collect();
        assert_eq!(ups, "00010101101110111110101010000000");
    }
}
