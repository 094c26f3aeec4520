//! GPTQ against its formulas, a brute-force search, and an independent program's vectors
//! (`tests/data/gptq/make.py`).

use proptest::prelude::*;
use qslm_common::scheme::Scheme;
use serde::Deserialize;

use super::super::examples::{format_of, noise};
use super::*;
use crate::quant::hessian::{Hessian, InputMoments};
use crate::quant::quantize;

fn hessian_of(inputs: &[f32], columns: usize) -> Hessian {
    let mut moments = InputMoments::new(columns);
    moments.add(inputs);
    moments.finish().unwrap()
}

/// Inputs whose columns have much in common.
fn correlated(tokens: usize, columns: usize, seed: u64) -> Vec<f32> {
    let own = noise(tokens * columns, seed);
    let common = noise(tokens, seed + 1);
    (0..tokens * columns)
        .map(|i| own[i] + 1.5 * common[i / columns] * ((i % columns) as f32 * 0.9).cos())
        .collect()
}

fn gptq(weights: &[f32], columns: usize, format: Format, factor: &Factor) -> Codes {
    let statistics = Statistics { inputs: Some(factor), ..Statistics::NONE };
    let weights = Weights { values: weights, columns, unit: "head.weight" };
    Gptq { range: Range::LeastSquares }.quantize(weights, format, &statistics)
}

/// `(w - w^) Hd (w - w^)^T` of a row.
fn loss(hessian: &Hessian, damping: f64, weights: &[f32], restored: &[f64]) -> f64 {
    let columns = weights.len();
    let diagonal: Vec<f64> = hessian.diagonal().map(|h| if h == 0.0 { 1.0 } else { h }).collect();
    let mean = diagonal.iter().sum::<f64>() / columns as f64;
    let error: Vec<f64> =
        weights.iter().zip(restored).map(|(w, restored)| f64::from(*w) - restored).collect();
    let h = |i: usize, j: usize| {
        if i == j { diagonal[i] + damping * mean } else { hessian.values()[i * columns + j] }
    };
    (0..columns)
        .flat_map(|i| (0..columns).map(move |j| (i, j)))
        .map(|(i, j)| error[i] * h(i, j) * error[j])
        .sum()
}

fn restored(codes: &[i8], grid: Grid) -> Vec<f64> {
    let of = |code: &i8| {
        f64::from(grid.scale) * (f64::from(i32::from(*code) - grid.zero) + f64::from(grid.offset))
    };
    codes.iter().map(of).collect()
}

#[derive(Deserialize)]
struct Case {
    name: String,
    rows: usize,
    columns: usize,
    symmetry: String,
    bits: u8,
    damping: f64,
    act_order: bool,
    inputs: Vec<Vec<f32>>,
    weights: Vec<f32>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    codes: Vec<i8>,
    loss: f64,
}

#[test]
fn an_independent_program_chooses_the_same_codes() {
    let text = include_str!("../../../../tests/data/gptq/vectors.json");
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let Case { name, rows, columns, .. } = &case;
        let hessian = hessian_of(&case.inputs.concat(), *columns);
        let factor = hessian.factor(case.damping, case.act_order).unwrap();
        let format = format_of(&format!("int{}:{}:channel", case.bits, case.symmetry));
        let grid = |row: usize| Grid {
            scale: case.scales[row],
            zero: case.zero_points.get(row).copied().unwrap_or(0),
            offset: format.offset(),
            q_min: format.q_min(),
            q_max: format.q_max(),
        };
        let mut codes = vec![0; rows * columns];
        sweep(&case.weights, *columns, &|row, _| grid(row), &factor, &mut codes);
        let dead: Vec<bool> = hessian.diagonal().map(|h| h == 0.0).collect();
        let mut sum = 0.0;
        for row in 0..*rows {
            let at = row * columns..(row + 1) * columns;
            let mut weights = case.weights[at.clone()].to_vec();
            let mut theirs = case.codes[at.clone()].to_vec();
            for column in (0..*columns).filter(|column| dead[*column]) {
                // The published code sets such weights to zero; here they go to the nearest code.
                assert_eq!(codes[at.start + column], nearest(weights[column].into(), grid(row)).0, "{name}");
                (weights[column], theirs[column]) = (0.0, codes[at.start + column]);
            }
            assert_eq!(codes[at.clone()], theirs, "{name}, row {row}");
            sum += loss(&hessian, case.damping, &weights, &restored(&case.codes[at], grid(row)));
        }
        if !dead.contains(&true) {
            let of_tokens = sum * case.inputs.len() as f64 / 2.0;
            assert!((of_tokens / case.loss - 1.0).abs() < 1e-9, "{name}: {of_tokens}, theirs {}", case.loss);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The loss of a row is the sum of what each column's own error costs, whatever was clipped.
    #[test]
    fn the_errors_of_columns_add_up_to_the_loss(
        columns in 1usize..40,
        seed in 1u64..1000,
        text in prop::sample::select(vec!["int2:full:channel", "int3:affine:channel", "int2:ternary:tensor", "int4:symmetric:group8:f16"]),
        act_order in any::<bool>(),
    ) {
        let (rows, damping) = (11, 0.01);
        let hessian = hessian_of(&correlated(2 * columns + 3, columns, seed), columns);
        let factor = hessian.factor(damping, act_order).unwrap();
        let weights = noise(rows * columns, seed + 7);
        let codes = gptq(&weights, columns, format_of(text), &factor);
        for (row, w) in weights.chunks(columns).enumerate() {
            let grid = |column| codes.grid(codes.format.granularity.run_of(columns, row, column));
            let value = |column: usize| restored(&codes.values[row * columns + column..][..1], grid(column))[0];
            let restored: Vec<f64> = (0..columns).map(value).collect();
            let errors: Vec<f64> = factor.order().iter().map(|c| f64::from(w[*c]) - restored[*c]).collect();
            let own = |place: usize| {
                let made_up: f64 = factor.feedback(place).iter().zip(&errors).map(|(f, e)| f * e).sum();
                factor.cost(place) * (errors[place] + made_up).powi(2)
            };
            let (sum, loss) = ((0..columns).map(own).sum::<f64>(), loss(&hessian, damping, w, &restored));
            prop_assert!((sum - loss).abs() <= 1e-9 * loss.max(1e-9), "{} {}", sum, loss);
        }
    }

    /// Larger inputs are the same problem, and rows do not know of each other.
    #[test]
    fn codes_depend_on_neither_the_scale_of_inputs_nor_on_other_rows(columns in 2usize..30, seed in 1u64..1000) {
        let inputs = correlated(3 * columns, columns, seed);
        let larger: Vec<f32> = inputs.iter().map(|x| x * 4.0).collect();
        let factor = |inputs: &[f32]| hessian_of(inputs, columns).factor(0.1, false).unwrap();
        let (factor, of_larger) = (factor(&inputs), factor(&larger));
        let (weights, format) = (noise(10 * columns, seed), format_of("int3:full:channel"));
        let codes = gptq(&weights, columns, format, &factor);
        prop_assert_eq!(&codes, &gptq(&weights, columns, format, &of_larger));
        let backwards: Vec<f32> = weights.chunks(columns).rev().flatten().copied().collect();
        let of_backwards = gptq(&backwards, columns, format, &factor);
        let expected: Vec<i8> = codes.values.chunks(columns).rev().flatten().copied().collect();
        prop_assert_eq!(of_backwards.values, expected);
    }
}

#[test]
fn inputs_that_have_nothing_in_common_leave_each_weight_its_nearest_code() {
    let columns = 24;
    // Each token feeds one column.
    let inputs: Vec<f32> =
        (0..columns * columns).map(|i| if i % (columns + 1) == 0 { 1.0 + i as f32 } else { 0.0 }).collect();
    let factor = hessian_of(&inputs, columns).factor(0.01, false).unwrap();
    let weights = noise(9 * columns, 3);
    for text in
        ["int2:full:channel", "int3:affine:group8", "int4:symmetric:tensor:f16", "int2:ternary:channel"]
    {
        let Ok(Scheme::Integer { format, quantizer }) = format!("{text}:least_squares").parse() else {
            panic!()
        };
        let weights = Weights { values: &weights, columns, unit: "head.weight" };
        let expected = quantize(weights, format, quantizer, &Statistics::NONE);
        assert_eq!(gptq(weights.values, columns, format, &factor), expected, "{text}");
    }
}

#[test]
fn of_two_columns_the_second_makes_up_for_the_first() {
    let inputs = correlated(50, 2, 4);
    let (hessian, weights) = (hessian_of(&inputs, 2), [0.37f32, -0.81]);
    let factor = hessian.factor(1e-9, false).unwrap();
    let format = format_of("int4:symmetric:tensor");
    let codes = gptq(&weights, 2, format, &factor);
    let grid = codes.grid(0);
    let (first, value) = nearest(weights[0].into(), grid);
    let made_up = (f64::from(weights[0]) - value) * hessian.values()[1] / hessian.values()[3];
    assert_eq!(codes.values, [first, nearest(f64::from(weights[1]) + made_up, grid).0]);
}

#[test]
fn no_codes_lose_less_than_the_best_of_all() {
    let (columns, format) = (4, format_of("int2:full:channel"));
    let mut equal = 0;
    for seed in 1..40 {
        let hessian = hessian_of(&correlated(20, columns, seed), columns);
        let factor = hessian.factor(0.01, false).unwrap();
        let weights = noise(columns, seed + 50);
        let codes = gptq(&weights, columns, format, &factor);
        let grid = codes.grid(0);
        let of = |codes: &[i8]| loss(&hessian, 0.01, &weights, &restored(codes, grid));
        let all = (0..256).map(|n: i32| [0, 2, 4, 6].map(|shift| ((n >> shift) & 3) as i8 - 2));
        let best = all.map(|codes| of(&codes)).fold(f64::INFINITY, f64::min);
        let (found, nearest_loss) = (of(&codes.values), {
            let each: Vec<i8> = weights.iter().map(|w| nearest((*w).into(), grid).0).collect();
            of(&each)
        });
        assert!(found >= best * (1.0 - 1e-12), "{seed}: {found} {best}");
        assert!(best <= nearest_loss);
        equal += u32::from(found <= best * (1.0 + 1e-9));
    }
    assert!(equal > 10, "{equal} of 39 are the best there are");
}

#[test]
fn on_a_wide_grid_the_gain_is_that_of_the_costs() {
    let columns = 48;
    let hessian = hessian_of(&correlated(400, columns, 9), columns);
    let factor = hessian.factor(0.01, false).unwrap();
    let weights = noise(400 * columns, 10);
    let format = format_of("int8:symmetric:tensor");
    let codes = gptq(&weights, columns, format, &factor);
    let grid = codes.grid(0);
    let (mut found, mut of_nearest) = (0.0, 0.0);
    for (w, codes) in weights.chunks(columns).zip(codes.values.chunks(columns)) {
        let each: Vec<i8> = w.iter().map(|w| nearest((*w).into(), grid).0).collect();
        found += loss(&hessian, 0.01, w, &restored(codes, grid));
        of_nearest += loss(&hessian, 0.01, w, &restored(&each, grid));
    }
    let damping = 0.01 * hessian.diagonal().sum::<f64>() / columns as f64;
    let diagonal: f64 = hessian.diagonal().map(|h| h + damping).sum();
    let costs: f64 = (0..columns).map(|place| factor.cost(place)).sum();
    let (ratio, expected) = (found / of_nearest, costs / diagonal);
    assert!((ratio / expected - 1.0).abs() < 0.05, "{ratio} {expected}");
}

#[test]
fn weights_that_are_on_the_grid_stay_there() {
    let columns = 16;
    let factor = hessian_of(&correlated(60, columns, 5), columns).factor(0.01, false).unwrap();
    let weights: Vec<f32> = (0..columns * 4).map(|i| ((i * 5) % 8) as f32 - 4.0 + 0.5).collect();
    let grid = Grid { scale: 1.0, zero: 0, offset: 0.5, q_min: -4, q_max: 3 };
    let mut codes = vec![0; weights.len()];
    sweep(&weights, columns, &|_, _| grid, &factor, &mut codes);
    assert_eq!(restored(&codes, grid), weights.iter().map(|w| f64::from(*w)).collect::<Vec<_>>());
}

#[test]
fn a_row_of_zeros_is_zeros() {
    let factor = hessian_of(&correlated(30, 8, 6), 8).factor(0.01, false).unwrap();
    for text in ["int3:affine:channel", "int2:full:channel", "int2:ternary:tensor"] {
        let codes = gptq(&[0.0; 24], 8, format_of(text), &factor);
        assert!(codes.dequantize().iter().all(|w| *w == 0.0), "{text}");
        assert_eq!(codes.format.granularity.scales(3, 8), codes.scales.len());
    }
}
