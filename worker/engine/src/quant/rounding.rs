//! Rounding each weight on its own, which is what quantizers without statistics do.

use qslm_common::scheme::{Format, Range, Symmetry};

use super::codes::runs;
use super::{Codes, Weights, range};
use crate::kernels::grid;

/// A weight this close to a code, in steps, is on it. Dequantizing and dividing again is off by at most 2^-15
/// steps, so quantizing twice changes nothing; and no weight is moved by more than this.
const ON_CODE: f32 = 1.0 / 4096.0;

/// Codes where each run gets the grid over `range`, and each weight its code on its own.
///
/// `round` takes a weight in steps of its run's scale, and the weight's position in the matrix, to a whole
/// number of steps. It is not asked about a weight that is on a code, and what it answers is clamped to the
/// grid.
pub fn round_each(
    weights: Weights<'_>,
    format: Format,
    range: Range,
    round: impl Fn(f32, usize) -> f32,
) -> Codes {
    let round = unless_on_code(round);
    let Weights { values: weights, columns, .. } = weights;
    let (values, scales, zero_points, widths) = (vec![0; weights.len()], vec![], vec![], vec![]);
    let mut codes = Codes { format, columns, values, scales, zero_points, widths };
    let mut start = 0;
    for run in runs(weights, columns, format.granularity) {
        let grid = range::grid(run, format, range, &round, start);
        grid::codes(run, grid, start, &round, &mut codes.values[start..][..run.len()]);
        codes.scales.push(grid.scale);
        if format.symmetry == Symmetry::Affine {
            codes.zero_points.push(grid.zero as i8);
        }
        start += run.len();
    }
    codes
}

/// `round`, but a weight that is on a code keeps it.
pub(super) fn unless_on_code(round: impl Fn(f32, usize) -> f32) -> impl Fn(f32, usize) -> f32 {
    move |steps, at| {
        let nearest = steps.round_ties_even();
        if (steps - nearest).abs() <= ON_CODE { nearest } else { round(steps, at) }
    }
}
