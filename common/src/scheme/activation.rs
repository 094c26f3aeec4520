//! Activation schemes: the input of a linear layer in a few bits.
//!
//! The arithmetic is that of weights (docs/model.md, Quantization), always to nearest; what differs is where
//! the range comes from: from the token at hand, or from calibration data seen beforehand.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bits, InvalidScheme, Symmetry};
use crate::hash::ContentHash;

/// The quantization of a linear layer's input.
///
/// Text forms: `int8:affine:dynamic`, and `int8:affine:static:MIN:MAX` with the calibrated range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Activation {
    /// Bits per activation, 2 to 8.
    pub bits: Bits,
    /// The map between codes and activations.
    pub symmetry: Symmetry,
    /// The source of the range of the codes.
    pub range: ActivationRange,
}

/// The activations that the codes span; what lies outside is clamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActivationRange {
    /// Span from the smallest to the largest of each token's own vector.
    Dynamic,
    /// One range for all tokens: the smallest and largest value seen on calibration data.
    Static(Span),
}

/// A finite range that includes zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct Span {
    // As bits, so that a span can be compared, ordered and hashed.
    min: u32,
    max: u32,
}

/// The ranges of activations, and the data on which they were seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The text or labelled sentences.
    pub data: ContentHash,
    /// Number of windows or sentences of it that were run through the float model.
    pub sequences: u32,
    /// The range of every linear's input, by the name of its matrix.
    pub ranges: BTreeMap<String, Span>,
}

impl Span {
    /// The range from `min` to `max`, widened to include zero.
    ///
    /// # Errors
    /// [`InvalidScheme::Span`] for bounds that are not finite or in the wrong order.
    pub fn new(min: f32, max: f32) -> Result<Self, InvalidScheme> {
        if !(min.is_finite() && max.is_finite() && min <= max) {
            return Err(InvalidScheme::Span { min: min.to_string(), max: max.to_string() });
        }
        // Adding zero makes -0 into 0, so that equal ranges have equal bits.
        Ok(Self { min: (min.min(0.0) + 0.0).to_bits(), max: (max.max(0.0) + 0.0).to_bits() })
    }

    /// The lower end, at most 0.
    pub fn min(self) -> f32 {
        f32::from_bits(self.min)
    }

    /// The upper end, at least 0.
    pub fn max(self) -> f32 {
        f32::from_bits(self.max)
    }

    /// The smallest range that includes both.
    pub fn union(self, other: Self) -> Self {
        let (min, max) = (self.min().min(other.min()), self.max().max(other.max()));
        Self { min: min.to_bits(), max: max.to_bits() }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "int{}:{}:", self.bits.get(), self.symmetry)?;
        match self.range {
            ActivationRange::Dynamic => f.write_str("dynamic"),
            // A float's shortest text reads back as the same bits.
            ActivationRange::Static(span) => write!(f, "static:{}:{}", span.min(), span.max()),
        }
    }
}

impl FromStr for Activation {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidScheme::Activation(text.chars().take(80).collect());
        let mut parts = text.strip_prefix("int").ok_or_else(form)?.split(':');
        let mut next = || parts.next().ok_or_else(form);
        let bits = Bits::new(next()?.parse().map_err(|_| form())?)?;
        let symmetry: Symmetry = next()?.parse()?;
        if !symmetry.is_general() {
            return Err(InvalidScheme::WeightsOnly(symmetry));
        }
        let range = match next()? {
            "dynamic" => ActivationRange::Dynamic,
            "static" => {
                let mut bound = || next()?.parse().map_err(|_| form());
                ActivationRange::Static(Span::new(bound()?, bound()?)?)
            }
            _ => return Err(form()),
        };
        if parts.next().is_some() { Err(form()) } else { Ok(Self { bits, symmetry, range }) }
    }
}

impl TryFrom<[f32; 2]> for Span {
    type Error = InvalidScheme;

    fn try_from([min, max]: [f32; 2]) -> Result<Self, Self::Error> {
        Self::new(min, max)
    }
}

impl From<Span> for [f32; 2] {
    fn from(span: Span) -> Self {
        [span.min(), span.max()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_activation_scheme_survives_its_text(bits in 2u8..=8, affine: bool, a in -1e30f32..1e30, b in -1e-30f32..1e3, fixed: bool) {
            let range = if fixed {
                ActivationRange::Static(Span::new(a.min(b), a.max(b)).unwrap())
            } else {
                ActivationRange::Dynamic
            };
            let symmetry = if affine { Symmetry::Affine } else { Symmetry::Symmetric };
            let scheme = Activation { bits: Bits::new(bits).unwrap(), symmetry, range };
            prop_assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
    }

    #[test]
    fn what_names_no_activation_scheme_is_refused() {
        for text in ["int8", "int9:affine:dynamic", "int8:affine:dynamic:1", "int8:affine:static:1", "f32"] {
            assert!(text.parse::<Activation>().is_err(), "{text}");
        }
        let nan = "int8:affine:static:NaN:1".parse::<Activation>().unwrap_err();
        assert_eq!(nan.to_string(), "range NaN to 1: expected finite bounds in order");
        assert!("int8:affine:static:2:1".parse::<Activation>().is_err());
    }

    #[test]
    fn a_range_always_includes_zero() {
        let span = Span::new(0.5, 2.0).unwrap();
        assert_eq!((span.min(), span.max()), (0.0, 2.0));
        let both = span.union(Span::new(-3.0, -1.0).unwrap());
        assert_eq!((both.min(), both.max()), (-3.0, 2.0));
        assert_eq!(Span::new(-0.0, 1.0), Span::new(0.0, 1.0));
    }
}
