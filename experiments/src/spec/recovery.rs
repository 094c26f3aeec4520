//! Recovery of a spec: training of the smallest candidates that the search finds.

use std::path::{Path, PathBuf};

use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::recovery::{Recovery, TrainingPlan};
use qslm_common::task::Task;
use serde::Deserialize;

use super::refuse;
use crate::data::load_data;
use crate::exit::Outcome;
use crate::input::Input;

/// Training of the smallest candidates: a text that the model may be trained on, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverySpec {
    #[serde(default)]
    pub(super) trainer: TrainerSpec,
    pub(super) text: Option<PathBuf>,
    #[serde(default = "one")]
    pub(super) candidates: u32,
    #[serde(default = "reach")]
    pub(super) reach: f64,
    /// Tokens of a window; the task's if absent.
    pub(super) window: Option<u32>,
    #[serde(default = "sixteen")]
    pub(super) batch: u32,
    #[serde(default = "steps")]
    pub(super) steps: u32,
    #[serde(default = "rate")]
    pub(super) rate: f64,
    #[serde(default = "whole")]
    pub(super) distillation: f64,
    #[serde(default)]
    pub(super) seed: u64,
}

/// The trainers that there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TrainerSpec {
    /// Quantization-aware training, end to end.
    #[default]
    Qat,
}

/// The recovery that a spec asks for, and the text that it trains on, all of which is read.
pub(super) fn resolve(
    path: &Path,
    written: &RecoverySpec,
    tokenizer: &Input,
    experiment: &Experiment,
) -> Outcome<(Recovery, (ContentHash, Input))> {
    let TrainerSpec::Qat = written.trainer;
    let missing = || refuse(path, &"recovery.text is missing: the text that is trained on");
    let file = path.parent().unwrap_or(Path::new("")).join(written.text.as_ref().ok_or_else(missing)?);
    let window = match (written.window, &experiment.task) {
        (Some(window), _) => window,
        (None, Task::Perplexity { window, .. }) => *window,
        (None, Task::Accuracy { .. }) => 1,
    };
    let task = Task::Perplexity { window, stride: window, windows: None };
    task.validate().map_err(|error| refuse(path, &format!("recovery.{error}")))?;
    let input = Input::data(&file, &task)?;
    let tokens = load_data(&input, tokenizer, &task, &experiment.network)?.all_tokens().len();
    if tokens <= window as usize {
        let words = format!("recovery.text: {tokens} tokens, a window takes {}", window + 1);
        return Err(refuse(path, &words));
    }
    let RecoverySpec { batch, steps, rate, distillation, seed, candidates, reach, .. } = *written;
    let plan = TrainingPlan { window, batch, steps, rate, distillation, seed };
    let text = input.hash()?;
    Ok((Recovery { text, candidates, reach, plan }, (text, input)))
}

fn one() -> u32 {
    1
}

fn steps() -> u32 {
    400
}

fn reach() -> f64 {
    10.0
}

fn rate() -> f64 {
    5e-4
}

fn whole() -> f64 {
    1.0
}

fn sixteen() -> u32 {
    16
}
