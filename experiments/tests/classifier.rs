//! Recovery of a classifier: from a spec to the file that is deployed, and what a spec may not ask for.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{json, refused, succeed};

const MODEL: &str = "experiments/models/sst2-xs.safetensors";
const SENTENCES: &str = "experiments/data/sentences.tsv";

/// Runs the shipped spec on the bundled sentences, with a few steps.
fn run<'a>(store: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "experiments/specs/sst2-recover.toml", "--store", store];
    arguments.extend(["--set", "task.labelled=experiments/data/sentences.tsv"]);
    arguments.extend(["--set", "recovery.labelled=experiments/data/sentences.tsv"]);
    arguments.extend(["--set", "task.sentences=60", "--set", "recovery.steps=40"]);
    arguments.extend(["--set", "recovery.batch=8", "--set", "recovery.candidates=1"]);
    arguments.extend(["--set", "recovery.distillation=0.5", "--set", "recovery.rate=2e-3"]);
    arguments.extend(more);
    arguments
}

#[test]
fn a_trained_classifier_is_deployed_as_it_was_measured_and_a_control_stands_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (store, front, out) = (path("s.redb"), path("front.json"), path("packed.safetensors"));
    let text = succeed(&run(&store, &["--output", "json"]));
    let document: Value = serde_json::from_str(&text).unwrap();
    std::fs::write(&front, &text).unwrap();
    let is_trained = |row: &&Value| {
        row["schemes"]["head.weight"].as_str().is_some_and(|scheme| scheme.contains(":trained"))
    };
    let trained = document["front"].as_array().unwrap().iter().find(is_trained).unwrap();
    assert_eq!(trained["schemes"]["emb.weight"], "sign");
    assert!(trained["codes"]["vectors"].as_str().is_some_and(|hash| hash.len() == 64), "{trained}");
    let id = trained["candidate"].as_str().unwrap();
    let apply = ["apply", "--checkpoint", MODEL, "--front", &front, "--candidate", id, "--store", &store];
    let applied = json(&[&apply[..], &["--out", &out, "--output", "json"]].concat());
    assert_eq!(applied["footprint_bytes"], trained["footprint_bytes"]);
    let tokenizer = ["--tokenizer", "experiments/models/tokenizer.json"];
    let eval = ["eval", "--checkpoint", &out, "--labelled", SENTENCES, "--windows", "60", "--output", "json"];
    let measured = json(&[&eval[..], &tokenizer].concat());
    assert_eq!(measured["accuracy"], trained["accuracy"]);
    // The float model learned from the same sentences.
    let control = &document["control"];
    assert_eq!(control["steps"], 40);
    let share = |key: &str| control[key].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&share("float")) && (0.0..=1.0).contains(&share("quality")), "{control}");
    assert!((share("float") - share("quality") - share("quality_loss")).abs() < 1e-12, "{control}");
    // Run again it answers from its store, in words of accuracy.
    let words = succeed(&run(&store, &[]));
    assert!(words.contains("The float model after the same 40 steps:\n  accuracy "), "{words}");
}

#[test]
fn data_of_another_kind_is_refused_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let store = store.to_str().unwrap();
    let refuse = |setting: &str| refused(2, &run(store, &["--set", setting]));
    let words = refuse("recovery.text=experiments/data/almanac.txt");
    assert!(words.contains("recovery.text: a classifier is trained on recovery.labelled"), "{words}");
    let words = refuse("recovery.window=32");
    assert!(words.contains("recovery.window: sentences enter whole"), "{words}");
    let words = refuse("recovery.trainer=mrem");
    assert!(words.contains("recovery.trainer: this checkpoint classifies, and qat alone"), "{words}");
    let language = ["run", "experiments/specs/quickstart-recover.toml", "--store", store];
    let labelled = ["--set", "recovery.labelled=experiments/data/sentences.tsv"];
    let words = refused(2, &[&language[..], &labelled].concat());
    assert!(words.contains("recovery.labelled: a language model is trained on recovery.text"), "{words}");
    let missing = ["run", "experiments/specs/sst2-recover.toml", "--store", store];
    let given = ["--set", "task.labelled=experiments/data/sentences.tsv"];
    let words = refused(2, &[&missing[..], &given].concat());
    assert!(words.contains("recovery.labelled is missing: the sentences that are trained on"), "{words}");
    let text = ["--set", "recovery.labelled=experiments/data/almanac.txt"];
    let words = refused(1, &run(store, &text));
    assert!(words.contains("has no TAB: expected `sentence TAB label`"), "{words}");
}
