//! A checkpoint of the published shape, in PyTorch's format: read in little more memory than its file, inspected,
//! evaluated, quantized and packed. Its weights are random and made here.
#![allow(clippy::unwrap_used)]

#[path = "support/pth.rs"]
mod pth;
mod support;

use std::path::Path;

use qslm_common::network::Network;
use serde_json::Value;
use support::{json, shared, succeed};

const PUBLISHED: Network = Network {
    vocabulary: 50_277,
    channels: 768,
    hidden: 4 * 768,
    blocks: 18,
    outputs: 50_277,
    binary_embedding: true,
    dynamics: qslm_common::network::Dynamics::SPIKEGPT,
};

/// Random weights at which the network neither explodes nor falls silent.
fn write_random(path: &Path) {
    let units = PUBLISHED.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = PUBLISHED.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let tensors: Vec<_> = units.chain(vectors).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    pth::write(path, &tensors, |name, values| {
        let (middle, width) = match name {
            _ if name.contains("ln") && name.ends_with("weight") => (1.0, 0.1),
            _ if name.contains("time_mix") => (0.5, 1.0),
            _ if name.ends_with("time_decay") => (-2.0, 4.0),
            _ => (0.0, 0.2),
        };
        for value in values {
            // xorshift64: fast and the same every time; nothing more is asked of it.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *value = middle + width * ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5);
        }
    });
}

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn a_model_of_the_published_size_is_read_evaluated_quantized_and_deployed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, packed) = (folder.path().join("216m.pth"), folder.path().join("packed.safetensors"));
    write_random(&model);
    let file_bytes = std::fs::metadata(&model).unwrap().len();
    let (model, packed) = (model.to_str().unwrap(), packed.to_str().unwrap());

    let inspected = json(&["inspect", model, "--output", "json"]);
    let numbers =
        ["parameters", "matrices", "macs_per_token", "float_bytes"].map(|key| inspected[key].as_u64());
    assert_eq!(numbers, [Some(215_399_424), Some(128), Some(176_631_552), Some(861_597_696)]);

    let tokenizer = shared().join("data/tokenizers/20B_tokenizer.json");
    let text = shared().join("data/wikitext-2/valid.txt");
    let eval = |checkpoint: &str, more: &[&str]| -> Value {
        let files = ["--tokenizer", tokenizer.to_str().unwrap(), "--text", text.to_str().unwrap()];
        let flags = ["--window", "64", "--windows", "2", "--output", "json"];
        json(&[&["eval", "--checkpoint", checkpoint], &files[..], &flags, more].concat())
    };
    let float = eval(model, &[]);
    assert_eq!(float["tokens"], 128);
    // Random weights know nothing: a loss near that of guessing, and neurons that fire.
    let per_token = float["nll_sum"].as_f64().unwrap() / 128.0;
    assert!((per_token - 50_277f64.ln()).abs() < 2.0, "{per_token}");
    assert!(float["firing_rates"].as_object().unwrap().values().any(|rate| rate.as_f64().unwrap() > 0.001));

    let four = ["--bits", "4", "--embedding", "sign"];
    let quantized = eval(model, &four);
    for report in [&float, &quantized] {
        let peak = report["peak_memory_bytes"].as_u64().unwrap();
        // The pages of the program count, too, and so does what its threads set aside.
        let ratio = peak.saturating_sub(64 << 20) as f64 / file_bytes as f64;
        assert!(ratio <= 1.25, "{peak} bytes at the peak: beside 64 MiB {ratio:.3} times the file");
    }
    let applied =
        [&["apply", "--checkpoint", model, "--out", packed, "--output", "json"], &four[..]].concat();
    let applied = json(&applied);
    assert_eq!(applied["footprint_bytes"], quantized["footprint_bytes"]);
    let size = std::fs::metadata(packed).unwrap().len();
    let told = ["footprint_bytes", "header_bytes"].map(|key| applied[key].as_u64().unwrap());
    assert_eq!(size, told.iter().sum::<u64>());
    assert_eq!(eval(packed, &[])["nll_sum"], quantized["nll_sum"], "the same loss to the bit");

    let say =
        ["generate", "--tokenizer", tokenizer.to_str().unwrap(), "--prompt", "The spikes", "--tokens", "3"];
    let said = succeed(&[&say[..], &["--checkpoint", packed]].concat());
    assert!(said.starts_with("The spikes") && said.len() > "The spikes\n".len(), "{said:?}");
}
