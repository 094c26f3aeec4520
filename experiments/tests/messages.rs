//! Every message that docs/troubleshooting.md explains, and every exit code, is one that the real programs give.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qslm_coordinator::store::Store;
use support::{Running, program, qslm, root, succeed};

const SPEC: &str = "experiments/specs/plain.toml";

/// The documented messages with their exit codes.
fn documented() -> BTreeMap<String, i32> {
    let text = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let entry = |line: &str| {
        let (message, rest) = line.strip_prefix("**`")?.split_once("`** (")?;
        Some((message.to_owned(), rest.split_once(')')?.0.parse().unwrap()))
    };
    text.lines().filter_map(entry).collect()
}

/// Fails unless the program ended with the documented code and said what is documented: the words between `...` and
/// capital letters that stand for numbers.
fn holds(documented: &BTreeMap<String, i32>, message: &str, output: &Output) {
    let code = documented.get(message).unwrap_or_else(|| panic!("{message:?} is not documented"));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(*code), "{message:?}: {said}");
    let words =
        message.split("...").flat_map(|part| part.split(" N ")).flat_map(|part| part.split("N trials "));
    for words in words.map(str::trim).filter(|words| !words.is_empty()) {
        assert!(said.contains(words), "{message:?}: {words:?} is not in {said}");
    }
}

/// Address of a server that shows nothing to whoever asks without a token.
fn closed_hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    std::thread::spawn(move || listener.incoming().flatten().try_for_each(answer));
    address
}

fn set(settings: &[&str]) -> Vec<String> {
    settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]).collect()
}

fn run(store: &Path, settings: &[&str]) -> Output {
    let mut arguments = vec!["run".to_owned(), SPEC.to_owned(), "--quiet".to_owned()];
    arguments.extend(["--store".to_owned(), store.display().to_string()]);
    arguments.extend(set(settings));
    qslm(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_documented_message_is_one_that_a_program_gives() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let documented = documented();
    let mut given = BTreeSet::new();
    let mut give = |message: &str, output: Output| {
        holds(&documented, message, &output);
        given.insert(message.to_owned());
    };

    let held = Store::open(&at("held.redb")).unwrap();
    give("in use by another process", qslm(&["db", "check", at("held.redb").to_str().unwrap()]));
    drop(held);
    let nobody = ["list", "--coordinator", "http://127.0.0.1:1", "--connect-timeout", "0"];
    give("no coordinator answers at http://...", qslm(&nobody));
    let never = ["list", "--connect-timeout=-1"];
    give("connect_timeout = ...: expected 0 to 86400 seconds", qslm(&never));
    let socket = qslm(&["list", "--coordinator", "unix:///x"]);
    give("... = \"...\": expected http://HOST:PORT or https://HOST:PORT", socket);
    give("port ...: expected 1 to 65535", qslm(&["list", "--coordinator", "http://H:99999"]));
    let mut named = Command::new(program("qslm-coordinator"));
    let named = named.args(["--listen", "localhost:7477"]).output().unwrap();
    give("expected an address and port such as 127.0.0.1:7477", named);
    let misspelt = Command::new(support::QSLM).arg("list").env("QSLM_CLIENT_TOKEN_FIEL", "a").output();
    give("...: no such setting; did you mean ...?", misspelt.unwrap());
    let zeros = "0".repeat(64);
    let inspect = |address: &str| {
        let mut command = Command::new(support::QSLM);
        let cache = [("HF_HOME", at("home")), ("XDG_CACHE_HOME", at("cache"))];
        command.args(["inspect", address]).current_dir(root()).envs(cache).env("HF_HUB_OFFLINE", "1");
        command.output().unwrap()
    };
    let offline =
        "...: HF_HUB_OFFLINE is set, and it is not in the cache; fetch ... elsewhere and put it at ...";
    give(offline, inspect("hf://owner/name/model.pth"));
    let without = "...: a hash is missing: expected #sha256=DIGITS or #blake3=DIGITS";
    give(without, inspect("https://host/model.pth"));
    let other = format!("file://{}#sha256={zeros}", root().join(SPEC).display());
    give("...: it hashes to ..., expected ...", inspect(&other));
    let mut stranger = Command::new(support::QSLM);
    stranger.args(["inspect", "hf://owner/name/model.pth"]).env("HF_HOME", at("home"));
    let private = "...: the Hub answers 401 Unauthorized: there is no ..., or set HF_TOKEN if it is private";
    give(private, stranger.env("HF_ENDPOINT", closed_hub()).env_remove("HF_TOKEN").output().unwrap());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let version = Command::new(support::QSLM).arg("version").stdout(full).output().unwrap();
    give("standard output: No space left on device ...", version);
    let spec = root().join(SPEC);
    let limited = |limit: &str| {
        let words = format!("{limit}; exec {} run {} --store big.redb", support::QSLM, spec.display());
        Command::new("sh").args(["-c", &words]).current_dir(folder.path()).output().unwrap()
    };
    give("... more open files are needed and N can be had", limited("ulimit -n 16"));
    give("...: File too large ...", limited("ulimit -f 8"));
    let threads = support::without_threads(folder.path(), "qslm", &["list"]).output().unwrap();
    give("... more threads are needed and N can be had", threads);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = taken.local_addr().unwrap().to_string();
    let mut coordinator = Command::new(program("qslm-coordinator"));
    coordinator.args(["--listen", "127.0.0.1:0", "--web", &web, "--store"]).arg(at("web.redb"));
    give("web = \"...\": cannot listen there", coordinator.output().unwrap());
    let none = ["task.windows=1", "space.bits=[2]", "constraints.min_saving=0.5", "strategy.kind=grid"];
    let none = [&none[..], &["strategy.tier=global", "constraints.max_perplexity_increase=0.001"]].concat();
    give("no candidate meets the constraints", run(&at("none.redb"), &none));
    let budget = ["constraints.max_footprint_bytes=10"];
    let small = "... cannot be met: the smallest candidate of this space takes N bytes";
    give(small, run(&at("small.redb"), &budget));
    let classifier = ["checkpoint.path=experiments/models/sst2-xs.safetensors"];
    let other = "perplexity needs a language model, this checkpoint classifies";
    give(other, run(&at("other.redb"), &classifier));
    give("unknown field ..., expected one of ...", run(&at("unknown.redb"), &["bakend=flex"]));
    let broken = at("broken.safetensors");
    support::broken_checkpoint(&broken);
    let path = format!("checkpoint.path={}", broken.display());
    give("N trials failed: ...", run(&at("broken.redb"), &["task.windows=1", &path]));

    for (message, output) in about_files(folder.path()) {
        give(message, output);
    }

    let grid = ["task.windows=1", "space.bits=[4]", "strategy.kind=grid", "strategy.tier=global"];
    let (a, b) = (at("a.redb"), at("b.redb"));
    assert!([&a, &b].iter().all(|store| run(store, &grid).status.code() != Some(1)));
    support::contradict(&b);
    let [a, b, both] = [a, b, at("both.redb")].map(|path| path.to_str().unwrap().to_owned());
    let conflict = "N trials have different counts in different stores";
    give(conflict, qslm(&["reconcile", &a, &b, "--into", &both]));

    let mut give_of_files = |message: &str, arguments: &[&str]| give(message, qslm(arguments));
    outputs(folder.path(), &a, &mut give_of_files);
    imports(folder.path(), &a, &mut give_of_files);

    let inputs = folder.path().join("a.redb.artifacts");
    std::fs::remove_file(std::fs::read_dir(inputs).unwrap().next().unwrap().unwrap().path()).unwrap();
    give("... input files are damaged or missing: ...", qslm(&["db", "check", &a]));

    let (_coordinator, alone) = open_coordinator(&at("alone.redb"));
    let waits = ["submit", SPEC, "--coordinator", &alone, "--wait", "--no-worker-timeout", "1s"];
    give("no worker for ... (--no-worker-timeout); ...", qslm(&waits));

    let lost = at("lost.redb");
    let (mut coordinator, url) = open_coordinator(&lost);
    let id = succeed(&["submit", SPEC, "--coordinator", &url]);
    let mut watch = Command::new(support::QSLM);
    let mut watch = Running::start(watch.args(["watch", id.trim(), "--coordinator", &url]));
    watch.wait_for("sensitivity");
    std::fs::remove_file(&lost).unwrap();
    give("coordinator: the coordinator failed: ...", watch.output());
    give("the store was removed while it was open", coordinator.output());

    let mut open = Command::new(program("qslm-coordinator"));
    open.args(["--listen", "0.0.0.0:0", "--store"]).arg(folder.path().join("open.redb"));
    give("... reachable from other machines, where anybody could do anything", open.output().unwrap());
    let (_coordinator, url, token) = guarded(folder.path());
    give("a token is needed (token_file)", qslm(&["list", "--coordinator", &url]));
    let token = token.to_str().unwrap();
    let cancel = ["cancel", "plain", "--coordinator", &url, "--token-file", token];
    give("... is a reader; this takes a submitter", qslm(&cancel));
    let mut worker = Command::new(program("qslm-worker"));
    worker.args(["--coordinator", &url, "--token-file", token, "--cache-dir"]).arg(folder.path());
    give("the coordinator refuses this worker: ...", worker.output().unwrap());

    let documented: BTreeSet<String> = documented.into_keys().collect();
    assert_eq!(given, documented, "a documented message that no program is made to give here");
}

/// Messages about files that are not as they should be.
fn about_files(folder: &Path) -> Vec<(&'static str, Output)> {
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (model, tokenizer) =
        ("experiments/models/wikitext2-xs.safetensors", "experiments/models/tokenizer.json");
    let (classifier, text) = ("experiments/models/sst2-xs.safetensors", "experiments/data/encyclopaedia.txt");
    let eval = |model: &str, tokenizer: &str, data: &[&str]| {
        let arguments = ["eval", "--checkpoint", model, "--tokenizer", tokenizer, "--window", "32"];
        qslm(&[&arguments[..], &["--windows", "1"], data].concat())
    };
    let with = |model: &str| eval(model, tokenizer, &["--text", text]);
    let read = |path: &str| std::fs::read(root().join(path)).unwrap();
    let other = file("other.safetensors", &support::safetensors(&[("a", &[1.0])]));
    let both = [("a.emb.weight", &[1.0f32][..]), ("b.emb.weight", &[1.0])];
    let index = br#"{"weight_map": {"emb.weight": "model-00001-of-00002.safetensors"}}"#;
    let json = String::from_utf8(read(tokenizer)).unwrap();
    let cut = json.replacen(
        "\"truncation\": null",
        "\"truncation\": {\"max_length\": 8, \
        \"strategy\": \"LongestFirst\", \"stride\": 0, \"direction\": \"Right\"}",
        1,
    );
    let dropout = json.replacen("\"dropout\": null", "\"dropout\": 0.1", 1);
    assert!(cut != json && dropout != json);
    let marked = file("marked.txt", &[b"\xef\xbb\xbf", &read(text)[..]].concat());
    let returns = file("returns.txt", b"A line .\r\nAnother line .\r\n");
    let columns = file("columns.tsv", b"good\tfilm\t1\n");
    let [overflow, broken] = [3e4f32, 3e38].map(|weight| {
        let path = folder.join(format!("head-{weight}.safetensors"));
        support::checkpoint_with_head(&path, weight);
        path.to_str().unwrap().to_owned()
    });
    let generate = ["generate", "--checkpoint", &broken, "--tokenizer", tokenizer, "--prompt", "The"];
    let fewer = ["validate", SPEC, "--set", "task.windows=999999"];
    vec![
        ("missing tensor ...", with(&other)),
        ("ambiguous checkpoint: ...", with(&file("both.safetensors", &support::safetensors(&both)))),
        ("shard ..., which the index names, is not there", with(&file("index.json", index))),
        ("not a checkpoint: it is ...", with(&file("page.pth", b"<!DOCTYPE html><title>Log in</title>"))),
        (
            "model.dropout = ...: ids would be random, another at every reading",
            eval(model, &file("dropout.json", dropout.as_bytes()), &["--text", text]),
        ),
        (
            "truncation to N tokens is switched off",
            eval(model, &file("cut.json", cut.as_bytes()), &["--text", text]),
        ),
        ("a byte-order mark at its beginning is left out", eval(model, tokenizer, &["--text", &marked])),
        ("... of N lines end in CRLF: ...", eval(model, tokenizer, &["--text", &returns])),
        ("task.windows = ...: ... all of which are taken", qslm(&fewer)),
        ("line N has N columns: expected 2", eval(classifier, tokenizer, &["--labelled", &columns])),
        ("overflow: ... nats per token over N tokens", with(&overflow)),
        ("a logit behind token N is ...", qslm(&generate)),
    ]
}

/// Messages about what is written to, and about what is no file.
fn outputs(folder: &Path, store: &str, give: &mut dyn FnMut(&str, &[&str])) {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let damaged = at("damaged.redb");
    let mut bytes = std::fs::read(store).unwrap();
    // All but its header.
    bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0);
    std::fs::write(&damaged, bytes).unwrap();
    give("the store is damaged (...)", &["list", "--store", &damaged]);
    let report = ["report", "plain", "--store", store, "--out"];
    let mut to = |message: &str, out: &str| give(message, &[&report[..], &[out]].concat());
    to("is read by this command (...)", store);
    to("is a store; write somewhere else", &damaged);
    std::fs::write(at("notes"), "mine").unwrap();
    to("is there already and is no ...; --force replaces it", &at("notes"));
    to("cannot be written: ...", &at("no/such/folder"));
    to("nothing is known of ...: expected ..., or give --format", &at("x.pdf"));
    give("is a folder, not a file", &["list", "--store", &at("")]);
}

/// Messages about what comes from elsewhere.
fn imports(folder: &Path, store: &str, give: &mut dyn FnMut(&str, &[&str])) {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (rows, list) = (at("rows.jsonl"), at("list.jsonl"));
    let import = ["import", "results", &rows, "--into", store, "--experiment", "plain"];
    std::fs::write(&rows, "stage,candidate\n").unwrap();
    give("no lines of JSON", &import);
    let row = succeed(&["export", "plain", "--store", store, "--format", "jsonl"]);
    let mut row: serde_json::Value = serde_json::from_str(row.lines().last().unwrap()).unwrap();
    row["data"] = "other".into();
    std::fs::write(&rows, row.to_string()).unwrap();
    give("... = ...: the experiment has ...", &import);
    let schemes =
        row["schemes"].as_str().unwrap().split_whitespace().filter(|scheme| *scheme != "vectors=f32");
    let activations = schemes
        .clone()
        .filter(|scheme| !scheme.starts_with("emb."))
        .map(|scheme| format!("activation:{}=int8:symmetric:dynamic", scheme.split('=').next().unwrap()));
    let schemes: Vec<String> = schemes.map(str::to_owned).chain(activations).collect();
    let line = serde_json::json!({ "schemes": schemes.join(" ") }).to_string() + "\n";
    std::fs::write(&list, line.repeat(1000)).unwrap();
    let candidates = format!("strategy.candidates={list}");
    let plan = ["submit", SPEC, "--dry-run", "--set", "strategy.kind=list", "--set", &candidates];
    give("bytes: expected at most ...; make several lists of them", &plan);
}

/// A coordinator that lets everybody in, and its address.
fn open_coordinator(store: &Path) -> (Running, String) {
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]).arg(store);
    let mut coordinator = Running::start(&mut command);
    let url = coordinator.url();
    (coordinator, url)
}

/// A coordinator that knows one token, a reader's, which stands in the file of the second path.
fn guarded(folder: &Path) -> (Running, String, PathBuf) {
    let (tokens, token) = (folder.join("tokens"), folder.join("token"));
    std::fs::write(&tokens, "reader eve readerreaderreader").unwrap();
    std::fs::write(&token, "readerreaderreader").unwrap();
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--tokens"]).arg(tokens);
    let mut coordinator = Running::start(command.arg("--store").arg(folder.join("guarded.redb")));
    let url = coordinator.url();
    (coordinator, url, token)
}

/// Exit codes of the last line of help and of the table of docs/troubleshooting.md.
#[test]
fn every_documented_exit_code_is_one_that_a_program_gives() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let text = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let table = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let documented: BTreeSet<i32> =
        table.flat_map(|cell| cell.split(", ")).filter_map(|code| code.parse().ok()).collect();
    let mut given = BTreeSet::from([0]);
    succeed(&["version"]);
    let not_a_store = folder.path().join("text.redb");
    std::fs::write(&not_a_store, "text".repeat(2000)).unwrap();
    let held = Store::open(&folder.path().join("held.redb")).unwrap();
    for (code, arguments) in [
        (1, vec!["db", "check", not_a_store.to_str().unwrap()]),
        (2, vec!["run", SPEC, "--set", "task.window=0", "--store", store.to_str().unwrap()]),
        (2, vec!["lst"]),
        (3, vec!["run", "nowhere.toml"]),
        (4, vec!["db", "check", held.path().to_str().unwrap()]),
        (5, vec!["list", "--coordinator", "http://127.0.0.1:1", "--connect-timeout", "0"]),
    ] {
        let output = qslm(&arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        given.insert(code);
    }
    let (_coordinator, url, token) = guarded(folder.path());
    let cancel = ["cancel", "plain", "--coordinator", &url, "--token-file", token.to_str().unwrap()];
    assert_eq!(qslm(&cancel).status.code(), Some(7));
    given.insert(7);
    let (_alone, url) = open_coordinator(&folder.path().join("alone.redb"));
    let waits = ["submit", SPEC, "--coordinator", &url, "--wait", "--no-worker-timeout", "1s"];
    assert_eq!(qslm(&waits).status.code(), Some(8));
    given.insert(8);
    let unmet = [
        "task.windows=1",
        "space.bits=[2]",
        "constraints.min_saving=0.5",
        "strategy.kind=grid",
        "strategy.tier=global",
    ];
    assert_eq!(run(&store, &unmet).status.code(), Some(6));
    given.insert(6);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let store = folder.path().join(format!("{signal}.redb"));
        let mut command = Command::new(support::QSLM);
        command.args(["run", SPEC, "-v", "--store"]).arg(store);
        let mut running = Running::start(&mut command);
        running.wait_for("sensitivity");
        Command::new("kill").args([&format!("-{signal}"), &running.child.id().to_string()]).status().unwrap();
        assert_eq!(running.finish().0, Some(code));
        given.insert(code);
    }
    assert_eq!(given, documented);
    let help = succeed(&["--help"]);
    let codes = help.split("Exit codes:").nth(1).unwrap();
    assert!(documented.iter().all(|code| codes.contains(&code.to_string())), "{codes}");
}
