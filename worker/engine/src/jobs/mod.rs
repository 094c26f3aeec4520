//! Kinds of jobs: what a worker makes artifacts with.
//!
//! The one idea is a table: a [`Kind`] says its name, what it makes, and how; the line in [`KINDS`] makes workers able to
//! do it. A job is a pure function: whoever does it, with however many threads, makes the same bytes. Everything computes
//! with the native backend, whatever the experiment's is. One more kind is one file and one line.
//!
//! A file of a kind has its parameters, which are read here and written by whoever asks for the job, the job that they
//! mean, and the artifact, which has a form of its own.

mod chosen;
pub mod coded;
pub mod embedding;
pub mod gptq;
pub mod holdout;
mod inputs;
pub mod output_errors;
pub mod ranges;
pub mod sensitivity;

use std::io::Write;

use qslm_common::backend::Backend;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::task::Data;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use chosen::{Asked, UnitLosses, weight_errors};
pub use inputs::{Inputs, Loaded, with_codes};

/// Backend of all jobs but those that ask for another.
pub const BACKEND: Backend = Backend::Native;

/// Largest artifact that is a document of a line per matrix, in bytes.
const LARGEST_TABLE: u64 = 16 << 20;

/// Every kind of this package, by name; `qslm-train` adds those that train.
pub const KINDS: &[&Kind] = &[
    &coded::CODED,
    &coded::CODED_ARTIFACT,
    &embedding::EMBEDDING_CODES,
    &gptq::GPTQ,
    &holdout::HOLDOUT,
    &output_errors::OUTPUT_ERRORS,
    &ranges::RANGES,
    &sensitivity::SENSITIVITY,
];

/// A kind of job.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Name in a job's text: lower case, words joined by `_`.
    pub name: &'static str,
    /// What it makes, in a phrase.
    pub about: &'static str,
    /// Way to make it.
    pub make: Make,
}

/// Way to make an artifact: writes its bytes.
pub type Make = fn(&Job, &Inputs, &dyn Watch, &mut dyn Write) -> Result<(), JobError>;

/// Whoever looks on while a job is done.
pub trait Watch: Sync {
    /// True if the job is not wanted any more.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// Hears that so many steps of so many are done.
    fn progress(&self, _done: u64, _of: u64) {}

    /// Checkpoint that whoever did the job before left, as it was saved. From it or from none, a job makes the same bytes.
    fn checkpoint(&self) -> Option<&[u8]> {
        None
    }

    /// True if it is time to save another checkpoint.
    fn is_checkpoint_due(&self) -> bool {
        false
    }

    /// Takes a checkpoint, in a form of the kind's own.
    fn save_checkpoint(&self, _checkpoint: Vec<u8>) {}
}

/// Nobody looks on.
impl Watch for () {}

/// Reason why a job made nothing.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A kind that this program does not know.
    #[error("kind = {0:?}: this program knows no such job")]
    Kind(String),
    /// A backend on which this program does not make the job.
    #[error("backend = {0}: this program makes no such job")]
    Backend(Backend),
    /// Parameters or inputs that make no sense.
    #[error("{0}")]
    Invalid(String),
    /// A file of this machine that cannot be read, or an artifact that cannot be written.
    #[error("{name}: {error}")]
    Io {
        /// Name of the input, or that it is the artifact.
        name: String,
        /// The words of the system.
        #[source]
        error: std::io::Error,
    },
    /// A network that breaks down.
    #[error("{0}")]
    NotFinite(String),
    /// A panic.
    #[error("{0}")]
    Panicked(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl JobError {
    /// Something that makes no sense, in the words of whoever noticed.
    pub fn invalid(what: impl ToString) -> Self {
        Self::Invalid(what.to_string())
    }

    /// Error while the artifact is written.
    pub fn artifact(error: std::io::Error) -> Self {
        Self::Io { name: "artifact".to_owned(), error }
    }
}

/// Makes a job's artifact, if its kind is one of these.
///
/// # Errors
/// [`JobError`].
pub fn make_of(
    kinds: impl IntoIterator<Item = &'static Kind>,
    job: &Job,
    inputs: &Inputs,
    watch: &dyn Watch,
    out: &mut dyn Write,
) -> Result<(), JobError> {
    let kind = kinds.into_iter().find(|kind| kind.name == job.kind);
    let kind = kind.ok_or_else(|| JobError::Kind(job.kind.clone()))?;
    (kind.make)(job, inputs, watch, out)
}

/// The parameters of a job, as its kind has them.
///
/// # Errors
/// [`JobError::Invalid`] names the parameter.
pub fn parameters<T: DeserializeOwned>(job: &Job) -> Result<T, JobError> {
    let parameters = job.parameters.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    serde_json::from_value(serde_json::Value::Object(parameters))
        .map_err(|error| JobError::Invalid(format!("parameters of {}: {error}", job.kind)))
}

/// A job of a kind that runs a float checkpoint over some data, with the inputs that [`Inputs::checkpoint`] and
/// [`Inputs::data`] read.
pub fn over_data(kind: &Kind, checkpoint: ContentHash, data: &Data) -> Job {
    Job::new(kind.name, LARGEST_TABLE)
        .input("checkpoint", JobInput::Artifact(checkpoint))
        .input("text", JobInput::Artifact(data.text))
        .input("tokenizer", JobInput::Artifact(data.tokenizer))
}

/// Writes an artifact that is a document.
///
/// # Errors
/// [`JobError::Io`].
pub fn write_document(document: &impl Serialize, out: &mut dyn Write) -> Result<(), JobError> {
    serde_json::to_writer(out, document).map_err(|error| JobError::artifact(error.into()))
}

/// Reads an artifact that is a document.
///
/// # Errors
/// [`JobError::Invalid`] if it is none of the kind's.
pub fn read_document<T: DeserializeOwned>(kind: &Kind, artifact: &[u8]) -> Result<T, JobError> {
    serde_json::from_slice(artifact).map_err(|error| JobError::Invalid(format!("{}: {error}", kind.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_that_a_job_may_have() {
        let mut names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        for name in &names {
            assert_eq!(Job::new(name, 1).validate(), Ok(()));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| !kind.about.is_empty()));
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let refused = |job: &Job| {
            make_of(KINDS.iter().copied(), job, &Inputs::default(), &(), &mut Vec::new())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(&Job::new("hessian", 1)), "kind = \"hessian\": this program knows no such job");
        let unknown = Job::new("ranges", 1).parameter("colour", 1);
        assert!(
            refused(&unknown).starts_with("parameters of ranges: unknown field `colour`"),
            "{}",
            refused(&unknown)
        );
    }
}
