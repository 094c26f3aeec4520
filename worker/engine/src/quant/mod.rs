//! Quantization: weights to codes and back, and activations.
//!
//! A scheme has a *format*, which says what is stored, and a *quantizer*, which chooses the codes.
//! [`quantize`] is the only place where the code of a weight is chosen; a network that computes in floats
//! sees the weights that the codes stand for ([`fake_quantize`]), a packed file stores the codes ([`store`]),
//! a product of integers multiplies them.
//!
//! A matrix is cut into runs that share a scale: all of it, a row, or a group of columns. [`round_each`] is
//! what most quantizers are made of: the grid of a run from the range of its weights, then each weight to a
//! code on its own. One more quantizer is a file in `quantizers` and a line there;
//! `tests/adding_a_quantizer.rs` is an example. Formulas: docs/model.md (Quantization) and
//! [`qslm_common::scheme`].

mod activation;
mod codes;
mod hessian;
pub mod pack;
mod quantizer;
mod quantizers;
mod range;
pub mod rans;
mod rounding;
mod statistics;
mod stored;

pub use activation::{fake_quantize_rows, grid_of_row};
pub use codes::Codes;
pub use hessian::{Factor, Hessian, InputMoments, NotPositive};
pub use quantizer::{Needs, Quantizer, Statistics, Weights};
pub use quantizers::{quantize, stochastic_rounding, sweep};
pub use range::{exponent_of, power_of};
pub use rounding::round_each;
pub use statistics::{InputStatistics, WeightStatistics, entropy};
pub use stored::{Stored, fake_quantize, store, to_half};

#[cfg(test)]
mod tests;
