//! Spiking inference of SpikeGPT, float and quantized.
//!
//! The way through: a [`checkpoint::Checkpoint`] is read from a file and checked; a
//! [`model::SpikeGpt`] is built from it under a candidate's schemes; a [`task::Dataset`] cuts text into
//! sequences; [`task::evaluate`] runs sequences through the model and counts.
//!
//! Burn computes the matrix products, on a backend chosen at run time. Everything between two products is
//! a [`kernels`] function over raw buffers, because the backends' element-wise operations and scans
//! are several times slower on a processor and differ between backends.

pub mod backend;
pub mod checkpoint;
pub mod foreign;
pub mod kernels;
pub mod model;
pub mod quant;
pub mod task;
