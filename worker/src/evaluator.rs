//! Evaluator: from a trial and its files to counts; the caches that evaluations of one process share are kept
//! here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{File, Metadata};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qslm_common::ENGINE_VERSION;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::footprint::float_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::network::{Member, Network};
use qslm_common::spread::Spread;
use qslm_common::task::{Data, Shard, Task};
use qslm_common::trial::{Trial, TrialKey};
use qslm_engine::checkpoint::calibrated::{CodeSource, CodesError, CodesFile};
use qslm_engine::checkpoint::{CheckpointError, Stored};
use qslm_engine::memo::Memo;
use qslm_engine::model::{Caches, CannotBuild, Reuse, SpikeGpt};
use qslm_engine::task::{self, DataError, Dataset, EvaluateError, Interrupt, TokenizerError, TokenizerFile};
use qslm_program::{hash_reader, panic_words};

use crate::failure::{Cause, EvaluationFailure};
use crate::memory;

/// Bytes of the prefix cache and the weight cache, per slot.
pub(crate) const CACHED_PER_SLOT: u64 = 1 << 30;

/// Shards whose float losses are kept: those of a few experiments, in a few megabytes.
const SHARDS_OF_FLOATS: usize = 1024;

/// Artifacts with codes that are kept: a matrix of one is read once, and stays in the weight cache.
const CODES_FILES: usize = 8;

/// Evaluates shards, several at a time if asked from several threads.
pub struct Evaluator {
    checkpoints: Memo<(ContentHash, Member), Arc<Stored>>,
    datasets: Memo<(Data, Task, Network), Arc<Dataset>>,
    /// Shards of one trial usually come one after the other.
    models: Memo<TrialKey, Arc<SpikeGpt>>,
    /// The float model's losses of every sequence of a shard, around which those of candidates spread.
    floats: Memo<(TrialKey, Shard), Arc<[Counts]>>,
    /// Artifacts with calibrated codes.
    codes: Memo<ContentHash, Arc<CodesFile>>,
    /// The prefix cache and the weight cache of candidates.
    caches: Caches,
    /// Bytes of memory that there are, if known.
    memory: Option<u64>,
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
    /// Artifacts with calibrated codes that the candidate names.
    pub codes: BTreeMap<ContentHash, PathBuf>,
}

impl Evaluator {
    /// An evaluator for about `slots` evaluations at a time.
    pub fn new(slots: usize) -> Self {
        Self::with_memory(slots, memory::limit())
    }

    /// An evaluator that has so many bytes of memory; `None` if that is not known. Of these the prefix cache
    /// and the weight cache take up to a gigabyte per slot, and a quarter at most.
    pub fn with_memory(slots: usize, memory: Option<u64>) -> Self {
        let (checkpoints, datasets, models) = (Memo::new(2), Memo::new(2), Memo::new(slots + 1));
        let bytes = (slots as u64 * CACHED_PER_SLOT).min(memory.map_or(u64::MAX, |memory| memory / 4));
        let floats = Memo::new(SHARDS_OF_FLOATS);
        let codes = Memo::new(CODES_FILES);
        Self { checkpoints, datasets, models, floats, codes, caches: Caches::new(bytes), memory }
    }

    /// Hits and misses of the caches, in multiply-accumulates.
    pub fn reuse(&self) -> Reuse {
        self.caches.reuse()
    }

    /// Measures one shard: its counts, and how its losses scatter around the float model's. A panic in the engine is a
    /// [`EvaluationFailure::Evaluation`] with the panic's words.
    ///
    /// # Errors
    /// [`EvaluationFailure`].
    pub fn evaluate(
        &self,
        trial: &Trial,
        files: &Files,
        shard: Shard,
        interrupt: Interrupt<'_>,
    ) -> Result<(Counts, Spread), EvaluationFailure> {
        let run = || self.try_evaluate(trial, files, shard, interrupt);
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let words = panic_words(&*panic).unwrap_or("no message");
            let words = format!("the evaluation panicked: {words}");
            Err(EvaluationFailure::evaluation(Cause::Panic, words))
        })
    }

    fn try_evaluate(
        &self,
        trial: &Trial,
        files: &Files,
        shard: Shard,
        interrupt: Interrupt<'_>,
    ) -> Result<(Counts, Spread), EvaluationFailure> {
        if trial.protocol.engine_version != ENGINE_VERSION {
            let wanted = trial.protocol.engine_version;
            let words = format!("this worker's engine is version {ENGINE_VERSION}, the trial needs {wanted}");
            return Err(EvaluationFailure::machine(Cause::Other, words));
        }
        // The weights alone, so this refuses only what is certain to fail.
        let protocol = &trial.protocol;
        let weights = float_bytes(&protocol.network);
        if let Some(memory) = self.memory.filter(|memory| weights > *memory) {
            let words =
                format!("the weights take {weights} bytes as floats, this worker has {memory} of memory");
            return Err(EvaluationFailure::machine(Cause::Memory, words));
        }
        let data_key = (protocol.data.clone(), protocol.task.clone(), protocol.network);
        let inputs = [(&files.text, protocol.data.text), (&files.tokenizer, protocol.data.tokenizer)];
        let load = || of_undamaged(&inputs, || load_data(trial, files));
        let data = self.datasets.get_or_make(&data_key, load)?;
        let float = protocol.trial(Candidate::float(&protocol.network));
        let each = self.evaluate_each(trial, files, &data, shard, interrupt)?;
        let of_float = || match trial.candidate == float.candidate {
            true => Ok(without_spikes(&each)),
            false => Ok(without_spikes(&self.evaluate_each(&float, files, &data, shard, interrupt)?)),
        };
        let floats = self.floats.get_or_make(&(float.key(), shard), of_float)?;
        let spread = task::spread(protocol.task.quality(), &floats, &each);
        let sum = Counts::sum(protocol.network.population_count(), &each);
        Ok((sum.map_err(|error| failure(error.into()))?, spread))
    }

    /// Counts of every sequence of a shard.
    fn evaluate_each(
        &self,
        trial: &Trial,
        files: &Files,
        data: &Dataset,
        shard: Shard,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Counts>, EvaluationFailure> {
        let model = self.models.get_or_make(&trial.key(), || self.build(trial, files))?;
        let float = trial.protocol.kl.then(|| self.float_model(trial, files)).transpose()?;
        // Everything that the counts depend on but the candidate.
        let caches = (&self.caches, trial.key_of(CandidateId::of(b"any candidate")).into());
        let sequences = shard.range(data.len());
        let each = match float {
            None => task::evaluate_each(&model, data, sequences, Some(caches), interrupt),
            Some(float) => {
                task::evaluate_each_beside(&float, &model, data, sequences, Some(caches), interrupt)
            }
        };
        each.map_err(failure)
    }

    /// The float model of a trial's protocol.
    fn float_model(&self, trial: &Trial, files: &Files) -> Result<Arc<SpikeGpt>, EvaluationFailure> {
        let float = trial.protocol.trial(Candidate::float(&trial.protocol.network));
        self.models.get_or_make(&float.key(), || self.build(&float, files))
    }

    fn build(&self, trial: &Trial, files: &Files) -> Result<Arc<SpikeGpt>, EvaluationFailure> {
        let protocol = &trial.protocol;
        let member = Member::from(&protocol.network);
        let key = (protocol.checkpoint, member);
        let load = || {
            let loaded = Stored::open(&files.checkpoint, member);
            loaded.map(Arc::new).map_err(|error| match error {
                CheckpointError::Io(error) => {
                    EvaluationFailure::machine(Cause::Disk, format!("checkpoint: {error}"))
                }
                other => EvaluationFailure::evaluation(Cause::Checkpoint, format!("checkpoint: {other}")),
            })
        };
        let checkpoint = self
            .checkpoints
            .get_or_make(&key, || of_undamaged(&[(&files.checkpoint, protocol.checkpoint)], load))?;
        if *checkpoint.network() != protocol.network {
            return Err(EvaluationFailure::evaluation(
                Cause::Checkpoint,
                "the checkpoint has another shape than the experiment says",
            ));
        }
        // Matrices do not depend on the data.
        let of = format!("{} {} {}", protocol.checkpoint, member.binary_embedding, protocol.backend);
        let of = ContentHash::of(of.as_bytes());
        let codes = CodesOnDisk { evaluator: self, files: &files.codes };
        let caches = (&self.caches, of);
        let model = SpikeGpt::cached(&checkpoint, &trial.candidate, &codes, protocol.backend, caches);
        model.map(Arc::new).map_err(|error| match error {
            // Another worker may have it.
            CannotBuild::Backend(error) => EvaluationFailure::machine(Cause::Backend, error),
            CannotBuild::Candidate(error) => EvaluationFailure::evaluation(Cause::Checkpoint, error),
            CannotBuild::Codes(error @ CodesError::Invalid { .. }) => {
                EvaluationFailure::evaluation(Cause::Checkpoint, error)
            }
            CannotBuild::Codes(error) => EvaluationFailure::machine(Cause::Disk, error),
            CannotBuild::Weights(error) => {
                // Whoever tries again opens the file again, which may be another one by then.
                self.checkpoints.forget(&key);
                EvaluationFailure::machine(Cause::Disk, format!("checkpoint: {error}"))
            }
        })
    }
}

/// Artifacts with calibrated codes on this machine, read once for several candidates.
struct CodesOnDisk<'a> {
    evaluator: &'a Evaluator,
    files: &'a BTreeMap<ContentHash, PathBuf>,
}

impl CodeSource for CodesOnDisk<'_> {
    fn artifact(&self, hash: ContentHash) -> Result<Arc<CodesFile>, CodesError> {
        let path = self.files.get(&hash).ok_or(CodesError::Missing(hash))?;
        let invalid = |reason: String| CodesError::Invalid { unit: format!("artifact {hash}"), reason };
        let load = || of_undamaged(&[(path, hash)], || Ok(CodesFile::load(path)));
        self.evaluator.codes.get_or_make(&hash, || match load() {
            Ok(Ok(file)) => Ok(Arc::new(file)),
            Ok(Err(CheckpointError::Io(error))) => Err(CodesError::Unreadable(error.to_string())),
            Ok(Err(error)) => Err(invalid(error.to_string())),
            Err(EvaluationFailure::Machine { reason, .. } | EvaluationFailure::Evaluation { reason, .. }) => {
                Err(CodesError::Unreadable(reason))
            }
            Err(EvaluationFailure::Interrupted) => Err(CodesError::Unreadable("interrupted".to_owned())),
        })
    }
}

/// The same, but for the spikes, which take most of the memory.
fn without_spikes(each: &[Counts]) -> Arc<[Counts]> {
    each.iter().map(|counts| Counts { spikes: Vec::new(), tasks: BTreeMap::new(), ..*counts }).collect()
}

fn failure(error: EvaluateError) -> EvaluationFailure {
    match error {
        EvaluateError::Interrupted => EvaluationFailure::Interrupted,
        diverged @ (EvaluateError::NotFinite { .. } | EvaluateError::Overflow) => {
            EvaluationFailure::evaluation(Cause::NotFinite, diverged)
        }
    }
}

/// The value that `load` makes of files, if they were what their hashes say while it read them. They were checked before,
/// but perhaps long ago: one that was damaged since would give other counts, and nobody would know.
fn of_undamaged<T>(
    files: &[(&PathBuf, ContentHash)],
    load: impl FnOnce() -> Result<T, EvaluationFailure>,
) -> Result<T, EvaluationFailure> {
    let fault = |path: &Path, words: &dyn Display| {
        EvaluationFailure::machine(Cause::Disk, format!("{}: {words}", path.display()))
    };
    // Held open, so that one that is replaced meanwhile is another file.
    let held = files.iter().map(|(path, _)| File::open(path).map_err(|error| fault(path, &error)));
    let held = held.collect::<Result<Vec<_>, _>>()?;
    let loaded = load()?;
    for ((path, hash), mut file) in files.iter().zip(held) {
        let same =
            File::open(path).and_then(|now| Ok(file_id(&now.metadata()?) == file_id(&file.metadata()?)));
        let actual = hash_reader(&mut file).map_err(|error| fault(path, &error))?;
        if actual != *hash || !same.is_ok_and(|same| same) {
            return Err(fault(path, &"damaged or replaced while it was read"));
        }
    }
    Ok(loaded)
}

/// Identity of a file, which one that took its name does not have.
#[cfg(unix)]
fn file_id(metadata: &Metadata) -> impl PartialEq + use<> {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn file_id(metadata: &Metadata) -> impl PartialEq + use<> {
    metadata.created().ok()
}

fn load_data(trial: &Trial, files: &Files) -> Result<Arc<Dataset>, EvaluationFailure> {
    let protocol = &trial.protocol;
    let tokenizer = TokenizerFile::load(&files.tokenizer, protocol.network.vocabulary);
    let tokenizer = tokenizer.map_err(|error| match error {
        TokenizerError::Io(error) => EvaluationFailure::machine(Cause::Disk, format!("tokenizer: {error}")),
        other => EvaluationFailure::evaluation(Cause::Data, format!("tokenizer: {other}")),
    })?;
    let data = Dataset::load(&files.text, &tokenizer, &protocol.task, &protocol.network);
    data.map(Arc::new).map_err(|error| match error {
        DataError::Io(error) => EvaluationFailure::machine(Cause::Disk, format!("data: {error}")),
        other => EvaluationFailure::evaluation(Cause::Data, format!("data: {other}")),
    })
}

#[cfg(test)]
mod tests {
    use qslm_common::backend::Backend;
    use qslm_common::candidate::Candidate;
    use qslm_common::network::Dynamics;
    use qslm_common::trial::Protocol;

    use super::*;

    #[test]
    fn a_file_that_is_damaged_after_it_was_checked_is_a_fault_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "as it was sent").unwrap();
        let files = [(&path, ContentHash::of(b"as it was sent"))];
        assert_eq!(of_undamaged(&files, || Ok(7)), Ok(7));
        let words = format!("{}: damaged or replaced while it was read", path.display());
        let fault = || Err(EvaluationFailure::machine(Cause::Disk, &words));
        // Put back by a rename, as a fetch does, after it was read.
        let replaced = of_undamaged(&files, || {
            std::fs::write(folder.path().join("new"), "as it was sent").unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            Ok(7)
        });
        assert_eq!(replaced, fault());
        std::fs::write(&path, "as it was Sent").unwrap();
        assert_eq!(of_undamaged(&files, || Ok(7)), fault());
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(of_undamaged(&files, || Ok(7)), Err(EvaluationFailure::Machine { .. })));
    }

    #[test]
    fn a_network_that_cannot_fit_is_refused_with_the_reason() {
        let network = Network {
            vocabulary: 50_277,
            channels: 768,
            hidden: 3072,
            blocks: 18,
            outputs: 50_277,
            binary_embedding: true,
            dynamics: Dynamics::SPIKEGPT,
        };
        let hash = ContentHash::of(b"");
        let protocol = Protocol {
            engine_version: ENGINE_VERSION,
            backend: Backend::default(),
            checkpoint: hash,
            network,
            data: Data { text: hash, tokenizer: hash },
            task: Task::Accuracy { sentences: None },
            kl: false,
        };
        let trial = Arc::new(protocol).trial(Candidate::float(&network));
        let nowhere = PathBuf::from("nowhere");
        let files = Files {
            checkpoint: nowhere.clone(),
            text: nowhere.clone(),
            tokenizer: nowhere,
            codes: BTreeMap::new(),
        };
        let evaluator = Evaluator::with_memory(1, Some(512 << 20));
        let failure = evaluator.evaluate(&trial, &files, Shard { index: 0, of: 1 }, &|| false);
        let words = "the weights take 861597696 bytes as floats, this worker has 536870912 of memory";
        assert_eq!(failure, Err(EvaluationFailure::machine(Cause::Memory, words)));
    }
}
