//! Subset: the first sequences of the data, on which a strategy measures some of its candidates where it is asked to.

use qslm_common::experiment::Experiment;

use crate::{Key, Problem};

/// Key of the subset that sensitivity is measured on.
pub(super) const SENSITIVITY_SEQUENCES: &str = "strategy.sensitivity_sequences";

/// The key that asks for it.
pub(super) const SENSITIVITY: Key = Key {
    name: "sensitivity_sequences",
    takes: "1 or more",
    default: "all",
    means: "sensitivity is measured on so many of the first windows or sentences; all else on all data",
};

/// Sequences of the subset, if those are not all.
pub(super) fn of(asked: Option<u32>, experiment: &Experiment) -> Option<u32> {
    asked.filter(|first| experiment.task.first(*first) != experiment.task)
}

/// A subset of nothing.
pub(super) fn problem(key: &'static str, asked: Option<u32>) -> Option<Problem> {
    (asked == Some(0)).then(|| Problem::new(key, format!("{key} = 0: expected 1 or more")))
}

/// Leaves a subset out that is all of the data, which has so many sequences.
pub(super) fn fit(asked: &mut Option<u32>, sequences: u64) {
    *asked = asked.filter(|first| u64::from(*first) < sequences);
}
