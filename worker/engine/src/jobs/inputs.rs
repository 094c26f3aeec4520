//! Inputs of a job: its files by name, and what was read of them. Jobs that share what they read read it once and hold one
//! copy of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::network::{Member, Network};
use qslm_common::task::Task;

use super::{BACKEND, JobError};
use crate::checkpoint::calibrated::CodesFile;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::memo::Memo;
use crate::model::SpikeGpt;
use crate::task::{DataError, Dataset, TokenizerError, TokenizerFile};

/// Values of each sort that [`Loaded`] keeps: jobs that are made together are about the same, or the same two.
const KEPT: usize = 2;

/// Files of a job's inputs, by name, and what was read of them.
#[derive(Clone, Default)]
pub struct Inputs {
    files: BTreeMap<String, PathBuf>,
    loaded: Arc<Loaded>,
}

/// What jobs read of files that do not change meanwhile, by their paths and how they are read; gone with the last of its
/// owners.
pub struct Loaded {
    checkpoints: Memo<(PathBuf, Member), Arc<Checkpoint>>,
    data: Memo<DataKey, Arc<Dataset>>,
    floats: Memo<(PathBuf, Member), Arc<SpikeGpt>>,
}

/// Text, tokenizer, and how they are cut into the sequences of a network.
type DataKey = (PathBuf, PathBuf, Task, Network);

/// Beginning of the names of inputs that hold calibrated codes.
const CODES: &str = "codes";

/// The job with artifacts that hold calibrated codes as inputs.
pub fn with_codes(job: Job, artifacts: impl IntoIterator<Item = ContentHash>) -> Job {
    let numbered = artifacts.into_iter().enumerate();
    numbered.fold(job, |job, (index, hash)| job.input(&format!("{CODES}{index}"), JobInput::Artifact(hash)))
}

impl Default for Loaded {
    fn default() -> Self {
        Self { checkpoints: Memo::new(KEPT), data: Memo::new(KEPT), floats: Memo::new(1) }
    }
}

impl Inputs {
    /// The inputs of a job that reads for itself.
    pub fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self { files, loaded: Arc::default() }
    }

    /// The inputs of a job that shares what it reads with all jobs that have `loaded`.
    pub fn sharing(files: BTreeMap<String, PathBuf>, loaded: Arc<Loaded>) -> Self {
        Self { files, loaded }
    }

    /// The file of an input.
    ///
    /// # Errors
    /// [`JobError::Invalid`] if the job has no such input.
    pub fn path(&self, name: &str) -> Result<&Path, JobError> {
        let path = self.files.get(name).map(PathBuf::as_path);
        path.ok_or_else(|| JobError::Invalid(format!("input {name:?} is missing")))
    }

    /// The input `checkpoint`.
    ///
    /// # Errors
    /// [`JobError`], also if it is packed.
    pub fn checkpoint(&self, member: impl Into<Member>) -> Result<Arc<Checkpoint>, JobError> {
        let member = member.into();
        let path = self.path("checkpoint")?;
        self.loaded.checkpoints.get_or_make(&(path.to_owned(), member), || load_checkpoint(path, member))
    }

    /// The artifacts with calibrated codes among the inputs of a job; see [`with_codes`].
    ///
    /// # Errors
    /// [`JobError`].
    pub fn codes(&self, job: &Job) -> Result<BTreeMap<ContentHash, Arc<CodesFile>>, JobError> {
        let inputs = job.inputs.iter().filter(|(name, _)| name.starts_with(CODES));
        let inputs = inputs.filter_map(|(name, input)| Some((name, input.artifact()?)));
        inputs.map(|(name, hash)| Ok((hash, Arc::new(self.codes_file(name)?)))).collect()
    }

    /// The artifact with codes that an input is.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn codes_file(&self, name: &str) -> Result<CodesFile, JobError> {
        CodesFile::load(self.path(name)?).map_err(|error| match error {
            CheckpointError::Io(error) => JobError::Io { name: name.to_owned(), error },
            error => JobError::Invalid(format!("{name}: {error}")),
        })
    }

    /// The float network of the input `checkpoint`.
    ///
    /// # Errors
    /// [`JobError`], also if the checkpoint is packed.
    pub fn float(&self, member: impl Into<Member>) -> Result<Arc<SpikeGpt>, JobError> {
        let member = member.into();
        let key = (self.path("checkpoint")?.to_owned(), member);
        self.loaded.floats.get_or_make(&key, || {
            let checkpoint = self.checkpoint(member)?;
            let float = Candidate::float(checkpoint.network());
            SpikeGpt::new(&checkpoint, &float, BACKEND).map(Arc::new).map_err(JobError::invalid)
        })
    }

    /// The inputs `text` and `tokenizer`, cut into sequences.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn data(&self, task: &Task, network: &Network) -> Result<Arc<Dataset>, JobError> {
        self.data_of("text", task, network)
    }

    /// As [`Inputs::data`], of another input than `text`.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn data_of(&self, name: &str, task: &Task, network: &Network) -> Result<Arc<Dataset>, JobError> {
        let (text, tokenizer) = (self.path(name)?, self.path("tokenizer")?);
        let key = (text.to_owned(), tokenizer.to_owned(), task.clone(), *network);
        self.loaded.data.get_or_make(&key, || load_data(text, tokenizer, task, network))
    }
}

fn load_checkpoint(path: &Path, member: Member) -> Result<Arc<Checkpoint>, JobError> {
    let loaded = Checkpoint::load(path, member).map_err(|error| match error {
        CheckpointError::Io(error) => JobError::Io { name: "checkpoint".to_owned(), error },
        other => JobError::Invalid(format!("checkpoint: {other}")),
    })?;
    match loaded.manifest() {
        None => Ok(Arc::new(loaded)),
        Some(_) => Err(JobError::invalid("checkpoint: it is packed already")),
    }
}

fn load_data(
    text: &Path,
    tokenizer: &Path,
    task: &Task,
    network: &Network,
) -> Result<Arc<Dataset>, JobError> {
    let tokenizer = TokenizerFile::load(tokenizer, network.vocabulary).map_err(|error| match error {
        TokenizerError::Io(error) => JobError::Io { name: "tokenizer".to_owned(), error },
        other => JobError::Invalid(format!("tokenizer: {other}")),
    })?;
    let data = Dataset::load(text, &tokenizer, task, network).map_err(|error| match error {
        DataError::Io(error) => JobError::Io { name: "text".to_owned(), error },
        other => JobError::Invalid(format!("text: {other}")),
    })?;
    Ok(Arc::new(data))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/model.pth");

    const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":2},"unk_token":"?"}}"#;

    fn files_with(folder: &Path, text: &str) -> BTreeMap<String, PathBuf> {
        let named = ["checkpoint", "text", "tokenizer"].map(|name| (name.to_owned(), folder.join(name)));
        std::fs::copy(TINY, folder.join("checkpoint")).unwrap();
        std::fs::write(folder.join("text"), text).unwrap();
        std::fs::write(folder.join("tokenizer"), TOKENIZER).unwrap();
        named.into()
    }

    fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
        files_with(folder, "a b a b b a\n")
    }

    /// Inputs of a job: the tiny network, a text, and its tokenizer.
    pub fn inputs(folder: &Path, text: &str) -> Inputs {
        Inputs::new(files_with(folder, text))
    }

    #[test]
    fn jobs_that_share_what_they_read_read_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let (files, loaded) = (files(folder.path()), Arc::<Loaded>::default());
        let job = || Inputs::sharing(files.clone(), loaded.clone());
        let checkpoint = job().checkpoint(true).unwrap();
        let network = Network { vocabulary: 3, ..*checkpoint.network() };
        let task = Task::Perplexity { window: 2, stride: 2, windows: None };
        let data = job().data(&task, &network).unwrap();
        // Whoever opens them now fails.
        files.values().for_each(|file| std::fs::remove_file(file).unwrap());
        assert!(Arc::ptr_eq(&checkpoint, &job().checkpoint(true).unwrap()));
        assert!(Arc::ptr_eq(&data, &job().data(&task, &network).unwrap()));
        // What is read in another way is something else.
        assert!(matches!(job().checkpoint(false), Err(JobError::Io { .. })));
        assert!(matches!(job().data(&task.first(1), &network), Err(JobError::Io { .. })));
        // A job of its own has nothing of it, and nothing is left when the last of them is gone.
        assert!(matches!(Inputs::new(files.clone()).checkpoint(true), Err(JobError::Io { .. })));
        drop(loaded);
        assert_eq!(Arc::strong_count(&checkpoint), 1);
    }

    #[test]
    fn jobs_side_by_side_wait_for_the_first_that_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (files, loaded) = (files(folder.path()), Arc::<Loaded>::default());
        let read = || Inputs::sharing(files.clone(), loaded.clone()).checkpoint(true).unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
    }
}
