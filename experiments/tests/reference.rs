//! `qslm eval` against the values that the reference implementation recorded.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{json, root, shared, succeed};

fn eval(model: &Path, data: &[&str], quantized: &Value, backend: &str) -> Value {
    let (checkpoint, tokenizer) = (model.join("model.pth"), model.join("tokenizer.json"));
    let mut arguments = vec!["eval", "--checkpoint", checkpoint.to_str().unwrap()];
    arguments.extend(["--tokenizer", tokenizer.to_str().unwrap(), "--backend", backend, "--output", "json"]);
    arguments.extend(data);
    let bits = quantized["bits"].as_u64().map(|bits| bits.to_string());
    if let Some(bits) = &bits {
        arguments.extend(["--bits", bits, "--symmetry", quantized["symmetry"].as_str().unwrap()]);
        arguments.extend(["--granularity", quantized["granularity"].as_str().unwrap()]);
        arguments.extend(["--range", "minmax", "--scales", "f32"]);
    }
    json(&arguments)
}

/// Calls `compare` with every expected value, float and quantized, and what each backend measured.
fn each(model: &str, data: &[&str], compare: impl Fn(&Value, &Value, &Value)) {
    let model = shared().join("models").join(model);
    let text = std::fs::read_to_string(model.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let quantized = expected["quantized"].as_array().unwrap();
    assert!(quantized.len() >= 8);
    for one in std::iter::once(&expected["float"]).chain(quantized) {
        for backend in ["native", "integer", "flex", "ndarray"] {
            compare(one, &eval(&model, data, one, backend), &expected["tolerance"]);
        }
    }
}

fn data(name: &str) -> String {
    shared().join("data").join(name).to_str().unwrap().to_owned()
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn the_language_model_gives_the_recorded_losses_float_and_quantized() {
    let text = data("wikitext-2/valid.txt");
    let arguments = ["--text", &text, "--window", "128", "--windows", "64"];
    each("wikitext2-xs", &arguments, |expected, measured, tolerance| {
        let (nll, recorded) = (measured["nll_sum"].as_f64().unwrap(), expected["nll_sum"].as_f64().unwrap());
        let most = tolerance["nll_relative"].as_f64().unwrap();
        assert!((nll / recorded - 1.0).abs() < most, "{expected}: {nll}");
        assert_eq!(measured["tokens"], expected["tokens"]);
        for (name, rate) in expected["firing_rates"].as_object().into_iter().flatten() {
            let difference = measured["firing_rates"][name].as_f64().unwrap() - rate.as_f64().unwrap();
            assert!(difference.abs() < tolerance["firing_rate_absolute"].as_f64().unwrap(), "{name}");
        }
    });
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn the_classifier_gives_the_recorded_hits_float_and_quantized() {
    let sentences = data("sst2/dev.tsv");
    each("sst2-xs", &["--labelled", &sentences], |expected, measured, tolerance| {
        let hits = |value: &Value| value["hits"].as_i64().unwrap();
        let most = tolerance["accuracy_sentences"].as_i64().unwrap();
        assert!((hits(measured) - hits(expected)).abs() <= most, "{expected}: {}", hits(measured));
        assert_eq!(measured["sentences"], expected["sentences"]);
    });
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn the_bundled_models_are_the_reference_models_in_16_bits() {
    let shared = shared();
    for (name, arguments) in [
        ("wikitext2-xs", ["--text", &data("wikitext-2/valid.txt"), "--window", "128", "--windows", "64"]),
        ("sst2-xs", ["--labelled", &data("sst2/dev.tsv"), "--window", "128", "--windows", "872"]),
    ] {
        let bundled = root().join("experiments/models").join(name).with_extension("safetensors");
        let tokenizer = root().join("experiments/models/tokenizer.json");
        let mut all = vec!["eval", "--checkpoint", bundled.to_str().unwrap(), "--output", "json"];
        all.extend(["--tokenizer", tokenizer.to_str().unwrap()]);
        all.extend(arguments);
        let bundled = json(&all);
        let float = eval(&shared.join("models").join(name), &arguments, &Value::Null, "native");
        let nll = |value: &Value| value["nll_sum"].as_f64().unwrap();
        assert!(
            (nll(&bundled) / nll(&float) - 1.0).abs() < 1e-3,
            "{name}: {} {}",
            nll(&bundled),
            nll(&float)
        );
    }
}

#[test]
fn logits_and_counts_of_the_golden_model_come_through_the_program() {
    let golden = root().join("worker/engine/tests/data/tiny");
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, tokens) = (golden.join("model.pth"), golden.join("expected.safetensors"));
    let out = folder.path().join("logits.safetensors");
    let mut arguments = vec!["eval", "--checkpoint", checkpoint.to_str().unwrap(), "--output", "json"];
    arguments.extend(["--tokens", tokens.to_str().unwrap(), "--logits-out", out.to_str().unwrap()]);
    let measured = json(&arguments);
    let text = std::fs::read_to_string(golden.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let relative = measured["nll_sum"].as_f64().unwrap() / expected["nll_sum"].as_f64().unwrap() - 1.0;
    assert!(relative.abs() < 1e-5);
    assert_eq!(measured["tokens"], expected["predicted_tokens"]);
    let logits = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("logits").unwrap();
        assert_eq!(tensor.shape(), [2, 64, 96]);
        tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    for (ours, theirs) in logits(&out).iter().zip(logits(&tokens)) {
        assert!((ours - theirs).abs() < 1e-4);
    }
}

/// The bundled model on the bundled text under some flags, less what depends on the machine's moment.
fn measure(flags: &[&str]) -> Value {
    let mut arguments = vec!["eval", "--checkpoint", "experiments/models/wikitext2-xs.safetensors"];
    arguments.extend(["--tokenizer", "experiments/models/tokenizer.json", "--window", "128"]);
    arguments.extend(["--text", "experiments/data/encyclopaedia.txt", "--windows", "9", "--output", "json"]);
    arguments.extend(flags);
    let mut measured = json(&arguments);
    let object = measured.as_object_mut().unwrap();
    object.retain(|key, _| {
        !["seconds", "tokens_per_second", "peak_memory_bytes", "backend"].contains(&key.as_str())
    });
    measured
}

/// Weights, activations and membranes, each of them quantized.
const CANDIDATES: [&[&str]; 4] = [
    &[],
    &["--bits", "4", "--embedding", "sign"],
    &["--bits", "3", "--rounding", "stochastic:7", "--vector-bits", "8"],
    &["--bits", "6", "--embedding", "sign", "--activation-bits", "6", "--membrane-bits", "6"],
];

#[test]
fn threads_do_not_change_a_measurement() {
    for candidate in CANDIDATES {
        let on = |threads: &str| measure(&[candidate, &["--threads", threads]].concat());
        assert_eq!(on("1"), on("4"), "every digit: {candidate:?}");
    }
}

#[test]
fn backends_agree_on_five_digits_and_where_rounding_steps_in_on_three() {
    for candidate in CANDIDATES {
        let on = |backend: &str| {
            measure(&[candidate, &["--backend", backend]].concat())["nll_sum"].as_f64().unwrap()
        };
        // A last bit may put an activation on the other side of a rounding, and what follows from it is a step.
        let bound = if candidate.contains(&"--activation-bits") { 1e-3 } else { 1e-5 };
        for other in ["integer", "flex", "ndarray"] {
            let relative = (on("native") / on(other) - 1.0).abs();
            assert!(relative <= bound, "{candidate:?} on {other}: {relative:e}");
        }
    }
}

#[test]
fn a_stride_scores_every_token_once_with_more_context() {
    let measure = |stride: &str| {
        let mut arguments = vec!["eval", "--checkpoint", "experiments/models/wikitext2-xs.safetensors"];
        arguments.extend(["--tokenizer", "experiments/models/tokenizer.json", "--window", "128"]);
        arguments.extend([
            "--text",
            "experiments/data/encyclopaedia.txt",
            "--stride",
            stride,
            "--output",
            "json",
        ]);
        json(&arguments)
    };
    let (apart, overlapping) = (measure("128"), measure("64"));
    assert_eq!(apart["tokens"], overlapping["tokens"]);
    assert!(overlapping["perplexity"].as_f64() < apart["perplexity"].as_f64());
}

#[test]
fn a_person_gets_a_table() {
    let mut arguments = vec!["eval", "--checkpoint", "experiments/models/sst2-xs.safetensors"];
    arguments.extend(["--tokenizer", "experiments/models/tokenizer.json"]);
    arguments.extend(["--labelled", "experiments/data/sentences.tsv", "--bits", "4", "--embedding", "sign"]);
    let table = succeed(&arguments);
    assert!(table.contains("accuracy") && table.contains("of 208 sentences"), "{table}");
}
