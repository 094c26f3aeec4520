//! `qslm reconcile` and `qslm db`: stores as files, while no coordinator has them open.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use qslm_common::job::JobKey;
use qslm_common::trial::TrialKey;
use qslm_coordinator::store::{Artifacts, Audit, Contents, Store};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print_data, print_pairs};
use crate::place::{Made, OutputPlace};

/// Join the results of separate stores: every experiment, measurement and input file of all of them.
///
/// The order does not matter, and joining again changes nothing. Where two stores hold different counts for the same
/// trial both are kept, named, and the exit code is 4. Fronts follow: `qslm front ID --store INTO`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm reconcile north.redb south.redb --into all.redb
  qslm reconcile new.redb --into all.redb")]
pub struct Reconcile {
    /// Stores to read; no coordinator may have them open
    #[arg(value_name = "STORE", required = true)]
    stores: Vec<PathBuf>,
    /// The store to write; what it holds already is kept
    #[arg(long, value_name = "STORE")]
    into: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Check, copy or compact a store.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm db check runs/quickstart.redb
  qslm db backup runs/quickstart.redb --to /backup/quickstart.redb
  qslm db compact runs/quickstart.redb")]
pub struct Db {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Verify the file's structure, every checksum and every record, and the input files beside it; nothing is changed
    Check(OneStore),
    /// Write a consistent copy, with the input files
    Backup {
        #[command(flatten)]
        store: OneStore,
        /// The copy; must not be there yet
        #[arg(long, value_name = "STORE")]
        to: PathBuf,
    },
    /// Give unused space back to the disk
    Compact(OneStore),
}

#[derive(Debug, Args)]
struct OneStore {
    /// The store; no coordinator may have it open
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed summary; its keys are part of the interface.
#[derive(Serialize)]
struct StoreSummary {
    store: String,
    bytes: u64,
    experiments: usize,
    measurements: usize,
    /// Settled shards of trials that are still open.
    shards: usize,
    failures: usize,
    /// Jobs of which an artifact is on record.
    #[serde(skip_serializing_if = "is_zero")]
    made: usize,
    /// Trials for which stores hold different counts.
    conflicts: Vec<TrialKey>,
    /// Jobs of which stores hold different artifacts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made_differently: Vec<JobKey>,
    /// Experiments that are bound to one of these artifacts: the smallest by its hash.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bound_to_conflicts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<bool>,
    /// The input files beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<Audit>,
    /// True if the program that wrote it closed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    was_closed: Option<bool>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Reconcile {
    /// Joins, writes, and prints what is there now.
    pub fn run(self) -> Outcome {
        let mut joined = Contents::default();
        for path in &self.stores {
            joined.join(open_to_read(path)?.contents()?);
        }
        let into = Store::open(&self.into)?;
        joined.join(into.contents()?);
        into.replace(&joined)?;
        for path in &self.stores {
            copy_artifacts(path, &self.into)?;
        }
        drop(into);
        let report = StoreSummary::new(&self.into, &joined, None);
        report.show(self.output)?;
        report.verdict()
    }
}

impl Db {
    /// Does it, and prints what the store holds.
    pub fn run(self) -> Outcome {
        match self.action {
            Action::Check(OneStore { store: path, output }) => {
                let store = open_to_read(&path)?;
                let contents = store.contents()?;
                let artifacts = Artifacts::of(&path);
                let audit =
                    artifacts.audit(&contents).map_err(|error| Failure::file(artifacts.folder(), &error))?;
                let report = StoreSummary::new(&path, &contents, Some(store.was_closed()));
                let report = StoreSummary { artifacts: Some(audit), ..report };
                report.show(output)?;
                report.verdict()
            }
            Action::Backup { store: OneStore { store: path, output }, to } => {
                if let Some(folder) = to.parent() {
                    std::fs::create_dir_all(folder).map_err(|error| Failure::folder(folder, &error))?;
                }
                let place = OutputPlace::vacant(&to, Made::Store, &[&path], false)?;
                let contents = open_to_read(&path)?.contents()?;
                let copy = place.start()?;
                Store::open(copy.path()).and_then(|store| store.replace(&contents))?;
                copy_artifacts(&path, &to)?;
                copy.finish()?;
                StoreSummary::new(&to, &contents, None).show(output)
            }
            Action::Compact(OneStore { store: path, output }) => {
                let mut store = open(&path)?;
                // Space may become free in several steps.
                while store.compact()? {}
                let contents = store.contents()?;
                drop(store);
                StoreSummary::new(&path, &contents, None).show(output)
            }
        }
    }
}

/// Opens a store that has to be there.
pub(super) fn open(path: &Path) -> Outcome<Store> {
    Failure::unless_file(path)?;
    Ok(Store::open(path)?)
}

/// Opens a store that has to be there, and changes nothing of it.
fn open_to_read(path: &Path) -> Outcome<Store> {
    Failure::unless_file(path)?;
    Ok(Store::open_to_read(path)?)
}

/// Gives the store at `to` every input file of the one at `from`.
fn copy_artifacts(from: &Path, to: &Path) -> Outcome {
    let source = Artifacts::of(from);
    let target = Artifacts::beside(to)
        .map_err(|error| Failure::new(Exit::Failure, format!("{}.artifacts: {error}", to.display())))?;
    source.copy_to(&target).map_err(|error| Failure::new(Exit::Failure, error))
}

impl StoreSummary {
    fn new(path: &Path, contents: &Contents, was_closed: Option<bool>) -> Self {
        let mut conflicts: Vec<_> = contents.conflicts().into_iter().map(|(trial, _)| trial).collect();
        conflicts.sort();
        conflicts.dedup();
        Self {
            store: path.display().to_string(),
            bytes: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            experiments: contents.experiments.len(),
            measurements: contents.measurements.len(),
            shards: contents.shards.len(),
            failures: contents.failures.len(),
            made: contents.made.len(),
            conflicts,
            made_differently: contents.made_differently().map(|(job, _)| job).collect(),
            bound_to_conflicts: contents.bound_to_conflicts().into_iter().map(str::to_owned).collect(),
            // What is not ends with an error before there is a report.
            sound: was_closed.map(|_| true),
            was_closed,
            artifacts: None,
        }
    }

    fn show(&self, output: Output) -> Outcome {
        if output != Output::Table {
            return print_data(output, self);
        }
        let row = |name: &str, value: &dyn std::fmt::Display| (name.to_owned(), value.to_string());
        let mut rows = vec![
            row("store", &self.store),
            row("bytes", &self.bytes),
            row("experiments", &self.experiments),
            row("measurements", &self.measurements),
            row("settled shards of open trials", &self.shards),
            row("failed trials", &self.failures),
            row("conflicts", &(self.conflicts.len() + self.made_differently.len())),
        ];
        if self.made > 0 {
            rows.push(row("artifacts that jobs made", &self.made));
        }
        if let Some(was_closed) = self.was_closed {
            let open = "sound; whoever wrote it did not close it, and what was being written is left out";
            rows.push(row("state", &if was_closed { "sound" } else { open }));
        }
        if let Some(Audit { intact, others }) = &self.artifacts {
            rows.push(row("intact input files", intact));
            rows.extend(others.iter().map(|found| row(found.state.name(), &found.path)));
        }
        print_pairs(&rows)
    }

    /// Fails if input files are not there as experiments need them, or if stores disagree.
    fn verdict(&self) -> Outcome {
        let faults: Vec<_> = self.artifacts.iter().flat_map(Audit::faults).collect();
        if let [first, ..] = &faults[..] {
            let (path, state) = (&first.path, first.state.name());
            let whose = match (&first.experiments[..], &first.jobs[..]) {
                ([], []) => String::new(),
                ([], [job, ..]) => format!("; job {job} made it, and makes it again when it is asked for"),
                (ids, _) => format!("; submit or run {} again with the right file", ids.join(", ")),
            };
            let words =
                format!("{} input files are damaged or missing: {path} is {state}{whose}", faults.len());
            return Err(Failure::new(Exit::Failure, words));
        }
        let differ = |what: &str, number: usize, first: &dyn std::fmt::Display| {
            let mut words =
                format!("{number} {what} in different stores, the first is {first}; both are kept");
            if let ids @ [_, ..] = &self.bound_to_conflicts[..] {
                words += &format!("; {} took the artifact with the smaller hash", ids.join(", "));
            }
            Err(Failure::new(Exit::Conflict, words))
        };
        match (&self.conflicts[..], &self.made_differently[..]) {
            ([first, ..], _) => differ("trials have different counts", self.conflicts.len(), first),
            ([], [first, ..]) => differ("jobs made different artifacts", self.made_differently.len(), first),
            ([], []) => Ok(()),
        }
    }
}
