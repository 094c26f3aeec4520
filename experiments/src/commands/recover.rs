//! `qslm recover`: a candidate of a front is trained, and becomes a file to deploy.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use qslm_common::experiment::check_model;
use qslm_common::footprint::saving;
use qslm_common::hash::ContentHash;
use qslm_common::recovery::Recovery;
use qslm_common::storage::CodedSizes;
use qslm_common::task::Task;
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::checkpoint::packed::{self, Provenance};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::front_file::{FrontFile, candidate};
use crate::input::{Input, read_checkpoint};
use crate::making::{Here, Maker};
use crate::member::MemberArgs;
use crate::output::{Output, print_data, print_pairs};
use crate::place::{Made, OutputPlace};
use crate::spec::recovery::{plan_of, read_lessons};
use crate::storage::{CodesFiles, StorageArgs};

/// Train a candidate of a front, as a spec's [recovery] does, and write what comes out as a packed file.
///
/// The training starts from the float weights and the candidate's schemes; it needs data that the model may be trained on,
/// which is not the data that it is measured on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm recover --checkpoint model.safetensors --tokenizer tokenizer.json --front runs/quickstart-ID.front.json \\
      --text train.txt --out trained.safetensors
  qslm recover --checkpoint model.safetensors --tokenizer tokenizer.json --front front.json --candidate 9a7d64 \\
      --text train.txt --set steps=800 --set rate=7e-4 --set distillation=0.25 --out trained.safetensors
  qslm compare --checkpoint model.safetensors --tokenizer tokenizer.json --text valid.txt --against trained.safetensors")]
pub struct Recover {
    /// The float checkpoint
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The checkpoint's tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// The front that a run wrote, of which the chosen candidate is taken
    #[arg(long, value_name = "FILE")]
    front: PathBuf,
    /// Take this candidate of the front instead: its id, or the beginning of it
    #[arg(long, value_name = "ID")]
    candidate: Option<String>,
    /// Text that a language model may be trained on
    #[arg(long, value_name = "FILE", group = "lessons", required_unless_present = "labelled")]
    text: Option<PathBuf>,
    /// Lines of `sentence TAB label` that a classifier may be trained on
    #[arg(long, value_name = "FILE", group = "lessons")]
    labelled: Option<PathBuf>,
    /// How it is trained: a key of a spec's [recovery] table, such as steps, rate, distillation, trainer
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    member: MemberArgs,
    /// The packed file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace what is there even if it is no packed file; never a store, a float checkpoint or an input
    #[arg(long)]
    force: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed summary; its keys are part of the interface.
#[derive(Serialize)]
struct Recovered {
    file: String,
    /// The candidate that was trained.
    origin: String,
    /// What became of it.
    candidate: String,
    footprint_bytes: u64,
    saving: f64,
    /// Saving of the candidate as it was.
    saving_before: f64,
}

impl Recover {
    /// Trains, writes and prints.
    pub fn run(mut self) -> Outcome {
        let fetched = fetched::find([&mut self.checkpoint, &mut self.tokenizer])?;
        fetched::find(self.text.iter_mut().chain(&mut self.labelled))?;
        let lessons = self.text.iter().chain(&self.labelled);
        let inputs = [&self.checkpoint, &self.tokenizer, &self.front].into_iter().chain(lessons);
        let inputs: Vec<_> = inputs.map(PathBuf::as_path).collect();
        let place = OutputPlace::new(&self.out, Made::Packed, &inputs, self.force)?;
        let checkpoint = read_checkpoint(&self.checkpoint, self.member.member(&self.checkpoint)?)?;
        let network = *checkpoint.network();
        let front = FrontFile::read(&self.front)?;
        let float = Input::checkpoint(&self.checkpoint)?;
        front.check_checkpoint(float.hash()?, &self.checkpoint)?;
        let row = front.row(self.candidate.as_deref())?;
        let origin = candidate(row, &network)?;

        let (plan, backend) = plan_of(&self.settings, &network)?;
        let usage = |words: String| Failure::new(Exit::Usage, words);
        let (path, task) = match (&self.text, &self.labelled) {
            (_, Some(path)) => (path, Task::Accuracy { sentences: None }),
            (Some(path), None) => {
                (path, Task::Perplexity { window: plan.window, stride: plan.window, windows: None })
            }
            (None, None) => return Err(usage("--text or --labelled is needed".to_owned())),
        };
        check_model(&network, &task).map_err(|error| usage(error.to_string()))?;
        let tokenizer = Input::tokenizer(&self.tokenizer)?;
        let too_short = |words: String| usage(format!("{}: {words}", path.display()));
        let text = read_lessons(path, &task, &tokenizer, &network, too_short)?;
        let recovery = Recovery { text: text.hash()?, candidates: 1, reach: 1.0, plan, backend };
        if let Some(problem) = recovery.problems(&network).first() {
            return Err(Failure::new(Exit::Usage, format!("--set: {problem}")));
        }
        recovery.check_backend().map_err(|error| usage(format!("--set: {error}")))?;
        qslm_engine::backend::check(backend).map_err(|error| usage(error.to_string()))?;
        let jobs = recovery.jobs(&network, float.hash()?, tokenizer.hash()?, &origin).ok_or_else(|| {
            let words =
                "cannot be trained: every linear layer has to have codes, and nothing inside may be rounded";
            Failure::new(Exit::Usage, format!("candidate {}: {words}", origin.id().short()))
        })?;
        let files = [(float.hash()?, &float), (text.hash()?, &text), (tokenizer.hash()?, &tokenizer)];
        let artifact = Here.make(&jobs, &files)?.pop().unwrap_or_default();
        let hash = ContentHash::of(&artifact);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Failure, format!("{}: {error}", self.out.display()))
        };
        let codes = CodesFile::of(artifact).map_err(|error| failed(&error))?;
        let codes: CodesFiles = [(hash, Arc::new(codes))].into();
        let trained = Recovery::trained(&network, &origin, hash, CodedSizes::NONE);
        let trained = trained.ok_or_else(|| failed(&"nothing came of it"))?;

        let provenance = Provenance {
            qslm: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint: float.hash()?,
            experiment: Some(front.document.experiment.clone()),
            measurement: None,
            reproducible: front.document.reproducible && !backend.is_gpu(),
            conditions: front.document.conditions.clone(),
            origin: fetched.origin(&self.checkpoint).map(str::to_owned),
        };
        let storage = self.storage.or(&front.document.storage);
        let file = place.start()?;
        let size = packed::write(file.path(), &checkpoint, &trained, &codes, &storage, provenance)
            .map_err(|error| failed(&error))?;
        file.finish()?;
        let report = Recovered {
            file: self.out.display().to_string(),
            origin: origin.id().to_string(),
            candidate: trained.id().to_string(),
            footprint_bytes: size.tensors,
            saving: saving(&network, size.tensors),
            saving_before: row.saving,
        };
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => print_pairs(&[
                ("file".to_owned(), report.file),
                ("candidate".to_owned(), format!("{} of {}", trained.id().short(), origin.id().short())),
                (
                    "tensors".to_owned(),
                    format!(
                        "{} bytes ({:.2} % saved, before {:.2} %)",
                        size.tensors,
                        report.saving * 100.0,
                        report.saving_before * 100.0
                    ),
                ),
                ("next".to_owned(), format!("qslm compare .. --against {}", self.out.display())),
            ]),
        }
    }
}
