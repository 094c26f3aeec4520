//! The LIF neuron with what its gradient needs, and that gradient with a surrogate for the step.
//!
//! The step has no gradient; training takes that of a smooth function in its place, the ATan surrogate
//! `ds/dh = 1 / (1 + (pi (h - threshold))^2)`. Source: docs/model.md, Training.

use qslm_common::network;

use super::super::lif::Neuron;
use super::super::simd::per_instruction_set;

/// Gradient through the reset: of a hard one, `v = (1 - s) h`.
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
    pub fn scan_with_sums(neuron: &Neuron, input: &mut [f32], potential: &mut [f32], residual: &mut [f32]) {
        let channels = potential.len();
        assert!(input.len() == residual.len() && input.len().is_multiple_of(channels));
        potential.fill(neuron.initial);
        let Neuron { threshold, fires_at, reset, .. } = *neuron;
        for (x, out) in input.chunks_exact_mut(channels).zip(residual.chunks_exact_mut(channels)) {
            for ((x, v), out) in x.iter_mut().zip(potential.iter_mut()).zip(out.iter_mut()) {
                let h = neuron.charge(*v, *x);
                let fires = h >= fires_at;
                let after = match reset {
                    network::Reset::Hard => 0.0,
                    network::Reset::Soft => h - threshold,
                    network::Reset::None => h,
                };
                *v = if fires { after } else { h };
                *out += if fires { 1.0 } else { 0.0 };
                *x = h;
            }
        }
    }
}

per_instruction_set! {
    /// Adds the spikes of sums h to `residual`: what the scan that left them added.
    pub fn add_spikes(neuron: &Neuron, sums: &[f32], residual: &mut [f32]) {
        assert_eq!(sums.len(), residual.len());
        for (h, out) in sums.iter().zip(residual) {
            *out += if *h >= neuron.fires_at { 1.0 } else { 0.0 };
        }
    }
}

/// Gradient in the input of a population whose sums were `sums`: `d`, that in its spikes, becomes it.
///
/// From the last token to the first, with the gradients `G_s` in the spikes and `G_v` in the potential that is carried on,
/// and `g = ds/dh`: `G_h = G_s g + G_v dv/dh`, where `dv/dh` is `(1 - s) - h g` of a hard reset, `1 - threshold g` of a soft
/// one, 1 of none, each without its last term if the reset is detached; `dx = gain G_h`, and `leak G_h` is the `G_v` of the
/// token before.
///
/// - `sums`, `d`: `[time, channel]`; `carried`, `[channel]`, is overwritten.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn scan(neuron: &Neuron, sums: &[f32], d: &mut [f32], carried: &mut [f32], reset: Reset) {
    assert!(sums.len() == d.len() && sums.len().is_multiple_of(carried.len()));
    carried.fill(0.0);
    let attached = match reset {
        Reset::Attached => 1.0,
        Reset::Detached => 0.0,
    };
    scan_back(neuron, sums, d, carried, attached);
}

per_instruction_set! {
    fn scan_back(neuron: &Neuron, sums: &[f32], d: &mut [f32], carried: &mut [f32], attached: f32) {
        let Neuron { threshold, fires_at, .. } = *neuron;
        match neuron.reset {
            network::Reset::Hard => scan_back_with(neuron, sums, d, carried, |h, slope| {
                let stays = if h >= fires_at { 0.0 } else { 1.0 };
                stays - attached * (h * slope)
            }),
            network::Reset::Soft => scan_back_with(neuron, sums, d, carried, |_, slope| {
                1.0 - attached * (threshold * slope)
            }),
            network::Reset::None => scan_back_with(neuron, sums, d, carried, |_, _| 1.0),
        }
    }
}

/// The scan; `kept` is `dv/dh` of a sum and its slope.
#[inline(always)]
fn scan_back_with(
    neuron: &Neuron,
    sums: &[f32],
    d: &mut [f32],
    carried: &mut [f32],
    kept: impl Fn(f32, f32) -> f32,
) {
    let channels = carried.len();
    let Neuron { leak, gain, threshold, .. } = *neuron;
    for (h, d) in sums.rchunks_exact(channels).zip(d.rchunks_exact_mut(channels)) {
        for ((h, d), carried) in h.iter().zip(d).zip(carried.iter_mut()) {
            let away = std::f32::consts::PI * (*h - threshold);
            let slope = 1.0 / (1.0 + away * away);
            let of_sum = *d * slope + *carried * kept(*h, slope);
            *carried = of_sum * leak;
            *d = of_sum * gain;
        }
    }
}
