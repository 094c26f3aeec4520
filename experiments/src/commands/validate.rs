//! `qslm validate`: everything that is wrong with a spec, without running it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print, print_data};
use crate::spec;

/// Check a spec: every problem at once, each with its line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm validate spec.toml
  qslm validate spec.toml --set task.text=wiki.valid.tokens --output json

Exit codes: 0 nothing is wrong, 2 something is, 3 no such spec.")]
pub struct Validate {
    /// The spec
    #[arg(value_name = "SPEC.toml")]
    spec: PathBuf,
    /// Change a value of the spec, such as task.windows=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row of one problem; its keys are part of the interface.
#[derive(Serialize)]
struct ProblemRow<'a> {
    line: Option<usize>,
    problem: &'a str,
}

impl Validate {
    /// Checks and prints.
    pub fn run(self) -> Outcome {
        let problems = spec::problems(&self.spec, &self.settings)?;
        let name = self.spec.display();
        if self.output != Output::Table {
            let rows =
                problems.iter().map(|problem| ProblemRow { line: problem.line, problem: &problem.words });
            print_data(self.output, &rows.collect::<Vec<_>>())?;
        } else if problems.is_empty() {
            print(&format!("{name}: nothing is wrong\n"))?;
        } else {
            let lines = problems.iter().map(|problem| match problem.line {
                Some(line) => format!("{name}:{line}: {}\n", problem.words),
                None => format!("{name}: {}\n", problem.words),
            });
            print(&lines.collect::<String>())?;
        }
        match problems.len() {
            0 => Ok(()),
            1 => Err(Failure::new(Exit::Usage, format!("{name}: 1 problem"))),
            many => Err(Failure::new(Exit::Usage, format!("{name}: {many} problems"))),
        }
    }
}
