//! What tests of jobs share: inputs, students, and somebody who stops a job on its way.
#![allow(clippy::unwrap_used, dead_code, reason = "not every test needs all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{Inputs, JobError, Watch};
use qslm_train::jobs::make;

/// Bundled models and data, from whichever package these tests are.
fn bundled() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.map(|folder| folder.join("experiments")).find(|folder| folder.join("models").is_dir()).unwrap()
}

pub fn files() -> BTreeMap<String, PathBuf> {
    let file = |name: &str, path: &str| (name.to_owned(), bundled().join(path));
    [
        file("checkpoint", "models/wikitext2-xs.safetensors"),
        file("tokenizer", "models/tokenizer.json"),
        file("text", "data/almanac.txt"),
    ]
    .into()
}

/// Those of a classifier.
pub fn files_of_classifier() -> BTreeMap<String, PathBuf> {
    let mut files = files();
    files.insert("checkpoint".to_owned(), bundled().join("models/sst2-xs.safetensors"));
    files.insert("text".to_owned(), bundled().join("data/sentences.tsv"));
    files
}

pub fn inputs() -> Inputs {
    Inputs::new(files())
}

pub fn student(checkpoint: &Checkpoint, scheme: &str, vectors: &str) -> Candidate {
    let scheme: Scheme = scheme.parse().unwrap();
    Candidate::new(checkpoint.network(), |unit| if unit.is_linear() { scheme } else { Scheme::Sign })
        .with_vectors(vectors.parse().unwrap())
}

/// Stops a job after so many steps, with a checkpoint from every second one.
#[derive(Default)]
pub struct Stopping {
    pub after: u64,
    pub done: AtomicU64,
    pub saved: Mutex<Option<Vec<u8>>>,
    pub left: Option<Vec<u8>>,
}

impl Watch for Stopping {
    fn is_interrupted(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.after
    }

    fn progress(&self, done: u64, _: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.left.as_deref()
    }

    fn is_checkpoint_due(&self) -> bool {
        self.done.load(Ordering::Relaxed).is_multiple_of(2)
    }

    fn save_checkpoint(&self, checkpoint: Vec<u8>) {
        *self.saved.lock().unwrap() = Some(checkpoint);
    }
}

pub fn made_of(job: &Job, inputs: &Inputs, watch: &dyn Watch) -> Result<Vec<u8>, JobError> {
    let mut artifact = Vec::new();
    make(job, inputs, watch, &mut artifact).map(|()| artifact)
}

/// Stops a job after so many steps, twice, and lets it go on: what it makes then, and its last checkpoint.
pub fn made_with_stops(job: &Job, inputs: &Inputs, stops: [u64; 2]) -> (Vec<u8>, Vec<u8>) {
    let mut left = None;
    for after in stops {
        let stopping = Stopping { after, left, ..Stopping::default() };
        assert!(matches!(made_of(job, inputs, &stopping), Err(JobError::Interrupted)));
        left = stopping.saved.into_inner().unwrap();
        assert!(left.as_ref().is_some_and(|saved| saved.len() as u64 <= job.largest_checkpoint()));
    }
    let saved = left.clone().unwrap();
    let last = Stopping { after: u64::MAX, left, ..Stopping::default() };
    (made_of(job, inputs, &last).unwrap(), saved)
}
