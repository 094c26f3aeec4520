//! Random search: combinations drawn with equal chances, without repetition.
//!
//! Source: Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 13, 2012, here without
//! replacement, because a candidate that is measured twice is the same twice.

use std::collections::BTreeSet;

use qslm_common::experiment::Experiment;
use qslm_common::space::Tier;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::combinations::{self, SEED, TIER};
use super::one_shot::OneShot;
use crate::candidates::Numbers;
use crate::{Key, Problem, Search, Strategy};

/// Random search over the combinations of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Number of candidates beside the float model.
    pub trials: u32,
    /// Seed: the draw is the same for the same seed, everywhere.
    pub seed: u64,
}

impl Strategy for Random {
    const KIND: &'static str = "random";
    const ABOUT: &'static str = "Combinations drawn with equal chances, without repetition.";
    const KEYS: &'static [Key] =
        &[TIER, Key { name: "trials", takes: "1 to 1000000", default: "required", means: "how many" }, SEED];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        combinations::problems(u64::from(self.trials).min(experiment.combinations(self.tier)))
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let drawn = self.draw(experiment.combinations(self.tier));
        let candidates = combinations::candidates(experiment, self.tier, Numbers::Some(drawn));
        OneShot::start(Self::KIND, candidates)
    }

    fn caption(&self) -> String {
        format!("{} drawn at random over the {} tier, seed {}", self.trials, self.tier.name(), self.seed)
    }
}

impl Random {
    /// Different numbers below `all`, all equally likely, in the order drawn.
    fn draw(&self, all: u64) -> Vec<u64> {
        let trials = self.trials as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let (mut seen, mut drawn) = (BTreeSet::new(), Vec::new());
        // Drawing again what was seen slows down only when nearly all are wanted: then list and shuffle.
        if u64::from(self.trials).saturating_mul(2) >= all {
            drawn = (0..all).collect();
            for last in (1..drawn.len()).rev() {
                drawn.swap(last, rng.random_range(0..=last));
            }
            drawn.truncate(trials);
        }
        while drawn.len() < trials.min(usize::try_from(all).unwrap_or(usize::MAX)) {
            let combination = rng.random_range(0..all);
            if seen.insert(combination) {
                drawn.push(combination);
            }
        }
        drawn
    }
}
