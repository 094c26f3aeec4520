//! The tiered search of QSLM (arXiv 2601.00679), as docs/model.md (The tiered search) reads it.
//!
//! ```text
//! sensitivity   one unit (activation, population) at a time, the rest float: how much loss each adds, on all data or
//!     |         the first of them
//!     |
//! global        the same width everywhere; keep the smallest that is good enough
//!     |
//! block         per group, least sensitive first: try every narrower width, keep what is good enough
//!     |
//! module        the same for att and ffn of the blocks that did not reach the narrowest width
//!     |
//! matrix        the same for the matrices of the modules that did not
//! ```
//!
//! Where the space has them, one-dimensional parameters, activations and membranes are lowered next, in this order, each from the global tier to the finest
//! with widths of their own, starting from what was kept.
//!
//! "Good enough" is the bound on quality, and a lower cost in the eyes of the trade-off (the footprint, unless the
//! spec names another). Without a bound, a change is kept if it improves the trade-off.
//! The selection over everything measured (S4) is [`Archive::chosen`].

use std::collections::{BTreeMap, VecDeque};

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::network::Network;
use qslm_common::scheme::Width;
use qslm_common::space::{Axis, Group, Space, Tier};

use super::{Generation, Search, Step};

/// The search under way.
pub(super) struct Qslm {
    experiment: Experiment,
    /// The level at which the sensitivity of weights is measured.
    probe: usize,
    state: State,
}

/// The name of the first stage.
const SENSITIVITY: &str = "sensitivity";

/// Which generation is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on part of them.
    Float,
    Sensitivity,
    Global(Sensitivity),
    Lowering(Lowering),
    Finished,
}

/// A unit, an activation or a population.
type Site = (Axis, String);

/// Added loss of each site when it alone is quantized, in units of [`qslm_common::measurement::Nll`].
/// One that could not be measured counts as the most sensitive.
type Sensitivity = BTreeMap<Site, i128>;

/// Below the global tier: groups are lowered one after the other.
struct Lowering {
    sensitivity: Sensitivity,
    axis: Axis,
    tier: Tier,
    /// The best candidate so far, which every next one starts from.
    current: Candidate,
    /// The level of every site in `current`; absent for float.
    levels: BTreeMap<Site, usize>,
    /// The group being tried, and its candidates by level.
    trying: Option<(Group, Vec<(usize, Candidate)>)>,
    /// Groups of this tier that are still to be tried, least sensitive first.
    queue: VecDeque<Group>,
    /// Groups of this tier that did not reach the last level.
    stuck: Vec<Group>,
}

impl Qslm {
    /// The search at its start. Sensitivity is measured at `sensitivity_bits`, or in the middle of the ladder.
    pub(super) fn new(experiment: Experiment, sensitivity_bits: Option<Width>) -> Self {
        let bits = &experiment.space.bits;
        let given = sensitivity_bits.and_then(|wanted| bits.iter().position(|bits| *bits == wanted));
        let probe = given.unwrap_or(bits.len() / 2);
        Self { experiment, probe, state: State::Start }
    }

    fn space(&self) -> &Space {
        &self.experiment.space
    }

    fn network(&self) -> &Network {
        &self.experiment.network
    }

    /// The float model, which everything is compared with.
    fn float_generation(&self) -> Generation {
        let candidates = std::iter::once(Candidate::float(self.network())).collect();
        Generation { stage: SENSITIVITY, candidates, task: None, may_race: false }
    }

    fn sensitivity_generation(&self) -> Generation {
        let float = Candidate::float(self.network());
        let alone = self.probes().into_iter().map(|(_, alone)| alone);
        let candidates = std::iter::once(float).chain(alone).collect();
        // Sensitive parts are told apart by how much they lose.
        let task = self.experiment.sensitivity_task();
        Generation { stage: SENSITIVITY, candidates, task, may_race: false }
    }

    /// Every site that moves, with the candidate that quantizes it alone.
    fn probes(&self) -> Vec<(Site, Candidate)> {
        let float = Candidate::float(self.network());
        let level = |axis| if axis == Axis::Weights { self.probe } else { self.space().levels(axis) / 2 };
        let alone = |group: Group| {
            let candidate = self.space().place(float.clone(), &group, level(group.axis));
            ((group.axis, group.name), candidate)
        };
        self.experiment.moving(Tier::Matrix).into_iter().map(alone).collect()
    }

    fn global_generation(&self) -> Generation {
        let uniform = |level| self.space().uniform(self.network(), level);
        let candidates = (0..self.space().levels(Axis::Weights)).map(uniform).collect();
        Generation { stage: "global", candidates, task: None, may_race: true }
    }

    /// Reads the added loss of every site off the archive.
    fn sensitivity(&self, archive: &Archive) -> Sensitivity {
        let nll = |candidate: &Candidate| {
            let counts = archive.probe(&self.experiment, &candidate.id())?;
            Some(i128::from(counts.nll.0))
        };
        let float = nll(&Candidate::float(self.network()));
        let added = |(site, alone): (Site, Candidate)| {
            let alone = nll(&alone);
            let added = alone.zip(float).map(|(alone, float)| alone - float);
            // Small enough that a sum over all sites does not overflow.
            (site, added.unwrap_or(i128::from(u64::MAX)))
        };
        self.probes().into_iter().map(added).collect()
    }

    /// Ends the global tier: picks the uniform candidate to go on from, or float if none is good enough.
    fn start_lowering(&self, sensitivity: Sensitivity, archive: &Archive) -> Lowering {
        let mut current = (None, Candidate::float(self.network()));
        for (level, candidate) in self.global_generation().candidates.iter().enumerate() {
            if self.improves(&current.1, &candidate, archive) {
                current = (Some(level), candidate);
            }
        }
        let units = self.network().units().into_iter();
        let levels = current.0.map(|level| units.map(move |unit| ((Axis::Weights, unit.name), level)));
        let mut lowering = Lowering {
            sensitivity,
            axis: Axis::Weights,
            tier: Tier::Block,
            current: current.1,
            levels: levels.into_iter().flatten().collect(),
            trying: None,
            queue: VecDeque::new(),
            stuck: Vec::new(),
        };
        lowering.queue = lowering.by_sensitivity(self.groups(Axis::Weights, Tier::Block));
        lowering
    }

    /// Groups of a tier that the space lets move.
    fn groups(&self, axis: Axis, tier: Tier) -> Vec<Group> {
        self.space().groups(self.network(), axis, tier)
    }

    /// Whether `next` is to be kept in place of `current`: cheaper and within the bound on quality, or, without
    /// a bound, of a better trade-off. A candidate that failed is never kept.
    fn improves(&self, current: &Candidate, next: &Candidate, archive: &Archive) -> bool {
        let (Some(float), Some(next)) = (archive.float(&self.experiment), archive.get(&next.id())) else {
            return false;
        };
        let Some(current) = archive.get(&current.id()) else { return true };
        let trade_off = self.experiment.trade_off;
        if self.experiment.constraints.bounds_quality() {
            let cost = |entry: &Entry| entry.measured().cost(trade_off.cost()).unwrap_or(f64::INFINITY);
            let good_enough = self.experiment.constraints.allow_quality(&float.counts, &next.counts);
            return good_enough && cost(next) < cost(current);
        }
        let value = |entry: &Entry| trade_off.value(float.measured(), entry.measured());
        value(next) > value(current)
    }

    /// Settles the group that was tried and proposes the next one's candidates.
    fn lower(&self, mut lowering: Lowering, archive: &Archive) -> (State, Step) {
        if let Some((group, tried)) = lowering.trying.take() {
            self.settle(&mut lowering, group, tried, archive);
        }
        loop {
            while let Some(group) = lowering.queue.pop_front() {
                let tried = self.narrower(&lowering, &group);
                if tried.is_empty() {
                    continue;
                }
                let candidates = tried.iter().map(|(_, candidate)| candidate.clone()).collect();
                let stage = stage(lowering.axis, lowering.tier);
                let generation = Generation { stage, candidates, task: None, may_race: true };
                lowering.trying = Some((group, tried));
                return (State::Lowering(lowering), Step::Measure(generation));
            }
            if let Some(finer) = finer(lowering.tier) {
                self.descend(&mut lowering, finer);
            } else if let Some(axis) = self.axis_after(lowering.axis) {
                (lowering.axis, lowering.tier) = (axis, Tier::Global);
                lowering.stuck.clear();
                lowering.queue = self.groups(axis, Tier::Global).into();
            } else {
                return (State::Finished, Step::Finished);
            }
        }
    }

    /// Goes on to a finer tier with the groups inside those that did not reach the last level.
    fn descend(&self, lowering: &mut Lowering, finer: Tier) {
        let last = self.space().levels(lowering.axis) - 1;
        let stuck = std::mem::take(&mut lowering.stuck);
        let below_last =
            |group: &Group| sites(group).any(|site| lowering.levels.get(&site).is_none_or(|r| *r < last));
        let inside = |group: &Group| {
            // A group that cannot be split was tried already.
            let parent = stuck.iter().find(|parent| parent.members.contains(&group.members[0]));
            parent.is_some_and(|parent| parent.members.len() > group.members.len()) && below_last(group)
        };
        let next = self.groups(lowering.axis, finer).into_iter().filter(inside).collect();
        lowering.queue = lowering.by_sensitivity(next);
        lowering.tier = finer;
    }

    fn axis_after(&self, axis: Axis) -> Option<Axis> {
        self.space().axes().into_iter().find(|next| *next > axis)
    }

    /// Keeps the best of what was tried, and notes whether the group could go further.
    fn settle(
        &self,
        lowering: &mut Lowering,
        group: Group,
        tried: Vec<(usize, Candidate)>,
        archive: &Archive,
    ) {
        let last = self.space().levels(group.axis) - 1;
        for (level, candidate) in tried {
            if self.improves(&lowering.current, &candidate, archive) {
                lowering.levels.extend(sites(&group).map(|site| (site, level)));
                lowering.current = candidate;
            }
        }
        if !sites(&group).all(|site| lowering.levels.get(&site) == Some(&last)) {
            lowering.stuck.push(group);
        }
    }

    /// The current candidate with the group at every narrower level.
    fn narrower(&self, lowering: &Lowering, group: &Group) -> Vec<(usize, Candidate)> {
        // The members of a group below the block tier share a level, because their parent was moved as one.
        let first = sites(group).map(|site| lowering.levels.get(&site).map_or(0, |level| level + 1)).min();
        let at = |level| (level, self.space().place(lowering.current.clone(), group, level));
        (first.unwrap_or(0)..self.space().levels(group.axis)).map(at).collect()
    }
}

fn sites(group: &Group) -> impl Iterator<Item = Site> {
    group.members.iter().map(|member| (group.axis, member.clone()))
}

fn finer(tier: Tier) -> Option<Tier> {
    match tier {
        Tier::Global => Some(Tier::Block),
        Tier::Block => Some(Tier::Module),
        Tier::Module => Some(Tier::Matrix),
        Tier::Matrix => None,
    }
}

impl Lowering {
    /// Groups by the summed sensitivity of their units, least first; equal ones in the network's order.
    fn by_sensitivity(&self, mut groups: Vec<Group>) -> VecDeque<Group> {
        groups.sort_by_cached_key(|group| {
            sites(group).filter_map(|site| self.sensitivity.get(&site)).sum::<i128>()
        });
        groups.into()
    }
}

fn stage(axis: Axis, tier: Tier) -> &'static str {
    match (axis, tier) {
        (Axis::Weights, Tier::Global) => "global",
        (Axis::Weights, Tier::Block) => "block",
        (Axis::Weights, Tier::Module) => "module",
        (Axis::Weights, Tier::Matrix) => "matrix",
        (Axis::Vectors, _) => "vectors",
        (Axis::Activations, Tier::Global) => "activations, global",
        (Axis::Activations, Tier::Block) => "activations, block",
        (Axis::Activations, Tier::Module) => "activations, module",
        (Axis::Activations, Tier::Matrix) => "activations, matrix",
        (Axis::Membranes, Tier::Global) => "membranes, global",
        (Axis::Membranes, Tier::Block) => "membranes, block",
        (Axis::Membranes, Tier::Module | Tier::Matrix) => "membranes, population",
    }
}

impl Search for Qslm {
    fn probes(&self) -> Vec<(Axis, String, Candidate)> {
        Self::probes(self).into_iter().map(|((axis, name), alone)| (axis, name, alone)).collect()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start if self.experiment.sensitivity_task().is_some() => {
                (State::Float, Step::Measure(self.float_generation()))
            }
            // Without the float model there is nothing to compare with.
            State::Float | State::Sensitivity if archive.float(&self.experiment).is_none() => {
                (State::Finished, Step::Finished)
            }
            State::Start | State::Float => (State::Sensitivity, Step::Measure(self.sensitivity_generation())),
            State::Sensitivity => {
                (State::Global(self.sensitivity(archive)), Step::Measure(self.global_generation()))
            }
            State::Global(sensitivity) => self.lower(self.start_lowering(sensitivity, archive), archive),
            State::Lowering(lowering) => self.lower(lowering, archive),
            State::Finished => (State::Finished, Step::Finished),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        const TIERS: [Tier; 4] = [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix];
        // Every group of a tier at every level, at most.
        let tier = |axis, tier| (self.groups(axis, tier).len() * self.space().levels(axis)) as u64;
        let below =
            |axis, above| TIERS.into_iter().filter(|t| *t > above).map(|t| tier(axis, t)).sum::<u64>();
        let after = |axis| {
            let axes = self.space().axes().into_iter().filter(|next| *next > axis);
            axes.map(|axis| tier(axis, Tier::Global) + below(axis, Tier::Global)).sum::<u64>()
        };
        let weights = || below(Axis::Weights, Tier::Global) + after(Axis::Weights);
        let global = self.space().levels(Axis::Weights) as u64;
        Some(match &self.state {
            State::Start | State::Sensitivity => global + weights(),
            State::Float => 1 + self.probes().len() as u64 + global + weights(),
            State::Global(_) => weights(),
            State::Lowering(lowering) => {
                let queued = (lowering.queue.len() * self.space().levels(lowering.axis)) as u64;
                queued + below(lowering.axis, lowering.tier) + after(lowering.axis)
            }
            State::Finished => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::cost::Cost;
    use qslm_common::experiment::Strategy;
    use qslm_common::footprint::float_bytes;
    use qslm_common::objective::Constraints;
    use qslm_common::scheme::Symmetry;
    use qslm_common::space::{ActivationSpace, MembraneSpace};
    use qslm_common::trade_off::TradeOff;

    use super::super::testing::{experiment, measure, run};
    use super::*;

    fn qslm() -> Experiment {
        experiment(Strategy::Qslm { sensitivity_bits: None, sensitivity_sequences: None })
    }

    #[test]
    fn the_tiers_come_in_the_papers_order() {
        let (_, stages) = run(&qslm(), |_| false);
        let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
        order.dedup();
        assert_eq!(order, ["sensitivity", "global", "block", "module", "matrix"]);
        // The float model and the 15 units that move; the five widths.
        assert_eq!(stages[..2], [("sensitivity", 16), ("global", 5)]);
    }

    #[test]
    fn sensitivity_may_be_told_by_part_of_the_data() {
        let strategy = Strategy::Qslm { sensitivity_bits: None, sensitivity_sequences: Some(4) };
        let mut experiment = experiment(strategy);
        let mut search = super::super::start(&experiment);
        let Step::Measure(float) = search.next(&Archive::default()) else { panic!("no float model") };
        assert_eq!((float.candidates.len(), float.task), (1, None), "on all data");
        assert_eq!(
            search.remaining_at_most().unwrap(),
            16 + {
                let mut all = super::super::start(&qslm());
                all.next(&Archive::default());
                all.remaining_at_most().unwrap()
            }
        );

        let (archive, stages) = run(&experiment, |_| false);
        assert_eq!(stages[..3], [("sensitivity", 1), ("sensitivity", 16), ("global", 5)]);
        let (whole, _) = run(&qslm(), |_| false);
        assert_eq!(archive.chosen().unwrap().id, whole.chosen().unwrap().id);
        assert!(archive.len() <= whole.len() - 10, "what is measured on part is no result");

        // Part of the data that is all of them is no part.
        experiment.task = experiment.task.first(4);
        assert_eq!(run(&experiment, |_| false).1[..2], [("sensitivity", 16), ("global", 5)]);
    }

    /// As [`qslm`], and activations and membranes too.
    fn everything() -> Experiment {
        let mut experiment = qslm();
        let bits = [8, 6, 4].map(|bits| Width::try_from(bits).unwrap()).to_vec();
        experiment.space.activations =
            Some(ActivationSpace { bits, symmetry: Symmetry::Affine, calibration: None });
        experiment.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
        experiment.trade_off = TradeOff::EpsilonConstraint { cost: Cost::Energy };
        assert_eq!(experiment.validate(), Ok(()));
        experiment
    }

    #[test]
    fn activations_and_then_membranes_are_lowered_tier_by_tier() {
        let experiment = everything();
        let (archive, stages) = run(&experiment, |_| false);
        let mut order: Vec<_> = stages.iter().map(|(stage, _)| *stage).collect();
        order.dedup();
        let expected = [
            "sensitivity",
            "global",
            "block",
            "module",
            "matrix",
            "activations, global",
            "activations, block",
            "activations, module",
            "activations, matrix",
            "membranes, global",
        ];
        assert_eq!(order[..10], expected);
        // The float model, 15 units, their 15 activations and 4 populations.
        assert_eq!(stages[0].1, 35);
        let chosen = archive.chosen().unwrap();
        let widths: std::collections::BTreeSet<_> =
            chosen.candidate.activations().map(|(_, scheme)| scheme.bits.get()).collect();
        assert!(widths.len() > 1, "activations differ from site to site: {widths:?}");
        assert!(chosen.candidate.membranes().count() > 0);
        let weights_only = run(&qslm(), |_| false).0;
        let narrow = weights_only.chosen().unwrap();
        let narrow = experiment.device.costs(&experiment.network, narrow.candidate, &narrow.entry.counts);
        assert!(chosen.entry.costs[&Cost::Energy] < narrow[&Cost::Energy]);
    }

    #[test]
    fn every_tier_only_makes_the_chosen_candidate_smaller() {
        let experiment = qslm();
        let (archive, _) = run(&experiment, |_| false);
        let bounded = |level| {
            let uniform = experiment.space.uniform(&experiment.network, level);
            let entry = archive.get(&uniform.id()).unwrap();
            let float = archive.float(&experiment).unwrap();
            experiment
                .constraints
                .allow_quality(&float.counts, &entry.counts)
                .then_some(entry.footprint_bytes)
        };
        let best_uniform = (0..5).filter_map(bounded).min().unwrap();
        let smallest = archive.iter().filter(|(_, entry)| {
            experiment.constraints.allow_quality(&archive.float(&experiment).unwrap().counts, &entry.counts)
        });
        let smallest = smallest.map(|(_, entry)| entry.footprint_bytes).min().unwrap();
        assert!(smallest < best_uniform, "{smallest} {best_uniform}");
    }

    #[test]
    fn the_search_comes_close_to_the_exhaustive_optimum() {
        // Small enough for the grid over blocks to be a bound that the finer tiers may beat.
        let chosen = |strategy| {
            let experiment = experiment(strategy);
            let (archive, _) = run(&experiment, |_| false);
            archive.chosen().unwrap().entry.footprint_bytes
        };
        let grid = chosen(Strategy::Grid { tier: Tier::Block });
        let tiered = chosen(Strategy::Qslm { sensitivity_bits: None, sensitivity_sequences: None });
        assert!(tiered <= grid, "tiered {tiered}, grid over blocks {grid}");
    }

    #[test]
    fn the_path_is_the_same_every_time() {
        let (first, stages) = run(&qslm(), |_| false);
        let (second, again) = run(&qslm(), |_| false);
        assert_eq!((first, stages), (second, again));
    }

    #[test]
    fn without_a_bound_the_trade_off_decides() {
        let experiment = Experiment { constraints: Constraints::default(), ..qslm() };
        let (archive, _) = run(&experiment, |_| false);
        let float = archive.float(&experiment).unwrap();
        let value = |entry: &Entry| experiment.trade_off.value(float.measured(), entry.measured());
        let chosen = value(archive.chosen().unwrap().entry);
        let uniform =
            |level| value(archive.get(&experiment.space.uniform(&experiment.network, level).id()).unwrap());
        assert!((0..5).all(|level| chosen >= uniform(level)));
    }

    #[test]
    fn a_failed_candidate_is_passed_over() {
        let experiment = qslm();
        let fails = |candidate: &Candidate| candidate.encode().contains("int2:");
        let (archive, _) = run(&experiment, fails);
        let chosen = archive.chosen().unwrap();
        assert!(!fails(chosen.candidate));
        assert!(chosen.entry.footprint_bytes < float_bytes(&experiment.network) / 4);
    }

    #[test]
    fn a_float_model_that_fails_ends_the_search() {
        let experiment = qslm();
        let float = Candidate::float(&experiment.network);
        let (archive, stages) = run(&experiment, |candidate| *candidate == float);
        assert_eq!(stages.len(), 1);
        assert!(archive.chosen().is_none());
    }

    #[test]
    fn the_number_of_candidates_left_is_a_bound() {
        for experiment in [qslm(), everything()] {
            let mut search = Qslm::new(experiment.clone(), None);
            let (mut archive, mut bounds, mut sizes) = (Archive::default(), vec![], vec![]);
            while let Step::Measure(generation) = search.next(&archive) {
                bounds.push(search.remaining_at_most().unwrap());
                sizes.push(generation.candidates.len() as u64);
                for candidate in generation.candidates.iter() {
                    let counts = measure(&candidate);
                    archive.insert(&experiment, &candidate, counts);
                }
            }
            for (index, bound) in bounds.into_iter().enumerate() {
                let left: u64 = sizes[index + 1..].iter().sum();
                assert!(left <= bound, "after generation {index}: {left} proposed, {bound} announced");
            }
        }
    }
}
