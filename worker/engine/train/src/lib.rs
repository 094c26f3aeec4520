//! Training of SpikeGPT, float and quantized, to the same bits on every processor and with any number of threads.
//!
//! The one idea: training is the engine's forward pass with what was computed on the way kept (the *tape*), and that tape
//! read from its end. Both run on the engine's kernels, whose sums have one order, so what trains is what is deployed, and
//! a run can be repeated anywhere from its seed.
//!
//! The way through, from weights to better ones:
//!
//! 1. [`tensors`] has named tensors: parameters, their gradients, an optimizer's moments.
//! 2. [`weights`] packs the parameters for the products of one step, forward and transposed.
//! 3. `block` runs one window through one block and back; `head` goes from features to losses and back, a few positions at
//!    a time, those of a classifier being `means` of sentences; [`network`] does a batch: windows side by side, then the
//!    gradients of matrices, every number of which is one chain of sums over the tokens of the batch in their order;
//!    [`gradients`] takes them as they are finished.
//! 4. [`fake_quant`] puts quantization inside training: weights on their grid going forward, straight-through and learned
//!    step sizes going back.
//! 5. [`optimizer`], [`schedule`] and [`clip`] make a step of gradients; [`step`] joins all of it.
//!    [`states`] says what of a weight is held from step to step: floats, or int8 codes. On graphics cards Burn's autodiff
//!    finds the gradients in the place of 2 and 3, and all else is the same.
//! 6. [`jobs`] has the kinds of jobs that train, with which a worker is asked for all of it.
//!    [`distil`] is a whole run: a float teacher, a quantized student, [`lessons`] drawn from a seed ([`draw`]), codes at the
//!    end.
//!    [`fisher`] has the squares of gradients instead, by which a search knows what weights are sensitive to.
//! 7. [`part`] is a part of a network, [`network::module`] its backward pass towards what the float network does there, and
//!    [`reconstruct`] its run. [`block_ap`] runs blocks one after the other, [`mrem`] modules side by side, in rounds.

mod block;
pub mod block_ap;
pub mod clip;
pub mod distil;
pub mod draw;
pub mod fake_quant;
pub mod fisher;
pub mod gradients;
mod head;
pub mod jobs;
pub mod lessons;
mod means;
pub mod mrem;
pub mod network;
pub mod optimizer;
mod parallel;
pub mod part;
pub mod reconstruct;
pub mod schedule;
pub mod states;
pub mod step;
pub mod tensors;
pub mod weights;
