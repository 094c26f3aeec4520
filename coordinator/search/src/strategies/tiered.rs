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
//! Other axes: where the space has them, one-dimensional parameters, activations and membranes are lowered
//! next, in this order, each from the global tier to the finest with widths of their own, starting from what
//! was kept.
//!
//! "Good enough" is the bound on quality, and a lower cost in the eyes of the trade-off (the footprint, unless the
//! spec names another), or at the same cost a smaller loss, as another quantizer has it at one width. Without a bound, a change is kept if it improves the trade-off.
//! The selection over everything measured (S4) is [`Archive::chosen`].

use std::collections::{BTreeMap, VecDeque};

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::network::Network;
use qslm_common::scheme::Width;
use qslm_common::space::{Axis, Group, Space, Tier};

use serde::{Deserialize, Serialize};

use crate::{Generation, Key, Probe, Problem, Search, StagePlan, Step, Strategy, Subset};

/// Tiered search of QSLM: sensitivity, then global, block, module and matrix tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiered {
    /// The width at which sensitivity is measured; the middle of the space's widths if absent.
    pub sensitivity_bits: Option<Width>,
    /// Subset: the number of first windows or sentences on which sensitivity is measured; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_sequences: Option<u32>,
}

/// Key of the subset.
const SEQUENCES: &str = "strategy.sensitivity_sequences";

impl Strategy for Tiered {
    const KIND: &'static str = "qslm";
    const ABOUT: &'static str = "The tiered search.";
    const KEYS: &'static [Key] = &[
        Key {
            name: "sensitivity_bits",
            takes: "one of space.bits",
            default: "the middle one",
            means: "the width at which sensitivity is measured",
        },
        Key {
            name: "sensitivity_sequences",
            takes: "1 or more",
            default: "all",
            means: "sensitivity is measured on so many of the first windows or sentences; all else on all data",
        },
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.sensitivity_sequences == Some(0) {
            problems.push(Problem::new(SEQUENCES, format!("{SEQUENCES} = 0: expected 1 or more")));
        }
        if let Some(bits) = self.sensitivity_bits.filter(|bits| level_of(&experiment.space, *bits).is_none())
        {
            let words = format!("strategy.sensitivity_bits = {}: not one of space.bits", bits.bits());
            problems.push(Problem::new("strategy.sensitivity_bits", words));
        }
        problems.extend(blind_trade_off(experiment));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let space = &experiment.space;
        let given = self.sensitivity_bits.and_then(|wanted| level_of(space, wanted));
        let probe = given.unwrap_or(space.levels(Axis::Weights) / 2);
        let subset = self.subset_of(experiment);
        Box::new(TieredSearch { experiment: experiment.clone(), probe, subset, state: State::Start })
    }

    fn caption(&self) -> String {
        "qslm: sensitivity, then global, block, module and matrix tier".to_owned()
    }

    /// A tier below the first of an axis tries only what the one before left over.
    fn outline(&self, experiment: &Experiment, first: u64) -> Vec<StagePlan> {
        let (space, network) = (&experiment.space, &experiment.network);
        let probes = self.subset(experiment).map_or(0, |subset| subset.candidates);
        let mut stages = vec![StagePlan {
            stage: SENSITIVITY.to_owned(),
            groups: experiment.moving(Tier::Matrix).len(),
            candidates_at_most: first + probes,
        }];
        for axis in space.axes() {
            for tier in TIERS {
                let global = axis == Axis::Weights && tier == Tier::Global;
                let groups = space.groups(network, axis, tier);
                let stage = match axis {
                    Axis::Weights => tier.name().to_owned(),
                    axis => format!("{axis:?}, {tier:?}").to_lowercase(),
                };
                // Every width, if nothing wider was good enough before.
                let candidates_at_most = if global { space.levels(axis) as u64 } else { all_levels(&groups) };
                let groups = if global { 1 } else { groups.len() };
                stages.push(StagePlan { stage, groups, candidates_at_most });
            }
        }
        stages
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        // The float model, and every site alone.
        let candidates = 1 + experiment.moving(Tier::Matrix).len() as u64;
        Some(Subset { sequences, candidates })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SEQUENCES, self.sensitivity_sequences?))
    }

    fn fit(&mut self, sequences: u64) {
        self.sensitivity_sequences = self.sensitivity_sequences.filter(|first| u64::from(*first) < sequences);
    }
}

impl Tiered {
    /// Sequences that sensitivity is measured on, if those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        self.sensitivity_sequences.filter(|first| experiment.task.first(*first) != experiment.task)
    }
}

/// The first level of weights that has a width.
fn level_of(space: &Space, bits: Width) -> Option<usize> {
    space.ladder().position(|scheme| scheme.bits() == bits.bits())
}

/// A search for narrower activations or membranes whose trade-off does not see them: lowering what nobody pays for would
/// find nothing but loss.
pub(super) fn blind_trade_off(experiment: &Experiment) -> Option<Problem> {
    let cost = experiment.trade_off.cost();
    let unseen = |axis: &Axis| matches!(axis, Axis::Activations | Axis::Membranes);
    let blind = experiment.space.axes().iter().any(unseen) && !cost.sees_activations_or_membranes();
    let words = || {
        format!(
            "trade_off.cost = \"{cost}\" does not depend on activations or membranes: take \"energy\" or leave them out"
        )
    };
    blind.then(|| Problem::new("trade_off.cost", words()))
}

/// The search under way.
struct TieredSearch {
    experiment: Experiment,
    /// The level at which the sensitivity of weights is measured.
    probe: usize,
    /// Sequences that sensitivity is measured on, if not on all.
    subset: Option<u32>,
    state: State,
}

/// Tiers from the coarsest to the finest.
pub(super) const TIERS: [Tier; 4] = [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix];

/// The name of the first stage.
pub(super) const SENSITIVITY: &str = "sensitivity";

/// State of the search, by the generation that is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
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
pub(super) type Sensitivity = BTreeMap<Site, i128>;

/// Lowering below the global tier: groups are tried one after the other.
struct Lowering {
    sensitivity: Sensitivity,
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
    fn start_lowering(&self, sensitivity: Sensitivity, archive: &Archive) -> Lowering {
        let mut current = Candidate::float(self.network());
        for candidate in self.global_generation().candidates.iter() {
            if self.improves(&current, &candidate, archive) {
                current = candidate;
            }
        }
        let mut lowering = Lowering {
            sensitivity,
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
                let tried = self.narrower(&lowering, &group);
                if tried.is_empty() {
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
                return (State::Finished, Step::Finished);
            }
        }
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
    fn narrower(&self, lowering: &Lowering, group: &Group) -> Vec<Candidate> {
        let first = self.space().level_of(&lowering.current, group).map_or(0, |level| level + 1);
        let at = |level| self.space().place(lowering.current.clone(), group, level);
        (first..group.levels).map(at).collect()
    }
}

/// Sorts groups by the summed sensitivity of their units, least first; equal ones stay in the network's order.
pub(super) fn sort_by_sensitivity(groups: &mut [Group], sensitivity: &Sensitivity) {
    groups.sort_by_cached_key(|group| sites(group).filter_map(|site| sensitivity.get(&site)).sum::<i128>());
}

/// Reads the added loss of every site off the archive.
pub(super) fn sensitivity(
    experiment: &Experiment,
    probes: &[Probe],
    on_subset: bool,
    archive: &Archive,
) -> Sensitivity {
    let nll = |candidate: &Candidate| Some(i128::from(archive.counts(&candidate.id(), on_subset)?.nll.0));
    let float = nll(&Candidate::float(&experiment.network));
    let added = |(mut group, probe): (Group, &Probe)| {
        let added = nll(&probe.candidate).zip(float).map(|(alone, float)| alone - float);
        // Small enough that a sum over all sites does not overflow. Matrices that are tied have one sum.
        ((group.axis, group.members.swap_remove(0)), added.unwrap_or(i128::from(u64::MAX)))
    };
    experiment.moving(Tier::Matrix).into_iter().zip(probes).map(added).collect()
}

fn sites(group: &Group) -> impl Iterator<Item = Site> {
    group.members.iter().map(|member| (group.axis, member.clone()))
}

/// Levels of all of these groups together.
pub(super) fn all_levels<'a>(groups: impl IntoIterator<Item = &'a Group>) -> u64 {
    groups.into_iter().map(|group| group.levels as u64).sum()
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

pub(super) fn stage(axis: Axis, tier: Tier) -> &'static str {
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
                (State::Global(sensitivity), Step::Measure(self.global_generation()))
            }
            State::Global(sensitivity) => self.lower(self.start_lowering(sensitivity, archive), archive),
            State::Lowering(lowering) => self.lower(lowering, archive),
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
        let weights = || below(Axis::Weights, Tier::Global) + after(Axis::Weights);
        let global = self.space().levels(Axis::Weights) as u64;
        Some(match &self.state {
            State::Start | State::Sensitivity => global + weights(),
            State::Float => 1 + self.probes().len() as u64 + global + weights(),
            State::Global(_) => weights(),
            State::Lowering(lowering) => {
                let queued = all_levels(&lowering.queue);
                queued + below(lowering.axis, lowering.tier) + after(lowering.axis)
            }
            State::Finished => 0,
        })
    }
}

#[cfg(test)]
mod tests;
