//! `qslm watch`: follow an experiment until it has ended, or look at all of them.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{CollectRequest, ListRequest};
use tokio_util::sync::CancellationToken;

use super::target::{self, Target};
use crate::client::{Client, connect};
use crate::exit::{Exit, Failure, Outcome, unless};
use crate::finished::{Finished, WhenStuck, until_ended};
use crate::making::Maker;
use crate::output::Output;
use crate::patience::Patience;
use crate::result_files::ResultsPlace;
use crate::screen::{self, Left};
use crate::spec::Resolved;

/// Time between two looks at all experiments where there is no terminal to draw on.
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
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name [default: all experiments]
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
        let (connector, patience) = self.target.way_within(target::PATIENCE)?;
        let mut client = connect(&connector, patience).await?;
        let can_draw = std::io::stdout().is_terminal()
            && std::io::stdin().is_terminal()
            && tracing::enabled!(tracing::Level::WARN);
        if can_draw && !self.plain {
            let address = connector.url().to_owned();
            match screen::run(&mut client, address, self.experiment.as_deref()).await? {
                Left::Quit => return Ok(()),
                Left::Interrupted => return Err(Failure::interrupted()),
                Left::Ended => {}
            }
        }
        match &self.experiment {
            Some(id) => {
                let patience = Patience::new(&connector, patience);
                let interrupted = qslm_program::cancelled_by_signals()?;
                let watched = Watched { id, when_stuck: WhenStuck::Wait, submitted: None };
                watched.follow(&mut client, &patience, self.output, &interrupted).await
            }
            None => follow_all(&mut client).await,
        }
    }
}

/// What a submitter knows of the experiment that it waits for.
pub(super) struct Submitted<'a> {
    pub resolved: &'a Resolved,
    /// Maker of what is measured at the end, such as what was chosen on the data that the spec held out.
    pub maker: &'a dyn Maker,
    /// Place for files with the results, if they are wanted.
    pub results: Option<ResultsPlace>,
}

/// An experiment that somebody waits for.
pub(super) struct Watched<'a> {
    pub id: &'a str,
    pub when_stuck: WhenStuck,
    /// What its submitter knows, if it is the submitter who waits.
    pub submitted: Option<Submitted<'a>>,
}

impl Watched<'_> {
    /// Follows it until it has ended, over restarts of the coordinator, then prints its front and fails if it did not end well.
    pub(super) async fn follow(
        self,
        client: &mut Client,
        patience: &Patience<'_>,
        output: Output,
        interrupted: &CancellationToken,
    ) -> Outcome {
        let Self { id, when_stuck, submitted } = self;
        let ended = patience.call(client, async |client| until_ended(client, id, when_stuck).await);
        let status = unless(interrupted, ended).await?;
        let read = patience.call(client, async |client| Finished::read(client, &status.id).await);
        let finished = unless(interrupted, read).await?;
        match submitted {
            Some(Submitted { resolved, maker, results }) => {
                let more = tokio::task::block_in_place(|| finished.with_more(resolved, maker))?;
                if let Some(place) = results {
                    let front = finished.json_with(&more)?;
                    let write =
                        async |client: &mut Client| place.write(client, &status.id, resolved, &front).await;
                    unless(interrupted, patience.call(client, write)).await?;
                }
                finished.show_with_more(output, &more, resolved)?;
                // A coordinator that does not know the call runs until somebody stops it.
                drop(client.collect(CollectRequest { experiment: status.id.clone() }).await);
            }
            None => finished.show(output)?,
        }
        if status.state() == State::Cancelled {
            return Err(Failure::new(Exit::Unmet, format!("{} was cancelled", status.id)));
        }
        finished.verdict()
    }
}

/// A line on standard error for every change of an experiment's stage or state, until none is under way.
async fn follow_all(client: &mut Client) -> Outcome {
    let interrupted = qslm_program::cancelled_by_signals()?;
    let mut shown: Vec<(String, State, String)> = Vec::new();
    let mut due = tokio::time::interval(OFTEN);
    loop {
        unless(&interrupted, async { Ok(due.tick().await) }).await?;
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
