//! Real workers with broken machines beside a healthy one: a full disk, a cache that somebody removes or damages, too little
//! memory. Whatever is wrong with them, no trial fails that a healthy worker can measure, and the front is the same to the
//! byte. And what has failed can be run again.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use qslm_coordinator::store::Store;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Running, json, program, qslm, root, succeed};

const SPEC: &str = "experiments/specs/quickstart.toml";
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
const PATIENCE: Duration = Duration::from_secs(120);

/// A coordinator on a port of its own, and its address.
fn coordinator(folder: &Path) -> (Running, String) {
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--lease-ttl-s", "1", "--store"]);
    let mut coordinator = Running::start(command.arg(folder.join("s.redb")));
    let line = coordinator.wait_for("listening");
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    coordinator.read_on();
    (coordinator, format!("http://{}", address.trim_matches(|c: char| !c.is_ascii_digit())))
}

/// A worker behind a limit of the shell, such as `-v 100000`.
fn worker(url: &str, name: &str, cache: &Path, limit: &str) -> Running {
    let limited = if limit.is_empty() { String::new() } else { format!("ulimit {limit} && ") };
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{limited}exec \"$0\" \"$@\"")]).arg(program("qslm-worker"));
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

/// Bytes of address space, in kilobytes, that a worker has when it idles: a little more lets it start and not evaluate.
fn idle_kilobytes(folder: &Path, url: &str) -> u64 {
    let worker = worker(url, "measured", &folder.join("cache-measured"), "");
    let begun = Instant::now();
    loop {
        let shown = json(&["get", "none", "--coordinator", url, "--output", "json"]);
        let _ = shown;
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        if let Some(kilobytes) = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()) {
            return kilobytes;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}

/// One experiment of which broken workers take the first shards.
fn round(seed: u64, reference: &str) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (mut coordinator, url) = coordinator(folder.path());
    let id = submit(&url);
    let cache = |name: &str| folder.path().join(format!("cache-{name}"));
    // A file may not be larger than 4 kB, which no artifact is: what a full disk does to a worker.
    let mut kinds = [("full", "-f 4"), ("small", SMALL), ("harmed", "")];
    kinds.shuffle(&mut rng);
    let mut workers: Vec<(&str, &str, Running)> = Vec::new();
    for (name, limit) in kinds {
        workers.push((name, limit, worker(&url, name, &cache(name), limit)));
    }
    let mut healthy = None;
    let begun = Instant::now();
    loop {
        let status = get(&url, &id);
        if status["state"] == "finished" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "seed {seed}: {status}");
        if healthy.is_none() && begun.elapsed() > Duration::from_millis(rng.random_range(200..3000)) {
            healthy = Some(worker(&url, "healthy", &cache("healthy"), ""));
        }
        harm(&cache("harmed"), &mut rng);
        for (name, limit, running) in &mut workers {
            // As a StatefulSet does: the same name again.
            if running.child.try_wait().unwrap().is_some() {
                *running = worker(&url, name, &cache(name), limit);
            }
        }
    }
    let status = get(&url, &id);
    assert_eq!(status["failed"], 0, "seed {seed}: {status}");
    assert_eq!(succeed(&["front", &id, "--coordinator", &url, "--output", "json"]), reference, "seed {seed}");
    drop(workers);
    assert_eq!(coordinator.terminate(), Some(0));
}
