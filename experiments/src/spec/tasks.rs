//! Tasks of a spec: the own one, `[task]`, and further ones, `[tasks.NAME]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qslm_common::experiment::Experiment;
use qslm_common::task::Task;
use qslm_common::tasks::{FurtherTask, TaskName};
use serde::Deserialize;

use crate::data::{load_data, warn_of_fewer};
use crate::exit::Outcome;
use crate::input::Input;

/// A task as written: its file and its numbers.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum TaskSpec {
    Perplexity {
        text: Option<PathBuf>,
        window: u32,
        stride: Option<u32>,
        windows: Option<u32>,
    },
    Accuracy {
        labelled: Option<PathBuf>,
        sentences: Option<u32>,
    },
    Choice {
        questions: Option<PathBuf>,
        first: Option<u32>,
        #[serde(default)]
        per_byte: bool,
    },
}

impl TaskSpec {
    /// Key of its file within the table, and the file.
    pub(super) fn file(&self) -> (&'static str, Option<&PathBuf>) {
        match self {
            Self::Perplexity { text, .. } => ("text", text.as_ref()),
            Self::Accuracy { labelled, .. } => ("labelled", labelled.as_ref()),
            Self::Choice { questions, .. } => ("questions", questions.as_ref()),
        }
    }

    /// As [`TaskSpec::file`], to put another in its place.
    pub(super) fn file_mut(&mut self) -> (&'static str, Option<&mut PathBuf>) {
        match self {
            Self::Perplexity { text, .. } => ("text", text.as_mut()),
            Self::Accuracy { labelled, .. } => ("labelled", labelled.as_mut()),
            Self::Choice { questions, .. } => ("questions", questions.as_mut()),
        }
    }

    /// The protocol.
    pub(super) fn task(&self) -> Task {
        match *self {
            Self::Perplexity { window, stride, windows, .. } => {
                Task::Perplexity { window, stride: stride.unwrap_or(window), windows }
            }
            Self::Accuracy { sentences, .. } => Task::Accuracy { sentences },
            Self::Choice { first, per_byte, .. } => Task::Choice { questions: first, per_byte },
        }
    }
}

/// Further task with its data.
pub(super) struct Found {
    name: TaskName,
    input: Input,
    further: FurtherTask,
}

/// Finds the data of the further tasks. `missing` makes the error of a file that is not named, by its key.
pub(super) fn find<E: From<crate::exit::Failure>>(
    written: &BTreeMap<TaskName, TaskSpec>,
    folder: &Path,
    missing: impl Fn(&str) -> E,
) -> Result<Vec<Found>, E> {
    let found = |(name, spec): (&TaskName, &TaskSpec)| {
        let (key, file) = spec.file();
        let file = file.ok_or_else(|| missing(&format!("tasks.{name}.{key}")))?;
        let task = spec.task();
        let input = Input::data(&folder.join(file), &task)?;
        Ok(Found { name: *name, further: FurtherTask { text: input.hash()?, task }, input })
    };
    written.iter().map(found).collect()
}

/// The further tasks as an experiment has them.
pub(super) fn further(found: &[Found]) -> BTreeMap<TaskName, FurtherTask> {
    found.iter().map(|found| (found.name, found.further.clone())).collect()
}

/// Reads all of the data: bad input is told before anything is searched. Tokens that a candidate processes in them.
pub(super) fn read(found: &[Found], tokenizer: &Input, experiment: &Experiment) -> Outcome<u64> {
    let mut positions = 0;
    for Found { name, input, further } in found {
        let data = load_data(input, tokenizer, &further.task, &experiment.network)?;
        let (key, asked) = asked(&further.task);
        warn_of_fewer(&format!("tasks.{name}.{key}"), asked, input, &data);
        positions += data.positions();
    }
    Ok(positions)
}

/// Files of the further tasks by their content.
pub(super) fn files(found: Vec<Found>) -> impl Iterator<Item = (qslm_common::hash::ContentHash, Input)> {
    found.into_iter().map(|found| (found.further.text, found.input))
}

/// Key of the number of sequences that a task asks for, and that number.
pub(super) fn asked(task: &Task) -> (&'static str, Option<u32>) {
    match task {
        Task::Perplexity { windows, .. } => ("windows", *windows),
        Task::Accuracy { sentences } => ("sentences", *sentences),
        Task::Choice { questions, .. } => ("first", *questions),
    }
}
