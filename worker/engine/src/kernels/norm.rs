//! Layer norm over the channels of each row.

use super::simd::per_instruction_set;

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;

/// Lanes of partial sums: fixed, so that the order of additions does not depend on the processor.
const LANES: usize = 16;

/// `out = (x - mean) / sqrt(variance + 1e-5) * weight + bias` per row.
///
/// - `x`, `out`: `[time, channel]`; `weight`, `bias`: `[channel]`. The variance is the biased one.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && weight.len() == bias.len() && x.len().is_multiple_of(weight.len()));
    rows(x, weight, bias, out);
}

per_instruction_set! {
    fn rows(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let channels = weight.len();
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            let mean = sum(x, |x| x) / channels as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / channels as f32;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for ((out, x), (weight, bias)) in out.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *out = (*x - mean) * scale * *weight + *bias;
            }
        }
    }
}

/// Sum of `f` over `x` in [`LANES`] partial sums.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normalised_as_in_double_precision() {
        for channels in [1, 5, 16, 48, 131] {
            let x: Vec<f32> = (0..3 * channels).map(|i| (i as f32).sin() * 4.0 + 2.0).collect();
            let weight: Vec<f32> = (0..channels).map(|i| 1.0 + i as f32 * 0.01).collect();
            let bias: Vec<f32> = (0..channels).map(|i| i as f32 * 0.1 - 1.0).collect();
            let mut out = vec![0.0; x.len()];
            layer_norm(&x, &weight, &bias, &mut out);
            for (row, out) in x.chunks(channels).zip(out.chunks(channels)) {
                let n = channels as f64;
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
                for c in 0..channels {
                    let normal = (f64::from(row[c]) - mean) / (variance + 1e-5).sqrt();
                    let expected = normal * f64::from(weight[c]) + f64::from(bias[c]);
                    assert!((f64::from(out[c]) - expected).abs() < 1e-5);
                }
            }
        }
    }
}
