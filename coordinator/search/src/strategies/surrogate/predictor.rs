//! Predictor: what a candidate would be measured as, given those that were.
//!
//! Bytes are known. All else that objectives and bounds look at is interpolated over the levels of the groups, each
//! quantity for itself.

use qslm_common::archive::Entry;
use qslm_common::cost::Cost;
use qslm_common::experiment::Experiment;
use qslm_common::objective::Objective;
use qslm_common::tasks::TaskName;

use super::genes::Genes;
use crate::fitness::{
    bounds, excess, excess_of_bytes, excess_on_tasks, kl, lost, lost_on, mean_loss, mean_loss_on,
};
use crate::nsga2::{Fitness, Genome};
use crate::rbf::Rbf;

/// Quantity that is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    /// Mean loss against the float model.
    Loss,
    /// The loss that the bounds are held to, where that is the upper end of an interval.
    UpperLoss,
    /// Divergence from the float model.
    Kl,
    /// Mean loss on a further task against the float model.
    TaskLoss(TaskName),
    /// The loss on a further task that its bound is held to.
    BoundedTaskLoss(TaskName),
    /// Spikes per neuron and token.
    FiringRate,
    /// A cost that depends on more than bytes.
    Cost(Cost),
}

/// Predictor of candidates.
pub(super) struct Predictor<'a> {
    experiment: &'a Experiment,
    genes: &'a Genes,
    quantities: Vec<Quantity>,
    rbf: Rbf,
}

impl<'a> Predictor<'a> {
    /// The predictor that has learned what was measured; `None` if nothing was.
    pub(super) fn learn(
        experiment: &'a Experiment,
        genes: &'a Genes,
        float: &Entry,
        measured: &[(&Genome, &Entry)],
    ) -> Option<Self> {
        let quantities = quantities(experiment);
        let values =
            |entry| quantities.iter().map(|quantity| quantity.of(experiment, float, entry)).collect();
        let samples: Vec<_> =
            measured.iter().map(|(genome, entry)| (genes.place(genome), values(entry))).collect();
        let rbf = Rbf::fit(&samples)?;
        Some(Self { experiment, genes, quantities, rbf })
    }

    /// Predicted fitness.
    pub(super) fn fitness(&self, genome: &Genome) -> Fitness {
        let values = self.rbf.predict(&self.genes.place(genome));
        let bytes = self.genes.bytes(genome);
        let value = |wanted: Quantity| {
            let known = self.quantities.iter().zip(&values).find(|(quantity, _)| **quantity == wanted);
            known.map_or(0.0, |(_, value)| *value)
        };
        let cost = |cost: Cost| match cost {
            Cost::Footprint => bytes as f64,
            other => value(Quantity::Cost(other)),
        };
        let objective = |objective: &Objective| match objective {
            Objective::Perplexity | Objective::Error => value(Quantity::Loss),
            Objective::Kl => value(Quantity::Kl),
            Objective::FiringRate => value(Quantity::FiringRate),
            Objective::Task(name) => value(Quantity::TaskLoss(*name)),
            Objective::Cost(of) => cost(*of),
        };
        let constraints = &self.experiment.constraints;
        let bounded = value(if constraints.confident { Quantity::UpperLoss } else { Quantity::Loss });
        let of_loss = bounds(self.experiment).map(|most| excess(bounded, squashed(most))).sum::<f64>();
        let of_costs = constraints.max.iter().map(|(of, most)| excess(cost(*of), *most)).sum::<f64>();
        let of_kl = constraints.max_kl.map_or(0.0, |most| excess(value(Quantity::Kl), squashed(most)));
        let of_tasks =
            excess_on_tasks(self.experiment, |name| value(Quantity::BoundedTaskLoss(name)), squashed);
        let violation = of_loss + of_kl + of_tasks + excess_of_bytes(self.experiment, bytes) + of_costs;
        Fitness { violation, losses: self.experiment.objectives.iter().map(objective).collect() }
    }
}

/// What objectives and bounds look at, beside the bytes.
fn quantities(experiment: &Experiment) -> Vec<Quantity> {
    let upper = experiment.constraints.confident.then_some(Quantity::UpperLoss);
    let kl = experiment.asks_for_kl().then_some(Quantity::Kl);
    let rate = experiment.objectives.contains(&Objective::FiringRate).then_some(Quantity::FiringRate);
    let on_tasks = experiment.objectives.iter().filter_map(|objective| match objective {
        Objective::Task(name) => Some(Quantity::TaskLoss(*name)),
        _ => None,
    });
    let bounded = experiment.constraints.tasks.keys().map(|name| Quantity::BoundedTaskLoss(*name));
    let costs = experiment.deciding_costs().into_iter().filter(|cost| *cost != Cost::Footprint);
    std::iter::once(Quantity::Loss)
        .chain(upper)
        .chain(kl)
        .chain(rate)
        .chain(on_tasks)
        .chain(bounded)
        .chain(costs.map(Quantity::Cost))
        .collect()
}

impl Quantity {
    /// The quantity of what was measured.
    fn of(self, experiment: &Experiment, float: &Entry, entry: &Entry) -> f64 {
        match self {
            Self::Loss => squashed(mean_loss(entry) - mean_loss(float)),
            Self::UpperLoss => squashed(lost(experiment, float, entry)),
            Self::Kl => squashed(kl(entry)),
            Self::TaskLoss(name) => {
                let loss = |entry| mean_loss_on(name, entry).unwrap_or(0.0);
                squashed(loss(entry) - loss(float))
            }
            Self::BoundedTaskLoss(name) => squashed(lost_on(experiment, name, float, entry)),
            Self::FiringRate => Objective::FiringRate.loss(&experiment.network, entry.measured()),
            Self::Cost(cost) => entry.measured().cost(cost).unwrap_or(0.0),
        }
    }
}

/// A loss between -1 and 1, small ones as they are and in the same order: a candidate that is broken would pull the
/// interpolant away from all others. (The divergence that AMQ predicts is bounded by itself.)
fn squashed(loss: f64) -> f64 {
    if loss.is_finite() { loss / (1.0 + loss.abs()) } else { loss.signum() }
}

#[cfg(test)]
mod tests {
    use qslm_common::space::Tier;
    use qslm_testing::experiment;

    use super::*;
    use crate::Grid;

    #[test]
    fn squashed_losses_keep_their_order() {
        let losses = [f64::NEG_INFINITY, -3.0, -0.01, 0.0, 0.01, 0.03, 1.0, 20.0, f64::INFINITY];
        let squashed: Vec<f64> = losses.into_iter().map(squashed).collect();
        assert!(squashed.is_sorted() && squashed.iter().all(|value| value.abs() <= 1.0));
        assert!((squashed[5] - 0.03).abs() < 1e-3);
    }

    #[test]
    fn what_decides_is_predicted_once() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        assert_eq!(quantities(&experiment), [Quantity::Loss]);
        experiment.objectives.push(Objective::FiringRate);
        experiment.constraints.confident = true;
        experiment.constraints.max.insert(Cost::Energy, 1.0);
        let all = [Quantity::Loss, Quantity::UpperLoss, Quantity::FiringRate, Quantity::Cost(Cost::Energy)];
        assert_eq!(quantities(&experiment), all);
        experiment.constraints.max_kl = Some(0.1);
        assert_eq!(quantities(&experiment)[..3], [Quantity::Loss, Quantity::UpperLoss, Quantity::Kl]);
    }
}
