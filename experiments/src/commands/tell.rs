//! `qslm tell`: the next generation of an experiment whose candidates come from outside.

use std::path::PathBuf;

use clap::Args;
use qslm_proto::v1::{GetRequest, TellRequest};

use super::target::Target;
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
  qslm tell mine --last                        # nothing more comes

A line is a candidate, as in the file of `strategy.kind = \"list\"`: JSON of names or patterns with schemes, or words
NAME=SCHEME.

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
    #[command(flatten)]
    target: Target,
}

impl Tell {
    /// Tells, and prints the number.
    pub async fn run(self) -> Outcome {
        let Self { experiment, candidates: file, number, last, target } = self;
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
        client.tell(TellRequest { experiment, number, candidates, last }).await?;
        print(&format!("{number}\n"))
    }
}
