//! Tasks: what a trial measures on which data, and how that data is cut into shards.
//!
//! The data is a list of independent sequences (windows of a text, or sentences). A shard is the i-th of
//! n nearly equal runs of that list, so that nobody needs to know its length to plan a trial.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// The protocol of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Task {
    /// Language modelling: mean loss per predicted token of a text.
    Perplexity {
        /// Tokens that enter the network per window; the state starts afresh in each.
        window: u32,
        /// Tokens from one window's start to the next, at most `window`. Only tokens that no earlier
        /// window scored are scored: all of the first window, then the last `stride` of each.
        stride: u32,
        /// Stop after so many windows; all if absent.
        windows: Option<u32>,
    },
    /// Classification: the share of sentences whose largest logit is the label's.
    Accuracy {
        /// Stop after so many sentences; all if absent.
        sentences: Option<u32>,
    },
    /// Multiple choice: the share of questions whose right answer is the likeliest continuation. A further task only: it
    /// tells too little of a candidate to search by.
    Choice {
        /// Stop after so many questions; all if absent.
        questions: Option<u32>,
        /// True if answers are compared by their log-likelihood per byte, false if by that of the whole.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        per_byte: bool,
    },
}

/// The files a measurement reads, by content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Data {
    /// The text (one paragraph a line), labelled sentences (`sentence TAB label`) or questions (lines of JSON).
    pub text: ContentHash,
    /// The `tokenizer.json` that turns it into tokens.
    pub tokenizer: ContentHash,
}

/// One of the runs into which a trial's sequences are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// Index of the run, from 0.
    pub index: u32,
    /// Number of runs.
    pub of: u32,
}

/// The most shards that a trial may be cut into.
pub const MAX_SHARDS: u32 = 4096;
/// The longest window in tokens.
pub const MAX_WINDOW: u32 = 1 << 16;

/// A protocol that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} = {value}: expected {bound}")]
pub struct InvalidTask {
    what: &'static str,
    value: u32,
    bound: String,
}

impl InvalidTask {
    /// Key within `[task]`.
    pub fn key(&self) -> &'static str {
        self.what
    }
}

impl Task {
    /// Checks the numbers of the protocol.
    ///
    /// # Errors
    /// The first number outside its bound.
    pub fn validate(&self) -> Result<(), InvalidTask> {
        let check = |what, value, most: u32| {
            let bound = format!("1 to {most}");
            if (1..=most).contains(&value) { Ok(()) } else { Err(InvalidTask { what, value, bound }) }
        };
        match *self {
            Self::Perplexity { window, stride, windows } => {
                check("window", window, MAX_WINDOW)?;
                check("stride", stride, window)?;
                windows.map_or(Ok(()), |windows| check("windows", windows, u32::MAX))
            }
            Self::Accuracy { sentences } => {
                sentences.map_or(Ok(()), |sentences| check("sentences", sentences, u32::MAX))
            }
            Self::Choice { questions, .. } => {
                questions.map_or(Ok(()), |questions| check("first", questions, u32::MAX))
            }
        }
    }

    /// The same protocol, stopped after so many windows, sentences or questions at the latest.
    #[must_use]
    pub fn first(&self, sequences: u32) -> Self {
        let least = |given: Option<u32>| Some(given.map_or(sequences, |given| given.min(sequences)));
        match *self {
            Self::Perplexity { window, stride, windows } => {
                Self::Perplexity { window, stride, windows: least(windows) }
            }
            Self::Accuracy { sentences } => Self::Accuracy { sentences: least(sentences) },
            Self::Choice { questions, per_byte } => Self::Choice { questions: least(questions), per_byte },
        }
    }
}

impl Shard {
    /// Checks `index < of <= MAX_SHARDS`.
    pub fn is_valid(self) -> bool {
        self.index < self.of && self.of <= MAX_SHARDS
    }

    /// The sequences of this shard out of `sequences`. The shards of a trial tile the list.
    pub fn range(self, sequences: usize) -> Range<usize> {
        let cut = |index: u32| (sequences as u64 * u64::from(index) / u64::from(self.of.max(1))) as usize;
        cut(self.index)..cut(self.index + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shards_tile_the_sequences(sequences in 0usize..10_000, of in 1..=MAX_SHARDS) {
            let mut next = 0;
            for index in 0..of {
                let range = Shard { index, of }.range(sequences);
                prop_assert_eq!(range.start, next);
                prop_assert!(range.len() <= sequences / of as usize + 1);
                next = range.end;
            }
            prop_assert_eq!(next, sequences);
        }
    }

    #[test]
    fn a_wrong_number_is_named_with_its_bound() {
        let task = Task::Perplexity { window: 128, stride: 129, windows: None };
        assert_eq!(task.validate().unwrap_err().to_string(), "stride = 129: expected 1 to 128");
        assert!(Task::Perplexity { window: 0, stride: 1, windows: None }.validate().is_err());
        assert!(Task::Accuracy { sentences: Some(0) }.validate().is_err());
        assert!(Task::Accuracy { sentences: None }.validate().is_ok());
        let none = Task::Choice { questions: Some(0), per_byte: true };
        assert_eq!(none.validate().unwrap_err().to_string(), "first = 0: expected 1 to 4294967295");
        assert_eq!(
            Task::Choice { questions: None, per_byte: true }.first(3),
            Task::Choice { questions: Some(3), per_byte: true }
        );
    }
}
