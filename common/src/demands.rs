//! Capabilities of workers, and the demands of an experiment on them.
//!
//! Neither changes a result. The backend does, so it is part of the experiment; the rest says where it is to
//! be evaluated.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::bytes;

/// Entries of a set, and characters of an entry, that are taken.
const MOST: usize = 64;
const LONGEST: usize = 128;

/// Capabilities of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Names of the backends that it has, of which others than ours may be.
    pub backends: BTreeSet<String>,
    /// Instruction sets of its processor, by Rust's names.
    pub cpu_features: BTreeSet<String>,
    /// Memory that it may use, in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// Labels that people tell workers apart by.
    pub labels: BTreeMap<String, String>,
    /// Kinds of jobs that it is able to do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub jobs: BTreeSet<String>,
}

/// Demands on a worker that is to evaluate an experiment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Demands {
    /// Instruction sets, all of which the worker needs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cpu_features: BTreeSet<String>,
    /// Bytes of memory, at least.
    #[serde(deserialize_with = "bytes::whole", skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Labels, all of which the worker needs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Error: more than any worker has to say of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected at most {MOST} entries of 1 to {LONGEST} characters")]
pub struct TooMuch {
    what: &'static str,
}

impl Capabilities {
    /// True if a worker makes jobs of a kind on a backend.
    pub fn make(&self, kind: &str, backend: Backend) -> bool {
        self.jobs.contains(kind) && (backend == Backend::Native || self.backends.contains(backend.name()))
    }

    /// # Errors
    /// [`TooMuch`] names the field.
    pub fn validate(&self) -> Result<(), TooMuch> {
        check("backends", self.backends.iter())?;
        check("cpu_features", self.cpu_features.iter())?;
        check("jobs", self.jobs.iter())?;
        check("labels", self.labels.keys().chain(self.labels.values()))
    }
}

impl Demands {
    /// True if anything is demanded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// [`TooMuch`] names the field.
    pub fn validate(&self) -> Result<(), TooMuch> {
        check("cpu_features", self.cpu_features.iter())?;
        check("labels", self.labels.keys().chain(self.labels.values()))
    }

    /// Demands what `other` demands, too. Of two values of one label the larger is meant, so that it does not
    /// matter which comes first.
    pub fn join(&mut self, other: Self) {
        let Self { cpu_features, memory_bytes, labels } = other;
        self.cpu_features.extend(cpu_features);
        self.memory_bytes = self.memory_bytes.max(memory_bytes);
        for (label, theirs) in labels {
            let ours = self.labels.entry(label).or_default();
            *ours = theirs.max(std::mem::take(ours));
        }
    }

    /// True if a worker has everything, and the backend.
    pub fn are_met(&self, backend: Backend, by: &Capabilities) -> bool {
        by.backends.contains(backend.name())
            && self.cpu_features.is_subset(&by.cpu_features)
            && self.memory_bytes <= by.memory_bytes
            && self.labels.iter().all(|(label, value)| by.labels.get(label) == Some(value))
    }
}

fn check<'a>(what: &'static str, entries: impl Iterator<Item = &'a String>) -> Result<(), TooMuch> {
    // Labels come as names and values.
    let mut entries = entries.take(2 * MOST + 1).enumerate();
    let fine =
        entries.all(|(index, entry)| index < 2 * MOST && (1..=LONGEST).contains(&entry.chars().count()));
    if fine { Ok(()) } else { Err(TooMuch { what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> BTreeSet<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn a_worker_needs_all_that_is_demanded() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let worker = Capabilities {
            backends: set(&["native", "ndarray"]),
            cpu_features: set(&["avx2", "fma"]),
            memory_bytes: 8 << 30,
            labels: labels.clone(),
            jobs: BTreeSet::new(),
        };
        let none = Demands::default();
        assert!(none.are_met(Backend::Native, &worker));
        assert!(!none.are_met(Backend::Native, &Capabilities::default()), "no backend");
        let fine = Demands { cpu_features: set(&["avx2"]), memory_bytes: 8 << 30, labels };
        assert!(fine.are_met(Backend::Ndarray, &worker));
        let more = [
            Demands { cpu_features: set(&["avx2", "avx512f"]), ..Demands::default() },
            Demands { memory_bytes: (8 << 30) + 1, ..Demands::default() },
            Demands { labels: BTreeMap::from([("zone".to_owned(), "b".to_owned())]), ..Demands::default() },
            Demands { labels: BTreeMap::from([("rack".to_owned(), "a".to_owned())]), ..Demands::default() },
        ];
        assert!(more.iter().all(|demands| !demands.are_met(Backend::Native, &worker)));
    }

    #[test]
    fn a_worker_makes_the_kinds_that_it_knows_on_the_backends_that_it_has() {
        let worker =
            Capabilities { backends: set(&["cuda"]), jobs: set(&["qat"]), ..Capabilities::default() };
        // What is made on native is made by whoever knows the kind.
        assert!(worker.make("qat", Backend::Native) && worker.make("qat", Backend::Cuda));
        assert!(!worker.make("qat", Backend::Wgpu) && !worker.make("gptq", Backend::Cuda));
    }

    #[test]
    fn demands_that_are_joined_are_all_demanded() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let one = Demands {
            cpu_features: set(&["avx2"]),
            memory_bytes: 8,
            labels: labels(&[("zone", "a"), ("rack", "7")]),
        };
        let other =
            Demands { cpu_features: set(&["fma"]), memory_bytes: 5, labels: labels(&[("zone", "b")]) };
        let joined = |first: &Demands, second: &Demands| {
            let mut all = first.clone();
            all.join(second.clone());
            all
        };
        let both = Demands {
            cpu_features: set(&["avx2", "fma"]),
            memory_bytes: 8,
            labels: labels(&[("zone", "b"), ("rack", "7")]),
        };
        assert_eq!((joined(&one, &other), joined(&other, &one)), (both.clone(), both.clone()));
        assert_eq!((joined(&both, &one), joined(&Demands::default(), &one)), (both, one));
    }

    #[test]
    fn there_is_a_bound_on_what_may_be_said() {
        let many: BTreeSet<String> = (0..1000).map(|number| number.to_string()).collect();
        let long = Capabilities { backends: set(&["x".repeat(129).as_str()]), ..Capabilities::default() };
        assert!(long.validate().is_err());
        assert!(Demands { cpu_features: many, ..Demands::default() }.validate().is_err());
        assert!(Demands { cpu_features: set(&[""]), ..Demands::default() }.validate().is_err());
        assert_eq!(Demands { cpu_features: set(&["avx2"]), ..Demands::default() }.validate(), Ok(()));
    }
}
