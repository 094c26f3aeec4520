//! Properties of every scheme, and the examples that they leave out.

use proptest::prelude::*;
use qslm_common::scheme::{self, Bits, Format, Granularity, Range, Rounding, Scales, Scheme, Symmetry};

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
    let symmetry =
        prop::sample::select(vec![Symmetry::Symmetric, Symmetry::Affine, Symmetry::Full, Symmetry::Ternary]);
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
    let scales = prop_oneof![Just(Scales::F32), Just(Scales::F16), Just(Scales::Pow2)];
    (2u8..=8, symmetry, (granularity, scales), rounding, range).prop_map(
        |(bits, symmetry, (granularity, scales), rounding, range)| {
            let bits = Bits::new(bits).unwrap();
            let format = Format { bits, symmetry: symmetry.of_width(bits), granularity, scales };
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
        Rounding::Gptq | Rounding::Descent | Rounding::Slim | Rounding::Frequency | Rounding::Trained => {
            panic!("they do not round weights each on its own")
        }
        Rounding::Floor => {
            grid::codes(&[w], grid, at, &unless_on_code(|steps, _| steps.floor()), &mut code);
        }
        Rounding::Stochastic(seed) => {
            let round = quantizers::stochastic_rounding(seed.into(), UNIT);
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
            // A scale that was rounded to 16 bits may fall short of the outermost weight, or be nothing at all.
            let short = rule.0.scales == Scales::F16 && clamped || rule.0.scales != Scales::F32 && grid.scale == 0.0;
            if clamped && quantizer.range != Range::MinMax || short {
                continue;
            }
            let steps = (f64::from(w) - f64::from(back)) / f64::from(grid.scale.max(f32::MIN_POSITIVE));
            // What f32 rounds on the way there and back, and what counts as on a code.
            let slack = 1e-3;
            let bound = match quantizer.rounding {
                Rounding::Nearest => -0.5..=0.5,
                Rounding::Gptq
        | Rounding::Descent
        | Rounding::Slim
        | Rounding::Frequency
        | Rounding::Trained => panic!("they have tests of their own"),
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
            let (bits, symmetry, scales) = (Bits::new(bits).unwrap(), Symmetry::Affine, Scales::F32);
            let format = Format { bits, symmetry, granularity, scales };
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
    for text in [
        "int4:symmetric:channel",
        "int2:full:channel",
        "int4:affine:channel:percentile99",
        "int2:affine:tensor:least_squares",
    ] {
        assert_eq!(fake_quantize(vec![0.0; 6].into(), 3, text.parse().unwrap(), UNIT), [0.0; 6]);
    }
}

#[test]
fn the_largest_floats_do_not_overflow() {
    for text in
        ["int8:affine:tensor", "int8:symmetric:tensor", "int2:affine:channel", "int7:full:tensor", "f16"]
    {
        let back = fake_quantize(vec![f32::MAX, f32::MIN, 0.0].into(), 3, text.parse().unwrap(), UNIT);
        assert!(back.iter().all(|w| w.is_finite()), "{text}: {back:?}");
    }
}

#[test]
fn a_percentile_leaves_the_outliers_out() {
    let mut weights: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) / 500.0).collect();
    weights[3] = 100.0;
    for symmetry in ["symmetric", "affine", "full"] {
        let scale = |range: &str| {
            let text = format!("int7:{symmetry}:tensor:{range}");
            let Scheme::Integer { format, quantizer } = text.parse().unwrap() else { unreachable!() };
            codes_of(&weights, 1000, (format, quantizer)).scales[0]
        };
        assert!(scale("percentile99.5") < scale("minmax") / 20.0);
        assert!(scale("least_squares") <= scale("minmax"));
        assert_eq!(scale("percentile100"), scale("minmax"));
    }
}

#[test]
fn full_codes_have_as_many_levels_on_either_side_of_zero() {
    let Scheme::Integer { format, quantizer } = "int2:full:tensor".parse().unwrap() else { unreachable!() };
    // Step 2, levels -3, -1, 1, 3; 2 lies in the middle, and goes to the even code.
    let codes = codes_of(&[3.0, -3.0, 0.5, -0.1, 2.0, 2.1], 6, (format, quantizer));
    assert_eq!((&codes.values[..], codes.scales[0]), (&[1, -2, 0, -1, 0, 1][..], 2.0));
    assert_eq!(codes.dequantize(), [3.0, -3.0, 1.0, -1.0, 1.0, 3.0]);
    assert!(codes.zero_points.is_empty());
}

/// Standard normal quantiles, as many above zero as below.
fn gaussian() -> Vec<f32> {
    let normal = statrs::distribution::Normal::standard();
    let quantile =
        |i: u32| statrs::distribution::ContinuousCDF::inverse_cdf(&normal, (f64::from(i) + 0.5) / 20_000.0);
    (0..20_000).map(|i| quantile(i) as f32).collect()
}

/// What a uniform quantizer of a normal variable loses at its best step, of 2^b - 1 and of 2^b codes (Max 1960).
#[test]
fn codes_that_are_all_used_lose_what_theory_says() {
    let weights = gaussian();
    let error = |symmetry: &str, bits: u8| {
        let text = format!("int{bits}:{symmetry}:tensor:least_squares");
        let Scheme::Integer { format, quantizer } = text.parse().unwrap() else { unreachable!() };
        let back = codes_of(&weights, weights.len(), (format, quantizer)).dequantize();
        let squares = weights.iter().zip(back).map(|(w, back)| f64::from(w - back).powi(2));
        squares.sum::<f64>() / weights.len() as f64
    };
    for (bits, symmetric, full) in [(2, 0.190_17, 0.118_85), (3, 0.046_86, 0.037_44), (4, 0.012_89, 0.011_54)]
    {
        for (symmetry, expected) in [("symmetric", symmetric), ("full", full)] {
            let ratio = error(symmetry, bits) / expected;
            // The step is one of 81, and extreme quantiles stand for a tail.
            assert!((0.97..1.03).contains(&ratio), "{symmetry}, {bits} bits: {ratio} of theory");
        }
        // A zero point has one level more on one side only.
        assert!(error("full", bits) <= error("affine", bits) * 1.001, "{bits} bits");
    }
}

/// Draws of a normal variable (Box and Muller), `[rows, columns]`.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

/// Bits per weight that an entropy coder takes for codes, and their mean squared error.
fn entropy_and_error(weights: &[f32], columns: usize, scheme: &str) -> (f64, f64) {
    let Ok(Scheme::Integer { format, quantizer }) = scheme.parse() else { panic!("{scheme}") };
    let codes = codes_of(weights, columns, (format, quantizer));
    let restored = codes.dequantize();
    let squared: f64 = weights.iter().zip(&restored).map(|(w, r)| f64::from(w - r).powi(2)).sum();
    (entropy(&codes.values), squared / weights.len() as f64)
}

#[test]
fn codes_with_a_step_take_the_bits_and_lose_the_errors_of_the_theory() {
    let weights = normal(400 * 1024);
    // METHODS: a uniform quantizer without an end at 2, 3 and 4 bits of entropy.
    for (step, bits, error) in [("1.08", 2.0, 0.09764), ("0.52", 3.0, 0.02274), ("0.26", 4.0, 0.00559)] {
        let (entropy, squared) = entropy_and_error(&weights, 1024, &format!("ec:{step}:channel"));
        assert!((entropy - bits).abs() < 0.02, "{step}: {entropy} bits");
        assert!((squared / error - 1.0).abs() < 0.02, "{step}: {squared}");
        let (finer, _) = entropy_and_error(&weights, 1024, &format!("ec:{}:channel", half(step)));
        assert!((finer - entropy - 1.0).abs() < 0.05, "half the step takes a bit more: {entropy} {finer}");
    }
}

/// Half of a step, as a text.
fn half(step: &str) -> String {
    format!("{:.2}", step.parse::<f64>().unwrap() / 2.0)
}

#[test]
fn smaller_steps_take_more_bytes_and_come_closer_to_the_weights() {
    let weights = normal(64 * 300);
    let mut before = (usize::MAX, 0.0);
    for step in ["0.03", "0.10", "0.35", "0.50", "0.70", "1.00", "1.40"] {
        let scheme = format!("ec:{step}:channel:f16");
        let Ok(Scheme::Integer { format, quantizer }) = scheme.parse() else { panic!("{scheme}") };
        let codes = codes_of(&weights, 300, (format, quantizer));
        let (bytes, (_, error)) =
            (rans::encode(&codes.values, 300).len(), entropy_and_error(&weights, 300, &scheme));
        assert!(bytes < before.0 && error > before.1, "{step}: {bytes} bytes, error {error}");
        assert!(error < 1e-3 || step != "0.03");
        before = (bytes, error);
    }
}

/// On matrices of the small bundled model's shapes, tables and heads of streams counted.
#[test]
fn entropy_coded_codes_take_little_more_than_their_entropy() {
    let shapes = [(128, 128), (128, 128), (128, 128), (128, 128), (512, 128), (128, 512), (128, 128)];
    let all: Vec<(usize, usize)> = shapes.iter().copied().cycle().take(28).chain([(2048, 128)]).collect();
    for (scheme, most) in [("int4:symmetric:channel", 1.005), ("int2:full:channel:f16:least_squares", 1.008)]
    {
        let (mut coded, mut ideal) = (0.0, 0.0);
        for (rows, columns) in &all {
            let weights = normal(rows * columns);
            let Ok(Scheme::Integer { format, quantizer }) = scheme.parse() else { panic!("{scheme}") };
            let codes = codes_of(&weights, *columns, (format, quantizer));
            coded += rans::encode(&codes.values, *columns).len() as f64;
            ideal += entropy_and_error(&weights, *columns, scheme).0 * weights.len() as f64 / 8.0;
        }
        assert!(
            coded <= most * ideal,
            "{scheme}: {coded} bytes, {ideal} at the entropy: {:.4}",
            coded / ideal
        );
    }
}
