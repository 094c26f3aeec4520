//! Tasks: from files to sequences, and from sequences to counts.

mod calibrate;
mod dataset;
mod evaluate;
mod load;
mod questions;
mod sample;
pub mod sensitivity;
mod tokenizer;
mod world;

pub use calibrate::{NotFinite, calibrate, watch_part};
pub use dataset::{DataError, Dataset};
pub use evaluate::{
    EvaluateError, Interrupt, evaluate, evaluate_each, evaluate_each_beside, sequence_logits, spread,
};
pub use sample::{Sampler, SamplerError};
pub use tokenizer::{Decoder, TokenizerError, TokenizerFile};
