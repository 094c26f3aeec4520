//! A candidate that a search measured, as people name it: by the front that a run wrote, or by its experiment in a store or
//! of a coordinator. Every command that takes a candidate takes these flags.

use std::path::PathBuf;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::front_document::FrontRow;
use qslm_common::hash::ContentHash;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::packed::Provenance;
use qslm_proto::v1::GetRequest;
use tokio::runtime::Handle;

use crate::client::Client;
use crate::codes::CodesArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::front_file::{FrontFile, candidate};
use crate::input::Input;
use crate::known::Known;
use crate::schemes::{LoadedModel, ModelArgs};
use crate::storage::{CodesFiles, StorageArgs, sizes};

/// The flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Candidate of a search")]
pub struct SelectArgs {
    /// Take the candidate that a run chose: its front
    #[arg(long, value_name = "FILE", group = "searched", conflicts_with_all = ["matrices", "activation_bits", "membrane_bits"])]
    pub front: Option<PathBuf>,
    /// Take the candidate that this experiment chose, of --store or a coordinator: its id, the beginning of it, or its name
    #[arg(long, value_name = "EXPERIMENT", group = "searched", conflicts_with_all = ["matrices", "activation_bits", "membrane_bits"])]
    experiment: Option<String>,
    /// Take this candidate of the front instead: its id, or the beginning of it
    #[arg(long, value_name = "ID", requires = "searched")]
    candidate: Option<String>,
    #[command(flatten)]
    pub codes: CodesArgs,
}

/// A candidate that was selected.
pub struct Selected {
    /// Front that it is of.
    pub front: FrontFile,
    /// Row of the front.
    pub row: FrontRow,
    /// The candidate.
    pub candidate: Candidate,
    /// The calibrated codes that it names.
    pub codes: CodesFiles,
}

impl Selected {
    /// Provenance of a file with the candidate, of a checkpoint that was fetched from `origin` or was a file.
    pub fn provenance(&self, checkpoint: ContentHash, origin: Option<String>) -> Provenance {
        let front = &self.front.document;
        Provenance {
            experiment: Some(front.experiment.clone()),
            measurement: Some(self.row.counts.clone()),
            reproducible: front.reproducible,
            conditions: front.conditions.clone(),
            ..unmeasured(checkpoint, origin)
        }
    }
}

/// Provenance of a file that no experiment measured.
pub fn unmeasured(checkpoint: ContentHash, origin: Option<String>) -> Provenance {
    Provenance {
        qslm: env!("CARGO_PKG_VERSION").to_owned(),
        checkpoint,
        experiment: None,
        measurement: None,
        reproducible: true,
        conditions: None,
        origin,
    }
}

impl SelectArgs {
    /// True if a front is named.
    pub fn is_given(&self) -> bool {
        self.front.is_some() || self.experiment.is_some()
    }

    /// Front that is named; `None` if none is.
    ///
    /// # Errors
    /// One line that says why it cannot be read.
    pub fn front(&self) -> Outcome<Option<FrontFile>> {
        match (&self.front, &self.experiment) {
            (Some(path), _) => FrontFile::read(path).map(Some),
            (None, Some(experiment)) => {
                let request = GetRequest { experiment: experiment.clone() };
                let read = async |client: &mut Client| Ok(client.front(request).await?.into_inner().json);
                let read = self.codes.source().with(read);
                let json = tokio::task::block_in_place(|| Handle::current().block_on(read))?;
                FrontFile::parse(PathBuf::from(experiment), &json).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    /// Candidate of the checkpoint in `model` that is named; `None` if none is. `another` is an id in place of the one of the
    /// flags.
    ///
    /// # Errors
    /// One line that says what does not fit.
    pub fn of(
        &self,
        model: &ModelArgs,
        checkpoint: &Checkpoint,
        another: Option<&str>,
    ) -> Outcome<Option<Selected>> {
        let Some(front) = self.front()? else { return Ok(None) };
        refuse_packed(model, checkpoint)?;
        front.check_checkpoint(Input::checkpoint(&model.checkpoint)?.hash()?, &model.checkpoint)?;
        let row = front.row(another.or(self.candidate.as_deref()))?.clone();
        let candidate = candidate(&row, checkpoint.network())?;
        let codes = self.codes.of(&candidate)?;
        Ok(Some(Selected { front, row, candidate, codes }))
    }

    /// Network of the candidate that is named, with what a search knows of it; `None` if none is.
    ///
    /// # Errors
    /// As [`SelectArgs::of`].
    pub fn load(
        &self,
        model: &ModelArgs,
        storage: Option<&StorageArgs>,
        another: Option<&str>,
    ) -> Outcome<Option<(LoadedModel, Known)>> {
        if !self.is_given() {
            return Ok(None);
        }
        let checkpoint = model.read()?;
        let Some(selected) = self.of(model, &checkpoint, another)? else { return Ok(None) };
        let Selected { front, row, candidate, codes } = selected;
        let storage = storage.map_or_else(Vec::new, |storage| storage.or(&front.document.storage));
        let sizes = sizes(&storage, &checkpoint, &candidate, &codes)?;
        let built = model.build(checkpoint, &candidate, &codes)?;
        let known =
            Known { whose: front.shown(), conditions: front.document.conditions, counts: Some(row.counts) };
        Ok(Some((LoadedModel { model: built, candidate, sizes }, known)))
    }
}

/// Refuses a packed file where a candidate of a search is to be made of a float one.
fn refuse_packed(model: &ModelArgs, checkpoint: &Checkpoint) -> Outcome {
    match checkpoint.manifest() {
        None => Ok(()),
        Some(_) => {
            let words =
                format!("{}: is packed already; name the float checkpoint", model.checkpoint.display());
            Err(Failure::new(Exit::Usage, words))
        }
    }
}
