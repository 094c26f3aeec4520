//! What is in the files of a spec, each looked at by itself: where one cannot be read, what is wrong with the others is told.

use std::path::Path;

use qslm_common::network::Network;
use qslm_engine::task::TokenizerFile;

use super::files::{Files, find};
use super::written::Spec;
use super::{KeyProblem, float_network};
use crate::data::load_data;
use crate::exit::Failure;
use crate::input::Input;
use crate::member::Base;

/// Tokens that any tokenizer may know, where the checkpoint does not tell how many it has.
const ANY: u32 = u32::MAX;

/// Problems of what is in the checkpoint, the tokenizer and the data of each task.
pub(super) fn problems(path: &Path, spec: &Spec) -> Vec<KeyProblem> {
    let Ok((files, task)) = find(path, spec) else { return Vec::new() };
    let network = network(path, spec, &files);
    let tokenizer = Input::tokenizer(&files.tokenizer).and_then(|tokenizer| {
        let vocabulary = network.as_ref().map_or(ANY, |network| network.vocabulary);
        let read = TokenizerFile::load(tokenizer.path(), vocabulary);
        read.map_err(|error| tokenizer.failure(&error)).map(|_| tokenizer)
    });
    let data = Input::data(&files.text, &task).and_then(|data| match (&network, &tokenizer) {
        (Ok(network), Ok(tokenizer)) => load_data(&data, tokenizer, &task, network).map(drop),
        // Without them a text is any bytes.
        _ => Ok(()),
    });
    let folder = path.parent().unwrap_or(Path::new(""));
    let further = spec.tasks.iter().filter_map(|(name, task)| {
        let (key, file) = task.file();
        let read = Input::data(&folder.join(file?), &task.task()).map(drop);
        Some((format!("tasks.{name}.{key}"), read.err()?))
    });
    let own = [
        ("checkpoint.path".to_owned(), network.err()),
        ("checkpoint.tokenizer".to_owned(), tokenizer.err()),
        (format!("task.{}", spec.task.file().0), data.err()),
    ];
    let own = own.into_iter().filter_map(|(key, failure)| Some((key, failure?)));
    own.chain(further).map(|(key, failure)| KeyProblem::new(&key, failure.to_string())).collect()
}

/// The network of the checkpoint. What the spec says of it, and that is wrong, is a problem of values.
fn network(path: &Path, spec: &Spec, files: &Files) -> Result<Network, Failure> {
    let base = Base::of(&files.checkpoint, spec.checkpoint.family)?;
    let member = spec.checkpoint.member(base).map_err(|problem| super::refuse(path, &problem.words))?;
    float_network(path, member, files)
}
