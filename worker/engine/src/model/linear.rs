//! A bias-free linear layer: the one place where Burn computes.

use burn::tensor::{Device, Tensor, TensorData};
use qslm_common::scheme::Activation;

use super::probe::Probe;
use crate::quant::fake_quantize_rows;

/// `[outputs, inputs]` row-major weights on a device, as a view of `[inputs, outputs]`.
pub(super) fn matrix(weights: Vec<f32>, inputs: usize, device: &Device) -> Tensor<2> {
    let shape = [weights.len() / inputs, inputs];
    Tensor::<2>::from_data(TensorData::new(weights, shape), device).transpose()
}

/// `y = W x`, for rows of inputs.
#[derive(Debug)]
pub(super) struct Linear {
    /// The name of W.
    unit: String,
    /// What x is rounded to first; `None` for float.
    activation: Option<Activation>,
    /// W transposed as a view: `[inputs, outputs]`.
    transposed: Tensor<2>,
    inputs: usize,
}

impl Linear {
    /// From what [`matrix`] made.
    pub(super) fn new(unit: &str, transposed: Tensor<2>, activation: Option<Activation>) -> Self {
        let [inputs, _] = transposed.dims();
        Self { unit: unit.to_owned(), activation, transposed, inputs }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    ///
    /// # Panics
    /// If the buffer is not a whole number of rows, or the backend fails: both are faults of this program,
    /// and the worker turns a panic into a failed trial.
    pub(super) fn forward(&self, mut x: Vec<f32>, probe: &mut dyn Probe) -> Vec<f32> {
        if x.is_empty() {
            return x;
        }
        probe.input(&self.unit, &x);
        if let Some(scheme) = self.activation {
            fake_quantize_rows(&mut x, self.inputs, scheme);
        }
        let shape = [x.len() / self.inputs, self.inputs];
        let x = Tensor::<2>::from_data(TensorData::new(x, shape), &self.transposed.device());
        let y = x.matmul(self.transposed.clone()).into_data();
        y.try_into_vec::<f32>().unwrap_or_else(|error| panic!("a product of f32 is not f32: {error:?}"))
    }
}
