//! Damage: files that disks, copies or people broke. Whoever opens one hears so in one line, or reads what was written; nobody
//! panics, and nobody changes the file.

use std::path::Path;

use qslm_common::evidence::{Engines, Evidence, Fingerprint};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_report::Sample;
use qslm_search::Tiered;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::store::{Contents, ExperimentRecord, Store, StoreError, Write};
use crate::{Coordinator, Options};
use qslm_testing::experiment;

const PAGE: usize = 4096;

fn counts(nll: u64) -> Evidence {
    let counts = Counts { nll: Nll(nll), scored_tokens: 1, processed_tokens: 1, ..Counts::zero(40) };
    Evidence { counts, backing: Engines::from([Fingerprint(1)]).into() }
}

/// A store with something in every table, of several hundred pages: its file as it lies there while it is open, and after it
/// was closed; and what it held before and after the last commit.
fn make(path: &Path) -> ([Vec<u8>; 2], [Contents; 2]) {
    let store = Store::open(path).unwrap();
    let trial = |number: u64| TrialKey::of(&number.to_le_bytes());
    let record = ExperimentRecord::new(0, 2, 0, experiment(Tiered::default()));
    let id = record.experiment.id();
    let mut writes = vec![Write::Experiment(record), Write::Engine(Fingerprint(1), "engine".to_owned())];
    for number in 0..1500 {
        writes.push(Write::Measurement(trial(number), counts(number)));
        writes.push(Write::Shard(trial(10_000 + number), Shard { index: 0, of: 2 }, counts(number)));
        let sample = Sample {
            unix_ms: number,
            measured: number,
            front: 1,
            hypervolume: None,
            tokens_per_second: 1.0,
            best: None,
        };
        writes.push(Write::Sample(id.clone(), sample));
    }
    store.commit(&writes).unwrap();
    let before = store.contents().unwrap();
    // Another count for a shard is a conflict.
    let conflict = Write::Shard(trial(10_000), Shard { index: 0, of: 2 }, counts(77));
    store.commit(&[conflict, Write::Failure(id, trial(5).into(), "broke".to_owned())]).unwrap();
    let after = store.contents().unwrap();
    let open = std::fs::read(path).unwrap();
    drop(store);
    ([open, std::fs::read(path).unwrap()], [before, after])
}

/// Breaks a file; says how.
fn harm(file: &mut Vec<u8>, rng: &mut ChaCha8Rng) -> String {
    let page = rng.random_range(0..file.len() / PAGE);
    let (start, end) = (page * PAGE, (page + 1) * PAGE);
    match rng.random_range(0..7) {
        0 => {
            file[start..end].fill(0);
            format!("page {page} zeroed")
        }
        1 => {
            let (at, bit) = (rng.random_range(start..end), rng.random_range(0..8));
            file[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        2 => {
            let at = rng.random_range(1..file.len());
            file.truncate(at);
            format!("cut to {at} bytes")
        }
        3 => {
            let other = rng.random_range(0..file.len() / PAGE) * PAGE;
            file.copy_within(other..other + PAGE, start);
            format!("page {page} is that at {other}")
        }
        4 => {
            rng.fill(&mut file[start..end]);
            format!("page {page} is noise")
        }
        5 => {
            let more = rng.random_range(1..3 * PAGE);
            file.resize(file.len() + more, rng.random_range(0..=255));
            format!("grown by {more} bytes")
        }
        _ => {
            // The header is what everything hangs on.
            let at = rng.random_range(0..320);
            file[at] = rng.random_range(0..=255);
            format!("byte {at} of the header is {}", file[at])
        }
    }
}

fn in_one_line(error: &dyn std::error::Error, what: &str) {
    let words = error.to_string();
    assert!(words.contains("s.redb: ") && !words.contains('\n'), "{what}: {words:?}");
}

#[test]
fn a_damaged_store_is_refused_in_one_line_or_reads_as_it_was_written_and_its_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (files, states) = make(&path);
    let (mut refused, mut read) = (0, 0);
    for seed in 0..160 {
        let mut broken = files[seed as usize % 2].clone();
        let what = format!("seed {seed}: {}", harm(&mut broken, &mut ChaCha8Rng::seed_from_u64(seed)));
        std::fs::write(&path, &broken).unwrap();
        let looked = Store::open_to_read(&path).and_then(|store| store.contents());
        assert!(std::fs::read(&path).unwrap() == broken, "{what}: reading changed the file");
        match &looked {
            Ok(contents) => assert!(states.contains(contents), "{what}: other contents"),
            Err(error) => in_one_line(error, &what),
        }
        match Store::open(&path) {
            Ok(store) => {
                assert!(looked.is_ok(), "{what}: opened, but not to read");
                assert!(states.contains(&store.contents().unwrap()), "{what}: other contents after opening");
                read += 1;
            }
            Err(error) => {
                in_one_line(&error, &what);
                assert!(std::fs::read(&path).unwrap() == broken, "{what}: a refused store was changed");
                let coordinator = Coordinator::open(&path, Options::default());
                in_one_line(&coordinator.err().unwrap(), &what);
                refused += 1;
            }
        }
    }
    assert!(refused > 20 && read > 4, "{refused} refused, {read} read");
}

#[test]
fn a_store_that_was_not_closed_is_read_without_being_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("s.redb"), folder.path().join("copy.redb"));
    drop(Store::open(&path).unwrap());
    let store = Store::open(&path).unwrap();
    store.commit(&[Write::Measurement(TrialKey::of(b"a"), counts(3))]).unwrap();
    let contents = store.contents().unwrap();
    // As it lies on the disk while a program has it open.
    std::fs::copy(&path, &copy).unwrap();
    drop(store);
    let bytes = std::fs::read(&copy).unwrap();
    let found = Store::open_to_read(&copy).unwrap();
    assert!(!found.was_closed());
    assert_eq!(found.contents().unwrap(), contents);
    // What is written to it is there as long as it is open.
    found.commit(&[Write::Measurement(TrialKey::of(b"b"), counts(4))]).unwrap();
    assert_eq!(found.contents().unwrap().measurements.len(), 2);
    drop(found);
    assert!(std::fs::read(&copy).unwrap() == bytes);
    assert!(Store::open_to_read(&path).unwrap().was_closed());
}

#[test]
fn any_number_may_read_and_nobody_writes_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let writer = Store::open(&path).unwrap();
    assert!(matches!(Store::open_to_read(&path), Err(StoreError::InUse(_))));
    drop(writer);
    let readers = [Store::open_to_read(&path).unwrap(), Store::open_to_read(&path).unwrap()];
    assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
    drop(readers);
    assert!(Store::open(&path).is_ok());
}
