//! Gradient of layer norm.

use super::super::norm::EPSILON;
use super::super::simd::per_instruction_set;
use super::LANES;

/// Gradients of [`layer_norm`](super::super::norm::layer_norm): adds to `dx` what `dy` makes of it, and to `d_weight` and
/// `d_bias` the sums over rows.
///
/// With `n = (x - mean) / sqrt(variance + 1e-5)` and `g = dy * weight`:
/// `dx = (g - mean(g) - n mean(g n)) / sqrt(variance + 1e-5)`.
///
/// - `x`, `dy`, `dx`: `[time, channel]`; the others `[channel]`.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn layer_norm(
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let channels = weight.len();
    assert!(x.len() == dy.len() && x.len() == dx.len() && x.len().is_multiple_of(channels));
    assert!(d_weight.len() == channels && d_bias.len() == channels);
    rows(x, weight, dy, dx, d_weight, d_bias);
}

per_instruction_set! {
    fn rows(
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        d_weight: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let channels = weight.len();
        let count = channels as f32;
        let rows = x.chunks_exact(channels).zip(dy.chunks_exact(channels)).zip(dx.chunks_exact_mut(channels));
        for ((x, dy), dx) in rows {
            // The kernel's own sums, so that n is its n.
            let mean = sum(x, x, x, |x, _, _| x) / count;
            let variance = sum(x, x, x, |x, _, _| (x - mean) * (x - mean)) / count;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            let mean_g = sum(dy, weight, x, |dy, weight, _| dy * weight) / count;
            let mean_gn = sum(dy, weight, x, |dy, weight, x| dy * weight * ((x - mean) * scale)) / count;
            for c in 0..channels {
                let n = (x[c] - mean) * scale;
                dx[c] += (dy[c] * weight[c] - mean_g - n * mean_gn) * scale;
                d_weight[c] += dy[c] * n;
                d_bias[c] += dy[c];
            }
        }
    }
}

/// Sum of `f` over three rows in [`LANES`] partial sums, as the kernel sums.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let rest: f32 = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| f(*a, *b, *c)).sum();
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane], c[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}
