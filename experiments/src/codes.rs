//! Calibrated codes: the jobs that make them for a spec or for flags, and where commands find the artifacts that a candidate
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::network::{Network, Unit};
use qslm_common::scheme::Scheme;
use qslm_common::storage::CodedSizes;
use qslm_common::task::{Data, Task};
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::jobs::coded::{Coded, units_with_embedding};
use qslm_engine::jobs::gptq::{self, Gptq};
use tokio::runtime::Handle;

use crate::client::{Client, fetch};
use crate::commands::target::Source;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::inputs::DataArgs;
use crate::making::{Files, Here, Maker};
use crate::schemes::ModelArgs;
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

/// Codes that were made.
#[derive(Debug, Default)]
pub struct MadeCodes {
    /// The artifact that holds the codes of a unit.
    pub by_unit: BTreeMap<String, ContentHash>,
    /// The artifacts that were made here.
    pub files: Vec<(ContentHash, Input)>,
}

impl Calibrating<'_> {
    /// Lets `maker` make the codes of all units under calibrated schemes: a job for each block, and one for the head.
    ///
    /// # Errors
    /// One line that names the job that failed, and why.
    pub fn make(
        &self,
        network: &Network,
        schemes: &BTreeSet<Scheme>,
        maker: &dyn Maker,
    ) -> Outcome<MadeCodes> {
        if schemes.is_empty() {
            return Ok(MadeCodes::default());
        }
        let of_part = |part| -> BTreeSet<Scheme> {
            // Rows of the head alone are tokens.
            let is_head = part == network.blocks;
            schemes.iter().map(|scheme| if is_head { *scheme } else { scheme.without_frequency() }).collect()
        };
        let job_of = |part| {
            let gptq = Gptq {
                task: self.task.clone(),
                binary_embedding: network.binary_embedding,
                part,
                schemes: of_part(part).iter().map(Scheme::to_string).collect(),
                damping: self.damping,
                act_order: self.act_order,
            };
            gptq.job(network, self.checkpoint, &self.data)
        };
        let jobs: Vec<_> = (0..gptq::parts(network)).map(job_of).collect();
        let mut made = MadeCodes::default();
        for (part, artifact) in (0..).zip(maker.make_files(&jobs, self.files)?) {
            let units = gptq::units_of(network, part);
            made.by_unit.extend(units.into_iter().map(|unit| (unit.name, artifact.hash)));
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
        let codes = units.iter().find_map(|unit| by_unit.get(&unit.name)).copied();
        let binary_embedding = network.binary_embedding;
        Coded { binary_embedding, part, units: wanted.into_iter().collect() }.job(checkpoint, codes)
    };
    let jobs: Vec<_> = (0..gptq::parts(network)).map(of_part).collect();
    let mut sizes = CodedSizes::default();
    for artifact in maker.make(&jobs, files)? {
        sizes.extend(Coded::read(&artifact).map_err(|error| Failure::new(Exit::Failure, error))?);
    }
    Ok(sizes)
}

/// Schemes of a candidate whose codes calibration makes.
pub fn calibrated_schemes(candidate: &Candidate) -> impl Iterator<Item = Scheme> {
    let schemes = candidate.schemes().map(|(_, scheme)| scheme);
    schemes.filter(|scheme| scheme.is_calibrated() && !scheme.is_trained())
}

/// For commands without calibration data: the candidate, if it needs none.
///
/// # Errors
/// If it takes calibrated codes.
pub fn not_calibrated(candidate: Candidate) -> Outcome<(Candidate, CodesFiles)> {
    if calibrated_schemes(&candidate).count() > 0 {
        let words = "gptq, descent and their like: this command has nothing to calibrate with; take the candidate of a front, or a \
                     packed file";
        return Err(Failure::new(Exit::Usage, words));
    }
    Ok((candidate, CodesFiles::new()))
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

impl CalibrationArgs {
    /// The candidate with calibrated codes where it takes such, and these.
    ///
    /// # Errors
    /// If it takes some and there is nothing to calibrate with, or the codes cannot be made.
    pub fn codes(
        &self,
        model: &ModelArgs,
        data: &DataArgs,
        network: &Network,
        candidate: Candidate,
    ) -> Outcome<(Candidate, CodesFiles)> {
        let schemes: BTreeSet<Scheme> = calibrated_schemes(&candidate).collect();
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
        let (task, text, tokenizer) = data.calibration(path, self.calibration_sequences)?;
        let checkpoint = Input::checkpoint(&model.checkpoint)?;
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
