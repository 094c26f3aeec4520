//! Tasks: from files to sequences, and from sequences to counts.

mod dataset;
mod evaluate;
mod sample;
mod tokenizer;

pub use dataset::{DataError, Dataset};
pub use evaluate::{EvaluateError, Interrupt, evaluate, sequence_logits};
pub use sample::{Sampler, SamplerError};
pub use tokenizer::{Decoder, TokenizerError, TokenizerFile};
