//! The flags that name a task's data, shared by every command that measures.

use std::path::{Path, PathBuf};

use clap::Args;
use qslm_common::experiment::check_model;
use qslm_common::network::Network;
use qslm_common::task::Task;
use qslm_engine::task::Dataset;

use crate::data::{load_data, warn_of_fewer};
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::Input;
use crate::known::Known;

/// Text or labelled sentences, and how they are cut.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// The checkpoint's tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Text to predict (perplexity)
    #[arg(long, value_name = "FILE", group = "data")]
    text: Option<PathBuf>,
    /// Lines of `sentence TAB label` to classify (accuracy)
    #[arg(long, value_name = "FILE", group = "data")]
    labelled: Option<PathBuf>,
    /// Lines of JSON with a context, choices and the label of the right one (multiple choice by likelihood)
    #[arg(long, value_name = "FILE", group = "data")]
    questions: Option<PathBuf>,
    /// Compare the choices of a question by their log-likelihood per byte
    #[arg(long, requires = "questions")]
    per_byte: bool,
    /// Tokens per window; the network's state starts afresh in each [default: as a search measured the candidate, else 1024]
    #[arg(long, value_name = "TOKENS")]
    window: Option<u32>,
    /// Tokens from one window's start to the next [default: as a search measured the candidate, else the window]
    #[arg(long)]
    stride: Option<u32>,
    /// Stop after this many windows, sentences or questions [default: on the data of the search as many as there, else all]
    #[arg(long, value_name = "N")]
    pub windows: Option<u32>,
}

/// Tokens per window where nothing says how many.
pub const WINDOW: u32 = 1024;

impl DataArgs {
    /// Puts files in the place of addresses.
    pub fn find(&mut self) -> Outcome {
        let named = [&mut self.tokenizer, &mut self.text, &mut self.labelled];
        fetched::find(named.into_iter().flatten()).map(drop)
    }

    /// The same with what is not given as a search measured the candidate. Warns where it is given otherwise.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn measured_as(mut self, known: &Known) -> Outcome<Self> {
        let Some(conditions) = &known.conditions else { return Ok(self) };
        let whose = &known.whose;
        if let Some(tokenizer) = &self.tokenizer {
            known.check_tokenizer(tokenizer)?;
        }
        let data = self.file();
        let is_same = match data {
            Some(path) => Input::data(path, &self.task()?)?.hash()? == conditions.data.text,
            None => false,
        };
        match conditions.task {
            Task::Perplexity { window, stride, windows }
                if self.labelled.is_none() && self.questions.is_none() =>
            {
                let warn = |name: &str, given: u32, measured: u32| {
                    tracing::warn!("--{name} {given}: {whose} was measured with {measured}");
                };
                self.window
                    .filter(|given| *given != window)
                    .into_iter()
                    .for_each(|given| warn("window", given, window));
                self.stride
                    .filter(|given| *given != stride)
                    .into_iter()
                    .for_each(|given| warn("stride", given, stride));
                if self.window.is_none() {
                    self.window = Some(window);
                    self.stride = self.stride.or(Some(stride));
                }
                self.windows = self.windows.or(windows.filter(|_| is_same));
            }
            Task::Accuracy { sentences } if self.labelled.is_some() => {
                self.windows = self.windows.or(sentences.filter(|_| is_same));
            }
            // Data of another kind: the network says what it is for.
            _ => {}
        }
        Ok(self)
    }

    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.tokenizer.iter().chain(self.file()).map(PathBuf::as_path)
    }

    /// Tokens per window, within the bounds of a task.
    pub fn window(&self) -> Outcome<u32> {
        let window = self.window.unwrap_or(WINDOW);
        let task = Task::Perplexity { window, stride: window, windows: None };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("--{error}")))?;
        Ok(window)
    }

    /// True if data is named.
    pub fn is_given(&self) -> bool {
        self.file().is_some()
    }

    fn file(&self) -> Option<&PathBuf> {
        self.text.as_ref().or(self.labelled.as_ref()).or(self.questions.as_ref())
    }

    /// The protocol that the flags describe.
    pub fn task(&self) -> Outcome<Task> {
        let task = match (&self.labelled, &self.questions) {
            (Some(_), _) => Task::Accuracy { sentences: self.windows },
            (None, Some(_)) => Task::Choice { questions: self.windows, per_byte: self.per_byte },
            (None, None) => {
                let window = self.window.unwrap_or(WINDOW);
                let stride = self.stride.unwrap_or(window);
                Task::Perplexity { window, stride, windows: self.windows }
            }
        };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("--{error}")))?;
        Ok(task)
    }

    /// The data, for a network that has to fit the task.
    pub fn load(&self, network: &Network) -> Outcome<Dataset> {
        let needs = || Failure::new(Exit::Usage, "--text, --labelled or --questions is needed");
        let path = self.file().ok_or_else(needs)?;
        let (input, data) = self.cut()?.load(path, network)?;
        warn_of_fewer("--windows", self.windows, &input, &data);
        Ok(data)
    }

    /// The cut of other files of the same kind.
    pub fn cut(&self) -> Outcome<Cut> {
        Ok(Cut { task: self.task()?, tokenizer: self.tokenizer.clone() })
    }
}

/// Cut of data: the task that makes sequences of a file, and the tokenizer.
#[derive(Debug, Clone)]
pub struct Cut {
    task: Task,
    tokenizer: Option<PathBuf>,
}

impl Cut {
    /// Cut of what a network reads: labelled sentences for a classifier, else windows of a text of so many tokens.
    ///
    /// # Errors
    /// If the window is out of its bounds.
    pub fn for_network(network: &Network, window: u32, tokenizer: Option<PathBuf>) -> Outcome<Self> {
        match network.is_classifier() {
            true => Ok(Self { task: Task::Accuracy { sentences: None }, tokenizer }),
            false => Self::of_text(window, tokenizer),
        }
    }

    /// Cut of a text into windows of so many tokens.
    ///
    /// # Errors
    /// If the window is out of its bounds.
    pub fn of_text(window: u32, tokenizer: Option<PathBuf>) -> Outcome<Self> {
        let task = Task::Perplexity { window, stride: window, windows: None };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("--{error}")))?;
        Ok(Self { task, tokenizer })
    }

    /// Tokenizer and a file to calibrate with, and how its first `sequences` windows or sentences are cut.
    ///
    /// # Errors
    /// If a file cannot be read, or there is no tokenizer.
    pub fn calibration(&self, path: &Path, sequences: u32) -> Outcome<(Task, Input, Input)> {
        let task = match self.task {
            Task::Perplexity { window, .. } => {
                Task::Perplexity { window, stride: window, windows: Some(sequences) }
            }
            Task::Accuracy { .. } => Task::Accuracy { sentences: Some(sequences) },
            Task::Choice { per_byte, .. } => Task::Choice { questions: Some(sequences), per_byte },
        };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("calibration {error}")))?;
        let (input, tokenizer) = self.inputs(path)?;
        Ok((task, input, tokenizer))
    }

    /// The first `sequences` windows or sentences of a file, to calibrate with.
    ///
    /// # Errors
    /// If it cannot be read, or is not for such a network.
    pub fn load_calibration(
        &self,
        path: &Path,
        sequences: u32,
        network: &Network,
    ) -> Outcome<(Input, Dataset)> {
        check_model(network, &self.task).map_err(|error| Failure::new(Exit::Usage, error))?;
        let (task, input, tokenizer) = self.calibration(path, sequences)?;
        let data = load_data(&input, &tokenizer, &task, network)?;
        warn_of_fewer("--calibration-sequences", Some(sequences), &input, &data);
        Ok((input, data))
    }

    fn load(&self, path: &Path, network: &Network) -> Outcome<(Input, Dataset)> {
        check_model(network, &self.task).map_err(|error| Failure::new(Exit::Usage, error))?;
        let (input, tokenizer) = self.inputs(path)?;
        let data = load_data(&input, &tokenizer, &self.task, network)?;
        Ok((input, data))
    }

    fn inputs(&self, path: &Path) -> Outcome<(Input, Input)> {
        let needs = || Failure::new(Exit::Usage, "--tokenizer is needed to read text");
        let tokenizer = Input::tokenizer(self.tokenizer.as_deref().ok_or_else(needs)?)?;
        Ok((Input::data(path, &self.task)?, tokenizer))
    }
}
