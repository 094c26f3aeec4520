//! Loading: the file of a task as sequences.

use std::path::Path;

use qslm_common::network::Network;
use qslm_common::task::Task;

use super::dataset::{DataError, Dataset, read_sentences, read_text};
use super::questions;
use super::tokenizer::TokenizerFile;

impl Dataset {
    /// Reads the data of a task.
    ///
    /// # Errors
    /// [`DataError`] names the line.
    pub fn load(
        path: &Path,
        tokenizer: &TokenizerFile,
        task: &Task,
        network: &Network,
    ) -> Result<Self, DataError> {
        match *task {
            Task::Perplexity { window, stride, windows } => {
                let needed = windows.map(|windows| tokens_of(window, stride, windows));
                let tokens = read_text(path, tokenizer, needed)?;
                Self::windows(tokens, window as usize, stride as usize, windows)
            }
            Task::Accuracy { sentences } => read_sentences(path, tokenizer, network.outputs, sentences),
            Task::Choice { questions, per_byte } => questions::read(path, tokenizer, questions, per_byte),
        }
    }
}

/// Tokens that so many windows take: those that enter, and the one that the last of them predicts.
fn tokens_of(window: u32, stride: u32, windows: u32) -> u64 {
    u64::from(window) + u64::from(stride) * u64::from(windows.saturating_sub(1)) + 1
}
