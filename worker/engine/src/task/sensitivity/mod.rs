//! Measures of sensitivity: how much it shows that one unit alone is quantized, by several definitions.
//!
//! The one idea is a table: a [`Measure`] says its name, what it is about, what it needs, how the values of
//! several units add up, and how it is scored, in a file of its own; the line in [`MEASURES`] makes commands,
//! specs and references know it. [`Comparison`] runs the float network and the changed one once for all
//! measures that are asked for. One more measure is one file and one line.

mod comparison;
mod kl_divergence;
mod lsaq;
mod membrane_drift;
mod task_loss;
mod weight_error;

use std::ops::Range;

use super::dataset::Dataset;
use crate::model::SpikeGpt;

pub use comparison::{Comparison, ScoreError, UnitScheme};
pub use task_loss::TASK_LOSS;

/// Every measure, in the order of tables and documents. The first is the yardstick that the others are
/// compared with.
pub const MEASURES: &[&Measure] = &[
    &TASK_LOSS,
    &kl_divergence::KL_DIVERGENCE,
    &weight_error::WEIGHT_ERROR,
    &membrane_drift::MEMBRANE_DRIFT,
    &lsaq::LSAQ,
];

/// Rows of logits are formed in blocks of about this many numbers, so that a large vocabulary does not need a
/// `[time, vocabulary]` buffer.
const LOGITS_AT_ONCE: usize = 1 << 22;

/// A definition of sensitivity; larger is more sensitive.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// Name in specs, tables and documents: lower case, words joined by `_`.
    pub name: &'static str,
    /// Meaning in a phrase, as help texts and references say it.
    pub about: &'static str,
    /// Input without which it says nothing.
    pub needs: Needs,
    /// Value of several units that are quantized together.
    pub over_units: Fold,
    /// Way to score a unit.
    pub score: Score,
}

/// Input of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The stored weights, no data.
    Weights,
    /// Data that the network runs on.
    Data,
    /// Data, and a head that predicts tokens: not a classifier.
    LanguageModel,
}

/// Value of several units, of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// The sum: each unit adds its share.
    Sum,
    /// The largest: the units share one value.
    Largest,
}

impl Fold {
    /// Value of units that have these values.
    pub fn of(self, values: impl Iterator<Item = f64>) -> f64 {
        match self {
            Self::Sum => values.sum(),
            Self::Largest => values.fold(0.0, f64::max),
        }
    }
}

/// Mini-batch: a subset of the data, its first sequences, for what is costly to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MiniBatch {
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens that LSAQ compares at each position.
    pub top_k: usize,
}

/// Way to score.
#[derive(Debug, Clone, Copy)]
pub enum Score {
    /// Distance of the network with the unit alone quantized from the float one.
    Distance(fn() -> Box<dyn Distance>),
    /// Value of every block, read off the float network on some sequences; a unit has its block's. The last
    /// number is [`MiniBatch::top_k`].
    Blocks(fn(&SpikeGpt, &Dataset, Range<usize>, usize) -> Vec<f64>),
}

/// A distance between the float network and a changed one that is added up while both run over the same data.
/// All methods but the value do nothing unless defined.
pub trait Distance {
    /// The stored weights of the unit, before and after the change. For [`Needs::Weights`] alone.
    fn weights(&mut self, _before: &[f32], _after: &[f32]) {}

    /// The membrane potentials of a population, `[time, channel]`. On the mini-batch alone.
    fn potentials(&mut self, _before: &[f32], _after: &[f32]) {}

    /// The logits of a prediction, and what was to be predicted.
    fn prediction(&mut self, _before: &[f32], _after: &[f32], _target: usize) {}

    /// End of a sequence, all of which was seen.
    fn end_of_sequence(&mut self) {}

    /// Distance so far. Not finite once the changed network broke down.
    fn value(&self) -> f64;
}

/// A mean that is added up; 0 of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    /// Takes a value in.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// Mean of the values so far.
    pub fn value(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_name_of_its_own_and_says_what_it_is() {
        let mut names: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
        assert_eq!(names, ["task_loss", "kl_divergence", "weight_error", "membrane_drift", "lsaq"]);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MEASURES.len());
        assert!(MEASURES.iter().all(|measure| measure.about.len() > 10 && !measure.about.ends_with('.')));
    }

    #[test]
    fn values_of_units_add_up_or_are_shared() {
        let values = [0.5, 0.25];
        assert_eq!(Fold::Sum.of(values.into_iter()), 0.75);
        assert_eq!(Fold::Largest.of(values.into_iter()), 0.5);
    }
}
