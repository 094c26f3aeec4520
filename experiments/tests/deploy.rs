//! From a search to the file that is deployed: the bytes and the numbers that the search reported.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{json, qslm, refused, root, succeed};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";

/// What codes are calibrated with, and files that may hold entropy-coded ones.
const CALIBRATED: [&str; 6] = [
    "--set",
    "calibration.text=experiments/data/encyclopaedia.txt",
    "--set",
    "calibration.sequences=4",
    "--set",
    "space.storage=[\"packed\", \"rans\"]",
];
/// A space of steps instead of widths.
const STEPS: &str = "space={ schemes = [\"ec:0.50:channel:f16:gptq\", \"ec:0.90:tensor\"], storage = [\"packed\", \"rans\"] }";

/// Measures a checkpoint as the small search below does.
fn eval(checkpoint: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["eval", "--checkpoint", checkpoint, "--output", "json"];
    arguments.extend([
        "--tokenizer",
        "experiments/models/tokenizer.json",
        "--window",
        "128",
        "--windows",
        "3",
    ]);
    arguments.extend(["--text", "experiments/data/encyclopaedia.txt"]);
    arguments.extend(more);
    json(&arguments)
}

fn counts(eval: &Value) -> [Option<f64>; 3] {
    ["nll_sum", "tokens", "perplexity"].map(|key| eval[key].as_f64())
}

/// Searches with every kind of setting in `more`, and writes the front to a file.
fn front(folder: &Path, more: &[&str]) -> (String, Value) {
    let store = folder.join("s.redb");
    let mut arguments = vec!["run", "experiments/specs/plain.toml", "--store", store.to_str().unwrap()];
    arguments.extend(["--set", "task.windows=3", "--set", "space.bits=[16, 4, 3]", "--output", "json"]);
    // A table as a whole takes the place of what was set in it.
    arguments.extend(more);
    let text = succeed(&arguments);
    let path = folder.join("front.json");
    std::fs::write(&path, &text).unwrap();
    (path.to_str().unwrap().to_owned(), serde_json::from_str(&text).unwrap())
}

#[test]
fn a_packed_candidate_has_the_searchs_bytes_and_measures_the_searchs_numbers() {
    let settings: [&[&str]; 8] = [
        &[],
        &["--set", "backend=integer", "--set", "space.symmetry=affine"],
        &[
            "--set",
            "space.activations.bits=[8, 4]",
            "--set",
            "space.granularity=tensor",
            "--set",
            "trade_off.cost=energy",
        ],
        &[
            "--set",
            "space.symmetry=affine",
            "--set",
            "space.granularity=group:48",
            "--set",
            "space.embedding=quantize",
        ],
        &["--set", "space.rounding=stochastic:5", "--set", "space.range=percentile:99.5"],
        &["--set", "backend=integer", "--set", "space.symmetry=full", "--set", "space.scales=f16"],
        &["--set", "space.symmetry=ternary", "--set", "space.bits=[16, 3, 2]"],
        &[
            "--set",
            "space.symmetry=full",
            "--set",
            "space.scales=pow2",
            "--set",
            "space.embedding=quantize",
            "--set",
            "space.vectors.bits=[8, 4]",
        ],
    ];
    let quantizers = ["--set", "space.quantizer=[\"nearest\", \"gptq\"]", "--set", "space.symmetry=full"];
    let quantizers = [&CALIBRATED[..], &quantizers].concat();
    let steps = [&CALIBRATED[..4], &["--set", STEPS, "--set", "backend=integer"]].concat();
    for more in settings.into_iter().chain([&quantizers[..], &steps]) {
        let folder = tempfile::tempdir().unwrap();
        let (path, document) = front(folder.path(), more);
        for row in [&document["chosen"], &document["front"][0]] {
            let out = folder.path().join("packed.safetensors");
            let (id, out) = (row["candidate"].as_str().unwrap(), out.to_str().unwrap());
            let store = folder.path().join("s.redb");
            let mut apply =
                vec!["apply", "--force", "--checkpoint", MODEL, "--front", &path, "--candidate", id];
            apply.extend(["--out", out, "--output", "json", "--store", store.to_str().unwrap()]);
            let applied = json(&apply);
            let size = std::fs::metadata(out).unwrap().len();
            assert_eq!(applied["footprint_bytes"], row["footprint_bytes"], "{more:?}");
            let header = applied["header_bytes"].as_u64().unwrap();
            assert_eq!(size, row["footprint_bytes"].as_u64().unwrap() + header);

            let backend = if more.contains(&"backend=integer") { "integer" } else { "native" };
            let measured = eval(out, &["--backend", backend]);
            let nats = row["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
            assert_eq!(measured["nll_sum"].as_f64(), Some(nats), "the same loss to the bit");
            assert_eq!(measured["candidate"], row["candidate"]);

            let inspected = json(&["inspect", out, "--output", "json"]);
            assert_eq!(inspected["footprint_bytes"], row["footprint_bytes"]);
            assert_eq!(inspected["provenance"]["measurement"], row["counts"]);
            for unit in inspected["units"].as_array().unwrap() {
                assert_eq!(unit["scheme"], row["schemes"][unit["name"].as_str().unwrap()]);
            }
        }
    }
}

#[test]
fn a_packed_file_is_measured_as_the_search_did_and_whoever_asks_otherwise_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("device.toml"), "[energy]\ndram_pj = 320.0\n").unwrap();
    let device = ["--set", "device.energy.dram_pj=320.0"];
    let (path, document) = front(folder.path(), &device);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, store, described) = (at("packed.safetensors"), at("s.redb"), at("device.toml"));
    succeed(&["apply", "--checkpoint", MODEL, "--front", &path, "--out", &out]);
    let chosen = &document["chosen"];
    let text = ["--text", "experiments/data/encyclopaedia.txt"];
    let run = |command: &str, checkpoint: &str, more: &[&str]| {
        let files = ["--checkpoint", checkpoint, "--tokenizer", "experiments/models/tokenizer.json"];
        let output = qslm(&[&[command], &files[..], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let evaluated = |checkpoint: &str, more: &[&str]| -> (Value, String) {
        let (printed, said) = run("eval", checkpoint, &[&text[..], &["--output", "json"], more].concat());
        (serde_json::from_str(&printed).unwrap(), said)
    };
    // Neither window nor device is named: the file knows both, and so does the experiment in its store.
    let selected = ["--store", &store, "--experiment", "plain"];
    for (checkpoint, more) in [(&*out, &[][..]), (MODEL, &selected[..]), (MODEL, &["--front", &path])] {
        let (measured, said) = evaluated(checkpoint, more);
        assert_eq!(measured["candidate"], chosen["candidate"]);
        assert_eq!(measured["perplexity"], chosen["perplexity"]);
        assert_eq!(measured["of_search"], chosen["perplexity"]);
        assert_eq!(measured["same_as_search"], true);
        assert_eq!(measured["costs"]["energy"], chosen["costs"]["energy"]);
        assert!(!said.contains("WARN"), "{said}");
    }
    let (other, said) = evaluated(&out, &["--window", "64", "--device", &described]);
    assert!(said.contains("--window 64: ") && said.contains(" was measured with 128"), "{said}");
    assert!(!said.contains("--device"), "it is the same device: {said}");
    assert_eq!(other["same_as_search"], false);
    std::fs::write(&described, "[energy]\ndram_pj = 100.0\n").unwrap();
    let (_, said) = evaluated(&out, &["--device", &described]);
    assert!(said.contains("was measured for another device"), "{said}");

    // Every command takes the same candidates, and two of them are compared.
    let (printed, _) =
        run("generate", MODEL, &[&selected[..], &["--prompt", "The", "--tokens", "3"]].concat());
    assert_eq!(printed, run("generate", &out, &["--prompt", "The", "--tokens", "3"]).0);
    let id = chosen["candidate"].as_str().unwrap();
    let both = ["--candidate", id, "--against-candidate", id, "--output", "json"];
    let (printed, _) = run("compare", MODEL, &[&text[..], &selected, &both].concat());
    let compared: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((compared["loss"].as_f64(), &compared["before"]), (Some(0.0), &chosen["perplexity"]));
    let packed =
        ["eval", "--checkpoint", &out, "--front", &path, "--tokenizer", "experiments/models/tokenizer.json"];
    assert!(
        refused(2, &[&packed[..], &text].concat()).contains("is packed already; name the float checkpoint")
    );
    assert!(
        refused(3, &["apply", "--checkpoint", MODEL, "--store", &store, "--experiment", "zzz", "--out", "x"])
            .contains("zzz")
    );
}

#[test]
fn a_candidate_of_calibrated_codes_is_compared_and_packed_only_with_their_artifacts() {
    let folder = tempfile::tempdir().unwrap();
    let gptq = ["--set", "space.rounding=gptq"];
    let (path, document) = front(folder.path(), &[&CALIBRATED[..], &gptq].concat());
    let chosen = &document["chosen"];
    let artifact = chosen["codes"]["head.weight"].as_str().unwrap();
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    fn apply<'a>(path: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["apply", "--checkpoint", MODEL, "--front", path, "--out", out], more].concat()
    }
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let words = refused(3, &apply(&path, out, &["--artifacts", empty.to_str().unwrap()]));
    assert!(words.contains("no such file"), "{words}");
    let words =
        refused(5, &apply(&path, out, &["--coordinator", "http://127.0.0.1:9", "--connect-timeout", "0"]));
    assert!(words.contains("--store, --coordinator or --artifacts says where they are"), "{words}");

    let artifacts = folder.path().join("s.redb.artifacts");
    let artifacts = artifacts.to_str().unwrap();
    succeed(&apply(&path, out, &["--artifacts", artifacts]));
    let measure = |what: &[&str]| {
        let data = ["--tokenizer", "experiments/models/tokenizer.json", "--window", "128", "--windows", "3"];
        let text = ["--text", "experiments/data/encyclopaedia.txt", "--output", "json"];
        json(&[&["compare", "--checkpoint", MODEL], &data[..], &text, what].concat())
    };
    let of_front = measure(&["--front", &path, "--artifacts", artifacts, "--storage", "rans"]);
    let of_file = measure(&["--against", out]);
    assert_eq!(of_front, of_file);
    assert_eq!(of_file["saving"], chosen["saving"]);

    // One that was damaged is not taken for the other.
    let damaged = folder.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    for file in std::fs::read_dir(artifacts).unwrap() {
        let file = file.unwrap();
        let mut bytes = std::fs::read(file.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(damaged.join(file.file_name()), bytes).unwrap();
    }
    let words = refused(1, &apply(&path, out, &["--artifacts", damaged.to_str().unwrap(), "--force"]));
    assert!(words.contains("damaged: its content hashes to"), "{words}");
    assert_eq!(artifact.len(), 64);
}

#[test]
fn what_was_trained_is_deployed_as_it_was_measured_and_a_control_stands_beside() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        "--set",
        "space.bits=[4, 3, 2]",
        "--set",
        "space.symmetry=full",
        "--set",
        "constraints.max_perplexity_increase=5.0",
        "--set",
        "recovery={ text = \"experiments/data/almanac.txt\", steps = 6, batch = 4, distillation = 0.5 }",
        "--set",
        "recovery.text=experiments/data/almanac.txt",
        "--set",
        "holdout.text=experiments/data/almanac.txt",
        "--set",
        "holdout.sequences=2",
    ];
    let (path, document) = front(folder.path(), &more);
    let trained =
        document["front"].as_array().unwrap().iter().find(|row| {
            row["schemes"]["head.weight"].as_str().is_some_and(|scheme| scheme.contains(":trained"))
        });
    let trained = trained.unwrap();
    assert_eq!(trained["schemes"]["emb.weight"], "sign");
    assert!(trained["codes"]["vectors"].as_str().is_some_and(|hash| hash.len() == 64), "{trained}");
    let (store, out) = (folder.path().join("s.redb"), folder.path().join("packed.safetensors"));
    let (store, out) = (store.to_str().unwrap(), out.to_str().unwrap());
    let id = trained["candidate"].as_str().unwrap();
    let apply = ["apply", "--checkpoint", MODEL, "--front", &path, "--candidate", id, "--store", store];
    let applied = json(&[&apply[..], &["--out", out, "--output", "json"]].concat());
    assert_eq!(applied["footprint_bytes"], trained["footprint_bytes"]);
    let nats = trained["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
    assert_eq!(eval(out, &[])["nll_sum"].as_f64(), Some(nats));
    // The float model learned from the same text; the chosen one was measured on data of its own.
    assert_eq!(document["control"]["steps"], 6);
    assert!(document["control"]["quality_loss"].as_f64().is_some_and(f64::is_finite), "{document}");
    assert!(document["holdout"]["quality_loss"].as_f64().is_some_and(f64::is_finite), "{document}");
    // Run again it answers from its store, and trains nothing but the control anew.
    assert_eq!(front(folder.path(), &more).1, document);
    let refused = |settings: &str| {
        let run = ["run", "experiments/specs/quickstart-recover.toml", "--store", store];
        let set = settings.split(' ').flat_map(|setting| ["--set", setting]);
        refused(2, &run.into_iter().chain(set).collect::<Vec<_>>())
    };
    assert!(refused("recovery.steps=0").contains("recovery.steps = 0: expected 1 to 10000000"));
    assert!(refused("recovery.window=60000").contains("tokens, a window takes 60001"));
    let words = refused("recovery.trainer=none");
    assert!(words.contains("unknown variant `none`, expected one of `qat`, `block_ap`, `mrem`"), "{words}");
    let words = refused("recovery.backend=flex");
    assert!(words.contains("recovery.backend = flex: expected native, cuda or wgpu"), "{words}");
    let words = refused("recovery.backend=cuda recovery.trainer=block_ap");
    assert!(words.contains("recovery.backend = cuda: qat alone trains on graphics cards"), "{words}");
    let words = refused("recovery.backend=gpu");
    assert!(words.contains("unknown variant `gpu`, expected one of `native`"), "{words}");
    if cfg!(not(feature = "cuda")) {
        let words = refused("recovery.backend=cuda");
        assert!(words.contains("built without the backend cuda: build it with --features cuda"), "{words}");
    }
    assert!(refused("recovery.modules=2").contains("recovery.modules: another trainer's"));
    let words = refused("recovery.trainer=mrem recovery.modules=99");
    assert!(words.contains("modules = 99: expected 1 to the number of blocks"), "{words}");
    let words = refused("recovery.states=int8 recovery.optimizer=adam");
    assert!(words.contains("states = int8: takes optimizer = \"lion\""), "{words}");
    assert!(refused("space.rounding=trained").contains("codes are trained of candidates"));
}

#[test]
fn a_candidate_of_a_front_is_trained_without_a_search_by_every_trainer() {
    let folder = tempfile::tempdir().unwrap();
    let (path, document) = front(folder.path(), &["--set", "space.bits=[4]"]);
    let out = folder.path().join("trained.safetensors");
    let out = out.to_str().unwrap();
    let recover = |settings: &[&'static str]| {
        let files = ["--checkpoint", MODEL, "--tokenizer", "experiments/models/tokenizer.json"];
        let text =
            ["--text", "experiments/data/almanac.txt", "--front", &path, "--out", out, "--output", "json"];
        let small = ["steps=4", "batch=2", "window=32"];
        let set = small.iter().chain(settings).flat_map(|setting| ["--set", setting]);
        let all = ["recover"].into_iter().chain(files).chain(text).chain(set);
        all.map(str::to_owned).collect::<Vec<String>>()
    };
    let chosen = &document["chosen"];
    let mut losses = Vec::new();
    let trainers: [&[&'static str]; 4] = [
        &[],
        &["trainer=block_ap", "end_to_end_steps=2"],
        &["trainer=mrem", "modules=2", "rounds=2"],
        &["states=int8", "rate=1e-4"],
    ];
    for trainer in trainers {
        let arguments = recover(trainer);
        let report = json(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(report["origin"], chosen["candidate"]);
        assert_eq!(report["footprint_bytes"], chosen["footprint_bytes"], "{trainer:?}");
        losses.push(eval(out, &[])["nll_sum"].as_f64().unwrap());
    }
    let as_it_was = chosen["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
    for (index, loss) in losses.iter().enumerate() {
        assert!((loss / as_it_was - 1.0).abs() < 0.05, "a few steps change little: {losses:?}, {as_it_was}");
        assert!(losses[..index].iter().all(|other| other != loss), "trainers differ: {losses:?}");
    }
    for (settings, words) in [
        (["steps=0"], "steps = 0: expected 1 to 10000000"),
        (["backend=flex"], "--set: backend = flex: expected native, cuda or wgpu"),
        (["text=other"], "text: of a spec's [recovery] alone"),
        (["stepz=1"], "did you mean `steps`?"),
    ] {
        let arguments = recover(&settings);
        let refusal = refused(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn what_was_trained_counts_the_bytes_of_its_entropy_coded_codes() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        "--set",
        "space={ schemes = [\"ec:0.70:tensor:f16\", \"ec:1.20:tensor:f16\"], storage = [\"packed\", \"rans\"] }",
        "--set",
        "constraints.max_perplexity_increase=5.0",
        "--set",
        "strategy={ kind = \"grid\", tier = \"global\" }",
        "--set",
        "recovery={ text = \"experiments/data/almanac.txt\", steps = 6, batch = 4, bit_cost = 0.5 }",
        "--set",
        "recovery.text=experiments/data/almanac.txt",
    ];
    let (path, document) = front(folder.path(), &more);
    let trained = document["front"].as_array().unwrap().iter().find(|row| !row["coded_bytes"].is_null());
    let trained = trained.unwrap();
    let head = trained["coded_bytes"]["head.weight"].as_u64().unwrap();
    assert!(head > 1000 && head < 128 * 2048, "{trained}");
    let (store, out) = (folder.path().join("s.redb"), folder.path().join("packed.safetensors"));
    let (store, out) = (store.to_str().unwrap(), out.to_str().unwrap());
    let id = trained["candidate"].as_str().unwrap();
    let apply = ["apply", "--checkpoint", MODEL, "--front", &path, "--candidate", id, "--store", store];
    let applied = json(&[&apply[..], &["--out", out, "--storage", "rans", "--output", "json"]].concat());
    assert_eq!(applied["footprint_bytes"], trained["footprint_bytes"]);
    let nats = trained["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
    assert_eq!(eval(out, &[])["nll_sum"].as_f64(), Some(nats));
    // Read off the record it is the same.
    let experiment = document["experiment"].as_str().unwrap();
    let again = json(&["front", experiment, "--store", store, "--output", "json"]);
    assert_eq!(again["front"], document["front"]);
}

#[test]
fn calibrated_and_entropy_coded_codes_save_91_percent_of_the_small_model_at_3_percent_loss() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let run =
        ["run", "experiments/specs/quickstart.toml", "--store", store.to_str().unwrap(), "--output", "json"];
    let front = json(&run);
    let (saving, loss) = (&front["chosen"]["saving"], &front["chosen"]["quality_loss"]);
    // Plain rounding saves 89.8 %.
    assert!(saving.as_f64().unwrap() > 0.915 && loss.as_f64().unwrap() <= 0.03, "{saving} at {loss}");
    assert_eq!(front["storage"], serde_json::json!(["packed", "rans"]));
    assert_eq!(json(&run), front, "what was made is made again, to the byte");
}

#[test]
fn what_is_wrong_with_a_spec_is_told_before_workers_are_asked_to_calibrate() {
    let submit = ["submit", "experiments/specs/plain.toml", "--coordinator", "http://127.0.0.1:9"];
    let calibrated =
        [&submit[..], &CALIBRATED, &["--set", "space.rounding=gptq", "--connect-timeout", "0"]].concat();
    let words = refused(5, &calibrated);
    assert!(words.contains("no coordinator answers"), "{words}");
    let words = refused(2, &[&calibrated[..], &["--set", "constraints.max_perplexity_increase=-1"]].concat());
    assert!(words.contains("max_perplexity_increase = -1"), "{words}");
    let words = refused(2, &[&submit[..], &["--set", "space.rounding=gptq"]].concat());
    assert!(words.contains("a calibrated rounding needs a [calibration] table"), "{words}");
    let words = refused(2, &[&submit[..], &["--set", "space.quantizer=[]"]].concat());
    assert!(words.contains("space.quantizer = []: expected at least one"), "{words}");
    let both = ["--set", "space.quantizer=[\"gptq\"]", "--set", "space.rounding=nearest"];
    let words = refused(2, &[&submit[..], &both].concat());
    assert!(words.contains("leave space.rounding out"), "{words}");
    let words = refused(2, &[&submit[..], &["--set", "space.schemes=[\"int4:full:channel\"]"]].concat());
    assert!(words.contains("leave space.bits out"), "{words}");
    let uncoded = ["--set", "space={ schemes = [\"ec:0.70:channel\"] }"];
    let words = refused(2, &[&submit[..], &uncoded].concat());
    assert!(words.contains("codes without a width are for storage with \"rans\""), "{words}");
}

#[test]
fn a_checkpoint_tells_which_quantizers_can_help_it() {
    let data =
        ["--tokenizer", "experiments/models/tokenizer.json", "--text", "experiments/data/encyclopaedia.txt"];
    let flags = [&data[..], &["--window", "128", "--windows", "4", "--statistics"]].concat();
    let report = json(&[&["inspect", MODEL, "--output", "json"], &flags[..]].concat());
    let units = report["statistics"].as_array().unwrap();
    assert_eq!(units.len(), 30);
    for unit in units {
        let number = |key: &str| unit[key].as_f64();
        let is_embedding = unit["unit"] == "emb.weight";
        assert!(number("kurtosis").unwrap().abs() < 1.0 || is_embedding, "about normal: {unit}");
        assert!(number("max_over_rms").unwrap() < 6.0, "{unit}");
        let entropy = unit["entropy"].as_object().unwrap();
        assert!(entropy["2"].as_f64().unwrap() < 2.0 && entropy["4"].as_f64().unwrap() > 3.0, "{unit}");
        // Nothing is multiplied with the embedding.
        assert_eq!(number("condition").is_none(), is_embedding, "{unit}");
        assert!(number("left_by_gptq").is_none_or(|left| left > 0.1 && left < 1.0), "{unit}");
    }
    let table = succeed(&["inspect", MODEL, "--statistics"]);
    assert!(table.contains("max/rms") && !table.contains("condition"), "{table}");
}

#[test]
fn the_same_codes_are_chosen_by_flags() {
    let folder = tempfile::tempdir().unwrap();
    let grid = ["--set", "space.rounding=gptq", "--set", "strategy={ kind = \"grid\", tier = \"global\" }"];
    let (_, document) = front(folder.path(), &[&CALIBRATED[..], &grid].concat());
    let row = document["front"].as_array().unwrap().iter().find(|row| {
        let schemes = row["schemes"].as_object().unwrap();
        schemes.iter().all(|(unit, scheme)| unit == "emb.weight" || scheme == "int4:symmetric:channel:gptq")
    });
    let more = [
        "--bits",
        "4",
        "--rounding",
        "gptq",
        "--embedding",
        "sign",
        "--calibration-sequences",
        "4",
        "--scales",
        "f32",
    ];
    let calibrated = [&more[..], &["--calibration", "experiments/data/encyclopaedia.txt"]].concat();
    let measured = eval(MODEL, &calibrated);
    let nats = row.unwrap()["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
    assert_eq!(measured["nll_sum"].as_f64(), Some(nats));
    let nearest = eval(MODEL, &["--bits", "4", "--embedding", "sign"]);
    assert_ne!(measured["nll_sum"], nearest["nll_sum"]);
    let words = refused(2, &["eval", "--checkpoint", MODEL, "--bits", "4", "--rounding", "gptq"]);
    assert!(words.contains("--calibration FILE is needed"), "{words}");
}

/// Flags of codes that are calibrated, with rows of the embedding by the frequency of their tokens.
const BY_FREQUENCY: [&str; 14] = [
    "--bits",
    "3",
    "--symmetry",
    "full",
    "--rounding",
    "frequency",
    "--embedding",
    "frequency",
    "--calibration",
    "experiments/data/encyclopaedia.txt",
    "--calibration-sequences",
    "4",
    "--window",
    "128",
];

#[test]
fn rows_of_the_embedding_have_widths_by_the_frequency_of_their_tokens_in_searches_and_files() {
    // Its signs alone are read of a binary embedding, so the model is taken as one of numbers.
    let real = ["--set", "checkpoint.binary_embedding=false"];
    let global = ["--set", "strategy={ kind = \"grid\", tier = \"global\" }"];
    let widths = "space={ schemes = [\"int4:full:channel:f16:frequency\", \"int3:full:channel:f16:frequency\"], \
                  embedding = \"frequency\" }";
    let steps = "space={ schemes = [\"ec0.50:channel:f16:frequency\", \"ec0.90:channel:f16:frequency\"], \
                 storage = [\"packed\", \"rans\"], embedding = \"frequency\" }";
    for space in [widths, steps] {
        let folder = tempfile::tempdir().unwrap();
        let more = [&CALIBRATED[..4], &real, &global, &["--set", space]].concat();
        let (path, document) = front(folder.path(), &more);
        let is_by_frequency =
            |row: &&Value| row["schemes"]["emb.weight"].as_str().unwrap().ends_with("frequency");
        let row = document["front"].as_array().unwrap().iter().find(is_by_frequency).unwrap();
        assert_ne!(row["codes"]["emb.weight"], row["codes"]["head.weight"], "an artifact of its own");
        assert!(row["schemes"]["blocks.0.att.key.weight"].as_str().unwrap().ends_with("descent"));
        let (store, out) = (folder.path().join("s.redb"), folder.path().join("packed.safetensors"));
        let (store, out) = (store.to_str().unwrap(), out.to_str().unwrap());
        let apply = ["apply", "--checkpoint", MODEL, "--real-embedding", "--front", &path, "--store", store];
        let id = row["candidate"].as_str().unwrap();
        let applied = json(&[&apply[..], &["--candidate", id, "--out", out, "--output", "json"]].concat());
        assert_eq!(applied["footprint_bytes"], row["footprint_bytes"]);
        let size = std::fs::metadata(out).unwrap().len();
        let bytes = ["footprint_bytes", "header_bytes"].map(|key| applied[key].as_u64().unwrap());
        assert_eq!(size, bytes.iter().sum::<u64>(), "to the byte of the file");
        let nats = row["counts"]["nll"].as_u64().unwrap() as f64 / f64::from(1 << 24);
        let measured = eval(out, &[]);
        assert_eq!(measured["nll_sum"].as_f64(), Some(nats), "the same loss to the bit");
        assert_eq!(measured["candidate"], row["candidate"]);
    }
    let run = ["run", "experiments/specs/plain.toml", "--set", "space.embedding=frequency"];
    let words = refused(2, &run);
    assert!(words.contains("embedding = \"frequency\": none of its schemes is by frequency"), "{words}");
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.jsonl");
    let key = "blocks.0.att.key.weight";
    std::fs::write(&list, format!("{{\"{key}\": \"int3:full:channel:f16:frequency\"}}\n")).unwrap();
    let strategy = format!("strategy={{ kind = \"list\", candidates = \"{}\" }}", list.display());
    let words = refused(2, &["run", "experiments/specs/plain.toml", "--set", &strategy]);
    assert!(words.contains(key) && words.contains("whose rows are tokens"), "{words}");
}

#[test]
fn calibrated_codes_of_flags_are_the_same_in_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    let tokenizer = ["--tokenizer", "experiments/models/tokenizer.json"];
    let apply = ["apply", "--checkpoint", MODEL, "--real-embedding", "--out", out, "--output", "json"];
    let applied = json(&[&apply[..], &tokenizer, &BY_FREQUENCY].concat());
    let (file, flags) = (eval(out, &[]), eval(MODEL, &[&["--real-embedding"], &BY_FREQUENCY[..12]].concat()));
    assert_eq!(counts(&file), counts(&flags));
    assert_eq!(
        (&file["candidate"], &file["footprint_bytes"]),
        (&flags["candidate"], &applied["footprint_bytes"])
    );
    let prompt = ["--prompt", "The lighthouse was", "--tokens", "12"];
    let generate = |more: &[&str]| succeed(&[&["generate"], &tokenizer[..], &prompt, more].concat());
    let of_flags = generate(&[&["--checkpoint", MODEL, "--real-embedding"], &BY_FREQUENCY[..]].concat());
    assert_eq!(generate(&["--checkpoint", out]), of_flags);
    // Activations with static ranges, too.
    let activations = ["--activation-bits", "6", "--calibration-sequences", "4", "--window", "128"];
    let text = ["--calibration", "experiments/data/encyclopaedia.txt"];
    let ranges = [&["--bits", "4", "--rounding", "gptq"], &activations[..], &text].concat();
    json(
        &[
            &["apply", "--checkpoint", MODEL, "--force", "--out", out, "--output", "json"],
            &tokenizer[..],
            &ranges,
        ]
        .concat(),
    );
    let without_window = ranges.iter().filter(|flag| !["--window", "128"].contains(flag)).copied();
    assert_eq!(counts(&eval(out, &[])), counts(&eval(MODEL, &without_window.collect::<Vec<_>>())));

    // Each unit alone, its codes from the same artifacts.
    let data = ["--text", "experiments/data/encyclopaedia.txt", "--window", "128", "--windows", "2"];
    let sensitivity = |rounding: &str| {
        let scheme = ["--bits", "2", "--rounding", rounding, "--embedding", "sign", "--metric", "task_loss"];
        let calibration =
            ["--calibration", "experiments/data/encyclopaedia.txt", "--calibration-sequences", "4"];
        let calibration = if rounding == "gptq" { &calibration[..] } else { &[] };
        let command = ["sensitivity", "--checkpoint", MODEL, "--output", "json"];
        let report = json(&[&command[..], &tokenizer, &data, &scheme, calibration].concat());
        let losses =
            report["units"].as_array().unwrap().iter().map(|unit| unit["task_loss"].as_f64().unwrap());
        losses.sum::<f64>()
    };
    let [gptq, nearest] = ["gptq", "nearest"].map(sensitivity);
    assert!(gptq < nearest, "what is calibrated loses less: {gptq} and {nearest}");
    for command in ["generate", "sensitivity", "apply"] {
        let mut arguments = vec![command, "--checkpoint", MODEL, "--bits", "4", "--rounding", "gptq"];
        match command {
            "generate" => arguments.extend(tokenizer.iter().chain(&prompt)),
            "sensitivity" => arguments.extend(tokenizer.iter().chain(&data)),
            _ => arguments.extend(["--force", "--out", out]),
        }
        let words = refused(2, &arguments);
        assert!(words.contains("--calibration FILE is needed"), "{command}: {words}");
    }
    let mut front = vec!["apply", "--checkpoint", MODEL, "--front", "front.json", "--force", "--out", out];
    front.extend(text);
    assert!(refused(2, &front).contains("--calibration is for schemes given by flags"));
}

#[test]
fn a_uniform_scheme_can_be_packed_without_a_search() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    for bits in ["2", "5", "8", "16", "32"] {
        let scheme = ["--bits", bits, "--symmetry", "affine"];
        let mut apply = vec!["apply", "--checkpoint", MODEL, "--force", "--out", out];
        apply.extend(scheme);
        succeed(&apply);
        assert_eq!(counts(&eval(out, &[])), counts(&eval(MODEL, &scheme)), "{bits} bits");
    }
    for vectors in ["3", "8", "16"] {
        let scheme = ["--bits", "4", "--vector-bits", vectors, "--embedding", "sign"];
        let applied = json(
            &[&["apply", "--checkpoint", MODEL, "--force", "--out", out, "--output", "json"], &scheme[..]]
                .concat(),
        );
        let told = ["footprint_bytes", "header_bytes"].map(|key| applied[key].as_u64().unwrap());
        assert_eq!(std::fs::metadata(out).unwrap().len(), told.iter().sum::<u64>());
        let (packed, searched) = (eval(out, &[]), eval(MODEL, &scheme));
        assert_eq!(counts(&packed), counts(&searched), "{vectors} bits");
        assert_eq!(packed["footprint_bytes"], applied["footprint_bytes"]);
    }
}

#[test]
fn a_packed_file_is_replaced_by_force_only_and_says_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("packed.safetensors");
    let path = out.to_str().unwrap();
    let apply = ["apply", "--checkpoint", MODEL, "--bits", "4", "--out", path];
    let said = succeed(&apply);
    let size = std::fs::metadata(&out).unwrap().len();
    let grouped = qslm_report::words::grouped(size);
    assert!(said.contains(&format!("{path}: {grouped} B")), "{said}");
    assert!(succeed(&["inspect", path]).contains(&format!("{grouped} B with the header of the file")));
    let words = refused(4, &apply);
    assert!(words.contains("is there already; --force replaces it"), "{words}");
    succeed(&[&apply[..], &["--force"]].concat());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let usual = folder.path().join("usual");
        std::fs::write(&usual, "").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&out), mode(&usual), "as any new file");
    }
}

#[test]
fn the_wrong_inputs_of_apply_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = front(folder.path(), &[]);
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    let apply = |code, checkpoint: &str, more: &[&str]| {
        let mut arguments = vec!["apply", "--checkpoint", checkpoint, "--out", out];
        arguments.extend(more);
        refused(code, &arguments)
    };
    let other = "experiments/models/sst2-xs.safetensors";
    assert!(apply(4, other, &["--front", &path]).contains("was measured on another checkpoint"));
    assert!(apply(3, MODEL, &["--front", &path, "--candidate", "zzz"]).contains("no candidate \"zzz\""));
    assert!(apply(4, MODEL, &["--front", &path, "--candidate", ""]).contains("several candidates"));
    assert!(apply(3, MODEL, &["--front", "no/front.json"]).contains("no/front.json: no such file"));
    assert!(apply(1, MODEL, &["--front", MODEL]).contains(MODEL));
    let words =
        std::fs::read_to_string(&path).unwrap().replace("int4:symmetric:channel", "int3:symmetric:channel");
    let forged = folder.path().join("forged.json");
    std::fs::write(&forged, words).unwrap();
    assert!(apply(1, MODEL, &["--front", forged.to_str().unwrap()]).contains("not those of its id"));
    assert!(!Path::new(out).exists(), "nothing was written");

    // What is packed is neither packed, quantized nor searched again.
    succeed(&["apply", "--checkpoint", MODEL, "--bits", "4", "--out", out]);
    let again = folder.path().join("again.safetensors");
    let again = again.to_str().unwrap();
    let twice = refused(1, &["apply", "--checkpoint", out, "--bits", "4", "--out", again]);
    assert!(twice.contains("packed already"), "{twice}");
    let checkpoint = format!("checkpoint.path={out}");
    let searched = refused(2, &["run", "experiments/specs/plain.toml", "--set", &checkpoint]);
    assert!(searched.contains("packed already"), "{searched}");
}

#[test]
fn a_damaged_packed_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    succeed(&["apply", "--checkpoint", MODEL, "--bits", "4", "--symmetry", "affine", "--out", out]);
    let good = std::fs::read(out).unwrap();
    let refuse = |bytes: &[u8]| {
        std::fs::write(out, bytes).unwrap();
        refused(1, &["inspect", out]);
        let mut eval = vec!["eval", "--checkpoint", out, "--tokenizer", "experiments/models/tokenizer.json"];
        eval.extend(["--text", "experiments/data/encyclopaedia.txt"]);
        refused(1, &eval)
    };
    refuse(&good[..good.len() - 1]);
    let header = String::from_utf8_lossy(&good).into_owned();
    assert!(header.contains("int4:affine:channel"));
    // The same length, so that only the meaning changes.
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = good.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    assert!(
        refuse(&replaced("int4:affine:channel", "int5:affine:channel"))
            .contains("not those of the candidate")
    );
    assert!(
        refuse(&replaced("\\\"format\\\":1", "\\\"format\\\":9"))
            .contains("format 9, this version reads formats 1 and 2")
    );
    assert!(refuse(&replaced("\\\"provenance\\\"", "\\\"provenanse\\\"")).contains("provenanse"));
}

#[test]
fn a_float_checkpoint_is_inspected() {
    let report = json(&["inspect", "worker/engine/tests/data/tiny/model.pth", "--output", "json"]);
    assert_eq!(report["network"]["vocabulary"], 96);
    assert_eq!(report["packed"], false);
    let units = report["units"].as_array().unwrap();
    let sum: u64 = units.iter().map(|unit| unit["parameters"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), report["matrix_parameters"].as_u64());
    assert!(succeed(&["inspect", MODEL]).contains("V 2048, D 128, hidden 512, L 4"));
    assert!(root().join(MODEL).is_file());
}

#[test]
fn a_text_is_continued_the_same_way_for_the_same_seed() {
    let generate = |more: &[&str]| {
        let mut arguments = vec!["generate", "--tokenizer", "experiments/models/tokenizer.json"];
        arguments.extend(["--prompt", "The lighthouse was built", "--tokens", "24"]);
        arguments.extend(more);
        succeed(&arguments)
    };
    let float = |seed| generate(&["--checkpoint", MODEL, "--seed", seed]);
    let text = float("1");
    assert!(text.starts_with("The lighthouse was built") && text.len() > 60, "{text}");
    assert_eq!(text, float("1"));
    assert_ne!(text, float("2"));
    // A packed file says what its candidate says.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("packed.safetensors");
    let out = out.to_str().unwrap();
    succeed(&["apply", "--checkpoint", MODEL, "--bits", "3", "--embedding", "sign", "--out", out]);
    let quantized = ["--checkpoint", MODEL, "--bits", "3", "--embedding", "sign"];
    assert_eq!(generate(&["--checkpoint", out]), generate(&quantized));

    let refuse = |code, more: &[&str]| {
        let mut arguments = vec!["generate", "--tokenizer", "experiments/models/tokenizer.json"];
        arguments.extend(more);
        refused(code, &arguments)
    };
    assert!(refuse(2, &["--checkpoint", MODEL, "--prompt", ""]).contains("no tokens to go on from"));
    let hot = refuse(2, &["--checkpoint", MODEL, "--prompt", "a", "--temperature", "nan"]);
    assert!(hot.contains("--temperature = NaN"), "{hot}");
    let classifier = "experiments/models/sst2-xs.safetensors";
    assert!(refuse(2, &["--checkpoint", classifier, "--prompt", "a"]).contains("classifies"));
}
