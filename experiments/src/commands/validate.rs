//! `qslm validate`: everything that is wrong with a spec, without running it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print, print_data};
use crate::spec::{self, Problem};

/// Check specs: every problem at once, each with its line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm validate spec.toml
  qslm validate specs/*.toml
  qslm validate spec.toml --set task.text=wiki.valid.tokens --output json

Exit codes: 0 nothing is wrong, 2 something is, 3 a spec is not there; the others are checked all the same.")]
pub struct Validate {
    /// The specs
    #[arg(value_name = "SPEC.toml", required = true)]
    specs: Vec<PathBuf>,
    /// Change a value of every spec, such as task.windows=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row of one problem; its keys are part of the interface.
#[derive(Serialize)]
struct ProblemRow<'a> {
    /// The spec, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<String>,
    line: Option<usize>,
    problem: &'a str,
}

impl Validate {
    /// Checks and prints.
    pub fn run(self) -> Outcome {
        // One that cannot be read hides nothing of the others.
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        for spec in &self.specs {
            match spec::problems(spec, &self.settings) {
                Ok(problems) => all.push((spec.display().to_string(), problems)),
                Err(failure) => unreadable.push(failure),
            }
        }
        match self.output {
            Output::Table => {
                print(&all.iter().map(|(name, problems)| lines(name, problems)).collect::<String>())?;
            }
            Output::Json | Output::Yaml => {
                let several = self.specs.len() > 1;
                let row = |name: &String, problem| row(several.then(|| name.clone()), problem);
                let rows =
                    all.iter().flat_map(|(name, problems)| problems.iter().map(move |one| row(name, one)));
                print_data(self.output, &rows.collect::<Vec<_>>())?;
            }
        }
        let mut wrong: Vec<String> =
            all.iter().filter_map(|(name, problems)| summary(name, problems.len())).collect();
        let exit = unreadable.first().map_or(Exit::Usage, Failure::exit);
        wrong.extend(unreadable.iter().map(ToString::to_string));
        if wrong.is_empty() { Ok(()) } else { Err(Failure::new(exit, wrong.join("; "))) }
    }
}

fn row(spec: Option<String>, problem: &Problem) -> ProblemRow<'_> {
    ProblemRow { spec, line: problem.line, problem: &problem.words }
}

/// A line per problem of a spec.
fn lines(name: &str, problems: &[Problem]) -> String {
    if problems.is_empty() {
        return format!("{name}: nothing is wrong\n");
    }
    let line = |problem: &Problem| match problem.line {
        Some(line) => format!("{name}:{line}: {}\n", problem.words),
        None => format!("{name}: {}\n", problem.words),
    };
    problems.iter().map(line).collect()
}

/// `s.toml: 2 problems`; `None` without any.
fn summary(name: &str, problems: usize) -> Option<String> {
    let noun = if problems == 1 { "problem" } else { "problems" };
    (problems > 0).then(|| format!("{name}: {problems} {noun}"))
}
