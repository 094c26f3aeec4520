//! Budget: what a candidate may take of a device, as far as its schemes tell. Nothing has to be measured to know whether a
//! candidate is within it, so a search can keep to it before it proposes anything.

use qslm_common::candidate::Candidate;
use qslm_common::cost::{Cost, Subject};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::float_bytes;
use qslm_common::measurement::Counts;
use qslm_common::space::Group;

/// Bounds of an experiment on what schemes tell, in the order in which they are enforced: the file first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Budget {
    bounds: Vec<Bound>,
    /// Spikes that are counted by: of no neuron at all.
    counts: Counts,
}

/// A bound on a cost.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    cost: Cost,
    most: f64,
}

/// True for a cost that follows from schemes alone. The others take the measured firing rates.
fn is_known(cost: Cost) -> bool {
    match cost {
        Cost::Footprint
        | Cost::State
        | Cost::Nonvolatile
        | Cost::Sram
        | Cost::TwoMemoryEnergy
        | Cost::TwoMemoryArea
        | Cost::Latency
        | Cost::DeviceFootprint
        | Cost::SplitLatency
        | Cost::Resident
        | Cost::WorkingMemory => true,
        // No scheme changes what is sent.
        Cost::Link => false,
        Cost::Macs
        | Cost::Acs
        | Cost::PublishedMacs
        | Cost::PublishedAcs
        | Cost::Energy
        | Cost::EnergyArithmetic
        | Cost::EnergyRegisters
        | Cost::EnergySram
        | Cost::EnergyDram
        | Cost::PublishedEnergy
        | Cost::TableCycles
        | Cost::TableEnergy => false,
    }
}

impl Budget {
    /// The budget of an experiment.
    pub(crate) fn of(experiment: &Experiment) -> Self {
        let constraints = &experiment.constraints;
        let of_saving =
            constraints.min_saving.map(|least| (1.0 - least) * float_bytes(&experiment.network) as f64);
        let of_file = constraints.max_footprint_bytes.map(|most| most as f64);
        let most = of_file.into_iter().chain(of_saving).fold(f64::INFINITY, f64::min);
        let file = most.is_finite().then_some(Bound { cost: Cost::Footprint, most });
        let of_costs = constraints.max.iter().filter(|(cost, _)| is_known(**cost));
        let of_costs = of_costs.map(|(cost, most)| Bound { cost: *cost, most: *most });
        Self {
            bounds: file.into_iter().chain(of_costs).collect(),
            counts: Counts::zero(experiment.network.population_count()),
        }
    }

    /// Number of bounds.
    pub(crate) fn len(&self) -> usize {
        self.bounds.len()
    }

    /// True if a candidate is within a bound, by its number.
    pub(crate) fn allows(&self, bound: usize, experiment: &Experiment, candidate: &Candidate) -> bool {
        self.bounds.get(bound).is_none_or(|bound| self.value(*bound, experiment, candidate) <= bound.most)
    }

    /// Share that a candidate leaves of the bound that is nearest, 0 to 1.
    pub(crate) fn left(&self, experiment: &Experiment, candidate: &Candidate) -> f64 {
        let left = |bound: &Bound| 1.0 - self.value(*bound, experiment, candidate) / bound.most;
        self.bounds.iter().map(left).fold(1.0, f64::min).max(0.0)
    }

    /// True for each group whose level a bound, by its number, can see at all, the others at their last.
    pub(crate) fn sees(
        &self,
        bound: usize,
        experiment: &Experiment,
        groups: &[Group],
        smallest: &Candidate,
    ) -> Vec<bool> {
        let Some(bound) = self.bounds.get(bound) else { return vec![false; groups.len()] };
        let least = self.value(*bound, experiment, smallest);
        let is_seen = |group: &Group| {
            let widened = experiment.space.place(smallest.clone(), group, 0);
            self.value(*bound, experiment, &widened) > least
        };
        groups.iter().map(is_seen).collect()
    }

    /// Words about the first bound that a candidate, the smallest, does not meet.
    pub(crate) fn exceeded(&self, experiment: &Experiment, smallest: &Candidate) -> Option<String> {
        let value = |bound: &Bound| self.value(*bound, experiment, smallest);
        let bound = self.bounds.iter().find(|bound| value(bound) > bound.most)?;
        let (Bound { cost, most }, value) = (bound, value(bound));
        Some(format!(
            "{cost} of at most {most} cannot be met: with every group at its last level it is {value}"
        ))
    }

    fn value(&self, bound: Bound, experiment: &Experiment, candidate: &Candidate) -> f64 {
        if bound.cost == Cost::Footprint {
            return experiment.footprint(candidate) as f64;
        }
        let coded = experiment.space.coded.of(candidate);
        let subject = Subject::new(&experiment.device, &experiment.network, candidate, &self.counts);
        // What is not described is refused elsewhere.
        (bound.cost.model().value)(&subject.stored(&coded)).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::cost::Cost;
    use qslm_common::space::{MembraneSpace, Tier};
    use qslm_testing::experiment;

    use super::*;
    use crate::Grid;

    #[test]
    fn what_is_known_does_not_depend_on_what_was_measured() {
        let experiment = experiment(Grid { tier: Tier::Global });
        let candidate = experiment.space.uniform(&experiment.network, 2);
        let populations = experiment.network.population_count();
        let mut busy = Counts::zero(populations);
        busy.processed_tokens = 10;
        busy.spikes.iter_mut().for_each(|spikes| *spikes = 100);
        let value = |cost: Cost, counts: &Counts| {
            let subject = Subject::new(&experiment.device, &experiment.network, &candidate, counts);
            (cost.model().value)(&subject)
        };
        for cost in Cost::all().filter(|cost| is_known(*cost)) {
            assert_eq!(value(cost, &busy), value(cost, &Counts::zero(populations)), "{cost}");
        }
    }

    #[test]
    fn the_tighter_of_two_bounds_on_the_file_counts() {
        let mut experiment = experiment(Grid { tier: Tier::Global });
        assert_eq!(Budget::of(&experiment).len(), 0);
        experiment.constraints.max_footprint_bytes = Some(9000);
        experiment.constraints.min_saving = Some(0.5);
        experiment.constraints.max = [(Cost::Energy, 1.0), (Cost::State, 600.0)].into();
        let budget = Budget::of(&experiment);
        assert_eq!(budget.bounds[0], Bound { cost: Cost::Footprint, most: 9000.0 });
        // Energy is known once spikes are counted.
        assert_eq!(budget.bounds[1..], [Bound { cost: Cost::State, most: 600.0 }]);
        experiment.constraints.min_saving = Some(0.99);
        assert!(Budget::of(&experiment).bounds[0].most < 9000.0);
    }

    #[test]
    fn a_bound_sees_what_it_is_about() {
        let mut experiment = experiment(Grid { tier: Tier::Global });
        experiment.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
        experiment.constraints.max_footprint_bytes = Some(9000);
        experiment.constraints.max = [(Cost::State, 600.0)].into();
        let (budget, groups) = (Budget::of(&experiment), experiment.moving(Tier::Global));
        let smallest = groups.iter().fold(Candidate::float(&experiment.network), |candidate, group| {
            experiment.space.place(candidate, group, group.levels - 1)
        });
        let sees = |bound| budget.sees(bound, &experiment, &groups, &smallest);
        assert_eq!([sees(0), sees(1)], [vec![true, false], vec![false, true]]);
        // Five floats for each of 16 channels in 2 blocks, and 4 bits for each of 4 times 16 potentials: 672 bytes.
        let words = budget.exceeded(&experiment, &smallest).unwrap();
        assert!(words.starts_with("state of at most 600 cannot be met"), "{words}");
        assert!(words.ends_with("it is 672"), "{words}");
        assert_eq!(budget.left(&experiment, &smallest), 0.0);
        experiment.constraints.max = [(Cost::State, 1344.0)].into();
        let budget = Budget::of(&experiment);
        assert_eq!((budget.exceeded(&experiment, &smallest), budget.len()), (None, 2));
        assert!(budget.left(&experiment, &smallest) <= 0.5);
    }
}
