//! Loading a tokenizer with the data that it reads, with the file's name in every error.

use std::path::Path;

use qslm_common::network::Network;
use qslm_common::task::Task;
use qslm_engine::task::{Dataset, TokenizerFile};

use crate::exit::{Failure, Outcome};

/// Loads the sequences of a task.
pub fn load_data(path: &Path, tokenizer: &Path, task: &Task, network: &Network) -> Outcome<Dataset> {
    let reader = TokenizerFile::load(tokenizer, network.vocabulary)
        .map_err(|error| Failure::file(tokenizer, &error))?;
    Dataset::load(path, &reader, task, network).map_err(|error| Failure::file(path, &error))
}
