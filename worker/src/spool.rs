//! Spool: results that wait on disk for a coordinator that is away. They outlive the worker: the next one with this folder
//! delivers them. Results are deterministic and filed by trial, so delivering one twice does no harm.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use qslm_proto::convert;
use qslm_proto::v1::{ShardReport, shard_report};

/// A folder with a file per result.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
}

/// The ending of finished files.
const RESULT: &str = "result";

impl Spool {
    /// A spool in `folder`, made if it is not there.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Keeps a measured result; returns whether it is one. A failure is not kept: it means something under its lease only.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub fn put(&self, report: &ShardReport) -> io::Result<bool> {
        if !is_measured(report) {
            return Ok(false);
        }
        // Somebody may have tidied up.
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&report.encode_to_vec())?;
        file.as_file().sync_all()?;
        file.persist(self.path(report)).map_err(|error| error.error)?;
        Ok(true)
    }

    /// Forgets a result that the coordinator has.
    pub fn remove(&self, report: &ShardReport) {
        // Another worker with the same spool may have been faster.
        let _ = fs::remove_file(self.path(report));
    }

    /// Spooled results. One that cannot be read is logged and thrown away: it will be measured again.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn load(&self) -> io::Result<Vec<ShardReport>> {
        let mut reports = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != RESULT) {
                continue;
            }
            match fs::read(&path).map(|bytes| ShardReport::decode(&bytes[..])) {
                Ok(Ok(report)) if is_filed(&report) => reports.push(report),
                _ => {
                    tracing::warn!(file = %path.display(), "cannot read a result that was kept; it is thrown away");
                    fs::remove_file(&path)?;
                }
            }
        }
        reports.sort_by(|a, b| (&a.trial, a.index).cmp(&(&b.trial, b.index)));
        Ok(reports)
    }

    fn path(&self, report: &ShardReport) -> PathBuf {
        self.folder.join(format!("{}-{}-of-{}.{RESULT}", trial_name(report), report.index, report.of))
    }
}

/// True if a report brings counts.
pub(crate) fn is_measured(report: &ShardReport) -> bool {
    matches!(report.outcome, Some(shard_report::Outcome::Counts(_)))
}

/// The trial of a report as people and files name it; empty if it names none.
pub(crate) fn trial_name(report: &ShardReport) -> String {
    convert::hash("trial", &report.trial).map_or(String::new(), String::from)
}

/// The job of a report that brings its artifact, as people name it.
pub(crate) fn job_name(report: &ShardReport) -> Option<String> {
    let made = matches!(report.outcome, Some(shard_report::Outcome::Artifact(_)));
    made.then(|| convert::hash("job", &report.job).map_or(String::new(), String::from))
}

/// True if a report is of a trial and a shard, as every one is that was kept. The coordinator refuses a worker that sends
/// anything else.
fn is_filed(report: &ShardReport) -> bool {
    let trial = convert::hash("trial", &report.trial);
    trial.is_ok() && convert::shard(report.index, report.of).is_ok() && is_measured(report)
}

#[cfg(test)]
mod tests {
    use qslm_proto::v1::{Counts, ShardFailure};

    use super::*;

    fn report(index: u32) -> ShardReport {
        let counts = Counts { nll: 5, tokens: 1, ..Counts::default() };
        let outcome = Some(shard_report::Outcome::Counts(counts));
        ShardReport {
            lease: 7,
            trial: vec![171; 32],
            index,
            of: 3,
            outcome,
            seconds: 0.5,
            engine: String::new(),
            job: Vec::new(),
        }
    }

    #[test]
    fn what_was_put_is_there_for_the_next_worker_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("spool")).unwrap();
        for index in [2, 0, 2] {
            spool.put(&report(index)).unwrap();
        }
        let next = Spool::open(&folder.path().join("spool")).unwrap();
        assert_eq!(next.load().unwrap(), [report(0), report(2)]);
        next.remove(&report(0));
        next.remove(&report(0));
        assert_eq!(spool.load().unwrap(), [report(2)]);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let failure = shard_report::Outcome::Failure(ShardFailure::default());
        spool.put(&ShardReport { outcome: Some(failure), ..report(0) }).unwrap();
        assert!(spool.load().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_thrown_away_and_the_rest_is_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        spool.put(&report(0)).unwrap();
        spool.put(&report(1)).unwrap();
        fs::write(spool.path(&report(0)), [255; 9]).unwrap();
        // No bytes at all are a message without a trial.
        fs::write(spool.path(&report(2)), []).unwrap();
        // What was being written when a worker died.
        fs::write(folder.path().join(".tmp123"), [1]).unwrap();
        assert_eq!(spool.load().unwrap(), [report(1)]);
        assert!(!spool.path(&report(0)).exists());
    }
}
