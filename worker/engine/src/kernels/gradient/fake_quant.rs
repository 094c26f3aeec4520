//! Weights on a grid inside training, and the straight-through gradient.
//!
//! Rounding has no gradient; it is taken as if it were not there (straight-through), and the step gets that of LSQ. Source:
//! Esser et al., Learned step size quantization (2020); for zero points EfficientQAT (2407.11062).

use super::super::grid::Grid;
use super::super::simd::per_instruction_set;
use super::LANES;

/// Weights that are summed up in 32 bits.
const PIECE: usize = 1024;

per_instruction_set! {
    /// The weights that a run of weights becomes on a grid, each on the nearest level, the even one on a tie:
    /// [`grid::codes`](super::super::grid::codes) and [`grid::weights`](super::super::grid::weights) at once.
    pub fn forward(weights: &[f32], grid: Grid, out: &mut [f32]) {
        assert_eq!(weights.len(), out.len());
        let (scale, offset, low, high) = parts(grid);
        if scale == 0.0 {
            out.fill(0.0);
            return;
        }
        for (w, out) in weights.iter().zip(out) {
            let level = (*w / scale - offset).round_ties_even().clamp(low, high);
            *out = (scale * (level + offset)).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// Gradients in the numbers of a run's grid.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GridGradient {
    /// In the scale.
    pub scale: f32,
    /// In the zero point.
    pub zero: f32,
}

per_instruction_set! {
    /// Gradients of [`forward`]: `d`, that in what the weights became, becomes that in the weights.
    ///
    /// Where a level is inside the range, `dw^/dw = 1`, `dw^/ds = level - w/s` and `dw^/dz = 0`; where the weight was
    /// clipped, `dw^/dw = 0`, `dw^/ds = level`, `dw^/dz = -s`; levels are counted from zero.
    pub fn backward(weights: &[f32], grid: Grid, d: &mut [f32]) -> GridGradient {
        assert_eq!(weights.len(), d.len());
        let (scale, offset, low, high) = parts(grid);
        if scale == 0.0 {
            d.fill(0.0);
            return GridGradient::default();
        }
        let (mut of_scale, mut of_zero) = (0.0f64, 0.0f64);
        for (weights, d) in weights.chunks(PIECE).zip(d.chunks_mut(PIECE)) {
            let (mut steps, mut zeros) = ([0.0f32; LANES], [0.0f32; LANES]);
            for (weights, d) in weights.chunks(LANES).zip(d.chunks_mut(LANES)) {
                let lanes = steps.iter_mut().zip(&mut zeros);
                for ((w, d), (of_step, of_zero)) in weights.iter().zip(d).zip(lanes) {
                    let nearest = (*w / scale - offset).round_ties_even();
                    let level = nearest.clamp(low, high);
                    let inside = if level == nearest { 1.0 } else { 0.0 };
                    *of_step += *d * (level + offset - inside * (*w / scale));
                    *of_zero += *d * (1.0 - inside);
                    *d *= inside;
                }
            }
            of_scale += steps.iter().map(|lane| f64::from(*lane)).sum::<f64>();
            of_zero += zeros.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        GridGradient { scale: of_scale as f32, zero: (-f64::from(scale) * of_zero) as f32 }
    }
}

per_instruction_set! {
    /// Gradient in the scale of a run whose codes stay what they are: the sum of `d` times the levels, which is exact. `d` is
    /// that in what the codes stand for.
    pub fn backward_of_codes(codes: &[i8], grid: Grid, d: &[f32]) -> f32 {
        assert_eq!(codes.len(), d.len());
        let mut sum = 0.0f64;
        for (codes, d) in codes.chunks(PIECE).zip(d.chunks(PIECE)) {
            let mut lanes = [0.0f32; LANES];
            for (codes, d) in codes.chunks(LANES).zip(d.chunks(LANES)) {
                for ((code, d), lane) in codes.iter().zip(d).zip(&mut lanes) {
                    *lane += *d * ((i32::from(*code) - grid.zero) as f32 + grid.offset);
                }
            }
            sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
        sum as f32
    }
}

/// Scale, offset, and the lowest and highest level, counted from the zero point.
#[inline(always)]
fn parts(grid: Grid) -> (f32, f32, f32, f32) {
    let Grid { scale, zero, offset, q_min, q_max } = grid;
    (scale, offset, (q_min - zero) as f32, (q_max - zero) as f32)
}
