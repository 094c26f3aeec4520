//! The grid of one run: its scale and zero point, from the range of weights that the codes span.

use qslm_common::scheme::{Format, Range, Scales, Symmetry};

use crate::kernels::grid::{self, Grid};

/// Fractions of the whole range that the least-squares search tries, in hundredths.
const FRACTIONS: std::ops::RangeInclusive<u32> = 20..=100;

impl Grid {
    /// The grid over the range from `min <= 0` to `max >= 0`.
    pub fn over(min: f32, max: f32, format: Format) -> Self {
        let (q_min, q_max) = (format.q_min(), format.q_max());
        match format.symmetry {
            Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => {
                let offset = format.offset();
                let scale = round_scale(max.max(-min) / (q_max as f32 + offset), format.scales);
                Self { scale, zero: 0, offset, q_min, q_max }
            }
            Symmetry::Affine => {
                let steps = (q_max - q_min) as f32;
                // Halving first keeps the span of the largest finite floats finite.
                let scale = round_scale((max / 2.0 - min / 2.0) / steps * 2.0, format.scales);
                let zero = if scale == 0.0 { 0.0 } else { (q_min as f32 - min / scale).round_ties_even() };
                Self { scale, zero: (zero as i32).clamp(q_min, q_max), offset: 0.0, q_min, q_max }
            }
        }
    }
}

/// A scale as it is stored; NaN, of activations that are no numbers, stays NaN.
pub(super) fn round_scale(scale: f32, scales: Scales) -> f32 {
    match scales {
        Scales::F32 => scale,
        Scales::F16 => super::to_half(scale).to_f32(),
        Scales::Pow2 if scale > 0.0 => power_of(exponent_of(scale)),
        Scales::Pow2 => scale,
    }
}

/// The exponent of the smallest power of two that is not below a scale; -128 of zero, and of what is hardly more.
pub fn exponent_of(scale: f32) -> i8 {
    // No library's logarithm: the exponent of the number itself, and one more unless it is a power already.
    let bits = f64::from(scale).to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let up = exponent + i32::from(bits << 12 != 0);
    if scale > 0.0 && up >= -126 { up.min(127) as i8 } else { NO_POWER }
}

/// The power of two of an exponent; 0 for -128.
pub fn power_of(exponent: i8) -> f32 {
    if exponent == NO_POWER { 0.0 } else { 2f32.powi(exponent.into()) }
}

/// The exponent that stands for a scale of zero.
const NO_POWER: i8 = i8::MIN;

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
        Range::Step(step) => {
            let squares: f64 = run.iter().map(|w| f64::from(*w).powi(2)).sum();
            let rms = (squares / run.len().max(1) as f64).sqrt();
            let scale = round_scale((step.times() * rms) as f32, format.scales);
            Grid { scale, zero: 0, offset: 0.0, q_min: format.q_min(), q_max: format.q_max() }
        }
        Range::Percentile(percentile) => {
            let (min, max) = match format.symmetry {
                Symmetry::Symmetric | Symmetry::Full | Symmetry::Ternary => {
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
    fn powers_of_two_are_kept_and_others_go_up() {
        for exponent in -126..=127 {
            assert_eq!(exponent_of(power_of(exponent)), exponent);
        }
        let rounded = [0.0, 0.3, 0.25, 0.250_001, 3e38, 1e-40].map(|scale| power_of(exponent_of(scale)));
        assert_eq!(rounded, [0.0, 0.5, 0.25, 0.5, 127f32.exp2(), 0.0]);
        assert_eq!(power_of(-127), 0.5 * (-126f32).exp2(), "also what nobody writes has a meaning");
        assert!(round_scale(f32::NAN, Scales::Pow2).is_nan() && round_scale(f32::NAN, Scales::F16).is_nan());
    }

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
