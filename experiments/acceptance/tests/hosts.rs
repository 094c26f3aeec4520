//! Several hosts: a coordinator and three workers, each with an address of its own. Cables are pulled out and put in
//! again, and the answer is the same, with nothing lost and nothing twice.

use std::process::Command;

use qslm_acceptance::hosts::Network;
use qslm_acceptance::{Running, succeed};
use serde_json::Value;

/// All its candidates are there from the start, so that a worker that is cut off always holds a lease; and they take long
/// enough for all that happens here.
const EXPERIMENT: [&str; 9] = [
    "experiments/specs/plain.toml",
    "--set",
    "strategy.kind=random",
    "--set",
    "strategy.tier=matrix",
    "--set",
    "strategy.trials=160",
    "--set",
    "strategy.seed=7",
];

#[test]
fn hosts_that_lose_each_other_for_a_while_find_the_same_front() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut network = Network::new("qh");
    let desk = network.host();
    let (store, tokens) = (at("sweep.redb"), at("tokens"));
    let token = "0123456789abcdef0123456789abcdef";
    std::fs::write(&tokens, format!("worker pool {token}\nsubmitter me {token}x\n")).unwrap();
    std::fs::write(at("worker"), token).unwrap();
    std::fs::write(at("submitter"), format!("{token}x")).unwrap();

    let host = network.host();
    let mut command = host.program("qslm-coordinator");
    command.args([
        "--listen",
        "0.0.0.0:7477",
        "--web",
        "off",
        "--monitor",
        "0.0.0.0:7479",
        "--tokens",
        &tokens,
    ]);
    command.args(["--store", &store, "--lease-ttl-s", "2"]);
    let mut coordinator = Running::start(&mut command);
    coordinator.wait_for("listening");
    let url = format!("http://{}:7477", host.address);

    let submit = |arguments: &[&str]| {
        let mut command = desk.program("qslm");
        command.args(arguments).args(["--coordinator", &url, "--token-file", &at("submitter")]);
        let output = command.current_dir(qslm_acceptance::root()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let id = submit(&[&["submit"][..], &EXPERIMENT].concat()).trim().to_owned();
    let mut workers = Vec::new();
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        let host = network.host();
        let mut command = host.program("qslm-worker");
        command.args(["--coordinator", &url, "--token-file", &at("worker"), "--name", name, "--slots", "1"]);
        command.args(["--until-done", "--cache-dir", &at(name), "--log", "info,qslm_worker=debug"]);
        workers.push(Running::start(&mut command));
        hosts.push(host);
    }
    for worker in &mut workers {
        worker.wait_for("acknowledged");
    }

    // A worker is cut off past its lease, and comes back.
    hosts[0].cut();
    coordinator.wait_for("a lease ran out; its shard goes to another worker worker=\"a\"");
    workers[1].wait_for("acknowledged");
    hosts[0].heal();
    workers[0].wait_for("acknowledged");
    // The coordinator's own cable is loose: everybody notices, every time.
    for _ in 0..3 {
        host.cut();
        workers[2].wait_for("no answer");
        host.heal();
        workers[2].wait_for("acknowledged");
    }
    // Workers end by themselves when all is done.
    for worker in &mut workers {
        assert_eq!(worker.ended(), Some(0));
    }
    let front = submit(&["front", &id, "--output", "json"]);
    let status: Value = serde_json::from_str(&submit(&["get", &id, "--output", "json"])).unwrap();
    assert_eq!(status["state"], "finished");
    let metrics = fetch(&desk, &format!("http://{}:7479/metrics", host.address));
    drop(coordinator);

    // The same search on one host that nothing happens to.
    let local = at("local.redb");
    succeed(&[&["run"][..], &EXPERIMENT, &["--store", &local, "--quiet"]].concat());
    assert_eq!(front, succeed(&["front", &id, "--store", &local, "--output", "json"]));
    // Every shard of every trial is recorded once, however often it came.
    let trials = status["measured"].as_u64().unwrap();
    let recorded = format!("qslm_results_total{{outcome=\"recorded\"}} {}.0", trials * 4);
    assert!(metrics.contains(&recorded), "{recorded}\n{metrics}");
    assert!(!metrics.contains("qslm_leases_expired_total 0.0"), "{metrics}");
    let check: Value = serde_json::from_str(&succeed(&["db", "check", &store, "--output", "json"])).unwrap();
    assert_eq!(
        (check["measurements"].as_u64(), check["conflicts"].as_array().unwrap().len()),
        (Some(trials), 0)
    );
}

/// Content of a page, asked for from a host.
fn fetch(host: &qslm_acceptance::hosts::Host, url: &str) -> String {
    let output = host.run(Command::new("curl").args(["--silent", "--fail", "--max-time", "10", url]));
    assert!(output.status.success(), "{url}");
    String::from_utf8(output.stdout).unwrap()
}
