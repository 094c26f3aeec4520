//! From a weight in steps of the scale to a whole number of steps.

use qslm_common::hash::ContentHash;
use qslm_common::scheme::Rounding;

/// A weight this close to a code, in steps, is on it. Dequantizing and dividing again is off by at most 2^-15
/// steps, so quantizing twice changes nothing; and no weight is moved by more than this.
const ON_CODE: f32 = 1.0 / 4096.0;

/// Rounds the weights of one unit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rounder {
    Nearest,
    Floor,
    /// With the state that the draws start from.
    Stochastic(u64),
}

impl Rounder {
    pub(super) fn new(rounding: Rounding, unit: &str) -> Self {
        match rounding {
            Rounding::Nearest => Self::Nearest,
            Rounding::Floor => Self::Floor,
            Rounding::Stochastic(seed) => {
                let hash = ContentHash::of(format!("stochastic rounding {seed} {unit}").as_bytes());
                let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
                Self::Stochastic(u64::from_le_bytes(first))
            }
        }
    }

    /// Rounds `steps`, which belongs to the weight at position `at` of the unit.
    pub(super) fn round(&self, steps: f32, at: usize) -> f32 {
        let nearest = steps.round_ties_even();
        let on_code = (steps - nearest).abs() <= ON_CODE;
        match self {
            Self::Nearest => nearest,
            _ if on_code => nearest,
            Self::Floor => steps.floor(),
            Self::Stochastic(state) => {
                let below = steps.floor();
                let up = steps - below > draw(*state, at as u64);
                if up { below + 1.0 } else { below }
            }
        }
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
    fn truncation_goes_down() {
        let round = |steps| Rounder::Floor.round(steps, 0);
        assert_eq!(
            [round(1.9), round(-1.1), round(2.0), round(1.9999), round(-0.0001)],
            [1.0, -2.0, 2.0, 2.0, 0.0]
        );
    }

    #[test]
    fn stochastic_rounding_is_right_on_average_and_the_same_every_time() {
        let rounder = Rounder::new(Rounding::Stochastic(7), "head.weight");
        for share in [0.1f32, 0.25, 0.5, 0.9] {
            let sum: f32 = (0..20_000).map(|at| rounder.round(3.0 + share, at) - 3.0).sum();
            assert!((sum / 20_000.0 - share).abs() < 0.02, "{share}: {}", sum / 20_000.0);
        }
        let same = Rounder::new(Rounding::Stochastic(7), "head.weight");
        let other = Rounder::new(Rounding::Stochastic(8), "head.weight");
        let unit = Rounder::new(Rounding::Stochastic(7), "emb.weight");
        let all = |rounder: &Rounder| (0..64).map(|at| rounder.round(0.5, at)).collect::<Vec<_>>();
        assert_eq!(all(&rounder), all(&same));
        assert_ne!(all(&rounder), all(&other));
        assert_ne!(all(&rounder), all(&unit));
    }

    #[test]
    fn the_draws_never_change() {
        // Stored results depend on them: a change here raises ENGINE_VERSION.
        let rounder = Rounder::new(Rounding::Stochastic(1), "head.weight");
        let ups: String = (0..32).map(|at| if rounder.round(0.5, at) > 0.0 { '1' } else { '0' }).collect();
        assert_eq!(ups, "00010101101110111110101010000000");
    }
}
