//! From a trial and files to counts; what evaluations of one process share is kept here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use qslm_common::ENGINE_VERSION;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trial::Trial;
use qslm_engine::checkpoint::{Checkpoint, CheckpointError};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{
    DataError, Dataset, EvaluateError, Interrupt, TokenizerError, TokenizerFile, evaluate,
};

use crate::memo::Memo;

/// Evaluates shards, several at a time if asked from several threads.
pub struct Evaluator {
    checkpoints: Memo<(ContentHash, bool), Arc<Checkpoint>>,
    datasets: Memo<(Data, Task, Network), Arc<Dataset>>,
    /// Shards of one trial usually come one after the other.
    models: Memo<ContentHash, Arc<SpikeGpt>>,
}

/// The files of a trial on this machine.
#[derive(Debug, Clone)]
pub struct Files {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The text or labelled sentences.
    pub text: PathBuf,
    /// The tokenizer.
    pub tokenizer: PathBuf,
}

/// Why a shard was not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be measured, here or anywhere.
    Final(String),
    /// Something about this machine or moment; another attempt may succeed.
    Retryable(String),
    /// The caller asked to stop.
    Interrupted,
}

impl Evaluator {
    /// An evaluator for about `slots` evaluations at a time.
    pub fn new(slots: usize) -> Self {
        Self { checkpoints: Memo::new(2), datasets: Memo::new(2), models: Memo::new(slots + 1) }
    }

    /// Measures one shard. A panic in the engine is a [`Failure::Final`] with the panic's words.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn evaluate(
        &self,
        trial: &Trial,
        files: &Files,
        shard: Shard,
        interrupt: Interrupt<'_>,
    ) -> Result<Counts, Failure> {
        let run = || self.try_evaluate(trial, files, shard, interrupt);
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Failure::Final(format!("the evaluation panicked: {words}")))
        })
    }

    fn try_evaluate(
        &self,
        trial: &Trial,
        files: &Files,
        shard: Shard,
        interrupt: Interrupt<'_>,
    ) -> Result<Counts, Failure> {
        if trial.engine_version != ENGINE_VERSION {
            let wanted = trial.engine_version;
            let words = format!("this worker's engine is version {ENGINE_VERSION}, the trial needs {wanted}");
            return Err(Failure::Retryable(words));
        }
        let data_key = (trial.data.clone(), trial.task.clone(), trial.network);
        let data = self.datasets.get_or_make(&data_key, || load_data(trial, files))?;
        let model = self.models.get_or_make(&trial.key(), || self.build(trial, files))?;
        evaluate(&model, &data, shard.range(data.len()), interrupt).map_err(|error| match error {
            EvaluateError::Interrupted => Failure::Interrupted,
            other => Failure::Final(other.to_string()),
        })
    }

    fn build(&self, trial: &Trial, files: &Files) -> Result<Arc<SpikeGpt>, Failure> {
        let key = (trial.checkpoint, trial.network.binary_embedding);
        let checkpoint = self.checkpoints.get_or_make(&key, || {
            let loaded = Checkpoint::load(&files.checkpoint, trial.network.binary_embedding);
            loaded.map(Arc::new).map_err(|error| match error {
                CheckpointError::Io(error) => Failure::Retryable(format!("checkpoint: {error}")),
                other => Failure::Final(format!("checkpoint: {other}")),
            })
        })?;
        if *checkpoint.network() != trial.network {
            return Err(Failure::Final(
                "the checkpoint has another shape than the experiment says".to_owned(),
            ));
        }
        let model = SpikeGpt::new(&checkpoint, &trial.candidate, trial.backend);
        model.map(Arc::new).map_err(|error| Failure::Final(error.to_string()))
    }
}

fn load_data(trial: &Trial, files: &Files) -> Result<Arc<Dataset>, Failure> {
    let tokenizer = TokenizerFile::load(&files.tokenizer, trial.network.vocabulary);
    let tokenizer = tokenizer.map_err(|error| match error {
        TokenizerError::Io(error) => Failure::Retryable(format!("tokenizer: {error}")),
        other => Failure::Final(format!("tokenizer: {other}")),
    })?;
    let data = Dataset::load(&files.text, &tokenizer, &trial.task, &trial.network);
    data.map(Arc::new).map_err(|error| match error {
        DataError::Io(error) => Failure::Retryable(format!("data: {error}")),
        other => Failure::Final(format!("data: {other}")),
    })
}
