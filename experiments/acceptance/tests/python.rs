//! The Python examples, against a real coordinator and a real export.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use qslm_acceptance::{Cluster, Running, after, pictures, program, root, succeed};

/// Python with the packages of `experiments/python/requirements.txt`; made by `.ci/run`.
fn python() -> PathBuf {
    let path = root().join("target/python/bin/python");
    assert!(
        path.is_file(),
        "python3 -m venv target/python && target/python/bin/pip install -r experiments/python/requirements.txt"
    );
    path
}

/// Runs a script and gives what it prints.
fn run(script: &str, arguments: &[&str]) -> String {
    let script = root().join("experiments/python").join(script);
    let output = Command::new(python()).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_follows_an_experiment_and_plots_its_export() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), true);
    let submit = ["submit", "experiments/specs/plain.toml", "--coordinator", &cluster.url];
    let id = succeed(&[&submit[..], &["--set", "task.windows=5"]].concat()).trim().to_owned();
    let said = run("follow.py", &[cluster.url.strip_prefix("http://").unwrap(), &id]);
    let front = succeed(&["front", &id, "--coordinator", &cluster.url, "--output", "json"]);
    let front: serde_json::Value = serde_json::from_str(&front).unwrap();
    assert!(said.contains(&format!("finished: {} candidates", front["measured"])), "{said}");
    let chosen = &front["chosen"]["candidate"].as_str().unwrap()[..12];
    assert!(said.contains(&format!("chosen: {chosen}, ")), "{said}");

    let parquet = folder.path().join("candidates.parquet");
    succeed(&["export", &id, "--coordinator", &cluster.url, "--out", parquet.to_str().unwrap()]);
    let picture = pictures().join("python.png");
    let best = run("plot.py", &[parquet.to_str().unwrap(), picture.to_str().unwrap()]);
    assert!(best.contains(front["chosen"]["candidate"].as_str().unwrap()), "{best}");
    assert_eq!(std::fs::read(picture).unwrap()[..4], *b"\x89PNG");
}

#[test]
fn a_sampler_of_optuna_searches_on_while_the_coordinator_is_killed_and_its_front_is_that_of_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let coordinator = |address: &str| {
        let mut command = Command::new(program("qslm-coordinator"));
        command.args(["--listen", address, "--web", "off", "--lease-ttl-s", "1", "--store", &path("s.redb")]);
        let mut running = Running::start(&mut command);
        let address = after(&running.wait_for("listening"), "address=");
        (running, address)
    };
    let (killed, address) = coordinator("127.0.0.1:0");
    let url = format!("http://{address}");
    let mut command = Command::new(program("qslm-worker"));
    command.args(["--coordinator", &url, "--slots", "2", "--cache-dir", &path("cache")]);
    let mut worker = Running::start(&mut command);
    worker.wait_for("working");
    let spec = ["experiments/specs/plain.toml", "--set", "task.windows=16", "--set", "run.shards=16"];
    let spec = [&spec[..], &["--set", "racing=confidence:0.95"]].concat();
    let submit = ["--set", "strategy.kind=external", "--coordinator", &url];
    let id = succeed(&[&["submit"], &spec[..], &submit].concat()).trim().to_owned();

    let mut search = Command::new(python());
    search.arg(root().join("experiments/python/optuna_search.py")).args([&address, &id]);
    search.args(["--study", &path("study.db"), "--generations", "4", "--size", "6"]);
    let mut search = search.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(search.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.next().unwrap().starts_with("generation 1: "));
    drop(killed);
    let (_coordinator, _) = coordinator(&address);
    let said: Vec<String> = said.collect();
    assert!(search.wait().unwrap().success());
    assert!(said.len() == 4 && said[3].starts_with("best: "), "{said:?}");

    let at = ["--coordinator", &url];
    let read = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeed(&[arguments, &at, &["--output", "json"]].concat())).unwrap()
    };
    let (status, told) = (read(&["get", &id]), read(&["front", &id]));
    assert_eq!((&status["state"], &status["told"]), (&"finished".into(), &4.into()), "{status}");
    assert!(status["stopped"].as_u64() > Some(0), "nothing was pruned: {status}");
    let listed = path("measured.jsonl");
    succeed(&[&["export", &id, "--out", &listed][..], &at].concat());
    let (candidates, store) = (format!("strategy.candidates={listed}"), path("list.redb"));
    let list = ["--set", "strategy.kind=list", "--set", &candidates, "--store", &store, "--output", "json"];
    let list: serde_json::Value =
        serde_json::from_str(&succeed(&[&["run", "--quiet"], &spec[..], &list].concat())).unwrap();
    for key in ["front", "chosen"] {
        assert_eq!(told[key], list[key], "{key}");
    }
}

#[test]
fn a_study_that_optuna_wrote_is_shown_beside_the_front() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (store, study) = (path("s.redb"), path("study.db"));
    succeed(&[
        "run",
        "experiments/specs/plain.toml",
        "--quiet",
        "--store",
        &store,
        "--set",
        "task.windows=2",
    ]);
    run("optuna_study.py", &[&study]);
    let into = ["--into", &store, "--experiment", "plain"];
    let said =
        succeed(&[&["import", "optuna", &study, "--values", "quality_loss,saving"][..], &into].concat());
    assert!(said.starts_with("optuna: by-block: 30 points"), "{said}");
    let page = succeed(&["report", "plain", "--store", &store, "--out", "-"]);
    assert!(page.contains("optuna: by-block, trial "), "no point of the study is on the plot");
}

#[test]
fn a_packed_file_is_loaded_by_numpy_alone_to_the_weights_that_were_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (packed, float) = (path("packed.safetensors"), path("float.safetensors"));
    let loss = |checkpoint: &str| {
        let data = ["--tokenizer", "experiments/models/tokenizer.json", "--window", "128", "--windows", "2"];
        let text = ["--text", "experiments/data/encyclopaedia.txt", "--output", "json"];
        let said = succeed(&[&["eval", "--checkpoint", checkpoint], &data[..], &text].concat());
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["nll_sum"].clone()
    };
    let schemes = [
        &["--bits", "4", "--embedding", "sign"][..],
        &["--bits", "3", "--symmetry", "full", "--granularity", "group:64"],
        &["--bits", "5", "--symmetry", "affine", "--scales", "pow2", "--embedding", "sign"],
        &["--bits", "8", "--granularity", "tensor", "--scales", "f32"],
        &["--bits", "16"],
    ];
    for scheme in schemes {
        let model = ["apply", "--checkpoint", "experiments/models/wikitext2-xs.safetensors", "--force"];
        succeed(&[&model[..], scheme, &["--out", &packed]].concat());
        assert!(run("unpack.py", &[&packed, &float]).contains("tensors"));
        assert_eq!(loss(&float), loss(&packed), "{scheme:?}: the same to the bit");
    }
}

#[test]
fn published_data_sets_become_what_qslm_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Both as they are published: lines with their ends, and an empty text for an empty line; a third column.
    let make = format!(
        "import pandas; pandas.DataFrame({{'text': ['', ' = A title = \\n', ' A <unk> word . \\n']}}).to_parquet('{}'); \
         pandas.DataFrame({{'sentence': ['a charming film ', 'a \"bad\" one '], 'label': [1, 0], 'idx': [0, 1]}}).to_parquet('{}')",
        path("wiki.parquet"),
        path("sst2.parquet")
    );
    let made = Command::new(python()).args(["-c", &make]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(run("datasets.py", &["wikitext", &path("wiki.parquet"), &path("valid.txt")]).contains("3 lines"));
    let text = std::fs::read_to_string(path("valid.txt")).unwrap();
    assert_eq!(text, " \n = A title = \n A <unk> word . \n");
    run("datasets.py", &["sst2", &path("sst2.parquet"), &path("dev.tsv")]);
    let sentences = "a charming film\t1\na \"bad\" one\t0\n";
    assert_eq!(std::fs::read_to_string(path("dev.tsv")).unwrap(), sentences);
    std::fs::write(path("glue.tsv"), "sentence\tlabel\na charming film \t1\na \"bad\" one \t0\n").unwrap();
    run("datasets.py", &["sst2", &path("glue.tsv"), &path("again.tsv")]);
    assert_eq!(std::fs::read_to_string(path("again.tsv")).unwrap(), sentences);
}
