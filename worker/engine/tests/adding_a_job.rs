//! A worked example: one more kind of job, how often every byte occurs in a text (docs/adding.md, "A kind of job").
//!
//! Inside the engine the constant, its parameters and its artifact are a file in `src/jobs/`, with a line in `KINDS` there.
//! Workers say that they are able to do it, and coordinators lease it to them, by themselves.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_engine::jobs::{Inputs, JobError, Kind, Watch, parameters};
use serde::{Deserialize, Serialize};

/// `byte_counts`
const BYTE_COUNTS: Kind = Kind { name: "byte_counts", about: "how often every byte occurs in a text", make };

/// Parameters of the kind. One that nobody gives is no parameter: everything that the artifact depends on is in the job.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByteCounts {
    /// Bytes before this one are not counted.
    first: u8,
}

impl ByteCounts {
    /// The job, as whoever wants the artifact asks for it.
    fn job(&self, text: ContentHash) -> Job {
        // 256 numbers of up to 20 digits.
        Job::new(BYTE_COUNTS.name, 8 << 10).input("text", JobInput::Artifact(text)).parameters(self)
    }

    /// What the artifact says.
    fn read(artifact: &[u8]) -> Result<Vec<u64>, JobError> {
        serde_json::from_slice(artifact).map_err(|error| JobError::Invalid(format!("byte_counts: {error}")))
    }
}

/// The same text and parameters give the same bytes, whoever runs it.
fn make(job: &Job, inputs: &Inputs, watch: &dyn Watch, out: &mut dyn Write) -> Result<(), JobError> {
    let ByteCounts { first } = parameters(job)?;
    let text = std::fs::read(inputs.path("text")?)
        .map_err(|error| JobError::Io { name: "text".to_owned(), error })?;
    let mut counts = vec![0_u64; 256];
    for (done, piece) in text.chunks(1 << 20).enumerate() {
        // A lease may be taken away.
        if watch.is_interrupted() {
            return Err(JobError::Interrupted);
        }
        piece.iter().filter(|byte| **byte >= first).for_each(|byte| counts[usize::from(*byte)] += 1);
        watch.progress(done as u64 + 1, text.len().div_ceil(1 << 20) as u64);
    }
    serde_json::to_writer(out, &counts).map_err(|error| JobError::artifact(error.into()))
}

#[test]
fn a_job_is_a_pure_function_of_its_inputs_and_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "abba!").unwrap();
    let job = ByteCounts { first: b'a' }.job(ContentHash::of(b"abba!"));
    // What travels is its text, and what is recorded is filed under its key.
    assert_eq!(Job::decode(&job.encode()), Ok(job.clone()));
    assert_ne!(ByteCounts { first: 0 }.job(ContentHash::of(b"abba!")).key(), job.key());
    let inputs = Inputs::new([("text".to_owned(), path)].into());
    let mut artifact = Vec::new();
    (BYTE_COUNTS.make)(&job, &inputs, &(), &mut artifact).unwrap();
    let counts = ByteCounts::read(&artifact).unwrap();
    assert_eq!((counts[usize::from(b'a')], counts[usize::from(b'b')], counts[usize::from(b'!')]), (2, 2, 0));
    assert!(artifact.len() as u64 <= job.largest);
}

#[test]
fn what_is_missing_is_named() {
    let refused = |job: &Job| {
        (BYTE_COUNTS.make)(job, &Inputs::default(), &(), &mut Vec::new()).unwrap_err().to_string()
    };
    let whole = ByteCounts { first: 0 }.job(ContentHash::of(b""));
    assert_eq!(refused(&whole), "input \"text\" is missing");
    assert_eq!(refused(&Job::new("byte_counts", 1)), "parameters of byte_counts: missing field `first`");
}
