//! `qslm backup`: the store of a running coordinator, with its artifacts, as files of one's own.

use std::path::{Path, PathBuf};

use clap::Args;
use qslm_coordinator::store::Artifacts;
use serde::Serialize;

use super::target::Target;
use crate::backup::{StoreCopy, receive, settle};
use crate::exit::{Failure, Outcome, unless};
use crate::object::ObjectPlace;
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
  AWS_REGION=eu-central-1 qslm backup --to s3://backups/sweep.redb

Keys of object storage are taken from the environment, as its provider's tools do: AWS_*, GOOGLE_*, AZURE_*.

Exit codes: 0 done; 1 an artifact that is damaged, or a disk that is full; 4 FILE is there or in use, or another backup is
under way; 5 no coordinator or object storage, or the connection broke; 7 the token is no submitter's, or a key is refused;
130 interrupted.")]
pub struct Backup {
    /// The store to write, with its artifacts in FILE.artifacts; or where in object storage: s3://BUCKET/PATH,
    /// gs://BUCKET/PATH, az://CONTAINER/PATH, file:///PATH
    #[arg(long, value_name = "FILE")]
    to: String,
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
        let copied = unless(&interrupted, self.copy()).await?;
        BackupSummary::new(self.to.clone(), &copied).show(self.output)
    }

    async fn copy(&self) -> Outcome<StoreCopy> {
        match ObjectPlace::parse("--to", &self.to)? {
            Some(place) => self.copy_to_objects(&place).await,
            None => self.copy_to_files(Path::new(&self.to)).await,
        }
    }

    /// By way of this machine, where all of it is checked before anything is sent on.
    async fn copy_to_objects(&self, place: &ObjectPlace) -> Outcome<StoreCopy> {
        place.refuse_taken(self.force).await?;
        let mut client = self.target.connect().await?;
        let there = place.artifacts().await?;
        let folder = tempfile::tempdir().map_err(|error| Failure::folder(&std::env::temp_dir(), &error))?;
        let store = folder.path().join("store");
        let arriving = arriving_in(folder.path())?;
        let has = |hash: &_| there.contains(hash);
        let copy = receive(&mut client, &store, &arriving, !self.without_inputs, has).await?;
        for hash in &copy.fetched {
            place.put_artifact(hash, &arriving.folder().join(hash.to_string())).await?;
        }
        // Another may have been quicker.
        place.refuse_taken(self.force).await?;
        place.put_store(&store).await?;
        Ok(copy)
    }

    async fn copy_to_files(&self, to: &Path) -> Outcome<StoreCopy> {
        let inputs = self.target.files();
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
        }
        let place = OutputPlace::of_copy(to, &inputs, self.force)?;
        let mut client = self.target.connect().await?;
        let file = place.start()?;
        let beside = place.folder_beside()?;
        let arriving = arriving_in(beside.path())?;
        let there = Artifacts::of(to);
        let has = |hash: &_| tokio::task::block_in_place(|| there.has(hash));
        let copy = receive(&mut client, file.path(), &arriving, !self.without_inputs, has).await?;
        settle(&copy, &arriving, to)?;
        file.finish()?;
        Ok(copy)
    }
}

/// Place in a folder for artifacts that arrive.
fn arriving_in(folder: &Path) -> Outcome<Artifacts> {
    // A store of that name would keep its artifacts there.
    let arriving = Artifacts::of(&folder.join("store"));
    std::fs::create_dir(arriving.folder()).map_err(|error| Failure::folder(arriving.folder(), &error))?;
    Ok(arriving)
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
