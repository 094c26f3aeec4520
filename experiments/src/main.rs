//! `qslm`: search, submit, watch and read quantization experiments.

mod client;
mod commands;
mod data;
mod exit;
mod front_file;
mod inputs;
mod output;
mod parallel;
mod progress;
mod results;
mod schemes;
mod sensitivity;
mod spec;
mod statistics;
mod tensors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Outcome;

/// Find how many bits each weight matrix of a spike-driven language model may lose.
#[derive(Debug, Parser)]
#[command(
    name = "qslm",
    version,
    arg_required_else_help = true,
    after_help = "\
Start here:
  qslm run experiments/specs/quickstart.toml

Exit codes: 0 ok, 1 failure, 2 usage or bad spec, 3 not found, 4 conflict, 5 coordinator unavailable,
6 finished with failed trials or an unmet constraint, 130 interrupted."
)]
struct Cli {
    /// What is logged to standard error: a level, or directives such as warn,qslm_worker=debug
    #[arg(long, global = true, default_value = "warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Run),
    Eval(commands::eval::Eval),
    Compare(commands::compare::Compare),
    Sensitivity(commands::sensitivity::Sensitivity),
    Apply(commands::apply::Apply),
    Inspect(commands::inspect::Inspect),
    Generate(commands::generate::Generate),
    Submit(commands::manage::Submit),
    List(commands::manage::List),
    Get(commands::manage::Get),
    Watch(commands::watch::Watch),
    Front(commands::manage::Front),
    Cancel(commands::manage::Cancel),
    Pause(commands::manage::Pause),
    Resume(commands::manage::Resume),
    Prioritize(commands::manage::Prioritize),
    Reconcile(commands::stores::Reconcile),
    Db(commands::stores::Db),
    Bench(commands::bench::Bench),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome =
        qslm_program::block_on(run(cli)).unwrap_or_else(|error| Err(anyhow::Error::from(error).into()));
    outcome.map_or_else(exit::Failure::report, |()| ExitCode::SUCCESS)
}

async fn run(cli: Cli) -> Outcome {
    qslm_program::init_log(&cli.log)?;
    match cli.command {
        Command::Run(run) => run.run().await,
        Command::Eval(eval) => eval.run(),
        Command::Compare(compare) => compare.run(),
        Command::Sensitivity(sensitivity) => sensitivity.run(),
        Command::Apply(apply) => apply.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Generate(generate) => generate.run(),
        Command::Submit(submit) => submit.run().await,
        Command::List(list) => list.run().await,
        Command::Get(get) => get.run().await,
        Command::Watch(watch) => watch.run().await,
        Command::Front(front) => front.run().await,
        Command::Cancel(cancel) => cancel.run().await,
        Command::Pause(pause) => pause.run().await,
        Command::Resume(resume) => resume.run().await,
        Command::Prioritize(prioritize) => prioritize.run().await,
        Command::Reconcile(reconcile) => reconcile.run(),
        Command::Db(db) => db.run(),
        Command::Bench(bench) => bench.run().await,
    }
}
