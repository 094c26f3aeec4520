//! Noise: intervals of losses, bounds that have to hold at their end, and data that a search does not see.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use qslm_common::evidence::Backing;
use qslm_coordinator::store::Store;
use serde_json::Value;
use support::{Running, json, program, qslm, refused, root, succeed};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";

/// The plain search with a few widths everywhere, on short windows.
const GRID: [&str; 11] = [
    "experiments/specs/plain.toml",
    "--set",
    "task.window=32",
    "--set",
    "strategy={ kind = \"grid\", tier = \"global\" }",
    "--set",
    "space.bits=[6, 4, 3]",
    "--set",
    "constraints.max_perplexity_increase=0.2",
    "--set",
    "run.shards=3",
];

fn run(folder: &Path, more: &[&str]) -> Value {
    let store = folder.join("s.redb");
    json(&[&["run"], &GRID[..], &["--store", store.to_str().unwrap(), "--output", "json"], more].concat())
}

/// The chosen candidate of a front against the float model, on some text.
fn compare(text: &str, front: &Path) -> Value {
    let model = ["--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", text, "--window", "32"];
    let front = ["--front", front.to_str().unwrap(), "--output", "json"];
    json(&[&["compare"], &model[..], &front].concat())
}

fn interval(row: &Value) -> [f64; 2] {
    let ends = &row["quality_loss_interval"];
    [0, 1].map(|end| ends[end].as_f64().unwrap_or_else(|| panic!("{row}")))
}

#[test]
fn an_interval_is_about_that_of_the_paired_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let document = run(folder.path(), &[]);
    assert_eq!(interval(&document["float"]), [0.0, 0.0], "against itself");
    let chosen = &document["chosen"];
    let [low, high] = interval(chosen);
    let loss = chosen["quality_loss"].as_f64().unwrap();
    assert!(low < loss && loss < high && high - low < 0.2, "{chosen}");
    let front = folder.path().join(format!("{}.front.json", document["experiment"].as_str().unwrap()));
    let compared = compare("experiments/data/encyclopaedia.txt", &front);
    assert!((compared["loss"].as_f64().unwrap() - loss).abs() < 1e-9, "{compared}");
    assert_eq!(compared["chosen_on_this_data"], true, "selection and proof used the same text");
    // A bootstrap there, Student's t here.
    let ends = [0, 1].map(|end| compared["loss_interval"][end].as_f64().unwrap());
    let width = high - low;
    assert!(
        (ends[0] - low).abs() < 0.15 * width && (ends[1] - high).abs() < 0.15 * width,
        "{ends:?} {chosen}"
    );
    // People see it, and so does whoever reads an export.
    let store = folder.path().join("s.redb");
    let store = store.to_str().unwrap();
    let shown = succeed(&["front", "plain", "--store", store]);
    let words = format!("95 % interval {:+.2} to {:+.2}", low * 100.0, high * 100.0);
    assert!(shown.contains(&words), "{words}: {shown}");
    let out = folder.path().join("rows.jsonl");
    succeed(&["export", "plain", "--store", store, "--out", out.to_str().unwrap()]);
    let rows = std::fs::read_to_string(&out).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = rows.iter().find(|row| row["candidate"] == chosen["candidate"]).unwrap();
    assert_eq!((&row["quality_loss_low"], &row["quality_loss_high"]), (&low.into(), &high.into()));
    assert_eq!(row["pairs"].as_u64().unwrap(), compared["pairs"].as_u64().unwrap());
    // Of one window nothing can be told.
    let copy = folder.path().join("copy.redb");
    let copy = copy.to_str().unwrap();
    let one_window = [&GRID[..], &["--store", copy, "--set", "task.windows=1"]].concat();
    let _ = qslm(&[&["run"], &one_window[..]].concat());
    let spreads = |store: &str| {
        let measurements = Store::open(Path::new(store)).unwrap().contents().unwrap().measurements;
        let spreads = measurements.into_values().flat_map(BTreeMap::into_values);
        spreads.map(|Backing { spread, .. }| spread.unwrap()).collect::<Vec<_>>()
    };
    assert!(spreads(store).iter().all(|spread| spread.sequences > 1));
    assert!(spreads(copy).iter().all(|spread| spread.sequences == 1));
    let one = json(&["front", "plain", "--store", copy, "--output", "json"]);
    assert!(one["float"].get("quality_loss_interval").is_none(), "{one}");
}

#[test]
fn a_bound_may_have_to_hold_at_the_end_of_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let plain = run(folder.path(), &[]);
    let rows = plain["front"].as_array().unwrap();
    let chosen = &plain["chosen"];
    // Between the loss and the end of its interval.
    let bound = (chosen["quality_loss"].as_f64().unwrap() + interval(chosen)[1]) / 2.0;
    let bound = format!("constraints.max_perplexity_increase={bound}");
    let confident = ["--set", &bound, "--set", "constraints.confident=true"];
    let with_bound = run(folder.path(), &confident[..2]);
    assert_eq!(with_bound["chosen"]["candidate"], chosen["candidate"]);
    let sure = run(folder.path(), &confident);
    assert_ne!(sure["chosen"]["candidate"], chosen["candidate"]);
    assert_ne!(sure["experiment"], with_bound["experiment"], "it decides the result");
    assert_eq!(sure["front"].as_array().unwrap().len(), rows.len());
    let unbounded = ["run", GRID[0], "--set", "constraints={ confident = true }"];
    assert!(refused(2, &unbounded).contains("confident needs a bound on the quality that is lost"));
}

#[test]
fn the_chosen_candidate_is_measured_again_on_data_that_the_search_did_not_see() {
    let folder = tempfile::tempdir().unwrap();
    // Other windows of the same text.
    let text = std::fs::read_to_string(root().join("experiments/data/encyclopaedia.txt")).unwrap();
    let middle = (0..text.len()).skip(text.len() / 2).find(|at| text.is_char_boundary(*at)).unwrap();
    let other = folder.path().join("other.txt");
    std::fs::write(&other, &text[middle..]).unwrap();
    let held_out = format!("holdout.text={}", other.display());
    let plain = run(folder.path(), &[]);
    assert!(plain.get("holdout").is_none());
    let document = run(folder.path(), &["--set", &held_out]);
    assert_eq!(document["experiment"], plain["experiment"], "it decides nothing");
    let holdout = document["holdout"].clone();
    let front = folder.path().join(format!("{}.front.json", document["experiment"].as_str().unwrap()));
    let compared = compare(other.to_str().unwrap(), &front);
    assert!(compared.get("chosen_on_this_data").is_none(), "{compared}");
    for (ours, theirs) in [("float", "before"), ("quality", "after"), ("quality_loss", "loss")] {
        let (ours, theirs) = (holdout[ours].as_f64().unwrap(), compared[theirs].as_f64().unwrap());
        assert!((ours / theirs - 1.0).abs() < 1e-9, "{holdout} {compared}");
    }
    assert_eq!((&holdout["sequences"], &holdout["measure"]), (&compared["pairs"], &"perplexity".into()));
    assert!(interval(&holdout)[0] < holdout["quality_loss"].as_f64().unwrap());

    // On workers, too.
    let store = folder.path().join("cluster.redb");
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]).arg(&store);
    let mut coordinator = Running::start(&mut command);
    let url = coordinator.url();
    let mut command = Command::new(program("qslm-worker"));
    command.args(["--coordinator", &url, "--slots", "2", "--cache-dir"]).arg(folder.path().join("cache"));
    let _worker = Running::start(&mut command);
    let submit = ["--set", &held_out, "--coordinator", &url, "--wait", "--output", "json"];
    let submitted = json(&[&["submit"], &GRID[..], &submit].concat());
    assert_eq!(submitted["holdout"], holdout);
    let shown = succeed(&[&["submit"], &GRID[..], &submit[..5]].concat());
    assert!(shown.contains("On data that the search did not see ("), "{shown}");

    let wrong = |setting: &str| refused(2, &["run", GRID[0], "--set", setting]);
    assert!(wrong("holdout.labelled=x.tsv").contains("holdout: name one file, text or labelled"));
    let text = format!("holdout={{ text = {:?}, sequences = 0 }}", other.display().to_string());
    assert!(wrong(&text).contains("holdout."), "{}", wrong(&text));
    let missing = ["run", GRID[0], "--set", "holdout.text=no-such.txt"];
    assert!(refused(3, &missing).contains("no-such.txt: no such file"));
}
