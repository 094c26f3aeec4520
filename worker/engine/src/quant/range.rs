//! The grid of one run: its scale and zero point, from the range of weights that the codes span.

use qslm_common::scheme::{Format, Range, Symmetry};

use crate::kernels::grid::{self, Grid};

/// Fractions of the whole range that the least-squares search tries, in hundredths.
const FRACTIONS: std::ops::RangeInclusive<u32> = 20..=100;

impl Grid {
    /// The grid over the range from `min <= 0` to `max >= 0`.
    pub(super) fn over(min: f32, max: f32, format: Format) -> Self {
        let (q_min, q_max) = (format.q_min(), format.q_max());
        match format.symmetry {
            Symmetry::Symmetric => Self { scale: max.max(-min) / q_max as f32, zero: 0, q_min, q_max },
            Symmetry::Affine => {
                let steps = (q_max - q_min) as f32;
                // Halving first keeps the span of the largest finite floats finite.
                let scale = (max / 2.0 - min / 2.0) / steps * 2.0;
                let zero = if scale == 0.0 { 0.0 } else { (q_min as f32 - min / scale).round_ties_even() };
                Self { scale, zero: (zero as i32).clamp(q_min, q_max), q_min, q_max }
            }
        }
    }
}

/// The grid of a run whose first weight is at position `start` of its matrix.
pub(super) fn grid(
    run: &[f32],
    format: Format,
    range: Range,
    round: &impl Fn(f32, usize) -> f32,
    start: usize,
) -> Grid {
    // The range includes zero, so that the zero point is a code and the error bound holds.
    let whole = grid::span(run);
    match range {
        Range::MinMax => Grid::over(whole.0, whole.1, format),
        Range::Percentile(percentile) => {
            let (min, max) = match format.symmetry {
                Symmetry::Symmetric => {
                    let mut magnitudes: Vec<f32> = run.iter().map(|w| w.abs()).collect();
                    (0.0, quantile(&mut magnitudes, percentile.share()))
                }
                Symmetry::Affine => {
                    let mut ordered = run.to_vec();
                    let max = quantile(&mut ordered, percentile.share());
                    (quantile(&mut ordered, 1.0 - percentile.share()).min(0.0), max.max(0.0))
                }
            };
            // Where nearly all weights are zero the percentile is zero too, and would leave nothing of the
            // rest.
            let (min, max) = if min == 0.0 && max == 0.0 { whole } else { (min, max) };
            Grid::over(min, max, format)
        }
        Range::LeastSquares => {
            let at = |hundredths: u32| {
                let fraction = hundredths as f32 / 100.0;
                Grid::over(whole.0 * fraction, whole.1 * fraction, format)
            };
            let mut best = (f64::INFINITY, at(100));
            // From the whole range inwards; of equals the widest stays.
            for grid in FRACTIONS.rev().map(at) {
                let error = squared_error(run, grid, round, start);
                if error < best.0 {
                    best = (error, grid);
                }
            }
            best.1
        }
    }
}

/// The smallest value that at least `share` of the values do not exceed. Reorders the values.
fn quantile(values: &mut [f32], share: f64) -> f32 {
    let rank = (share * values.len() as f64).ceil() as usize;
    let index = rank.saturating_sub(1).min(values.len().saturating_sub(1));
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(index, f32::total_cmp).1 }
}

/// The squared error of a run on a grid.
fn squared_error(run: &[f32], grid: Grid, round: &impl Fn(f32, usize) -> f32, start: usize) -> f64 {
    let (mut codes, mut weights) = (vec![0; run.len()], vec![0.0; run.len()]);
    grid::codes(run, grid, start, round, &mut codes);
    grid::weights(&codes, grid, &mut weights);
    run.iter().zip(&weights).map(|(w, stored)| (f64::from(*w) - f64::from(*stored)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_of_its_rank() {
        let mut values: Vec<f32> = (1..=100).rev().map(|v| v as f32).collect();
        assert_eq!(quantile(&mut values, 0.99), 99.0);
        assert_eq!(quantile(&mut values, 1.0), 100.0);
        assert_eq!(quantile(&mut values, 0.005), 1.0);
        assert_eq!(quantile(&mut values, 0.0), 1.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
