//! Storage of a matrix under a scheme, and the weights that a network then computes with.

use std::borrow::Cow;

use half::f16;
use qslm_common::scheme::Scheme;

use super::{Codes, Statistics, Weights, quantize};

/// A matrix as a scheme other than float stores it, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// 16-bit floats.
    Half(Vec<f16>),
    /// One bit a weight: 1 for `w >= 0`, which stands for +1, else 0, for -1.
    Sign(Vec<i8>),
    /// Codes with their scales.
    Integer(Codes),
}

/// The weights as `scheme` stores them; `None` for float, which stores them as they are.
pub fn store(weights: Weights<'_>, scheme: Scheme) -> Option<Stored> {
    match scheme {
        Scheme::Float => None,
        Scheme::Half => Some(Stored::Half(weights.values.iter().map(|w| to_half(*w)).collect())),
        Scheme::Sign => Some(Stored::Sign(weights.values.iter().map(|w| i8::from(*w >= 0.0)).collect())),
        Scheme::Integer { format, quantizer } => {
            Some(Stored::Integer(quantize(weights, format, quantizer, &Statistics::NONE)))
        }
    }
}

impl Stored {
    /// Writes the weights that are stored.
    ///
    /// # Panics
    /// If `weights` is not as long as the matrix.
    fn restore(&self, weights: &mut [f32]) {
        match self {
            Self::Half(halves) => {
                assert_eq!(weights.len(), halves.len());
                weights.iter_mut().zip(halves).for_each(|(w, half)| *w = half.to_f32());
            }
            Self::Sign(signs) => {
                assert_eq!(weights.len(), signs.len());
                weights.iter_mut().zip(signs).for_each(|(w, sign)| *w = f32::from(2 * sign - 1));
            }
            Self::Integer(codes) => codes.dequantize_to(weights),
        }
    }
}

/// The weights that a network stored under `scheme` computes with: stored and read back.
///
/// `weights` is `[rows, columns]` row-major and finite; `unit` is the matrix's name, which seeds stochastic
/// rounding. `Sign` gives +1 and -1. Owned weights are overwritten, so that a large matrix is not there
/// twice.
pub fn fake_quantize(weights: Cow<'_, [f32]>, columns: usize, scheme: Scheme, unit: &str) -> Vec<f32> {
    match store(Weights { values: &weights, columns, unit }, scheme) {
        None => weights.into_owned(),
        Some(stored) => {
            let mut restored = match weights {
                Cow::Owned(weights) => weights,
                Cow::Borrowed(weights) => vec![0.0; weights.len()],
            };
            stored.restore(&mut restored);
            restored
        }
    }
}

/// Rounds to nearest; what is too large becomes the largest 16-bit float, and a negative weight never zero,
/// because a binary embedding sees only the sign.
pub fn to_half(w: f32) -> f16 {
    let rounded = f16::from_f32(w.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    if w < 0.0 && rounded == f16::ZERO { f16::from_bits(0x8001) } else { rounded }
}
