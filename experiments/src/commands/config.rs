//! `qslm config`: which settings a program would use here, and where they come from.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use qslm_program::settings::{Setting, defaults, explain};

use super::target;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, plain_table, print, print_data};

/// Show the settings that a program would use here.
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
}

/// Print the settings of a program as its file and the environment make them.
///
/// Settings come from defaults, a TOML file, environment variables and flags, the later ones winning; flags are not known
/// here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm config show coordinator --origin
  qslm config show worker --config worker.toml --output json")]
struct Show {
    /// Whose settings
    #[arg(value_enum, default_value = "client")]
    program: Program,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also print the origin of each value: default, file or variable
    #[arg(long)]
    origin: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// A program that has settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// qslm itself, where it talks to a coordinator
    Client,
    /// qslm-coordinator
    Coordinator,
    /// qslm-worker
    Worker,
}

impl Program {
    /// Prefix of its environment variables.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Client => "QSLM_CLIENT",
            Self::Coordinator => "QSLM_COORDINATOR",
            Self::Worker => "QSLM_WORKER",
        }
    }

    /// Its settings as they are in force.
    pub fn settings(self, file: Option<&std::path::Path>) -> anyhow::Result<Vec<Setting>> {
        match self {
            Self::Client => explain::<target::Settings>(file, self.prefix()),
            Self::Coordinator => explain::<qslm_coordinator::settings::Settings>(file, self.prefix()),
            Self::Worker => explain::<qslm_worker::settings::Settings>(file, self.prefix()),
        }
    }
}

impl Program {
    /// Its settings as they are without a file and without an environment.
    pub fn defaults(self) -> anyhow::Result<Vec<Setting>> {
        match self {
            Self::Client => defaults::<target::Settings>(),
            Self::Coordinator => defaults::<qslm_coordinator::settings::Settings>(),
            Self::Worker => defaults::<qslm_worker::settings::Settings>(),
        }
    }
}

impl Config {
    /// Prints them.
    pub fn run(self) -> Outcome {
        let Action::Show(show) = self.action;
        if let Some(file) = &show.config {
            Failure::unless_file(file)?;
        }
        let settings = show.program.settings(show.config.as_deref());
        let settings = settings.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
        if show.output != Output::Table {
            return print_data(show.output, &settings);
        }
        let mut table = plain_table();
        for Setting { key, value, origin } in settings {
            table.add_row(if show.origin { vec![key, value, origin] } else { vec![key, value] });
        }
        print(&format!("{table}\n"))
    }
}
