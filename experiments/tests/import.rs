//! Imports: candidates that people wrote down, results of other machines, points of other tools.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{json, qslm, refused, succeed};

const SPEC: &str = "experiments/specs/plain.toml";

/// Runs a spec in `store` and gives the front.
fn run(store: &Path, settings: &[&str]) -> Value {
    let store = store.to_str().unwrap();
    let mut arguments = vec!["run", SPEC, "--quiet", "--store", store, "--output", "json"];
    for setting in [&["task.windows=2"], settings].concat() {
        arguments.extend(["--set", setting]);
    }
    json(&arguments)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_hand_written_list_is_measured_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (store, list) = (folder.path().join("s.redb"), folder.path().join("mine.jsonl"));
    let mine = [
        json!({ "blocks.*": "int4:symmetric:channel", "head.weight": "int8:symmetric:channel", "emb.weight": "sign" }),
        json!({ "*": "int6:symmetric:channel", "emb.weight": "sign", "blocks.0.*": "f16" }),
    ];
    std::fs::write(&list, mine.map(|line| format!("{line}\n")).concat()).unwrap();
    let candidates = format!("strategy.candidates={}", list.display());
    let front = run(&store, &["strategy.kind=list", &candidates]);
    assert_eq!(front["measured"], 3, "two, and the float model");
    let rows = lines(&succeed(&["export", "plain", "--store", store.to_str().unwrap(), "--format", "jsonl"]));
    assert!(rows[1]["schemes"].as_str().unwrap().contains("blocks.3.ffn.key.weight=int4:symmetric:channel"));
    assert!(rows[2]["schemes"].as_str().unwrap().contains("blocks.0.att.key.weight=f16"));

    // What was exported can be listed: the same candidates, which are on record already.
    let again = folder.path().join("again.jsonl");
    succeed(&["export", "plain", "--store", store.to_str().unwrap(), "--out", again.to_str().unwrap()]);
    let candidates = format!("strategy.candidates={}", again.display());
    assert_eq!(run(&store, &["strategy.kind=list", &candidates, "name=again"])["measured"], 3);

    std::fs::write(&list, "{\"blocks.9.*\": \"f16\"}\n").unwrap();
    let candidates = format!("strategy.candidates={}", list.display());
    let wrong = ["validate", SPEC, "--set", "strategy.kind=list", "--set", &candidates];
    let said =
        String::from_utf8(qslm(&wrong).stderr).unwrap() + &String::from_utf8(qslm(&wrong).stdout).unwrap();
    assert!(said.contains("line 1: \"blocks.9.*\" names nothing that this network has"), "{said}");
    assert_eq!(qslm(&wrong).status.code(), Some(2));
}

#[test]
fn results_of_another_store_become_results_here() {
    let folder = tempfile::tempdir().unwrap();
    let (north, south) = (folder.path().join("north.redb"), folder.path().join("south.redb"));
    let whole = run(&north, &[]);
    // The same experiment, only begun.
    let (north, into) = (north.to_str().unwrap(), south.to_str().unwrap());
    std::fs::copy(north, into).unwrap();
    let exported = succeed(&["export", "plain", "--store", north, "--format", "jsonl"]);
    let id = whole["experiment"].as_str().unwrap();
    let empty = folder.path().join("empty.redb");
    {
        use qslm_coordinator::store::{Contents, Store};
        let contents = Store::open(&south).unwrap().contents().unwrap();
        let emptied = Contents { measurements: Default::default(), ..contents };
        Store::open(&empty).unwrap().replace(&emptied).unwrap();
    }
    let (empty, file) = (empty.to_str().unwrap(), folder.path().join("north.jsonl"));
    std::fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    let import = ["import", "results", file, "--into", empty, "--experiment", "plain"];
    let count = exported.lines().count();
    let engine = lines(&exported)[0]["engines"].as_str().unwrap().to_owned();
    assert!(engine.starts_with("qslm 0.1.0, engine 3, native, "), "{engine}");
    assert_eq!(succeed(&import), format!("{count} new results, 0 known\n"));
    assert_eq!(succeed(&import), format!("0 new results, {count} known\n"));
    let front = succeed(&["front", id, "--store", empty, "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&front).unwrap(), whole);
    // Who measured came along.
    let report = json(&["report", "plain", "--store", empty, "--format", "json", "--out", "-"]);
    assert_eq!(report["engines"], json!([{ "engine": engine, "measured": count }]));

    // Nothing is taken in if a line is wrong.
    let mut rows = lines(&exported);
    rows[3]["nll_nats"] = json!(rows[3]["nll_nats"].as_f64().unwrap() + 1.0);
    std::fs::write(file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let output = qslm(&import);
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 results differ from those on record; both are kept"), "{said}");
    for (key, value, words) in [
        ("candidate", json!("00"), "line 1: candidate = \"00\": its schemes are those of"),
        ("spikes", json!("1 2 x"), "line 1: spikes: invalid digit"),
        ("positions", json!(1), "line 1: counts that this network cannot give"),
        ("nll_nats", json!(-1.0), "line 1: nll_nats = -1.0: expected 0 to"),
        ("schemes", json!(null), "line 1: schemes is missing"),
    ] {
        let mut row = lines(&exported)[0].clone();
        row[key] = value;
        std::fs::write(file, row.to_string()).unwrap();
        assert!(refused(2, &import).contains(words), "{}", refused(2, &import));
    }
    let nowhere = ["import", "results", file, "--into", empty, "--experiment", "nothing"];
    assert!(refused(3, &nowhere).contains("no experiment \"nothing\""));
}

#[test]
fn points_of_an_optuna_study_are_shown_beside_the_front() {
    let folder = tempfile::tempdir().unwrap();
    let (store, study) = (folder.path().join("s.redb"), folder.path().join("study.db"));
    run(&store, &[]);
    // The tables of Optuna's storage that matter; CI also reads a study that Optuna itself wrote.
    let database = rusqlite::Connection::open(&study).unwrap();
    database
        .execute_batch(
            "CREATE TABLE studies (study_id INTEGER, study_name TEXT);
             CREATE TABLE trials (trial_id INTEGER, number INTEGER, study_id INTEGER, state TEXT);
             CREATE TABLE trial_values (trial_value_id INTEGER, trial_id INTEGER, objective INTEGER, value FLOAT);
             INSERT INTO studies VALUES (1, 'nsga'), (2, 'other');
             INSERT INTO trials VALUES (10, 0, 1, 'COMPLETE'), (11, 1, 1, 'COMPLETE'), (12, 2, 1, 'FAIL'), (13, 0, 2, 'COMPLETE');
             INSERT INTO trial_values VALUES (1, 10, 0, 0.01), (2, 10, 1, 0.85), (3, 11, 0, 0.02), (4, 11, 1, 0.88);",
        )
        .unwrap();
    drop(database);
    let (store, study) = (store.to_str().unwrap(), study.to_str().unwrap());
    let import = |more: &[&'static str]| {
        let mut arguments = vec!["import", "optuna", study, "--into", store, "--experiment", "plain"];
        arguments.extend(more);
        arguments
    };
    let said = succeed(&import(&["--study", "nsga", "--values", "quality_loss,saving"]));
    assert!(said.starts_with("optuna: nsga: 2 points; reports of plain-"), "{said}");
    let report = json(&["report", "plain", "--store", store, "--format", "json", "--out", "-"]);
    let points = &report["comparisons"][0]["points"];
    assert_eq!(points[1], json!({ "label": "trial 1", "saving": 0.88, "quality_loss": 0.02 }));
    assert!(succeed(&["report", "plain", "--store", store, "--out", "-"]).contains("optuna: nsga"));

    let wrong = |code, more: &[&'static str]| refused(code, &import(more));
    assert!(wrong(4, &["--values", "quality_loss,saving"]).contains("--study: one of nsga, other"));
    assert!(wrong(3, &["--study", "tpe", "--values", "quality_loss,saving"]).contains("no study \"tpe\""));
    assert!(wrong(3, &["--study", "other", "--values", "quality_loss,saving"]).contains("no finished trial"));
    assert!(wrong(2, &["--study", "nsga", "--values", "saving,skip"]).contains("--values: expected one of"));
    std::fs::write(study, "not a database").unwrap();
    assert!(wrong(1, &["--values", "quality_loss,saving"]).contains("study.db: no Optuna database"));
}
