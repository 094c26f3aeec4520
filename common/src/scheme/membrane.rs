//! Membrane schemes: LIF potentials in fixed point.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidScheme;

/// A membrane potential kept as a two's-complement fixed-point number of `bits` bits with `integer` bits
/// before the point: multiples of the step `2^(integer + 1 - bits)` from `-2^integer` to `2^integer - step`.
///
/// It is the potential carried from one time step to the next that is rounded (to nearest, even on a tie) and
/// clamped. The comparison with the threshold sees the sum before that, as an accumulator wider than
/// the state memory does. Text form: `fixed8:1` for 8 bits, 1 of them before the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Membrane {
    bits: u8,
    integer: u8,
}

impl Membrane {
    /// `bits` from 2 to 16, `integer` below `bits`. A potential never reaches the threshold of 1, but has no
    /// lower bound: bits before the point are for inhibition.
    ///
    /// # Errors
    /// [`InvalidScheme::Membrane`].
    pub fn new(bits: u8, integer: u8) -> Result<Self, InvalidScheme> {
        if (2..=16).contains(&bits) && integer < bits {
            Ok(Self { bits, integer })
        } else {
            Err(InvalidScheme::Membrane(format!("fixed{bits}:{integer}")))
        }
    }

    /// Bits per potential, 2 to 16.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The distance between two potentials that can be told apart.
    pub fn step(self) -> f32 {
        2f32.powi(i32::from(self.integer) + 1 - i32::from(self.bits))
    }

    /// The lowest potential, `-2^integer`.
    pub fn min(self) -> f32 {
        -(2f32.powi(i32::from(self.integer)))
    }

    /// The highest potential, `2^integer - step`.
    pub fn max(self) -> f32 {
        -self.min() - self.step()
    }
}

impl fmt::Display for Membrane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fixed{}:{}", self.bits, self.integer)
    }
}

impl FromStr for Membrane {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidScheme::Membrane(text.chars().take(80).collect());
        let (bits, integer) =
            text.strip_prefix("fixed").and_then(|rest| rest.split_once(':')).ok_or_else(form)?;
        let number = |text: &str| text.parse().map_err(|_| form());
        Self::new(number(bits)?, number(integer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_that_of_twos_complement() {
        let eight = Membrane::new(8, 1).unwrap();
        assert_eq!((eight.step(), eight.min(), eight.max()), (1.0 / 64.0, -2.0, 2.0 - 1.0 / 64.0));
        let two = Membrane::new(2, 0).unwrap();
        assert_eq!((two.step(), two.min(), two.max()), (0.5, -1.0, 0.5));
        // 2^bits values in all.
        assert_eq!((eight.max() - eight.min()) / eight.step() + 1.0, 256.0);
    }

    #[test]
    fn every_membrane_scheme_survives_its_text() {
        for (bits, integer) in (2..=16).flat_map(|bits| (0..bits).map(move |integer| (bits, integer))) {
            let membrane = Membrane::new(bits, integer).unwrap();
            assert_eq!(membrane.to_string().parse(), Ok(membrane));
        }
        for text in ["fixed1:0", "fixed17:0", "fixed8:8", "fixed8", "8:1", "fixed8:1:1"] {
            let refused = text.parse::<Membrane>().unwrap_err().to_string();
            assert!(refused.contains("expected fixedB:I"), "{refused}");
        }
    }
}
