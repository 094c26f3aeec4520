//! Codes: a matrix in an integer format, and the weights that it stands for.

use qslm_common::scheme::{Format, Granularity};

use crate::kernels::grid::{self, Grid};

/// A matrix as integer codes with their scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// The format that the codes are in.
    pub format: Format,
    /// Length of a row.
    pub columns: usize,
    /// One code per weight, row-major, within the format's `q_min..=q_max`.
    pub values: Vec<i8>,
    /// One scale per run, in the order of the runs. Never negative; 0 if all weights of the run are 0.
    pub scales: Vec<f32>,
    /// One code per run that stands for zero; empty unless affine.
    pub zero_points: Vec<i8>,
    /// Bits of a code by column group, or by row where scales are by row; empty if all have those of the format.
    pub widths: Vec<u8>,
}

impl Codes {
    /// The weights that the codes stand for, `w = s (q - z)` or, full, `s (q + 1/2)`, `[rows, columns]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.values.len()];
        self.dequantize_to(&mut weights);
        weights
    }

    /// As [`Codes::dequantize`], into weights that are there already.
    ///
    /// # Panics
    /// If there are not as many weights as codes.
    pub fn dequantize_to(&self, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.values.len());
        let (row, length) = run_lengths(weights.len(), self.columns, self.format.granularity);
        let weights = weights.chunks_mut(row).flat_map(|row| row.chunks_mut(length));
        let codes = runs(&self.values, self.columns, self.format.granularity);
        for (index, (codes, weights)) in codes.zip(weights).enumerate() {
            grid::weights(codes, self.grid(index), weights);
        }
    }

    /// The grid of a run.
    pub(super) fn grid(&self, run: usize) -> Grid {
        let zero = self.zero_points.get(run).copied().unwrap_or(0).into();
        let width = self.widths.get(run % self.widths.len().max(1));
        let format = width.map_or(self.format, |width| self.format.of_width(*width));
        let (q_min, q_max) = (format.q_min(), format.q_max());
        Grid { scale: self.scales[run], zero, offset: self.format.offset(), q_min, q_max }
    }
}

/// The runs of a row-major matrix that share a scale, in storage order.
pub(super) fn runs<T>(matrix: &[T], columns: usize, granularity: Granularity) -> impl Iterator<Item = &[T]> {
    let (row, run) = run_lengths(matrix.len(), columns, granularity);
    matrix.chunks(row).flat_map(move |row| row.chunks(run))
}

/// The number of elements after which a row ends in a matrix of `size`, and within it a run. Both at least 1.
fn run_lengths(size: usize, columns: usize, granularity: Granularity) -> (usize, usize) {
    let (row, run) = match granularity {
        Granularity::Tensor => (size, size),
        Granularity::Channel | Granularity::Group(_) => (columns, granularity.run(columns)),
    };
    (row.max(1), run.max(1))
}
