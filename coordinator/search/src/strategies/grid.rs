//! Grid search: every combination of levels over the groups of a tier.

use qslm_common::experiment::Experiment;
use qslm_common::space::Tier;
use serde::{Deserialize, Serialize};

use super::combinations::{self, TIER};
use super::one_shot::OneShot;
use crate::candidates::Numbers;
use crate::{Key, Problem, Search, Strategy};

/// Grid search over a tier. Counts up with the first group as the lowest digit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
}

impl Strategy for Grid {
    const KIND: &'static str = "grid";
    const ABOUT: &'static str = "Every combination of widths, at most a million.";
    const KEYS: &'static [Key] = &[TIER];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        combinations::problems(experiment.combinations(self.tier))
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let all = Numbers::Below(experiment.combinations(self.tier));
        OneShot::start(Self::KIND, combinations::candidates(experiment, self.tier, all))
    }

    fn caption(&self) -> String {
        format!("grid over the {} tier", self.tier.name())
    }
}
