//! Greedy coordinate descent: each weight takes one of the two codes next to it, and single codes change, the one first that
//! brings most, until no change lowers the error of a row's output.
//!
//! The aim is AdaRound's (Nagel et al., arXiv 2004.10568), least `(w - w^) Hd (w - w^)^T` with every weight rounded down or
//! up, the descent that of CDQuant (Nair and Suggala, arXiv 2406.17542). It begins with codes to nearest, and ends where
//! no single change helps. GPTQ may move a weight further; that lowers the error on the calibration data as much, and costs
//! more on other data.

use qslm_common::scheme::{Format, Range};

use crate::kernels::grid::Grid;
use crate::kernels::outer::subtract_scaled;
use crate::quant::{Codes, Hessian, Needs, Quantizer, Statistics, Weights, round_each};

/// Share of what a change of one code costs at most below which a gain may be rounding.
const LEAST_GAIN: f64 = 1e-9;
/// Changes in a row at most, as a multiple of its columns: what would go on for longer goes in circles.
const MOST_CHANGES: usize = 8;

/// Rounding down or up by greedy coordinate descent.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Descent {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn needs(&self) -> Needs {
        Needs::Hessian
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes {
        let mut codes = round_each(weights, format, self.range, |steps, _| steps.round_ties_even());
        if let (Some(hessian), Some(factor)) = (statistics.hessian, statistics.inputs) {
            descend_all(weights.values, &mut codes, &damped(hessian, factor.damping()));
        }
        codes
    }
}

/// Lets the codes of all rows descend from where they are, on their grids.
pub(super) fn descend_all(weights: &[f32], codes: &mut Codes, damped: &[Vec<f64>]) {
    let (columns, granularity) = (codes.columns, codes.format.granularity);
    let mut places = Vec::with_capacity(columns);
    for (row, weights) in weights.chunks_exact(columns).enumerate() {
        let start = row * columns;
        places.clear();
        places.extend(weights.iter().enumerate().map(|(column, w)| {
            let grid = codes.grid(granularity.run_of(columns, row, column));
            Place::new(codes.values[start + column], *w, grid)
        }));
        descend(&mut places, damped);
        let chosen = places.iter().map(|place| place.code as i8);
        codes.values[start..][..columns].iter_mut().zip(chosen).for_each(|(to, code)| *to = code);
    }
}

/// The Hessian with the damping on its diagonal, row by row. A column that no input reaches counts as one of weight 1.
pub(super) fn damped(hessian: &Hessian, damping: f64) -> Vec<Vec<f64>> {
    let diagonal: Vec<f64> = hessian.diagonal().map(|h| if h == 0.0 { 1.0 } else { h }).collect();
    let columns = diagonal.len();
    let mean = diagonal.iter().sum::<f64>() / columns.max(1) as f64;
    let mut rows: Vec<Vec<f64>> =
        hessian.values().chunks_exact(columns.max(1)).map(<[f64]>::to_vec).collect();
    rows.iter_mut().enumerate().for_each(|(i, row)| row[i] = diagonal[i] + damping * mean);
    rows
}

/// A weight of a row on its way.
#[derive(Debug, Clone, Copy)]
struct Place {
    code: i32,
    least: i32,
    most: i32,
    step: f64,
    /// What it is stored as less what it is.
    error: f64,
}

impl Place {
    fn new(code: i8, w: f32, Grid { scale, zero, offset, q_min, q_max }: Grid) -> Self {
        let (code, step) = (i32::from(code), f64::from(scale));
        let level = f64::from(code - zero) + f64::from(offset);
        Self { code, least: q_min, most: q_max, step, error: step * level - f64::from(w) }
    }

    /// Direction of the other code next to the weight, if there is one: against the error.
    fn other(self) -> Option<f64> {
        let up = self.error < 0.0;
        let is_next = self.error != 0.0 && self.error.abs() < self.step;
        let is_code = if up { self.code < self.most } else { self.code > self.least };
        (is_next && is_code).then_some(if up { 1.0 } else { -1.0 })
    }
}

/// Changes one code after the other, each time the one that lowers `e H e^T` most, of equals the first.
fn descend(row: &mut [Place], h: &[Vec<f64>]) {
    let mut slope = vec![0.0; row.len()];
    for (place, h) in row.iter().zip(h).filter(|(place, _)| place.error != 0.0) {
        subtract_scaled(&mut slope, -place.error, h);
    }
    for _ in 0..MOST_CHANGES * row.len() {
        let mut best = None;
        let mut least = 0.0;
        for (j, place) in row.iter().enumerate() {
            // Half of what changes: `d (2 H e + d H_jj)` for a change of d.
            let cost = place.step * h[j][j];
            if cost - 2.0 * slope[j].abs() >= 0.0 {
                continue;
            }
            let Some(direction) = place.other() else { continue };
            let gain = place.step * (2.0 * direction * slope[j] + cost);
            if gain < least && gain < -LEAST_GAIN * place.step * cost {
                (best, least) = (Some((j, direction)), gain);
            }
        }
        let Some((j, direction)) = best else { return };
        let change = direction * row[j].step;
        row[j].code += direction as i32;
        row[j].error += change;
        subtract_scaled(&mut slope, -change, &h[j]);
    }
}

#[cfg(test)]
mod tests;
