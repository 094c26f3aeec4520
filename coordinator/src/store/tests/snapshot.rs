//! Snapshots of a store that is written to.

use std::sync::atomic::{AtomicBool, Ordering};

use qslm_common::evidence::Evidence;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::trial::TrialKey;
use qslm_common::work::Made;
use qslm_search::Tiered;
use qslm_testing::experiment;

use crate::store::{ExperimentRecord, SnapshotError, Store, Write};

/// Trials of one commit.
const BATCH: u64 = 64;

/// Says when it is over, also after a failure, for which the writer would not end otherwise.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn trial(number: u64) -> TrialKey {
    TrialKey::of(&number.to_le_bytes())
}

/// Commits of a coordinator under load: some trials each, in the order of their numbers.
fn batch(number: u64) -> Vec<Write> {
    let counts = |nll| Counts { nll: Nll(nll), scored_tokens: 1, ..Counts::zero(2) };
    let trials = number * BATCH..(number + 1) * BATCH;
    let evidence = |trial| Evidence { counts: counts(trial), backing: Default::default() };
    trials.map(|number| Write::Measurement(trial(number), evidence(number))).collect()
}

#[test]
fn it_is_what_one_commit_left_whatever_is_committed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("s.redb")).unwrap();
    let record = ExperimentRecord::new(0, 2, 0, experiment(Tiered::default()));
    let made = Made { artifact: ContentHash::of(b"made"), engines: Default::default() };
    let job = Job::new("ranges", 100);
    let first = [Write::Experiment(record), Write::Job(job.clone()), Write::Made(job.key(), made)];
    store.commit(&first).unwrap();
    let done = AtomicBool::new(false);
    let sizes = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut commits = 0;
            while !done.load(Ordering::Relaxed) {
                store.commit(&batch(commits)).unwrap();
                commits += 1;
            }
            commits
        });
        let is_over = Over(&done);
        let mut sizes = Vec::new();
        // Until results came in between, however slow the disk is.
        for number in 0..1000 {
            if number >= 8 && sizes.first() < sizes.last() {
                break;
            }
            let mut file = store.snapshot(|| true).unwrap();
            let path = folder.path().join(format!("copy-{number}"));
            std::io::copy(&mut file, &mut std::fs::File::create(&path).unwrap()).unwrap();
            let copy = Store::open_to_read(&path).unwrap();
            assert!(copy.was_closed(), "it was closed by whoever wrote it");
            let contents = copy.contents().unwrap();
            let commits = contents.measurements.len() as u64 / BATCH;
            let all: std::collections::BTreeSet<_> = (0..commits * BATCH).map(trial).collect();
            assert_eq!(contents.measurements.keys().copied().collect::<std::collections::BTreeSet<_>>(), all);
            assert_eq!((contents.experiments.len(), contents.made.len(), contents.jobs.len()), (1, 1, 1));
            sizes.push(commits);
        }
        drop(is_over);
        assert!(writer.join().unwrap() >= *sizes.last().unwrap());
        sizes
    });
    assert!(sizes.is_sorted() && sizes.first() < sizes.last(), "results poured in: {sizes:?}");
    // All that there is, of every table.
    let mut file = store.snapshot(|| true).unwrap();
    let path = folder.path().join("last");
    std::io::copy(&mut file, &mut std::fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(Store::open_to_read(&path).unwrap().contents().unwrap(), store.contents().unwrap());
}

#[test]
fn it_ends_when_nobody_wants_it_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let store = Store::open(&path).unwrap();
    (0..40).for_each(|number| store.commit(&batch(number)).unwrap());
    assert!(matches!(store.snapshot(|| false), Err(SnapshotError::GivenUp)));
    drop(store.snapshot(|| true).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "it has no name");
    store.commit(&batch(40)).unwrap();
}
