//! Tasks: from files to sequences, and from sequences to counts.

mod dataset;
mod evaluate;
mod tokenizer;

pub use dataset::{DataError, Dataset};
pub use evaluate::{EvaluateError, Interrupt, evaluate, sequence_logits};
pub use tokenizer::{TokenizerError, TokenizerFile};
