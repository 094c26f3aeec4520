//! Loading a tokenizer with the data that it reads, with the file's name in every error.

use qslm_common::network::Network;
use qslm_common::task::Task;
use qslm_engine::task::{Dataset, TokenizerFile};

use crate::exit::Outcome;
use crate::input::Input;

/// Loads the sequences of a task.
pub fn load_data(data: &Input, tokenizer: &Input, task: &Task, network: &Network) -> Outcome<Dataset> {
    let reader = TokenizerFile::load(tokenizer.path(), network.vocabulary)
        .map_err(|error| tokenizer.failure(&error))?;
    Dataset::load(data.path(), &reader, task, network).map_err(|error| data.failure(&error))
}

/// Says that there are fewer windows or sentences than `key` asks for.
pub fn warn_of_fewer(key: &str, asked: Option<u32>, input: &Input, data: &Dataset) {
    let Some(asked) = asked.filter(|asked| data.len() < *asked as usize) else { return };
    let (file, there) = (input.named().display(), data.len());
    tracing::warn!("{key} = {asked}: {file} has {there}, all of which are taken");
}
