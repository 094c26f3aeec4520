//! Gradients of the kernels: what training needs of each, beside it in name.
//!
//! A function takes the gradient of the loss in what its kernel gave, and makes those in what the kernel was given. Sums
//! over time go from row to row in one order, sums over channels are in lanes of a fixed number, so gradients have the same
//! bits on every processor, as the kernels have. The gradient of a product is a product: see
//! [`super::product::Packed::multiply_columns`].

pub mod fake_quant;
pub mod lif;
pub mod mean;
pub mod norm;
pub mod rate;
pub mod shift;
pub mod softmax;
pub mod wkv;

/// Lanes of partial sums: fixed, so that the order of additions does not depend on the processor.
const LANES: usize = 16;

#[cfg(test)]
mod tests;
