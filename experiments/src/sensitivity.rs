//! How sensitive every unit is, by every measure: what `qslm sensitivity` prints and what a ranked search orders by.

use clap::ValueEnum;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::{Unit, UnitPlace};
use qslm_common::scheme::Scheme;
use qslm_common::space::Group;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::fake_quantize;
use qslm_engine::task::{Dataset, EvaluateError, distance, layer_importance, weight_error};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure, Outcome};
use crate::parallel;

/// A measure of sensitivity; definitions and sources stand in `qslm_engine::task::distance` and its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Metric {
    /// Rise of the loss per token or sentence, in nats, with this unit alone quantized
    TaskLoss,
    /// Mean KL divergence of the predictions from the float model's, in nats
    KlDivergence,
    /// Mean squared error of the stored weights
    WeightError,
    /// Mean absolute change of membrane potentials, relative to their size
    MembraneDrift,
    /// LSAQ's importance of the unit's block: 1 - Jaccard similarity of the top tokens before and after it
    Lsaq,
}

impl Metric {
    /// All of them, the yardstick first.
    pub const ALL: [Self; 5] =
        [Self::TaskLoss, Self::KlDivergence, Self::WeightError, Self::MembraneDrift, Self::Lsaq];

    /// The name in specs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskLoss => "task_loss",
            Self::KlDivergence => "kl_divergence",
            Self::WeightError => "weight_error",
            Self::MembraneDrift => "membrane_drift",
            Self::Lsaq => "lsaq",
        }
    }
}

/// One unit under every measure; larger is more sensitive.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnitSensitivity {
    /// The unit's name.
    pub unit: String,
    /// What it was quantized to, alone.
    pub scheme: String,
    /// See [`Metric::TaskLoss`].
    pub task_loss: f64,
    /// See [`Metric::KlDivergence`].
    pub kl_divergence: f64,
    /// See [`Metric::WeightError`].
    pub weight_error: f64,
    /// See [`Metric::MembraneDrift`].
    pub membrane_drift: f64,
    /// See [`Metric::Lsaq`]; absent for the head, the embedding and classifiers.
    pub lsaq: Option<f64>,
}

impl UnitSensitivity {
    /// The value of a measure, if this unit has it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::TaskLoss => Some(self.task_loss),
            Metric::KlDivergence => Some(self.kl_divergence),
            Metric::WeightError => Some(self.weight_error),
            Metric::MembraneDrift => Some(self.membrane_drift),
            Metric::Lsaq => self.lsaq,
        }
    }
}

/// What is measured, and on how much.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What computes the matrix products.
    pub backend: Backend,
    /// Sequences for membranes and LSAQ: they are measures for a mini-batch.
    pub mini_batch: usize,
    /// Tokens that LSAQ compares.
    pub top_k: usize,
    /// Threads.
    pub threads: usize,
}

/// Quantizes every unit alone as `candidate` says, skipping those that it leaves without loss, and measures. `done` is
/// called after each.
pub fn measure(
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    data: &Dataset,
    options: Options,
    done: impl Fn() + Sync,
) -> Outcome<Vec<UnitSensitivity>> {
    let network = checkpoint.network();
    let float = Candidate::float(network);
    let build = |candidate: &Candidate| {
        SpikeGpt::new(checkpoint, candidate, options.backend)
            .map_err(|error| Failure::new(Exit::Usage, error))
    };
    let reference = build(&float)?;
    let mini_batch = options.mini_batch.min(data.len());
    let importance = match network.is_classifier() {
        true => Vec::new(),
        false => layer_importance(&reference, data, 0..mini_batch, options.top_k),
    };
    let lossless = |unit: &Unit| matches!(candidate.scheme(&unit.name), Scheme::Float | Scheme::Sign);
    let units: Vec<Unit> = network.units().into_iter().filter(|unit| !lossless(unit)).collect();
    if units.is_empty() {
        return Err(Failure::new(Exit::Usage, "no matrix is quantized: give --bits with 2 to 8, or 16"));
    }
    parallel::map(units.len(), options.threads, |index| {
        let unit = &units[index];
        let scheme = candidate.scheme(&unit.name);
        let changed = build(&float.clone().with([unit.name.as_str()], scheme))?;
        let distance = distance(&reference, &changed, data, 0..data.len(), mini_batch, &|| false);
        let distance = distance
            .map_err(|error: EvaluateError| Failure::new(Exit::Failure, format!("{}: {error}", unit.name)))?;
        let weights = checkpoint.tensor(&unit.name);
        let stored = fake_quantize(weights.clone(), unit.columns, scheme, &unit.name);
        done();
        Ok(UnitSensitivity {
            unit: unit.name.clone(),
            scheme: scheme.to_string(),
            task_loss: distance.task_loss,
            kl_divergence: distance.divergence,
            weight_error: weight_error(&weights, &stored),
            membrane_drift: distance.membrane_drift,
            lsaq: match unit.place {
                UnitPlace::Block(block, _) => importance.get(block as usize).copied(),
                UnitPlace::Embedding | UnitPlace::Head => None,
            },
        })
    })
}

/// The names of `groups`, least sensitive first by the sum over their units, for LSAQ by the block's importance. A group
/// without a value comes last, as the most sensitive: so does the head under LSAQ.
pub fn order(groups: &[Group], rows: &[UnitSensitivity], metric: Metric) -> Vec<String> {
    let value = |group: &Group| {
        let members = rows.iter().filter(|row| group.members.contains(&row.unit));
        let values = members.map(|row| row.value(metric));
        let values: Option<Vec<f64>> = values.collect();
        match (values, metric) {
            (None, _) => f64::INFINITY,
            (Some(values), Metric::Lsaq) => values.into_iter().fold(0.0, f64::max),
            (Some(values), _) => values.into_iter().sum(),
        }
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

    #[test]
    fn groups_are_ordered_by_what_their_units_add_up_to() {
        let row = |unit: &str, task_loss, lsaq| UnitSensitivity {
            unit: unit.to_owned(),
            scheme: "int4:symmetric:channel".to_owned(),
            task_loss,
            kl_divergence: 0.0,
            weight_error: 0.0,
            membrane_drift: 0.0,
            lsaq,
        };
        let rows = [
            row("a", 0.3, Some(0.1)),
            row("b", 0.4, Some(0.1)),
            row("c", 0.5, Some(0.2)),
            row("h", -1.0, None),
        ];
        let group = |name: &str, members: &[&str]| Group {
            axis: Axis::Weights,
            name: name.to_owned(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        let groups = [group("head", &["h"]), group("two", &["c"]), group("one", &["a", "b"])];
        assert_eq!(order(&groups, &rows, Metric::TaskLoss), ["head", "two", "one"]);
        assert_eq!(order(&groups, &rows, Metric::Lsaq), ["one", "two", "head"]);
    }
}
