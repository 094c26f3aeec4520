//! `qslm backup`: the store of a running coordinator, with its artifacts, as files of one's own.

use std::path::{Path, PathBuf};

use clap::Args;
use qslm_coordinator::store::Artifacts;
use serde::Serialize;

use super::target::Target;
use crate::backup::{StoreCopy, receive, settle};
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print_data, print_pairs};
use crate::place::OutputPlace;

/// Copy the store of a running coordinator, with every artifact that it names.
///
/// The coordinator goes on meanwhile; what arrives is what one of its commits left. It is received beside FILE, checked as
/// `qslm db check` does, and only then renamed, so FILE is whole or as it was. `qslm list --store FILE` and its like read it,
/// and a coordinator goes on with it. Artifacts that FILE.artifacts has already are not sent again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm backup --to /backup/sweep.redb
  qslm backup --coordinator http://10.0.0.5:7477 --token-file token --to sweep.redb --force
  qslm backup --to sweep.redb --without-inputs

Exit codes: 0 done; 1 an artifact that is damaged, or a disk that is full; 4 FILE is there or in use, or another backup is
under way; 5 no coordinator, or the connection broke; 7 the token is no submitter's; 130 interrupted.")]
pub struct Backup {
    /// The store to write; its artifacts come into FILE.artifacts
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Leave out checkpoints, texts and tokenizers, which their submitter can upload again; what jobs made is always copied
    #[arg(long)]
    without_inputs: bool,
    /// Replace a store that is there and that nobody has open
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed summary; its keys are part of the interface.
#[derive(Serialize)]
struct BackupSummary {
    to: String,
    bytes: u64,
    experiments: usize,
    measurements: usize,
    /// Artifacts of it that are at their place now.
    artifacts: usize,
    /// Number of these that were there already.
    kept: usize,
    /// Bytes of those that came.
    fetched_bytes: u64,
    /// Inputs that were left out.
    left_out: usize,
}

impl Backup {
    /// Copies and prints.
    pub async fn run(self) -> Outcome {
        let interrupted = qslm_program::cancelled_by_signals()?;
        let copied = tokio::select! {
            copied = self.copy() => copied?,
            () = interrupted.cancelled() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
        };
        BackupSummary::new(self.to.display().to_string(), &copied).show(self.output)
    }

    async fn copy(&self) -> Outcome<StoreCopy> {
        let inputs = self.target.files();
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        if let Some(folder) = self.to.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
        }
        let place = OutputPlace::of_copy(&self.to, &inputs, self.force)?;
        let mut client = self.target.connect().await?;
        self.copy_to(&place, &mut client).await
    }

    async fn copy_to(&self, place: &OutputPlace, client: &mut Client) -> Outcome<StoreCopy> {
        let file = place.start()?;
        let beside = place.folder_beside()?;
        // A store in that folder would keep its artifacts there.
        let arriving = Artifacts::of(&beside.path().join("store"));
        std::fs::create_dir(arriving.folder()).map_err(|error| Failure::folder(arriving.folder(), &error))?;
        let there = Artifacts::of(&self.to);
        let has = |hash: &_| tokio::task::block_in_place(|| there.has(hash));
        let copy = receive(client, file.path(), &arriving, !self.without_inputs, has).await?;
        settle(&copy, &arriving, &self.to)?;
        file.finish()?;
        Ok(copy)
    }
}

impl BackupSummary {
    fn new(to: String, copy: &StoreCopy) -> Self {
        Self {
            to,
            bytes: copy.bytes,
            experiments: copy.contents.experiments.len(),
            measurements: copy.contents.measurements.len(),
            artifacts: copy.fetched.len() + copy.kept.len(),
            kept: copy.kept.len(),
            fetched_bytes: copy.fetched_bytes,
            left_out: copy.left_out.len(),
        }
    }

    fn show(&self, output: Output) -> Outcome {
        if output != Output::Table {
            return print_data(output, self);
        }
        let row = |name: &str, value: &dyn std::fmt::Display| (name.to_owned(), value.to_string());
        let mut rows = vec![
            row("store", &self.to),
            row("bytes", &self.bytes),
            row("experiments", &self.experiments),
            row("measurements", &self.measurements),
            row("artifacts", &self.artifacts),
            row("of these there before", &self.kept),
            row("bytes of the others", &self.fetched_bytes),
        ];
        if self.left_out > 0 {
            rows.push(row("inputs left out", &self.left_out));
        }
        print_pairs(&rows)
    }
}
