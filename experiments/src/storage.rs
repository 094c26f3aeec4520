//! How a file stores a candidate's codes: the flag, and the bytes that entropy-coded ones take.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::storage::{CodedSizes, Storage};
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::checkpoint::{Checkpoint, packed};

use crate::exit::{Exit, Failure, Outcome};

/// Artifacts by their hashes.
pub type CodesFiles = BTreeMap<ContentHash, Arc<CodesFile>>;

/// How codes may be stored.
#[derive(Debug, Clone, Args)]
pub struct StorageArgs {
    /// How a file may store codes, of which each matrix takes the smallest: packed, or rans, which is entropy coding and
    /// changes no number [default: packed, or as the front's experiment had it]
    #[arg(long, value_name = "STORAGE", value_delimiter = ',')]
    storage: Vec<StorageArg>,
}

/// A form that codes may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum StorageArg {
    /// Every code in the width of its format
    Packed,
    /// Entropy-coded by rANS
    Rans,
}

impl StorageArgs {
    /// What the flag says, or else `usual`.
    pub fn or(&self, usual: &[Storage]) -> Vec<Storage> {
        let form = |storage: &StorageArg| match storage {
            StorageArg::Packed => Storage::Packed,
            StorageArg::Rans => Storage::Rans,
        };
        match self.storage.is_empty() {
            true => usual.to_vec(),
            false => self.storage.iter().map(form).collect(),
        }
    }
}

/// Bytes of a candidate's codes in a file that may hold entropy-coded ones; nothing if it may not.
///
/// # Errors
/// If calibrated codes are not at hand.
pub fn sizes(
    storage: &[Storage],
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    codes: &CodesFiles,
) -> Outcome<CodedSizes> {
    if !storage.contains(&Storage::Rans) {
        return Ok(CodedSizes::default());
    }
    let sizes = packed::coded_sizes(checkpoint, candidate, codes);
    sizes.map_err(|error| Failure::new(Exit::Failure, error))
}
