//! Whole experiments in one process: the same answer however it is reached, and nothing done twice.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{QSLM, Running, TINY, qslm, refused, shared, succeed};

const PLAIN: &str = "experiments/specs/plain.toml";
/// A tenth of the text: enough to search, quick enough to do often.
const SMALL: [&str; 2] = ["--set", "task.windows=5"];

fn run_arguments<'a>(store: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", PLAIN, "--store", store.to_str().unwrap()];
    arguments.extend(SMALL);
    arguments.extend(more);
    arguments
}

/// Runs the small experiment; what it printed.
fn run(store: &Path, more: &[&str]) -> String {
    succeed(&run_arguments(store, more))
}

fn front_file(store: &Path) -> PathBuf {
    let files = std::fs::read_dir(store.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut fronts: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(".front.json")).collect();
    assert_eq!(fronts.len(), 1);
    fronts.remove(0)
}

fn evaluated(table: &str) -> u64 {
    let line = table.lines().find(|line| line.starts_with("Evaluated in this run:")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_front_is_the_same_bytes_for_any_number_of_workers_and_shards() {
    let folder = tempfile::tempdir().unwrap();
    let front = |name: &str, more: &[&str]| {
        let store = folder.path().join(name).join("s.redb");
        let printed = run(&store, &[&["--output", "json"], more].concat());
        let written = std::fs::read_to_string(front_file(&store)).unwrap();
        assert_eq!(printed, written, "what is printed is what is written");
        written
    };
    let one = front("a", &["--workers", "1", "--set", "run.shards=1"]);
    assert!(one.contains("\"chosen\": {") && one.contains("\"uniform\": ["));
    assert_eq!(one, front("b", &["--workers", "4", "--set", "run.shards=1"]));
    assert_eq!(one, front("c", &["--workers", "1", "--set", "run.shards=3"]));
    // More shards than windows: some are empty.
    assert_eq!(one, front("d", &["--workers", "4", "--set", "run.shards=8"]));
}

#[test]
fn a_race_chooses_what_a_full_search_chooses() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| -> Value {
        let store = folder.path().join(name).join("s.redb");
        let shards = ["--set", "run.shards=20", "--set", "task.windows=20", "--output", "json"];
        let arguments = ["run", PLAIN, "--store", store.to_str().unwrap()];
        let front = serde_json::from_str(&succeed(&[&arguments[..], &shards, more].concat())).unwrap();
        // A second run comes to the same verdicts, and has nothing to do.
        assert_eq!(evaluated(&succeed(&[&arguments[..], &shards[..4], more].concat())), 0);
        front
    };
    let all = run("all", &[]);
    for racing in ["proof", "confidence:0.99"] {
        let raced = run(&racing.replace(':', "-"), &["--set", &format!("racing={racing}")]);
        assert_eq!((&raced["chosen"], &raced["measured"]), (&all["chosen"], &all["measured"]));
        assert_eq!(raced["racing"], racing);
        let rows = raced["front"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["quality_loss"].as_f64().unwrap() <= 0.03));
    }
    let arguments = ["run", PLAIN, "--set", "racing=soon"];
    assert!(refused(2, &arguments).contains("expected \"proof\" or \"confidence:P\""));
}

#[test]
fn an_experiment_may_weigh_and_bound_the_divergence_from_the_float_model() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, more: &[&str]| {
        let store = folder.path().join(name).to_str().unwrap().to_owned();
        let objectives =
            ["--set", "objectives=[\"kl\", \"footprint\"]", "--set", "constraints={ max_kl = 0.2 }"];
        // A table as a whole takes the place of what was set in it.
        let arguments = [&["run", PLAIN, "--store", &store], &TINY[..8], &objectives, more].concat();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        (store, arguments)
    };
    let run = |name: &str, more: &[&str]| {
        let (store, arguments) = of(name, &[more, &["--output", "json"]].concat());
        let text = succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        (store, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (store, front) = run("one", &["--workers", "1"]);
    let (_, four) = run("four", &["--workers", "4", "--set", "run.shards=1"]);
    assert_eq!(front, four, "the same bits for any number of workers and shards");
    assert_eq!(front["objectives"], serde_json::json!(["kl", "footprint"]));
    let kl = |row: &Value| row["kl"].as_f64().unwrap();
    assert_eq!((kl(&front["float"]), &front["float"]["counts"]["kl"]), (0.0, &0.into()));
    let rows = front["front"].as_array().unwrap();
    assert!(rows.len() > 2);
    // Ordered by bytes, whoever takes more diverges less.
    assert!(rows.windows(2).all(|pair| kl(&pair[0]) > kl(&pair[1])), "{front}");
    let chosen = &front["chosen"];
    assert!(kl(chosen) > 0.0 && kl(chosen) <= 0.2, "{chosen}");
    assert!(front["hypervolume"].as_f64().is_some_and(|volume| volume > 0.5), "{front}");

    // What is exported has it, and is taken in again.
    let id = front["experiment"].as_str().unwrap();
    let lines = succeed(&["export", id, "--store", &store, "--format", "jsonl"]);
    let exported = folder.path().join("rows.jsonl");
    std::fs::write(&exported, &lines).unwrap();
    let found = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_chosen = found.filter(|row| row["candidate"] == chosen["candidate"]).collect::<Vec<_>>();
    assert_eq!(of_chosen[0]["kl"], chosen["kl"]);
    let nats = chosen["counts"]["kl"].as_u64().unwrap() as f64 / f64::from(1 << 24);
    assert_eq!(of_chosen[0]["kl_nats"].as_f64(), Some(nats));
    assert!(of_chosen[0]["protocol"].as_str().unwrap().ends_with(" kl"));
    let import = ["import", "results", exported.to_str().unwrap(), "--into", &store, "--experiment", id];
    assert!(succeed(&import).starts_with("0 new results"));
    let table = succeed(&["front", id, "--store", &store]);
    assert!(table.contains("divergence from the float model"), "{table}");

    // Nobody else pays: the same candidates without it are other trials, and have none.
    let store = folder.path().join("none");
    let plain =
        [&["run", PLAIN, "--store", store.to_str().unwrap()], &TINY[..], &["--output", "json"]].concat();
    let plain: Value = serde_json::from_str(&succeed(&plain)).unwrap();
    assert!(plain["float"]["kl"].is_null() && plain["float"]["counts"]["kl"].is_null());
    assert_eq!(plain["float"]["counts"]["nll"], front["float"]["counts"]["nll"]);
    let (_, arguments) = of("refused", &["--set", "racing=proof"]);
    let words = refused(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(words.contains("racing: needs a bound on quality"), "{words}");
}

#[test]
fn a_table_of_the_calibration_data_takes_the_place_of_groups_alone() {
    let folder = tempfile::tempdir().unwrap();
    let calibration =
        ["--set", "calibration.text=experiments/data/almanac.txt", "--set", "calibration.sequences=4"];
    let allocate = |table: &str| format!("strategy={{kind=\"allocate\", tier=\"module\"{table}}}");
    let evaluations = |name: &str, table: &str, more: &[&str]| {
        let store = folder.path().join(name);
        let (strategy, store) = (allocate(table), store.to_str().unwrap().to_owned());
        let run = [
            "run",
            "experiments/specs/plain.toml",
            "--store",
            &store,
            "--set",
            &strategy,
            "--set",
            "task.windows=4",
        ];
        let text = succeed(&[&run[..], &["--output", "json"], more].concat());
        let front: serde_json::Value = serde_json::from_str(&text).unwrap();
        (front["measured"].as_u64().unwrap(), text)
    };
    let measured = evaluations("alone", "", &[]).0;
    let (by_fisher, front) = evaluations("fisher", ", table=\"fisher\"", &calibration);
    let (by_outputs, _) = evaluations("outputs", ", table=\"outputs\"", &calibration);
    // Blocks, embedding and head at two levels, in the place of nine modules.
    assert!(by_fisher < measured && by_outputs < measured, "{by_fisher} {by_outputs} {measured}");
    // The same bytes of calibrated codes and tables, made by other threads.
    let gptq = [&calibration[..], &["--set", "space.rounding=gptq", "--set", "space.symmetry=full"]].concat();
    let one = evaluations("one", ", table=\"fisher\"", &[&gptq[..], &["--workers", "1"]].concat());
    assert_eq!(one, evaluations("two", ", table=\"fisher\"", &[&gptq[..], &["--workers", "2"]].concat()));
    assert_ne!(one.1, front);

    let refused_with = |table: &str, more: &[&str], words: &str| {
        let (strategy, store) = (allocate(table), folder.path().join("no"));
        let run =
            ["run", "experiments/specs/plain.toml", "--store", store.to_str().unwrap(), "--set", &strategy];
        let said = refused(2, &[&run[..], more].concat());
        assert!(said.contains(words), "{said}");
    };
    refused_with(", table=\"fisher\"", &[], "strategy.table needs a [calibration] table that names its data");
    refused_with(", losses=[[1]]", &calibration, "strategy.losses: a job makes it");
    refused_with(
        ", table=\"hessian\"",
        &calibration,
        "unknown variant `hessian`, expected `fisher` or `outputs`",
    );
}

#[test]
fn sensitivity_on_part_of_the_data_takes_less() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let store = folder.path().join(name);
        let arguments = ["run", PLAIN, "--store", store.to_str().unwrap(), "--set", "task.windows=12"];
        let first = succeed(&[&["-v"], &arguments[..], more].concat());
        let again = succeed(&[&arguments[..], more].concat());
        assert!(evaluated(&again) == 0 && !again.contains("Arithmetic"), "all is on record: {again}");
        let share = first.split("Arithmetic: ").nth(1).unwrap().split(' ').next().unwrap();
        share.parse::<f64>().unwrap()
    };
    let whole = run("whole", &[]);
    let part = run("part", &["--set", "strategy.sensitivity_sequences=2"]);
    assert!(part < whole - 10.0, "{part} % and {whole} %");
    let none = ["run", PLAIN, "--set", "strategy.sensitivity_sequences=0"];
    assert!(refused(2, &none).contains("sensitivity_sequences = 0: expected 1 or more"));
}

#[test]
fn a_second_run_evaluates_nothing_and_prints_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let first = run(&store, &[]);
    let second = run(&store, &[]);
    assert!(evaluated(&first) > 50);
    assert_eq!(evaluated(&second), 0);
    let body = |table: &str| table.split("Evaluated in this run").next().unwrap().to_owned();
    assert_eq!(body(&first), body(&second));
}

#[test]
fn a_quiet_run_says_nothing_but_its_result_and_a_loud_one_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let said = |flag: &str| {
        let output = qslm(&run_arguments(&store, &[flag]));
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(said("--quiet"), "");
    assert!(said("-vv").contains(" DEBUG "));
    let both = qslm(&run_arguments(&store, &["--quiet", "-v"]));
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole/s.redb");
    let total = evaluated(&run(&whole, &[]));

    let store = folder.path().join("killed/s.redb");
    let mut left = total;
    // Killed at the start, after the first tier, and in a later one.
    for words in ["sensitivity", "global", "block"] {
        let mut program = Running::start(Command::new(QSLM).args(run_arguments(&store, &[])));
        program.wait_for(words);
        program.kill();
        let again = qslm(&["list", "--store", store.to_str().unwrap(), "--output", "json"]);
        let listed: Value = serde_json::from_slice(&again.stdout).unwrap();
        let stored = listed[0]["measured"].as_u64().unwrap();
        assert!(total - stored <= left, "finished work was lost");
        left = total - stored;
    }
    assert!(left < total, "nothing was kept");
    let finished = run(&store, &[]);
    assert_eq!(evaluated(&finished), left);
    let bytes = |store: &Path| std::fs::read(front_file(store)).unwrap();
    assert_eq!(bytes(&whole), bytes(&store));
}

#[test]
fn an_interrupted_experiment_in_the_same_store_does_not_hold_up_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let mut program = Running::start(Command::new(QSLM).args(run_arguments(&store, &[])));
    program.wait_for("global");
    program.kill();
    // Other measurements, so that nothing is shared.
    run(&store, &["--set", "task.window=64"]);
    let listed = succeed(&["list", "--store", store.to_str().unwrap(), "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!([&listed[0]["state"], &listed[1]["state"]], ["interrupted", "finished"]);
    // The page says so, too, and not how many workers there are: there is nobody to count them.
    let id = listed[0]["id"].as_str().unwrap();
    let page = succeed(&["report", id, "--store", store.to_str().unwrap(), "--out", "-"]);
    assert!(
        page.contains("class=\"state interrupted\">interrupted") && !page.contains("tokens/s;"),
        "{page}"
    );
}

#[test]
fn an_interrupt_ends_with_its_own_code_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    for (signal, words, expected) in [("-INT", "sensitivity", 130), ("-TERM", "global", 143)] {
        let mut program = Running::start(Command::new(QSLM).args(run_arguments(&store, &[])));
        program.wait_for(words);
        let pid = program.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let (code, _, errors) = program.finish();
        assert_eq!(code, Some(expected), "{errors}");
        assert!(errors.contains("run the same command again"), "{errors}");
    }
    assert!(evaluated(&run(&store, &[])) > 0);
}

#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let mut program = Running::start(Command::new(QSLM).args(run_arguments(&store, &[])));
    program.wait_for("sensitivity");
    let error = refused(4, &run_arguments(&store, &[]));
    assert!(error.contains("s.redb: in use by another process"), "{error}");
}

#[test]
fn the_baselines_and_the_classifier_run_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let store = store.to_str().unwrap();
    let mut grid =
        vec!["run", "experiments/specs/baselines.toml", "--store", store, "--set", "task.windows=2"];
    grid.extend(["--set", "space.bits=[6, 3]"]);
    // Four blocks and the head over two widths, and the float model.
    assert!(succeed(&grid).contains("Evaluated in this run: 33"));
    let random = "strategy={ kind = \"random\", tier = \"block\", trials = 7, seed = 1 }";
    grid.extend(["--set", random]);
    // All seven are points of the grid that was measured into the same store.
    assert!(succeed(&grid).contains("Evaluated in this run: 0"));
    let mut sentiment = vec!["run", "experiments/specs/sentiment.toml", "--store", store];
    sentiment.extend(["--set", "task.sentences=40", "--set", "space.bits=[4, 2]"]);
    assert!(succeed(&sentiment).contains("accuracy"));
    let all = succeed(&["list", "--store", store]);
    assert_eq!(all.lines().filter(|line| line.contains("finished")).count(), 3, "{all}");
}

#[test]
fn an_unmet_constraint_has_its_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    // A saving that only 2 bits reach, at a loss that 2 bits cannot keep.
    let more = ["--set", "constraints.min_saving=0.93", "--set", "space.bits=[8, 2]"];
    let output = qslm(&run_arguments(&store, &more));
    assert_eq!(output.status.code(), Some(6));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // The front, the list and the report say which bound is how far away.
    let told = "o candidate meets the constraints. Within a saving of 93.00 % the smallest loss is +";
    assert!(printed.contains(told) && said.contains(told), "{printed} {said}");
    assert!(
        said.contains(" Within +3.00 % the most that is saved is ") && said.contains("Loosen one."),
        "{said}"
    );
    let listed = succeed(&["list", "--store", store.to_str().unwrap()]);
    assert!(listed.contains("chose nothing. Within a saving of 93.00 %"), "{listed}");
    let listed: Value =
        serde_json::from_str(&succeed(&["list", "--store", store.to_str().unwrap(), "--output", "json"]))
            .unwrap();
    assert!(listed[0]["unmet"].as_str().unwrap().ends_with("Loosen one."), "{listed}");
    let front = succeed(&["front", "plain", "--store", store.to_str().unwrap(), "--output", "json"]);
    let front: Value = serde_json::from_str(&front).unwrap();
    let keys: Vec<_> = front["unmet"].as_array().unwrap().iter().map(|one| &one["constraint"]).collect();
    assert_eq!(keys, ["max_perplexity_increase", "min_saving"]);
    let page = succeed(&["report", "plain", "--store", store.to_str().unwrap(), "--out", "-"]);
    assert!(page.contains("class=\"state unmet\"") && page.contains("Within a saving of 93.00 %"));
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn wikitext_2_is_cut_by_more_than_the_papers_figure_within_three_percent() {
    let shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let text = format!("task.text={}", shared.join("data/wikitext-2/valid.txt").display());
    let mut arguments = vec!["run", "experiments/specs/wikitext2.toml", "--set", &text];
    arguments.extend(["--set", "task.windows=64", "--store", store.to_str().unwrap(), "--output", "json"]);
    let front: Value = serde_json::from_str(&succeed(&arguments)).unwrap();
    let chosen = &front["chosen"];
    assert!(chosen["saving"].as_f64().unwrap() > 0.865, "{chosen}");
    assert!(chosen["quality_loss"].as_f64().unwrap() <= 0.03, "{chosen}");
}
