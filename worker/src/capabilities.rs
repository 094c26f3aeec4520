//! Capabilities of this machine, as far as the program can tell.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use qslm_common::ENGINE_VERSION;
use qslm_common::backend::Backend;
use qslm_common::demands::Capabilities;
use qslm_engine::backend::usable;
use qslm_train::jobs::kinds;

use crate::memory;

/// Backends, processor and memory of this machine, with the labels that people gave it.
pub fn detect(labels: BTreeMap<String, String>) -> Capabilities {
    Capabilities {
        backends: usable().iter().map(ToString::to_string).collect(),
        cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
        memory_bytes: memory::limit().unwrap_or(0),
        labels,
        jobs: kinds().map(|kind| kind.name.to_owned()).collect(),
    }
}

/// Fingerprint of what measures with a backend here, as results carry it: program, engine, backend, processor.
pub fn fingerprint(backend: Backend) -> String {
    let mut text = format!(
        "qslm {}, engine {ENGINE_VERSION}, {backend}, {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    for feature in cpu_features() {
        text.push(' ');
        text.push_str(feature);
    }
    text
}

/// Instruction sets of the processor that decide how fast evaluations are.
#[cfg(target_arch = "x86_64")]
pub fn cpu_features() -> Vec<&'static str> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("amx-int8", qslm_engine::kernels::integer::has_tiles()),
    ];
    features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// Instruction sets of the processor that decide how fast evaluations are.
#[cfg(not(target_arch = "x86_64"))]
pub fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// Labels as `zone=a,rack=7`.
///
/// # Errors
/// One line that names the entry.
pub fn parse_labels(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (label, value) =
            entry.split_once('=').with_context(|| format!("labels: {entry:?}: expected LABEL=VALUE"))?;
        ensure!(!label.is_empty() && !value.is_empty(), "labels: {entry:?}: expected LABEL=VALUE");
        let known = labels.insert(label.to_owned(), value.to_owned());
        ensure!(known.is_none(), "labels: {label:?} is given twice");
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let labels = parse_labels(" zone=a, rack=7,,").unwrap();
        let pairs: Vec<_> = labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("rack", "7"), ("zone", "a")]);
        for wrong in ["zone", "=a", "zone=", "zone=a,zone=b"] {
            assert!(parse_labels(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_worker_can_do_something() {
        let able = detect(BTreeMap::new());
        assert!(able.backends.contains("native") && able.validate().is_ok());
    }
}
