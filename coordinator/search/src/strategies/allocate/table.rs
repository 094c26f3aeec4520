//! Table: what groups of weights lose at their levels, predicted by a job in the place of measurements.

use std::collections::BTreeMap;

use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Group};
use serde::{Deserialize, Serialize};

use super::Allocate;
use crate::Problem;

/// Parts of a nat that a table counts in.
pub const PER_NAT: f64 = 1e9;

/// What a table rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Fisher information: `sum F (w - w^)^2 / 2`, in nats.
    Fisher,
    /// The share of the outputs that is off: `tr(E H E^T) / tr(W H W^T)`. It is no loss, but taken for one up to a factor.
    Outputs,
}

/// Losses of the groups of a table, by name and level, in nats per token or sentence as far as it knows: a spike that is near its
/// threshold flips for a small error, and no gradient tells how many are. So blocks are measured as a whole, and the table
/// shares out what they lose.
pub(super) struct Losses {
    by_group: BTreeMap<String, Vec<f64>>,
    /// Whole blocks, with the groups of each.
    blocks: Vec<(Group, Vec<String>)>,
}

impl Losses {
    /// The losses of a strategy's table, none without one.
    pub(super) fn of(strategy: &Allocate, groups: &[Group], measured_alone: &[Group]) -> Self {
        let groups: Vec<&Group> = groups.iter().filter(|group| strategy.is_in_table(group)).collect();
        // A scheme that changes nothing loses nothing, and has still to be less than one that does.
        let nats = |loss: &u64| (*loss).max(1) as f64 / PER_NAT;
        let rows = groups.iter().zip(&strategy.losses);
        let by_group =
            rows.map(|(group, losses)| (group.name.clone(), losses.iter().map(nats).collect())).collect();
        let blocks = measured_alone.iter().filter(|block| strategy.is_in_table(block));
        let groups_of = |block: &Group| {
            let begins_in =
                |group: &&&Group| group.members.first().is_some_and(|unit| block.members.contains(unit));
            (block.clone(), groups.iter().filter(begins_in).map(|group| group.name.clone()).collect())
        };
        Self { by_group, blocks: blocks.map(groups_of).collect() }
    }

    /// What the table says of a group at a level; `None` of one that it does not have.
    pub(super) fn get(&self, group: &Group, level: usize) -> Option<f64> {
        self.by_group.get(&group.name)?.get(level).copied()
    }

    /// The block that a group is in, or begins in.
    pub(super) fn block_of(&self, group: &Group) -> Option<&Group> {
        let block = self.blocks.iter().find(|(_, groups)| groups.contains(&group.name));
        block.map(|(block, _)| block)
    }

    /// What the table says of a whole block at a level.
    pub(super) fn of_block(&self, block: &Group, level: usize) -> f64 {
        let groups = self.blocks.iter().find(|(known, _)| known.name == block.name).map(|(_, groups)| groups);
        let losses = groups.into_iter().flatten().filter_map(|group| self.by_group.get(group));
        losses.filter_map(|losses| losses.get(level).or(losses.last())).sum()
    }
}

/// What is wrong with the losses of a strategy.
pub(super) fn problem(strategy: &Allocate, experiment: &Experiment) -> Option<Problem> {
    let wrong = |words: String| Some(Problem::new("strategy.losses", format!("strategy.losses: {words}")));
    let Allocate { table, losses, .. } = strategy;
    if table.is_none() {
        return if losses.is_empty() {
            None
        } else {
            wrong("expected none without strategy.table".to_owned())
        };
    }
    let moving = experiment.moving(strategy.tier).into_iter();
    let groups: Vec<Group> = moving.filter(|group| group.axis == Axis::Weights).collect();
    if losses.len() != groups.len() {
        return wrong(format!(
            "{} rows: expected {}, one for each group of weights",
            losses.len(),
            groups.len()
        ));
    }
    let unlike = groups.iter().zip(losses).find(|(group, losses)| losses.len() != group.levels);
    let (group, losses) = unlike?;
    wrong(format!("{} of {}: expected {}, one for each level", losses.len(), group.name, group.levels))
}
