//! Backups of a coordinator that goes on meanwhile, through the real programs.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "waits for what other programs do")]
#![allow(clippy::disallowed_macros, reason = "tells a figure")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::work::Made;
use qslm_coordinator::store::{Artifacts, Store, Write};
use serde_json::Value;
use support::proxy::{Proxy, Weather};
use support::{QSLM, Running, SPEC, TINY, json, program, qslm, refused, succeed};

/// A coordinator on a store, without a live view, and its address.
fn coordinator(store: &Path, more: &[&str]) -> (Running, String) {
    let store = store.to_str().unwrap();
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--store", store]).args(more);
    let mut running = Running::start(&mut command);
    let url = running.url();
    running.read_on();
    (running, url)
}

/// A store with a finished experiment, and a job's artifact of so many bytes.
fn store_with_artifact(folder: &Path, bytes: usize) -> (PathBuf, ContentHash) {
    let path = folder.join("s.redb");
    succeed(&[&["run", SPEC, "--store", path.to_str().unwrap(), "--output", "json"], &TINY[..]].concat());
    let content: Vec<u8> = (0..bytes).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let hash = ContentHash::of(&content);
    let mut writer = Artifacts::beside(&path).unwrap().create(hash).unwrap();
    writer.write(&content).unwrap();
    writer.finish().unwrap();
    let job = Job::new("ranges", bytes as u64);
    let made = Made { artifact: hash, engines: BTreeSet::new() };
    Store::open(&path).unwrap().commit(&[Write::Job(job.clone()), Write::Made(job.key(), made)]).unwrap();
    (path, hash)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn front(store: &Path) -> Value {
    json(&["front", "bench", "--store", store.to_str().unwrap(), "--output", "json"])
}

#[test]
fn a_backup_while_results_pour_in_opens_checks_and_has_the_front_of_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (mut running, url) = coordinator(&at("s.redb"), &[]);
    // Each call hands in 32 results, as those of a worker with so many slots do: calls are what costs.
    let many = ["bench", "load", "--connections", "8", "--slots", "32", "--seconds", "8"];
    let load = [&many[..], &["--coordinator", &url]].concat();
    let mut load = Running::start(Command::new(QSLM).args(load).args(["--output", "json"]));
    let measured = || {
        let output = qslm(&["list", "--coordinator", &url, "--output", "json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all[0]["measured"].as_u64().unwrap_or(0)
    };
    let begun = Instant::now();
    while measured() < 20_000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    let copy = at("copy/b.redb");
    let before = measured();
    let printed =
        json(&["backup", "--coordinator", &url, "--to", copy.to_str().unwrap(), "--output", "json"]);
    let after = measured();
    let taken = printed["measurements"].as_u64().unwrap();
    assert!(before <= taken && taken <= after && before < after, "{before} <= {taken} <= {after}");
    let (code, out, errors) = load.finish();
    assert_eq!(code, Some(0), "no call failed meanwhile: {out} {errors}");
    assert_eq!(running.terminate(), Some(0));
    let checked = json(&["db", "check", copy.to_str().unwrap(), "--output", "json"]);
    assert_eq!((&checked["sound"], &checked["was_closed"]), (&true.into(), &true.into()));
    assert_eq!(checked["measurements"], taken);
    // The original as it was at that commit: without what came later, of which nothing was measured before.
    let kept = Store::open(&copy).unwrap().contents().unwrap().measurements;
    let mut original = Store::open(&at("s.redb")).unwrap().contents().unwrap();
    assert!(original.measurements.len() as u64 > taken, "it went on");
    original.measurements.retain(|trial, _| kept.contains_key(trial));
    assert_eq!(original.measurements, kept);
    let then = at("then.redb");
    Store::open(&then).unwrap().replace(&original).unwrap();
    assert_eq!(front(&copy), front(&then));
    assert_eq!(front(&copy)["measured"], taken);
    println!("taken at {taken} results: {out}");
}

#[test]
fn a_connection_that_is_cut_in_the_middle_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = store_with_artifact(folder.path(), 16 << 20);
    let (_running, url) = coordinator(&store, &[]);
    let proxy = Proxy::start(url.trim_start_matches("http://").parse().unwrap());
    let to = folder.path().join("to");
    std::fs::create_dir(&to).unwrap();
    let through = format!("http://{}", proxy.address);
    let file = to.join("b.redb");
    let cut_while = |is_there: &dyn Fn(&Path) -> bool| {
        proxy.set(Weather::Slow(Duration::from_millis(5)));
        let arguments = ["backup", "--coordinator", &through, "--to", file.to_str().unwrap()];
        let mut backup = Running::start(Command::new(QSLM).args(arguments));
        let begun = Instant::now();
        while !names(&to).iter().any(|name| is_there(&to.join(name))) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", names(&to));
            std::thread::sleep(Duration::from_millis(2));
        }
        proxy.cut();
        let (code, _, errors) = backup.finish();
        assert_eq!(code, Some(5), "{errors}");
        assert!(errors.starts_with("error: coordinator: ") && errors.lines().count() == 1, "{errors}");
        assert_eq!(names(&to), BTreeSet::new());
    };
    // In the middle of the store, and in the middle of the artifact.
    cut_while(&|path| path.is_file() && path.metadata().is_ok_and(|file| file.len() > 0));
    let arriving = |entry: std::fs::DirEntry| entry.metadata().is_ok_and(|file| file.len() > 4 << 20);
    cut_while(&|path| {
        let inside = std::fs::read_dir(path.join("store.artifacts"));
        inside.is_ok_and(|entries| entries.flatten().any(arriving))
    });
    proxy.set(Weather::Fine);
    succeed(&["backup", "--coordinator", &through, "--to", file.to_str().unwrap()]);
    succeed(&["db", "check", file.to_str().unwrap()]);
}

#[test]
fn who_may_not_have_it_what_is_damaged_and_what_is_there_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (store, made) = store_with_artifact(folder.path(), 1000);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (reader, submitter) = ("reader-0123456789abcdef", "submitter-0123456789abcdef");
    std::fs::write(at("tokens"), format!("reader r {reader}\nsubmitter s {submitter}\n")).unwrap();
    std::fs::write(at("reader"), reader).unwrap();
    std::fs::write(at("submitter"), submitter).unwrap();
    let (_running, url) = coordinator(&store, &["--tokens", &at("tokens")]);
    let backup = |to: &str, token: &str, more: &[&str]| -> Vec<String> {
        let all = ["backup", "--coordinator", &url, "--token-file", &at(token), "--to", to];
        all.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
    };
    let refused = |code, arguments: Vec<String>| {
        refused(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let succeed = |arguments: Vec<String>| succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let to = at("b.redb");
    let said = refused(7, backup(&to, "reader", &[]));
    assert!(said.contains("r is a reader; this takes a submitter"), "{said}");
    assert!(!Path::new(&to).exists());
    // Without the inputs, which whoever submitted has: what a job made is there.
    let said = succeed(backup(&to, "submitter", &["--without-inputs"]));
    assert!(said.contains("inputs left out") && said.contains('3'), "{said}");
    assert_eq!(names(Path::new(&at("b.redb.artifacts"))), [made.to_string()].into());
    let listed = json(&["list", "--store", &to, "--output", "json"]);
    assert_eq!((&listed[0]["state"], listed.as_array().unwrap().len()), (&"finished".into(), 1));
    let checked = qslm(&["db", "check", &to]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8(checked.stderr).unwrap().contains("3 input files are damaged or missing"));

    let said = refused(4, backup(&to, "submitter", &[]));
    assert!(said.contains("b.redb: is there already; --force replaces it"), "{said}");
    std::fs::write(at("notes"), "my notes").unwrap();
    let said = refused(4, backup(&at("notes"), "submitter", &["--force"]));
    assert!(said.contains("is there already and is no store"), "{said}");
    let said = refused(4, backup(store.to_str().unwrap(), "submitter", &["--force"]));
    assert!(said.contains("in use by another process"), "the coordinator's own: {said}");
    let said = refused(4, backup(&at("tokens"), "submitter", &["--force"]));
    assert!(said.contains("is no store"), "{said}");
    // What is there already is not sent again; what is damaged there is.
    let damaged = Path::new(&at("b.redb.artifacts")).join(made.to_string());
    std::fs::write(&damaged, "something else").unwrap();
    let printed = succeed(backup(&to, "submitter", &["--force", "--output", "json"]));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["artifacts"], &printed["kept"]), (&4.into(), &0.into()), "{printed}");
    let printed = succeed(backup(&to, "submitter", &["--force", "--output", "json"]));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["kept"], &printed["fetched_bytes"]), (&4.into(), &0.into()), "{printed}");
    support::succeed(&["db", "check", &to]);

    // An artifact that is no longer what it was is no backup.
    std::fs::write(Artifacts::of(&store).folder().join(made.to_string()), "something else").unwrap();
    let other = at("other.redb");
    let said = refused(1, backup(&other, "submitter", &[]));
    assert!(said.contains(&made.to_string()) && said.contains("damaged"), "{said}");
    let left =
        names(folder.path()).into_iter().filter(|name| name.contains("other") || name.contains("part"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn object_storage_is_a_place_for_programs_that_have_it_and_the_others_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = store_with_artifact(folder.path(), 1000);
    let (_running, url) = coordinator(&store, &[]);
    let file = folder.path().join("nightly/b.redb");
    let to = format!("file://{}", file.display());
    let backup = ["backup", "--coordinator", &url, "--to", &to, "--output", "json"];
    if !cfg!(feature = "object-store") {
        assert!(refused(2, &backup).contains("this program was built without object storage"));
        return;
    }
    assert_eq!(json(&backup)["artifacts"], 4);
    succeed(&["db", "check", file.to_str().unwrap()]);
    assert!(refused(4, &backup).contains("b.redb: is there already; --force replaces it"));
    let again = json(&[&backup[..], &["--force"]].concat());
    assert_eq!((&again["kept"], &again["fetched_bytes"]), (&4.into(), &0.into()));
}
