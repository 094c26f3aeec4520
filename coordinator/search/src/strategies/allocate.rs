//! Allocation: how sensitive each group is, once, then the schemes that lose least for every number of bytes.
//!
//! ```text
//! sensitivity   one group at a time at the middle and at the last level, the rest float, on all data or the first of them
//!     |
//! allocation    each group's loss at a level is taken to grow with the squared error of that level's codes. Of all
//!     |         allocations those on the convex hull are tried around the bound, then between what was good enough and
//!     |         what was not
//!     |
//! neighbours    the best of them with one more group a level lower
//! ```
//!
//! That is `s_k^2 ~ n_k / alpha_k` where levels are steps of an entropy coder, and the Lagrangian form of the knapsack
//! where they are widths. Losses add up roughly, so whatever is chosen was measured as a whole.
//!
//! Sources: Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 36, 1988; the
//! law of squared errors as in HIGGS, arXiv 2411.17525.

use std::collections::BTreeSet;

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::quality::Quality;
use qslm_common::scheme::{Rounding, Scheme, Symmetry};
use qslm_common::space::{Axis, Group, Tier};
use serde::{Deserialize, Serialize};

use super::combinations::{self, TIER};
use crate::{Generation, Key, Probe, Problem, Search, StagePlan, Step, Strategy, Subset};

/// Allocation over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Subset: the number of first windows or sentences on which sensitivity is measured; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_sequences: Option<u32>,
}

/// Key of the subset.
const SEQUENCES: &str = "strategy.sensitivity_sequences";
/// Allocations that are tried at a time.
const AT_A_TIME: usize = 6;
/// Times that allocations are tried.
const ROUNDS: usize = 3;
/// Neighbours of the best allocation that are tried.
const NEIGHBOURS: usize = 8;
/// Predicted losses of the first allocations, as multiples of the bound.
const AROUND_THE_BOUND: [f64; AT_A_TIME] = [0.5, 0.7, 0.85, 1.0, 1.2, 1.5];
/// Loss in nats per token or sentence below which a group's is nothing.
const LEAST_LOSS: f64 = 1e-4;
/// Loss at the middle level that noise does not hide: from it the law goes on to where allocations are. A sensitive group at
/// its last level loses more than the law says.
const TELLING_LOSS: f64 = 4e-3;

impl Strategy for Allocate {
    const KIND: &'static str = "allocate";
    const ABOUT: &'static str =
        "Sensitivities first, then the schemes that by them lose least for every number of bytes.";
    const KEYS: &'static [Key] = &[
        TIER,
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
        problems.extend(combinations::spends_bytes(Self::KIND, experiment));
        if experiment.space.levels(Axis::Weights) < 2 {
            problems
                .push(Problem::new("strategy", "strategy allocate: expected at least two levels of weights"));
        }
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let groups = experiment.moving(self.tier);
        let subset = self.subset_of(experiment);
        let base = experiment.space.uniform(&experiment.network, 0);
        // Vectors that have levels begin at the first, too.
        let base = combinations::placed(experiment, &base, &groups, &vec![0; groups.len()]);
        let (experiment, state) = (experiment.clone(), State::Start);
        Box::new(AllocateSearch {
            experiment,
            groups,
            base,
            subset,
            tables: Vec::new(),
            path: Vec::new(),
            tried: BTreeSet::new(),
            state,
        })
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
            plan(NEIGHBOUR, NEIGHBOURS.min(groups) as u64),
        ]
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        // The float model, and every group at two levels.
        Some(Subset { sequences, candidates: 1 + 2 * experiment.moving(self.tier).len() as u64 })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SEQUENCES, self.sensitivity_sequences?))
    }

    fn fit(&mut self, sequences: u64) {
        self.sensitivity_sequences = self.sensitivity_sequences.filter(|first| u64::from(*first) < sequences);
    }
}

impl Allocate {
    /// Sequences that sensitivity is measured on, if those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        self.sensitivity_sequences.filter(|first| experiment.task.first(*first) != experiment.task)
    }
}

/// Names of the stages.
const SENSITIVITY: &str = "sensitivity";
const ALLOCATION: &str = "allocation";
const NEIGHBOUR: &str = "neighbours";

/// State of the search, by the generation that is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
    Float,
    Sensitivity,
    /// Allocations, so many times already.
    Allocation(usize),
    Neighbours,
    Finished,
}

/// The search under way.
struct AllocateSearch {
    experiment: Experiment,
    groups: Vec<Group>,
    /// Every group at its first level.
    base: Candidate,
    /// Sequences that sensitivity is measured on, if not on all.
    subset: Option<u32>,
    /// Bytes of the whole and predicted loss of every group at each of its levels, the others at their first.
    tables: Vec<Vec<(u64, f64)>>,
    /// Allocations on the convex hull, the largest first.
    path: Vec<Allocation>,
    /// Candidates that were proposed.
    tried: BTreeSet<CandidateId>,
    state: State,
}

/// A level for every group.
#[derive(Debug, Clone, PartialEq)]
struct Allocation {
    levels: Vec<usize>,
    bytes: u64,
    /// Predicted loss in nats per token or sentence.
    loss: f64,
}

impl AllocateSearch {
    fn float(&self) -> Candidate {
        Candidate::float(&self.experiment.network)
    }

    fn generation(stage: &'static str, candidates: impl IntoIterator<Item = Candidate>) -> Generation {
        let (candidates, subset) = (candidates.into_iter().collect(), None);
        Generation { stage, candidates, subset, may_race: stage != SENSITIVITY }
    }

    /// The candidate of an allocation.
    fn candidate(&self, levels: &[usize]) -> Candidate {
        combinations::placed(&self.experiment, &self.base, &self.groups, levels)
    }

    /// The group alone at a level, the rest float.
    fn alone(&self, group: &Group, level: usize) -> Candidate {
        self.experiment.space.place(self.float(), group, level)
    }

    fn last(&self, group: &Group) -> usize {
        self.experiment.space.levels(group.axis) - 1
    }

    /// Loss of every group per token or sentence, divided by the squared error of its codes then.
    fn sensitivities(&self, archive: &Archive) -> Option<Vec<f64>> {
        let per_item = |candidate: &Candidate| {
            let counts = archive.counts(&candidate.id(), self.subset.is_some())?;
            Some(counts.nll.nats() / (counts.scored_tokens + counts.sentences).max(1) as f64)
        };
        let float = per_item(&self.float())?;
        let added = |group: &Group, level: usize| Some(per_item(&self.alone(group, level))? - float);
        let of_group = |group: &Group| {
            let (middle, last) = (self.last(group) / 2, self.last(group));
            let telling = added(group, middle).filter(|loss| *loss >= TELLING_LOSS);
            let measured = match telling {
                Some(loss) => Some((loss, middle)),
                None => added(group, last).map(|loss| (loss.max(LEAST_LOSS), last)),
            };
            let per_error = |(loss, level)| loss / self.error_at(group, level).max(f64::MIN_POSITIVE);
            // What could not be measured stays as it is.
            measured.map_or(f64::MAX.sqrt(), per_error)
        };
        Some(self.groups.iter().map(of_group).collect())
    }

    /// Bytes of the whole and predicted loss of every group at each of its levels.
    fn tables(&self, sensitivities: &[f64]) -> Vec<Vec<(u64, f64)>> {
        let space = &self.experiment.space;
        let bytes =
            |group: &Group, level| self.experiment.footprint(&space.place(self.base.clone(), group, level));
        let of_group = |(group, per_error): (&Group, &f64)| {
            let at = |level| (bytes(group, level), per_error * self.error_at(group, level));
            (0..=self.last(group)).map(at).collect()
        };
        self.groups.iter().zip(sensitivities).map(of_group).collect()
    }

    /// Squared error of a group's codes at a level, of weights of variance 1.
    fn error_at(&self, group: &Group, level: usize) -> f64 {
        let space = &self.experiment.space;
        let scheme = match (group.axis, group.members.first()) {
            (Axis::Weights, Some(unit)) => space.scheme(unit, level),
            _ => space.vector_scheme(level),
        };
        squared_error(scheme)
    }

    /// True if a candidate is within the bounds; without any, nothing is too much.
    fn is_good_enough(&self, archive: &Archive, entry: &Entry) -> bool {
        let Some(float) = archive.float(&self.experiment) else { return false };
        self.experiment.constraints.allow_loss(&float.counts, entry.measured())
    }

    /// Bytes of the smallest allocation that is good enough, and of the largest below it that is not.
    fn bracket(&self, archive: &Archive) -> (u64, u64) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for allocation in &self.path {
            let id = self.candidate(&allocation.levels).id();
            match archive.get(&id) {
                Some(entry) if self.is_good_enough(archive, entry) => good.push(allocation.bytes),
                _ if self.tried.contains(&id) => bad.push(allocation.bytes),
                _ => {}
            }
        }
        let good = good.into_iter().min().or_else(|| Some(self.path.first()?.bytes)).unwrap_or_default();
        (good, bad.into_iter().filter(|bytes| *bytes < good).max().unwrap_or_default())
    }

    /// Allocations to try first: around the bound on perplexity as it is predicted, else evenly.
    fn first(&self) -> Vec<usize> {
        let bound = self.experiment.constraints.largest_loss(Quality::Perplexity).map(ln_1p);
        match bound.filter(|_| self.experiment.task.quality() == Quality::Perplexity) {
            Some(bound) => {
                let last_below = |times: &f64| self.path.iter().rposition(|one| one.loss <= times * bound);
                AROUND_THE_BOUND.iter().filter_map(last_below).collect()
            }
            None => self.between(self.path.last().map_or(0, |last| last.bytes), u64::MAX),
        }
    }

    /// Allocations evenly between two numbers of bytes, both of which were tried.
    fn between(&self, low: u64, high: u64) -> Vec<usize> {
        let high = high.min(self.path.first().map_or(0, |first| first.bytes));
        let low = low.max(self.path.last().map_or(0, |last| last.bytes));
        let at = |step: usize| {
            let target = high - (high - low.min(high)) * step as u64 / (AT_A_TIME as u64 + 1);
            self.path.iter().position(|one| one.bytes <= target)
        };
        (1..=AT_A_TIME).filter_map(at).collect()
    }

    /// Proposes those of these allocations that were not tried; `None` if all were.
    fn propose(&mut self, places: Vec<usize>) -> Option<Step> {
        let mut candidates = Vec::new();
        for place in places {
            let candidate = self.candidate(&self.path[place].levels);
            if self.tried.insert(candidate.id()) {
                candidates.push(candidate);
            }
        }
        (!candidates.is_empty()).then(|| Step::Measure(Self::generation(ALLOCATION, candidates)))
    }

    /// The smallest allocation that was good enough, with one more group a level lower.
    fn neighbours(&self, archive: &Archive) -> Option<Step> {
        let (good, _) = self.bracket(archive);
        let best = self.path.iter().find(|one| one.bytes == good)?;
        let mut candidates = Vec::new();
        for (index, table) in self.tables.iter().enumerate() {
            let Some((price, level)) = cheapest(table, best.levels[index]) else { continue };
            let mut levels = best.levels.clone();
            levels[index] = level;
            candidates.push((price, self.candidate(&levels)));
        }
        // Those that are likeliest to be good enough still.
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let new = candidates.into_iter().map(|(_, candidate)| candidate);
        let new: Vec<_> =
            new.filter(|candidate| !self.tried.contains(&candidate.id())).take(NEIGHBOURS).collect();
        (!new.is_empty()).then(|| Step::Measure(Self::generation(NEIGHBOUR, new)))
    }

    /// The next allocations, or what comes after the last.
    fn allocate(&mut self, round: usize, archive: &Archive) -> (State, Step) {
        let places = match round {
            0 => self.first(),
            _ => {
                let (good, bad) = self.bracket(archive);
                self.between(bad, good)
            }
        };
        if round < ROUNDS
            && let Some(step) = self.propose(places)
        {
            return (State::Allocation(round + 1), step);
        }
        match self.neighbours(archive) {
            Some(step) => (State::Neighbours, step),
            None => (State::Finished, Step::Finished),
        }
    }
}

impl Search for AllocateSearch {
    /// Every group at its last level, the rest float.
    fn probes(&self) -> Vec<Probe> {
        let alone = |group: &Group| {
            let candidate = self.alone(group, self.last(group));
            Probe { axis: group.axis, name: group.name.clone(), candidate }
        };
        self.groups.iter().map(alone).collect()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start if self.subset.is_some() => {
                (State::Float, Step::Measure(Self::generation(SENSITIVITY, [self.float()])))
            }
            // Without the float model there is nothing to compare with.
            State::Float | State::Sensitivity if archive.float(&self.experiment).is_none() => {
                (State::Finished, Step::Finished)
            }
            State::Start | State::Float => {
                let middle = self.groups.iter().map(|group| self.alone(group, self.last(group) / 2));
                let last = self.groups.iter().map(|group| self.alone(group, self.last(group)));
                let candidates = std::iter::once(self.float()).chain(middle).chain(last);
                let generation =
                    Generation { subset: self.subset, ..Self::generation(SENSITIVITY, candidates) };
                (State::Sensitivity, Step::Measure(generation))
            }
            State::Sensitivity => match self.sensitivities(archive) {
                None => (State::Finished, Step::Finished),
                Some(sensitivities) => {
                    self.tables = self.tables(&sensitivities);
                    self.path = hull(self.experiment.footprint(&self.base), &self.tables);
                    self.allocate(0, archive)
                }
            },
            State::Allocation(round) => self.allocate(round, archive),
            State::Neighbours | State::Finished => (State::Finished, Step::Finished),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let neighbours = NEIGHBOURS.min(self.groups.len()) as u64;
        let rounds = |left: usize| (left * AT_A_TIME) as u64 + neighbours;
        Some(match &self.state {
            State::Start | State::Sensitivity => rounds(ROUNDS),
            State::Float => 1 + 2 * self.groups.len() as u64 + rounds(ROUNDS),
            State::Allocation(round) => rounds(ROUNDS - round),
            State::Neighbours | State::Finished => 0,
        })
    }
}

/// Allocations on the convex hull: from every group at its first level on, the lowering that adds least loss for a byte
/// comes next. `tables` has bytes of the whole and added loss of each group at each of its levels.
fn hull(bytes: u64, tables: &[Vec<(u64, f64)>]) -> Vec<Allocation> {
    let first = |table: &Vec<(u64, f64)>| table.first().map_or(0.0, |(_, loss)| *loss);
    let mut current =
        Allocation { levels: vec![0; tables.len()], bytes, loss: tables.iter().map(first).sum() };
    let mut path = vec![current.clone()];
    loop {
        let moves = tables.iter().enumerate().filter_map(|(index, table)| {
            cheapest(table, current.levels[index]).map(|(price, level)| (price, index, level))
        });
        let Some((_, index, level)) = moves.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) else {
            return path;
        };
        let (before, after) = (tables[index][current.levels[index]], tables[index][level]);
        current.levels[index] = level;
        current.bytes -= before.0 - after.0;
        current.loss += after.1 - before.1;
        path.push(current.clone());
    }
}

/// The level below one of a group that adds least loss for a byte, and how much. From each to the next is the group's own
/// convex hull.
fn cheapest(table: &[(u64, f64)], from: usize) -> Option<(f64, usize)> {
    let (bytes, loss) = table[from];
    let smaller = (from + 1..table.len()).filter(|level| table[*level].0 < bytes);
    let priced = smaller.map(|level| {
        let (saved, added) = (bytes - table[level].0, (table[level].1 - loss).max(0.0));
        (added / saved as f64, level)
    });
    // Of equals the lowest level: it saves most.
    priced.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
}

/// Squared error of codes with their best step, of normal weights of variance 1, from 2 to 8 bits.
///
/// Source: Max, "Quantizing for minimum distortion", IRE IT-6, 1960, table II; symmetric codes leave one level out.
const FULL: [f64; 7] = [0.1188, 0.03744, 0.01154, 0.003_495, 0.001_041, 3.035e-4, 8.714e-5];
const SYMMETRIC: [f64; 7] = [0.1902, 0.04686, 0.01289, 0.003_69, 0.001_07, 3.08e-4, 8.78e-5];
/// Share of the error in a layer's outputs that GPTQ leaves, about.
const LEFT_BY_GPTQ: f64 = 0.7;
/// The same of coordinate descent.
const LEFT_BY_DESCENT: f64 = 0.61;

/// Squared error of a scheme, of normal weights of variance 1.
fn squared_error(scheme: Scheme) -> f64 {
    match scheme {
        Scheme::Float | Scheme::Sign => 0.0,
        Scheme::Half => 1e-8,
        Scheme::Integer { format, quantizer } => {
            let by_width = |table: [f64; 7]| table[usize::from(format.bits.get()).saturating_sub(2).min(6)];
            let nearest = match (scheme.step(), format.symmetry) {
                // A uniform grid without an end.
                (Some(step), _) => step.times() * step.times() / 12.0,
                (None, Symmetry::Full | Symmetry::Affine) => by_width(FULL),
                (None, Symmetry::Symmetric | Symmetry::Ternary) => by_width(SYMMETRIC),
            };
            match quantizer.rounding {
                Rounding::Gptq => LEFT_BY_GPTQ * nearest,
                Rounding::Descent | Rounding::Frequency => LEFT_BY_DESCENT * nearest,
                _ => nearest,
            }
        }
    }
}

/// `ln(1 + x)` for `x >= 0`, the same bits everywhere: `2 artanh(x / (2 + x))` as a series.
fn ln_1p(x: f64) -> f64 {
    let z = x / (2.0 + x);
    let mut power = z;
    let mut sum = 0.0;
    for odd in (1..200).step_by(2) {
        sum += power / f64::from(odd);
        power *= z * z;
    }
    2.0 * sum
}

#[cfg(test)]
mod tests;
