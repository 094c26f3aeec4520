//! Floor: the lower of the two codes next to a weight, as two's-complement truncation gives it.

use qslm_common::scheme::{Format, Range};

use crate::quant::{Codes, Quantizer, Statistics, Weights, round_each};

/// Rounding down.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Floor {
    fn name(&self) -> &'static str {
        "truncate"
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, _: &Statistics<'_>) -> Codes {
        round_each(weights, format, self.range, |steps, _| steps.floor())
    }
}
