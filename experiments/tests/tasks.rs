//! Several tasks in one experiment: every candidate is measured on each, and bounds and objectives may look at any.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Running, json, program, refused, succeed};

const SPEC: &str = "experiments/specs/two-texts.toml";
/// So small that a search takes a second.
const SMALL: [&str; 8] = [
    "--set",
    "task.windows=2",
    "--set",
    "tasks.almanac.windows=1",
    "--set",
    "strategy={kind=\"grid\", tier=\"global\"}",
    "--set",
    "constraints={max_perplexity_increase=0.5, tasks={almanac=0.02}}",
];

#[test]
fn every_candidate_is_measured_on_both_texts_and_the_choice_is_within_both_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let store = store.to_str().unwrap();
    let run = ["run", SPEC, "--quiet", "--store", store, "--output", "json"];
    let front = json(&[&run[..], &SMALL].concat());
    let loss = |row: &Value, task: Option<&str>| match task {
        None => row["quality_loss"].as_f64().unwrap(),
        Some(task) => row["tasks"][task]["quality_loss"].as_f64().unwrap(),
    };
    let chosen = &front["chosen"];
    assert!(loss(chosen, None) <= 0.5 && loss(chosen, Some("almanac")) <= 0.02, "{chosen}");
    // The own text alone would allow smaller ones.
    let smaller = front["front"].as_array().unwrap().iter().filter(|row| {
        row["footprint_bytes"].as_u64() < chosen["footprint_bytes"].as_u64() && loss(row, None) <= 0.5
    });
    assert!(smaller.map(|row| loss(row, Some("almanac"))).filter(|loss| *loss > 0.02).count() > 0);

    // What is one trial of each task is what `eval` measures on it.
    let eval = |text: &str, windows: &str| {
        let model = ["--checkpoint", "experiments/models/wikitext2-xs.safetensors"];
        let data = ["--tokenizer", "experiments/models/tokenizer.json", "--text", text];
        let cut = ["--window", "128", "--windows", windows, "--output", "json"];
        json(&[&["eval"], &model[..], &data, &cut].concat())["perplexity"].as_f64().unwrap()
    };
    let float = &front["float"];
    assert_eq!(float["perplexity"].as_f64(), Some(eval("experiments/data/encyclopaedia.txt", "2")));
    let on_almanac = float["tasks"]["almanac"]["perplexity"].as_f64();
    assert_eq!(on_almanac, Some(eval("experiments/data/almanac.txt", "1")));

    // A cluster finds the same, and who has measured one text need not do it again for the two.
    let mut coordinator = Command::new(program("qslm-coordinator"));
    coordinator.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]);
    let mut coordinator = Running::start(coordinator.arg(folder.path().join("cluster.redb")));
    let url = coordinator.url();
    let mut worker = Command::new(program("qslm-worker"));
    worker.args(["--coordinator", &url, "--slots", "2", "--cache-dir"]).arg(folder.path().join("cache"));
    let mut worker = Running::start(&mut worker);
    for program in [&mut coordinator, &mut worker] {
        program.read_on();
    }
    let submit = ["submit", SPEC, "--wait", "--output", "json", "--coordinator", &url];
    let objectives = [
        "--set",
        "objectives=[\"perplexity\", \"footprint\"]",
        "--set",
        "tasks={}",
        "--set",
        "constraints={max_perplexity_increase=0.5}",
    ];
    let one = json(&[&submit[..], &SMALL[..6], &objectives].concat());
    assert!(one["float"]["tasks"].is_null());
    assert_eq!(json(&[&submit[..], &SMALL].concat()), front);
    let status = json(&["get", "two-texts", "--coordinator", &url, "--output", "json"]);
    assert_eq!(status["state"], "finished", "{status}");

    // Tables, exports and reports have a place for it.
    let printed = succeed(&["front", "two-texts", "--store", store]);
    assert!(printed.contains("almanac lost %") && printed.contains("\n  almanac: perplexity "), "{printed}");
    let rows = succeed(&["export", "two-texts", "--store", store, "--format", "jsonl"]);
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), front["measured"].as_u64().unwrap() as usize);
    for row in &rows {
        let within = row["quality_loss"].as_f64().unwrap() <= 0.5
            && row["tasks.almanac.quality_loss"].as_f64().unwrap() <= 0.02;
        assert_eq!(row["meets_constraints"], u64::from(within), "{row}");
    }
    let page = succeed(&["report", "two-texts", "--store", store, "--out", "-"]);
    assert!(page.contains("perplexity on almanac") && page.contains("<th>on almanac</th>"));
    let plan = json(&[&["submit", SPEC, "--dry-run", "--output", "json"][..], &SMALL].concat());
    let twice = plan["candidates_at_most"].as_u64().unwrap() * 2 * 4;
    assert_eq!(plan["evaluations_at_most"].as_u64(), Some(twice), "{plan}");
}

#[test]
fn multiple_choice_is_a_further_task_that_eval_measures_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let line = |context: &str, choices: [&str; 2], label: u32| {
        serde_json::json!({"context": context, "choices": choices, "label": label}).to_string()
    };
    let lines = [
        line("The city lies on the river and has", [" a large harbour .", " of the the and ( ."], 0),
        line("In the first season of the team ,", [" ; ; ; ;", " the club won"], 1),
        line("The first album of the band was released in", [" zebra", " the United States"], 1),
    ];
    std::fs::write(at("quiz.jsonl"), lines.join("\n")).unwrap();
    let quiz = format!("tasks={{quiz={{kind=\"choice\", questions={:?}, per_byte=true}}}}", at("quiz.jsonl"));
    let small =
        ["--set", "task.windows=2", "--set", "strategy={kind=\"grid\", tier=\"global\"}", "--set", &quiz];
    let bounds = ["--set", "constraints={max_perplexity_increase=0.5, tasks={quiz=0.0}}"];
    let objectives = ["--set", "objectives=[\"perplexity\", \"footprint\", \"tasks.quiz\"]"];
    let store = at("s.redb");
    let run = ["run", SPEC, "--quiet", "--store", &store, "--output", "json"];
    let front = json(&[&run[..], &small, &bounds, &objectives].concat());
    let float = front["float"]["tasks"]["quiz"]["accuracy"].as_f64().unwrap();
    assert!(float > 0.6, "{float}");
    assert_eq!(front["chosen"]["tasks"]["quiz"]["accuracy"].as_f64(), Some(float));
    let model = ["eval", "--checkpoint", "experiments/models/wikitext2-xs.safetensors"];
    let data =
        ["--tokenizer", "experiments/models/tokenizer.json", "--questions", &at("quiz.jsonl"), "--per-byte"];
    let alone = json(&[&model[..], &data, &["--output", "json"]].concat());
    assert_eq!((alone["accuracy"].as_f64(), alone["sentences"].as_u64()), (Some(float), Some(3)));
    let own = ["--set", &format!("task={{kind=\"choice\", questions={:?}}}", at("quiz.jsonl"))];
    let said = refused(2, &[&["submit", SPEC, "--dry-run"][..], &own].concat());
    assert!(said.contains("task.kind = choice: multiple choice is for further tasks"), "{said}");
}

#[test]
fn a_further_task_that_does_not_fit_is_named() {
    let wrong = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        refused(2, &["submit", SPEC, "--dry-run"].into_iter().chain(settings).collect::<Vec<_>>())
    };
    assert!(wrong(&["tasks.almanac.window=0"]).contains("tasks.almanac.window = 0: expected 1 to 65536"));
    let twice = [
        "tasks.again.kind=perplexity",
        "tasks.again.window=128",
        "tasks.again.text=experiments/data/encyclopaedia.txt",
    ];
    assert!(wrong(&twice).contains("tasks.again measures what the experiment's own task measures"));
    assert!(wrong(&["racing=proof"]).contains("racing: not with further tasks"));
    let said = wrong(&["constraints.tasks.books=0.1"]);
    assert!(said.contains("books: there is no such further task under [tasks]"), "{said}");
    assert!(
        wrong(&["tasks.Books={kind=\"accuracy\"}"]).contains("task \"Books\": expected a name of 1 to 16")
    );
    let missing = refused(3, &["submit", SPEC, "--dry-run", "--set", "tasks.almanac.text=nosuch.txt"]);
    assert!(missing.contains("nosuch.txt"), "{missing}");
}
