//! Addresses in the place of paths: files of a server that answers as the Hub does measure what the same files here measure,
//! under the same ids, and it is on record where they came from.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "../../common/fetch/tests/server/mod.rs"]
#[allow(dead_code)]
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use server::{COMMIT, Server};
use support::{QSLM, root, tensors, write_tensors};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";
const TEXT: &str = "experiments/data/encyclopaedia.txt";
const SPEC: &str = "experiments/specs/plain.toml";

/// A server with the bundled files in `owner/name`, and a cache.
struct Fixture {
    server: Server,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let server = Server::start();
        let of = |file: &str| std::fs::read(root().join(file)).unwrap();
        server.large("owner/name", "model.safetensors", &of(MODEL));
        server.small("owner/name", "tokenizer.json", &of(TOKENIZER));
        server.small("owner/name", "data/text.txt", &of(TEXT));
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(QSLM);
        command.args(arguments).current_dir(root());
        command.env("HF_ENDPOINT", self.server.url("")).env("HF_HOME", self.at("home"));
        command.env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN").env("XDG_CACHE_HOME", self.at("cache"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.succeed(arguments)).unwrap()
    }

    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
        said
    }
}

const ADDRESSES: [&str; 3] =
    ["hf://owner/name/model.safetensors", "hf://owner/name/tokenizer.json", "hf://owner/name/data/text.txt"];

fn measure(files: [&str; 3]) -> Vec<&str> {
    let [model, tokenizer, text] = files;
    let data = ["eval", "--checkpoint", model, "--tokenizer", tokenizer, "--text", text];
    [&data[..], &["--window", "32", "--windows", "4", "--output", "json"]].concat()
}

#[test]
fn a_published_file_measures_what_the_same_file_here_measures() {
    let hub = Fixture::new();
    let here = hub.json(&measure([MODEL, TOKENIZER, TEXT]));
    let there = hub.json(&measure(ADDRESSES));
    for key in ["nll_sum", "tokens", "candidate", "footprint_bytes"] {
        assert_eq!(here[key], there[key], "{key}");
    }
    assert!(hub.at("home/hub/models--owner--name/refs/main").is_file());
    assert!(hub.succeed(&["inspect", ADDRESSES[0]]).contains("V "));
    // Kept, so it goes on without the Hub.
    let offline = hub.command(&measure(ADDRESSES)).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline.status.success(), "{}", String::from_utf8_lossy(&offline.stderr));
    let sum = server::sha256(&std::fs::read(root().join(MODEL)).unwrap());
    let web = format!("{}#sha256={sum}", hub.server.url("/elsewhere/model.safetensors"));
    let file = format!("file://{}", root().join(TEXT).display());
    assert_eq!(hub.json(&measure([&web, TOKENIZER, &file]))["nll_sum"], here["nll_sum"]);
}

#[test]
fn an_experiment_has_the_id_of_its_contents_and_says_where_they_came_from() {
    let hub = Fixture::new();
    let run = |store: &Path, more: &[&str]| {
        let store = store.display().to_string();
        let small = ["--set", "task.windows=1", "--set", "task.window=32", "--set", "space.bits=[8]"];
        let small = [&small[..], &["--set", "strategy.kind=grid", "--set", "strategy.tier=global"]].concat();
        hub.json(&[&["run", SPEC, "--store", &store, "--output", "json"][..], &small, more].concat())
    };
    let settings = ["checkpoint.path", "checkpoint.tokenizer", "task.text"];
    let settings: Vec<String> =
        settings.iter().zip(ADDRESSES).map(|(key, at)| format!("{key}={at}")).collect();
    let more: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (store, plain) = (hub.at("s.redb"), hub.at("p.redb"));
    let (here, there) = (run(&plain, &["--set", &format!("task.text={TEXT}")]), run(&store, &more));
    assert_eq!(here, there, "the front is the same bytes, and so is the id");
    let id = there["experiment"].as_str().unwrap();
    let report = |store: &Path| {
        let store = store.display().to_string();
        hub.json(&["report", id, "--store", &store, "--format", "json", "--out", "-"])
    };
    let checkpoint = there["checkpoint"].as_str().unwrap();
    let origin = format!("hf://owner/name@{COMMIT}/model.safetensors");
    let with = report(&store);
    assert_eq!(with["origins"][checkpoint], origin.as_str(), "{}", with["origins"]);
    assert_eq!(with["origins"].as_object().unwrap().len(), 3);
    assert!(report(&plain).get("origins").is_none());

    let packed = hub.at("packed.safetensors").display().to_string();
    hub.succeed(&["apply", "--checkpoint", ADDRESSES[0], "--bits", "8", "--out", &packed]);
    let inspected = hub.json(&["inspect", &packed, "--output", "json"]);
    assert_eq!(inspected["provenance"]["origin"], origin.as_str());
    assert_eq!(inspected["provenance"]["checkpoint"], checkpoint);
    assert!(
        hub.succeed(&["inspect", &packed]).contains(&format!("its checkpoint was fetched from {origin}"))
    );
    let packed = hub.at("of-a-file.safetensors").display().to_string();
    hub.succeed(&["apply", "--checkpoint", MODEL, "--bits", "8", "--out", &packed]);
    let inspected = hub.json(&["inspect", &packed, "--output", "json"]);
    assert!(inspected["provenance"].get("origin").is_none());
}

#[test]
fn a_spec_is_written_with_the_addresses_that_were_given_and_checked_with_what_they_lead_to() {
    let hub = Fixture::new();
    let spec = hub.at("s.toml").display().to_string();
    let [model, tokenizer, text] = ADDRESSES;
    let init = ["init", "--checkpoint", model, "--tokenizer", tokenizer, "--text", text, "--out", &spec];
    hub.succeed(&init);
    let written = std::fs::read_to_string(&spec).unwrap();
    for line in [
        format!("path = \"{model}\""),
        format!("tokenizer = \"{tokenizer}\""),
        format!("text = \"{text}\""),
        "name = \"model\"".to_owned(),
    ] {
        assert!(written.lines().any(|known| known == line), "{line}: {written}");
    }
    assert!(hub.succeed(&["validate", &spec]).contains("nothing is wrong"));
    let wrong =
        written.replace("/model.safetensors", "/modle.safetensors").replace("/tokenizer.json", "/t.json");
    std::fs::write(&spec, wrong).unwrap();
    let output = hub.run(&["validate", &spec]);
    let problems = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(problems.lines().count(), 2, "both at once, each with its line: {problems}");
    assert!(problems.contains(":8: checkpoint.path: hf://owner/name/modle.safetensors: "), "{problems}");
    assert!(problems.contains("did you mean model.safetensors?"), "{problems}");
    let said = hub.refused(3, &["run", &spec]);
    assert!(
        said.contains("s.toml: checkpoint.path: hf://owner/name/modle.safetensors: owner/name has no file"),
        "{said}"
    );
}

#[test]
fn what_belongs_together_comes_together() {
    let hub = Fixture::new();
    let tensors = tensors();
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", index + 1);
        write_tensors(&hub.at(&name), part, &[("format", "pt")]);
        hub.server.large("owner/name", &format!("parts/{name}"), &std::fs::read(hub.at(&name)).unwrap());
        map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), name.clone().into())));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    hub.server.small("owner/name", "parts/model.safetensors.index.json", index.as_bytes());
    let whole = hub.json(&measure([MODEL, TOKENIZER, TEXT]));
    let parts = hub.json(&measure(["hf://owner/name/parts/model.safetensors.index.json", TOKENIZER, TEXT]));
    assert_eq!(whole["nll_sum"], parts["nll_sum"]);
    // An index cannot lead out of its folder.
    let out = r#"{"weight_map":{"emb.weight":"../../../../x.safetensors"}}"#;
    hub.server.small("owner/name", "out/model.safetensors.index.json", out.as_bytes());
    hub.refused(1, &["inspect", "hf://owner/name/out/model.safetensors.index.json"]);
    hub.server.small("owner/name", "gpt2/vocab.json", br#"{"a":0,"b":1}"#);
    hub.server.small("owner/name", "gpt2/merges.txt", b"#version: 0.2\na b\n");
    hub.run(&measure([MODEL, "hf://owner/name/gpt2/vocab.json", TEXT]));
    let merges = format!("home/hub/models--owner--name/snapshots/{COMMIT}/gpt2/merges.txt");
    assert!(hub.at(&merges).is_file());
}

#[test]
fn an_address_that_leads_nowhere_is_one_line() {
    let hub = Fixture::new();
    let inspect = |code, address: &str| hub.refused(code, &["inspect", address]);
    assert!(inspect(2, "hf://owner").contains("hf://owner: expected hf://OWNER/NAME[@REVISION]/FILE"));
    assert!(inspect(2, "s3://bucket/key").contains("s3://bucket/key: no kind of address that is known"));
    assert!(inspect(3, "hf://owner/name@v2/model.safetensors").contains("owner/name has no revision v2"));
    assert!(inspect(7, "hf://owner/private/x.pth").contains("set HF_TOKEN if it is private"));
    let mut offline = hub.command(&["inspect", ADDRESSES[0]]);
    let output = offline.env("HF_ENDPOINT", server::nobody()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("Connection refused") && said.contains("elsewhere and put it at /"), "{said}");
    assert!(!root().join("hf:").exists());
}
