//! Properties of every scheme, and the examples that they leave out.

use proptest::prelude::*;
use qslm_common::scheme::{Bits, Range, Rounding};

use super::*;

const UNIT: &str = "head.weight";

fn scheme() -> impl Strategy<Value = Integer> {
    let granularity = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1u32..9).prop_map(Granularity::Group)
    ];
    let symmetry = prop_oneof![Just(Symmetry::Symmetric), Just(Symmetry::Affine)];
    let rounding = prop_oneof![
        Just(Rounding::Nearest),
        Just(Rounding::Floor),
        any::<u32>().prop_map(Rounding::Stochastic)
    ];
    let range = prop_oneof![
        Just(Range::MinMax),
        Just(Range::LeastSquares),
        (51u32..=100).prop_map(|p| format!("percentile{p}").parse().unwrap())
    ];
    (2u8..=8, symmetry, granularity, rounding, range).prop_map(
        |(bits, symmetry, granularity, rounding, range)| Integer {
            rounding,
            range,
            ..Integer::new(Bits::new(bits).unwrap(), symmetry, granularity)
        },
    )
}

/// Up to 6 rows of up to 7 columns, with zeros, ties and wide ranges among the weights.
fn matrix() -> impl Strategy<Value = (Vec<f32>, usize)> {
    let weight =
        prop_oneof![Just(0.0f32), -1.0f32..1.0, -1e-3f32..1e-3, (-8i8..8).prop_map(f32::from), -1e6f32..1e6];
    (1usize..=6, 1usize..=7).prop_flat_map(move |(rows, columns)| {
        (prop::collection::vec(weight.clone(), rows * columns), Just(columns))
    })
}

/// Every weight with its dequantized value, its code and the grid of its run.
fn each(weights: &[f32], columns: usize, scheme: Integer) -> Vec<(f32, f32, i8, Grid)> {
    let quantized = quantize(weights, columns, scheme, UNIT);
    let back = dequantize(&quantized, columns, scheme);
    let mut out = Vec::new();
    for (index, run) in runs(weights, columns, scheme.granularity).enumerate() {
        let zero = quantized.zero_points.get(index).copied().unwrap_or(0).into();
        let grid =
            Grid { scale: quantized.scales[index], zero, q_min: scheme.q_min(), q_max: scheme.q_max() };
        for w in run {
            out.push((*w, back[out.len()], quantized.codes[out.len()], grid));
        }
    }
    out
}

proptest! {
    #[test]
    fn the_error_inside_the_range_is_bounded_by_the_rounding((weights, columns) in matrix(), scheme in scheme()) {
        for (w, back, code, grid) in each(&weights, columns, scheme) {
            let clamped = i32::from(code) == grid.q_min || i32::from(code) == grid.q_max;
            if clamped && scheme.range != Range::MinMax {
                continue;
            }
            let steps = (f64::from(w) - f64::from(back)) / f64::from(grid.scale.max(f32::MIN_POSITIVE));
            // What f32 rounds on the way there and back, and what counts as on a code.
            let slack = 1e-3;
            let bound = match scheme.rounding {
                Rounding::Nearest => -0.5..=0.5,
                // At the ends of the range, where there is no lower or higher code, also the other way.
                Rounding::Floor | Rounding::Stochastic(_) => -1.0..=1.0,
            };
            prop_assert!(*bound.start() - slack <= steps && steps <= bound.end() + slack, "{w} came back as {back}: {steps} steps");
            let inside = scheme.rounding == Rounding::Floor && !clamped;
            prop_assert!(!inside || steps >= -slack, "{w} was not rounded down to {back}");
        }
    }

    #[test]
    fn quantizing_again_changes_nothing((weights, columns) in matrix(), scheme in scheme()) {
        let rounder = Rounder::new(scheme.rounding, UNIT);
        for (at, (_, back, code, grid)) in each(&weights, columns, scheme).into_iter().enumerate() {
            prop_assert_eq!(grid.code(back, &rounder, at), code);
        }
    }

    #[test]
    fn as_many_scales_as_the_footprint_counts((weights, columns) in matrix(), scheme in scheme()) {
        let quantized = quantize(&weights, columns, scheme, UNIT);
        let rows = weights.len() / columns;
        prop_assert_eq!(quantized.scales.len(), scheme.granularity.scales(rows, columns));
        prop_assert!(quantized.codes.iter().all(|q| (scheme.q_min()..=scheme.q_max()).contains(&i32::from(*q))));
    }

    #[test]
    fn more_bits_of_a_nested_grid_never_lose_more((weights, columns) in matrix(), per_channel in any::<bool>()) {
        // Without negative weights zero is the lowest code, and the steps of 2, 4 and 8 bits divide each other:
        // 3 | 15 | 255.
        let weights: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        let granularity = if per_channel { Granularity::Channel } else { Granularity::Tensor };
        let error = |bits| {
            let scheme = Integer::new(Bits::new(bits).unwrap(), Symmetry::Affine, granularity);
            each(&weights, columns, scheme).into_iter().map(|(w, back, ..)| (w - back).abs()).collect::<Vec<_>>()
        };
        for (w, ((two, four), eight)) in weights.iter().zip(error(2).into_iter().zip(error(4)).zip(error(8))) {
            let slack = 1e-3 * two + 1e-6 * (1.0 + w);
            prop_assert!(four <= two + slack && eight <= four + slack, "{two} {four} {eight}");
        }
    }

    #[test]
    fn least_squares_never_loses_to_the_whole_range((weights, columns) in matrix(), scheme in scheme()) {
        let loss = |range| {
            let scheme = Integer { range, ..scheme };
            each(&weights, columns, scheme).into_iter().map(|(w, back, ..)| f64::from(w - back).powi(2)).sum::<f64>()
        };
        let (least, whole) = (loss(Range::LeastSquares), loss(Range::MinMax));
        prop_assert!(least <= whole * (1.0 + 1e-6), "{least} {whole}");
    }

    #[test]
    fn a_group_as_wide_as_the_row_is_a_channel((weights, columns) in matrix(), scheme in scheme(), more in 0u32..3) {
        let quantized = |granularity| quantize(&weights, columns, Integer { granularity, ..scheme }, UNIT);
        prop_assert_eq!(quantized(Granularity::Group(columns as u32 + more)), quantized(Granularity::Channel));
    }

    #[test]
    fn rounding_in_place_is_storing_and_reading_back((weights, columns) in matrix(), scheme in scheme()) {
        let stored = dequantize(&quantize(&weights, columns, scheme, UNIT), columns, scheme);
        prop_assert_eq!(fake_quantize(weights.into(), columns, Scheme::Integer(scheme), UNIT), stored);
    }

    #[test]
    fn sign_keeps_what_a_binary_embedding_sees((weights, columns) in matrix()) {
        for scheme in [Scheme::Sign, Scheme::Half] {
            for (w, s) in weights.iter().zip(fake_quantize(weights.as_slice().into(), columns, scheme, UNIT)) {
                prop_assert_eq!(*w >= 0.0, s >= 0.0);
            }
        }
    }
}

#[test]
fn ties_go_to_even_as_in_torch() {
    let scheme = Integer::new(Bits::new(3).unwrap(), Symmetry::Symmetric, Granularity::Tensor);
    // Scale 1: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2.
    assert_eq!(quantize(&[3.0, 0.5, 1.5, 2.5, -0.5, -1.5], 6, scheme, UNIT).codes, [3, 0, 2, 2, 0, -2]);
}

#[test]
fn a_matrix_of_zeros_stays_zero() {
    for text in
        ["int4:symmetric:channel", "int4:affine:channel:percentile99", "int2:affine:tensor:least_squares"]
    {
        assert_eq!(fake_quantize(vec![0.0; 6].into(), 3, text.parse().unwrap(), UNIT), [0.0; 6]);
    }
}

#[test]
fn the_largest_floats_do_not_overflow() {
    for text in ["int8:affine:tensor", "int8:symmetric:tensor", "int2:affine:channel", "f16"] {
        let back = fake_quantize(vec![f32::MAX, f32::MIN, 0.0].into(), 3, text.parse().unwrap(), UNIT);
        assert!(back.iter().all(|w| w.is_finite()), "{text}: {back:?}");
    }
}

#[test]
fn a_percentile_leaves_the_outliers_out() {
    let mut weights: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) / 500.0).collect();
    weights[3] = 100.0;
    for symmetry in ["symmetric", "affine"] {
        let scale = |range: &str| {
            let Scheme::Integer(scheme) = format!("int8:{symmetry}:tensor:{range}").parse().unwrap() else {
                unreachable!()
            };
            quantize(&weights, 1000, scheme, UNIT).scales[0]
        };
        assert!(scale("percentile99.5") < scale("minmax") / 20.0);
        assert!(scale("least_squares") <= scale("minmax"));
        assert_eq!(scale("percentile100"), scale("minmax"));
    }
}
