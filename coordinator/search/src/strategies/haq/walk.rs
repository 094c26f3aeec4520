//! Walk: what an agent sees of each group, what its answer means, and how a budget is enforced when all have answered.

use std::collections::BTreeSet;

use qslm_common::candidate::Candidate;
use qslm_common::cost::working_memory::input_bytes;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::{stored_bytes, vector_bytes};
use qslm_common::network::Unit;
use qslm_common::scheme::Membrane;
use qslm_common::space::{Axis, Group, Tier};

use crate::budget::Budget;
use crate::ddpg::Episode;
use qslm_common::elementary::ln;

/// Groups of a tier, as an agent walks over them.
pub(super) struct Walk {
    groups: Vec<Group>,
    /// Levels of each group.
    levels: Vec<usize>,
    /// Numbers that describe each group, 0 to 1.
    features: Vec<Vec<f64>>,
    /// Every group at its last level.
    smallest: Candidate,
    budget: Budget,
    /// Groups that each bound of the budget sees.
    seen: Vec<Vec<bool>>,
}

/// Numbers of a state beside the features of the group: the last answer, and what is left of the budget.
const BESIDE_FEATURES: usize = 2;

impl Walk {
    pub(super) fn new(experiment: &Experiment, tier: Tier) -> Self {
        let (space, groups) = (&experiment.space, experiment.moving(tier));
        let levels: Vec<usize> = groups.iter().map(|group| group.levels).collect();
        let base = space.uniform(&experiment.network, 0);
        let last = groups.iter().zip(&levels);
        let smallest = last
            .fold(base, |candidate, (group, levels)| space.place(candidate, group, levels.saturating_sub(1)));
        let budget = Budget::of(experiment);
        let seen =
            (0..budget.len()).map(|bound| budget.sees(bound, experiment, &groups, &smallest)).collect();
        Self { features: features(experiment, &groups), groups, levels, smallest, budget, seen }
    }

    /// Number of groups.
    pub(super) fn steps(&self) -> usize {
        self.groups.len()
    }

    /// Numbers of a state.
    pub(super) fn state_size(&self) -> usize {
        self.features.first().map_or(0, Vec::len) + BESIDE_FEATURES
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Every group at its last level.
    pub(super) fn smallest(&self) -> &Candidate {
        &self.smallest
    }

    /// An episode without its reward, and the candidate that it leads to; `act` answers each state.
    pub(super) fn episode(
        &self,
        experiment: &Experiment,
        mut act: impl FnMut(&[f64]) -> f64,
    ) -> (Episode, Candidate) {
        let mut under_way =
            UnderWay { walk: self, experiment, candidate: self.smallest.clone(), levels: Vec::new() };
        let (mut states, mut actions, mut last) = (Vec::new(), Vec::new(), 1.0);
        for (at, features) in self.features.iter().enumerate() {
            let left = self.budget.left(experiment, &under_way.candidate);
            let state: Vec<f64> = features.iter().copied().chain([last, left]).collect();
            let action = act(&state);
            let level = level_of(action, self.levels[at]);
            under_way.levels.push(level);
            under_way.place(at);
            last = centre_of(level, self.levels[at]);
            states.push(state);
            actions.push(action);
        }
        for bound in 0..self.budget.len() {
            wall(
                &mut under_way,
                self.groups.len(),
                |under_way, at| self.seen[bound][at] && under_way.lower(at),
                |under_way| self.budget.allows(bound, experiment, &under_way.candidate),
            );
        }
        (Episode { states, actions, reward: 0.0 }, under_way.candidate)
    }
}

/// Candidate with the levels of its groups.
struct UnderWay<'a> {
    walk: &'a Walk,
    experiment: &'a Experiment,
    candidate: Candidate,
    levels: Vec<usize>,
}

impl UnderWay<'_> {
    fn place(&mut self, at: usize) {
        let candidate = self.candidate.clone();
        self.candidate = self.experiment.space.place(candidate, &self.walk.groups[at], self.levels[at]);
    }

    /// Puts a group a level lower; false if it is at its last.
    fn lower(&mut self, at: usize) -> bool {
        let is_open = self.levels[at] + 1 < self.walk.levels[at];
        if is_open {
            self.levels[at] += 1;
            self.place(at);
        }
        is_open
    }
}

/// Lowers from the last to the first, one level each, until it is within the budget or all are at their last level.
/// `lower` returns whether it could.
fn wall<S>(
    state: &mut S,
    groups: usize,
    lower: impl Fn(&mut S, usize) -> bool,
    is_within: impl Fn(&S) -> bool,
) {
    while !is_within(state) {
        let mut has_moved = false;
        for at in (0..groups).rev() {
            if lower(state, at) {
                has_moved = true;
                if is_within(state) {
                    return;
                }
            }
        }
        if !has_moved {
            return;
        }
    }
}

/// Level that an answer means: as many equal parts of 0 to 1 as there are levels, the first of which, the widest, is next to
/// 1.
fn level_of(action: f64, levels: usize) -> usize {
    // What is no number is 0 here.
    let from_last = (action * levels as f64).floor() as usize;
    levels.saturating_sub(1).saturating_sub(from_last)
}

/// Answer in the middle of those that mean a level.
fn centre_of(level: usize, levels: usize) -> f64 {
    (levels - level) as f64 / levels as f64 - 0.5 / levels as f64
}

/// Numbers that describe each group, each of them spread over 0 to 1: the kind of part that it is, the block, the
/// logarithms of rows and columns, and its share of the bytes.
fn features(experiment: &Experiment, groups: &[Group]) -> Vec<Vec<f64>> {
    let units = experiment.network.units();
    let kinds: BTreeSet<(Axis, &str)> = groups.iter().map(kind_of).collect();
    let space = &experiment.space;
    let widest = space.uniform(&experiment.network, 0);
    let widest = groups.iter().fold(widest, |candidate, group| space.place(candidate, group, 0));
    let describe = |group: &Group| {
        let is_of = kinds.iter().map(|kind| f64::from(u8::from(*kind == kind_of(group))));
        let members: Vec<&Unit> = units.iter().filter(|unit| group.members.contains(&unit.name)).collect();
        let channels = experiment.network.channels as usize;
        let rows = members.iter().map(|unit| unit.rows).max().unwrap_or(channels);
        let columns = members.iter().map(|unit| unit.columns).max().unwrap_or(1);
        let bytes = bytes_of(experiment, &widest, group, &members);
        let numbers =
            [block_of(group, experiment.network.blocks), ln(rows as f64), ln(columns as f64), bytes];
        is_of.chain(numbers).collect()
    };
    let mut features: Vec<Vec<f64>> = groups.iter().map(describe).collect();
    for feature in 0..features.first().map_or(0, Vec::len) {
        let values = || features.iter().map(|numbers| numbers[feature]);
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let span = if high > low { high - low } else { 1.0 };
        features.iter_mut().for_each(|numbers| numbers[feature] = (numbers[feature] - low) / span);
    }
    features
}

/// Kind of a group: its axis, and its name without the number of its block.
fn kind_of(group: &Group) -> (Axis, &str) {
    let name = match group.name.strip_prefix("blocks.").map(|rest| rest.split_once('.')) {
        None => &group.name,
        Some(None) => "blocks",
        Some(Some((_, name))) => name,
    };
    (group.axis, name)
}

/// Place of a group among the blocks: before the first is 0, behind the last comes the head.
fn block_of(group: &Group, blocks: u32) -> f64 {
    let number =
        group.name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    let place = match number {
        Some(block) => block + 1,
        None if group.name.starts_with("head") => blocks + 1,
        None => 0,
    };
    f64::from(place)
}

/// Bytes of a group in a candidate: stored ones, or those of the working memory.
fn bytes_of(experiment: &Experiment, candidate: &Candidate, group: &Group, members: &[&Unit]) -> f64 {
    let (network, coded) = (&experiment.network, &experiment.space.coded);
    match group.axis {
        Axis::Weights => {
            members.iter().map(|unit| stored_bytes(unit, candidate.scheme(&unit.name), coded) as f64).sum()
        }
        Axis::Vectors => vector_bytes(network, candidate) as f64,
        Axis::Activations => members.iter().map(|unit| input_bytes(unit, candidate)).sum(),
        Axis::Membranes => {
            let bits = |name: &String| candidate.membrane(name).map_or(32, Membrane::bits);
            let bits: f64 = group.members.iter().map(|name| f64::from(bits(name))).sum();
            bits * f64::from(network.channels) / 8.0
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn an_answer_in_the_middle_of_a_part_means_its_level() {
        for levels in 1..=9 {
            for level in 0..levels {
                assert_eq!(level_of(centre_of(level, levels), levels), level, "{level} of {levels}");
            }
            assert_eq!((level_of(0.0, levels), level_of(1.0, levels)), (levels - 1, 0));
            assert_eq!((level_of(-7.0, levels), level_of(7.0, levels)), (levels - 1, 0));
            assert_eq!(level_of(f64::NAN, levels), levels - 1);
        }
        // Three widths are thirds.
        assert_eq!([0.33, 0.34, 0.66, 0.67].map(|action| level_of(action, 3)), [2, 1, 1, 0]);
    }

    #[test]
    fn kinds_and_blocks_are_read_off_names() {
        let group =
            |name: &str| Group { axis: Axis::Weights, name: name.to_owned(), members: Vec::new(), levels: 5 };
        let kind = |name: &str| kind_of(&group(name)).1.to_owned();
        let names =
            ["blocks.12.att.key.weight", "blocks.3", "blocks.0.lif1", "emb.weight", "vectors", "head"];
        assert_eq!(names.map(kind), ["att.key.weight", "blocks", "lif1", "emb.weight", "vectors", "head"]);
        assert_eq!(names.map(|name| block_of(&group(name), 20)), [13.0, 4.0, 1.0, 0.0, 0.0, 21.0]);
    }

    /// The wall as it is described, one step after another, looked up from the start each time.
    fn slow_wall(levels: &[usize], last: &[usize], is_within: impl Fn(&[usize]) -> bool) -> Vec<usize> {
        let mut levels = levels.to_vec();
        let mut steps = Vec::new();
        for _pass in 0..=last.iter().copied().max().unwrap_or(0) {
            steps.extend((0..levels.len()).rev());
        }
        for at in steps {
            if is_within(&levels) {
                break;
            }
            levels[at] = (levels[at] + 1).min(last[at]);
        }
        levels
    }

    proptest! {
        #[test]
        fn the_wall_meets_every_target_that_can_be_met_and_is_the_one_described(
            groups in proptest::collection::vec((1usize..8, 0usize..8, 1u64..1000), 1..20),
            share in 0.0f64..1.2,
        ) {
            let last: Vec<usize> = groups.iter().map(|group| group.0).collect();
            let levels: Vec<usize> = groups.iter().map(|group| group.1.min(group.0)).collect();
            let cost = |levels: &[usize]| -> u64 {
                levels.iter().zip(&groups).map(|(level, (last, _, size))| size * (1 + last - level) as u64).sum()
            };
            let (most, least) = (cost(&vec![0; last.len()]), cost(&last));
            let target = (most as f64 * share) as u64;
            let is_within = |levels: &[usize]| cost(levels) <= target;
            let mut lowered = levels.clone();
            wall(
                &mut lowered,
                last.len(),
                |levels, at| {
                    let is_open = levels[at] < last[at];
                    levels[at] += usize::from(is_open);
                    is_open
                },
                |levels| is_within(levels),
            );
            prop_assert!(is_within(&lowered) || target < least);
            prop_assert!(lowered.iter().zip(&last).all(|(level, last)| level <= last));
            prop_assert!(lowered.iter().zip(&levels).all(|(after, before)| after >= before));
            if is_within(&levels) {
                prop_assert_eq!(&lowered, &levels);
            }
            prop_assert_eq!(lowered, slow_wall(&levels, &last, is_within));
        }
    }
}
