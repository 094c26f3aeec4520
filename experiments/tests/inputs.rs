//! Files as people have them: under other names, in several pieces, with what editors and trainers put into them. They measure
//! what the clean file measures, or are refused for what they are.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "support/pth.rs"]
mod pth;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Tensor, qslm, refused, root, shared, succeed, tensors, write_tensors};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const CLASSIFIER: &str = "experiments/models/sst2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";
const TEXT: &str = "experiments/data/encyclopaedia.txt";
const SENTENCES: &str = "experiments/data/sentences.tsv";
const SPEC: &str = "experiments/specs/plain.toml";
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A folder for files that are not as they should be.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.at(name), bytes).unwrap();
        self.at(name).to_str().unwrap().to_owned()
    }

    /// A file with a byte-order mark before what another one has.
    fn marked(&self, name: &str, path: &str) -> String {
        self.file(name, [MARK, &std::fs::read(root().join(path)).unwrap()].concat())
    }

    /// The bundled model with the names of its tensors changed.
    fn named(&self, name: &str, rename: impl Fn(&str) -> String) -> String {
        let renamed = |(name, dtype, shape, data): Tensor| (rename(&name), dtype, shape, data);
        let renamed: Vec<Tensor> = tensors().into_iter().map(renamed).collect();
        write_tensors(&self.at(name), &renamed, &[]);
        self.at(name).to_str().unwrap().to_owned()
    }

    /// The bundled model in two files with an index; the index's path.
    fn shards(&self) -> String {
        let tensors = tensors();
        let mut map = serde_json::Map::new();
        for (index, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
            let name = format!("model-0000{}-of-00002.safetensors", index + 1);
            write_tensors(&self.at(&name), part, &[("format", "pt")]);
            map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), json!(name))));
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        self.file("model.safetensors.index.json", index.to_string())
    }
}

/// Evaluates; what was measured, and what was said.
fn eval(checkpoint: &str, tokenizer: &str, data: [&str; 2], more: &[&str]) -> (Value, String) {
    let mut arguments = vec!["eval", "--checkpoint", checkpoint, "--tokenizer", tokenizer, data[0], data[1]];
    arguments.extend(["--window", "32", "--windows", "4", "--output", "json"]);
    arguments.extend(more);
    let output = qslm(&arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

/// Counts that must not change.
fn counts(measured: &Value) -> [&Value; 4] {
    ["nll_sum", "tokens", "hits", "sentences"].map(|key| &measured[key])
}

/// The front of a search that takes a moment.
fn front(store: &Path, settings: &[String]) -> Value {
    let mut arguments = vec!["run", SPEC, "--store", store.to_str().unwrap(), "--output", "json", "--quiet"];
    let tiny = ["task.window=32", "task.windows=2", "space.bits=[8, 4]", "run.shards=2"];
    tiny.iter()
        .chain(&["constraints.max_perplexity_increase=5"])
        .for_each(|s| arguments.extend(["--set", s]));
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    serde_json::from_str(&succeed(&arguments)).unwrap()
}

fn says(text: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
}

#[test]
fn a_tokenizer_that_cuts_or_pads_measures_what_it_measures_without() {
    let folder = Folder::new();
    let clean = std::fs::read_to_string(root().join(TOKENIZER)).unwrap();
    let truncation = r#"{"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}"#;
    let padding = r#"{"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "<|padding|>"}"#;
    let with = |key: &str, value: &str| {
        let changed = clean.replacen(&format!("\"{key}\": null"), &format!("\"{key}\": {value}"), 1);
        assert_ne!(changed, clean);
        folder.file(&format!("{key}.json"), changed)
    };
    let dropout = with("dropout", "0.1");
    for (checkpoint, data) in [(MODEL, ["--text", TEXT]), (CLASSIFIER, ["--labelled", SENTENCES])] {
        let (expected, said) = eval(checkpoint, TOKENIZER, data, &[]);
        assert_eq!(said, "");
        for (key, value) in [("truncation", truncation), ("padding", padding)] {
            let (measured, said) = eval(checkpoint, &with(key, value), data, &[]);
            assert_eq!(counts(&measured), counts(&expected), "{key}");
            says(&said, &[&format!("{key}.json: {key}"), "is switched off"]);
        }
        let arguments = ["eval", "--checkpoint", checkpoint, "--tokenizer", &dropout, data[0], data[1]];
        says(&refused(1, &arguments), &["dropout.json: model.dropout = 0.1: ids would be random"]);
    }
    // An experiment names the file without it, and so is the one that it was.
    let of = |tokenizer: &str, name: &str| {
        let paths = [format!("checkpoint.tokenizer={tokenizer}"), format!("task.text={TEXT}")];
        front(&folder.at(name), &paths)
    };
    let expected = of(TOKENIZER, "clean/s.redb");
    assert_eq!(of(&with("truncation", truncation), "cut/s.redb"), expected);
    let validate = ["validate", SPEC, "--set", &format!("checkpoint.tokenizer={dropout}")];
    let output = qslm(&validate);
    assert_eq!(output.status.code(), Some(2));
    says(&String::from_utf8(output.stdout).unwrap(), &["model.dropout = 0.1"]);
}

#[test]
fn a_byte_order_mark_is_no_text_wherever_one_is_read() {
    let folder = Folder::new();
    let (text, sentences) = (folder.marked("t.txt", TEXT), folder.marked("s.tsv", SENTENCES));
    let tokenizer = folder.marked("tokenizer.json", TOKENIZER);
    for (checkpoint, flag, clean, marked) in
        [(MODEL, "--text", TEXT, &text), (CLASSIFIER, "--labelled", SENTENCES, &sentences)]
    {
        let (expected, _) = eval(checkpoint, TOKENIZER, [flag, clean], &[]);
        let (measured, said) = eval(checkpoint, &tokenizer, [flag, marked], &[]);
        assert_eq!(counts(&measured), counts(&expected));
        assert_eq!(said.matches("a byte-order mark at its beginning is left out").count(), 2, "{said}");
    }
    // Ranges of activations are read off a text, too, and named by it.
    let calibrated = |text: &str| {
        let more = ["--activation-bits", "8", "--calibration", text];
        eval(MODEL, TOKENIZER, ["--text", TEXT], &more).0
    };
    assert_eq!(calibrated(&text)["candidate"], calibrated(TEXT)["candidate"]);

    // A spec, a list of candidates, a device and a front.
    let spec = std::fs::read_to_string(root().join(SPEC)).unwrap().replace("\"../", "\"EXPERIMENTS/");
    let spec = spec.replace("EXPERIMENTS", root().join("experiments").to_str().unwrap());
    let spec = folder.file("spec.toml", [MARK, spec.as_bytes()].concat());
    assert_eq!(succeed(&["validate", &spec]), format!("{spec}: nothing is wrong\n"));
    let line = r#"{"blocks.*": "int4:symmetric:channel", "emb.weight": "sign"}"#;
    let list = folder.file("list.jsonl", [MARK, line.as_bytes(), b"\n"].concat());
    let listed = ["strategy.kind=list".to_owned(), format!("strategy.candidates={list}")];
    let found = front(&folder.at("list.redb"), &listed);
    assert_eq!(found["measured"], 2, "the float model, and the one");
    let marked_front = folder.file("front.json", [MARK, found.to_string().as_bytes()].concat());
    let out = folder.at("packed.safetensors");
    succeed(&["apply", "--checkpoint", MODEL, "--front", &marked_front, "--out", out.to_str().unwrap()]);
    let device = folder.file("device.toml", [MARK, b"[energy]\ndram_pj = 1.0\n"].concat());
    eval(MODEL, TOKENIZER, ["--text", TEXT], &["--device", &device]);
    // Experiments name the text without it.
    let of = |text: &str, name: &str| front(&folder.at(name), &[format!("task.text={text}")]);
    assert_eq!(of(&text, "marked/s.redb"), of(TEXT, "clean/s.redb"));
}

#[test]
fn carriage_returns_are_told_with_the_number_of_their_lines() {
    let folder = Folder::new();
    let clean = std::fs::read_to_string(root().join(TEXT)).unwrap();
    let text = folder.file("t.txt", clean.replacen('\n', "\r\n", 3));
    let (_, said) = eval(MODEL, TOKENIZER, ["--text", &text], &[]);
    says(&said, &["t.txt: 3 of 125 lines end in CRLF"]);
    // Of a sentence the end of its line is no part, and nothing is said.
    let clean = std::fs::read_to_string(root().join(SENTENCES)).unwrap();
    let sentences = folder.file("s.tsv", clean.replace('\n', "\r\n"));
    let (measured, said) = eval(CLASSIFIER, TOKENIZER, ["--labelled", &sentences], &[]);
    let (expected, _) = eval(CLASSIFIER, TOKENIZER, ["--labelled", SENTENCES], &[]);
    assert_eq!((counts(&measured), said.as_str()), (counts(&expected), ""));
}

#[test]
fn a_checkpoint_under_other_names_or_in_pieces_is_the_same_network() {
    let folder = Folder::new();
    let (expected, said) = eval(MODEL, TOKENIZER, ["--text", TEXT], &[]);
    assert_eq!(said, "");
    let prefixed = folder.named("prefixed.safetensors", |name| format!("module.{name}"));
    let nested = folder.named("nested.safetensors", |name| format!("state_dict.model.{name}"));
    let compiled = folder.named("compiled.safetensors", |name| {
        name.replace("blocks.0.", "blocks.0._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod.")
    });
    let index = folder.shards();
    let names = tensors().len();
    for (checkpoint, note) in [
        (&prefixed, format!("`module.` was taken out of {names} names")),
        (&nested, format!("`state_dict.model.` was taken off {names} names")),
        (&compiled, "`_orig_mod.` was taken out of".to_owned()),
        (&index, String::new()),
    ] {
        let (measured, said) = eval(checkpoint, TOKENIZER, ["--text", TEXT], &[]);
        assert_eq!(counts(&measured), counts(&expected), "{checkpoint}");
        says(&said, &[&note]);
        assert_eq!(said.is_empty(), note.is_empty(), "{said}");
        let inspected = support::json(&["inspect", checkpoint, "--output", "json"]);
        assert_eq!(inspected["parameters"], expected["parameters"]);
        assert_eq!(inspected["notes"].as_array().map_or(0, Vec::len), usize::from(!note.is_empty()));

        // Everything that takes a checkpoint takes it, and the front knows the file again.
        let setting = format!("checkpoint.path={checkpoint}");
        let store =
            folder.at("stores").join(Path::new(checkpoint).with_extension("redb").file_name().unwrap());
        let found =
            front(&store, &[setting.clone(), "strategy.kind=grid".into(), "strategy.tier=global".into()]);
        let front = folder.file("front.json", found.to_string());
        let out = folder.at("packed.safetensors").to_str().unwrap().to_owned();
        succeed(&["apply", "--force", "--checkpoint", checkpoint, "--front", &front, "--out", &out]);
        let units = support::json(&["inspect", &out, "--output", "json"]);
        assert_eq!(units["candidate"], found["chosen"]["candidate"]);
        assert!(succeed(&["validate", SPEC, "--set", &setting]).contains("nothing is wrong"));
        let generate = ["generate", "--tokenizer", TOKENIZER, "--prompt", "The", "--tokens", "3"];
        succeed(&[&generate[..], &["--checkpoint", &checkpoint[..]]].concat());
    }
    let mut sensitivity = vec!["sensitivity", "--checkpoint", &index, "--tokenizer", TOKENIZER];
    sensitivity.extend(["--text", TEXT, "--window", "16", "--windows", "1", "--bits", "4"]);
    succeed(&[&sensitivity[..], &["--metric", "weight_error"]].concat());
    let first = folder.at("model-00001-of-00002.safetensors");
    let one = ["eval", "--checkpoint", first.to_str().unwrap(), "--tokenizer", TOKENIZER, "--text", TEXT];
    says(
        &refused(1, &one),
        &["missing tensor ", "it may be in another file of model.safetensors.index.json"],
    );
    std::fs::remove_file(folder.at("model-00002-of-00002.safetensors")).unwrap();
    let words = refused(3, &["inspect", &index]);
    says(&words, &["shard model-00002-of-00002.safetensors, which the index names, is not there"]);
}

#[test]
fn tensors_that_were_one_are_found_and_others_beside_the_network_are_left_aside() {
    let folder = Folder::new();
    let mut all = tensors();
    let embedding = all.iter().find(|(name, ..)| name == "emb.weight").unwrap().clone();
    let head = all.iter().position(|(name, ..)| name == "head.weight").unwrap();
    let (both, tied) = (folder.at("both.safetensors"), folder.at("tied.safetensors"));
    all[head].3.clone_from(&embedding.3);
    write_tensors(&both, &all, &[]);
    all.remove(head);
    write_tensors(&tied, &all, &[("format", "pt"), ("head.weight", "emb.weight")]);
    let measure = |path: &Path| eval(path.to_str().unwrap(), TOKENIZER, ["--text", TEXT], &[]);
    let ((expected, _), (measured, said)) = (measure(&both), measure(&tied));
    assert_eq!(counts(&measured), counts(&expected));
    says(&said, &["head.weight is emb.weight, as the file's metadata says"]);

    // As trainers write it: the model beside its optimizer.
    let network = qslm_common::network::Network {
        vocabulary: 9,
        channels: 4,
        hidden: 16,
        blocks: 1,
        outputs: 9,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };
    let matrices = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let mut shapes: Vec<_> =
        matrices.chain(vectors).map(|(name, shape)| (format!("model.{name}"), shape)).collect();
    shapes.push(("optimizer.state.0.exp_avg".to_owned(), vec![4]));
    let path = folder.at("trainer.pth");
    pth::write(&path, &shapes, |_, values| values.fill(0.5));
    let inspected = support::json(&["inspect", path.to_str().unwrap(), "--output", "json"]);
    says(&inspected["notes"].to_string(), &["`model.` was taken off", "such as optimizer.state.0.exp_avg"]);
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn one_set_of_weights_is_read_out_of_every_container() {
    let variants = shared().join("golden/family/variants");
    let text = std::fs::read_to_string(variants.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let tokens = variants.join("expected.safetensors").to_str().unwrap().to_owned();
    let path = |name: &str| variants.join(name).to_str().unwrap().to_owned();
    for name in [
        "plain.safetensors",
        "zip_f32.pth",
        "zip_bf16.pth",
        "zip_f16_plain_dict.pth",
        "legacy_f32.pth",
        "mixed_bf16_matrices_f32_vectors.pth",
        "parameters.pth",
        "module_prefix.pth",
        "forward_module_prefix_bf16.pth",
        "nested_model_optimizer_rng.pth",
    ] {
        let arguments = ["eval", "--checkpoint", &path(name), "--tokens", &tokens, "--output", "json"];
        let measured = support::json(&arguments);
        let (nll, recorded) = (measured["nll_sum"].as_f64().unwrap(), expected["nll_sum_spikegpt"].as_f64());
        assert!((nll / recorded.unwrap() - 1.0).abs() < 1e-6, "{name}: {nll}");
    }
    let nll = |file: &str, flags: &[&str]| {
        let checkpoint = path(file);
        let arguments = ["eval", "--checkpoint", &checkpoint, "--tokens", &tokens, "--output", "json"];
        support::json(&[&arguments, flags].concat())["nll_sum"].as_f64().unwrap()
    };
    // Names of other programs tell the family; flags go before.
    let told = "hf_rwkv4/model.safetensors";
    let rwkv4 = expected["nll_sum_rwkv4"].as_f64().unwrap();
    for (file, flags) in [(told, &[][..]), ("zip_f32.pth", &["--family", "rwkv4"])] {
        assert!((nll(file, flags) / rwkv4 - 1.0).abs() < 1e-6, "{file}");
    }
    let spikegpt = expected["nll_sum_spikegpt"].as_f64().unwrap();
    for file in [told, "myelin_orig_mod_nested.pth", "squeezed_time_mix.pth", "extra_buffers_int64_bool.pth"]
    {
        assert!((nll(file, &["--family", "spikegpt"]) / spikegpt - 1.0).abs() < 1e-6, "{file}");
    }
    for (file, words) in [
        (told, "read as rwkv4: its names are those of transformers' RWKV-4"),
        ("myelin_orig_mod_nested.pth", "read as myelin: its configuration is spikegpt-myelin's"),
    ] {
        let output = qslm(&["inspect", &path(file)]);
        assert_eq!(output.status.code(), Some(0));
        says(&String::from_utf8(output.stdout).unwrap(), &["no spikes"]);
        says(&String::from_utf8(output.stderr).unwrap(), &[words]);
    }
    let output = qslm(&["inspect", &path("zip_f32.pth"), "--family", "spikerugpt"]);
    assert_eq!(output.status.code(), Some(1));
    says(&String::from_utf8(output.stderr).unwrap(), &["missing tensor blocks.0.lif1.log_tau"]);
    let output = qslm(&["inspect", &path("zip_f32.pth"), "--family", "rwkv4", "--leak", "0.5"]);
    assert_eq!(output.status.code(), Some(2));
    says(&String::from_utf8(output.stderr).unwrap(), &["leak is of neurons, and rwkv4 has none"]);
}

#[test]
fn what_is_no_checkpoint_is_called_what_it_is_and_what_is_no_spikegpt_is_listed() {
    let folder = Folder::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for (bytes, words) in [
        (pointer.as_bytes(), "a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><title>Log in</title></html>", "an HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03rest", "compressed with gzip"),
    ] {
        let path = folder.file("model.pth", bytes);
        says(&refused(1, &["inspect", &path]), &["model.pth: not a checkpoint: it is ", words]);
        let eval = ["eval", "--checkpoint", &path, "--tokenizer", TOKENIZER, "--text", TEXT];
        says(&refused(1, &eval), &["not a checkpoint: it is ", words]);
        let eval = ["eval", "--checkpoint", MODEL, "--tokenizer", &path, "--text", TEXT];
        says(&refused(1, &eval), &["not a tokenizer: it is ", words]);
    }
    let text = folder.file("text.txt", pointer);
    let eval = ["eval", "--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", &text];
    says(&refused(1, &eval), &["text.txt: not a text: it is a Git LFS pointer"]);
    let folder_path = folder.0.path().to_str().unwrap();
    says(&refused(1, &["inspect", folder_path]), &["it is a folder", "model.safetensors.index.json"]);
    let json = folder.file("config.json", "{\"vocab_size\": 11}");
    says(&refused(1, &["inspect", &json]), &["it is a JSON text, but no index", "weight_map"]);

    let other = folder.file("other.safetensors", support::safetensors(&[("conv1.bias", &[1.0, 2.0])]));
    for (output, words) in [("table", ["conv1.bias", "F32", "[2]"]), ("json", ["conv1.bias", "F32", "2"])] {
        let output = qslm(&["inspect", &other, "--output", output]);
        assert_eq!(output.status.code(), Some(1));
        says(&String::from_utf8(output.stdout).unwrap(), &words);
        says(&String::from_utf8(output.stderr).unwrap(), &["error: ", "missing tensor emb.weight"]);
    }
}

#[test]
fn what_was_asked_for_and_is_not_there_is_told() {
    let folder = Folder::new();
    let arguments =
        ["eval", "--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", TEXT, "--output", "json"];
    let output = qslm(&[&arguments[..], &["--window", "512", "--windows", "100000"]].concat());
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    let windows = measured["tokens"].as_u64().unwrap().div_ceil(512);
    let words = format!("--windows = 100000: {TEXT} has {windows}, all of which are taken");
    says(&String::from_utf8(output.stderr).unwrap(), &[&words]);
    let output = qslm(&["validate", SPEC, "--set", "task.windows=100000"]);
    assert!(output.status.success(), "as many as there are is what a spec may mean");
    says(&String::from_utf8(output.stderr).unwrap(), &["task.windows = 100000: ", "all of which are taken"]);
    let columns = folder.file("s.tsv", "a good film\t1\nwarm\tand funny\t1\n");
    let eval = ["eval", "--checkpoint", CLASSIFIER, "--tokenizer", TOKENIZER, "--labelled", &columns];
    says(&refused(1, &eval), &["s.tsv: line 2 has 3 columns: expected 2, `sentence TAB label`"]);
}

#[test]
fn no_more_of_a_text_becomes_tokens_than_its_windows_take() {
    let folder = Folder::new();
    let (expected, _) = eval(MODEL, TOKENIZER, ["--text", TEXT], &[]);
    let text = std::fs::read(root().join(TEXT)).unwrap();
    // What follows would be refused if it was looked at.
    let long = folder.file("long.txt", [&text[..], b"\xff\n", &text.repeat(100)].concat());
    let (measured, _) = eval(MODEL, TOKENIZER, ["--text", &long], &[]);
    assert_eq!(counts(&measured), counts(&expected));
    let eval = ["eval", "--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", &long];
    says(&refused(1, &eval), &["long.txt: line 126 is not UTF-8"]);
}

#[test]
fn a_loss_or_a_logit_beyond_all_numbers_is_told_and_not_printed_as_one() {
    let folder = Folder::new();
    let [overflow, broken] = [3e4f32, 3e38].map(|weight| {
        let path = folder.at(&format!("{weight}.safetensors"));
        support::checkpoint_with_head(&path, weight);
        path.to_str().unwrap().to_owned()
    });
    let (measured, _) = eval(&overflow, TOKENIZER, ["--text", TEXT], &[]);
    assert!(measured.as_object().unwrap().contains_key("perplexity") && measured["perplexity"].is_null());
    assert!(measured["nll_sum"].as_f64().unwrap() > 709.0 * 128.0);
    let data = ["--tokenizer", TOKENIZER, "--text", TEXT, "--window", "32", "--windows", "2"];
    let table = succeed(&[&["eval", "--checkpoint", &overflow][..], &data].concat());
    says(&table, &["overflow: ", " nats per token over 64 tokens"]);
    let compare = ["compare", "--checkpoint", MODEL, "--against", &overflow];
    let compared = support::json(&[&compare[..], &data[..], &["--output", "json"]].concat());
    assert!(compared["before"].as_f64().unwrap() > 1.0 && compared["after"].is_null());
    let table = succeed(&[&compare[..], &data[..]].concat());
    assert!(table.contains("to overflow") && !table.contains("179769"), "{table}");

    let generate = ["generate", "--tokenizer", TOKENIZER, "--prompt", "The lighthouse was", "--checkpoint"];
    let output = qslm(&[&generate[..], &[&broken[..]]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "The lighthouse was\n", "nothing was drawn");
    let said = String::from_utf8(output.stderr).unwrap();
    let position: usize =
        said.split("a logit behind token ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(position >= 3 && said.trim_end().lines().count() == 1, "{said}");
}
