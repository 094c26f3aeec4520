//! The flags that name a task's data, shared by every command that measures.

use std::path::{Path, PathBuf};

use clap::Args;
use qslm_common::experiment::check_model;
use qslm_common::network::Network;
use qslm_common::task::Task;
use qslm_engine::task::Dataset;

use crate::data::{load_data, warn_of_fewer};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;

/// Text or labelled sentences, and how they are cut.
#[derive(Debug, Clone, Args)]
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
    /// Tokens per window; the network's state starts afresh in each
    #[arg(long, default_value_t = 1024)]
    window: u32,
    /// Tokens from one window's start to the next [default: the window]
    #[arg(long)]
    stride: Option<u32>,
    /// Stop after this many windows or sentences
    #[arg(long, value_name = "N")]
    pub windows: Option<u32>,
}

impl DataArgs {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.tokenizer, &self.text, &self.labelled].into_iter().flatten().map(PathBuf::as_path)
    }

    /// True if data is named.
    pub fn is_given(&self) -> bool {
        self.text.is_some() || self.labelled.is_some()
    }

    /// The protocol that the flags describe.
    pub fn task(&self) -> Outcome<Task> {
        let task = match self.labelled {
            Some(_) => Task::Accuracy { sentences: self.windows },
            None => Task::Perplexity {
                window: self.window,
                stride: self.stride.unwrap_or(self.window),
                windows: self.windows,
            },
        };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("--{error}")))?;
        Ok(task)
    }

    /// The data, for a network that has to fit the task.
    pub fn load(&self, network: &Network) -> Outcome<Dataset> {
        let needs = || Failure::new(Exit::Usage, "--text or --labelled is needed");
        let path = self.text.as_ref().or(self.labelled.as_ref()).ok_or_else(needs)?;
        let (input, data) = self.load_file(path, self.task()?, network)?;
        warn_of_fewer("--windows", self.windows, &input, &data);
        Ok(data)
    }

    /// Another file of the same kind and the tokenizer, and how its first `sequences` windows or sentences are cut.
    pub fn calibration(&self, path: &Path, sequences: u32) -> Outcome<(Task, Input, Input)> {
        let task = self.calibration_task(sequences)?;
        let needs = || Failure::new(Exit::Usage, "--tokenizer is needed to read text");
        let tokenizer = Input::tokenizer(self.tokenizer.as_deref().ok_or_else(needs)?)?;
        let input = Input::data(path, &task)?;
        Ok((task, input, tokenizer))
    }

    fn calibration_task(&self, sequences: u32) -> Outcome<Task> {
        let task = match self.task()? {
            Task::Perplexity { window, .. } => {
                Task::Perplexity { window, stride: window, windows: Some(sequences) }
            }
            Task::Accuracy { .. } => Task::Accuracy { sentences: Some(sequences) },
        };
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("calibration {error}")))?;
        Ok(task)
    }

    /// The first `sequences` windows or sentences of another file of the same kind, to calibrate with.
    pub fn load_calibration(
        &self,
        path: &Path,
        sequences: u32,
        network: &Network,
    ) -> Outcome<(Input, Dataset)> {
        let (input, data) = self.load_file(path, self.calibration_task(sequences)?, network)?;
        warn_of_fewer("--calibration-sequences", Some(sequences), &input, &data);
        Ok((input, data))
    }

    fn load_file(&self, path: &Path, task: Task, network: &Network) -> Outcome<(Input, Dataset)> {
        check_model(network, &task).map_err(|error| Failure::new(Exit::Usage, error))?;
        let needs = || Failure::new(Exit::Usage, "--tokenizer is needed to read text");
        let tokenizer = Input::tokenizer(self.tokenizer.as_deref().ok_or_else(needs)?)?;
        let input = Input::data(path, &task)?;
        let data = load_data(&input, &tokenizer, &task, network)?;
        Ok((input, data))
    }
}
