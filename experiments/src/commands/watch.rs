//! `qslm watch`: follow an experiment until it has ended.

use clap::Args;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{ExperimentStatus, GetRequest};

use super::run::Finished;
use super::target::Target;
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::progress::Progress;

/// Follow an experiment until it has ended, then print its front.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qslm watch quickstart-1a2b3c4d5e6f")]
pub struct Watch {
    /// The experiment's id, or the beginning of it
    experiment: String,
    #[command(flatten)]
    target: Target,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl Watch {
    /// Watches and prints.
    pub async fn run(self) -> Outcome {
        follow(&mut self.target.connect().await?, &self.experiment, self.output).await
    }
}

/// Follows an experiment until it has ended, then prints its front and fails if it did not end well.
pub(super) async fn follow(client: &mut Client, id: &str, output: Output) -> Outcome {
    let interrupted = qslm_program::cancelled_by_signals()?;
    let status = tokio::select! {
        status = until_ended(client, id) => status?,
        () = interrupted.cancelled() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    let finished = Finished::read(client, &status.id).await?;
    finished.show(output)?;
    if status.state() == State::Cancelled {
        return Err(Failure::new(Exit::Unmet, format!("{} was cancelled", status.id)));
    }
    finished.verdict()
}

/// Shows progress until the experiment has ended.
pub(super) async fn until_ended(client: &mut Client, id: &str) -> Outcome<ExperimentStatus> {
    let mut progress = Progress::new();
    let mut stream = client.watch(GetRequest { experiment: id.to_owned() }).await?.into_inner();
    while let Some(status) = stream.message().await? {
        if matches!(status.state(), State::Finished | State::Cancelled) {
            progress.finish();
            return Ok(status);
        }
        progress.show(&status);
    }
    Err(Failure::new(Exit::Unavailable, "the coordinator stopped"))
}
