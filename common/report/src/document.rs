//! The document that a page is made of.

use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::hash::ContentHash;
use qslm_common::origins::Origins;
use qslm_common::space::Axis;
use serde::{Deserialize, Serialize};

use crate::cloud::Spot;

/// Version of the document.
pub const FORMAT: u32 = 1;

/// An experiment as it can be shown, finished or not. Its size does not depend on the number of candidates.
/// It has a field for every key of the document.
// A document: one field for each thing that a page shows, as its readers know them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that measured and collected.
    pub version: String,
    /// The experiment's id.
    pub id: String,
    /// Experiment: everything that decides the result.
    pub experiment: Experiment,
    /// Caption of its strategy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub strategy: String,
    /// State: under way, or at an end.
    pub state: Lifecycle,
    /// The stage that the search is in.
    pub stage: String,
    /// Trials of the current generation that are settled.
    pub generation_settled: u32,
    /// Trials of the current generation.
    pub generation_trials: u32,
    /// Trials that failed for good.
    pub failed: u64,
    /// Reasons of failures, the first few different ones.
    pub failures: Vec<String>,
    /// Reason why no worker can go on with it, if that is so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stuck: String,
    /// Sentence about a lack of workers that lasts, and about leases that were lost with them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub without_worker: String,
    /// The most candidates that may still be proposed, if the strategy can tell.
    pub remaining_at_most: Option<u64>,
    /// Number of these that will be proposed, about, as searches like it did; `None` where nothing is known of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_about: Option<u64>,
    /// Workers heard of lately.
    pub workers: u32,
    /// Tokens that all workers together process per second, lately.
    pub tokens_per_second: f64,
    /// The stages so far, in their order.
    pub stages: Vec<Stage>,
    /// Spots of all measured candidates.
    pub spots: Vec<Spot>,
    /// The front, the float model, and what was chosen.
    pub front: FrontDocument,
    /// Sensitivities: the loss of quality when one unit, activation or population alone is quantized; empty
    /// if the strategy does not ask.
    pub sensitivity: Vec<Sensitivity>,
    /// Samples of how it went, by rising time.
    pub timeline: Vec<Sample>,
    /// Points that other tools found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// Engines that measured, as far as they are known; the one with the most candidates first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineShare>,
    /// Artifacts that jobs made for it, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<GivenArtifact>,
    /// Addresses that its files were fetched from, as far as they are known.
    #[serde(default, skip_serializing_if = "Origins::is_empty")]
    pub origins: Origins,
}

/// Artifact that a job gave the experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenArtifact {
    /// Kind of the job, and its parameters.
    pub job: String,
    /// Content hash of the artifact.
    pub artifact: ContentHash,
}

/// Share of an engine in the measurements.
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
    /// Tool or file that they are from.
    pub source: String,
    /// Points, a few thousand at most.
    pub points: Vec<Reference>,
}

/// A point of another tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Name in the other tool.
    pub label: String,
    /// Share of the float model's bytes that is saved.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub quality_loss: f64,
}

/// State of an experiment: under way, or at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Workers get shards of it.
    Running,
    /// Its store is read, and no coordinator has it open.
    Interrupted,
    /// A person holds it up.
    Paused,
    /// A person ended it.
    Cancelled,
    /// The search came to its end.
    Finished,
}

impl Lifecycle {
    /// Name as a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        }
    }
}

/// A stage of the search: sensitivity, global, block, module, matrix, grid, random.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Candidates that it was the first to propose, and that are measured.
    pub measured: u64,
}

/// Sensitivity of one unit, activation or population: the loss when it alone is quantized, at the width of
/// the sensitivity stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Axis that it is on.
    #[serde(rename = "part")]
    pub axis: Axis,
    /// Name.
    pub name: String,
    /// Scheme that it alone had; empty in a document of an earlier version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// The loss of quality; `None` if it could not be measured.
    pub quality_loss: Option<f64>,
    /// 95 % interval of the loss, where it is known: not on a subset of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_loss_interval: Option<(f64, f64)>,
}

/// Silence from which on it is an interruption, during which no worker worked.
const INTERRUPTION_MS: u64 = 10 * 60 * 1000;

/// Time at work until each sample, in milliseconds: the time since the first, without interruptions.
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

/// Sample of how far an experiment was at a time.
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
    /// Best candidate by then; `None` if none met the constraints, and in a sample of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestSoFar>,
}

/// Best candidate at a time: the one within the constraints that the trade-off picks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestSoFar {
    /// Share of the float model's bytes that it saves.
    pub saving: f64,
    /// Loss of quality against the float model.
    pub quality_loss: f64,
    /// 95 % interval of the loss, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_loss_interval: Option<(f64, f64)>,
}
