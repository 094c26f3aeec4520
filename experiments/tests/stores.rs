//! Stores as files: joined, checked, copied, compacted, through the real program.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::work::Made;
use qslm_coordinator::store::{Store, Write};
use serde_json::Value;
use support::{json, refused, succeed};

const PLAIN: &str = "experiments/specs/plain.toml";

/// A small experiment in a store of its own; its front.
fn run(store: &Path, bits: &str) -> String {
    let bits = format!("space.bits={bits}");
    let small = [
        "--set",
        "task.windows=2",
        "--set",
        "strategy={ kind = \"grid\", tier = \"global\" }",
        // The float model's shards are kept, and nobody loses five-fold.
        "--set",
        "racing=confidence:0.95",
        "--set",
        "constraints.max_perplexity_increase=5",
    ];
    succeed(
        &[
            &["run", PLAIN, "--store", store.to_str().unwrap(), "--output", "json", "--set", &bits],
            &small[..],
        ]
        .concat(),
    )
}

fn reconcile(stores: &[&PathBuf], into: &Path) -> Value {
    let mut arguments = vec!["reconcile"];
    arguments.extend(stores.iter().map(|store| store.to_str().unwrap()));
    arguments.extend(["--into", into.to_str().unwrap(), "--output", "json"]);
    json(&arguments)
}

fn front(store: &Path, id: &str) -> String {
    succeed(&["front", id, "--store", store.to_str().unwrap(), "--output", "json"])
}

#[test]
fn stores_are_joined_in_any_order_and_any_number_of_times() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).join("s.redb");
    let (a, b, ab, ba) = (at("a"), at("b"), at("ab"), at("ba"));
    let fronts = [run(&a, "[8, 4]"), run(&b, "[4, 2]")];
    let first = reconcile(&[&a, &b], &ab);
    // The float model and the widths 8, 4 and 2, of which each store had two.
    assert_eq!((first["experiments"].as_u64(), first["measurements"].as_u64()), (Some(2), Some(4)));
    reconcile(&[&b], &ba);
    let second = reconcile(&[&a], &ba);
    let third = reconcile(&[&ab, &a], &ba);
    for key in ["experiments", "measurements", "failures", "conflicts"] {
        assert_eq!(first[key], second[key]);
        assert_eq!(second[key], third[key]);
    }
    let parts = |store: &PathBuf| Store::open(store).unwrap().contents().unwrap().shard_results;
    assert!(!parts(&a).is_empty() && parts(&a).len() == parts(&b).len(), "what the race runs against");
    assert_eq!((parts(&ab), parts(&ba)), (parts(&a), parts(&a)));
    for whole in fronts {
        let id = serde_json::from_str::<Value>(&whole).unwrap()["experiment"].as_str().unwrap().to_owned();
        assert_eq!(front(&ab, &id), whole, "the front of the store it came from");
        assert_eq!(front(&ba, &id), whole);
    }
}

#[test]
fn stores_that_disagree_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).join("s.redb");
    let (a, b, both) = (at("a"), at("b"), at("both"));
    run(&a, "[4]");
    run(&b, "[4]");
    let trial = support::contradict(&b);
    let arguments = ["reconcile", a.to_str().unwrap(), b.to_str().unwrap(), "--into", both.to_str().unwrap()];
    let output = support::qslm(&arguments);
    assert_eq!(output.status.code(), Some(4));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("1 trials have different counts") && errors.contains(&trial), "{errors}");
    // Nothing is lost, and it is not forgotten.
    let checked = support::qslm(&["db", "check", both.to_str().unwrap(), "--output", "json"]);
    assert_eq!(checked.status.code(), Some(4));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["conflicts"], serde_json::json!([trial]));
    assert_eq!(report["measurements"], 2);
}

#[test]
fn jobs_that_made_different_artifacts_are_told_with_the_experiments_that_took_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new("ranges", 100);
    let store = |name: &str| {
        let path = folder.path().join(name).join("s.redb");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let artifact = ContentHash::of(name.as_bytes());
        let made = Made { artifact, engines: BTreeSet::new() };
        let bound = Write::Binding("formula-1".to_owned(), job.key(), artifact);
        let all = [Write::Job(job.clone()), Write::Made(job.key(), made), bound];
        Store::open(&path).unwrap().commit(&all).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (a, b, both) = (store("a"), store("b"), folder.path().join("both.redb"));
    let both = both.to_str().unwrap();
    let output = support::qslm(&["reconcile", &a, &b, "--into", both]);
    assert_eq!(output.status.code(), Some(4));
    let told = String::from_utf8(output.stderr).unwrap();
    let words = format!(
        "1 jobs made different artifacts in different stores, the first is {}; both are kept; formula-1 took the \
         artifact with the smaller hash",
        job.key()
    );
    assert!(told.contains(&words), "{told}");
    let smaller = ContentHash::of(b"a").min(ContentHash::of(b"b"));
    let bindings = Store::open(Path::new(both)).unwrap().bindings("formula-1").unwrap();
    assert_eq!(bindings.into_values().collect::<Vec<_>>(), [smaller]);
}

#[test]
fn a_store_is_checked_copied_and_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let (store, copy) = (folder.path().join("s.redb"), folder.path().join("copy/s.redb"));
    let whole = run(&store, "[4]");
    let id = serde_json::from_str::<Value>(&whole).unwrap()["experiment"].as_str().unwrap().to_owned();
    let (path, to) = (store.to_str().unwrap(), copy.to_str().unwrap());
    let report = json(&["db", "check", path, "--output", "json"]);
    assert_eq!((report["measurements"].as_u64(), report["sound"].as_bool()), (Some(2), Some(true)));
    assert!(succeed(&["db", "check", path]).contains("sound"));
    succeed(&["db", "backup", path, "--to", to]);
    assert!(refused(4, &["db", "backup", path, "--to", to]).contains("is there already"));
    let compacted = json(&["db", "compact", path, "--output", "json"]);
    assert!(compacted["bytes"].as_u64() <= report["bytes"].as_u64());
    assert_eq!((front(&store, &id), front(&copy, &id)), (whole.clone(), whole));
}

#[test]
fn what_is_no_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.redb");
    std::fs::write(&path, "not a database".repeat(1000)).unwrap();
    let into = folder.path().join("into.redb");
    let (path, into) = (path.to_str().unwrap(), into.to_str().unwrap());
    assert!(refused(1, &["db", "check", path]).contains("text.redb"));
    assert!(refused(3, &["db", "compact", "nowhere.redb"]).contains("nowhere.redb: no such file"));
    assert!(refused(3, &["reconcile", "nowhere.redb", "--into", into]).contains("no such file"));
    let held = Store::open(Path::new(into)).unwrap();
    assert!(refused(4, &["db", "check", into]).contains("in use by another process"));
    drop(held);
}

#[test]
fn every_measured_candidate_is_exported_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let path = store.to_str().unwrap();
    // The tiered search, which goes through several generations.
    let document: Value = serde_json::from_str(&succeed(&[
        "run",
        PLAIN,
        "--store",
        path,
        "--set",
        "task.windows=2",
        "--output",
        "json",
    ]))
    .unwrap();
    let rows = succeed(&["export", "plain", "--store", path, "--format", "jsonl"]);
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len() as u64, document["measured"].as_u64().unwrap());
    let ids: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["candidate"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    for front in document["front"].as_array().unwrap() {
        let row = rows.iter().find(|row| row["candidate"] == front["candidate"]).unwrap();
        for key in ["footprint_bytes", "saving", "perplexity", "quality_loss", "firing_rate"] {
            assert_eq!(row[key], front[key], "{key}");
        }
        assert_eq!(row["energy_joules_per_token"], front["costs"]["energy"]);
    }
    assert_eq!((&rows[0]["stage"], &rows[0]["quality_loss"]), (&"sensitivity".into(), &0.0.into()));

    let out = folder.path().join("rows.csv");
    succeed(&["export", "plain", "--store", path, "--out", out.to_str().unwrap()]);
    let csv = std::fs::read_to_string(&out).unwrap();
    let mut lines = csv.lines();
    // Names and order are what other programs rely on.
    let header = "stage,candidate,footprint_bytes,saving,perplexity,accuracy,quality_loss,nll_nats,tokens,hits,\
        sentences,positions,firing_rate,spikes,schemes,macs_per_token,";
    assert!(lines.next().unwrap().starts_with(header));
    assert_eq!(lines.count(), rows.len());
    assert!(refused(3, &["export", "nothing", "--store", path]).contains("no experiment \"nothing\""));
    refused(3, &["export", "plain", "--store", "no/such.redb"]);
}
