//! Grids: rounding numbers to evenly spaced points, and to the codes of these.

use super::simd::per_instruction_set;

/// Lanes of partial results: fixed, so that they do not depend on the processor.
const LANES: usize = 16;

/// The numbers `scale (q - zero + offset)` for the codes q from `q_min` to `q_max`, at most 256 of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The step s; 0 if all that is rounded to it is zeros, NaN if some of it is no number.
    pub scale: f32,
    /// The code z of zero; of full codes 0, which stands for half a step.
    pub zero: i32,
    /// Distance of the level of z from zero, in steps: 0, or a half of full codes.
    pub offset: f32,
    /// The smallest code.
    pub q_min: i32,
    /// The largest code.
    pub q_max: i32,
}

per_instruction_set! {
    /// The smallest and the largest number of a row, zero included; NaN if the row holds NaN or infinity.
    pub fn span(row: &[f32]) -> (f32, f32) {
        let (mut low, mut high, mut poison) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        let (chunks, rest) = row.as_chunks::<LANES>();
        // Zeros change nothing.
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for chunk in chunks.iter().chain([&last]) {
            for (lane, x) in chunk.iter().enumerate() {
                low[lane] = if *x < low[lane] { *x } else { low[lane] };
                high[lane] = if *x > high[lane] { *x } else { high[lane] };
                // 0 * x is 0 for every number and NaN for infinities and NaN.
                poison[lane] += 0.0 * *x;
            }
        }
        let poison: f32 = poison.iter().sum();
        let low = low.iter().copied().fold(0.0, f32::min);
        let high = high.iter().copied().fold(0.0, f32::max);
        (low + poison, high + poison)
    }
}

per_instruction_set! {
    /// `x = s (q - z)` with `q = clamp(round(x / s) + z, q_min, q_max)`, to nearest and the even one on a
    /// tie.
    pub fn round(row: &mut [f32], scale: f32, zero: f32, q_min: f32, q_max: f32) {
        for x in row.iter_mut() {
            let q = (*x / scale).round_ties_even() + zero;
            // Comparisons that NaN passes through.
            let q = if q < q_min { q_min } else { q };
            let q = if q > q_max { q_max } else { q };
            *x = scale * (q - zero);
        }
    }
}

per_instruction_set! {
    /// The codes of weights on a grid: `clamp(round(w / s - offset) + z, q_min, q_max)`, that of zero where s is 0.
    /// `round` gets a weight in steps of s from the level of z, and its position, from `start` on.
    pub fn codes<Round: Fn(f32, usize) -> f32>(
        weights: &[f32],
        grid: Grid,
        start: usize,
        round: &Round,
        codes: &mut [i8],
    ) {
        let Grid { scale, zero, offset, q_min, q_max } = grid;
        if scale == 0.0 {
            codes.fill(zero as i8);
            return;
        }
        // Clamped as floats, where a number of steps that fits no integer is one among others.
        let (low, high) = ((q_min - zero) as f32, (q_max - zero) as f32);
        for (index, (w, code)) in weights.iter().zip(codes).enumerate() {
            let steps = round(*w / scale - offset, start + index).clamp(low, high) as i32;
            *code = (steps + zero) as i8;
        }
    }
}

per_instruction_set! {
    /// The weights that codes stand for: `s (q - z + offset)`.
    pub fn weights(codes: &[i8], grid: Grid, weights: &mut [f32]) {
        let Grid { scale, zero, offset, .. } = grid;
        for (code, w) in codes.iter().zip(weights) {
            // A scale is rounded, so the outermost code of a range up to the largest float may lie beyond it.
            *w = (scale * ((i32::from(*code) - zero) as f32 + offset)).clamp(f32::MIN, f32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_includes_zero_and_shows_what_is_no_number() {
        assert_eq!(span(&[1.0, 3.0, 2.0]), (0.0, 3.0));
        assert_eq!(span(&[-1.0, -3.0]), (-3.0, 0.0));
        assert_eq!(span(&[]), (0.0, 0.0));
        for at in [0, 15, 16, 20] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = [0.5; 21];
                row[at] = bad;
                assert!(span(&row).0.is_nan(), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn numbers_go_to_the_nearest_point() {
        let mut row = [0.1, 0.25, 0.75, -9.0, 9.0, f32::NAN];
        round(&mut row, 0.5, 1.0, -2.0, 3.0);
        assert_eq!(row[..5], [0.0, 0.0, 1.0, -1.5, 1.0]);
        assert!(row[5].is_nan());
    }
}
