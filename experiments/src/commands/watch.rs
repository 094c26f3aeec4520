//! `qslm watch`: follow an experiment until it has ended, or look at all of them.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{ExperimentStatus, GetRequest, ListRequest};

use super::run::Finished;
use super::target::Target;
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::progress::Progress;
use crate::screen::{self, Left};

/// How often all experiments are looked at where there is no terminal to draw on.
const OFTEN: Duration = Duration::from_secs(2);

/// Follow an experiment until it has ended, then print its front; or look at all of them.
///
/// On a terminal this is a live view: experiments, progress, the front as it grows, workers, events; `q` leaves it, and
/// it changes nothing. Where standard output is no terminal, or with `--plain`, it is a line at every change.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm watch                              # everything a coordinator does, until q
  qslm watch quickstart                   # until it has ended, then its front
  qslm watch quickstart --output json > front.json

Exit codes: 0 done, or left by q; 3 no such experiment, 5 no coordinator, 6 cancelled, finished with failed trials or no
candidate within the constraints, 130 interrupted, while the experiment goes on.")]
pub struct Watch {
    /// The experiment's id, or the beginning of it [default: all experiments]
    experiment: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Lines instead of the live view
    #[arg(long)]
    plain: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl Watch {
    /// Watches and prints.
    pub async fn run(self) -> Outcome {
        let mut client = self.target.connect().await?;
        let can_draw = std::io::stdout().is_terminal()
            && std::io::stdin().is_terminal()
            && tracing::enabled!(tracing::Level::WARN);
        if can_draw && !self.plain {
            let address = self.target.connector()?.url().to_owned();
            match screen::run(&mut client, address, self.experiment.as_deref()).await? {
                Left::Quit => return Ok(()),
                Left::Interrupted => return Err(Failure::new(Exit::Interrupted, "interrupted")),
                Left::Ended => {}
            }
        }
        match &self.experiment {
            Some(id) => follow(&mut client, id, self.output).await,
            None => follow_all(&mut client).await,
        }
    }
}

/// Follows an experiment until it has ended, then prints its front and fails if it did not end well.
pub(super) async fn follow(client: &mut Client, id: &str, output: Output) -> Outcome {
    let interrupted = qslm_program::cancelled_by_signals()?;
    let status = tokio::select! {
        status = until_ended(client, id, WhenStuck::Wait) => status?,
        () = interrupted.cancelled() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    let finished = Finished::read(client, &status.id).await?;
    finished.show(output)?;
    if status.state() == State::Cancelled {
        return Err(Failure::new(Exit::Unmet, format!("{} was cancelled", status.id)));
    }
    finished.verdict()
}

/// What to do while every worker that may evaluate an experiment is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenStuck {
    /// Say so and wait: a worker may be repaired, or another one may come.
    Wait,
    /// Fail: there are no other workers.
    Fail,
}

/// Shows progress until the experiment has ended.
pub(super) async fn until_ended(
    client: &mut Client,
    id: &str,
    when_stuck: WhenStuck,
) -> Outcome<ExperimentStatus> {
    let mut progress = Progress::new();
    let mut stream = client.watch(GetRequest { experiment: id.to_owned() }).await?.into_inner();
    while let Some(status) = stream.message().await? {
        if matches!(status.state(), State::Finished | State::Cancelled) {
            progress.finish();
            return Ok(status);
        }
        if status.state() == State::Stuck && when_stuck == WhenStuck::Fail {
            progress.finish();
            return Err(Failure::new(Exit::Failure, format!("{} is stuck: {}", status.id, status.stuck)));
        }
        progress.show(&status);
    }
    Err(Failure::new(Exit::Unavailable, "the coordinator stopped"))
}

/// A line on standard error for every change of an experiment's stage or state, until none is under way.
async fn follow_all(client: &mut Client) -> Outcome {
    let interrupted = qslm_program::cancelled_by_signals()?;
    let mut shown: Vec<(String, State, String)> = Vec::new();
    let mut due = tokio::time::interval(OFTEN);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = interrupted.cancelled() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
        let all = client.list(ListRequest {}).await?.into_inner().experiments;
        let now: Vec<_> =
            all.iter().map(|status| (status.id.clone(), status.state(), status.stage.clone())).collect();
        // `--quiet` leaves errors only.
        let news = all.iter().zip(&now).filter(|(_, line)| !shown.contains(line));
        for (status, _) in news.filter(|_| tracing::enabled!(tracing::Level::WARN)) {
            qslm_program::say(crate::progress::line(status));
        }
        shown = now;
        if !all.iter().any(|status| matches!(status.state(), State::Running | State::Stuck)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use qslm_coordinator::driver::{Fault, Finished, ShardOutcome, WorkerReport};

    use super::*;
    use crate::client::{Embedded, submit};
    use crate::spec::resolve;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_whose_only_worker_cannot_evaluate_ends_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let resolved = resolve(&root.join("specs/quickstart.toml"), &["task.windows=2".to_owned()]).unwrap();
        let embedded = Embedded::start(&folder.path().join("s.redb")).await.unwrap();
        let mut client = embedded.connect().await.unwrap();
        let id = submit(&mut client, &resolved, None).await.unwrap().id;
        let driver = embedded.driver();
        let fails = async {
            let mut finished = Vec::new();
            loop {
                let report = WorkerReport {
                    worker: "local-0".to_owned(),
                    finished: std::mem::take(&mut finished),
                    held: Vec::new(),
                    slots: 1,
                    prefetch: 0,
                    wait_ms: 1000,
                    experiment: Some(id.clone()),
                    capabilities: Arc::new(qslm_worker::capabilities::detect(
                        std::collections::BTreeMap::new(),
                    )),
                    session: 1,
                };
                let outcome =
                    ShardOutcome::Failure { reason: "no space left".to_owned(), fault: Fault::Machine };
                finished.extend(driver.report(report).await.unwrap().leases.into_iter().map(|grant| {
                    Finished {
                        lease: grant.lease,
                        trial: grant.trial.key,
                        shard: grant.shard,
                        engine: String::new(),
                        outcome: outcome.clone(),
                    }
                }));
            }
        };
        let ended = tokio::select! {
            ended = until_ended(&mut client, &id, WhenStuck::Fail) => ended.unwrap_err(),
            () = fails => unreachable!("it goes on for ever"),
        };
        let words = "is stuck: the only worker that may evaluate it is set aside: local-0: no space left";
        assert!(ended.to_string().contains(words), "{ended}");
        embedded.stop().await.unwrap();
    }
}
