//! Calibrated codes: the jobs that make them for a spec or for flags, and where commands find the artifacts that a candidate
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::network::{EMBEDDING, Network, Unit};
use qslm_common::scheme::{Calibration, Scheme};
use qslm_common::storage::CodedSizes;
use qslm_common::task::{Data, Task};
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::jobs::coded::{Coded, units_with_embedding};
use qslm_engine::jobs::embedding::EmbeddingCodes;
use qslm_engine::jobs::gptq::{self, Gptq};
use tokio::runtime::Handle;

use crate::client::{Client, fetch};
use crate::commands::target::Source;
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::Input;
use crate::inputs::{Cut, WINDOW};
use crate::making::{Files, Here, Maker};
use crate::schemes::{ModelArgs, SchemeArgs, calibrate_on};
use crate::storage::CodesFiles;

/// What codes are calibrated with.
#[derive(Debug, Clone)]
pub struct Calibrating<'a> {
    /// Task: how the calibration data is cut.
    pub task: Task,
    /// Hashes of the calibration data.
    pub data: Data,
    /// Checkpoint, text and tokenizer.
    pub files: Files<'a>,
    /// Content hash of the checkpoint.
    pub checkpoint: ContentHash,
    /// Damping of the Hessians, as a multiple of the mean of the diagonal.
    pub damping: f64,
    /// True if columns are taken by falling second moment of their input.
    pub act_order: bool,
}

/// Schemes whose codes calibration makes.
#[derive(Debug, Default)]
pub struct CalibratedSchemes {
    /// Those of linear layers.
    pub all: BTreeSet<Scheme>,
    /// Those of the embedding, which are by the frequency of tokens.
    pub of_embedding: BTreeSet<Scheme>,
}

impl CalibratedSchemes {
    /// Those of some units.
    pub fn of<'a>(units: impl IntoIterator<Item = (&'a str, Scheme)>) -> Self {
        let mut schemes = Self::default();
        for (unit, scheme) in units {
            if scheme.is_calibrated() && !scheme.is_trained() {
                schemes.all.insert(scheme);
                if unit == EMBEDDING {
                    schemes.of_embedding.insert(scheme);
                }
            }
        }
        schemes
    }

    /// True if there is nothing to make.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.all.extend(others.all);
        self.of_embedding.extend(others.of_embedding);
    }
}

/// Codes that were made.
#[derive(Debug, Default)]
pub struct MadeCodes {
    /// The artifact that holds the codes of a unit.
    pub by_unit: BTreeMap<String, ContentHash>,
    /// The artifacts that were made here.
    pub files: Vec<(ContentHash, Input)>,
}

impl Calibrating<'_> {
    /// Lets `maker` make the codes of all units under calibrated schemes: a job for each block, and one for the head. One
    /// more makes those of the embedding, if it has schemes by the frequency of tokens.
    ///
    /// # Errors
    /// One line that names the job that failed, and why.
    pub fn make(
        &self,
        network: &Network,
        CalibratedSchemes { all: schemes, of_embedding }: &CalibratedSchemes,
        maker: &dyn Maker,
    ) -> Outcome<MadeCodes> {
        if schemes.is_empty() {
            return Ok(MadeCodes::default());
        }
        let of_part = |part| -> BTreeSet<Scheme> {
            // Of linear layers the rows of the head alone are tokens, where they are no classes.
            let has_tokens = part == network.blocks && network.predicts_tokens();
            schemes
                .iter()
                .map(|scheme| if has_tokens { *scheme } else { scheme.without_frequency() })
                .collect()
        };
        let job_of = |part| {
            let gptq = Gptq {
                task: self.task.clone(),
                member: network.into(),
                part,
                schemes: of_part(part).iter().map(Scheme::to_string).collect(),
                damping: self.damping,
                act_order: self.act_order,
            };
            gptq.job(network, self.checkpoint, &self.data)
        };
        let embedding = EmbeddingCodes {
            task: self.task.clone(),
            member: network.into(),
            schemes: of_embedding.iter().map(Scheme::to_string).collect(),
        };
        let embedding = embedding.job(network, self.checkpoint, &self.data);
        let embedding = (!of_embedding.is_empty()).then_some(embedding);
        let jobs: Vec<_> = (0..gptq::parts(network)).map(job_of).chain(embedding).collect();
        let mut made = MadeCodes::default();
        for (part, artifact) in (0..).zip(maker.make_files(&jobs, self.files)?) {
            let units = match part == gptq::parts(network) {
                true => vec![EMBEDDING.to_owned()],
                false => gptq::units_of(network, part).into_iter().map(|unit| unit.name).collect(),
            };
            made.by_unit.extend(units.into_iter().map(|unit| (unit, artifact.hash)));
            made.files.extend(artifact.file.map(|file| (artifact.hash, file)));
        }
        Ok(made)
    }
}

/// Units of a network with their schemes in a candidate.
pub fn unit_schemes(network: &Network, candidate: &Candidate) -> Vec<(Unit, Scheme)> {
    let scheme = |unit: Unit| {
        let scheme = candidate.scheme(&unit.name);
        (unit, scheme)
    };
    network.units().into_iter().map(scheme).collect()
}

/// Lets `maker` find out what the codes of units under schemes take when they are entropy-coded: a job for each block, and
/// one for the head and the embedding. `by_unit` names the artifacts of calibrated codes.
///
/// # Errors
/// One line that names the job that failed, and why.
pub fn coded_sizes(
    all: &[(Unit, Scheme)],
    by_unit: &BTreeMap<String, ContentHash>,
    network: &Network,
    checkpoint: ContentHash,
    files: Files<'_>,
    maker: &dyn Maker,
) -> Outcome<CodedSizes> {
    let of_part = |part| {
        let units = units_with_embedding(network, part);
        let belongs = |unit: &Unit| units.iter().any(|known| known.name == unit.name);
        let integers = all.iter().filter(|(_, scheme)| matches!(scheme, Scheme::Integer { .. }));
        let wanted: BTreeSet<_> = integers
            .filter(|(unit, _)| belongs(unit))
            .map(|(unit, scheme)| (unit.name.clone(), scheme.to_string()))
            .collect();
        let codes: BTreeSet<_> = units.iter().filter_map(|unit| by_unit.get(&unit.name)).copied().collect();
        let member = network.into();
        Coded { member, part, units: wanted.into_iter().collect() }.job(checkpoint, codes)
    };
    let jobs: Vec<_> = (0..gptq::parts(network)).map(of_part).collect();
    let mut sizes = CodedSizes::default();
    for artifact in maker.make(&jobs, files)? {
        sizes.extend(Coded::read(&artifact).map_err(|error| Failure::new(Exit::Failure, error))?);
    }
    Ok(sizes)
}

/// The candidate with codes where it takes such and names none, or (`all`) wherever it takes such.
pub fn with_codes(mut candidate: Candidate, by_unit: &BTreeMap<String, ContentHash>, all: bool) -> Candidate {
    let without = |(unit, scheme): (&str, Scheme)| {
        (scheme.is_calibrated() && (all || candidate.codes_of(unit).is_none())).then(|| unit.to_owned())
    };
    let units: Vec<String> = candidate.schemes().filter_map(without).collect();
    for unit in units {
        let artifact = by_unit.get(&unit).copied();
        candidate = candidate.with_codes([unit.as_str()], artifact);
    }
    candidate
}

/// What the flags of a command are calibrated with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Text (or labelled sentences) off which static ranges of activations are read, without which each token has its own,
    /// and which codes with --rounding gptq are calibrated with
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Windows or sentences of the calibration data
    #[arg(long, value_name = "N", default_value_t = 16, requires = "calibration")]
    pub calibration_sequences: u32,
    /// Damping of calibrated codes, as a multiple of the mean second moment of the inputs
    #[arg(long, value_name = "X", default_value_t = gptq::DAMPING, requires = "calibration")]
    damping: f64,
    /// Calibrate columns by falling second moment of their input instead of as they are
    #[arg(long, requires = "calibration")]
    act_order: bool,
}

/// How a command that reads data for its calibration alone cuts it.
#[derive(Debug, Clone, Args)]
pub struct CalibrationWindow {
    /// Tokens per window of the calibration data
    #[arg(long, value_name = "TOKENS", default_value_t = WINDOW, requires = "calibration")]
    pub window: u32,
}

impl CalibrationArgs {
    /// Puts a file in the place of an address.
    pub fn find(&mut self) -> Outcome {
        fetched::find(&mut self.calibration).map(drop)
    }

    /// Static ranges of the activations that the flags quantize; `None` if there is nothing to read them off, or they quantize
    /// none.
    ///
    /// # Errors
    /// If the data cannot be read, or is not for the checkpoint.
    pub fn ranges(&self, model: &ModelArgs, cut: &Cut, scheme: &SchemeArgs) -> Outcome<Option<Calibration>> {
        let Some(path) = self.calibration.as_ref().filter(|_| scheme.quantizes_activations()) else {
            return Ok(None);
        };
        let checkpoint = model.read()?;
        let (input, data) = cut.load_calibration(path, self.calibration_sequences, checkpoint.network())?;
        calibrate_on(&checkpoint, model.backend, &data, &input).map(Some)
    }

    /// The candidate with calibrated codes where it takes such, and these.
    ///
    /// # Errors
    /// If it takes some and there is nothing to calibrate with, or the codes cannot be made.
    pub fn codes(
        &self,
        checkpoint: &Path,
        cut: &Cut,
        network: &Network,
        candidate: Candidate,
    ) -> Outcome<(Candidate, CodesFiles)> {
        let schemes = CalibratedSchemes::of(candidate.schemes());
        if schemes.is_empty() {
            return Ok((candidate, CodesFiles::new()));
        }
        let needed = || {
            Failure::new(
                Exit::Usage,
                "--calibration FILE is needed: codes of gptq, descent and their like are calibrated",
            )
        };
        let path = self.calibration.as_ref().ok_or_else(needed)?;
        let (task, text, tokenizer) = cut.calibration(path, self.calibration_sequences)?;
        let checkpoint = Input::checkpoint(checkpoint)?;
        let hashes = [checkpoint.hash()?, text.hash()?, tokenizer.hash()?];
        let calibrating = Calibrating {
            task,
            data: Data { text: hashes[1], tokenizer: hashes[2] },
            files: &[(hashes[0], &checkpoint), (hashes[1], &text), (hashes[2], &tokenizer)],
            checkpoint: hashes[0],
            damping: self.damping,
            act_order: self.act_order,
        };
        let made = calibrating.make(network, &schemes, &Here)?;
        let mut files = CodesFiles::new();
        for (hash, file) in &made.files {
            let bytes = std::fs::read(file.path()).map_err(|error| file.failure(&error))?;
            files.insert(*hash, Arc::new(codes_file(*hash, bytes)?));
        }
        Ok((with_codes(candidate, &made.by_unit, false), files))
    }
}

/// Where the artifacts are that a candidate takes its calibrated codes from.
#[derive(Debug, Clone, Args)]
pub struct CodesArgs {
    /// Take calibrated codes from this folder, whose files are named by their hashes, such as STORE.artifacts
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["store", "coordinator"])]
    artifacts: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

impl CodesArgs {
    /// Store or coordinator that is named.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Artifacts that a candidate names; nothing is asked for if it names none.
    ///
    /// # Errors
    /// One line that names what is missing or damaged.
    pub fn of(&self, candidate: &Candidate) -> Outcome<CodesFiles> {
        let mut files = CodesFiles::new();
        for hash in candidate.artifacts() {
            let bytes = match &self.artifacts {
                Some(folder) => read(&folder.join(hash.to_string()), hash)?,
                None => self.fetch(hash)?,
            };
            files.insert(hash, Arc::new(codes_file(hash, bytes)?));
        }
        Ok(files)
    }

    fn fetch(&self, hash: ContentHash) -> Outcome<Vec<u8>> {
        let fetch = async |client: &mut Client| fetch(client, hash, u64::MAX).await;
        let fetched = tokio::task::block_in_place(|| Handle::current().block_on(self.source.with(fetch)));
        fetched.map_err(|failure| {
            let words = "calibrated codes: --store, --coordinator or --artifacts says where they are";
            Failure::new(failure.exit(), format!("artifact {hash}: {failure} ({words})"))
        })
    }
}

fn read(path: &Path, hash: ContentHash) -> Outcome<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    match ContentHash::of(&bytes) {
        actual if actual == hash => Ok(bytes),
        actual => {
            let words = format!("{}: damaged: its content hashes to {actual}", path.display());
            Err(Failure::new(Exit::Failure, words))
        }
    }
}

/// The artifact of its bytes.
///
/// # Errors
/// If they hold no codes.
pub fn codes_file(hash: ContentHash, bytes: Vec<u8>) -> Outcome<CodesFile> {
    CodesFile::of(bytes).map_err(|error| Failure::new(Exit::Failure, format!("artifact {hash}: {error}")))
}
