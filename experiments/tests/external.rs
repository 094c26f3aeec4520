//! Candidates from outside, with the real programs: told by a shell, while coordinators die and workers wait.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Running, SPEC, TINY, json, program, refused, succeed};

const EXTERNAL: [&str; 2] = ["--set", "strategy.kind=external"];
/// Two candidates, as JSON and as words.
const FIRST: &str = "{\"blocks.*\": \"int8:symmetric:channel\", \"emb.weight\": \"sign\"}\n\
                     emb.weight=sign head.weight=int8:symmetric:channel\n";
const SECOND: &str = "{\"blocks.*\": \"int4:symmetric:channel\", \"emb.weight\": \"sign\"}\n";

fn coordinator(store: &Path, address: &str) -> (Running, String) {
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", address, "--web", "off", "--lease-ttl-s", "1", "--store"]).arg(store);
    let mut coordinator = Running::start(&mut command);
    let url = coordinator.url();
    (coordinator, url)
}

/// Waits until an experiment has nothing to do before it is told more.
fn wait_for_tells(id: &str, url: &str) {
    let mut watch = Command::new(support::QSLM);
    let mut watch = Running::start(watch.args(["watch", id, "--plain", "--coordinator", url]));
    watch.wait_for("waiting for tells");
    watch.kill();
}

/// What a front says of candidates, without the experiment that it is of.
fn rows(front: &Value) -> [&Value; 3] {
    ["front", "chosen", "measured"].map(|key| &front[key])
}

#[test]
fn candidates_that_a_shell_tells_lead_to_the_front_of_their_list_whatever_dies_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, second, all) = (path("1.jsonl"), path("2.jsonl"), path("all.jsonl"));
    std::fs::write(&first, FIRST).unwrap();
    std::fs::write(&second, SECOND).unwrap();
    let (mut running, url) = coordinator(&folder.path().join("s.redb"), "127.0.0.1:0");
    let at = ["--coordinator", &url];
    let id = succeed(&[&["submit", SPEC], &EXTERNAL[..], &TINY, &at].concat()).trim().to_owned();
    let mut command = Command::new(program("qslm-worker"));
    command.args(["--slots", "2", "--until-done", "--cache-dir", &path("cache")]).args(at);
    let mut worker = Running::start(&mut command);
    wait_for_tells(&id, &url);

    let tell = |more: &[&str]| succeed(&[&["tell", &id][..], &at, more].concat());
    let refuse = |code, more: &[&str]| refused(code, &[&["tell", &id][..], &at, more].concat());
    assert_eq!(tell(&["--candidates", &first]), "1\n");
    running.kill();
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let (_running, _) = coordinator(&folder.path().join("s.redb"), &address);
    // What was not answered is told again, which changes nothing; anything else under its number is refused.
    assert_eq!(tell(&["--candidates", &first, "--number", "1"]), "1\n");
    let words = refuse(4, &["--candidates", &second, "--number", "1"]);
    let expected = format!("number 1: {id} was told other candidates under it; the next one is 2");
    assert!(words.contains(&expected), "{words}");
    let words = refuse(4, &["--candidates", &second, "--number", "7"]);
    assert!(words.contains(&format!("number 7: expected 2, the next one of {id}")), "{words}");
    std::fs::write(path("wrong.jsonl"), "{\"heed.weight\": \"f16\"}\n").unwrap();
    let words = refuse(2, &["--candidates", &path("wrong.jsonl")]);
    assert!(words.contains("candidates: number 1: \"heed.weight\" names nothing"), "{words}");
    assert_eq!(tell(&["--candidates", &second]), "2\n");
    wait_for_tells(&id, &url);
    assert_eq!(json(&[&["get", &id, "--output", "json"][..], &at].concat())["told"], 2);
    assert_eq!(tell(&["--last"]), "3\n");
    let told = json(&[&["watch", &id, "--output", "json"][..], &at].concat());
    let words = refuse(4, &["--last", "--number", "4"]);
    assert!(words.contains(&format!("number 4: {id} was told its last generation, 3")), "{words}");
    assert_eq!(worker.finish().0, Some(0), "its only experiment has ended");

    // A list takes JSON alone.
    let list = FIRST.replace(
        "emb.weight=sign head.weight=int8:symmetric:channel",
        r#"{"schemes": "emb.weight=sign head.weight=int8:symmetric:channel"}"#,
    );
    std::fs::write(&all, list + SECOND).unwrap();
    let (candidates, store) = (format!("strategy.candidates={all}"), path("list.redb"));
    let kind = ["--set", "strategy.kind=list", "--set", &candidates, "--store", &store, "--output", "json"];
    let listed = json(&[&["run", SPEC, "--quiet"], &kind[..], &TINY].concat());
    assert_eq!(rows(&told), rows(&listed));
    assert_eq!(told["measured"], 4);
}

#[test]
fn what_nobody_can_tell_is_refused_in_one_process_and_planned_without_a_number() {
    let words = refused(2, &[&["run", SPEC], &EXTERNAL[..], &TINY].concat());
    assert!(
        words.contains("strategy.kind = \"external\": nobody can tell this process any candidates"),
        "{words}"
    );
    let plan = succeed(&[&["submit", SPEC, "--dry-run"], &EXTERNAL[..], &TINY].concat());
    assert!(plan.contains("what it is told from outside: how many candidates, is unknown"), "{plan}");
    let plan = json(&[&["submit", SPEC, "--dry-run", "--output", "json"], &EXTERNAL[..], &TINY].concat());
    assert_eq!(plan["candidates_at_most"], Value::Null);
}
