//! The document that a page is made of.

use qslm_common::archive::FrontDocument;
use qslm_common::experiment::Experiment;
use qslm_common::space::Axis;
use serde::{Deserialize, Serialize};

use crate::cloud::Spot;

/// Version of the document.
pub const FORMAT: u32 = 1;

/// An experiment as it can be shown, finished or not. Its size does not depend on the number of candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that measured and collected.
    pub version: String,
    /// The experiment's id.
    pub id: String,
    /// Everything that decides the result.
    pub experiment: Experiment,
    /// Caption of its strategy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub strategy: String,
    /// Whether it is under way.
    pub state: Lifecycle,
    /// The stage that the search is in.
    pub stage: String,
    /// Trials of the current generation that are settled.
    pub generation_settled: u32,
    /// Trials of the current generation.
    pub generation_trials: u32,
    /// Trials that failed for good.
    pub failed: u64,
    /// Why, the first few different reasons.
    pub failures: Vec<String>,
    /// Why no worker can go on with it, if that is so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stuck: String,
    /// The most candidates that may still be proposed, if the strategy can tell.
    pub remaining_at_most: Option<u64>,
    /// Workers heard of lately.
    pub workers: u32,
    /// Tokens that all workers together evaluate per second, lately.
    pub tokens_per_second: f64,
    /// The stages so far, in their order.
    pub stages: Vec<Stage>,
    /// All measured candidates.
    pub spots: Vec<Spot>,
    /// The front, the float model, and what was chosen.
    pub front: FrontDocument,
    /// What each part costs when it alone is quantized; empty if the strategy does not ask.
    pub sensitivity: Vec<Sensitivity>,
    /// How it went, by rising time.
    pub timeline: Vec<Sample>,
    /// What others found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// What measured, as far as it is known; the most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineShare>,
}

/// What an engine measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineShare {
    /// Program, version, backend and processor.
    pub engine: String,
    /// Candidates that it measured, wholly or in part.
    pub measured: u64,
}

/// Points of another tool to compare with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Where they are from.
    pub source: String,
    /// At most a few thousand.
    pub points: Vec<Reference>,
}

/// A point of another tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// What it is called there.
    pub label: String,
    /// Share of the float model's bytes that is saved.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub quality_loss: f64,
}

/// Whether an experiment is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Workers get shards of it.
    Running,
    /// A person holds it up.
    Paused,
    /// A person ended it.
    Cancelled,
    /// The search came to its end.
    Finished,
}

impl Lifecycle {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        }
    }
}

/// A stage of the search: sensitivity, global, block, module, matrix, grid, random.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Candidates that it was the first to propose, and that are measured.
    pub measured: u64,
}

/// What it costs to quantize one unit, activation or population alone, at the width of the sensitivity stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// What kind of thing it is.
    #[serde(rename = "part")]
    pub axis: Axis,
    /// Its name.
    pub name: String,
    /// The loss of quality; `None` if it could not be measured.
    pub quality_loss: Option<f64>,
}

/// A longer silence is an interruption, during which nobody worked.
const INTERRUPTION_MS: u64 = 10 * 60 * 1000;

/// How long was worked until each sample, in milliseconds: the time since the first, without interruptions.
pub fn worked_ms(timeline: &[Sample]) -> Vec<u64> {
    let (mut worked, mut before) = (0, None);
    let at = |sample: &Sample| {
        let since = before.map_or(0, |before: u64| sample.unix_ms.saturating_sub(before));
        before = Some(sample.unix_ms);
        worked += if since > INTERRUPTION_MS { 0 } else { since };
        worked
    };
    timeline.iter().map(at).collect()
}

/// How far an experiment was at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970 in UTC.
    pub unix_ms: u64,
    /// Candidates on record.
    pub measured: u64,
    /// Candidates on the front.
    pub front: u32,
    /// Share of the reference box that the front dominates, 0 to 1.
    pub hypervolume: Option<f64>,
    /// Tokens that all workers together evaluated per second, lately.
    pub tokens_per_second: f64,
}
