//! `qslm apply`: a candidate becomes a file to deploy.

use std::path::PathBuf;

use clap::Args;
use qslm_common::archive::{FrontDocument, Row};
use qslm_common::candidate::Candidate;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::packed::{self, Provenance};
use qslm_worker::cache::hash_file;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print_json, print_pairs};
use crate::schemes::SchemeArgs;

/// Write a candidate as a packed file: sub-byte weights, scales, zero points and a manifest.
///
/// The tensors of the file take exactly the bytes that the search reported; `qslm eval` on it measures exactly
/// what the search measured.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm apply --checkpoint model.safetensors --front runs/quickstart-1a2b3c4d5e6f.front.json --out packed.safetensors
  qslm apply --checkpoint model.safetensors --front front.json --candidate 9a7d64 --out packed.safetensors
  qslm apply --checkpoint model.pth --bits 4 --embedding sign --out packed.safetensors")]
pub struct Apply {
    /// The float checkpoint
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The front that a run wrote; its chosen candidate is taken
    #[arg(long, value_name = "FILE", required_unless_present = "bits", conflicts_with = "bits")]
    front: Option<PathBuf>,
    /// Take this candidate of the front instead: its id, or the beginning of it
    #[arg(long, value_name = "ID", requires = "front")]
    candidate: Option<String>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// The model was trained on real-valued embeddings instead of their signs
    #[arg(long)]
    real_embedding: bool,
    /// Where to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What is printed; keys are part of the interface.
#[derive(Serialize)]
struct Report {
    file: String,
    candidate: String,
    footprint_bytes: u64,
    header_bytes: u64,
    saving: f64,
}

impl Apply {
    /// Writes and prints.
    pub fn run(self) -> Outcome {
        let load = || Checkpoint::load(&self.checkpoint, !self.real_embedding);
        let checkpoint = load().map_err(|error| Failure::file(&self.checkpoint, &error))?;
        let hash = hash_file(&self.checkpoint).map_err(|error| Failure::file(&self.checkpoint, &error))?;
        let mut provenance = Provenance {
            qslm: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint: hash,
            experiment: None,
            measurement: None,
        };
        let candidate = match self.scheme.candidate(checkpoint.network())? {
            Some(candidate) => candidate,
            None => {
                let document = self.document()?;
                if document.checkpoint != hash {
                    let (front, file) = (self.front_path(), self.checkpoint.display());
                    let words = format!("{} was measured on another checkpoint than {file}", front.display());
                    return Err(Failure::new(Exit::Conflict, words));
                }
                let row = self.row(&document)?;
                provenance.experiment = Some(document.experiment.clone());
                provenance.measurement = Some(row.counts.clone());
                candidate(row, checkpoint.network())?
            }
        };
        let size = packed::write(&self.out, &checkpoint, &candidate, provenance)
            .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", self.out.display())))?;
        let report = Report {
            file: self.out.display().to_string(),
            candidate: candidate.id().to_string(),
            footprint_bytes: size.tensors,
            header_bytes: size.header,
            saving: qslm_common::footprint::saving(checkpoint.network(), size.tensors),
        };
        match self.output {
            Output::Json => print_json(&report),
            Output::Table => print_pairs(&[
                ("file".to_owned(), report.file),
                ("candidate".to_owned(), report.candidate),
                (
                    "tensors".to_owned(),
                    format!("{} bytes ({:.2} % saved)", size.tensors, report.saving * 100.0),
                ),
                ("header".to_owned(), format!("{} bytes", size.header)),
            ]),
        }
    }

    fn front_path(&self) -> PathBuf {
        self.front.clone().unwrap_or_default()
    }

    fn document(&self) -> Outcome<FrontDocument> {
        let path = self.front_path();
        let text = std::fs::read_to_string(&path).map_err(|error| Failure::file(&path, &error))?;
        let parsed = serde_json::from_str(&text);
        parsed
            .map_err(|error| Failure::new(Exit::Failure, format!("{}: not a front: {error}", path.display())))
    }

    /// The row that is asked for.
    fn row<'a>(&self, document: &'a FrontDocument) -> Outcome<&'a Row> {
        let path = self.front_path();
        let Some(id) = &self.candidate else {
            let none = format!("{}: no candidate was chosen; name one with --candidate", path.display());
            return document.chosen.as_ref().ok_or_else(|| Failure::new(Exit::NotFound, none));
        };
        let rows = document.front.iter().chain(&document.chosen).chain(&document.float);
        let mut found: Vec<&Row> = rows.filter(|row| row.candidate.to_string().starts_with(id)).collect();
        found.dedup_by_key(|row| row.candidate);
        let distinct = found.iter().any(|row| row.candidate != found[0].candidate);
        match found.first() {
            Some(row) if !distinct => Ok(row),
            Some(_) => Err(Failure::new(Exit::Conflict, format!("several candidates start with {id:?}"))),
            None => Err(Failure::new(Exit::NotFound, format!("{}: no candidate {id:?}", path.display()))),
        }
    }
}

/// The candidate of a row, checked against the id that the row names.
fn candidate(row: &Row, network: &Network) -> Outcome<Candidate> {
    let wrong =
        |what: String| Failure::new(Exit::Failure, format!("candidate {}: {what}", row.candidate.short()));
    let mut problem = None;
    let candidate = Candidate::new(network, |unit| {
        let text = row.schemes.get(&unit.name).map_or("missing", String::as_str);
        text.parse().unwrap_or_else(|error| {
            problem = Some(format!("{}: {error}", unit.name));
            Scheme::Float
        })
    });
    match problem {
        Some(problem) => Err(wrong(problem)),
        None if candidate.id() != row.candidate => {
            Err(wrong("its schemes are not those of its id".to_owned()))
        }
        None => Ok(candidate),
    }
}
