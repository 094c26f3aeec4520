//! Real workers with broken machines beside a healthy one: a full disk, a cache that somebody removes or damages, too little
//! memory. Whatever is wrong with them, no trial fails that a healthy worker can measure, and the front is the same to the
//! byte. And what has failed can be run again.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qslm_coordinator::store::Store;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Running, json, program, qslm, succeed};

const SPEC: &str = "experiments/specs/plain.toml";
/// Two windows of 32 tokens.
const TINY: [&str; 8] = [
    "--set",
    "task.window=32",
    "--set",
    "task.windows=2",
    "--set",
    "run.shards=2",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];
/// A file may not be larger than 4 kB, which every artifact is: what a full disk does to a worker.
const FULL: &str = "-f 4";
/// Address space in kilobytes that is enough to start and to ask for work, and too little to evaluate.
const SMALL: &str = "-v 60000";
const PATIENCE: Duration = Duration::from_secs(120);

/// A coordinator on a port of its own, what it says, and its address.
fn coordinator(folder: &Path) -> (Running, Arc<Mutex<String>>, String) {
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--lease-ttl-s", "1", "--store"]);
    let mut coordinator = Running::start(command.arg(folder.join("s.redb")));
    let url = coordinator.url();
    let log = coordinator.keep_log();
    (coordinator, log, url)
}

/// A worker behind a limit of the shell, such as `-v 100000`.
fn worker(url: &str, name: &str, cache: &Path, limit: &str) -> Running {
    // On two cores, so that the threads of a large machine do not fill a small one.
    let limited =
        if limit.is_empty() { "exec".to_owned() } else { format!("ulimit {limit} && exec taskset -c 0,1") };
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{limited} \"$0\" \"$@\"")]).arg(program("qslm-worker"));
    command.args(["--coordinator", url, "--slots", "2", "--name", name, "--cache-dir"]).arg(cache);
    let mut worker = Running::start(&mut command);
    worker.read_on();
    worker
}

fn submit(url: &str) -> String {
    let arguments = [&["submit", SPEC, "--coordinator", url], &TINY[..]].concat();
    succeed(&arguments).trim().to_owned()
}

fn get(url: &str, id: &str) -> serde_json::Value {
    json(&["get", id, "--coordinator", url, "--output", "json"])
}

/// The front of the same experiment in one process, undisturbed.
fn reference(folder: &Path) -> String {
    let store = folder.join("reference.redb");
    let arguments = ["run", SPEC, "--store", store.to_str().unwrap(), "--output", "json"];
    succeed(&[&arguments, &TINY[..]].concat())
}

/// Asks for the experiment until it is so.
fn wait_until(
    url: &str,
    id: &str,
    what: &str,
    is_so: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let begun = Instant::now();
    loop {
        let status = get(url, id);
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "never {what}: {status}");
    }
}

/// Flips a bit in every artifact of a cache, or removes it altogether.
fn harm(cache: &Path, rng: &mut ChaCha8Rng) {
    if rng.random_range(0..2) == 0 {
        let _ = std::fs::remove_dir_all(cache);
        return;
    }
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        if let Ok(mut bytes) = std::fs::read(entry.path())
            && !bytes.is_empty()
        {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1;
            let _ = std::fs::write(entry.path(), bytes);
        }
    }
}

/// One experiment of which broken workers take the first shards.
fn round(seed: u64, reference: &str) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (mut coordinator, log, url) = coordinator(folder.path());
    let id = submit(&url);
    let cache = |name: &str| folder.path().join(format!("cache-{name}"));
    let mut kinds = [("full", FULL), ("small", SMALL)];
    kinds.shuffle(&mut rng);
    let mut broken: Vec<(&str, &str, Running)> = Vec::new();
    for (name, limit) in kinds {
        broken.push((name, limit, worker(&url, name, &cache(name), limit)));
    }
    // Each of them has had work, and could not do it.
    let begun = Instant::now();
    let fault = |name: &str| {
        log.lock().unwrap().contains(&format!("a worker cannot measure, it pauses worker=\"{name}\""))
    };
    while !kinds.iter().all(|(name, _)| fault(name)) {
        assert!(begun.elapsed() < PATIENCE, "seed {seed}: {}", log.lock().unwrap());
        std::thread::yield_now();
    }
    let _harmed = worker(&url, "harmed", &cache("harmed"), "");
    let _healthy = worker(&url, "healthy", &cache("healthy"), "");
    loop {
        let status = get(&url, &id);
        assert_eq!(status["failed"], 0, "seed {seed}: {status}");
        if status["state"] == "finished" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "seed {seed}: {status}");
        harm(&cache("harmed"), &mut rng);
        for (name, limit, running) in &mut broken {
            // As a StatefulSet does: the same name again.
            if running.child.try_wait().unwrap().is_some() {
                *running = worker(&url, name, &cache(name), limit);
            }
        }
    }
    let front = succeed(&["front", &id, "--coordinator", &url, "--output", "json"]);
    assert!(front == reference, "seed {seed}: another front: {front}");
    drop(broken);
    assert_eq!(coordinator.terminate(), Some(0));
}

#[test]
fn broken_machines_beside_a_healthy_one_change_no_front() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference(folder.path());
    (1..=2).for_each(|seed| round(seed, &reference));
}

#[test]
#[ignore = "the long form: 40 seeds; see CONTRIBUTING.md"]
fn broken_machines_beside_a_healthy_one_change_no_front_however_they_meet() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference(folder.path());
    (100..140).for_each(|seed| round(seed, &reference));
}

#[test]
fn an_experiment_is_stuck_with_the_reason_until_a_worker_comes_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference(folder.path());
    let (_coordinator, _, url) = coordinator(folder.path());
    let arguments =
        [&["submit", SPEC, "--wait", "--output", "json", "--coordinator", &url], &TINY[..]].concat();
    let mut waiting = Running::start(Command::new(support::QSLM).args(arguments));
    let full = worker(&url, "full", &folder.path().join("cache-full"), FULL);
    let said = waiting.wait_for("is stuck, waiting: ");
    assert!(
        said.contains("the only worker that may evaluate it is set aside: full: artifact cache "),
        "{said}"
    );
    let id = json(&["list", "--coordinator", &url, "--output", "json"])[0]["id"].as_str().unwrap().to_owned();
    let status = get(&url, &id);
    assert_eq!((&status["state"], &status["set_aside_workers"]), (&"stuck".into(), &1.into()));
    assert!(succeed(&["list", "--coordinator", &url]).contains(&format!("{id} is stuck: the only worker")));
    // Its leases are few: it does not even get those that it could fail.
    let _healthy = worker(&url, "healthy", &folder.path().join("cache-healthy"), "");
    let (code, front, errors) = waiting.finish();
    assert_eq!((code, front), (Some(0), reference), "{errors}");
    drop(full);
}

/// A finished store in which one trial is failed instead of measured, as by an evaluation that failed. Returns the reason.
fn fail_one(store: &Path) -> &'static str {
    let reason = "the loss is not finite";
    let store = Store::open(store).unwrap();
    let mut contents = store.contents().unwrap();
    let (id, record) = contents.experiments.iter_mut().next().unwrap();
    record.finished = false;
    // The widest uniform candidate: of the first stage, so that the search goes another way without it.
    let experiment = record.experiment.clone();
    let trial = experiment.trial(experiment.space.uniform(&experiment.network, 0)).key();
    assert!(contents.measurements.remove(&trial).is_some());
    contents.failures.insert((id.clone(), trial), reason.to_owned());
    store.replace(&contents).unwrap();
    reason
}

#[test]
fn what_failed_is_run_again_and_ends_at_the_same_front() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("reference.redb");
    let reference = reference(folder.path());
    let reason = fail_one(&store);
    let run = [&["run", SPEC, "--store", store.to_str().unwrap(), "--output", "json"], &TINY[..]].concat();
    for _ in 0..2 {
        // To run it again changes nothing by itself.
        let failed = qslm(&run);
        assert_eq!(failed.status.code(), Some(6));
        let errors = String::from_utf8(failed.stderr).unwrap();
        assert!(
            errors.contains(&format!("1 trials failed: {reason}")) && errors.contains("--retry-failed"),
            "{errors}"
        );
        assert_ne!(String::from_utf8(failed.stdout).unwrap(), reference);
    }
    let id = json(&["list", "--store", store.to_str().unwrap(), "--output", "json"])[0]["id"].clone();
    let get = json(&["get", id.as_str().unwrap(), "--store", store.to_str().unwrap(), "--output", "json"]);
    assert_eq!(get["failed_trials"][0]["reason"], reason);
    assert_eq!(succeed(&[&run[..], &["--retry-failed"]].concat()), reference);
    // Nothing is left to do, and nothing is lost of what was.
    assert_eq!(succeed(&[&run[..], &["--retry-failed"]].concat()), reference);
    let retried = Store::open(&store).unwrap().contents().unwrap().retried;
    assert_eq!(retried.into_values().collect::<Vec<_>>(), [[reason.to_owned()]]);
}

#[test]
fn a_failed_trial_is_opened_again_by_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let reference = reference(folder.path());
    std::fs::rename(folder.path().join("reference.redb"), folder.path().join("s.redb")).unwrap();
    let artifacts = folder.path().join("reference.redb.artifacts");
    std::fs::rename(artifacts, folder.path().join("s.redb.artifacts")).unwrap();
    fail_one(&folder.path().join("s.redb"));
    let (_coordinator, _, url) = coordinator(folder.path());
    let _worker = worker(&url, "w", &folder.path().join("cache"), "");
    let id = json(&["list", "--coordinator", &url, "--output", "json"])[0]["id"].as_str().unwrap().to_owned();
    let status = wait_until(&url, &id, "finished", |status| status["state"] == "finished");
    assert_eq!(status["failed"], 1);
    let trial = status["failed_trials"][0]["trial"].as_str().unwrap().to_owned();
    let wrong = support::refused(3, &["retry", &id, "--trial", "zzzz", "--coordinator", &url]);
    assert!(wrong.contains(&format!("no failed trial of {id} is \"zzzz\"")), "{wrong}");
    succeed(&["retry", &id, "--trial", &trial[..8], "--coordinator", &url]);
    let status = wait_until(&url, &id, "finished", |status| status["state"] == "finished");
    assert_eq!((&status["failed"], &status["retried"]), (&0.into(), &1.into()));
    assert_eq!(succeed(&["front", &id, "--coordinator", &url, "--output", "json"]), reference);
}
