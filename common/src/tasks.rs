//! Further tasks of an experiment: what each candidate is measured on beside the experiment's own task, by name.
//!
//! The own task leads: searches learn from it, races run on it, the trade-off weighs it. A further task is one trial more of
//! each candidate, with a bound or an axis of the front if somebody asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::task::Task;

/// Longest name of a further task, in characters.
const LONGEST: usize = 16;
/// Most further tasks of an experiment: each is measured for every candidate.
pub const MOST_TASKS: usize = 8;

/// Name of a further task: 1 to 16 of `a-z 0-9 - _`. Small enough to be copied, as objectives are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName {
    /// The characters; zeros after the last, so that names are in the order of their texts.
    characters: [u8; LONGEST],
}

/// Further task: its data and how that is cut and scored. The tokenizer is the checkpoint's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FurtherTask {
    /// The text or labelled sentences.
    pub text: ContentHash,
    /// The protocol.
    pub task: Task,
}

/// A name that no task can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {0:?}: expected a name of 1 to 16 of a-z, 0-9, '-' and '_'")]
pub struct InvalidTaskName(String);

/// Further tasks that cannot be measured together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTasks {
    /// Too many of them.
    #[error("tasks: {0} further ones: expected at most {MOST_TASKS}")]
    TooMany(usize),
    /// Numbers of a protocol.
    #[error("tasks.{0}.{1}")]
    Task(TaskName, #[source] crate::task::InvalidTask),
    /// What the checkpoint does not do.
    #[error("tasks.{0}: {1}")]
    WrongModel(TaskName, &'static str),
    /// Another name of a measurement that there is.
    #[error("tasks.{0} measures what {1} measures")]
    Twice(TaskName, String),
    /// A race would leave some tasks of a candidate measured and others not.
    #[error("racing: not with further tasks: a pruned candidate would be measured on some of them")]
    Racing,
}

impl InvalidTasks {
    /// Key path of the value to change in a spec.
    pub fn key(&self) -> String {
        match self {
            Self::TooMany(_) => "tasks".to_owned(),
            Self::Task(name, invalid) => format!("tasks.{name}.{}", invalid.key()),
            Self::WrongModel(name, _) | Self::Twice(name, _) => format!("tasks.{name}"),
            Self::Racing => "racing".to_owned(),
        }
    }
}

impl TaskName {
    fn as_str(&self) -> &str {
        let length = self.characters.iter().position(|c| *c == 0).unwrap_or(LONGEST);
        std::str::from_utf8(&self.characters[..length]).expect("names are ASCII")
    }
}

impl FromStr for TaskName {
    type Err = InvalidTaskName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
        if !(1..=LONGEST).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(InvalidTaskName(text.chars().take(80).collect()));
        }
        let mut characters = [0; LONGEST];
        characters[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { characters })
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskName({self})")
    }
}

impl TryFrom<String> for TaskName {
    type Error = InvalidTaskName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TaskName> for String {
    fn from(name: TaskName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_word_in_the_order_of_its_text() {
        let names = ["a", "a-b", "books", "x_1", "abcdefghijklmnop"];
        let mut read: Vec<TaskName> = names.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(read.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
        read.sort();
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        assert_eq!(read.iter().map(ToString::to_string).collect::<Vec<_>>(), sorted);
        for wrong in ["", "A", "a.b", "abcdefghijklmnopq", "é", "a\0"] {
            let words = wrong.parse::<TaskName>().unwrap_err().to_string();
            assert!(words.contains("expected a name of 1 to 16"), "{words}");
        }
        assert_eq!(format!("{:>6}|", read[0]), "     a|");
    }
}
