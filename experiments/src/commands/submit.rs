//! `qslm submit`: an experiment for a coordinator, and the wait for its end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::manage::{priority, show};
use super::plan;
use super::target::{self, Target};
use super::watch::{Submitted, Watched};
use crate::client::{Client, connect, submit};
use crate::exit::{Failure, Outcome, unless};
use crate::finished::WhenStuck;
use crate::making::{Here, Maker, OnWorkers};
use crate::output::Listed;
use crate::patience::Patience;
use crate::result_files::ResultsPlace;
use crate::spec::{resolve, resolve_with};

/// Submit an experiment to a coordinator; its id is printed.
///
/// The checkpoint and data are uploaded unless the coordinator has them. Submitting the same experiment twice
/// is submitting it once; one that was cancelled or paused goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm submit experiments/specs/quickstart.toml
  qslm submit spec.toml --coordinator http://10.0.0.5:7477 --output json
  qslm submit spec.toml --priority 10 --wait
  qslm submit spec.toml --wait --no-worker-timeout 30m
  qslm submit spec.toml --wait --results results
  AWS_REGION=eu-central-1 qslm submit spec.toml --wait --results s3://bucket/first
  qslm submit spec.toml --dry-run

Exit codes: 0 done, 2 bad spec, 3 missing file, 5 no coordinator; with --wait also 6: finished with failed trials or
no candidate within the constraints, 8: no worker for as long as --no-worker-timeout says, and 130: interrupted. The
experiment goes on after 8 and 130. A coordinator that goes away meanwhile is waited for, --connect-timeout seconds.")]
pub struct Submit {
    /// The experiment's spec
    #[arg(value_name = "SPEC.toml")]
    spec: PathBuf,
    /// Change a value of the spec, such as task.windows=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Experiments of a higher priority are worked on first, those of the same one share the workers
    /// [default: 0, or what it has]
    #[arg(long, allow_negative_numbers = true, value_parser = priority())]
    priority: Option<i32>,
    /// Submit nothing: print stages, candidates and evaluations, and how long they take at most on this machine
    #[arg(long)]
    dry_run: bool,
    /// Make here what the spec needs before it is an experiment (the order of a ranked search, static ranges); by default
    /// workers make it
    #[arg(long, conflicts_with = "dry_run")]
    local: bool,
    /// Follow the experiment until it has ended, then print its front
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Give up waiting once no worker that may evaluate it was there for so long, such as 90s, 30m or 2h: exit code 8
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = duration)]
    no_worker_timeout: Option<Duration>,
    /// Also leave front, report, export and packed file in this folder, or in object storage: s3://BUCKET/PATH,
    /// gs://BUCKET/PATH, az://CONTAINER/PATH, file:///PATH
    #[arg(long, value_name = "FOLDER", requires = "wait")]
    results: Option<String>,
    #[command(flatten)]
    target: Target,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Listed,
}

/// The longest that somebody waits for a worker: 30 days.
const MOST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// A duration with its unit, from a second to 30 days.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_secs(1)..=MOST_WAIT).contains(&duration) {
        true => Ok(duration),
        false => Err("expected 1s to 30days".to_owned()),
    }
}

impl Submit {
    /// Submits and prints the id.
    pub async fn run(self) -> Outcome {
        if self.dry_run {
            let resolved = resolve(&self.spec, &self.settings)?;
            return plan::show(&resolved, self.output.of_result());
        }
        let results = self.results.as_deref().map(ResultsPlace::parse).transpose()?;
        let patience = if self.wait { target::LONG_PATIENCE } else { target::PATIENCE };
        let (connector, patience) = self.target.way_within(patience)?;
        let interrupted = qslm_program::cancelled_by_signals()?;
        let on_workers = OnWorkers::new(&connector, patience, self.no_worker_timeout, &interrupted);
        let maker: &dyn Maker = if self.local { &Here } else { &on_workers };
        // What is read and made here is not asked whether it may go on.
        let here = tokio::spawn({
            let interrupted = interrupted.clone();
            async move {
                interrupted.cancelled().await;
                Failure::interrupted().exit_now()
            }
        });
        let resolved = tokio::task::block_in_place(|| resolve_with(&self.spec, &self.settings, maker))?;
        if !self.local {
            here.abort();
        }
        let mut client = unless(&interrupted, connect(&connector, patience)).await?;
        let patience = Patience::new(&connector, patience);
        // Submitting twice is submitting once.
        let ask = async |client: &mut Client| submit(client, &resolved, self.priority).await;
        let status = unless(&interrupted, patience.call(&mut client, ask)).await?;
        if self.wait {
            let submitted = Some(Submitted { resolved: &resolved, maker, results });
            let when_stuck = self.no_worker_timeout.map_or(WhenStuck::Wait, WhenStuck::WaitAtMost);
            let output = self.output.of_result();
            let watched = Watched { id: &status.id, when_stuck, submitted };
            return watched.follow(&mut client, &patience.let_in(), output, &interrupted).await;
        }
        match self.output {
            Listed::Table => show(&status, Listed::Name),
            other => show(&status, other),
        }
    }
}
