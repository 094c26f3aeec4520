//! Activations to codes and back, in place: the input of a linear as it sees it.

use qslm_common::scheme::{Activation, ActivationRange, Format, Granularity, Scales};

use crate::kernels::grid::{self, Grid};

/// Rounds every row of `x`, `[rows, columns]`, to the grid that `scheme` gives it.
///
/// The arithmetic is that of weights: `x ~ s (q - z)`, to nearest, the even code on a tie, clamped at the
/// ends of the range. A row that holds NaN or infinity becomes NaN, so that a broken network shows.
pub fn fake_quantize_rows(x: &mut [f32], columns: usize, scheme: Activation) {
    for row in x.chunks_exact_mut(columns) {
        let Grid { scale, zero, q_min, q_max, .. } = grid_of_row(row, scheme);
        if scale == 0.0 {
            // A range of zero leaves one value; NaN stays NaN.
            row.iter_mut().for_each(|x| *x *= 0.0);
        } else {
            grid::round(row, scale, zero as f32, q_min as f32, q_max as f32);
        }
    }
}

/// The grid that a row of inputs is rounded to.
pub fn grid_of_row(row: &[f32], scheme: Activation) -> Grid {
    let (min, max) = match scheme.range {
        ActivationRange::Dynamic => grid::span(row),
        ActivationRange::Static(span) => (span.min(), span.max()),
    };
    let Activation { bits, symmetry, .. } = scheme;
    let (granularity, scales) = (Granularity::Tensor, Scales::F32);
    Grid::over(min, max, Format { bits, symmetry, granularity, scales })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::scheme::{Bits, Quantizer, Span, Symmetry};

    use super::*;
    use crate::quant::{Statistics, Weights, quantize};

    fn scheme() -> impl Strategy<Value = Activation> {
        let symmetry = prop_oneof![Just(Symmetry::Symmetric), Just(Symmetry::Affine)];
        let range = prop_oneof![
            Just(ActivationRange::Dynamic),
            (-9.0f32..0.0, 0.0f32..9.0)
                .prop_map(|(min, max)| ActivationRange::Static(Span::new(min, max).unwrap()))
        ];
        (2u8..=8, symmetry, range).prop_map(|(bits, symmetry, range)| Activation {
            bits: Bits::new(bits).unwrap(),
            symmetry,
            range,
        })
    }

    proptest! {
        #[test]
        fn an_activation_moves_by_half_a_step_at_most_inside_the_range(
            scheme in scheme(),
            x in prop::collection::vec(-9.0f32..9.0, 24)
        ) {
            let Activation { bits, symmetry, .. } = scheme;
            let format = Format { bits, symmetry, granularity: Granularity::Tensor, scales: Scales::F32 };
            let mut rounded = x.clone();
            fake_quantize_rows(&mut rounded, 8, scheme);
            for (row, rounded) in x.chunks(8).zip(rounded.chunks(8)) {
                let (min, max) = match scheme.range {
                    ActivationRange::Dynamic => grid::span(row),
                    ActivationRange::Static(span) => (span.min(), span.max()),
                };
                let step = Grid::over(min, max, format).scale;
                for (x, rounded) in row.iter().zip(rounded) {
                    let inside = x.clamp(min, max);
                    // Outside the range the nearest end is as far as it goes.
                    prop_assert!((inside - rounded).abs() <= step * 0.5001 || (x - inside).abs() > 0.0);
                }
            }
        }

        #[test]
        fn quantizing_activations_twice_changes_nothing(
            scheme in scheme(),
            x in prop::collection::vec(-9.0f32..9.0, 16)
        ) {
            let fixed = Activation { range: ActivationRange::Static(Span::new(-5.0, 7.0).unwrap()), ..scheme };
            let mut once = x;
            fake_quantize_rows(&mut once, 4, fixed);
            let mut twice = once.clone();
            fake_quantize_rows(&mut twice, 4, fixed);
            for (once, twice) in once.iter().zip(twice) {
                prop_assert!((once - twice).abs() <= once.abs() * 1e-6);
            }
        }

        #[test]
        fn a_dynamic_row_is_quantized_as_a_row_of_weights(
            bits in 2u8..=8,
            affine: bool,
            x in prop::collection::vec(-9.0f32..9.0, 24)
        ) {
            let symmetry = if affine { Symmetry::Affine } else { Symmetry::Symmetric };
            let bits = Bits::new(bits).unwrap();
            let format = Format { bits, symmetry, granularity: Granularity::Channel, scales: Scales::F32 };
            let weights = Weights { values: &x, columns: 8, unit: "x" };
            let weights = quantize(weights, format, Quantizer::default(), &Statistics::NONE).dequantize();
            let mut rows = x;
            fake_quantize_rows(&mut rows, 8, Activation { bits, symmetry, range: ActivationRange::Dynamic });
            prop_assert_eq!(rows, weights);
        }
    }

    #[test]
    fn a_row_of_zeros_stays_and_a_broken_one_shows() {
        let scheme: Activation = "int8:affine:dynamic".parse().unwrap();
        let mut x = [0.0, 0.0, 1.0, f32::INFINITY];
        fake_quantize_rows(&mut x, 2, scheme);
        assert_eq!(x[..2], [0.0, 0.0]);
        assert!(x[2].is_nan() && x[3].is_nan());
        let mut x = [f32::NAN];
        fake_quantize_rows(&mut x, 1, "int8:symmetric:static:0:0".parse().unwrap());
        assert!(x[0].is_nan());
    }
}
