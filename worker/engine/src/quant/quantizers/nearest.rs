//! Nearest: the nearer of the two codes next to a weight, the even one on a tie.

use qslm_common::scheme::{Format, Range};

use crate::quant::{Codes, Quantizer, Statistics, Weights, round_each};

/// Rounding to nearest.
#[derive(Debug, Clone, Copy)]
pub struct Nearest {
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, _: &Statistics<'_>) -> Codes {
        round_each(weights, format, self.range, |steps, _| steps.round_ties_even())
    }
}
