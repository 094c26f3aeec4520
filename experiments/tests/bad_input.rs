//! Bad input: one line that names the thing, a documented exit code, nothing executed, nothing lost.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use support::{refused, root};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const CLASSIFIER: &str = "experiments/models/sst2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";
const TEXT: &str = "experiments/data/encyclopaedia.txt";
const SENTENCES: &str = "experiments/data/sentences.tsv";
const SPEC: &str = "experiments/specs/plain.toml";

/// A folder to make broken files in.
struct Broken(tempfile::TempDir);

impl Broken {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The bundled model after a change to its tensors.
    fn model(&self, change: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) -> PathBuf {
        let bytes = std::fs::read(root().join(MODEL)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = file
            .iter()
            .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let path = self.0.path().join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }
}

fn eval(code: i32, checkpoint: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["eval", "--checkpoint", checkpoint.to_str().unwrap(), "--window", "32"];
    arguments.extend(["--windows", "1"]);
    if !more.contains(&"--tokenizer") {
        arguments.extend(["--tokenizer", TOKENIZER]);
    }
    if !more.contains(&"--text") && !more.contains(&"--labelled") {
        arguments.extend(["--text", TEXT]);
    }
    arguments.extend(more);
    refused(code, &arguments)
}

fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let model = Path::new(MODEL);
    assert_says(&eval(3, Path::new("no/model.pth"), &[]), &["no/model.pth: no such file"]);
    assert_says(&eval(3, model, &["--tokenizer", "no/t.json"]), &["no/t.json: no such file"]);
    assert_says(&eval(3, model, &["--text", "no/text"]), &["no/text: no such file"]);
    assert_says(&refused(3, &["run", "no/spec.toml"]), &["no/spec.toml: no such file"]);
}

#[test]
fn a_truncated_checkpoint_is_refused() {
    let broken = Broken::new();
    let pth = std::fs::read(root().join("worker/engine/tests/data/tiny/model.pth")).unwrap();
    let safetensors = std::fs::read(root().join(MODEL)).unwrap();
    for cut in [0, 1, 7, 100, pth.len() / 2, pth.len() - 1] {
        let error = eval(1, &broken.file("cut.pth", &pth[..cut]), &[]);
        assert_says(&error, &["cut.pth: ", "checkpoint"]);
    }
    for cut in [9, 100, safetensors.len() / 2, safetensors.len() - 1] {
        let error = eval(1, &broken.file("cut.safetensors", &safetensors[..cut]), &[]);
        assert_says(&error, &["cut.safetensors: not a safetensors checkpoint"]);
    }
}

/// A zip archive of one stored entry.
fn zip(name: &str, data: &[u8]) -> Vec<u8> {
    let crc = !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    let (size, name_size) = (data.len() as u32, name.len() as u16);
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 33, 0]; // version, flags, stored, time, date
    common.extend([crc.to_le_bytes(), size.to_le_bytes(), size.to_le_bytes()].concat());
    common.extend([name_size.to_le_bytes(), [0, 0]].concat());
    let mut bytes = [b"PK\x03\x04", &common[..], name.as_bytes(), data].concat();
    let directory = bytes.len() as u32;
    bytes.extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name.as_bytes()].concat());
    let directory_size = bytes.len() as u32 - directory;
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
    bytes.extend([directory_size.to_le_bytes(), directory.to_le_bytes()].concat());
    bytes.extend([0, 0]);
    bytes
}

#[test]
fn a_checkpoint_that_is_a_script_is_refused_and_never_executed() {
    let broken = Broken::new();
    let witness = broken.0.path().join("executed");
    let script = format!("#!/bin/sh\ntouch {}\n", witness.display());
    // What `pickle.load` would run: os.system("touch ..."), in the opcodes that torch.save uses.
    let command = format!("touch {}", witness.display());
    let mut pickle = b"\x80\x02cposix\nsystem\nX".to_vec();
    pickle.extend((command.len() as u32).to_le_bytes());
    pickle.extend([command.as_bytes(), b"\x85R."].concat());
    // The same as the value of a state dict's key.
    let mut dict = b"\x80\x02}X\x0a\x00\x00\x00emb.weight".to_vec();
    dict.extend(&pickle[2..pickle.len() - 1]);
    dict.extend(b"s.");
    let files = [
        broken.file("script.pth", script),
        broken.file("pickle.pth", &pickle),
        broken.file("dict.pth", &dict),
        broken.file("zip.pth", zip("model/data.pkl", &pickle)),
        broken.file("zip-dict.pth", zip("model/data.pkl", &dict)),
    ];
    for file in files {
        let error = eval(1, &file, &[]);
        assert_says(&error, &[file.file_name().unwrap().to_str().unwrap()]);
        assert!(!witness.exists(), "{} was executed", file.display());
    }
}

#[test]
fn a_checkpoint_that_would_grow_to_gigabytes_is_refused_within_little_memory() {
    use zip::write::SimpleFileOptions;
    let broken = Broken::new();
    let deflated = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(1))
        .large_file(true);
    let zeros = vec![0u8; 1 << 20];
    let mut tiny = File::open(root().join("worker/engine/tests/data/tiny/model.pth")).unwrap();
    // The pickle itself, or a tensor's storage: a few megabytes that hold two gigabytes of zeros.
    for bomb in ["data.pkl", "data/0"] {
        let path = broken.0.path().join("bomb.pth");
        let mut out = zip::ZipWriter::new(File::create(&path).unwrap());
        let mut archive = zip::ZipArchive::new(&mut tiny).unwrap();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).unwrap();
            let name = entry.name().unwrap().into_owned();
            out.start_file(name.as_str(), deflated).unwrap();
            if name.ends_with(bomb) {
                (0..2048).for_each(|_| out.write_all(&zeros).unwrap());
            } else {
                std::io::copy(&mut entry, &mut out).unwrap();
            }
        }
        out.finish().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < 32 << 20, "{bomb}: {size} bytes");
        // Whoever tries to hold it all does not get the memory, and ends by a signal.
        let command = format!("ulimit -v 1500000; exec {} inspect {}", support::QSLM, path.display());
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match bomb {
            "data.pkl" => assert_eq!(output.status.code(), Some(1), "{bomb}: {said}"),
            // More bytes than the tensor needs are not looked at.
            _ => assert!(matches!(output.status.code(), Some(0 | 1)), "{bomb}: {:?} {said}", output.status),
        }
        assert!(!said.contains("panicked") && said.lines().count() <= 1, "{bomb}: {said}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let broken = Broken::new();
    let missing = broken.model(|tensors| tensors.retain(|(name, ..)| name != "blocks.2.att.key.weight"));
    assert_says(&eval(1, &missing, &[]), &["missing tensor blocks.2.att.key.weight"]);
    let extra = broken.model(|tensors| {
        tensors.push(("blocks.1.att.bias".to_owned(), Dtype::F16, vec![1], vec![0, 0]));
    });
    assert_says(&eval(1, &extra, &[]), &["extra tensor blocks.1.att.bias"]);
    let reshaped = broken.model(|tensors| {
        let value = tensors.iter_mut().find(|(name, ..)| name == "blocks.0.ffn.value.weight").unwrap();
        value.2.reverse();
    });
    let words = ["blocks.0.ffn.value.weight has shape [512, 128], expected [128, 512]"];
    assert_says(&eval(1, &reshaped, &[]), &words);
    let integers = broken.model(|tensors| {
        let bias = tensors.iter_mut().find(|(name, ..)| name == "ln_out.bias").unwrap();
        bias.1 = Dtype::I16;
    });
    assert_says(&eval(1, &integers, &[]), &["tensor ln_out.bias has type I16, expected f16"]);
    for bad in [f16::NAN, f16::INFINITY] {
        let not_finite = broken.model(|tensors| {
            let head = tensors.iter_mut().find(|(name, ..)| name == "head.weight").unwrap();
            head.3[20..22].copy_from_slice(&bad.to_le_bytes());
        });
        assert_says(
            &eval(1, &not_finite, &[]),
            &["tensor head.weight holds", "at index 10", "must be finite"],
        );
    }
}

#[test]
fn data_that_makes_no_sense_is_named_with_its_line() {
    let broken = Broken::new();
    let (model, classifier) = (Path::new(MODEL), Path::new(CLASSIFIER));
    let text = |bytes: &[u8]| {
        let file = broken.file("text.txt", bytes);
        eval(1, model, &["--text", file.to_str().unwrap()])
    };
    assert_says(&text(b""), &["text.txt: 0 tokens: at least 2 are needed"]);
    assert_says(&text(b"fine\nnot \xff text\n"), &["text.txt: line 2 is not UTF-8"]);
    let labelled = |bytes: &[u8]| {
        let file = broken.file("data.tsv", bytes);
        eval(1, classifier, &["--labelled", file.to_str().unwrap()])
    };
    // One sentence is enough for --windows 1, so the mistake is in the first line.
    assert_says(&labelled(b"good\t2\n"), &["data.tsv: line 1 has label \"2\": expected 0 to 1"]);
    assert_says(&labelled(b"good\t-1\n"), &["line 1 has label \"-1\""]);
    assert_says(&labelled(b"\ngood\tyes\n"), &["line 2 has label \"yes\""]);
    assert_says(&labelled(b"good 1\n"), &["line 1 has no TAB"]);
    assert_says(&labelled(b"\t1\n"), &["line 1 has no words"]);
    assert_says(&labelled(b"\n\n"), &["no sentences"]);
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let broken = Broken::new();
    let text = std::fs::read_to_string(root().join(TOKENIZER)).unwrap();
    let larger = text.replacen("\"added_tokens\": [", "\"added_tokens\": [{\"id\": 2048, \"content\": \"<more>\", \
        \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true},", 1);
    assert_ne!(text, larger);
    let file = broken.file("t.json", larger);
    let error = eval(1, Path::new(MODEL), &["--tokenizer", file.to_str().unwrap()]);
    assert_says(&error, &["t.json: gives ids up to 2048, but the embedding has only 2048 rows"]);
    let file = broken.file("t.json", "[]");
    assert_says(
        &eval(1, Path::new(MODEL), &["--tokenizer", file.to_str().unwrap()]),
        &["t.json: not a tokenizer"],
    );
}

#[test]
fn a_task_that_the_checkpoint_cannot_do_is_refused() {
    assert_says(&eval(2, Path::new(CLASSIFIER), &[]), &["this checkpoint classifies"]);
    assert_says(&eval(2, Path::new(MODEL), &["--labelled", SENTENCES]), &["this checkpoint models language"]);
    assert_says(&eval(2, Path::new(MODEL), &["--bits", "9"]), &["9 bits: expected 2 to 8, 16 or 32"]);
    assert_says(&eval(2, Path::new(MODEL), &["--stride", "33"]), &["--stride = 33: expected 1 to 32"]);
    let more = ["--bits", "4", "--embedding", "sign", "--real-embedding"];
    assert_says(&eval(2, Path::new(MODEL), &more), &["binary-embedding model"]);
}

#[test]
fn a_spec_that_makes_no_sense_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let run = |settings: &[&str]| {
        let mut arguments = vec!["run", SPEC, "--store", store.to_str().unwrap()];
        settings.iter().for_each(|setting| arguments.extend(["--set", *setting]));
        refused(2, &arguments)
    };
    assert_says(&run(&["task.windw=3"]), &["plain.toml", "unknown field `windw`", "`windows`"]);
    assert_says(&run(&["colour=1"]), &["unknown field `colour`"]);
    assert_says(
        &run(&["constraints.max_footprint_bytes=1000"]),
        &["max_footprint_bytes = 1000 cannot be met"],
    );
    assert_says(&run(&["constraints.min_saving=0.99"]), &["min_saving = 0.99 cannot be met", "364544 bytes"]);
    assert_says(&run(&["constraints.max_perplexity_increase=-1"]), &["max_perplexity_increase = -1"]);
    assert_says(&run(&["constraints.max_perplexity_increase=nan"]), &["max_perplexity_increase = NaN"]);
    assert_says(
        &run(&["constraints.max_accuracy_drop=0.1"]),
        &["max_accuracy_drop does not go with this task"],
    );
    assert_says(&run(&["space.bits=[]"]), &["bits = []"]);
    assert_says(&run(&["space.bits=[4, 4]"]), &["each once"]);
    assert_says(&run(&["space.bits=[1]"]), &["1 bits: expected 2 to 8, 16 or 32"]);
    assert_says(&run(&["space.granularity=\"group:0\""]), &["granularity \"group:0\""]);
    assert_says(&run(&["task.window=0"]), &["task.window = 0: expected 1 to 65536"]);
    assert_says(&run(&["run.shards=0"]), &["run.shards = 0: expected 1 to 4096"]);
    assert_says(&run(&["trade_off.mu=-3"]), &["mu = -3: expected 0 to 1000"]);
    assert_says(&run(&["strategy={kind=\"grid\", tier=\"matrix\"}"]), &["expected 1 to 1000000"]);
    assert_says(&run(&["strategy.sensitivity_bits=5"]), &["sensitivity_bits = 5: not one of space.bits"]);
    assert_says(&run(&["objectives=[\"footprint\"]"]), &["objectives: 1 objectives: a front has 2 or 3"]);
    assert_says(&run(&["name=\"No Spaces\""]), &["name = \"No Spaces\""]);
    assert_says(&run(&["backend=\"gpu\""]), &["gpu", "flex"]);
    let all = run(&["name=\"A B\"", "run.shards=0", "trade_off.mu=-3", "constraints.min_saving=0.99"]);
    assert_says(&all, &["name = \"A B\"", "run.shards = 0", "mu = -3", "min_saving = 0.99"]);
    assert!(!store.exists(), "nothing was made");
    let missing = refused(2, &["run", "experiments/specs/wikitext2.toml"]);
    assert_says(&missing, &["task.text is missing", "--set task.text=FILE"]);
}
