//! Coordinator and workers as programs of their own, over real sockets, with real kills.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Running, json, program, qslm, refused, succeed};

const SPEC: &str = "experiments/specs/plain.toml";
const SMALL: [&str; 2] = ["--set", "task.windows=5"];

/// A coordinator on a port of its own, and its address.
fn coordinator(store: &Path) -> (Running, String) {
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--lease-ttl-s", "1", "--store"]).arg(store);
    let mut coordinator = Running::start(&mut command);
    let url = coordinator.url();
    (coordinator, url)
}

fn worker(url: &str, cache: &Path, slots: &str) -> Running {
    let mut command = Command::new(program("qslm-worker"));
    command.args(["--coordinator", url, "--slots", slots, "--cache-dir", cache.to_str().unwrap()]);
    let mut worker = Running::start(&mut command);
    worker.wait_for("working");
    worker
}

/// The front of the same experiment in one process.
fn embedded_front(folder: &Path) -> String {
    let store = folder.join("embedded.redb");
    let mut arguments = vec!["run", SPEC, "--store", store.to_str().unwrap(), "--output", "json"];
    arguments.extend(SMALL);
    succeed(&arguments)
}

#[test]
fn a_cluster_with_a_killed_worker_and_a_restarted_coordinator_gives_the_same_front() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let (mut first, url) = coordinator(&store);
    let mut submit = vec!["submit", SPEC, "--coordinator", &url];
    submit.extend(SMALL);
    let id = succeed(&submit).trim().to_owned();
    assert_eq!(succeed(&submit).trim(), id, "submitting twice is submitting once");

    // A worker fetches the artifacts, takes leases, and dies.
    let mut doomed = worker(&url, &folder.path().join("cache-a"), "2");
    doomed.wait_for("fetched");
    doomed.kill();
    let mut steady = worker(&url, &folder.path().join("cache-b"), "1");
    steady.wait_for("fetched");

    // The coordinator dies in the middle and comes back on another port, with another worker.
    let mut watch = Running::start(Command::new(support::QSLM).args([
        "watch",
        &id,
        "--connect-timeout",
        "0",
        "--coordinator",
        &url,
    ]));
    watch.wait_for("global");
    first.kill();
    let (code, _, errors) = watch.finish();
    assert_eq!(code, Some(5), "{errors}");
    assert_eq!(steady.terminate(), Some(0), "a worker whose coordinator is gone still ends on request");
    let (mut second, url) = coordinator(&store);
    let mut other = worker(&url, &folder.path().join("cache-b"), "2");

    let watched = succeed(&["watch", &id, "--coordinator", &url, "--output", "json"]);
    assert_eq!(watched, embedded_front(folder.path()));
    assert_eq!(watched, succeed(&["front", &id, "--coordinator", &url, "--output", "json"]));
    let status = json(&["get", &id[..12], "--coordinator", &url, "--output", "json"]);
    assert_eq!(status["state"], "finished");
    assert!(
        status["evaluated"].as_u64() < status["measured"].as_u64(),
        "nothing of the first half is repeated"
    );

    assert_eq!(other.terminate(), Some(0));
    assert_eq!(second.terminate(), Some(0));
}

#[test]
fn what_a_spec_needs_is_made_by_workers_once_and_the_experiment_is_the_one_that_is_made_here() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let (mut coordinator, url) = coordinator(&store);
    let ranges = ["submit", "experiments/specs/edge.toml", "--coordinator", &url, "--set", "task.windows=4"];
    let strategy = r#"strategy={ kind = "ranked", metric = "lsaq", tier = "block", sequences = 2 }"#;
    let ranked = ["submit", SPEC, "--coordinator", &url, "--set", "task.windows=4", "--set", strategy];
    let at = |submit: &[&str], more: &[&str]| succeed(&[submit, more].concat()).trim().to_owned();
    let mut waiting = Running::start(Command::new(support::QSLM).args(ranges));
    waiting.wait_for("waiting for a worker that can make what the spec needs");
    // The first one dies with a job in hand.
    let mut doomed = worker(&url, &folder.path().join("cache-a"), "1");
    doomed.wait_for("makes an artifact");
    doomed.kill();
    let mut steady = worker(&url, &folder.path().join("cache-b"), "2");
    let (code, id, errors) = waiting.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(at(&ranges, &["--local"]), id.trim(), "made here it is the same");
    let order = at(&ranked, &[]);
    assert_eq!(at(&ranked, &["--local"]), order);
    // What is made stays, also without a worker, and with another coordinator on the store.
    assert_eq!(steady.terminate(), Some(0));
    assert_eq!((at(&ranges, &[]).as_str(), at(&ranked, &[])), (id.trim(), order));
    assert_eq!(coordinator.terminate(), Some(0));
    let check = json(&["db", "check", store.to_str().unwrap(), "--output", "json"]);
    let made = check["made"].as_u64().unwrap();
    // The ranges, and the scores of 25 matrices, eight at a time.
    assert_eq!(made, 5, "{check}");
    // The text that the ranges were seen on: it served a job, and no experiment names it.
    let others = check["artifacts"]["others"].as_array().unwrap();
    assert!(others.len() == 1 && others[0]["state"] == "stray", "{check}");
}

#[test]
fn an_experiment_can_be_cancelled_and_submitted_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("s.redb"));
    let mut submit = vec!["submit", SPEC, "--coordinator", &url, "--output", "json"];
    submit.extend(SMALL);
    let submitted = json(&submit);
    assert_eq!(submitted["state"], "running");
    let id = submitted["id"].as_str().unwrap();
    let cancelled = json(&["cancel", id, "--coordinator", &url, "--output", "json"]);
    assert_eq!(cancelled["state"], "cancelled");
    let watched = qslm(&["watch", id, "--coordinator", &url]);
    assert_eq!(watched.status.code(), Some(6));
    assert_eq!(json(&submit)["state"], "running");
    let all = json(&["list", "--coordinator", &url, "--output", "json"]);
    assert_eq!(all.as_array().map(Vec::len), Some(1));
}

#[test]
fn what_was_measured_while_the_coordinator_was_away_is_delivered_by_the_next_worker() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let (mut first, url) = coordinator(&store);
    // One trial takes a second or more, so that there is time to kill the coordinator meanwhile.
    let submit = ["submit", SPEC, "--coordinator", &url, "--set", "task.stride=4", "--set", "run.shards=1"];
    let id = succeed(&submit).trim().to_owned();
    let worker = || {
        let mut command = Command::new(program("qslm-worker"));
        command.args(["--coordinator", &url, "--slots", "1", "--log", "info,qslm_worker=debug"]);
        command.args(["--cache-dir", folder.path().join("cache").to_str().unwrap()]);
        Running::start(&mut command)
    };
    let mut doomed = worker();
    doomed.wait_for("evaluating");
    first.kill();
    doomed.wait_for("kept on disk");
    doomed.kill();

    let address = url.strip_prefix("http://").unwrap();
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", address, "--web", "off", "--lease-ttl-s", "1", "--store"]).arg(store);
    let mut second = Running::start(&mut command);
    second.wait_for("listening");
    let mut next = worker();
    next.wait_for("delivers what was kept on disk");
    // Acknowledged before the new worker can have evaluated anything itself.
    next.wait_for("acknowledged");
    let status = json(&["get", &id, "--coordinator", &url, "--output", "json"]);
    assert_eq!(status["measured"], 1, "{status}");
    assert!(next.terminate() == Some(0) && second.terminate() == Some(0));
    assert_eq!(std::fs::read_dir(folder.path().join("cache/spool")).unwrap().count(), 1);
    let spool = std::fs::read_dir(folder.path().join("cache/spool")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0, "what was delivered is forgotten");
}

#[test]
fn whoever_submits_may_wait_for_the_front() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("s.redb"));
    let _worker = worker(&url, &folder.path().join("cache"), "2");
    let mut submit = vec!["submit", SPEC, "--coordinator", &url, "--wait", "--output", "json"];
    submit.extend(SMALL);
    assert_eq!(succeed(&submit), embedded_front(folder.path()));
    // Once more, of what is finished.
    assert_eq!(succeed(&submit), embedded_front(folder.path()));
}

#[test]
fn an_experiment_can_be_held_up_and_put_first() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("s.redb"));
    let mut submit = vec!["submit", SPEC, "--coordinator", &url, "--output", "json", "--priority", "-3"];
    submit.extend(SMALL);
    let submitted = json(&submit);
    assert_eq!(submitted["priority"], -3);
    let id = submitted["id"].as_str().unwrap();
    let change = |arguments: &[&str]| {
        json(
            &[&arguments[..1], &[id], &arguments[1..], &["--coordinator", &url, "--output", "json"]].concat(),
        )
    };
    assert_eq!(change(&["pause"])["state"], "paused");
    assert_eq!(change(&["prioritize", "7"])["priority"], 7);
    assert_eq!(change(&["prioritize", "-7"])["priority"], -7);
    assert_eq!(change(&["resume"])["state"], "running");
    assert_eq!(change(&["cancel"])["state"], "cancelled");
    let resumed = change(&["resume"]);
    assert_eq!((&resumed["state"], &resumed["priority"]), (&"running".into(), &(-7).into()));
    let wrong = qslm(&["prioritize", id, "1001", "--coordinator", &url]);
    assert_eq!(wrong.status.code(), Some(2));

    let list = |form: &str| succeed(&["list", "--coordinator", &url, "--output", form]);
    assert_eq!(list("name"), format!("{id}\n"));
    let lines = list("wide");
    let columns = |line: &str| line.split("  ").filter(|column| !column.trim().is_empty()).count();
    assert!(lines.contains("hypervolume") && columns(lines.lines().next().unwrap()) == 19, "{lines}");
    assert!(!list("table").contains("hypervolume"));
    let yaml = list("yaml");
    assert!(yaml.contains(&format!("id: {id}")) && yaml.contains("priority: -7"), "{yaml}");
}

#[test]
fn what_a_graphics_card_is_to_train_waits_for_one_and_is_said_not_to_be_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("s.redb"));
    // A program that was built without cards, or a machine without.
    let _worker = worker(&url, &folder.path().join("cache"), "2");
    let mut submit = vec!["submit", SPEC, "--coordinator", &url, "--wait"];
    submit.extend(SMALL);
    submit.extend(["--set", "recovery={ text = \"almanac.txt\", backend = \"cuda\", reach = 1000.0 }"]);
    submit.extend(["--set", "recovery.text=experiments/data/almanac.txt"]);
    let mut waiting = Running::start(Command::new(support::QSLM).args(submit));
    waiting.wait_for("does no jobs of the kind qat on cuda");
    let all = json(&["list", "--coordinator", &url, "--output", "json"]);
    assert_eq!((&all[0]["state"], &all[0]["reproducible"]), (&"stuck".into(), &false.into()), "{all}");
    let id = all[0]["id"].as_str().unwrap();
    let listed = succeed(&["list", "--coordinator", &url]);
    assert!(listed.contains(&format!("{id} is not reproducible: graphics cards")), "{listed}");
    let front = json(&["front", id, "--coordinator", &url, "--output", "json"]);
    assert_eq!(front["reproducible"], false, "{front}");
    // Of others nothing is said.
    let mut other = vec!["submit", SPEC, "--coordinator", &url, "--output", "json"];
    other.extend(SMALL);
    let other = json(&other);
    assert_eq!(other["reproducible"], serde_json::Value::Null, "{other}");
    assert!(other.get("reproducible").is_none());
}

#[test]
fn what_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("s.redb"));
    let error = refused(3, &["get", "nothing", "--coordinator", &url]);
    assert_eq!(error.trim_end(), "error: coordinator: no experiment \"nothing\"");
    // Nobody listens on the port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(5, &["list", "--coordinator", &format!("http://{free}"), "--connect-timeout", "0"]);
    let expected = format!("error: no coordinator answers at http://{free}: connection refused\n");
    assert_eq!(error, expected);
    let error = refused(3, &["list", "--store", "no/such/store.redb"]);
    assert!(error.contains("no/such/store.redb: no such file"), "{error}");
}

#[test]
fn a_network_that_breaks_down_fails_its_trials_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.safetensors");
    support::broken_checkpoint(&broken);
    let path = format!("checkpoint.path={}", broken.display());
    let store = folder.path().join("s.redb");
    let mut arguments = vec!["run", SPEC, "--store", store.to_str().unwrap(), "--set", &path];
    arguments.extend(SMALL);
    for _ in 0..2 {
        // The second time from the store.
        let output = qslm(&arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{errors}");
        assert!(errors.contains("error: 30 trials failed: the loss of sequence "), "{errors}");
    }
}
