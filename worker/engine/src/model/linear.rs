//! A bias-free linear layer: the one place where matrices are multiplied, by our products or by Burn.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use qslm_common::scheme::{Activation, Symmetry};

use super::hook::Hook;
use crate::backend::Compute;
use crate::kernels::integer::IntegerMatrix;
use crate::kernels::integer::rows::Rows;
use crate::kernels::product::Packed;
use crate::quant::{Codes, fake_quantize_rows, grid_of_row};

/// Rows of outputs are formed in blocks of about this many numbers where a large vocabulary would not fit
/// memory.
const OUTPUTS_AT_ONCE: usize = 1 << 22;

/// Weights where they are computed with; a clone is the same ones.
#[derive(Debug, Clone)]
pub(super) enum Matrix {
    /// Codes for our own product of integers.
    Codes(Arc<IntegerMatrix>),
    /// Floats for our own product.
    Packed(Arc<Packed>),
    /// Tensor on a device of Burn, as a view of `[inputs, outputs]`.
    Burn(Tensor<2>),
}

impl Matrix {
    /// Matrix of codes of `rows` outputs with a scale per output, or one for all, for our own product.
    pub(super) fn of_codes(codes: &Codes, rows: usize) -> Self {
        let scales = per_row(&codes.scales, rows);
        let zeros = per_row(&codes.zero_points, rows);
        let matrix = match codes.format.symmetry {
            Symmetry::Symmetric | Symmetry::Affine | Symmetry::Ternary => {
                IntegerMatrix::new(&codes.values, codes.columns, scales, &zeros)
            }
            // `s (q + 1/2)` is `s/2 (2 q + 1)`, which is a whole number of half steps.
            Symmetry::Full => {
                let odd: Vec<i8> = codes.values.iter().map(|code| 2 * code + 1).collect();
                let halves = scales.into_iter().map(|scale| scale * 0.5).collect();
                IntegerMatrix::new(&odd, codes.columns, halves, &zeros)
            }
        };
        Self::Codes(Arc::new(matrix))
    }

    /// Matrix of `[outputs, inputs]` row-major weights.
    pub(super) fn new(weights: Vec<f32>, inputs: usize, compute: &Compute) -> Self {
        match compute {
            Compute::Native | Compute::Integer => Self::Packed(Arc::new(Packed::new(&weights, inputs))),
            Compute::Burn(device) => {
                let shape = [weights.len() / inputs, inputs];
                Self::Burn(Tensor::<2>::from_data(TensorData::new(weights, shape), device).transpose())
            }
        }
    }

    /// Bytes of memory that the weights take.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Codes(codes) => codes.bytes(),
            Self::Packed(packed) => packed.bytes(),
            Self::Burn(transposed) => 4 * transposed.shape().num_elements(),
        }
    }

    fn inputs(&self) -> usize {
        match self {
            Self::Codes(codes) => codes.inputs(),
            Self::Packed(packed) => packed.inputs(),
            Self::Burn(transposed) => transposed.dims()[0],
        }
    }

    fn outputs(&self) -> usize {
        match self {
            Self::Codes(codes) => codes.outputs(),
            Self::Packed(packed) => packed.outputs(),
            Self::Burn(transposed) => transposed.dims()[1],
        }
    }

    /// The matrix with rows of inputs, `[rows, inputs]`, rounded to `activation` first.
    fn with(&self, mut x: Vec<f32>, activation: Option<Activation>) -> Product<'_> {
        match (self, activation) {
            (Self::Codes(codes), None) => Product::Codes(codes, codes.rows(&x)),
            (Self::Codes(codes), Some(scheme)) => {
                Product::Codes(codes, codes.quantized_rows(&x, |row| grid_of_row(row, scheme)))
            }
            (Self::Packed(packed), None) => Product::Packed(packed, x),
            (Self::Burn(transposed), None) => Product::Burn(transposed, x),
            (_, Some(scheme)) => {
                fake_quantize_rows(&mut x, self.inputs(), scheme);
                self.with(x, None)
            }
        }
    }
}

/// One value per row, of as many, or of one for all, or of none.
fn per_row<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    match values {
        [value] => vec![*value; rows],
        values => values.to_vec(),
    }
}

/// A matrix and rows of inputs in the form that it multiplies.
enum Product<'a> {
    Codes(&'a IntegerMatrix, Rows),
    Packed(&'a Packed, Vec<f32>),
    Burn(&'a Tensor<2>, Vec<f32>),
}

/// `y = W x`, for rows of inputs.
#[derive(Debug)]
pub(super) struct Linear {
    /// The name of W.
    unit: String,
    /// The scheme that x is rounded to first; `None` for float.
    activation: Option<Activation>,
    matrix: Matrix,
}

impl Linear {
    pub(super) fn new(unit: &str, matrix: Matrix, activation: Option<Activation>) -> Self {
        Self { unit: unit.to_owned(), activation, matrix }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    ///
    /// # Panics
    /// If the buffer is not a whole number of rows, or the backend fails: both are faults of this program,
    /// and the worker turns a panic into a failed trial.
    pub(super) fn forward(&self, x: Vec<f32>, hook: &mut dyn Hook) -> Vec<f32> {
        if x.is_empty() {
            return x;
        }
        hook.input(&self.unit, &x);
        let outputs = self.matrix.outputs();
        let count = x.len() / self.matrix.inputs();
        let whole = |multiply: &dyn Fn(Range<usize>, &mut [f32])| {
            let mut out = vec![0.0; count * outputs];
            multiply(0..outputs, &mut out);
            out
        };
        match self.matrix.with(x, self.activation) {
            Product::Codes(codes, rows) => whole(&|all, out| codes.multiply(&rows, all, out)),
            Product::Packed(packed, x) => whole(&|all, out| packed.multiply(&x, all, out)),
            Product::Burn(transposed, x) => burn_product(transposed, x),
        }
    }

    /// As [`Linear::forward`], with the outputs shown piece by piece, whole rows of them never being there at
    /// once if they are many: `show` gets the first row of a piece, which of the outputs it has, and their
    /// numbers, row by row. Pieces of a row come in order, and begin at multiples of `width`, which is a
    /// multiple of 32.
    pub(super) fn forward_in_pieces(
        &self,
        x: Vec<f32>,
        width: usize,
        mut show: impl FnMut(usize, Range<usize>, &[f32]),
    ) {
        let (inputs, outputs) = (self.matrix.inputs(), self.matrix.outputs());
        let count = x.len() / inputs;
        let pieces = (0..outputs).step_by(width).map(|start| start..outputs.min(start + width));
        let mut show_all_rows = |multiply: &dyn Fn(Range<usize>, &mut [f32])| {
            let mut out = vec![0.0; count * width.min(outputs)];
            for piece in pieces.clone() {
                let out = &mut out[..count * piece.len()];
                multiply(piece.clone(), out);
                show(0, piece, out);
            }
        };
        match self.matrix.with(x, self.activation) {
            Product::Codes(codes, rows) => show_all_rows(&|piece, out| codes.multiply(&rows, piece, out)),
            Product::Packed(packed, x) => show_all_rows(&|piece, out| packed.multiply(&x, piece, out)),
            Product::Burn(transposed, x) => {
                let block = (OUTPUTS_AT_ONCE / outputs).max(1);
                for (x, first) in x.chunks(block * inputs).zip((0..).step_by(block)) {
                    let out = burn_product(transposed, x.to_vec());
                    for (row, out) in out.chunks_exact(outputs).enumerate() {
                        pieces.clone().for_each(|piece| show(first + row, piece.clone(), &out[piece]));
                    }
                }
            }
        }
    }
}

/// Rows of `x` times a view of `[inputs, outputs]`: `[rows, outputs]`.
fn burn_product(transposed: &Tensor<2>, x: Vec<f32>) -> Vec<f32> {
    let shape = [x.len() / transposed.dims()[0], transposed.dims()[0]];
    let x = Tensor::<2>::from_data(TensorData::new(x, shape), &transposed.device());
    let y = x.matmul(transposed.clone()).into_data();
    y.try_into_vec::<f32>().unwrap_or_else(|error| panic!("a product of f32 is not f32: {error:?}"))
}

#[cfg(test)]
mod tests {
    use qslm_common::backend::Backend;
    use qslm_common::scheme::Scheme;

    use super::*;
    use crate::model::Unwatched;
    use crate::quant::{Statistics, Weights, quantize};

    #[test]
    fn a_product_with_full_codes_is_that_with_the_weights_that_they_stand_for() {
        let (inputs, rows) = (40, 9);
        let weights: Vec<f32> = (0..inputs * rows).map(|i| (i as f32 * 0.61).sin()).collect();
        // Whole numbers, of which every product is exact.
        let x: Vec<f32> = (0..inputs).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
        for bits in 2..=7 {
            let text = format!("int{bits}:full:channel");
            let Ok(Scheme::Integer { format, quantizer }) = text.parse() else { panic!("{text}") };
            let weights = Weights { values: &weights, columns: inputs, unit: "head.weight" };
            let mut codes = quantize(weights, format, quantizer, &Statistics::NONE);
            // Steps that are powers of two, for the same reason.
            codes.scales.iter_mut().for_each(|scale| *scale = scale.log2().floor().exp2());
            let dense = codes.dequantize();
            let expected =
                dense.chunks(inputs).map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>());
            let linear = Linear::new("head.weight", Matrix::of_codes(&codes, rows), None);
            assert_eq!(linear.forward(x.clone(), &mut Unwatched), expected.collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn pieces_put_together_are_the_whole_on_every_backend() {
        let (inputs, outputs, rows, width) = (12, 150, 7, 64);
        let weights: Vec<f32> = (0..inputs * outputs).map(|i| (i as f32 * 0.37).sin()).collect();
        let x: Vec<f32> = (0..inputs * rows).map(|i| (i as f32 * 0.73).sin()).collect();
        for backend in [Backend::Native, Backend::Flex, Backend::Ndarray] {
            let matrix = Matrix::new(weights.clone(), inputs, &Compute::new(backend).unwrap());
            let linear = Linear::new("head.weight", matrix, "int8:affine:dynamic".parse().ok());
            let mut together = vec![Vec::new(); rows];
            linear.forward_in_pieces(x.clone(), width, |first, piece, out| {
                for (row, out) in together[first..].iter_mut().zip(out.chunks_exact(piece.len())) {
                    assert_eq!(row.len(), piece.start, "pieces of a row come in order");
                    row.extend_from_slice(out);
                }
            });
            assert_eq!(together.concat(), linear.forward(x.clone(), &mut Unwatched), "{backend}");
        }
    }
}
