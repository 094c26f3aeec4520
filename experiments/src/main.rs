//! `qslm`: search, submit, watch and read quantization experiments.

mod commands;
mod exit;
mod output;
mod tensors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Find how many bits each weight matrix of a spike-driven language model may lose.
#[derive(Debug, Parser)]
#[command(name = "qslm", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Eval(commands::eval::Eval),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Eval(eval) => eval.run(),
    };
    outcome.map_or_else(exit::Failure::report, |()| ExitCode::SUCCESS)
}
