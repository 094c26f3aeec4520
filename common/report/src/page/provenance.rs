//! Provenance on the page: what decides a result, and who measured it.

use qslm_common::cost::Device;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::float_bytes;
use qslm_common::hash::ContentHash;
use qslm_common::scheme::Width;
use qslm_common::space::Space;
use qslm_common::task::Task;
use serde::Serialize;
use serde_json::Value;

use crate::words::{bytes, date};
use crate::{EngineShare, GivenArtifact, ReportDocument};

/// Rows of names and values.
pub(super) fn provenance(report: &ReportDocument) -> Vec<(&'static str, String)> {
    let experiment = &report.experiment;
    let network = &experiment.network;
    let classes =
        if network.is_classifier() { format!(", {} classes", network.outputs) } else { String::new() };
    let mut rows = vec![
        ("experiment", report.id.clone()),
        ("checkpoint", file(report, &experiment.checkpoint)),
        ("text", file(report, &experiment.data.text)),
        ("tokenizer", file(report, &experiment.data.tokenizer)),
        (
            "network",
            format!(
                "{} blocks, {} channels, vocabulary {}{classes}: {} parameters, {} as float",
                network.blocks,
                network.channels,
                network.vocabulary,
                network.parameters(),
                bytes(float_bytes(network)),
            ),
        ),
        ("task", task(&experiment.task)),
        ("strategy", strategy(report).to_owned()),
        ("objectives", experiment.objectives.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("constraints", written(&experiment.constraints).unwrap_or_else(|| "none".to_owned())),
        ("trade-off", written(&experiment.trade_off).unwrap_or_default()),
        ("space", space(&experiment.space)),
        ("device", device(experiment)),
        ("engine", engine(experiment)),
    ];
    if !network.dynamics.is_default() {
        rows.push(("dynamics", network.dynamics.to_string()));
    }
    if let Some(recovery) = experiment.recovery.as_ref().filter(|recovery| recovery.backend.is_gpu()) {
        let note = "graphics cards: whoever trains again gets other bits, of the same quality";
        rows.push(("trained on", format!("{}, {note}", recovery.backend)));
    }
    if !report.front.reproducible {
        rows.push(("reproducible", "false: graphics cards took part".to_owned()));
    }
    if let (Some(first), Some(last)) = (report.timeline.first(), report.timeline.last()) {
        rows.push(("measured", format!("{} to {} UTC", date(first.unix_ms), date(last.unix_ms))));
    }
    for EngineShare { engine, measured } in &report.engines {
        rows.push(("measured by", format!("{engine}: {measured} candidates")));
    }
    for GivenArtifact { job, artifact } in &report.artifacts {
        rows.push(("made for it", format!("{job}: {artifact}")));
    }
    rows
}

/// A file by its hash, with the address that it was fetched from.
fn file(report: &ReportDocument, hash: &ContentHash) -> String {
    let origin = report.origins.of(hash).map_or(String::new(), |origin| format!(" from {origin}"));
    format!("{hash}{origin}")
}

/// Device of an experiment that describes none.
const DEFAULT_DEVICE: &str = "the default one of 45 nm";

fn device(experiment: &Experiment) -> String {
    let described = (experiment.device != Device::default()).then(|| written(&experiment.device));
    described.flatten().unwrap_or_else(|| DEFAULT_DEVICE.to_owned())
}

/// Ladder of weights, then what else may be quantized.
fn space(space: &Space) -> String {
    let ladder: Vec<String> = space.ladder().map(|scheme| scheme.to_string()).collect();
    let of_bits = |name: &str, bits: Vec<u8>| {
        let bits: Vec<String> = bits.iter().map(ToString::to_string).collect();
        format!("{name} of {} bits", bits.join(", "))
    };
    let widths = |name, bits: &[Width]| of_bits(name, bits.iter().map(|width| width.bits()).collect());
    let mut words = vec![ladder.join(", "), format!("embedding {}", plain(&space.embedding))];
    words.extend(space.vectors.as_ref().map(|vectors| widths("vectors", &vectors.bits)));
    words.extend(space.activations.as_ref().map(|activations| widths("activations", &activations.bits)));
    words.extend(space.membranes.as_ref().map(|membranes| of_bits("membranes", membranes.bits.clone())));
    let rules = space.rules.len();
    words.extend((rules > 0).then(|| format!("{rules} units with a ladder of their own")));
    words.join("; ")
}

/// Keys with their values as a spec writes them, `a = 1, b.c = 2`, without those that say nothing; `None` if none does.
fn written(value: &impl Serialize) -> Option<String> {
    let mut words = Vec::new();
    write_keys("", &serde_json::to_value(value).ok()?, &mut words);
    (!words.is_empty()).then(|| words.join(", "))
}

fn write_keys(key: &str, value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Object(inner) => {
            for (name, value) in inner {
                let dot = if key.is_empty() { "" } else { "." };
                write_keys(&format!("{key}{dot}{name}"), value, words);
            }
        }
        value => words.push(format!("{key} = {}", plain(value))),
    }
}

/// Value without the quotes of a text.
fn plain(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(_) => String::new(),
    }
}

/// Engine that computed, and what to know about its numbers.
fn engine(experiment: &Experiment) -> String {
    let Experiment { engine_version, backend, .. } = experiment;
    let note = match backend.is_gpu() {
        true => " on graphics cards: other cards and drivers, and processors, give other last digits",
        false => "",
    };
    format!("version {engine_version}, products by {backend}{note}")
}

fn task(task: &Task) -> String {
    let of = |count: &Option<u32>, what: &str| {
        count.map_or(format!("all {what}"), |count| format!("the first {count} {what}"))
    };
    match task {
        Task::Perplexity { window, stride, windows } => {
            format!("perplexity, windows of {window} tokens every {stride}, {}", of(windows, "windows"))
        }
        Task::Accuracy { sentences } => format!("accuracy, {}", of(sentences, "sentences")),
        Task::Choice { questions, .. } => format!("multiple choice, {}", of(questions, "questions")),
    }
}

fn strategy(report: &ReportDocument) -> &str {
    // A document of an earlier version has no caption.
    if report.strategy.is_empty() { report.experiment.strategy.kind() } else { &report.strategy }
}
