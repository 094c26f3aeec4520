//! Weights to codes and back, and activations.
//!
//! A matrix is cut into runs that share a scale: all of it, a row, or a group of columns. Each run is quantized
//! on its own: `range` picks the scale and the zero point, `rounding` the code of each weight.
//! Formulas: docs/model.md (Quantization) and [`qslm_common::scheme`].

mod activation;
pub mod pack;
mod range;
mod rounding;

use std::borrow::Cow;

use half::f16;
use qslm_common::scheme::{Granularity, Integer, Scheme, Symmetry};

use crate::kernels::grid::Grid;
pub use activation::{fake_quantize_rows, grid_of_row};
use rounding::Rounder;

/// A matrix as integer codes with their scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// One code per weight, row-major, within the scheme's `q_min..=q_max`.
    pub codes: Vec<i8>,
    /// One scale per run, in the order of the runs. Never negative; 0 if all weights of the run are 0.
    pub scales: Vec<f32>,
    /// One code per run that stands for zero; empty if symmetric.
    pub zero_points: Vec<i8>,
}

/// The weights that a network stored under `scheme` computes with.
///
/// `weights` is `[rows, columns]` row-major and finite; `unit` is the matrix's name, which seeds stochastic
/// rounding. `Sign` gives +1 and -1. Owned weights are rounded where they are, so that a large matrix is not there
/// twice.
pub fn fake_quantize(weights: Cow<'_, [f32]>, columns: usize, scheme: Scheme, unit: &str) -> Vec<f32> {
    let mut weights = weights.into_owned();
    match scheme {
        Scheme::Float => {}
        Scheme::Half => weights.iter_mut().for_each(|w| *w = to_half(*w).to_f32()),
        Scheme::Sign => weights.iter_mut().for_each(|w| *w = if *w >= 0.0 { 1.0 } else { -1.0 }),
        Scheme::Integer(integer) => {
            let rounder = Rounder::new(integer.rounding, unit);
            let mut start = 0;
            let (row, length) = run_lengths(weights.len(), columns, integer.granularity);
            for run in weights.chunks_mut(row).flat_map(|row| row.chunks_mut(length)) {
                let grid = range::grid(run, integer, &rounder, start);
                for (at, w) in (start..).zip(run.iter_mut()) {
                    *w = grid.weight(grid.code(*w, &rounder, at));
                }
                start += run.len();
            }
        }
    }
    weights
}

/// Rounds to nearest; what is too large becomes the largest 16-bit float, and a negative weight never zero,
/// because a binary embedding sees only the sign.
pub fn to_half(w: f32) -> f16 {
    let rounded = f16::from_f32(w.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    if w < 0.0 && rounded == f16::ZERO { f16::from_bits(0x8001) } else { rounded }
}

/// Quantizes `[rows, columns]` finite weights of `unit`.
pub fn quantize(weights: &[f32], columns: usize, scheme: Integer, unit: &str) -> Quantized {
    let rounder = Rounder::new(scheme.rounding, unit);
    let mut out = Quantized { codes: Vec::with_capacity(weights.len()), scales: vec![], zero_points: vec![] };
    for run in runs(weights, columns, scheme.granularity) {
        let start = out.codes.len();
        let grid = range::grid(run, scheme, &rounder, start);
        out.codes.extend(run.iter().zip(start..).map(|(w, at)| grid.code(*w, &rounder, at)));
        out.scales.push(grid.scale);
        if scheme.symmetry == Symmetry::Affine {
            out.zero_points.push(grid.zero as i8);
        }
    }
    out
}

/// `w = s (q - z)` for every code of a `[rows, columns]` matrix.
pub fn dequantize(quantized: &Quantized, columns: usize, scheme: Integer) -> Vec<f32> {
    let mut weights = Vec::with_capacity(quantized.codes.len());
    for (index, run) in runs(&quantized.codes, columns, scheme.granularity).enumerate() {
        let zero = quantized.zero_points.get(index).copied().unwrap_or(0).into();
        let grid =
            Grid { scale: quantized.scales[index], zero, q_min: scheme.q_min(), q_max: scheme.q_max() };
        weights.extend(run.iter().map(|q| grid.weight(*q)));
    }
    weights
}

/// The runs of a row-major matrix that share a scale, in storage order.
fn runs<T>(matrix: &[T], columns: usize, granularity: Granularity) -> impl Iterator<Item = &[T]> {
    let (row, run) = run_lengths(matrix.len(), columns, granularity);
    matrix.chunks(row).flat_map(move |row| row.chunks(run))
}

/// After how many elements of a matrix of `size` a row ends, and within it a run. Both at least 1.
fn run_lengths(size: usize, columns: usize, granularity: Granularity) -> (usize, usize) {
    let (row, run) = match granularity {
        Granularity::Tensor => (size, size),
        Granularity::Channel | Granularity::Group(_) => (columns, granularity.run(columns)),
    };
    (row.max(1), run.max(1))
}

#[cfg(test)]
mod tests;
