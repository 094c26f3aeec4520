//! Coordinate descent against brute force and its own conditions.

use proptest::prelude::*;

use super::super::examples::{format_of, noise};
use super::*;
use crate::quant::hessian::InputMoments;
use crate::quant::quantize;

const DAMPING: f64 = 0.01;

/// Hessian of inputs whose columns have much in common.
fn hessian(columns: usize, seed: u64) -> Hessian {
    let (own, common) = (noise(40 * columns, seed), noise(40, seed + 1));
    let inputs: Vec<f32> = (0..40 * columns).map(|i| own[i] + 1.5 * common[i / columns]).collect();
    let mut moments = InputMoments::new(columns);
    moments.add(&inputs);
    moments.finish().unwrap()
}

fn chosen(values: &[f32], columns: usize, text: &str, hessian: &Hessian) -> Codes {
    let factor = hessian.factor(DAMPING, false).unwrap();
    let statistics = Statistics { inputs: Some(&factor), hessian: Some(hessian), ..Statistics::NONE };
    let weights = Weights { values, columns, unit: "head.weight" };
    Descent { range: Range::LeastSquares }.quantize(weights, format_of(text), &statistics)
}

fn nearest(values: &[f32], columns: usize, text: &str) -> Codes {
    let weights = Weights { values, columns, unit: "head.weight" };
    let quantizer = qslm_common::scheme::Quantizer { range: Range::LeastSquares, ..Default::default() };
    quantize(weights, format_of(text), quantizer, &Statistics::NONE)
}

/// `e Hd e^T` of the rows.
fn losses(values: &[f32], codes: &Codes, hessian: &Hessian) -> Vec<f64> {
    let h = damped(hessian, DAMPING);
    let of_row = |(w, back): (&[f32], &[f32])| {
        let e: Vec<f64> = w.iter().zip(back).map(|(w, v)| f64::from(*v) - f64::from(*w)).collect();
        let product = |(h, e_i): (&Vec<f64>, &f64)| e_i * h.iter().zip(&e).map(|(h, e)| h * e).sum::<f64>();
        h.iter().zip(&e).map(product).sum()
    };
    let columns = codes.columns;
    values.chunks_exact(columns).zip(codes.dequantize().chunks_exact(columns)).map(of_row).collect()
}

/// The row's code sequences with each weight on one of the codes next to it, and what they lose.
fn all(values: &[f32], start: &Codes, hessian: &Hessian) -> Vec<f64> {
    let columns = start.columns;
    let mut tried = Vec::new();
    for choice in 0..1u32 << columns {
        let mut codes = start.clone();
        let back = start.dequantize();
        for column in (0..columns).filter(|column| choice >> column & 1 == 1) {
            let grid = start.grid(0);
            let direction: i32 = if back[column] < values[column] { 1 } else { -1 };
            let code = i32::from(codes.values[column]) + direction;
            codes.values[column] = code.clamp(grid.q_min, grid.q_max) as i8;
        }
        tried.extend(losses(values, &codes, hessian));
    }
    tried
}

proptest! {
    #[test]
    fn no_row_loses_more_than_to_nearest_and_no_change_of_one_code_helps(
        seed in 0u64..500, columns in 1usize..9, text in prop::sample::select(vec![
            "int2:full:channel:f16", "int3:affine:channel", "int2:ternary:channel:pow2", "int4:symmetric:channel",
        ])
    ) {
        let (values, hessian) = (noise(columns, seed), hessian(columns, seed + 7));
        let (codes, start) = (chosen(&values, columns, text, &hessian), nearest(&values, columns, text));
        let (after, before) = (losses(&values, &codes, &hessian)[0], losses(&values, &start, &hessian)[0]);
        prop_assert!(after <= before * (1.0 + 1e-9) + 1e-12, "{after} after {before}");
        prop_assert_eq!(&codes.scales, &start.scales);
        let (grid, back) = (codes.grid(0), codes.dequantize());
        for column in 0..columns {
            let distance = (f64::from(back[column]) - f64::from(values[column])).abs();
            let changed = codes.values[column] != start.values[column];
            prop_assert!(!changed || distance < f64::from(grid.scale) * (1.0 + 1e-6), "beyond the next code");
        }
        // Each of the neighbours of what was chosen that differ from it in one code.
        let neighbours = all(&values, &codes, &hessian);
        for column in 0..columns {
            prop_assert!(neighbours[1 << column] >= after * (1.0 - 1e-6) - 1e-9, "column {column} helps");
        }
    }
}

#[test]
fn it_is_near_the_best_of_all_choices() {
    let (mut found, mut best) = (0.0, 0.0);
    for seed in 0..40 {
        let (values, hessian) = (noise(8, seed), hessian(8, seed + 100));
        let codes = chosen(&values, 8, "int2:full:channel:f16", &hessian);
        let start = nearest(&values, 8, "int2:full:channel:f16");
        found += losses(&values, &codes, &hessian)[0];
        best += all(&values, &start, &hessian).into_iter().fold(f64::INFINITY, f64::min);
    }
    assert!(found >= best * (1.0 - 1e-9) && found < 1.2 * best, "{found}, at best {best}");
}

#[test]
fn without_correlation_it_is_to_nearest() {
    // Inputs that are one column each: a diagonal Hessian.
    let mut moments = InputMoments::new(4);
    let inputs: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 + i as f32 } else { 0.0 }).collect();
    moments.add(&inputs);
    let hessian = moments.finish().unwrap();
    let values = noise(12, 3);
    let text = "int3:full:channel:f16";
    assert_eq!(chosen(&values, 4, text, &hessian), nearest(&values, 4, text));
}

#[test]
fn two_weights_that_enter_as_one_share_their_errors() {
    // x_1 = x_2 always: only the sum of both errors counts, so of 0.4 and 0.4 in steps of 1 one goes up.
    let mut moments = InputMoments::new(2);
    moments.add(&[1.0, 1.0, -2.0, -2.0]);
    let hessian = moments.finish().unwrap();
    let step = |code: i32, error: f64| Place { code, least: -4, most: 3, step: 1.0, error };
    let mut row = [step(0, -0.4), step(0, -0.4)];
    descend(&mut row, &damped(&hessian, 0.0));
    assert_eq!(row.map(|place| place.code), [1, 0]);
}
