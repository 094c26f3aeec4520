//! Origin of results, as words: all that they depend on besides the candidate. An export says it, and an
//! import can tell by it whether results are those of its experiment.

use std::fmt;

use crate::experiment::Experiment;
use crate::task::{Data, Task};

/// Origin of results: words that are the same for all results of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the checkpoint; `real-embedding` follows where the embedding is not binary.
    pub checkpoint: String,
    /// Hash of the text or the labelled sentences, and that of the tokenizer.
    pub data: String,
    /// Task, with the share of the data that was measured.
    pub protocol: String,
    /// Version of the engine, and its backend.
    pub engine: String,
}

impl Origin {
    /// The names of the parts, with the parts.
    pub fn parts(&self) -> [(&'static str, &str); 4] {
        [
            ("checkpoint", &self.checkpoint),
            ("data", &self.data),
            ("protocol", &self.protocol),
            ("engine", &self.engine),
        ]
    }
}

impl Experiment {
    /// Origin of its results: all that they depend on besides the candidate.
    pub fn origin(&self) -> Origin {
        let Data { text, tokenizer } = &self.data;
        let embedding = if self.network.binary_embedding { "" } else { " real-embedding" };
        let dynamics = match &self.network.dynamics {
            dynamics if dynamics.is_default() => String::new(),
            dynamics => format!(" {}", serde_json::to_string(dynamics).expect("dynamics have no maps")),
        };
        Origin {
            checkpoint: format!("{}{embedding}{dynamics}", self.checkpoint),
            data: format!("{text} {tokenizer}"),
            protocol: format!("{}{}", self.task, if self.asks_for_kl() { " kl" } else { "" }),
            engine: format!("{} {}", self.engine_version, self.backend),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = |most: Option<u32>| most.map_or("all".to_owned(), |most| most.to_string());
        match *self {
            Self::Perplexity { window, stride, windows } => {
                write!(f, "perplexity window={window} stride={stride} windows={}", most(windows))
            }
            Self::Accuracy { sentences } => write!(f, "accuracy sentences={}", most(sentences)),
            Self::Choice { questions, per_byte } => {
                let how = if per_byte { " per byte" } else { "" };
                write!(f, "choice questions={}{how}", most(questions))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_that_count_otherwise_have_other_words() {
        let words = |task: Task| task.to_string();
        let perplexity = |window, stride, windows| words(Task::Perplexity { window, stride, windows });
        assert_eq!(perplexity(32, 16, Some(2)), "perplexity window=32 stride=16 windows=2");
        assert_eq!(perplexity(32, 32, None), "perplexity window=32 stride=32 windows=all");
        assert_eq!(words(Task::Accuracy { sentences: Some(9) }), "accuracy sentences=9");
    }
}
