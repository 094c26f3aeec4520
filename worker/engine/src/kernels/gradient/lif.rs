//! The LIF neuron with what its gradient needs, and that gradient with a surrogate for the step.
//!
//! The step has no gradient; training takes that of a smooth function in its place, the ATan surrogate
//! `ds/dh = 1 / (1 + (pi (h - 1))^2)`. Source: docs/model.md, Training.

use super::super::lif::THRESHOLD;
use super::super::simd::per_instruction_set;

/// Gradient through the reset `v = (1 - s) h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reset {
    /// The reset is differentiated like all else.
    #[default]
    Attached,
    /// Spikes count as constants where they reset a potential.
    Detached,
}

per_instruction_set! {
    /// As [`scan`](super::super::lif::scan) in float from the start of a sequence; `input` becomes the sums h that are
    /// compared with the threshold. `potential`, `[channel]`, is overwritten.
    pub fn scan_with_sums(input: &mut [f32], potential: &mut [f32], residual: &mut [f32]) {
        let channels = potential.len();
        assert!(input.len() == residual.len() && input.len().is_multiple_of(channels));
        potential.fill(0.0);
        for (x, out) in input.chunks_exact_mut(channels).zip(residual.chunks_exact_mut(channels)) {
            for ((x, v), out) in x.iter_mut().zip(potential.iter_mut()).zip(out.iter_mut()) {
                let h = *v + (*x - *v) / 2.0;
                let fires = h >= THRESHOLD;
                *v = if fires { 0.0 } else { h };
                *out += if fires { 1.0 } else { 0.0 };
                *x = h;
            }
        }
    }
}

per_instruction_set! {
    /// Adds the spikes of sums h to `residual`: what the scan that left them added.
    pub fn add_spikes(sums: &[f32], residual: &mut [f32]) {
        assert_eq!(sums.len(), residual.len());
        for (h, out) in sums.iter().zip(residual) {
            *out += if *h >= THRESHOLD { 1.0 } else { 0.0 };
        }
    }
}

/// Gradient in the input of a population whose sums were `sums`: `d`, that in its spikes, becomes it.
///
/// From the last token to the first, with the gradients `G_s` in the spikes and `G_v` in the potential that is carried on:
/// `G_h = G_s g + G_v ((1 - s) - h g)`, the last term only if the reset is attached; `dx = G_h / 2`, and that is the
/// `G_v` of the token before.
///
/// - `sums`, `d`: `[time, channel]`; `carried`, `[channel]`, is overwritten.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn scan(sums: &[f32], d: &mut [f32], carried: &mut [f32], reset: Reset) {
    assert!(sums.len() == d.len() && sums.len().is_multiple_of(carried.len()));
    carried.fill(0.0);
    match reset {
        Reset::Attached => scan_back(sums, d, carried, 1.0),
        Reset::Detached => scan_back(sums, d, carried, 0.0),
    }
}

per_instruction_set! {
    fn scan_back(sums: &[f32], d: &mut [f32], carried: &mut [f32], attached: f32) {
        let channels = carried.len();
        for (h, d) in sums.rchunks_exact(channels).zip(d.rchunks_exact_mut(channels)) {
            for ((h, d), carried) in h.iter().zip(d).zip(carried.iter_mut()) {
                let away = std::f32::consts::PI * (*h - THRESHOLD);
                let slope = 1.0 / (1.0 + away * away);
                let stays = if *h >= THRESHOLD { 0.0 } else { 1.0 };
                let of_sum = *d * slope + *carried * (stays - attached * (*h * slope));
                *carried = of_sum * 0.5;
                *d = *carried;
            }
        }
    }
}
