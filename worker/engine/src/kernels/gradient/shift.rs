//! Gradients of token shift with mixing, and of the gates around the products; and the gates where what enters them is kept.

use super::super::exp::sigmoid;
use super::super::simd::per_instruction_set;

per_instruction_set! {
    /// Gradients of [`mix`](super::super::shift::mix) over a sequence from its start, before which all is zero: adds
    /// `m d + (1 - m) d~`, where `d~` is the row after, to `dy`, and `sum d (y - y~)` to `d_mix`.
    ///
    /// - `y`, `d`, `dy`: `[time, channel]`; `mix` (m), `d_mix`: `[channel]`.
    pub fn mix(y: &[f32], mix: &[f32], d: &[f32], dy: &mut [f32], d_mix: &mut [f32]) {
        let channels = mix.len();
        assert!(y.len() == d.len() && y.len() == dy.len() && d_mix.len() == channels);
        let first = channels.min(d.len());
        for c in 0..first {
            d_mix[c] += d[c] * y[c];
            dy[c] += mix[c] * d[c];
        }
        let rows = y.chunks_exact(channels).zip(y.chunks_exact(channels).skip(1));
        let rows = rows.zip(d.chunks_exact(channels).skip(1)).zip(dy.chunks_exact_mut(channels));
        for (((before, y), d), dy) in rows {
            for c in 0..channels {
                d_mix[c] += d[c] * (y[c] - before[c]);
                dy[c] += (1.0 - mix[c]) * d[c];
            }
        }
        for (d, dy) in d.chunks_exact(channels).zip(dy.chunks_exact_mut(channels)).skip(1) {
            for c in 0..channels {
                dy[c] += mix[c] * d[c];
            }
        }
    }
}

per_instruction_set! {
    /// Gradients of [`gate`](super::super::shift::gate): `d` becomes that in `x`, `d_gate` that in the gate.
    pub fn gate(gate: &[f32], x: &[f32], d: &mut [f32], d_gate: &mut [f32]) {
        assert!(gate.len() == x.len() && gate.len() == d.len() && gate.len() == d_gate.len());
        for ((d, d_gate), (gate, x)) in d.iter_mut().zip(d_gate).zip(gate.iter().zip(x)) {
            let open = sigmoid(*gate);
            *d_gate = *d * *x * (open * (1.0 - open));
            *d *= open;
        }
    }
}

per_instruction_set! {
    /// Gradient of [`squared_relu`](super::super::shift::squared_relu): `d *= 2 relu(x)`.
    pub fn squared_relu(x: &[f32], d: &mut [f32]) {
        assert_eq!(x.len(), d.len());
        for (x, d) in x.iter().zip(d) {
            let positive = if *x > 0.0 { *x } else { 0.0 };
            *d *= 2.0 * positive;
        }
    }
}

per_instruction_set! {
    /// As [`gate`](super::super::shift::gate), with what comes out in a place of its own: `out = sigmoid(gate) * x`.
    pub fn gate_to(gate: &[f32], x: &[f32], out: &mut [f32]) {
        assert!(gate.len() == x.len() && gate.len() == out.len());
        for (out, (gate, x)) in out.iter_mut().zip(gate.iter().zip(x)) {
            *out = *x * sigmoid(*gate);
        }
    }
}

per_instruction_set! {
    /// As [`squared_relu`](super::super::shift::squared_relu), with what comes out in a place of its own.
    pub fn squared_relu_to(x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        for (x, out) in x.iter().zip(out) {
            let positive = if *x > 0.0 { *x } else { 0.0 };
            *out = positive * positive;
        }
    }
}
