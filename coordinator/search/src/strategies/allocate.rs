//! Allocation: how sensitive each group is, then the schemes that lose least for every number of bytes.
//!
//! ```text
//! sensitivity   one group at a time at the middle and at the last level, the rest float, on all data or the first of them
//!     |
//! allocation    each group's loss at a level is taken to grow with the squared error of that level's codes, and losses of
//!     |         groups to add up. What the bounds ask for of the allocations that lose least for their bytes is measured as
//!     |         a whole, and the predictions are fitted to that, a few times
//!     |
//! neighbours    the best of them, a little changed
//! ```
//!
//! That is `s_k^2 ~ n_k / alpha_k` where levels are steps of an entropy coder, and a knapsack where they are widths. There is
//! no aim of its own: bytes, costs and quality are those of the constraints, and without any it gives the whole front. What is
//! predicted decides only what is measured next.
//!
//! - [`probes`]: groups alone. [`errors`]: the law of squared errors. [`table`]: what a job predicts in the place of both.
//! - [`regression`]: rounds that fit the [`model`] to all that was measured and follow the [`aims`].
//! - [`law`]: rounds by what groups alone told, as they were before there was a regression.

mod aims;
mod errors;
mod law;
mod model;
mod probes;
mod regression;
mod table;

use qslm_common::archive::Archive;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Group, Tier};
use serde::{Deserialize, Serialize};

use super::combinations::{self, TIER};
use super::subset::{self, SENSITIVITY_SEQUENCES};
use crate::{Generation, Key, Probe, Problem, Search, StagePlan, Step, Strategy, Subset};
pub(super) use errors::squared_error;
use law::Law;
use probes::Probes;
use regression::Regression;
pub use table::{PER_NAT, Table};

/// Allocation over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Subset: the number of first windows or sentences on which sensitivity is measured; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_sequences: Option<u32>,
    /// Fit of the predictions; [`Fit::Law`] if absent, which leaves no trace in a text either. A spec that leaves it out
    /// means [`Fit::Regression`].
    #[serde(default, skip_serializing_if = "is_law")]
    pub fit: Option<Fit>,
    /// Table of what groups of weights lose at their levels; they are measured alone if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// The table's losses by group of weights and level, in nats per token or sentence times 10^9. A job makes them when a spec
    /// is resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Vec<u64>>,
}

/// Fit: what predicted losses rest on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Groups measured alone.
    #[default]
    Law,
    /// Those, and every whole allocation that was measured since.
    Regression,
}

/// True of what experiments meant before there was a regression.
fn is_law(fit: &Option<Fit>) -> bool {
    fit.unwrap_or_default() == Fit::Law
}

/// Allocations that are tried at a time.
const AT_A_TIME: usize = 6;
/// Times that allocations are tried.
const ROUNDS: usize = 3;
/// Neighbours of the best allocation that are tried.
const NEIGHBOURS: usize = 8;

impl Strategy for Allocate {
    const KIND: &'static str = "allocate";
    const ABOUT: &'static str =
        "Sensitivities first, then the schemes that by them lose least for every number of bytes.";
    const KEYS: &'static [Key] = &[
        TIER,
        subset::SENSITIVITY,
        Key {
            name: "fit",
            takes: "\"law\", \"regression\"",
            default: "\"regression\"",
            means: "what predicted losses rest on: groups measured alone, or also every whole allocation since; only the \
                    latter aims at bounds on bytes and costs",
        },
        Key {
            name: "table",
            takes: "\"fisher\", \"outputs\"",
            default: "none",
            means: "groups of weights are not measured alone, but whole blocks are, and what these lose is shared out as the \
                    Fisher information of the calibration data says, or the share of their outputs that is off",
        },
        Key {
            name: "losses",
            takes: "lists of integers",
            default: "made",
            means: "what the table says, by group of weights and level, in 10^-9 nats: a job makes it when the spec is \
                    resolved, and it is not to be written",
        },
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(subset::problem(SENSITIVITY_SEQUENCES, self.sensitivity_sequences));
        problems.extend(combinations::spends_bytes(Self::KIND, experiment));
        if experiment.space.levels(Axis::Weights) < 2 {
            problems
                .push(Problem::new("strategy", "strategy allocate: expected at least two levels of weights"));
        }
        problems.extend(table::problem(self, experiment));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let rounds: Box<dyn Rounds> = match self.fit.unwrap_or_default() {
            Fit::Law => Box::<Law>::default(),
            Fit::Regression => Box::<Regression>::default(),
        };
        Box::new(AllocateSearch { probes: Probes::new(self, experiment), state: State::Start, rounds })
    }

    fn caption(&self) -> String {
        format!("allocated by sensitivities over the {} tier", self.tier.name())
    }

    fn outline(&self, experiment: &Experiment, first: u64) -> Vec<StagePlan> {
        let groups = experiment.moving(self.tier).len();
        let plan = |stage: &str, candidates| StagePlan {
            stage: stage.to_owned(),
            groups,
            candidates_at_most: candidates,
        };
        let probes = self.subset(experiment).map_or(0, |subset| subset.candidates);
        vec![
            plan(SENSITIVITY, first + probes),
            plan(ALLOCATION, (ROUNDS * AT_A_TIME) as u64),
            plan(NEIGHBOUR, self.neighbours(groups) as u64),
        ]
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        // The float model, and every group that is measured alone at two levels.
        Some(Subset { sequences, candidates: 1 + 2 * self.measured_alone(experiment).len() as u64 })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SENSITIVITY_SEQUENCES, self.sensitivity_sequences?))
    }

    fn write_out(&mut self) {
        self.fit.get_or_insert(Fit::Regression);
    }

    fn fit(&mut self, sequences: u64) {
        subset::fit(&mut self.sensitivity_sequences, sequences);
    }
}

impl Allocate {
    /// Allocation over a tier, on all data, with predictions of this fit.
    pub const fn over(tier: Tier, fit: Fit) -> Self {
        Self { tier, sensitivity_sequences: None, fit: Some(fit), table: None, losses: Vec::new() }
    }

    /// True if a table says what the group loses.
    fn is_in_table(&self, group: &Group) -> bool {
        self.table.is_some() && group.axis == Axis::Weights
    }

    /// Groups that are measured alone: those that move, but for the groups of a table, of which whole blocks are measured to know
    /// how large its losses are.
    fn measured_alone(&self, experiment: &Experiment) -> Vec<Group> {
        let moving = experiment.moving(self.tier).into_iter();
        let blocks =
            self.table.map(|_| experiment.space.groups(&experiment.network, Axis::Weights, Tier::Block));
        moving.filter(|group| !self.is_in_table(group)).chain(blocks.into_iter().flatten()).collect()
    }

    /// Sequences that sensitivity is measured on, if those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        subset::of(self.sensitivity_sequences, experiment)
    }

    /// Neighbours of the best that are tried at most, among so many groups.
    fn neighbours(&self, groups: usize) -> usize {
        match self.fit.unwrap_or_default() {
            Fit::Law => NEIGHBOURS.min(groups),
            Fit::Regression => NEIGHBOURS,
        }
    }

    /// The most candidates beside the float model.
    pub(super) fn candidates_at_most(&self, experiment: &Experiment) -> u64 {
        let groups = experiment.moving(self.tier).len();
        (2 * groups + ROUNDS * AT_A_TIME + self.neighbours(groups)) as u64
    }
}

/// Names of the stages.
const SENSITIVITY: &str = "sensitivity";
const ALLOCATION: &str = "allocation";
const NEIGHBOUR: &str = "neighbours";

/// Rounds: whole allocations, a few at a time, once groups were measured alone.
trait Rounds: Send {
    /// The next round, or `None` after the last.
    fn next(&mut self, probes: &Probes, archive: &Archive) -> Option<Round>;

    /// The most candidates of the rounds to come.
    fn remaining_at_most(&self, probes: &Probes) -> u64;

    /// See [`Search::predictions`].
    fn predictions(&self) -> Vec<(CandidateId, f64)>;
}

/// A round, all of whose candidates are new.
struct Round {
    stage: &'static str,
    candidates: Vec<Candidate>,
}

/// State of the search, by the generation that is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
    Float,
    Sensitivity,
    Rounds,
    Finished,
}

/// The search under way.
struct AllocateSearch {
    probes: Probes,
    rounds: Box<dyn Rounds>,
    state: State,
}

impl AllocateSearch {
    fn generation(stage: &'static str, candidates: impl IntoIterator<Item = Candidate>) -> Generation {
        let (candidates, subset) = (candidates.into_iter().collect(), None);
        Generation { stage, candidates, subset, may_race: stage != SENSITIVITY }
    }

    fn sensitivity(&self) -> Generation {
        let Probes { subset, .. } = self.probes;
        Generation { subset, ..Self::generation(SENSITIVITY, self.probes.all()) }
    }

    fn round(&mut self, archive: &Archive) -> (State, Step) {
        match self.rounds.next(&self.probes, archive) {
            Some(Round { stage, candidates }) => {
                (State::Rounds, Step::Measure(Self::generation(stage, candidates)))
            }
            None => (State::Finished, Step::Finished),
        }
    }
}

impl Search for AllocateSearch {
    /// Every group that is measured alone at its last level, the rest float.
    fn probes(&self) -> Vec<Probe> {
        let alone = |group: &Group| {
            let candidate = self.probes.alone(group, self.probes.last(group));
            Probe { axis: group.axis, name: group.name.clone(), candidate }
        };
        self.probes.measured_alone.iter().map(alone).collect()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start if self.probes.subset.is_some() => {
                (State::Float, Step::Measure(Self::generation(SENSITIVITY, [self.probes.float()])))
            }
            // Without the float model there is nothing to compare with.
            State::Float | State::Sensitivity if archive.float(&self.probes.experiment).is_none() => {
                (State::Finished, Step::Finished)
            }
            State::Start | State::Float => (State::Sensitivity, Step::Measure(self.sensitivity())),
            State::Sensitivity | State::Rounds => self.round(archive),
            State::Finished => (State::Finished, Step::Finished),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let rounds = self.rounds.remaining_at_most(&self.probes);
        Some(match &self.state {
            State::Start | State::Sensitivity | State::Rounds => rounds,
            State::Float => self.probes.all().len() as u64 + rounds,
            State::Finished => 0,
        })
    }

    fn predictions(&self) -> Vec<(CandidateId, f64)> {
        self.rounds.predictions()
    }
}

#[cfg(test)]
mod budgets;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod tests;
