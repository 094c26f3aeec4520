//! The tiered search under way: what was kept, and what is tried next.

use std::collections::VecDeque;

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::network::Network;
use qslm_common::space::{Axis, Group, Space, Tier};

use super::sensitivity::{Sensitivity, sensitivity, sort_by_sensitivity};
use super::sums::Sums;
use super::{SENSITIVITY, TIERS, all_levels, stage};
use crate::strategies::Allocate;
use crate::{Generation, Probe, Search, Step, Strategy};

/// The search under way.
pub(super) struct TieredSearch {
    experiment: Experiment,
    /// The level at which the sensitivity of weights is measured.
    probe: usize,
    /// Sequences that sensitivity is measured on, if not on all.
    subset: Option<u32>,
    /// True if sums tell what need not be measured.
    guided: bool,
    /// The search for bounds on bytes and costs.
    allocation: Option<Allocate>,
    state: State,
}

/// State of the search, by the generation that is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
    Float,
    Sensitivity,
    Global(Sensitivity, Option<Sums>),
    Lowering(Lowering),
    /// Bounds on bytes and costs that the tiers did not meet.
    Allocation(Box<dyn Search>),
    Finished,
}

/// Lowering below the global tier: groups are tried one after the other.
struct Lowering {
    sensitivity: Sensitivity,
    sums: Option<Sums>,
    axis: Axis,
    tier: Tier,
    /// The best candidate so far, which every next one starts from.
    current: Candidate,
    /// The group being tried, and its candidates by level.
    trying: Option<(Group, Vec<Candidate>)>,
    /// Groups of this tier that are still to be tried, least sensitive first.
    queue: VecDeque<Group>,
    /// Groups of this tier that did not reach the last level.
    stuck: Vec<Group>,
}

impl TieredSearch {
    /// The search at its start.
    pub(super) fn new(
        experiment: &Experiment,
        probe: usize,
        subset: Option<u32>,
        guided: bool,
        allocation: Option<Allocate>,
    ) -> Self {
        Self { experiment: experiment.clone(), probe, subset, guided, allocation, state: State::Start }
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
        Generation { stage: SENSITIVITY, candidates, subset: None, may_race: false }
    }

    fn sensitivity_generation(&self) -> Generation {
        let float = Candidate::float(self.network());
        let alone = self.probes().into_iter().map(|probe| probe.candidate);
        let candidates = std::iter::once(float).chain(alone).collect();
        // Sensitive sites are told apart by how much they lose, so none of them is pruned.
        Generation { stage: SENSITIVITY, candidates, subset: self.subset, may_race: false }
    }

    fn global_generation(&self) -> Generation {
        let uniform = |level| self.space().uniform(self.network(), level);
        let candidates = (0..self.space().levels(Axis::Weights)).map(uniform).collect();
        Generation { stage: "global", candidates, subset: None, may_race: true }
    }

    /// Ends the global tier: picks the uniform candidate to go on from, or float if none is good enough.
    fn start_lowering(
        &self,
        sensitivity: Sensitivity,
        mut sums: Option<Sums>,
        archive: &Archive,
    ) -> Lowering {
        let mut current = Candidate::float(self.network());
        let uniform: Vec<Candidate> = self.global_generation().candidates.iter().collect();
        if let Some(sums) = &mut sums {
            sums.scale(&self.experiment, &uniform, archive);
        }
        for candidate in uniform {
            if self.improves(&current, &candidate, archive) {
                current = candidate;
            }
        }
        let mut lowering = Lowering {
            sensitivity,
            sums,
            axis: Axis::Weights,
            tier: Tier::Block,
            current,
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

    /// True if `next` is to be kept in place of `current`: cheaper and within the bound on quality, or,
    /// without a bound, of a better trade-off. A candidate that failed or was pruned is never kept.
    fn improves(&self, current: &Candidate, next: &Candidate, archive: &Archive) -> bool {
        let (Some(float), Some(next)) = (archive.float(&self.experiment), archive.get(&next.id())) else {
            return false;
        };
        let Some(current) = archive.get(&current.id()) else { return true };
        let trade_off = self.experiment.trade_off;
        if self.experiment.constraints.bounds_quality() {
            let cost = |entry: &Entry| entry.measured().cost(trade_off.cost()).unwrap_or(f64::INFINITY);
            let good_enough = self.experiment.constraints.allow_loss(&float.counts, next.measured());
            let loses_less = || {
                next.counts.quality().summed_loss(&next.counts)
                    < current.counts.quality().summed_loss(&current.counts)
            };
            return good_enough
                && (cost(next) < cost(current) || cost(next) == cost(current) && loses_less());
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
                let tried = self.narrower(&lowering, &group, archive);
                if tried.is_empty() {
                    // Part of it may still be lowered.
                    if !self.is_at_last(&lowering, &group) {
                        lowering.stuck.push(group);
                    }
                    continue;
                }
                let candidates = tried.iter().cloned().collect();
                let stage = stage(lowering.axis, lowering.tier);
                let generation = Generation { stage, candidates, subset: None, may_race: true };
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
                return self.allocate(archive);
            }
        }
    }

    /// Goes on by allocation, if bounds on bytes or costs are not met yet.
    fn allocate(&self, archive: &Archive) -> (State, Step) {
        let Some(allocation) =
            self.allocation.as_ref().filter(|_| archive.chosen().is_none() || !self.bounds_quality())
        else {
            return (State::Finished, Step::Finished);
        };
        let mut search = allocation.start(&self.experiment);
        let step = search.next(archive);
        (State::Allocation(search), step)
    }

    fn bounds_quality(&self) -> bool {
        self.experiment.constraints.bounds_quality()
    }

    /// Goes on to a finer tier with the groups inside those that did not reach the last level.
    fn descend(&self, lowering: &mut Lowering, finer: Tier) {
        let stuck = std::mem::take(&mut lowering.stuck);
        let below_last = |group: &Group| !self.is_at_last(lowering, group);
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
    fn settle(&self, lowering: &mut Lowering, group: Group, tried: Vec<Candidate>, archive: &Archive) {
        for candidate in tried {
            if self.improves(&lowering.current, &candidate, archive) {
                lowering.current = candidate;
            }
        }
        if !self.is_at_last(lowering, &group) {
            lowering.stuck.push(group);
        }
    }

    /// True if the group is at its last level in the current candidate.
    fn is_at_last(&self, lowering: &Lowering, group: &Group) -> bool {
        let last = self.space().place(lowering.current.clone(), group, group.levels - 1);
        last == lowering.current
    }

    /// The current candidate with the group at every narrower level. The members of a group share a level, because their
    /// parent was moved as one.
    fn narrower(&self, lowering: &Lowering, group: &Group, archive: &Archive) -> Vec<Candidate> {
        let first = self.space().level_of(&lowering.current, group).map_or(0, |level| level + 1);
        let at = |level| self.space().place(lowering.current.clone(), group, level);
        let may_pass = |next: &Candidate| {
            let sums = lowering.sums.as_ref();
            sums.is_none_or(|sums| sums.may_pass(&self.experiment, &lowering.current, next, archive))
        };
        (first..group.levels).map(at).filter(may_pass).collect()
    }
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
        sort_by_sensitivity(&mut groups, &self.sensitivity);
        groups.into()
    }
}

impl Search for TieredSearch {
    /// Every site that moves, with the candidate that quantizes it alone.
    fn probes(&self) -> Vec<Probe> {
        let float = Candidate::float(self.network());
        let level = |axis| if axis == Axis::Weights { self.probe } else { self.space().levels(axis) / 2 };
        let alone = |group: Group| {
            let candidate = self.space().place_as_uniform(float.clone(), &group, level(group.axis));
            Probe { axis: group.axis, name: group.name, candidate }
        };
        self.experiment.moving(Tier::Matrix).into_iter().map(alone).collect()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start if self.subset.is_some() => (State::Float, Step::Measure(self.float_generation())),
            // Without the float model there is nothing to compare with.
            State::Float | State::Sensitivity if archive.float(&self.experiment).is_none() => {
                (State::Finished, Step::Finished)
            }
            State::Start | State::Float => (State::Sensitivity, Step::Measure(self.sensitivity_generation())),
            State::Sensitivity => {
                let sensitivity =
                    sensitivity(&self.experiment, &self.probes(), self.subset.is_some(), archive);
                let probes = self.probes();
                let sums =
                    self.guided.then(|| Sums::new(&self.experiment, &probes, self.subset.is_some(), archive));
                (State::Global(sensitivity, sums.flatten()), Step::Measure(self.global_generation()))
            }
            // A budget alone says nothing of how much a lowering may lose.
            State::Global(..) if self.allocation.is_some() && !self.bounds_quality() => {
                self.allocate(archive)
            }
            State::Global(sensitivity, sums) => {
                self.lower(self.start_lowering(sensitivity, sums, archive), archive)
            }
            State::Lowering(lowering) => self.lower(lowering, archive),
            State::Allocation(mut search) => {
                let step = search.next(archive);
                (State::Allocation(search), step)
            }
            State::Finished => (State::Finished, Step::Finished),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        // Every group of a tier at every level, at most.
        let tier = |axis, tier| all_levels(&self.groups(axis, tier));
        let below =
            |axis, above| TIERS.into_iter().filter(|t| *t > above).map(|t| tier(axis, t)).sum::<u64>();
        let after = |axis| {
            let axes = self.space().axes().into_iter().filter(|next| *next > axis);
            axes.map(|axis| tier(axis, Tier::Global) + below(axis, Tier::Global)).sum::<u64>()
        };
        let at_most = |allocation: &Allocate| allocation.candidates_at_most(&self.experiment);
        let allocated = self.allocation.as_ref().map_or(0, at_most);
        let weights = || below(Axis::Weights, Tier::Global) + after(Axis::Weights) + allocated;
        let global = self.space().levels(Axis::Weights) as u64;
        Some(match &self.state {
            State::Start | State::Sensitivity => global + weights(),
            State::Float => 1 + self.probes().len() as u64 + global + weights(),
            State::Global(..) => weights(),
            State::Lowering(lowering) => {
                let queued = all_levels(&lowering.queue);
                queued + below(lowering.axis, lowering.tier) + after(lowering.axis) + allocated
            }
            State::Allocation(search) => return search.remaining_at_most(),
            State::Finished => 0,
        })
    }
}
