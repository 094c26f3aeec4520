//! What `qslm inspect --resources` tells of memory, beside what real evaluations take.
#![allow(clippy::unwrap_used)]

mod support;

use support::{json, refused, succeed};

const TOKENIZER: &str = "experiments/models/tokenizer.json";

#[test]
fn an_evaluation_takes_no_more_memory_than_is_told_and_half_of_it_at_least() {
    let text = ["--text", "experiments/data/encyclopaedia.txt", "--windows", "8"];
    let labelled = ["--labelled", "experiments/data/sentences.tsv"];
    let models: [(&str, &[&str], &[&str]); 3] = [
        ("experiments/models/wikitext2-xs.safetensors", &[], &text),
        ("experiments/models/rwkv4-xs.safetensors", &["--family", "rwkv4"], &text),
        ("experiments/models/sst2-xs.safetensors", &[], &labelled),
    ];
    for (model, family, data) in models {
        for window in ["128", "512"] {
            let flags = ["inspect", model, "--resources", "--window", window, "--output", "json"];
            let told = &json(&[&flags[..], family].concat())["resources"];
            assert_eq!(told["threads_per_slot"], 1);
            for row in told["workers"].as_array().unwrap().iter().take(3) {
                let threads = row["threads"].to_string();
                let eval = ["eval", "--checkpoint", model, "--tokenizer", TOKENIZER, "--window", window];
                let more = ["--threads", &threads, "--output", "json"];
                let measured = &json(&[&eval[..], data, family, &more].concat())["peak_memory_bytes"];
                let (told, measured) =
                    (row["evaluation_bytes"].as_u64().unwrap(), measured.as_u64().unwrap());
                assert!(
                    (told / 2..=told).contains(&measured),
                    "{model}, {threads} threads, windows of {window}: {told} bytes told, {measured} measured"
                );
                assert!(row["memory_bytes"].as_u64().unwrap() > told, "a worker keeps more");
            }
        }
    }
}

#[test]
fn resources_are_told_of_a_window_that_there_may_be() {
    let inspect = ["inspect", "experiments/models/wikitext2-xs.safetensors", "--resources", "--window"];
    let table = succeed(&[&inspect[..], &["128"]].concat());
    assert!(table.contains("windows of 128 tokens: ") && table.contains("bytes of a worker"), "{table}");
    let refused = refused(2, &[&inspect[..], &["0"]].concat());
    assert!(refused.contains("window = 0") || refused.contains("window 0"), "{refused}");
}
