//! What goes from token to token, in tensors: the recurrence of WKV, and LIF neurons.
//!
//! A device is asked for an operation at a time, so there should be few: WKV takes several tokens at once. LIF neurons have
//! to wait for the reset of the token before.

use std::f32::consts::PI;

use burn::tensor::{Device, Tensor, TensorData};
use qslm_common::network;

use crate::kernels::gradient::lif::Reset;
use crate::kernels::lif::Neuron;

/// Tokens of a piece of WKV. What it computes with has the square of that in numbers per piece and channel.
const PIECE: usize = 8;
/// An exponent of nothing: far below all others, and finite, so that no difference of two is no number.
const NOTHING: f32 = -1e30;

/// Cuts time into pieces of so many tokens, the last of which may be short. In halves: the gradient of a piece is written
/// into zeros of what it was cut from, and that would be all of time for each.
fn pieces(x: Tensor<3>, length: usize) -> Vec<Tensor<3>> {
    let time = x.dims()[1];
    let count = time.div_ceil(length);
    if count <= 1 {
        return vec![x];
    }
    let cut = count / 2 * length;
    let (first, second) = (x.clone().narrow(1, 0, cut), x.narrow(1, cut, time - cut));
    let mut all = pieces(first, length);
    all.extend(pieces(second, length));
    all
}

/// Constants of a piece of so many tokens.
struct Tables {
    count: usize,
    /// Steps over which the weight of a token decays until another one sees it, `[1, token, token that it sees, 1]`.
    decays: Tensor<4>,
    /// 1 where a token sees itself.
    own: Tensor<4>,
    /// [`NOTHING`] where one would see a later one.
    hidden: Tensor<4>,
    /// Steps since the piece began, and until it ends, `[1, token, 1]`.
    since: Tensor<3>,
    left: Tensor<3>,
}

impl Tables {
    fn new(count: usize, device: &Device) -> Self {
        let square = |value: fn(usize, usize) -> f32| {
            let all = (0..count).flat_map(|token| (0..count).map(move |seen| value(token, seen)));
            let data = TensorData::new(all.collect::<Vec<f32>>(), [1, count, count, 1]);
            Tensor::<4>::from_data(data, device)
        };
        let line = |value: &dyn Fn(usize) -> usize| {
            let all: Vec<f32> = (0..count).map(|token| value(token) as f32).collect();
            Tensor::<3>::from_data(TensorData::new(all, [1, count, 1]), device)
        };
        Self {
            count,
            decays: square(|token, seen| token.saturating_sub(seen + 1) as f32),
            own: square(|token, seen| if seen == token { 1.0 } else { 0.0 }),
            hidden: square(|token, seen| if seen > token { NOTHING } else { 0.0 }),
            since: line(&|token| token),
            left: line(&|token| count - 1 - token),
        }
    }
}

/// WKV: means of the values so far, weighted by the exponentials of their keys, which decay with `w = -exp(decay)`, and of
/// the token's own by `first` and its key. Every exponent is taken below the largest of its sum, which is no part of the
/// graph.
pub(super) fn wkv(k: Tensor<3>, v: Tensor<3>, decay: Tensor<3>, first: Tensor<3>) -> Tensor<3> {
    let device = k.device();
    let [windows, _, channels] = k.dims();
    let w = decay.exp().neg();
    // Sums over the tokens of earlier pieces, as multiples of `exp(largest)`.
    let mut above = Tensor::<3>::zeros([windows, 1, channels], &device);
    let mut below = above.clone();
    let mut largest = Tensor::<3>::full([windows, 1, channels], NOTHING, &device);
    let mut tables = Tables::new(PIECE, &device);
    let mut out = Vec::new();
    for (k, v) in pieces(k, PIECE).into_iter().zip(pieces(v, PIECE)) {
        let count = k.dims()[1];
        if count != tables.count {
            tables = Tables::new(count, &device);
        }
        // [window, token, token that it sees, channel]
        let exponents = k.clone().unsqueeze_dim::<4>(1)
            + w.clone().unsqueeze_dim::<4>(1) * tables.decays.clone()
            + first.clone().unsqueeze_dim::<4>(1) * tables.own.clone()
            + tables.hidden.clone();
        let carried = w.clone() * tables.since.clone() + largest.clone();
        let top = exponents.clone().detach().max_dim(2).squeeze_dim::<3>(2);
        let top = top.max_pair(carried.clone().detach());
        let earlier = (carried - top.clone()).exp();
        let each = (exponents - top.unsqueeze_dim::<4>(2)).exp();
        let values = (each.clone() * v.clone().unsqueeze_dim::<4>(1)).sum_dim(2).squeeze_dim::<3>(2);
        let weights = each.sum_dim(2).squeeze_dim::<3>(2);
        out.push((earlier.clone() * above.clone() + values) / (earlier * below.clone() + weights));

        let exponents = k + w.clone() * tables.left.clone();
        let carried = w.clone() * (count as f32) + largest;
        let top = exponents.clone().detach().max_dim(1).max_pair(carried.clone().detach());
        let earlier = (carried - top.clone()).exp();
        let each = (exponents - top.clone()).exp();
        above = earlier.clone() * above + (each.clone() * v).sum_dim(1);
        below = earlier * below + each.sum_dim(1);
        largest = top;
    }
    Tensor::cat(out, 1)
}

/// Spikes of leaky integrate-and-fire neurons. The gradient of a spike is that of `atan(pi (h - threshold)) / pi`, the ATan
/// surrogate.
pub(super) fn lif(neuron: &Neuron, x: Tensor<3>, reset: Reset) -> Tensor<3> {
    let [windows, _, channels] = x.dims();
    let Neuron { leak, gain, threshold, fires_at, initial, .. } = *neuron;
    let mut v = Tensor::<3>::full([windows, 1, channels], initial, &x.device());
    let mut out = Vec::new();
    for x in pieces(x, 1) {
        let h = match neuron.is_mean() {
            true => v.clone() + (x - v) * 0.5,
            false => v * leak + x * gain,
        };
        let fires = h.clone().greater_equal_elem(fires_at).float();
        let smooth = ((h.clone() - threshold) * PI).atan() * (1.0 / PI);
        // The smooth part is exactly zero, and its gradient is not.
        let spike = fires + (smooth.clone() - smooth.detach());
        let resets = match reset {
            Reset::Attached => spike.clone(),
            Reset::Detached => spike.clone().detach(),
        };
        v = match neuron.reset {
            network::Reset::Hard => (resets.neg() + 1.0) * h,
            network::Reset::Soft => h - resets * threshold,
            network::Reset::None => h,
        };
        out.push(spike);
    }
    Tensor::cat(out, 1)
}
