//! `qslm list | get | front | cancel | pause | resume | retry | prioritize`: experiments of a coordinator.

use clap::Args;
use qslm_common::experiment::MAX_PRIORITY;
use qslm_common::hash::ContentHash;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{ChangeRequest, ExperimentStatus, FailedTrial, GetRequest, ListRequest, RetryRequest};
use serde::Serialize;

use super::target::{Source, Target};
use crate::exit::Outcome;
use crate::finished::Finished;
use crate::output::{Listed, Output, print, print_data};
use crate::progress::{absence, state};
use crate::statuses::{self, terminal_width};

/// A priority on the command line.
pub(super) fn priority() -> clap::builder::RangedI64ValueParser<i32> {
    let most = i64::from(MAX_PRIORITY);
    clap::value_parser!(i32).range(-most..=most)
}

/// List the experiments of a coordinator or store.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qslm list\n  qslm list --store runs/quickstart.redb")]
pub struct List {
    #[command(flatten)]
    source: Source,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Listed,
}

/// Show the status of one experiment.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm get quickstart --output json")]
pub struct Get {
    #[command(flatten)]
    one: One,
}

/// Print the front of an experiment, finished or not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm front quickstart
  qslm front quickstart --store runs/quickstart.redb --output json > front.json")]
pub struct Front {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    experiment: String,
    #[command(flatten)]
    source: Source,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Cancel an experiment; what was measured stays on record.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm cancel quickstart-1a2b3c4d5e6f")]
pub struct Cancel {
    #[command(flatten)]
    which: Which,
}

/// Pause an experiment: none of its shards are leased any more; what is being evaluated is still recorded.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm pause quickstart-1a2b3c4d5e6f")]
pub struct Pause {
    #[command(flatten)]
    which: Which,
}

/// Resume an experiment that was paused or cancelled.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm resume quickstart-1a2b3c4d5e6f")]
pub struct Resume {
    #[command(flatten)]
    which: Which,
}

/// Open failed trials of an experiment again, even of a finished one.
///
/// Do this when the cause is gone. The search goes on from where the first of them failed, to the front that it would have
/// reached without the failures; what was measured is not measured again. That they failed once stays on record.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm retry quickstart
  qslm get quickstart --output json          # names the failed trials
  qslm retry quickstart --trial 3fa81c --trial 9b02

Exit codes: 0 done, or nothing has failed; 3 no such experiment or failed trial; 5 no coordinator.")]
pub struct Retry {
    /// The failed trial whose address begins so, in hexadecimal digits; may be given several times [default: all]
    #[arg(long = "trial", value_name = "ADDRESS")]
    trials: Vec<String>,
    #[command(flatten)]
    which: Which,
}

/// Change the priority of an experiment.
///
/// Experiments of a higher priority are worked on first; those of the same one share the workers evenly.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qslm prioritize quickstart 10\n  qslm prioritize quickstart -1")]
pub struct Prioritize {
    #[command(flatten)]
    which: Which,
    /// The new priority, -1000 to 1000
    #[arg(allow_negative_numbers = true, value_parser = priority())]
    priority: i32,
}

#[derive(Debug, Args)]
struct Which {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    experiment: String,
    #[command(flatten)]
    target: Target,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Listed,
}

#[derive(Debug, Args)]
struct One {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    experiment: String,
    #[command(flatten)]
    source: Source,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Listed,
}

impl List {
    /// Prints a line per experiment.
    pub async fn run(self) -> Outcome {
        let list =
            async |client: &mut crate::client::Client| Ok(client.list(ListRequest {}).await?.into_inner());
        let all = self.source.with(list).await?.experiments;
        match self.output {
            Listed::Json | Listed::Yaml => {
                let shown = all.iter().map(Shown::new);
                print_data(self.output.of_result(), &shown.collect::<Vec<_>>())
            }
            form => print_statuses(&all, form),
        }
    }
}

impl Get {
    /// Prints its status.
    pub async fn run(self) -> Outcome {
        let request = GetRequest { experiment: self.one.experiment };
        let get = async |client: &mut crate::client::Client| Ok(client.get(request).await?.into_inner());
        let status = self.one.source.with(get).await?;
        match self.one.output {
            Listed::Json | Listed::Yaml => {
                let shown = Shown::new(&status);
                print_data(self.one.output.of_result(), &shown)
            }
            form => print_statuses(std::slice::from_ref(&status), form),
        }
    }
}

impl Front {
    /// Prints the front so far.
    pub async fn run(self) -> Outcome {
        let id = self.experiment;
        let read = async |client: &mut crate::client::Client| Finished::read(client, &id).await;
        self.source.with(read).await?.show(self.output)
    }
}

impl Cancel {
    /// Cancels and prints the status.
    pub async fn run(self) -> Outcome {
        let change = ChangeRequest { cancelled: Some(true), ..Default::default() };
        self.which.change_to(State::Cancelled, change).await
    }
}

impl Pause {
    /// Holds up and prints the status.
    pub async fn run(self) -> Outcome {
        self.which.change_to(State::Paused, ChangeRequest { paused: Some(true), ..Default::default() }).await
    }
}

impl Resume {
    /// Resumes and prints the status.
    pub async fn run(self) -> Outcome {
        let change = ChangeRequest { paused: Some(false), cancelled: Some(false), ..Default::default() };
        self.which.change(change).await
    }
}

impl Retry {
    /// Opens the trials again and prints the status.
    pub async fn run(self) -> Outcome {
        let Which { experiment, target, output } = self.which;
        let request = RetryRequest { experiment, trials: self.trials };
        let status = target.connect().await?.retry(request).await?.into_inner();
        show(&status, output)
    }
}

impl Prioritize {
    /// Changes the priority and prints the status.
    pub async fn run(self) -> Outcome {
        let priority = Some(self.priority);
        self.which.change(ChangeRequest { priority, ..Default::default() }).await
    }
}

impl Which {
    async fn change(self, change: ChangeRequest) -> Outcome {
        let output = self.output;
        show(&self.changed(change).await?, output)
    }

    /// The same, and says so if the experiment has ended, so that nothing was to be done.
    async fn change_to(self, wanted: State, change: ChangeRequest) -> Outcome {
        let output = self.output;
        let status = self.changed(change).await?;
        if status.state() != wanted {
            let state = status.state().as_str_name().to_lowercase();
            tracing::warn!("{} is {state}: nothing was done", status.id);
        }
        show(&status, output)
    }

    async fn changed(self, change: ChangeRequest) -> Outcome<ExperimentStatus> {
        let request = ChangeRequest { experiment: self.experiment, ..change };
        Ok(self.target.connect().await?.change(request).await?.into_inner())
    }
}

/// Prints a status.
pub(super) fn show(status: &ExperimentStatus, output: Listed) -> Outcome {
    match output {
        Listed::Json | Listed::Yaml => print_data(output.of_result(), &Shown::new(status)),
        form => print_statuses(std::slice::from_ref(status), form),
    }
}

/// Printed status; its keys are part of the interface.
// A document: one field for each thing that a status says, as its readers know them.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    state: String,
    /// False if graphics cards measure or train; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    reproducible: Option<bool>,
    /// What it waits for, while it is running and nobody works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    stage: &'a str,
    measured: u64,
    failed: u64,
    /// Pruned: racing ended them early, because they lose too much.
    stopped: u64,
    evaluated: u64,
    front: u32,
    hypervolume: Option<f64>,
    best_candidate: Option<String>,
    best_saving: Option<f64>,
    best_quality: Option<f64>,
    best_quality_loss: Option<f64>,
    /// 95 % interval of the loss.
    best_quality_loss_interval: Option<(f64, f64)>,
    shards_leased: u32,
    shards_pending: u32,
    workers: u32,
    /// Workers that have what `run.workers` demands, and the backend.
    suitable_workers: u32,
    tokens_per_second: f64,
    failures: &'a [String],
    /// The first few, by address.
    failed_trials: Vec<Failed<'a>>,
    /// Failures that were opened again.
    retried: u64,
    /// Generations that it was told from outside.
    told: u64,
    /// Reason why no worker can go on with it.
    stuck: &'a str,
    /// Seconds for which no worker was here that may evaluate it; absent while one is.
    #[serde(skip_serializing_if = "is_zero")]
    without_worker_seconds: u64,
    /// Leases that were lost with their workers since its last result; absent where none was.
    #[serde(skip_serializing_if = "is_zero")]
    vanished_leases: u64,
    /// Suitable workers that had faults only.
    set_aside_workers: u32,
    priority: i32,
    /// What is nearest to each bound, while nothing meets all of them.
    #[serde(skip_serializing_if = "str::is_empty")]
    unmet: &'a str,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A failed trial as printed.
#[derive(Serialize)]
struct Failed<'a> {
    trial: String,
    reason: &'a str,
}

impl<'a> From<&'a FailedTrial> for Failed<'a> {
    fn from(failed: &'a FailedTrial) -> Self {
        let trial = qslm_proto::convert::hash("trial", &failed.trial);
        Self { trial: trial.map_or(String::new(), |trial| trial.to_string()), reason: &failed.reason }
    }
}

impl<'a> Shown<'a> {
    /// A status as printed.
    fn new(status: &'a ExperimentStatus) -> Self {
        let best = status.best.as_ref();
        let candidate = best.and_then(|best| <[u8; 32]>::try_from(&best.candidate[..]).ok());
        Self {
            id: &status.id,
            state: status.state().as_str_name().to_lowercase(),
            reproducible: status.reproducible,
            condition: Some(state(status))
                .filter(|words| *words != status.state().as_str_name().to_lowercase()),
            stage: &status.stage,
            measured: status.measured,
            failed: status.failed,
            stopped: status.stopped,
            evaluated: status.evaluated,
            front: status.front,
            hypervolume: status.hypervolume,
            best_candidate: candidate.map(|bytes| ContentHash::from_bytes(bytes).to_string()),
            best_saving: best.map(|best| best.saving),
            best_quality: best.map(|best| best.quality),
            best_quality_loss: best.map(|best| best.quality_loss),
            best_quality_loss_interval: best.and_then(|best| best.quality_loss_interval).map(Into::into),
            shards_leased: status.shards_leased,
            shards_pending: status.shards_pending,
            workers: status.workers,
            suitable_workers: status.suitable_workers,
            tokens_per_second: status.tokens_per_second,
            failures: &status.failures,
            failed_trials: status.failed_trials.iter().map(Failed::from).collect(),
            retried: status.retried,
            told: status.told,
            stuck: &status.stuck,
            without_worker_seconds: status.without_worker_ms / 1000,
            vanished_leases: status.vanished_leases,
            set_aside_workers: status.set_aside_workers,
            priority: status.priority,
            unmet: &status.unmet,
        }
    }
}

/// What is said of an experiment in which graphics cards take part.
const NOT_REPRODUCIBLE: &str = "is not reproducible: graphics cards take part, so that digits differ";

/// Prints a line per experiment: names alone, the usual columns, or all of them.
fn print_statuses(all: &[ExperimentStatus], form: Listed) -> Outcome {
    if form == Listed::Name {
        return print(&all.iter().map(|status| format!("{}\n", status.id)).collect::<String>());
    }
    // Whoever asks for every column has room for them.
    let wide = form == Listed::Wide;
    let width = if wide { None } else { terminal_width() };
    let table = statuses::table(all, wide, width);
    let stuck = all.iter().filter(|status| !status.stuck.is_empty());
    let stuck: String = stuck.map(|status| format!("{} is stuck: {}\n", status.id, status.stuck)).collect();
    let absent = all.iter().filter_map(|status| Some((&status.id, absence(status)?)));
    let absent: String = absent.map(|(id, words)| format!("{id}: {words}\n")).collect();
    let unmet = all.iter().filter(|status| status.state() == State::Finished && !status.unmet.is_empty());
    let unmet: String =
        unmet.map(|status| format!("{} chose nothing. {}\n", status.id, status.unmet)).collect();
    let failed = all.iter().filter(|status| all.len() == 1 && !status.failed_trials.is_empty());
    let failed: String = failed.flat_map(|status| &status.failed_trials).map(failed_line).collect();
    let on_cards = all.iter().filter(|status| status.reproducible == Some(false));
    let on_cards: String = on_cards.map(|status| format!("{} {NOT_REPRODUCIBLE}\n", status.id)).collect();
    print(&format!("{table}\n{stuck}{absent}{unmet}{on_cards}{failed}"))
}

/// `trial 3fa81c2b9d04 failed: REASON`
fn failed_line(failed: &FailedTrial) -> String {
    let Failed { trial, reason } = failed.into();
    format!("trial {} failed: {reason}\n", trial.get(..12).unwrap_or(&trial))
}
