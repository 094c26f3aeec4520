//! Ranked search: the least important groups at one level, the rest at another.
//!
//! Every number of groups, every two levels. This is how published scores of importance are put to use (LSAQ, arXiv
//! 2412.18135). The order is worked out where a spec is resolved, which takes an evaluation, and stands in the experiment.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Tier};
use serde::{Deserialize, Serialize};

use super::combinations::TIER;
use super::one_shot::OneShot;
use crate::{Key, Problem, Search, Strategy};

/// Ranked search over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranked {
    /// The measure of sensitivity that the list was ordered by.
    pub metric: String,
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// The tier's groups by name, least important first.
    pub order: Vec<String>,
}

impl Strategy for Ranked {
    const KIND: &'static str = "ranked";
    const ABOUT: &'static str = "The least important groups at one width, the rest at another: every number of groups, every \
                                 two widths.";
    const KEYS: &'static [Key] = &[
        Key {
            name: "metric",
            takes: "a measure; see below",
            default: "required",
            means: "the measure of importance",
        },
        TIER,
        Key {
            name: "sequences",
            takes: "1 or more",
            default: "16",
            means: "windows or sentences that the measure looks at",
        },
        Key { name: "top_k", takes: "1 or more", default: "10", means: "tokens that LSAQ compares" },
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        if experiment.space.axes().len() > 1 {
            let words = "strategy ranked orders weights only: leave vectors, activations and membranes out of the space";
            return vec![Problem::new("strategy", words)];
        }
        let groups = experiment.space.groups(&experiment.network, Axis::Weights, self.tier);
        let missing = groups.iter().find(|group| !self.order.contains(&group.name));
        if missing.is_none() && self.order.len() == groups.len() {
            return Vec::new();
        }
        let (tier, count) = (self.tier, self.order.len());
        let missing = missing.map_or("", |group| &group.name);
        let words = format!(
            "strategy.order: expected every group of the {tier:?} tier once, {missing:?} is missing or {count} are given"
        );
        vec![Problem::new("strategy.order", words)]
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let (space, network) = (&experiment.space, &experiment.network);
        let groups = space.groups(network, Axis::Weights, self.tier);
        let mut candidates = vec![Candidate::float(network)];
        for wide in 0..space.levels(Axis::Weights) {
            candidates.push(space.uniform(network, wide));
            for narrow in wide + 1..space.levels(Axis::Weights) {
                let mut candidate = space.uniform(network, wide);
                // All of them at the narrow width is that width's uniform candidate.
                for name in &self.order[..self.order.len().saturating_sub(1)] {
                    if let Some(group) = groups.iter().find(|group| group.name == *name) {
                        candidate = space.place_as_uniform(candidate, group, narrow);
                        candidates.push(candidate.clone());
                    }
                }
            }
        }
        OneShot::start(Self::KIND, candidates.into_iter().collect())
    }

    fn caption(&self) -> String {
        format!("ranked by {} over the {} tier", self.metric, self.tier.name())
    }
}
