//! A worked example: one more quantizer, which rounds up (docs/adding.md, "A quantizer").
//!
//! Inside the engine the struct and its `impl` are a file in `src/quant/quantizers/`, with a line in
//! `registered` there; its word is a line in `qslm_common::scheme::Rounding`, so that specs, candidates and
//! flags can ask for it. Footprint, packing and kernels see the format alone, and follow by themselves.
#![allow(clippy::unwrap_used)]

use qslm_common::scheme::{Bits, Format, Granularity, Range, Scales, Symmetry};
use qslm_engine::quant::{Codes, InputMoments, Needs, Quantizer, Statistics, Weights, round_each};

/// Rounding up.
struct Ceiling {
    /// The weights that the codes span.
    range: Range,
}

impl Quantizer for Ceiling {
    fn name(&self) -> &'static str {
        "ceiling"
    }

    // A quantizer that looks at each weight alone says how a weight, in steps of its scale, becomes a whole
    // number of steps. Scales, zero points and the clamping to the codes that there are come from
    // `round_each`. The second argument is the weight's position in the matrix, for those that draw a number
    // for each.
    fn quantize(&self, weights: Weights<'_>, format: Format, _: &Statistics<'_>) -> Codes {
        round_each(weights, format, self.range, |steps, _| steps.ceil())
    }
}

/// Rounding to nearest where the inputs of a column are large, and to zero where they are small: a quantizer
/// that needs more than the weights, and chooses its codes in its own loop.
struct Sparing;

impl Quantizer for Sparing {
    fn name(&self) -> &'static str {
        "sparing"
    }

    fn needs(&self) -> Needs {
        Needs::InputHessian
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes {
        let factor = statistics.inputs.unwrap();
        let mut codes = round_each(weights, format, Range::MinMax, |steps, _| steps.round_ties_even());
        let columns = weights.columns;
        let power: Vec<f64> = (0..columns).map(|column| factor.cost(column)).collect();
        let mean = power.iter().sum::<f64>() / columns as f64;
        for row in codes.values.chunks_exact_mut(columns) {
            for (code, _) in row.iter_mut().zip(&power).filter(|(_, power)| **power < 0.1 * mean) {
                *code = 0;
            }
        }
        codes
    }
}

/// Three bits: the codes are -3 to 3, and the scale is a third of the largest magnitude of a row.
fn format() -> Format {
    let bits = Bits::new(3).unwrap();
    let (symmetry, granularity) = (Symmetry::Symmetric, Granularity::Channel);
    Format { bits, symmetry, granularity, scales: Scales::F32 }
}

#[test]
fn a_quantizer_that_rounds_up() {
    let values = [3.0, 0.1, -0.1, 1.5, -6.0, 2.1, -2.1, 4.0];
    let weights = Weights { values: &values, columns: 4, unit: "blocks.0.att.key.weight" };
    let codes = Ceiling { range: Range::MinMax }.quantize(weights, format(), &Statistics::NONE);
    assert_eq!(codes.scales, [1.0, 2.0]);
    // 4.0 is on a code, which it keeps.
    assert_eq!(codes.values, [3, 1, 0, 2, -3, 2, -1, 2]);
    assert_eq!(codes.dequantize(), [3.0, 1.0, 0.0, 2.0, -6.0, 4.0, -2.0, 4.0]);
}

#[test]
fn a_quantizer_that_needs_more_than_the_weights() {
    let values = [3.0, 1.9, -2.2, 0.9];
    let weights = Weights { values: &values, columns: 2, unit: "head.weight" };
    // The second input is small.
    let mut moments = InputMoments::new(2);
    moments.add(&[2.0, 0.1, -2.0, 0.1]);
    let factor = moments.finish().unwrap().factor(0.01, false).unwrap();
    let statistics = Statistics { inputs: Some(&factor), ..Statistics::NONE };
    assert_eq!(Sparing.needs(), Needs::InputHessian);
    assert_eq!(Sparing.quantize(weights, format(), &statistics).values, [3, 0, -3, 0]);
}
