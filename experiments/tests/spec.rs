//! From files to a spec that is right: what `init` writes, `validate` says and `submit --dry-run` announces.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{json, qslm, refused, root, succeed};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const CLASSIFIER: &str = "experiments/models/sst2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";
const TEXT: &str = "experiments/data/encyclopaedia.txt";
const SENTENCES: &str = "experiments/data/sentences.tsv";

/// Writes a spec for a model and its data; its path.
fn init<'a>(folder: &Path, name: &'a str, data: [&'a str; 2], checkpoint: &'a str) -> String {
    let out = folder.join(name).to_str().unwrap().to_owned();
    let arguments = ["init", "--checkpoint", checkpoint, "--tokenizer", TOKENIZER, "--out", &out];
    assert_eq!(succeed(&[&arguments[..], &data].concat()).trim(), out);
    out
}

#[test]
fn what_init_writes_is_valid_and_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = init(folder.path(), "model.toml", ["--text", TEXT], MODEL);
    let classifier = init(folder.path(), "classifier.toml", ["--labelled", SENTENCES], CLASSIFIER);
    for spec in [&model, &classifier] {
        assert_eq!(succeed(&["validate", spec]), format!("{spec}: nothing is wrong\n"));
        let text = std::fs::read_to_string(spec).unwrap();
        assert!(!text.contains('{') && text.matches('#').count() > 10, "{text}");
    }
    assert!(
        refused(
            4,
            &["init", "--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", TEXT, "--out", &model]
        )
        .contains("is there already")
    );
    let wrong = ["init", "--checkpoint", CLASSIFIER, "--tokenizer", TOKENIZER, "--text", TEXT];
    assert!(refused(2, &wrong).contains("this checkpoint classifies"));
    refused(3, &["init", "--checkpoint", "nothing.pth", "--tokenizer", TOKENIZER, "--text", TEXT]);
}

#[test]
fn what_init_says_comes_next_and_its_files_are_named_from_the_spec() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.toml");
    let out = out.to_str().unwrap();
    let texts = folder.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    let near = texts.join("near.txt");
    std::fs::copy(root().join(TEXT), &near).unwrap();
    let near = near.to_str().unwrap();
    let output =
        qslm(&["init", "--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", near, "--out", out]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("next: qslm validate {out}; ")) && said.contains("--dry-run"), "{said}");
    let text = std::fs::read_to_string(out).unwrap();
    assert!(
        text.contains("# kind = \"epsilon_constraint\"") && text.contains("text = \"texts/near.txt\""),
        "{text}"
    );
    // The hint is one that works.
    let smallest = ["validate", out, "--set", "trade_off={ kind = \"epsilon_constraint\" }"];
    assert!(succeed(&smallest).contains("nothing is wrong"));
}

#[test]
fn several_specs_are_checked_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let good = init(folder.path(), "good.toml", ["--text", TEXT], MODEL);
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, std::fs::read_to_string(&good).unwrap().replace("mu = 1.0", "mu = -1.0")).unwrap();
    let wrong = wrong.to_str().unwrap();
    let output = qslm(&["validate", &good, wrong]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains(&format!("{good}: nothing is wrong\n{wrong}:")), "{said}");
    let output = qslm(&["validate", &good, wrong, "--output", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), rows[0]["spec"].as_str()), (1, Some(wrong)));
}

#[test]
fn every_problem_of_a_spec_is_told_at_once_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("s.toml");
    let problems = |text: &str| {
        std::fs::write(&spec, text).unwrap();
        let output = qslm(&["validate", spec.to_str().unwrap(), "--output", "json"]);
        assert_eq!(output.status.code(), Some(2));
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let row =
            |row: &serde_json::Value| (row["line"].as_u64(), row["problem"].as_str().unwrap().to_owned());
        rows.as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    // The form.
    let text = "name = \"x\"\nbakend = \"flex\"\n[checkpoint]\npath = \"no.pth\"\n[task]\nkind = \"perplexity\"\n\
        window = 128\n[space]\nbits = [8, 9]\nsymetry = \"affine\"\n";
    let found = problems(text);
    let lines: Vec<_> = found.iter().map(|(line, _)| line.unwrap()).collect();
    assert_eq!(lines, [2, 4, 9, 10], "{found:?}");
    assert!(
        found[0].1.ends_with("did you mean `backend`?") && found[1].1.contains("no such file"),
        "{found:?}"
    );

    // What it says.
    let at = |file: &str| root().join(file).display().to_string();
    let text = format!(
        "name = \"X\"\n[checkpoint]\npath = {:?}\ntokenizer = {:?}\n[task]\nkind = \"perplexity\"\ntext = {:?}\n\
         window = 128\nstride = 200\n[constraints]\nmax_accuracy_drop = 0.5\nmin_saving = 0.999\n",
        at(MODEL),
        at(TOKENIZER),
        at(TEXT)
    );
    let found = problems(&text);
    let lines: Vec<_> = found.iter().filter_map(|(line, _)| *line).collect();
    assert!([1, 9, 11, 12].iter().all(|line| lines.contains(line)), "{found:?}");
    refused(3, &["validate", "no/such/spec.toml"]);
}

#[test]
fn a_dry_run_tells_what_a_search_would_do_and_asks_no_coordinator() {
    let spec = "experiments/specs/plain.toml";
    let plan = json(&["submit", spec, "--set", "task.windows=5", "--dry-run", "--output", "json"]);
    let number = |key: &str| plan[key].as_f64().unwrap();
    assert_eq!(number("evaluations_at_most"), 4.0 * number("candidates_at_most"));
    assert!(number("tokens_per_second") > 0.0 && number("seconds_at_most") > 0.0);
    // Float and 29 matrices; the search takes 90 candidates in the end.
    assert_eq!(
        (&plan["stages"][0]["stage"], &plan["stages"][0]["candidates_at_most"]),
        (&"sensitivity".into(), &30.into())
    );
    let stages = plan["stages"].as_array().unwrap().iter();
    let sum: u64 = stages.map(|stage| stage["candidates_at_most"].as_u64().unwrap()).sum();
    assert!(sum >= 90 && number("candidates_at_most") == sum as f64, "{plan}");
    let table = succeed(&[
        "submit",
        spec,
        "--set",
        "strategy.kind=grid",
        "--set",
        "strategy.tier=global",
        "--dry-run",
    ]);
    assert!(table.contains("6 candidates at most, 24 evaluations"), "{table}");
}

#[test]
fn the_program_says_what_it_is() {
    let version = json(&["version", "--output", "json"]);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["backends"], serde_json::json!(["native", "integer", "flex", "ndarray"]));
    let commit = version["commit"].as_str().unwrap();
    assert!(commit == "unknown" || commit.len() == 12, "{commit}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(succeed(&["completions", shell]).contains("prioritize"), "{shell}");
    }
    let output = qslm(&["vaildate"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && errors.contains("'validate'"), "{errors}");
}
