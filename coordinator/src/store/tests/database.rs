//! Commits, joins and refusals, on files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Engines, Evidence, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobKey};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::Made;
use qslm_common::work::WorkKey;
use qslm_report::{Comparison, Reference, Sample};
use qslm_search::{OnRecord, Tell, Tiered};

use crate::store::tables::META;
use crate::store::whole::TABLES;
use crate::store::{Event, ExperimentRecord, KEPT_EVENTS, Store, StoreError, Write};
use qslm_testing::experiment;

fn counts(nll: u64) -> Evidence {
    let counts = Counts { nll: Nll(nll), scored_tokens: 1, ..Counts::zero(2) };
    Evidence { counts, backing: Engines::from([Fingerprint(nll)]).into() }
}

fn job() -> Job {
    Job::new("test", 10)
}

fn made(number: u8) -> Made {
    Made { artifact: ContentHash::of(&[number]), engines: [Fingerprint(u64::from(number))].into() }
}

fn tell(last: bool) -> Arc<Tell> {
    Arc::new(Tell { candidates: vec!["a".to_owned(), "b".to_owned()], last })
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/store.redb");
    let (a, b) = (TrialKey::of(b"a"), TrialKey::of(b"b"));
    let experiment = experiment(Tiered::default());
    let record = ExperimentRecord::new(0, 2, 0, experiment);
    let open = |shards: &[(Shard, Evidence)]| OnRecord::Shards(shards.iter().cloned().collect());
    let shard = |index, of| Shard { index, of };
    {
        let store = Store::open(&path).unwrap();
        store
            .commit(&[
                Write::Experiment(record.clone()),
                Write::Shard(a, shard(1, 2), counts(1)),
                Write::Shard(a, shard(0, 3), counts(2)),
                Write::Shard(b, shard(0, 2), counts(3)),
                Write::Failure("x".to_owned(), b.into(), "broke".to_owned()),
            ])
            .unwrap();
        assert_eq!(store.epoch(), 1);
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.epoch(), 2);
    assert_eq!(store.experiments().unwrap(), [record]);
    assert_eq!(store.look_up(&[a], 2).unwrap(), [open(&[(shard(1, 2), counts(1))])]);
    assert_eq!(store.failures("x").unwrap(), BTreeMap::from([(b.into(), "broke".to_owned())]));
    assert!(store.failures("xy").unwrap().is_empty());
    // A measured trial needs no shards.
    store.commit(&[Write::Measurement(a, counts(9))]).unwrap();
    let of_b = open(&[(shard(0, 2), counts(3))]);
    assert_eq!(store.look_up(&[a, b], 2).unwrap(), [OnRecord::Measured(counts(9)), of_b]);
    assert_eq!(store.look_up(&[a, b], 3).unwrap(), [OnRecord::Measured(counts(9)), open(&[])]);
    assert_eq!(store.contents().unwrap().shards.len(), 1);
    // Unless somebody races against them.
    let results = BTreeMap::from([(shard(0, 2), counts(4)), (shard(1, 2), counts(5))]);
    store.commit(&[Write::Measurement(a, counts(9)), Write::ShardResults(a, results.clone())]).unwrap();
    assert_eq!(store.shard_results(&a, 2).unwrap(), results);
    assert_eq!(store.shard_results(&a, 3).unwrap(), BTreeMap::new());
    assert_eq!(store.look_up(&[a], 2).unwrap(), [OnRecord::Measured(counts(9))]);
}

#[test]
fn what_is_joined_is_there_after_reopening_conflicts_included() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (TrialKey::of(b"a"), TrialKey::of(b"b"));
    let with = |name: &str, nll: u64| {
        let store = Store::open(&folder.path().join(name)).unwrap();
        let shard = Write::Shard(b, Shard { index: 0, of: 2 }, counts(nll));
        let failure = Write::Failure("x".to_owned(), TrialKey::of(&[nll as u8]).into(), "broke".to_owned());
        let engine = Write::Engine(Fingerprint(nll), format!("engine {nll}"));
        let made = made(nll as u8);
        let bound = Write::Binding("x".to_owned(), job().key(), made.artifact);
        let made = Write::Made(job().key(), made);
        let all =
            [Write::Measurement(a, counts(nll)), shard, failure, engine, Write::Job(job()), made, bound];
        store.commit(&all).unwrap();
        store.contents().unwrap()
    };
    assert_eq!(with("zero", 0).bound_to_conflicts(), BTreeSet::new());
    let mut joined = with("one", 1);
    joined.join(with("two", 2));
    assert_eq!(joined.conflicts().len(), 2);
    let both: Vec<_> = joined.made_differently().map(|(job, artifacts)| (job, artifacts.len())).collect();
    assert_eq!(both, [(job().key(), 2)]);
    assert_eq!(joined.bound_to_conflicts(), BTreeSet::from(["x"]));
    let path = folder.path().join("joined");
    Store::open(&path).unwrap().replace(&joined).unwrap();
    let mut store = Store::open(&path).unwrap();
    assert!(store.was_closed());
    assert_eq!(store.contents().unwrap(), joined);
    assert_eq!(store.look_up(&[a], 1).unwrap(), [OnRecord::Measured(counts(1))], "the lower of the two");
    let least = made(1).artifact.min(made(2).artifact);
    let known = store.made(&[job().key(), JobKey::of(b"another")]).unwrap();
    assert_eq!(known.values().map(|made| made.artifact).collect::<Vec<_>>(), [least], "the smaller hash");
    assert_eq!(store.failures("x").unwrap().len(), 2);
    let engines = [1, 2].map(|number| (Fingerprint(number), format!("engine {number}")));
    assert_eq!(store.engines().unwrap(), BTreeMap::from(engines));
    store.compact().unwrap();
    assert_eq!(store.contents().unwrap(), joined);
}

#[test]
fn what_a_race_runs_against_is_there_in_a_store_that_was_joined() {
    let folder = tempfile::tempdir().unwrap();
    let float = TrialKey::of(b"float");
    let results: BTreeMap<_, _> = (0..3).map(|index| (Shard { index, of: 3 }, counts(4))).collect();
    let store = |name: &str, writes: &[Write]| {
        let store = Store::open(&folder.path().join(name)).unwrap();
        store.commit(writes).unwrap();
        store
    };
    let raced =
        store("raced", &[Write::Measurement(float, counts(12)), Write::ShardResults(float, results.clone())]);
    let begun = store("begun", &[Write::Shard(float, Shard { index: 1, of: 5 }, counts(2))]);
    let contents = raced.contents().unwrap();
    assert_eq!((contents.shards.len(), contents.shard_results.len()), (0, 3));
    for (first, second) in [(&raced, &begun), (&begun, &raced)] {
        let mut joined = first.contents().unwrap();
        joined.join(second.contents().unwrap());
        let path = folder.path().join("joined");
        Store::open(&path).unwrap().replace(&joined).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(
            (store.shard_results(&float, 3).unwrap(), store.contents().unwrap()),
            (results.clone(), joined)
        );
    }
}

#[test]
fn every_table_that_a_change_writes_to_is_a_part_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("one")).unwrap();
    let experiment = experiment(Tiered::default());
    let (id, key, shard) = (experiment.id(), TrialKey::of(b"a"), Shard { index: 0, of: 1 });
    let sample = Sample {
        unix_ms: 1,
        measured: 1,
        front: 1,
        hypervolume: Some(0.5),
        tokens_per_second: 2.0,
        best: None,
    };
    let point = Reference { label: "7".to_owned(), saving: 0.5, quality_loss: 0.125 };
    let comparison = Comparison { source: "optuna".to_owned(), points: vec![point] };
    let changes = [
        Write::Experiment(ExperimentRecord::new(0, 1, 0, experiment)),
        Write::Shard(key, shard, counts(1)),
        Write::Shard(key, shard, counts(2)),
        Write::Measurement(key, counts(1)),
        Write::ShardResults(key, [(shard, counts(1))].into()),
        Write::Engine(Fingerprint(1), "engine".to_owned()),
        Write::Failure(id.clone(), TrialKey::of(b"b").into(), "broke".to_owned()),
        Write::Retry(id.clone(), TrialKey::of(b"b").into()),
        Write::Failure(id.clone(), TrialKey::of(b"b").into(), "broke again".to_owned()),
        Write::Sample(id.clone(), sample),
        Write::Comparison(id.clone(), comparison),
        Write::Job(job()),
        Write::Failure(id.clone(), job().key().into(), "broke".to_owned()),
        Write::Binding(id.clone(), job().key(), made(2).artifact),
        Write::Made(job().key(), made(1)),
        Write::Made(job().key(), made(2)),
        Write::Tell(id.clone(), 1, tell(false)),
        Write::Tell(id.clone(), 2, tell(true)),
        Write::Prune(id.clone(), CandidateId::of(b"c")),
        Write::Event(event(1)),
        Write::Event(event(2)),
    ];
    store.commit(&changes).unwrap();
    let tables = |store: &Store| {
        let counted = store.read(|transaction| {
            Ok(transaction.list_tables()?.count() + transaction.list_multimap_tables()?.count())
        });
        counted.unwrap()
    };
    assert_eq!(store.bindings(&id).unwrap(), BTreeMap::from([(job().key(), made(2).artifact)]));
    let failed: Vec<WorkKey> = store.failures(&id).unwrap().into_keys().collect();
    assert_eq!(failed, [TrialKey::of(b"b").into(), job().key().into()], "jobs are told from trials");
    assert_eq!(store.tells(&id).unwrap(), [tell(false), tell(true)].map(|tell| Tell::clone(&tell)));
    assert_eq!(store.prunes(&id).unwrap(), [CandidateId::of(b"c")].into());
    assert_eq!(tables(&store), TABLES.len() + 1, "and the version with the epoch");
    let contents = store.contents().unwrap();
    let other = Store::open(&folder.path().join("other")).unwrap();
    other.commit(&[Write::Measurement(TrialKey::of(b"c"), counts(3))]).unwrap();
    other.replace(&contents).unwrap();
    assert_eq!(other.contents().unwrap(), contents);
    let mut snapshot = store.snapshot(|| true).unwrap();
    let copy = folder.path().join("copy");
    std::io::copy(&mut snapshot, &mut std::fs::File::create(&copy).unwrap()).unwrap();
    assert_eq!(Store::open_to_read(&copy).unwrap().contents().unwrap(), contents);
    assert_eq!(contents.conflicts().len(), 1);
    assert_eq!((contents.jobs.len(), contents.made_differently().count()), (1, 1));
    let sizes = [contents.engines.len(), contents.failures.len(), contents.retried.len()];
    assert_eq!(sizes, [1, 2, 1]);
    assert_eq!((contents.tells.len(), contents.prunes.len(), contents.events.len()), (2, 1, 2));
    assert_eq!(other.events().unwrap(), [event(1), event(2)]);
    let sizes = [contents.timeline.len(), contents.comparisons.len(), contents.shard_results.len()];
    assert_eq!(sizes, [1, 1, 1]);
}

fn event(number: u64) -> Event {
    Event { number, unix_ms: 1000 + number, experiment: "a-1".to_owned(), text: format!("event {number}") }
}

#[test]
fn the_last_events_are_kept_however_many_there_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.events().unwrap(), []);
    for batch in 0..5 {
        let events: Vec<_> = (1..=50).map(|at| Write::Event(event(batch * 50 + at))).collect();
        store.commit(&events).unwrap();
    }
    drop(store);
    let expected: Vec<_> = (51..=250).map(event).collect();
    assert_eq!(expected.len(), KEPT_EVENTS);
    assert_eq!(Store::open(&path).unwrap().events().unwrap(), expected);
}

#[test]
fn a_store_in_use_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let _first = Store::open(&path).unwrap();
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.ends_with("store.redb: in use by another process"), "{error}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "not a database".repeat(1000)).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Redb { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), "not a database".repeat(1000).as_bytes());
}

#[test]
fn tables_of_another_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    store
        .write(|transaction| {
            transaction.open_table(META)?.insert("format", 7)?;
            Ok(())
        })
        .unwrap();
    drop(store);
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.ends_with("format 7, this version reads format 1"), "{error}");
}
