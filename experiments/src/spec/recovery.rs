//! Recovery of a spec: training of the smallest candidates that the search finds.

use std::path::{Path, PathBuf};

use qslm_common::backend::Backend;
use qslm_common::experiment::{Experiment, check_model};
use qslm_common::hash::ContentHash;
use qslm_common::network::Network;
use qslm_common::recovery::{Optimizer, Recovery, States, Trainer, TrainingPlan};
use qslm_common::task::Task;
use serde::Deserialize;

use super::refuse;
use super::written::{one_line, set, suggest};
use crate::data::load_data;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;

/// Training of the smallest candidates: a text or sentences that the model may be trained on, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverySpec {
    #[serde(default)]
    pub(super) trainer: TrainerSpec,
    #[serde(default)]
    pub(super) backend: Backend,
    /// A language model's.
    pub(super) text: Option<PathBuf>,
    /// A classifier's.
    pub(super) labelled: Option<PathBuf>,
    #[serde(default = "one")]
    pub(super) candidates: u32,
    #[serde(default = "reach")]
    pub(super) reach: f64,
    /// Tokens of a window; the task's if absent. Sentences have none.
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
    pub(super) optimizer: Option<Optimizer>,
    #[serde(default)]
    pub(super) states: States,
    #[serde(default)]
    pub(super) bit_cost: f64,
    /// Of `block_ap`.
    pub(super) end_to_end_steps: Option<u32>,
    pub(super) end_to_end_rate: Option<f64>,
    /// Of `mrem`.
    pub(super) modules: Option<u32>,
    pub(super) rounds: Option<u32>,
}

/// The trainers that there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TrainerSpec {
    /// Quantization-aware training, end to end.
    #[default]
    Qat,
    /// EfficientQAT: block by block, then steps end to end.
    BlockAp,
    /// MREM: modules side by side, in rounds.
    Mrem,
}

impl RecoverySpec {
    /// The file that is trained on, of the task's kind, and how it is cut; in words what is missing or is not of that kind.
    fn data(&self, task: &Task) -> Result<(&PathBuf, Task), &'static str> {
        match (task, &self.text, &self.labelled) {
            (Task::Choice { .. }, ..) => Err("recovery: nothing is trained on multiple choice"),
            (Task::Perplexity { .. }, _, Some(_)) => {
                Err("recovery.labelled: a language model is trained on recovery.text")
            }
            (Task::Accuracy { .. }, Some(_), _) => {
                Err("recovery.text: a classifier is trained on recovery.labelled")
            }
            (Task::Perplexity { .. }, None, None) => {
                Err("recovery.text is missing: the text that is trained on")
            }
            (Task::Accuracy { .. }, None, None) => {
                Err("recovery.labelled is missing: the sentences that are trained on")
            }
            (Task::Accuracy { .. }, None, Some(_)) if self.window.is_some() => {
                Err("recovery.window: sentences enter whole, there are no windows")
            }
            (Task::Accuracy { .. }, None, Some(file)) => Ok((file, Task::Accuracy { sentences: None })),
            (Task::Perplexity { window, .. }, Some(file), None) => {
                let window = self.window.unwrap_or(*window);
                Ok((file, Task::Perplexity { window, stride: window, windows: None }))
            }
        }
    }

    /// The trainer with its own keys; the name of a key that is another trainer's is an error.
    fn trainer(&self, blocks: u32) -> Result<Trainer, String> {
        let Self { end_to_end_steps, end_to_end_rate, modules, rounds, .. } = *self;
        let foreign = |given: &[(&str, bool)]| match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((key, _)) => Err(format!("recovery.{key}: another trainer's")),
        };
        let of_phases = [
            ("end_to_end_steps", end_to_end_steps.is_some()),
            ("end_to_end_rate", end_to_end_rate.is_some()),
        ];
        let of_modules = [("modules", modules.is_some()), ("rounds", rounds.is_some())];
        Ok(match self.trainer {
            TrainerSpec::Qat => {
                foreign(&of_phases)?;
                foreign(&of_modules)?;
                Trainer::Qat
            }
            TrainerSpec::BlockAp => {
                foreign(&of_modules)?;
                Trainer::BlockAp {
                    end_to_end_steps: end_to_end_steps.unwrap_or(self.steps),
                    end_to_end_rate: end_to_end_rate.unwrap_or(END_TO_END_RATE),
                }
            }
            TrainerSpec::Mrem => {
                foreign(&of_phases)?;
                let modules = modules.unwrap_or(MODULES.min(blocks));
                Trainer::Mrem { modules, rounds: rounds.unwrap_or(ROUNDS.min(self.steps)) }
            }
        })
    }

    /// The plan, with windows of so many tokens and a checkpoint of so many blocks.
    fn plan(&self, window: u32, blocks: u32) -> Result<TrainingPlan, String> {
        let RecoverySpec { batch, steps, rate, distillation, seed, states, bit_cost, .. } = *self;
        let optimizer = match (self.optimizer, states) {
            (None, States::F32) => Optimizer::Adam,
            (None, States::Int8) => Optimizer::Lion,
            (Some(Optimizer::Adam), States::Int8) => {
                return Err("recovery.states = int8: takes optimizer = \"lion\"".to_owned());
            }
            (Some(optimizer), _) => optimizer,
        };
        let trainer = self.trainer(blocks)?;
        Ok(TrainingPlan {
            trainer,
            window,
            batch,
            steps,
            rate,
            distillation,
            seed,
            optimizer,
            states,
            bit_cost,
        })
    }
}

/// What is left out: MREM's modules as its authors have them, and rounds in which teacher forcing ends.
const MODULES: u32 = 4;
const ROUNDS: u32 = 4;
/// What is left out: the rate of steps, as a share of their mean.
const END_TO_END_RATE: f64 = 3e-3;

/// The recovery that a spec asks for, and the text or sentences that it trains on, all of which are read.
pub(super) fn resolve(
    path: &Path,
    written: &RecoverySpec,
    tokenizer: &Input,
    experiment: &Experiment,
) -> Outcome<(Recovery, (ContentHash, Input))> {
    let (file, task) = written.data(&experiment.task).map_err(|error| refuse(path, &error))?;
    let file = path.parent().unwrap_or(Path::new("")).join(file);
    let window = match task {
        Task::Perplexity { window, .. } => window,
        // Sentences enter whole.
        Task::Accuracy { .. } | Task::Choice { .. } => 1,
    };
    check_model(&experiment.network, &task).map_err(|error| refuse(path, &error))?;
    task.validate().map_err(|error| refuse(path, &format!("recovery.{error}")))?;
    // What is wrong with it is told before data is read.
    let plan = written.plan(window, experiment.network.blocks).map_err(|error| refuse(path, &error))?;
    let too_short = |words: String| refuse(path, &format!("recovery.text: {words}"));
    let input = read_lessons(&file, &task, tokenizer, &experiment.network, too_short)?;
    let (text, RecoverySpec { candidates, reach, backend, .. }) = (input.hash()?, written);
    let recovery = Recovery { text, candidates: *candidates, reach: *reach, plan, backend: *backend };
    Ok((recovery, (text, input)))
}

/// Data that is trained on, all of which is read; `too_short` makes a failure of the words about a text without a window.
///
/// # Errors
/// One line about the file, or what `too_short` makes.
pub fn read_lessons(
    file: &Path,
    task: &Task,
    tokenizer: &Input,
    network: &Network,
    too_short: impl Fn(String) -> Failure,
) -> Outcome<Input> {
    let input = Input::data(file, task)?;
    let tokens = load_data(&input, tokenizer, task, network)?.all_tokens().len();
    match task {
        Task::Perplexity { window, .. } if tokens <= *window as usize => {
            Err(too_short(format!("{tokens} tokens, a window takes {}", window + 1)))
        }
        _ => Ok(input),
    }
}

/// The plan that `KEY=VALUE` settings of the table describe, for a checkpoint of this shape, and the backend of its training.
///
/// # Errors
/// One line that names the setting.
pub fn plan_of(settings: &[String], network: &Network) -> Outcome<(TrainingPlan, Backend)> {
    let mut table = toml::Table::new();
    settings.iter().try_for_each(|setting| set(&mut table, setting))?;
    let usage = |words: &str| Failure::new(Exit::Usage, format!("--set: {words}"));
    if let Some(key) =
        ["text", "labelled", "candidates", "reach"].iter().find(|key| table.contains_key(**key))
    {
        return Err(usage(&format!("{key}: of a spec's [recovery] alone")));
    }
    let written: RecoverySpec =
        toml::from_str(&table.to_string()).map_err(|error| usage(&suggest(&one_line(error.message()))))?;
    let window = match (network.is_classifier(), written.window) {
        (false, window) => window.unwrap_or(TrainingPlan::default().window),
        (true, Some(_)) => return Err(usage("window: sentences enter whole, there are no windows")),
        (true, None) => 1,
    };
    let plan = written.plan(window, network.blocks).map_err(|error| usage(&error))?;
    Ok((plan, written.backend))
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
