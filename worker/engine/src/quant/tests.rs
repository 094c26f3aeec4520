//! Properties of every scheme, and the examples that they leave out.

use proptest::prelude::*;
use qslm_common::scheme::{self, Bits, Format, Granularity, Range, Rounding, Scheme, Symmetry};

use super::codes::runs;
use super::rounding::unless_on_code;
use super::*;
use crate::kernels::grid::{self, Grid};

const UNIT: &str = "head.weight";

/// A format and a quantizer.
type Rule = (Format, scheme::Quantizer);

fn rule() -> impl Strategy<Value = Rule> {
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
        |(bits, symmetry, granularity, rounding, range)| {
            let format = Format { bits: Bits::new(bits).unwrap(), symmetry, granularity };
            (format, scheme::Quantizer { rounding, range })
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

fn codes_of(weights: &[f32], columns: usize, (format, quantizer): Rule) -> Codes {
    quantize(Weights { values: weights, columns, unit: UNIT }, format, quantizer, &Statistics::NONE)
}

/// Every weight with its dequantized value, its code and the grid of its run.
fn each(weights: &[f32], columns: usize, rule: Rule) -> Vec<(f32, f32, i8, Grid)> {
    let codes = codes_of(weights, columns, rule);
    let back = codes.dequantize();
    let mut out = Vec::new();
    for (index, run) in runs(weights, columns, rule.0.granularity).enumerate() {
        for w in run {
            out.push((*w, back[out.len()], codes.values[out.len()], codes.grid(index)));
        }
    }
    out
}

/// The code of a weight on a grid, as `rounding` chooses it.
fn code(w: f32, grid: Grid, rounding: Rounding, at: usize) -> i8 {
    let mut code = [0];
    match rounding {
        Rounding::Nearest => grid::codes(&[w], grid, at, &|steps, _| steps.round_ties_even(), &mut code),
        Rounding::Floor => {
            grid::codes(&[w], grid, at, &unless_on_code(|steps, _| steps.floor()), &mut code);
        }
        Rounding::Stochastic(seed) => {
            let round = quantizers::stochastic_rounding(seed, UNIT);
            grid::codes(&[w], grid, at, &unless_on_code(round), &mut code);
        }
    }
    code[0]
}

proptest! {
    #[test]
    fn the_error_inside_the_range_is_bounded_by_the_rounding((weights, columns) in matrix(), rule in rule()) {
        let quantizer = rule.1;
        for (w, back, code, grid) in each(&weights, columns, rule) {
            let clamped = i32::from(code) == grid.q_min || i32::from(code) == grid.q_max;
            if clamped && quantizer.range != Range::MinMax {
                continue;
            }
            let steps = (f64::from(w) - f64::from(back)) / f64::from(grid.scale.max(f32::MIN_POSITIVE));
            // What f32 rounds on the way there and back, and what counts as on a code.
            let slack = 1e-3;
            let bound = match quantizer.rounding {
                Rounding::Nearest => -0.5..=0.5,
                // At the ends of the range, where there is no lower or higher code, also the other way.
                Rounding::Floor | Rounding::Stochastic(_) => -1.0..=1.0,
            };
            prop_assert!(
                *bound.start() - slack <= steps && steps <= bound.end() + slack,
                "{w} came back as {back}: {steps} steps"
            );
            let inside = quantizer.rounding == Rounding::Floor && !clamped;
            prop_assert!(!inside || steps >= -slack, "{w} was not rounded down to {back}");
        }
    }

    #[test]
    fn quantizing_again_changes_nothing((weights, columns) in matrix(), rule in rule()) {
        for (at, (_, back, first, grid)) in each(&weights, columns, rule).into_iter().enumerate() {
            prop_assert_eq!(code(back, grid, rule.1.rounding, at), first);
        }
    }

    #[test]
    fn as_many_scales_as_the_footprint_counts((weights, columns) in matrix(), rule in rule()) {
        let format = rule.0;
        let codes = codes_of(&weights, columns, rule);
        let rows = weights.len() / columns;
        prop_assert_eq!(codes.scales.len(), format.granularity.scales(rows, columns));
        let within = format.q_min()..=format.q_max();
        prop_assert!(codes.values.iter().all(|q| within.contains(&i32::from(*q))));
    }

    #[test]
    fn more_bits_of_a_nested_grid_never_lose_more((weights, columns) in matrix(), per_channel in any::<bool>()) {
        // Without negative weights zero is the lowest code, and the steps of 2, 4 and 8 bits divide each
        // other: 3 | 15 | 255.
        let weights: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        let granularity = if per_channel { Granularity::Channel } else { Granularity::Tensor };
        let error = |bits| {
            let format = Format { bits: Bits::new(bits).unwrap(), symmetry: Symmetry::Affine, granularity };
            let rule = (format, scheme::Quantizer::default());
            each(&weights, columns, rule).into_iter().map(|(w, back, ..)| (w - back).abs()).collect::<Vec<_>>()
        };
        for (w, ((two, four), eight)) in weights.iter().zip(error(2).into_iter().zip(error(4)).zip(error(8))) {
            let slack = 1e-3 * two + 1e-6 * (1.0 + w);
            prop_assert!(four <= two + slack && eight <= four + slack, "{two} {four} {eight}");
        }
    }

    #[test]
    fn least_squares_never_loses_to_the_whole_range((weights, columns) in matrix(), rule in rule()) {
        let loss = |range| {
            let rule = (rule.0, scheme::Quantizer { range, ..rule.1 });
            let errors = each(&weights, columns, rule).into_iter().map(|(w, back, ..)| f64::from(w - back).powi(2));
            errors.sum::<f64>()
        };
        let (least, whole) = (loss(Range::LeastSquares), loss(Range::MinMax));
        prop_assert!(least <= whole * (1.0 + 1e-6), "{least} {whole}");
    }

    #[test]
    fn a_group_as_wide_as_the_row_is_a_channel((weights, columns) in matrix(), rule in rule(), more in 0u32..3) {
        let quantized = |granularity| {
            let Codes { values, scales, zero_points, .. } =
                codes_of(&weights, columns, (Format { granularity, ..rule.0 }, rule.1));
            (values, scales, zero_points)
        };
        prop_assert_eq!(quantized(Granularity::Group(columns as u32 + more)), quantized(Granularity::Channel));
    }

    #[test]
    fn a_network_computes_with_what_is_stored((weights, columns) in matrix(), (format, quantizer) in rule()) {
        let stored = codes_of(&weights, columns, (format, quantizer)).dequantize();
        let scheme = Scheme::Integer { format, quantizer };
        prop_assert_eq!(&fake_quantize(weights.as_slice().into(), columns, scheme, UNIT), &stored);
        prop_assert_eq!(fake_quantize(weights.into(), columns, scheme, UNIT), stored);
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
    let Scheme::Integer { format, quantizer } = "int3:symmetric:tensor".parse().unwrap() else {
        unreachable!()
    };
    // Scale 1: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2.
    let codes = codes_of(&[3.0, 0.5, 1.5, 2.5, -0.5, -1.5], 6, (format, quantizer));
    assert_eq!(codes.values, [3, 0, 2, 2, 0, -2]);
}

#[test]
fn floor_goes_down_and_leaves_what_is_on_a_code() {
    let Scheme::Integer { format, quantizer } = "int3:symmetric:tensor:truncate".parse().unwrap() else {
        unreachable!()
    };
    // Scale 1.
    let codes = codes_of(&[3.0, 1.9, -1.1, 2.0, 1.9999, -0.0001], 6, (format, quantizer));
    assert_eq!(codes.values, [3, 1, -2, 2, 2, 0]);
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
            let text = format!("int8:{symmetry}:tensor:{range}");
            let Scheme::Integer { format, quantizer } = text.parse().unwrap() else { unreachable!() };
            codes_of(&weights, 1000, (format, quantizer)).scales[0]
        };
        assert!(scale("percentile99.5") < scale("minmax") / 20.0);
        assert!(scale("least_squares") <= scale("minmax"));
        assert_eq!(scale("percentile100"), scale("minmax"));
    }
}
