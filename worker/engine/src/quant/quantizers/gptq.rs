//! GPTQ: column after column to nearest, each column making up for the errors of those before it as well as the second
//! moments of the inputs allow.
//!
//! The grids are those of the original weights, over the scheme's range, so that groups keep their places and rows do
//! not depend on each other. A column that no input reaches is rounded to nearest; the published code sets its weights
//! to zero, which costs nothing on the calibration data and something on other data.
//!
//! Source: Frantar et al., arXiv 2210.17323; IST-DASLab/gptq.

use qslm_common::scheme::{Format, Range, Symmetry};

use crate::kernels::grid::Grid;
use crate::kernels::outer::{LANES, add_weighted_rows};
use crate::quant::codes::runs;
use crate::quant::hessian::Factor;
use crate::quant::{Codes, Needs, Quantizer, Statistics, Weights, range};

/// Rounding that makes up for the errors of earlier columns.
#[derive(Debug, Clone, Copy)]
pub struct Gptq {
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn needs(&self) -> Needs {
        Needs::InputHessian
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes {
        let Weights { values, columns, .. } = weights;
        let (mut grids, mut start) = (Vec::new(), 0);
        for run in runs(values, columns, format.granularity) {
            grids.push(range::grid(run, format, self.range, &|steps, _| steps.round_ties_even(), start));
            start += run.len();
        }
        let affine = format.symmetry == Symmetry::Affine;
        let zero_points = if affine { grids.iter().map(|grid| grid.zero as i8).collect() } else { vec![] };
        let mut codes = Codes {
            format,
            columns,
            values: vec![0; values.len()],
            scales: grids.iter().map(|grid| grid.scale).collect(),
            zero_points,
            widths: Vec::new(),
        };
        if let Some(factor) = statistics.inputs {
            sweep(
                values,
                columns,
                &|row, column| grids[format.granularity.run_of(columns, row, column)],
                factor,
                &mut codes.values,
            );
        }
        codes
    }
}

/// Chooses the codes of all rows of a `[rows, columns]` matrix on the grids that `grid` names by row and column. Several
/// rows are computed side by side; no number of one depends on another.
///
/// # Panics
/// If the factor is one of another number of columns, or there are not as many codes as weights.
pub fn sweep(
    weights: &[f32],
    columns: usize,
    grid: &dyn Fn(usize, usize) -> Grid,
    factor: &Factor,
    codes: &mut [i8],
) {
    let mut errors = vec![[0.0; LANES]; columns];
    let rows = weights.chunks(columns * LANES).zip(codes.chunks_mut(columns * LANES)).enumerate();
    for (tile, (weights, codes)) in rows {
        for (place, column) in factor.order().iter().enumerate() {
            let mut made_up = [0.0; LANES];
            add_weighted_rows(factor.feedback(place), &errors[..place], &mut made_up);
            for (lane, start) in (0..weights.len()).step_by(columns).enumerate() {
                let w = f64::from(weights[start + column]);
                let grid = grid(tile * LANES + lane, *column);
                let (code, value) = nearest(w + made_up[lane], grid);
                codes[start + column] = code;
                errors[place][lane] = w - value;
            }
        }
    }
}

/// The code next to a weight, the even one on a tie, and the weight that it stands for.
pub(super) fn nearest(w: f64, grid: Grid) -> (i8, f64) {
    let Grid { scale, zero, offset, q_min, q_max } = grid;
    let (scale, zero, offset) = (f64::from(scale), f64::from(zero), f64::from(offset));
    if scale == 0.0 {
        return (zero as i8, 0.0);
    }
    let code = ((w / scale - offset).round_ties_even() + zero).clamp(q_min.into(), q_max.into());
    (code as i8, scale * (code - zero + offset))
}

#[cfg(test)]
mod tests;
