//! Token shift with mixing, and the gates around the products.

use super::exp::sigmoid;
use super::simd::per_instruction_set;

per_instruction_set! {
    /// `out = m y + (1 - m) y~` per channel, with `y~` the row before: `previous` for the first row.
    ///
    /// - `y`, `out`: `[time, channel]`; `previous`, `mix` (m): `[channel]`.
    pub fn mix(y: &[f32], previous: &[f32], mix: &[f32], out: &mut [f32]) {
        let channels = mix.len();
        assert!(y.len() == out.len() && previous.len() == channels);
        let mut before = previous;
        for (y, out) in y.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for c in 0..channels {
                out[c] = y[c] * mix[c] + before[c] * (1.0 - mix[c]);
            }
            before = y;
        }
    }
}

per_instruction_set! {
    /// `x = sigmoid(gate) * x`, element by element.
    pub fn gate(gate: &[f32], x: &mut [f32]) {
        assert_eq!(gate.len(), x.len());
        for (x, gate) in x.iter_mut().zip(gate) {
            *x *= sigmoid(*gate);
        }
    }
}

per_instruction_set! {
    /// `x = relu(x)^2`, element by element.
    pub fn squared_relu(x: &mut [f32]) {
        for x in x.iter_mut() {
            let positive = if *x > 0.0 { *x } else { 0.0 };
            *x = positive * positive;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_mixes_with_the_row_carried_over() {
        let mut out = [0.0; 4];
        mix(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0], &[0.25, 1.0], &mut out);
        assert_eq!(out, [0.25 + 7.5, 2.0, 0.75 + 0.75, 4.0]);
    }

    #[test]
    fn gates_and_squares() {
        let mut x = [2.0, 4.0];
        gate(&[0.0, 100.0], &mut x);
        assert_eq!(x, [1.0, 4.0]);
        let mut x = [-3.0, 0.0, 3.0];
        squared_relu(&mut x);
        assert_eq!(x, [0.0, 0.0, 9.0]);
    }
}
