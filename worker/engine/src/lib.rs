//! Spiking inference of SpikeGPT, float and quantized.
//!
//! The one idea: float and quantized are one model. A candidate decides how each matrix is kept and what is
//! rounded on the way, never which code runs, so what a search measures is what a deployed file computes.
//! Counts are integers, and arithmetic has one order, so that on a given backend every processor, shard and
//! batch gives the same bits.
//!
//! The way through, from a file to a measurement:
//!
//! 1. [`checkpoint`] reads a file of tensors, checks every one of them, and knows the codes of a packed file.
//! 2. [`model`] builds a [`model::SpikeGpt`] from it under a candidate's schemes and runs it: `builder`
//!    decides how a matrix is kept, `block` is the network, `linear` the only product, `cache` the prefix
//!    cache and the weight cache.
//! 3. [`quant`] chooses the codes of a matrix: a format says what is stored, a quantizer chooses; here is the
//!    place for one more quantizer.
//! 4. [`kernels`] are the arithmetic over raw buffers: products of floats and of integers, WKV, LIF, norms,
//!    losses.
//! 5. [`task`] cuts text into sequences, runs them through the model and counts ([`task::evaluate`]);
//!    calibration, sampling and measures of sensitivity are beside it.
//! 6. [`jobs`] are the kinds of artifacts that a worker makes: here is the place for one more kind of job.
//!    [`memo`] is how those that run side by side share what is costly to make.
//! 7. [`checkpoint::packed`] writes a network under a candidate to the file that is deployed.
//!
//! [`backend`] has the names of the implementations of the product: our own kernels, which are the default,
//! or Burn on a processor or graphics card. Everything between two products is a kernel in any case, because
//! the backends' element-wise operations and scans are several times slower on a processor and differ between
//! backends. [`foreign`] gives files that are something else their names. Programs for graphics cards also have
//! `autodiff`: gradients by Burn.

#[cfg(feature = "autodiff")]
pub mod autodiff;
pub mod backend;
pub mod checkpoint;
pub mod foreign;
pub mod jobs;
pub mod kernels;
pub mod memo;
pub mod model;
pub mod quant;
pub mod task;
