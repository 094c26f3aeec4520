//! `qslm tell`: the next generation of an experiment whose candidates come from outside.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use qslm_proto::v1::{GetRequest, TellRequest, ToldCandidate, ToldRequest};
use qslm_search::written;
use serde::Serialize;

use super::target::Target;
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::read_text;
use crate::output::print;

/// Tell an experiment with `strategy.kind = "external"` its next candidates.
///
/// They are measured together, once all that it was told before is measured. What is told is on disk before this command
/// ends; the same candidates under the same number may be told again, which changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm tell mine --candidates first.jsonl
  qslm tell mine --candidates second.jsonl --number 2 --last
  qslm tell mine --candidates next.jsonl --wait | jq .quality_loss
  qslm tell mine --last                        # nothing more comes

A line is a candidate, as in the file of `strategy.kind = \"list\"`: JSON of names or patterns with schemes, or words
NAME=SCHEME. Its \"name\" comes back with --wait and is kept nowhere.

Exit codes: 0 done, 2 no candidate, and why; 3 no such experiment or file; 4 another number is the next one, or nothing more
can be told; 5 no coordinator.")]
pub struct Tell {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    experiment: String,
    /// File of candidates, a line each
    #[arg(long, value_name = "FILE", required_unless_present = "last")]
    candidates: Option<PathBuf>,
    /// Number of the generation, from 1 [default: the next one]
    #[arg(long, value_name = "N")]
    number: Option<u64>,
    /// It is the last one: the experiment finishes once it is measured
    #[arg(long)]
    last: bool,
    /// Wait until all of them are settled, and print what became of each as a line of JSON, in place of the number
    #[arg(long, requires = "candidates")]
    wait: bool,
    #[command(flatten)]
    target: Target,
}

/// Printed row of a told candidate; its keys are part of the interface.
#[derive(Serialize)]
struct ToldRow {
    number: u64,
    /// Place in the tell, from 1.
    place: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    candidate: String,
    /// `measured`, `pruned` or `failed`.
    state: String,
    footprint_bytes: u64,
    saving: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality_loss_interval: Option<(f64, f64)>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    costs: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Tell {
    /// Tells, and prints the number, or what became of the candidates.
    pub async fn run(self) -> Outcome {
        let Self { experiment, candidates: file, number, last, wait, target } = self;
        let text = file.as_deref().map(read_text).transpose()?.unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let candidates: Vec<String> = lines.map(str::to_owned).collect();
        if let Some(file) = file.filter(|_| candidates.is_empty()) {
            return Err(Failure::new(Exit::Usage, format!("{}: no candidates", file.display())));
        }
        let mut client = target.connect().await?;
        let number = match number {
            Some(number) => number,
            None => client.get(GetRequest { experiment: experiment.clone() }).await?.into_inner().told + 1,
        };
        let names: Vec<String> = candidates.iter().map(|line| name(line)).collect();
        let told = ToldRequest { experiment: experiment.clone(), number };
        client.tell(TellRequest { experiment, number, candidates, last }).await?;
        match wait {
            true => follow(&mut client, told, &names).await,
            false => print(&format!("{number}\n")),
        }
    }
}

/// What a line calls its candidate; empty if nothing.
fn name(line: &str) -> String {
    serde_json::from_str(line).ok().and_then(|line| written::name(&line).ok()).unwrap_or_default()
}

/// Waits for the candidates of a tell, and prints them in their order.
async fn follow(client: &mut Client, told: ToldRequest, names: &[String]) -> Outcome {
    let number = told.number;
    let mut stream = client.told(told).await?.into_inner();
    // What is said last of each counts; the stream ends when all are settled.
    let mut last = BTreeMap::new();
    while let Some(message) = stream.message().await? {
        last.extend(message.candidates.into_iter().map(|candidate| (candidate.place, candidate)));
    }
    let name = |place: u32| names.get(place as usize).cloned().unwrap_or_default();
    for candidate in last.into_values() {
        let row = ToldRow::new(number, name(candidate.place), candidate);
        let line = serde_json::to_string(&row).map_err(|error| Failure::new(Exit::Failure, error))?;
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

impl ToldRow {
    fn new(number: u64, name: String, told: ToldCandidate) -> Self {
        let state = told.state().as_str_name().to_lowercase();
        let id = qslm_proto::convert::hash("candidate", &told.candidate);
        let measured = told.measured.unwrap_or_default();
        Self {
            number,
            place: told.place + 1,
            name,
            candidate: id.map_or(String::new(), |id| id.to_string()),
            state,
            footprint_bytes: told.footprint_bytes,
            saving: told.saving,
            quality_loss: measured.quality_loss,
            quality_loss_interval: measured.quality_loss_interval.map(Into::into),
            costs: measured.costs.into_iter().collect(),
            reason: told.reason,
        }
    }
}
