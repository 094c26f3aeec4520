//! Gradient of the WKV recurrence. The running sums are computed once more instead of kept.

use super::super::exp::exp;
use super::super::simd::per_instruction_set;

/// What [`scan`] works on, so that it need not be made anew for every sequence.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// Running sums before each token, `[time, channel]` each.
    p: Vec<f32>,
    q: Vec<f32>,
    o: Vec<f32>,
    /// Gradients in the numerator and in the denominator after a token, times `e^o`, `[channel]` each.
    d_p: Vec<f32>,
    d_q: Vec<f32>,
}

/// Inputs and output of a scan from the start of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Scanned<'a> {
    /// `w = -exp(time_decay)`, `[channel]`.
    pub decay: &'a [f32],
    /// `u = time_first`, `[channel]`.
    pub first: &'a [f32],
    /// Keys, `[time, channel]`.
    pub k: &'a [f32],
    /// Values, `[time, channel]`.
    pub v: &'a [f32],
    /// What came out, `[time, channel]`.
    pub out: &'a [f32],
}

/// Gradients of a scan.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// In w: added to, `[channel]`.
    pub decay: &'a mut [f32],
    /// In u: added to, `[channel]`.
    pub first: &'a mut [f32],
    /// In the keys: written, `[time, channel]`.
    pub k: &'a mut [f32],
    /// In the values: written, `[time, channel]`.
    pub v: &'a mut [f32],
}

/// Gradients of [`scan`](super::super::wkv::scan), for `d`, those in what came out.
///
/// With the numerator `A = p e^o` and the denominator `B = q e^o` before a token and `D = B + e^(u+k)`:
/// `dv = d e^(u+k)/D + e^k dA'`, `dk = (d e^(u+k)/D) (v - out) + e^k (dA' v + dB')`, `du = (d e^(u+k)/D) (v - out)`,
/// `dw = e^w (A dA' + B dB')`, `dA = d/D + e^w dA'`, `dB = -d out/D + e^w dB'`, where `dA'` and `dB'` are the gradients
/// after the token. Gradients are kept times `e^o`, so that no power is above 1.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn scan(scanned: Scanned<'_>, d: &[f32], gradients: Gradients<'_>, scratch: &mut Scratch) {
    let Scanned { decay, first, k, v, out } = scanned;
    let (channels, size) = (decay.len(), k.len());
    let Scratch { p, q, o, d_p, d_q } = scratch;
    [&mut *p, q, o].into_iter().for_each(|sums| sums.resize(size.max(channels), 0.0));
    assert!(size.is_multiple_of(channels) && first.len() == channels);
    assert!(
        [v.len(), out.len(), d.len(), gradients.k.len(), gradients.v.len()].iter().all(|len| *len == size)
    );
    assert!([gradients.decay.len(), gradients.first.len()].iter().all(|len| *len == channels));
    if size == 0 {
        return;
    }
    running_sums(decay, k, v, &mut p[..size], &mut q[..size], &mut o[..size]);
    [&mut *d_p, d_q].into_iter().for_each(|carried| {
        carried.clear();
        carried.resize(channels, 0.0);
    });
    let Gradients { decay: d_decay, first: d_first, k: d_k, v: d_v } = gradients;
    let (p, q, o) = (&p[..size], &q[..size], &o[..size]);
    back(decay, first, k, v, out, p, q, o, d, d_p, d_q, d_decay, d_first, d_k, d_v);
}

/// `e^(a - m)` and `e^(b - m)` for the larger m of both, one of which is `e^0 = 1`.
#[inline(always)]
fn powers(a: f32, b: f32) -> (f32, f32) {
    let less = exp(if a > b { b - a } else { a - b });
    if a > b { (1.0, less) } else { (less, 1.0) }
}

per_instruction_set! {
    /// The running sums before each token.
    fn running_sums(decay: &[f32], k: &[f32], v: &[f32], p: &mut [f32], q: &mut [f32], o: &mut [f32]) {
        let channels = decay.len();
        p[..channels].fill(0.0);
        q[..channels].fill(0.0);
        o[..channels].fill(-1e38);
        let mut at = 0;
        while at + 2 * channels <= k.len() {
            let (k, v) = (&k[at..][..channels], &v[at..][..channels]);
            let ((p, p_next), (q, q_next), (o, o_next)) = (
                p[at..][..2 * channels].split_at_mut(channels),
                q[at..][..2 * channels].split_at_mut(channels),
                o[at..][..2 * channels].split_at_mut(channels),
            );
            let (p_next, q_next, o_next) =
                (&mut p_next[..channels], &mut q_next[..channels], &mut o_next[..channels]);
            for c in 0..channels {
                let faded = decay[c] + o[c];
                let (past, present) = powers(faded, k[c]);
                p_next[c] = past * p[c] + present * v[c];
                q_next[c] = past * q[c] + present;
                o_next[c] = if faded > k[c] { faded } else { k[c] };
            }
            at += channels;
        }
    }
}

per_instruction_set! {
    fn back(
        decay: &[f32],
        first: &[f32],
        k: &[f32],
        v: &[f32],
        out: &[f32],
        p: &[f32],
        q: &[f32],
        o: &[f32],
        d: &[f32],
        d_p: &mut [f32],
        d_q: &mut [f32],
        d_decay: &mut [f32],
        d_first: &mut [f32],
        d_k: &mut [f32],
        d_v: &mut [f32],
    ) {
        let channels = decay.len();
        let first = &first[..channels];
        let (d_p, d_q) = (&mut d_p[..channels], &mut d_q[..channels]);
        let (d_decay, d_first) = (&mut d_decay[..channels], &mut d_first[..channels]);
        let mut at = k.len();
        while at >= channels {
            at -= channels;
            let (k, v, out) = (&k[at..][..channels], &v[at..][..channels], &out[at..][..channels]);
            let (p, q, o) = (&p[at..][..channels], &q[at..][..channels], &o[at..][..channels]);
            let (d, d_k, d_v) =
                (&d[at..][..channels], &mut d_k[at..][..channels], &mut d_v[at..][..channels]);
            for c in 0..channels {
                let (past, present) = powers(o[c], first[c] + k[c]);
                let part = d[c] / (past * q[c] + present);
                let of_value = part * present;
                let of_key = of_value * (v[c] - out[c]);
                let (kept, added) = powers(decay[c] + o[c], k[c]);
                d_first[c] += of_key;
                d_k[c] = of_key + added * (d_p[c] * v[c] + d_q[c]);
                d_v[c] = of_value + added * d_p[c];
                d_decay[c] += kept * (d_p[c] * p[c] + d_q[c] * q[c]);
                d_p[c] = kept * d_p[c] + part * past;
                d_q[c] = kept * d_q[c] - part * past * out[c];
            }
        }
    }
}
