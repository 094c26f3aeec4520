//! Audit of the files beside a store: which of them are not what the store's experiments need, or what its jobs made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use serde::Serialize;

use super::artifacts::{ArtifactError, Artifacts};
use super::contents::Contents;

/// The files beside a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Artifacts that experiments name or jobs made, and that are as they were stored.
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
    /// Jobs that made it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobKey>,
}

/// Fault of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Content is not what its name says.
    Damaged,
    /// An experiment names it, or a job made it, and it is not there.
    Missing,
    /// Stray: no experiment names it, no job made it, and it takes room.
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

/// Owners of an artifact: the ids of the experiments that name it, and the jobs that made it.
type Owners = (Vec<String>, Vec<JobKey>);

impl Contents {
    /// Artifacts that experiments name or jobs made.
    fn named(&self) -> BTreeMap<ContentHash, Owners> {
        let mut named = BTreeMap::<ContentHash, Owners>::new();
        for record in self.experiments.values() {
            for hash in record.experiment.artifacts() {
                named.entry(hash).or_default().0.push(record.experiment.id());
            }
        }
        for (job, artifacts) in &self.made {
            for hash in artifacts.keys() {
                named.entry(*hash).or_default().1.push(*job);
            }
        }
        named
    }

    /// Artifacts that whoever has this store needs; false for an input, which a submitter has and can upload again, and
    /// true for what a job made.
    pub fn artifacts(&self) -> BTreeMap<ContentHash, bool> {
        self.named().into_iter().map(|(hash, (_, jobs))| (hash, !jobs.is_empty())).collect()
    }
}

impl Artifacts {
    /// Reads every file, and says which are not as what is on record needs them.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn audit(&self, contents: &Contents) -> io::Result<Audit> {
        let mut named = contents.named();
        let mut audit = Audit::default();
        for path in files(self.folder())? {
            let hash = path.file_name().and_then(|name| name.to_str()?.parse::<ContentHash>().ok());
            let owners = hash.and_then(|hash| named.remove(&hash));
            let state = match hash.map(|hash| self.open(&hash)) {
                Some(Ok(_)) if owners.is_some() => {
                    audit.intact += 1;
                    continue;
                }
                Some(Err(ArtifactError::Damaged { .. })) => Condition::Damaged,
                Some(Err(_)) => Condition::Unreadable,
                Some(Ok(_)) | None => Condition::Stray,
            };
            let path = path.display().to_string();
            let (experiments, jobs) = owners.unwrap_or_default();
            audit.others.push(Found { path, state, experiments, jobs });
        }
        let missing = named.into_iter().map(|(hash, (experiments, jobs))| Found {
            path: self.path(&hash).display().to_string(),
            state: Condition::Missing,
            experiments,
            jobs,
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
    use qslm_common::evidence::Engines;
    use qslm_search::Tiered;

    use super::*;
    use crate::store::contents::MadeVariants;
    use crate::store::record::ExperimentRecord;
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
        put(&name("made"), "made");
        let job = |name: &str| JobKey::of(name.as_bytes());
        let found = |name: &str, state, experiments: &[&String]| Found {
            path: artifacts.folder().join(name).display().to_string(),
            state,
            experiments: experiments.iter().map(|id| (*id).clone()).collect(),
            jobs: Vec::new(),
        };
        let lost = Found { jobs: vec![job("lost")], ..found(&name("lost"), Condition::Missing, &[]) };
        let mut others = vec![
            found(".tmp123", Condition::Stray, &[]),
            found(&name("text"), Condition::Damaged, &[&id]),
            found(&name("tokenizer"), Condition::Missing, &[&id]),
            found(&name("nobody's"), Condition::Stray, &[]),
            lost,
        ];
        others.sort();
        let made = |name: &str| {
            let artifact = ContentHash::of(name.as_bytes());
            (job(name), MadeVariants::from([(artifact, Engines::new())]))
        };
        let contents = Contents {
            experiments: [(id.clone(), record)].into(),
            made: ["made", "lost"].map(made).into(),
            ..Contents::default()
        };
        let audit = artifacts.audit(&contents).unwrap();
        assert_eq!(audit, Audit { intact: 2, others });
        assert_eq!(audit.faults().count(), 3);
        let made: Vec<bool> = contents.artifacts().into_values().collect();
        assert_eq!((made.len(), made.iter().filter(|made| **made).count()), (5, 2), "and three inputs");
        std::fs::remove_dir_all(artifacts.folder()).unwrap();
        let audit = artifacts.audit(&contents).unwrap();
        assert_eq!((audit.intact, audit.faults().count()), (0, 5), "{audit:?}");
    }
}
