//! Sensitivity in commands and specs: every unit by every measure, over threads, and the order that a ranked
//! search takes. What the measures are stands in [`qslm_engine::task::sensitivity`].

use clap::ValueEnum;
use clap::builder::PossibleValue;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::{Network, Unit};
use qslm_common::scheme::Scheme;
use qslm_common::space::Group;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::sensitivity::UnitScores;
use qslm_engine::task::Dataset;
use qslm_engine::task::sensitivity::{
    Comparison, MEASURES, Measure, MiniBatch, ScoreError, TASK_LOSS, UnitScheme,
};
use serde::de::Error;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::exit::{Exit, Failure, Outcome};
use crate::parallel;
use crate::storage::CodesFiles;

/// A measure by its name, as flags and specs say it.
#[derive(Debug, Clone, Copy)]
pub struct Metric(pub &'static Measure);

/// Metrics of all [`MEASURES`].
const METRICS: [Metric; MEASURES.len()] = {
    let mut metrics = [Metric(MEASURES[0]); MEASURES.len()];
    let mut index = 0;
    while index < MEASURES.len() {
        metrics[index] = Metric(MEASURES[index]);
        index += 1;
    }
    metrics
};

/// Names of all measures, in their order.
const NAMES: [&str; MEASURES.len()] = {
    let mut names = [""; MEASURES.len()];
    let mut index = 0;
    while index < MEASURES.len() {
        names[index] = MEASURES[index].name;
        index += 1;
    }
    names
};

impl Metric {
    /// Every measure, the yardstick first.
    pub const ALL: &[Self] = &METRICS;

    /// Measure that the others are compared with.
    pub const YARDSTICK: Self = Self(&TASK_LOSS);

    /// Name in specs and tables.
    pub fn name(self) -> &'static str {
        self.0.name
    }
}

impl ValueEnum for Metric {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name).help(self.0.about))
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = Self::ALL.iter().find(|metric| metric.name() == name);
        found.copied().ok_or_else(|| Error::unknown_variant(&name, &NAMES))
    }
}

/// One unit under every measure; larger is more sensitive.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitSensitivity {
    /// Name of the unit.
    pub unit: String,
    /// Scheme that it was quantized to, alone.
    pub scheme: String,
    /// Scores in the order of [`MEASURES`]; `None` where a measure does not apply.
    pub scores: Vec<Option<f64>>,
}

impl UnitSensitivity {
    /// Score by a measure, if this unit has it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let named = NAMES.iter().zip(&self.scores);
        named.filter(|(name, _)| **name == metric.name()).find_map(|(_, score)| *score)
    }
}

/// Unit, scheme, then a key per measure, null where it does not apply.
impl Serialize for UnitSensitivity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2 + self.scores.len()))?;
        map.serialize_entry("unit", &self.unit)?;
        map.serialize_entry("scheme", &self.scheme)?;
        NAMES.iter().zip(&self.scores).try_for_each(|(name, score)| map.serialize_entry(name, score))?;
        map.end()
    }
}

impl From<UnitScores> for UnitSensitivity {
    fn from(scored: UnitScores) -> Self {
        let UnitScores { unit, scheme, scores } = scored;
        let score = |name: &&str| scores.get(*name).copied().flatten();
        Self { unit, scheme, scores: NAMES.iter().map(score).collect() }
    }
}

/// Units that a candidate quantizes, with their schemes, in the network's order.
///
/// # Errors
/// If it quantizes none.
pub fn changed_units(network: &Network, candidate: &Candidate) -> Outcome<Vec<(String, String)>> {
    let units = changed(network, candidate)?.into_iter();
    let named = units.map(|unit| {
        let scheme = candidate.scheme(&unit.name).to_string();
        (unit.name, scheme)
    });
    Ok(named.collect())
}

fn changed(network: &Network, candidate: &Candidate) -> Outcome<Vec<Unit>> {
    let lossless = |unit: &Unit| matches!(candidate.scheme(&unit.name), Scheme::Float | Scheme::Sign);
    let units: Vec<Unit> = network.units().into_iter().filter(|unit| !lossless(unit)).collect();
    if units.is_empty() {
        return Err(Failure::new(Exit::Usage, "no matrix is quantized: give --bits with 2 to 8, or 16"));
    }
    Ok(units)
}

/// Means of a measurement of sensitivity.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Backend of the matrix products.
    pub backend: Backend,
    /// Sequences for membranes and LSAQ: they are measures for a mini-batch.
    pub mini_batch: usize,
    /// Tokens that LSAQ compares.
    pub top_k: usize,
    /// Threads.
    pub threads: usize,
}

/// Quantizes every unit alone as `candidate` says, skipping those that it leaves without loss, and measures. Calibrated
/// codes are in `codes`. `done` is called after each.
pub fn measure(
    checkpoint: &Checkpoint,
    (candidate, codes): (&Candidate, &CodesFiles),
    data: &Dataset,
    options: Options,
    done: impl Fn() + Sync,
) -> Outcome<Vec<UnitSensitivity>> {
    let Options { backend, mini_batch: sequences, top_k, threads } = options;
    let comparison = Comparison::new(checkpoint, backend, data, MEASURES, MiniBatch { sequences, top_k })
        .map_err(|error| Failure::new(Exit::Usage, error))?
        .with_codes(codes);
    let units = changed(checkpoint.network(), candidate)?;
    parallel::map(units.len(), threads, |index| {
        let unit = &units[index];
        let scheme = candidate.scheme(&unit.name);
        let stored = UnitScheme { scheme, codes: candidate.codes_of(&unit.name) };
        let scores = comparison.scores(unit, stored, &|| false).map_err(|error| match error {
            ScoreError::Build(_) => Failure::new(Exit::Usage, error),
            ScoreError::Evaluate { .. } => Failure::new(Exit::Failure, error),
        })?;
        done();
        Ok(UnitSensitivity { unit: unit.name.clone(), scheme: scheme.to_string(), scores })
    })
}

/// The names of `groups`, least sensitive first by the sum over their units, or for a measure of blocks by
/// the block's value. A group without a value comes last, as the most sensitive: so does the head under LSAQ.
pub fn order(groups: &[Group], rows: &[UnitSensitivity], metric: Metric) -> Vec<String> {
    let value = |group: &Group| {
        let members = rows.iter().filter(|row| group.members.contains(&row.unit));
        let values: Option<Vec<f64>> = members.map(|row| row.value(metric)).collect();
        values.map_or(f64::INFINITY, |values| metric.0.over_units.of(values.into_iter()))
    };
    let mut ordered: Vec<_> = groups.iter().map(|group| (value(group), group.name.clone())).collect();
    // Stable: equal ones stay in the network's order.
    ordered.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    ordered.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use qslm_common::space::Axis;

    use super::*;

    fn named(name: &str) -> Metric {
        Metric::from_str(name, false).unwrap()
    }

    fn row(unit: &str, task_loss: f64, lsaq: Option<f64>) -> UnitSensitivity {
        let score = |metric: &Metric| match metric.name() {
            "task_loss" => Some(task_loss),
            "lsaq" => lsaq,
            _ => Some(0.0),
        };
        let scores = Metric::ALL.iter().map(score).collect();
        UnitSensitivity { unit: unit.to_owned(), scheme: "int4:symmetric:channel".to_owned(), scores }
    }

    #[test]
    fn groups_are_ordered_by_what_their_units_add_up_to() {
        let rows = [
            row("a", 0.3, Some(0.1)),
            row("b", 0.4, Some(0.1)),
            row("c", 0.5, Some(0.2)),
            row("h", -1.0, None),
        ];
        let group = |name: &str, members: &[&str]| Group {
            axis: Axis::Weights,
            name: name.to_owned(),
            levels: 2,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        let groups = [group("head", &["h"]), group("two", &["c"]), group("one", &["a", "b"])];
        assert_eq!(order(&groups, &rows, Metric::YARDSTICK), ["head", "two", "one"]);
        assert_eq!(order(&groups, &rows, named("lsaq")), ["one", "two", "head"]);
    }

    #[test]
    fn documents_have_a_key_per_measure() {
        let text = serde_json::to_string(&row("a", 0.5, None)).unwrap();
        assert_eq!(
            text,
            "{\"unit\":\"a\",\"scheme\":\"int4:symmetric:channel\",\"task_loss\":0.5,\"kl_divergence\":0.0,\
             \"weight_error\":0.0,\"membrane_drift\":0.0,\"lsaq\":null}"
        );
    }

    #[test]
    fn a_name_that_is_no_measure_is_told_with_those_that_are() {
        let error = serde_json::from_str::<Metric>("\"hessian\"").unwrap_err().to_string();
        assert!(error.starts_with("unknown variant `hessian`, expected one of `task_loss`, `kl_"), "{error}");
    }
}
