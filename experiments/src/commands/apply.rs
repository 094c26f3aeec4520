//! `qslm apply`: a candidate becomes a file to deploy.

use std::path::PathBuf;

use clap::Args;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::packed;
use qslm_report::words::bytes;
use serde::Serialize;

use crate::codes::{CalibrationArgs, CalibrationWindow};
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::{Input, read_checkpoint};
use crate::inputs::Cut;
use crate::member::MemberArgs;
use crate::output::{Output, print_data, print_pairs};
use crate::place::{Made, OutputPlace};
use crate::schemes::{ModelArgs, SchemeArgs};
use crate::selected::{SelectArgs, unmeasured};
use crate::storage::{CodesFiles, StorageArgs};

/// Write a candidate as a packed file: sub-byte weights, scales, zero points and a manifest.
///
/// The tensors of the file take exactly the bytes that the search reported; `qslm eval` on it measures exactly
/// what the search measured.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm apply --checkpoint model.safetensors --front runs/quickstart-1a2b3c4d5e6f.front.json --out packed.safetensors
  qslm apply --checkpoint model.safetensors --front front.json --candidate 9a7d64 --out packed.safetensors
  qslm apply --checkpoint model.safetensors --store runs/q.redb --experiment quickstart --out packed.safetensors
  qslm apply --checkpoint model.pth --bits 4 --embedding sign --out packed.safetensors
  qslm apply --checkpoint model.pth --bits 3 --rounding gptq --calibration train.txt --tokenizer tokenizer.json --window 128 \
    --out packed.safetensors")]
pub struct Apply {
    /// The float checkpoint
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    calibration_window: CalibrationWindow,
    /// The checkpoint's tokenizer.json, to read the calibration data
    #[arg(long, value_name = "FILE", requires = "calibration")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    member: MemberArgs,
    /// The packed file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace what is there; never a store, a float checkpoint or an input
    #[arg(long)]
    force: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed summary; its keys are part of the interface.
#[derive(Serialize)]
struct Applied {
    file: String,
    candidate: String,
    footprint_bytes: u64,
    header_bytes: u64,
    saving: f64,
}

impl Apply {
    /// Writes and prints.
    pub fn run(mut self) -> Outcome {
        let fetched = fetched::find([&mut self.checkpoint])?;
        self.calibration.find()?;
        fetched::find(&mut self.tokenizer)?;
        let more = [&self.select.front, &self.calibration.calibration, &self.tokenizer].into_iter().flatten();
        let inputs: Vec<_> = more.chain([&self.checkpoint]).map(PathBuf::as_path).collect();
        let place = OutputPlace::kept(&self.out, Made::Packed, &inputs, self.force)?;
        let checkpoint = read_checkpoint(&self.checkpoint, self.member.member(&self.checkpoint)?)?;
        let hash = Input::checkpoint(&self.checkpoint)?.hash()?;
        let origin = fetched.origin(&self.checkpoint).map(str::to_owned);
        let mut provenance = unmeasured(hash, origin.clone());
        let mut storage = self.storage.or(&[]);
        let (candidate, codes) = match (self.select.is_given(), self.of_flags(&checkpoint)?) {
            (_, Some(made)) => made,
            (true, None) if self.calibration.calibration.is_some() => {
                let words =
                    "--calibration is for schemes given by flags: codes of a front are in its artifacts";
                return Err(Failure::new(Exit::Usage, words));
            }
            (_, None) => {
                let selected = self.select.of(&self.model(), &checkpoint, None)?;
                let Some(selected) = selected else {
                    let words =
                        "what to write is missing: give --front FILE or --experiment, or --bits and its like";
                    return Err(Failure::new(Exit::Usage, words));
                };
                storage = self.storage.or(&selected.front.document.storage);
                provenance = selected.provenance(hash, origin);
                (selected.candidate, selected.codes)
            }
        };
        let file = place.start()?;
        let size = packed::write(file.path(), &checkpoint, &candidate, &codes, &storage, provenance)
            .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", self.out.display())))?;
        file.finish()?;
        let report = Applied {
            file: self.out.display().to_string(),
            candidate: candidate.id().to_string(),
            footprint_bytes: size.tensors,
            header_bytes: size.header,
            saving: qslm_common::footprint::saving(checkpoint.network(), size.tensors),
        };
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => print_pairs(&[
                ("file".to_owned(), format!("{}: {}", report.file, bytes(size.tensors + size.header))),
                ("candidate".to_owned(), report.candidate),
                (
                    "tensors".to_owned(),
                    format!("{} ({:.2} % saved)", bytes(size.tensors), report.saving * 100.0),
                ),
                ("header".to_owned(), bytes(size.header)),
            ]),
        }
    }

    fn model(&self) -> ModelArgs {
        ModelArgs {
            checkpoint: self.checkpoint.clone(),
            member: self.member.clone(),
            backend: Backend::default(),
        }
    }

    /// The candidate that the flags describe, with its calibrated codes; `None` if none is given.
    fn of_flags(&self, checkpoint: &Checkpoint) -> Outcome<Option<(Candidate, CodesFiles)>> {
        if self.scheme.is_empty() {
            return Ok(None);
        }
        let network = checkpoint.network();
        let model = self.model();
        let cut = Cut::for_network(network, self.calibration_window.window, self.tokenizer.clone())?;
        let ranges = self.calibration.ranges(&model, &cut, &self.scheme)?;
        let candidate = self.scheme.candidate(network, ranges.as_ref())?;
        candidate
            .map(|candidate| self.calibration.codes(&self.checkpoint, &cut, network, candidate))
            .transpose()
    }
}
