//! `qslm`: search, submit, watch and read quantization experiments.

mod backup;
mod client;
mod codes;
mod columns;
mod commands;
mod control;
mod data;
mod ending;
mod exit;
mod fetched;
mod finished;
mod fit;
mod front_file;
mod holdout;
mod input;
mod inputs;
mod known;
mod listed;
mod listing;
mod making;
mod member;
#[cfg_attr(not(feature = "object-store"), path = "no_object.rs")]
mod object;
mod output;
mod overlaid;
mod parallel;
mod patience;
mod place;
mod progress;
mod result_files;
mod results;
mod schemes;
mod screen;
mod selected;
mod sensitivity;
mod spec;
mod standing;
mod statistics;
mod statuses;
mod storage;
mod tensors;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use qslm_program::LogFormat;

use crate::exit::Outcome;

/// Problems of the text of a spec, each with its line from 1 where it is about one. Files that it names are
/// not looked for.
pub fn spec_problems(text: &str) -> Vec<(Option<usize>, String)> {
    spec::problems_of_text(text).into_iter().map(|problem| (problem.line, problem.words)).collect()
}

/// Find how many bits each weight matrix of a spike-driven language model may lose.
#[derive(Debug, Parser)]
#[command(
    name = "qslm",
    version,
    arg_required_else_help = true,
    after_help = "\
Start here:
  qslm run experiments/specs/quickstart.toml

Exit codes: 0 ok, 1 failure, 2 usage or bad spec, 3 not found, 4 conflict, 5 no server answers,
6 finished with failed trials or an unmet constraint, 7 not allowed, 8 no worker for too long (--no-worker-timeout),
130 and 143 interrupted by SIGINT and SIGTERM."
)]
struct Cli {
    /// Log filter for standard error: a level, or directives such as warn,qslm_worker=debug [default: warn]
    #[arg(long, global = true)]
    log: Option<String>,
    /// Log more: -v for what happens, -vv for every step
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with_all = ["quiet", "log"])]
    verbose: u8,
    /// Print only errors to standard error: no progress, no warnings
    #[arg(short, long, global = true, conflicts_with = "log")]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(commands::init::Init),
    Validate(commands::validate::Validate),
    Run(commands::run::Run),
    Eval(commands::eval::Eval),
    Compare(commands::compare::Compare),
    Sensitivity(commands::sensitivity::Sensitivity),
    Apply(commands::apply::Apply),
    Recover(commands::recover::Recover),
    Inspect(commands::inspect::Inspect),
    Generate(commands::generate::Generate),
    Submit(commands::submit::Submit),
    List(commands::manage::List),
    Get(commands::manage::Get),
    Watch(commands::watch::Watch),
    Front(commands::manage::Front),
    Cancel(commands::manage::Cancel),
    Pause(commands::manage::Pause),
    Resume(commands::manage::Resume),
    Retry(commands::manage::Retry),
    Prioritize(commands::manage::Prioritize),
    Tell(commands::tell::Tell),
    Report(commands::report::Report),
    Export(commands::export::Export),
    Import(commands::import::Import),
    Reconcile(commands::stores::Reconcile),
    Backup(commands::backup::Backup),
    Db(commands::stores::Db),
    Bench(commands::bench::Bench),
    Config(commands::config::Config),
    Reference(commands::reference::Reference),
    Completions(commands::completions::Completions),
    Version(commands::version::Version),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    // An image has one file with three names.
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_stem().and_then(OsStr::to_str) {
        Some("qslm-coordinator") => return qslm_coordinator::program::main(),
        Some("qslm-worker") => return qslm_worker::program::main(),
        _ => {}
    }
    let cli = match qslm_program::flags() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let outcome = qslm_program::block_on(run(cli)).unwrap_or_else(|error| Err(error.into()));
    outcome.map_or_else(exit::Failure::report, |()| ExitCode::SUCCESS)
}

async fn run(cli: Cli) -> Outcome {
    let usual = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    qslm_program::init_log(cli.log.as_deref().unwrap_or(usual), LogFormat::Text)?;
    match cli.command {
        Command::Init(init) => init.run(),
        Command::Validate(validate) => validate.run(),
        Command::Run(run) => run.run().await,
        Command::Eval(eval) => eval.run(),
        Command::Compare(compare) => compare.run(),
        Command::Sensitivity(sensitivity) => sensitivity.run(),
        Command::Apply(apply) => apply.run(),
        Command::Recover(recover) => recover.run(),
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
        Command::Retry(retry) => retry.run().await,
        Command::Prioritize(prioritize) => prioritize.run().await,
        Command::Tell(tell) => tell.run().await,
        Command::Report(report) => report.run().await,
        Command::Export(export) => export.run().await,
        Command::Import(import) => import.run(),
        Command::Reconcile(reconcile) => reconcile.run(),
        Command::Backup(backup) => backup.run().await,
        Command::Db(db) => db.run(),
        Command::Bench(bench) => bench.run().await,
        Command::Config(config) => config.run(),
        Command::Reference(reference) => reference.run(),
        Command::Completions(completions) => completions.run(&mut Cli::command()),
        Command::Version(version) => version.run(),
    }
}
