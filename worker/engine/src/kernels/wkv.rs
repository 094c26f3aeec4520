//! The WKV recurrence of time mixing, scanned over time.

use qslm_common::elementary::exp_f32;

use super::exp::exp;
use super::simd::per_instruction_set;

/// The running sums of one block, each `[channel]`: numerator `p`, denominator `q`, both scaled by `e^-o`.
#[derive(Debug, Clone, PartialEq)]
pub struct WkvState {
    /// Weighted sum of values.
    pub p: Vec<f32>,
    /// Sum of weights.
    pub q: Vec<f32>,
    /// The exponent that keeps both in range.
    pub o: Vec<f32>,
}

impl WkvState {
    /// The start of a sequence: `p = q = 0`, `o = -1e38`.
    pub fn start(channels: usize) -> Self {
        Self { p: vec![0.0; channels], q: vec![0.0; channels], o: vec![-1e38; channels] }
    }
}

/// The decay `w` of a channel, by which its exponent falls with every token: `-e^time_decay`.
pub fn decay(time_decay: f32) -> f32 {
    -exp_f32(time_decay)
}

/// Scans keys and values into `out`, all `[time, channel]`. Source: docs/model.md, The network.
///
/// Per channel: `m = max(o, u + k)`, `wkv = (e^(o-m) p + e^(u+k-m) v) / (e^(o-m) q + e^(u+k-m))`, then
/// `m = max(w + o, k)`, `p = e^(w+o-m) p + e^(k-m) v`, `q = e^(w+o-m) q + e^(k-m)`, `o = m`.
///
/// - `decay`: `w = -exp(time_decay)`, `[channel]`; `first`: `u = time_first`, `[channel]`.
///
/// # Panics
/// If the buffers differ in length or are not a multiple of the channels.
pub fn scan(decay: &[f32], first: &[f32], k: &[f32], v: &[f32], state: &mut WkvState, out: &mut [f32]) {
    let channels = decay.len();
    assert!(k.len() == v.len() && k.len() == out.len() && k.len().is_multiple_of(channels));
    assert!([first.len(), state.p.len(), state.q.len(), state.o.len()].iter().all(|len| *len == channels));
    scan_rows(decay, first, k, v, &mut state.p, &mut state.q, &mut state.o, out);
}

per_instruction_set! {
    fn scan_rows(
        decay: &[f32],
        first: &[f32],
        k: &[f32],
        v: &[f32],
        p: &mut [f32],
        q: &mut [f32],
        o: &mut [f32],
        out: &mut [f32],
    ) {
        let channels = decay.len();
        let (first, p, q, o) = (&first[..channels], &mut p[..channels], &mut q[..channels], &mut o[..channels]);
        let rows = k.chunks_exact(channels).zip(v.chunks_exact(channels)).zip(out.chunks_exact_mut(channels));
        for ((k, v), out) in rows {
            for c in 0..channels {
                let now = first[c] + k[c];
                let m = if o[c] > now { o[c] } else { now };
                let (past, present) = (exp(o[c] - m), exp(now - m));
                out[c] = (past * p[c] + present * v[c]) / (past * q[c] + present);
                let faded = decay[c] + o[c];
                let m = if faded > k[c] { faded } else { k[c] };
                let (past, present) = (exp(faded - m), exp(k[c] - m));
                p[c] = past * p[c] + present * v[c];
                q[c] = past * q[c] + present;
                o[c] = m;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, by: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * by).sin() * 3.0).collect()
    }

    const CHANNELS: usize = 5;

    fn run(k: &[f32], v: &[f32], state: &mut WkvState) -> Vec<f32> {
        let decay: Vec<f32> = wave(CHANNELS, 0.9).iter().map(|d| -d.exp()).collect();
        let mut out = vec![0.0; k.len()];
        scan(&decay, &wave(CHANNELS, 1.7), k, v, state, &mut out);
        out
    }

    #[test]
    fn wkv_of_a_single_token_is_its_value() {
        let v = wave(CHANNELS, 2.3);
        let out = run(&wave(CHANNELS, 0.4), &v, &mut WkvState::start(CHANNELS));
        for (out, v) in out.iter().zip(&v) {
            assert!((out - v).abs() < 1e-6);
        }
    }

    /// The sums that the recurrence stands for, in f64: `wkv_t` averages values with weights
    /// `e^((t-1-i) w + k_i)` for `i < t` and `e^(u + k_t)`.
    fn oracle(k: &[f32], v: &[f32]) -> Vec<f64> {
        let decay: Vec<f64> = wave(CHANNELS, 0.9).iter().map(|d| -f64::from(*d).exp()).collect();
        let first = wave(CHANNELS, 1.7);
        let mut out = Vec::new();
        for t in 0..k.len() / CHANNELS {
            for c in 0..CHANNELS {
                let at = |i: usize, x: &[f32]| f64::from(x[i * CHANNELS + c]);
                let weight = |i: usize| match i == t {
                    true => (f64::from(first[c]) + at(t, k)).exp(),
                    false => ((t - 1 - i) as f64 * decay[c] + at(i, k)).exp(),
                };
                let total: f64 = (0..=t).map(weight).sum();
                out.push((0..=t).map(|i| weight(i) * at(i, v)).sum::<f64>() / total);
            }
        }
        out
    }

    #[test]
    fn the_recurrence_is_the_weighted_mean_it_stands_for() {
        let (k, v) = (wave(40 * CHANNELS, 0.31), wave(40 * CHANNELS, 0.77));
        let out = run(&k, &v, &mut WkvState::start(CHANNELS));
        for (out, expected) in out.iter().zip(oracle(&k, &v)) {
            assert!((f64::from(*out) - expected).abs() < 1e-5, "{out} {expected}");
        }
    }

    #[test]
    fn a_sequence_cut_anywhere_gives_the_same_bits() {
        let (k, v) = (wave(12 * CHANNELS, 0.31), wave(12 * CHANNELS, 0.77));
        let whole = run(&k, &v, &mut WkvState::start(CHANNELS));
        for cut in (0..=12).map(|t| t * CHANNELS) {
            let mut state = WkvState::start(CHANNELS);
            let mut pieces = run(&k[..cut], &v[..cut], &mut state);
            pieces.extend(run(&k[cut..], &v[cut..], &mut state));
            assert_eq!(pieces, whole);
        }
    }
}
