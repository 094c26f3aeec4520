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
//! spec names another), or at the same cost a smaller loss, as another quantizer has it at one width. Without a bound, a
//! change is kept if it improves the trade-off.
//! Guided, which a spec means that does not say `plain`, it goes beyond the paper in two ways: what by [`sums`] of
//! sensitivities is far beyond the bound is not measured, and bounds on bytes and costs that the tiers do not meet are
//! searched by [`Allocate`].
//!
//! The selection over everything measured (S4) is [`Archive::chosen`](qslm_common::archive::Archive::chosen).

mod search;
mod sensitivity;
mod sums;

use qslm_common::experiment::Experiment;
use qslm_common::scheme::Width;
use qslm_common::space::{Axis, Group, Space, Tier};
use serde::{Deserialize, Serialize};

use search::TieredSearch;
pub(super) use sensitivity::{Sensitivity, sensitivity, sort_by_sensitivity};

use super::Allocate;
use super::allocate::Fit;
use super::subset::{self, SENSITIVITY_SEQUENCES};
use crate::{Key, Problem, Search, StagePlan, Strategy, Subset};

/// Tiered search of QSLM: sensitivity, then global, block, module and matrix tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiered {
    /// The width at which sensitivity is measured; the middle of the space's widths if absent.
    pub sensitivity_bits: Option<Width>,
    /// Subset: the number of first windows or sentences on which sensitivity is measured; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_sequences: Option<u32>,
    /// Plain: the paper's search, without what guides it: sums of sensitivities that tell which lowerings need not be
    /// measured, and bounds on bytes and costs that are searched where they meet. So are experiments that say nothing of it;
    /// a spec that says nothing means false.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub plain: Option<bool>,
}

/// True of what experiments meant before there was anything else.
fn is_plain(plain: &Option<bool>) -> bool {
    plain.unwrap_or(true)
}

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
        subset::SENSITIVITY,
        Key {
            name: "plain",
            takes: "true, false",
            default: "false",
            means: "the tiers alone, as the paper has them: without it, sums of sensitivities tell what need not be measured, \
                    and bounds on bytes and costs are searched by allocation where the tiers do not meet them",
        },
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(subset::problem(SENSITIVITY_SEQUENCES, self.sensitivity_sequences));
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
        Box::new(TieredSearch::new(experiment, probe, subset, self.is_guided(), self.allocation(experiment)))
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
        // What it measures of groups alone at another level than the tiers did.
        let alone = experiment.moving(Tier::Matrix).len() as u64;
        let of_allocation =
            self.allocation(experiment).map(|allocation| allocation.outline(experiment, 2 * alone));
        stages.extend(of_allocation.into_iter().flatten().map(|plan| match plan.stage.as_str() {
            SENSITIVITY if self.subset(experiment).is_some() => {
                StagePlan { candidates_at_most: 2 * alone, ..plan }
            }
            _ => plan,
        }));
        stages
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        // The float model, and every site alone.
        let alone = experiment.moving(Tier::Matrix).len() as u64;
        let of_allocation = self.allocation(experiment).map_or(0, |_| 2 * alone);
        Some(Subset { sequences, candidates: 1 + alone + of_allocation })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SENSITIVITY_SEQUENCES, self.sensitivity_sequences?))
    }

    fn write_out(&mut self) {
        self.plain.get_or_insert(false);
    }

    fn fit(&mut self, sequences: u64) {
        subset::fit(&mut self.sensitivity_sequences, sequences);
    }
}

impl Tiered {
    /// Sequences that sensitivity is measured on, if those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        subset::of(self.sensitivity_sequences, experiment)
    }

    fn is_guided(&self) -> bool {
        !is_plain(&self.plain)
    }

    /// The search for bounds on bytes and costs, if there are any and nothing moves that has no bytes.
    fn allocation(&self, experiment: &Experiment) -> Option<Allocate> {
        let is_bounded = experiment.constraints.bounds_size();
        let sensitivity_sequences = self.sensitivity_sequences;
        let allocate = Allocate { sensitivity_sequences, ..Allocate::over(Tier::Matrix, Fit::Regression) };
        (self.is_guided() && is_bounded && allocate.problems(experiment).is_empty()).then_some(allocate)
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

/// Tiers from the coarsest to the finest.
pub(super) const TIERS: [Tier; 4] = [Tier::Global, Tier::Block, Tier::Module, Tier::Matrix];

/// The name of the first stage.
pub(super) const SENSITIVITY: &str = "sensitivity";

/// Levels of all of these groups together.
pub(super) fn all_levels<'a>(groups: impl IntoIterator<Item = &'a Group>) -> u64 {
    groups.into_iter().map(|group| group.levels as u64).sum()
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

#[cfg(test)]
mod tests;
