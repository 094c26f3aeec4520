//! HAQ: an agent walks over the groups and names a level for each; the budget is enforced at the end of the walk, so that
//! what is learned from is quality alone.
//!
//! ```text
//! warm-up       20 walks at random
//!     |
//! generations   so many walks of one frozen actor with noise that shrinks --- wall ---> candidates
//!     ^                                                                                     |
//!     +---- the agent learns, walk by walk in their order <--- quality lost of each --------+
//! ```
//!
//! Published: the wall, from the last group to the first, a level lower each, until the budget is met; the networks but for
//! their width, which is a parameter; rates, batch, replay, noise, warm-up, one update for each step, and the reward of a
//! whole walk for each of its steps, a tenth of the quality gained in percent. Ours: several walks per generation, measured
//! beside each other, so that the agent learns that much later; nothing is trained between them; states that describe
//! matrices of a language model; losses beyond [`WORST_LOSS`] count as that one; the wall lowers what a bound is about and
//! nothing else; a search whose walks lead nowhere new is over.
//!
//! For microcontrollers the budget has two parts, `max_footprint_bytes` (flash) and `max.working_memory` (RAM), and the
//! widths are 8, 4 and 2 bits: levels then are thirds of what the actor answers.
//!
//! Learning is the coordinator's own work, and done again whenever the search is replayed, so its size is bounded. An
//! update takes 0.7 to 1.4 ms with 64 hidden units, 4 with 128 and 12 to 18 with 300 (one of two busy cores, 2026-11-30),
//! so that 600 walks over 29 groups take 12 to 24 s, 65 s and 200 to 300 s, over 128 groups up to 105 s, 290 s and 22
//! minutes, which are too many. See [`crate::ddpg`].
//!
//! Sources: Wang et al., "HAQ: hardware-aware automated quantization with mixed precision", CVPR 2019 (arXiv 1811.08886);
//! Rusci et al., "Leveraging automated mixed-low-precision quantization for tiny edge microcontrollers", 2020 (arXiv
//! 2008.05124).

mod walk;

use std::collections::{BTreeSet, VecDeque};

use qslm_common::archive::Archive;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::measurement::Counts;
use qslm_common::quality::Quality;
use qslm_common::space::Tier;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::combinations::{SEED, TIER, outside};
use crate::ddpg::{Agent, Episode, explore, products_of_update};
use crate::{Generation, Key, Problem, Search, StagePlan, Step, Strategy};
use qslm_common::elementary::exp;
use walk::Walk;

/// Search by an agent over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haq {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Walks over the groups, each of which names a candidate.
    pub episodes: u32,
    /// Walks of a generation, which are measured beside each other.
    #[serde(default = "usual_parallel", skip_serializing_if = "is_usual_parallel")]
    pub parallel: u32,
    /// Hidden units of each of two layers, of actor and critic.
    #[serde(default = "usual_hidden", skip_serializing_if = "is_usual_hidden")]
    pub hidden: u32,
    /// Seed: the same seed takes the same path, everywhere.
    pub seed: u64,
}

fn usual_parallel() -> u32 {
    4
}

fn is_usual_parallel(parallel: &u32) -> bool {
    *parallel == usual_parallel()
}

fn usual_hidden() -> u32 {
    64
}

fn is_usual_hidden(hidden: &u32) -> bool {
    *hidden == usual_hidden()
}

/// Walks at random, before the agent learns.
const WARM_UP: u32 = 20;
/// Deviation of the noise after that, and what is left of it from walk to walk.
const DEVIATION: f64 = 0.5;
const DECAY: f64 = 0.99;
/// Reward for a loss of all quality; a tenth for each percent.
const REWARD: f64 = -10.0;
/// Largest loss that a reward tells from others: twice the float model's perplexity, or all accuracy. What failed counts as
/// this, so that the agent keeps away from what cannot be measured, instead of naming it again and again.
const WORST_LOSS: f64 = 1.0;
/// Walks in a row that lead nowhere new, until the search is over: noise only shrinks, so few more would.
const IDLE: u32 = 20;
/// Most groups: each walk works out what a candidate takes at every one of them.
const MOST_GROUPS: usize = 1000;
/// Most multiplications of learning between two generations, a few seconds: workers of other experiments are served
/// meanwhile, those of this one wait.
const MOST_BETWEEN: u64 = 10_000_000_000;
/// Multiplications of a slice of learning, after which whoever asked for the next generation may serve others: about a
/// hundredth of a second. A slice is one update at least.
const SLICE: u64 = 20_000_000;
/// Most of them in all, four to eight minutes: a coordinator that starts, and an export, do them again.
const MOST_IN_ALL: u64 = 1_200_000_000_000;

impl Strategy for Haq {
    const KIND: &'static str = "haq";
    const ABOUT: &'static str = "HAQ: an agent learns by reinforcement which levels lose least within a budget, such as max_footprint_bytes or \
                                 max.working_memory, which every candidate meets.";
    const KEYS: &'static [Key] = &[
        TIER,
        Key {
            name: "episodes",
            takes: "1 to 10000",
            default: "required",
            means: "how many candidates; published: 600",
        },
        Key {
            name: "parallel",
            takes: "1 to 100",
            default: "4",
            means: "candidates of a generation: the agent learns after each",
        },
        Key {
            name: "hidden",
            takes: "1 to 1000",
            default: "64",
            means: "units of each hidden layer of the agent; published: 300, which takes about 15 times as long to learn",
        },
        SEED,
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [
            outside("strategy.episodes", self.episodes, 1..=10_000),
            outside("strategy.parallel", self.parallel, 1..=100),
            outside("strategy.hidden", self.hidden, 1..=1000),
        ]
        .into_iter()
        .flatten()
        .collect();
        let groups = experiment.moving(self.tier).len();
        if groups > MOST_GROUPS {
            let words = format!("strategy.tier: {groups} groups: expected at most {MOST_GROUPS}");
            problems.push(Problem::new("strategy.tier", words));
            return problems;
        }
        let walk = Walk::new(experiment, self.tier);
        if walk.budget().len() == 0 {
            let words = "strategy haq: expected a budget: constraints.max_footprint_bytes, min_saving, or the max of \
                         a cost that schemes alone decide";
            problems.push(Problem::new("constraints", words));
        }
        let exceeded = walk.budget().exceeded(experiment, walk.smallest());
        problems.extend(exceeded.map(|words| Problem::new("constraints", format!("strategy haq: {words}"))));
        problems.extend(self.takes_too_long(&walk));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let walk = Walk::new(experiment, self.tier);
        let (mut rng, walk_state) = (ChaCha8Rng::seed_from_u64(self.seed), walk.state_size());
        Box::new(HaqSearch {
            agent: Agent::new(walk_state, self.hidden as usize, &mut rng),
            experiment: experiment.clone(),
            walk,
            rng,
            parallel: self.parallel,
            episodes: self.episodes,
            walked: 0,
            idle: 0,
            has_started: false,
            proposed: BTreeSet::new(),
            under_way: VecDeque::new(),
            updates: 0,
            at_a_time: (SLICE / products_of_update(walk_state as u64, u64::from(self.hidden))).max(1),
        })
    }

    fn caption(&self) -> String {
        let Self { episodes, seed, tier, .. } = self;
        format!("by a learning agent over the {} tier, {episodes} walks, seed {seed}", tier.name())
    }

    fn outline(&self, experiment: &Experiment, _first: u64) -> Vec<StagePlan> {
        let groups = experiment.moving(self.tier).len();
        let all = u64::from(self.episodes).min(experiment.combinations(self.tier));
        vec![StagePlan { stage: Self::KIND.to_owned(), groups, candidates_at_most: 1 + all }]
    }
}

impl Haq {
    /// A problem if learning takes too many multiplications.
    fn takes_too_long(&self, walk: &Walk) -> Option<Problem> {
        let one = products_of_update(walk.state_size() as u64, u64::from(self.hidden));
        let of = |walks: u32| one.saturating_mul(walk.steps() as u64).saturating_mul(u64::from(walks));
        let (between, all) = (of(self.parallel), of(self.episodes.saturating_sub(WARM_UP)));
        let (of, products, most, lower) = match (between > MOST_BETWEEN, all > MOST_IN_ALL) {
            (true, _) => ("a generation", between, MOST_BETWEEN, "parallel"),
            (_, true) => ("all episodes", all, MOST_IN_ALL, "episodes"),
            _ => return None,
        };
        const BILLION: u64 = 1_000_000_000;
        let words = format!(
            "strategy.hidden = {}: to learn from {of} takes {} billion multiplications, expected at most {}: lower hidden or \
             {lower}",
            self.hidden,
            products.div_ceil(BILLION),
            most / BILLION
        );
        Some(Problem::new("strategy.hidden", words))
    }
}

/// The search under way.
struct HaqSearch {
    experiment: Experiment,
    walk: Walk,
    agent: Agent,
    rng: ChaCha8Rng,
    parallel: u32,
    /// Walks in all.
    episodes: u32,
    /// Walks that were made.
    walked: u32,
    /// Walks since the last that led to a new candidate, by whole generations.
    idle: u32,
    /// True once the float model is proposed.
    has_started: bool,
    proposed: BTreeSet<CandidateId>,
    /// Walks that are being measured or learned from: the number of each, what was seen and done, and the candidate that it
    /// led to.
    under_way: VecDeque<(u32, Episode, CandidateId)>,
    /// Updates to come before the next of these is looked at.
    updates: usize,
    /// Updates of a slice.
    at_a_time: u64,
}

impl Search for HaqSearch {
    fn next(&mut self, archive: &Archive) -> Step {
        let is_first = !self.has_started;
        self.has_started = true;
        if !is_first && archive.float(&self.experiment).is_none() {
            // Without the float model there is nothing to compare with.
            self.walked = self.episodes;
            return Step::Finished;
        }
        while self.walked < self.episodes && self.idle < IDLE {
            if !self.learn(archive) {
                return Step::Again;
            }
            let new = self.walks();
            // Of what was measured before, the agent learns at once.
            if is_first || !new.is_empty() {
                let float = is_first.then(|| Candidate::float(&self.experiment.network));
                let candidates = float.into_iter().chain(new).collect();
                // A pruned candidate would have no loss to learn from.
                return Step::Measure(Generation {
                    stage: Haq::KIND,
                    candidates,
                    subset: None,
                    may_race: false,
                });
            }
        }
        self.walked = self.episodes;
        Step::Finished
    }

    fn remaining_at_most(&self) -> Option<u64> {
        Some(u64::from(self.episodes - self.walked))
    }
}

impl HaqSearch {
    /// Walks of a generation; the candidates that were not proposed before.
    fn walks(&mut self) -> Vec<Candidate> {
        let mut new = Vec::new();
        let walks = self.parallel.min(self.episodes - self.walked);
        for _ in 0..walks {
            let Self { walk, agent, rng, walked, .. } = self;
            let deviation = deviation(*walked);
            let (episode, candidate) = walk.episode(&self.experiment, |state| match deviation {
                None => rng.random_range(0.0..1.0),
                Some(deviation) => explore(agent.act(state), deviation, rng),
            });
            self.under_way.push_back((*walked, episode, candidate.id()));
            *walked += 1;
            if self.proposed.insert(candidate.id()) {
                new.push(candidate);
            }
        }
        self.idle = if new.is_empty() { self.idle + walks } else { 0 };
        new
    }

    /// Learns a slice from the walks that were measured, in their order. Returns whether that was all.
    fn learn(&mut self, archive: &Archive) -> bool {
        for _ in 0..self.at_a_time {
            while self.updates == 0 {
                let Some((number, mut episode, id)) = self.under_way.pop_front() else { return true };
                let Some(float) = archive.float(&self.experiment) else { return true };
                let loss = archive.get(&id).map(|entry| loss(&float.counts, &entry.counts));
                episode.reward = reward(loss);
                self.agent.observe(episode);
                self.updates = if number >= WARM_UP { self.walk.steps() } else { 0 };
            }
            self.agent.learn(&mut self.rng);
            self.updates -= 1;
        }
        false
    }
}

/// Deviation of the noise of a walk, by its number; none while walks are at random.
fn deviation(walk: u32) -> Option<f64> {
    let after = walk.checked_sub(WARM_UP)?;
    Some((0..after).fold(DEVIATION, |deviation, _| deviation * DECAY))
}

/// Reward for a loss of quality; none for what failed.
fn reward(loss: Option<f64>) -> f64 {
    let loss = loss.filter(|loss| !loss.is_nan()).unwrap_or(WORST_LOSS);
    REWARD * loss.clamp(-WORST_LOSS, WORST_LOSS)
}

/// Loss of quality against the float model, with the same bits everywhere.
fn loss(float: &Counts, counts: &Counts) -> f64 {
    let quality = float.quality();
    let more = quality.mean_loss(counts) - quality.mean_loss(float);
    match quality {
        Quality::Perplexity => exp(more) - 1.0,
        Quality::Accuracy => more,
    }
}

#[cfg(test)]
mod tests;
