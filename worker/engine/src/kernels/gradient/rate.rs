//! Gradient of the bits that an entropy coder takes for the codes of a matrix.
//!
//! The codes are taken to be those of a logistic variable of some width that is rounded to whole steps: a code q takes
//! `-log2 (sigmoid((q + 1/2) / b) - sigmoid((q - 1/2) / b))` bits. The gradient is that at the weight in steps, before it is
//! rounded.

use super::super::exp::sigmoid;
use super::super::simd::per_instruction_set;
use super::LANES;

/// Weights that are summed up in 32 bits.
const PIECE: usize = 1024;
/// Least width, in steps: below it next to all codes are 0, and a division overflows.
const LEAST_WIDTH: f32 = 0.05;

/// The width, in steps, of the logistic variable with the mean magnitude of these: `mean |w| / (2 s ln 2)`.
pub fn width(weights: &[f32], scale: f32) -> f32 {
    let mean = sum_of_magnitudes(weights) / weights.len().max(1) as f64;
    let width = mean / (2.0 * std::f64::consts::LN_2 * f64::from(scale));
    // Comparisons that NaN does not pass through.
    if width > f64::from(LEAST_WIDTH) { width as f32 } else { LEAST_WIDTH }
}

per_instruction_set! {
    fn sum_of_magnitudes(weights: &[f32]) -> f64 {
        let mut sum = 0.0f64;
        for weights in weights.chunks(PIECE) {
            let mut lanes = [0.0f32; LANES];
            for weights in weights.chunks(LANES) {
                lanes.iter_mut().zip(weights).for_each(|(lane, w)| *lane += w.abs());
            }
            sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        sum
    }
}

per_instruction_set! {
    /// Adds to `d` the gradient of `times` the bits of the weights in steps of `scale`, and gives that in the scale.
    ///
    /// With `x = w/s`, `u = sigmoid((x + 1/2) / b)` and `l = sigmoid((x - 1/2) / b)`: `dbits/dx = (u + l - 1) / (b ln 2)`.
    pub fn add(weights: &[f32], scale: f32, width: f32, times: f32, d: &mut [f32]) -> f32 {
        assert_eq!(weights.len(), d.len());
        let (steps, narrow) = (1.0 / scale, 1.0 / width);
        let factor = times * narrow * std::f32::consts::LOG2_E;
        let mut of_scale = 0.0f64;
        for (weights, d) in weights.chunks(PIECE).zip(d.chunks_mut(PIECE)) {
            let mut lanes = [0.0f32; LANES];
            for (weights, d) in weights.chunks(LANES).zip(d.chunks_mut(LANES)) {
                for ((w, d), lane) in weights.iter().zip(d).zip(&mut lanes) {
                    let x = *w * steps;
                    let (upper, lower) = (sigmoid((x + 0.5) * narrow), sigmoid((x - 0.5) * narrow));
                    let of_step = factor * (upper + lower - 1.0);
                    *d += of_step * steps;
                    *lane += of_step * x;
                }
            }
            of_scale += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        (-of_scale * f64::from(steps)) as f32
    }
}
