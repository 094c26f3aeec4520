//! The files that a spec names: found by address or by path, relative to the spec, with the keys that name them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qslm_common::experiment::InvalidExperiment;
use qslm_common::hash::ContentHash;
use qslm_common::task::Task;

use super::refuse;
use super::written::{Spec, WrittenList, WrittenStrategy};
use crate::exit::{Failure, Outcome};
use crate::fetched::{self, Fetched, is_address};
use crate::input::Input;

/// The files that every spec names.
pub(super) struct Files {
    pub(super) checkpoint: PathBuf,
    pub(super) tokenizer: PathBuf,
    /// The text or labelled sentences.
    pub(super) text: PathBuf,
}

/// The files that a spec names, with their keys.
fn named(spec: &mut Spec) -> Vec<(String, &mut PathBuf)> {
    let checkpoint = &mut spec.checkpoint;
    let mut named = vec![
        ("checkpoint.path", checkpoint.path.as_mut()),
        ("checkpoint.tokenizer", checkpoint.tokenizer.as_mut()),
    ];
    if let Some(calibration) = &mut spec.calibration {
        named.push(("calibration.text", calibration.text.as_mut()));
        named.push(("calibration.labelled", calibration.labelled.as_mut()));
    }
    if let Some(holdout) = &mut spec.holdout {
        named.push(("holdout.text", holdout.text.as_mut()));
        named.push(("holdout.labelled", holdout.labelled.as_mut()));
    }
    match &mut spec.strategy {
        Some(WrittenStrategy::Warm(_, front)) => named.push(("strategy.warm_start", Some(front))),
        Some(WrittenStrategy::List(WrittenList { candidates })) => {
            named.push(("strategy.candidates", Some(candidates)));
        }
        _ => {}
    }
    if let Some(recovery) = &mut spec.recovery {
        named.push(("recovery.text", recovery.text.as_mut()));
        named.push(("recovery.labelled", recovery.labelled.as_mut()));
    }
    let own = std::iter::once(("task".to_owned(), &mut spec.task));
    let tasks = own.chain(spec.tasks.iter_mut().map(|(name, task)| (format!("tasks.{name}"), task)));
    let of_tasks = tasks.filter_map(|(table, task)| {
        let (key, file) = task.file_mut();
        Some((format!("{table}.{key}"), file?))
    });
    let others = named.into_iter().filter_map(|(key, file)| Some((key.to_owned(), file?)));
    others.chain(of_tasks).collect()
}

/// The files that a spec names, relative to it, with their keys; addresses apart. Of candidates, who reads them says what is
/// wrong.
pub(super) fn named_files(path: &Path, spec: &mut Spec) -> Vec<(String, PathBuf)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let named =
        named(spec).into_iter().filter(|(key, file)| key != "strategy.candidates" && !is_address(file));
    named.map(|(key, file)| (key, folder.join(file))).collect()
}

/// Puts a file in the place of each address; the keys whose addresses lead nowhere, and why.
pub(super) fn find_addresses(spec: &mut Spec) -> (Fetched, Vec<(String, Failure)>) {
    let (mut fetched, mut failed) = (Fetched::default(), Vec::new());
    for (key, file) in named(spec) {
        match fetched::find([file]) {
            Ok(found) => fetched.extend(found),
            Err(failure) => failed.push((key, failure)),
        }
    }
    (fetched, failed)
}

/// Addresses that files of an experiment were fetched from, by content hash.
pub(super) fn origins(files: &[(ContentHash, Input)], fetched: &Fetched) -> BTreeMap<ContentHash, String> {
    let origin =
        |(hash, file): &(ContentHash, Input)| Some((*hash, fetched.origin(file.named())?.to_owned()));
    files.iter().filter_map(origin).collect()
}

/// The files of a spec, relative to it, and the protocol.
pub(super) fn find(path: &Path, spec: &Spec) -> Outcome<(Files, Task)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let at = |key: &str, file: Option<&PathBuf>| {
        file.map(|file| folder.join(file)).ok_or_else(|| missing(path, key))
    };
    let checkpoint = at("checkpoint.path", spec.checkpoint.path.as_ref())?;
    let tokenizer = at("checkpoint.tokenizer", spec.checkpoint.tokenizer.as_ref())?;
    let (key, text) = spec.task.file();
    let text = at(&format!("task.{key}"), text)?;
    let task = spec.task.task();
    if matches!(task, Task::Choice { .. }) {
        return Err(refuse(path, &InvalidExperiment::OwnChoice));
    }
    Ok((Files { checkpoint, tokenizer, text }, task))
}

/// Error of a file that a spec does not name.
pub(super) fn missing(path: &Path, key: &str) -> Failure {
    refuse(path, &format!("{key} is missing: write it in the spec or give --set {key}=FILE"))
}
