//! Audit of the files beside a store: which of them are not what the store's experiments need.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use qslm_common::hash::ContentHash;
use serde::Serialize;

use super::artifacts::{ArtifactError, Artifacts};
use super::record::ExperimentRecord;

/// The files beside a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Artifacts that experiments name and that are as they were stored.
    pub intact: u64,
    /// The others, by path.
    pub others: Vec<Found>,
}

/// A file that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Found {
    /// Path of the file, or the one that it would have.
    pub path: String,
    /// Fault of the file.
    pub state: Condition,
    /// The ids of the experiments that name it.
    pub experiments: Vec<String>,
}

/// Fault of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Content is not what its name says.
    Damaged,
    /// An experiment names it, and it is not there.
    Missing,
    /// Stray: no experiment names it, and it takes room.
    Stray,
    /// A disk that fails, or a file that may not be read.
    Unreadable,
}

impl Condition {
    /// The name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Stray => "stray",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Audit {
    /// The files without which an experiment of the store cannot go on, or that are not what their names say.
    pub fn faults(&self) -> impl Iterator<Item = &Found> {
        self.others.iter().filter(|found| found.state != Condition::Stray)
    }
}

impl Artifacts {
    /// Reads every file, and says which are not as `experiments` need them.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn audit<'a>(
        &self,
        experiments: impl IntoIterator<Item = &'a ExperimentRecord>,
    ) -> io::Result<Audit> {
        let mut named = BTreeMap::<ContentHash, Vec<String>>::new();
        for ExperimentRecord { experiment, .. } in experiments {
            for hash in experiment.artifacts() {
                named.entry(hash).or_default().push(experiment.id());
            }
        }
        let mut audit = Audit::default();
        for path in files(self.folder())? {
            let hash = path.file_name().and_then(|name| name.to_str()?.parse::<ContentHash>().ok());
            let experiments = hash.and_then(|hash| named.remove(&hash));
            let state = match hash.map(|hash| self.open(&hash)) {
                Some(Ok(_)) if experiments.is_some() => {
                    audit.intact += 1;
                    continue;
                }
                Some(Err(ArtifactError::Damaged { .. })) => Condition::Damaged,
                Some(Err(_)) => Condition::Unreadable,
                Some(Ok(_)) | None => Condition::Stray,
            };
            let path = path.display().to_string();
            audit.others.push(Found { path, state, experiments: experiments.unwrap_or_default() });
        }
        let missing = named.into_iter().map(|(hash, experiments)| Found {
            path: self.path(&hash).display().to_string(),
            state: Condition::Missing,
            experiments,
        });
        audit.others.extend(missing);
        audit.others.sort();
        Ok(audit)
    }
}

/// The files of a folder; none if it is not there.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use qslm_search::Tiered;

    use super::*;
    use qslm_testing::experiment;

    #[test]
    fn every_file_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::beside(&folder.path().join("s.redb")).unwrap();
        let experiment = experiment(Tiered::default());
        let record = ExperimentRecord::new(0, 1, 0, experiment);
        let id = record.experiment.id();
        let name = |content: &str| ContentHash::of(content.as_bytes()).to_string();
        let put = |name: &str, content: &str| std::fs::write(artifacts.folder().join(name), content).unwrap();
        put(&name("checkpoint"), "checkpoint");
        put(&name("text"), "tex");
        put(&name("nobody's"), "nobody's");
        put(".tmp123", "an upload that never ended");
        let found = |name: &str, state, experiments: &[&String]| Found {
            path: artifacts.folder().join(name).display().to_string(),
            state,
            experiments: experiments.iter().map(|id| (*id).clone()).collect(),
        };
        let mut others = vec![
            found(".tmp123", Condition::Stray, &[]),
            found(&name("text"), Condition::Damaged, &[&id]),
            found(&name("tokenizer"), Condition::Missing, &[&id]),
            found(&name("nobody's"), Condition::Stray, &[]),
        ];
        others.sort();
        let audit = artifacts.audit([&record]).unwrap();
        assert_eq!(audit, Audit { intact: 1, others });
        assert_eq!(audit.faults().count(), 2);
        std::fs::remove_dir_all(artifacts.folder()).unwrap();
        let audit = artifacts.audit([&record]).unwrap();
        assert_eq!((audit.intact, audit.faults().count()), (0, 3), "{audit:?}");
    }
}
