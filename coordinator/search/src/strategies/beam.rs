//! Beam: the tiered search with several candidates kept where [`super::Tiered`] keeps one.
//!
//! ```text
//! sensitivity   one unit (activation, population) at a time, the rest float, as the tiered search measures it
//!     |
//! global        the same width everywhere
//!     |
//! block,        per group, least sensitive first: from each candidate of the beam every narrower level, and the
//! module,       candidate as it is; of all these the best `width` are the next beam
//! matrix
//! ```
//!
//! What is good enough and what is better is what the tiered search says; costs within their bounds come first. With a
//! width of 1 it is that search; with a width that keeps everything it measures every combination below the widest.
//!
//! The gate: with `gate_loss` a candidate goes on to all data only if it loses no more than that on the first
//! `gate_sequences`, against the float model on the same. The paper's gate is the drift of membrane potentials, which
//! tells nothing of a spiking language model (a spike that flips decorrelates what follows and harms nobody); its
//! second, the accuracy of a few samples, is this one. `racing` is the same without a number of one's own: candidates
//! race, so shards that prove a loss beyond the bound end a trial.
//!
//! Source: AQ4SViT, arXiv 2606.15523: network, stage and block there are the tiers here.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::objective::quality_loss;
use qslm_common::space::{Axis, Group, Tier};
use serde::{Deserialize, Serialize};

use super::Tiered;
use super::combinations::{TIER, outside};
use super::subset;
use super::tiered::{
    SENSITIVITY, Sensitivity, TIERS, all_levels, blind_trade_off, sensitivity, sort_by_sensitivity, stage,
};
use crate::fitness::excess_of_costs;
use crate::{Generation, Key, Probe, Problem, Search, StagePlan, Step, Strategy, Subset};

/// Beam search over the tiers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beam {
    /// Tier: the finest that is searched.
    pub tier: Tier,
    /// Candidates that are kept after each group.
    pub width: u32,
    /// Subset: the number of first windows or sentences on which sensitivity is measured and the gate stands; all data
    /// and no gate if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_sequences: Option<u32>,
    /// Largest loss of quality on these with which a candidate is measured on all data; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_loss: Option<f64>,
}

/// Key of the subset.
const SEQUENCES: &str = "strategy.gate_sequences";
/// Largest width: every candidate of a beam is one in memory.
const WIDEST: u32 = 1000;

impl Strategy for Beam {
    const KIND: &'static str = "beam";
    const ABOUT: &'static str =
        "The tiered search with the best few candidates kept after each group, not the best alone.";
    const KEYS: &'static [Key] = &[
        Key { means: "the finest tier that is searched", ..TIER },
        Key {
            name: "width",
            takes: "1 to 1000",
            default: "required",
            means: "candidates that are kept after each group",
        },
        Key {
            name: "gate_sequences",
            takes: "1 or more",
            default: "all",
            means: "sensitivity and the gate are measured on so many of the first windows or sentences; all else on all data",
        },
        Key {
            name: "gate_loss",
            takes: "0 or more",
            default: "no gate",
            means: "a candidate that loses more quality on gate_sequences, as a fraction, is not measured on all data",
        },
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            outside("strategy.width", self.width, 1..=WIDEST).into_iter().collect();
        problems.extend(subset::problem(SEQUENCES, self.gate_sequences));
        let wrong = match self.gate_loss {
            Some(loss) if !(0.0..=1e6).contains(&loss) => Some(format!(" = {loss}: expected 0 to 1000000")),
            Some(_) if self.gate_sequences.is_none() => Some(format!(": expected with {SEQUENCES} only")),
            _ => None,
        };
        let key = "strategy.gate_loss";
        problems.extend(wrong.map(|words| Problem::new(key, format!("{key}{words}"))));
        problems.extend(blind_trade_off(experiment));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        Box::new(BeamSearch::new(self, experiment))
    }

    fn caption(&self) -> String {
        let gate = if self.gate_loss.is_some() { ", behind a gate" } else { "" };
        format!("a beam of {} down to the {} tier{gate}", self.width, self.tier.name())
    }

    fn outline(&self, experiment: &Experiment, first: u64) -> Vec<StagePlan> {
        let sites = experiment.moving(Tier::Matrix).len();
        let probes = self.subset_of(experiment).map_or(0, |_| 1 + sites as u64);
        let sensitivity =
            StagePlan { stage: SENSITIVITY.to_owned(), groups: sites, candidates_at_most: first + probes };
        let stages = tiers(experiment, self.tier).into_iter().map(|(axis, tier)| {
            let (groups, once) = self.at_most(experiment, axis, tier);
            let stage = stage(axis, tier).to_owned();
            StagePlan { stage, groups, candidates_at_most: once * self.times(experiment) }
        });
        std::iter::once(sensitivity).chain(stages.filter(|plan| plan.groups > 0)).collect()
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        // The float model, every site alone, and what stands before the gate.
        let probes = 1 + experiment.moving(Tier::Matrix).len() as u64;
        let tiers = tiers(experiment, self.tier).into_iter();
        let gated: u64 = tiers.map(|(axis, tier)| self.at_most(experiment, axis, tier).1).sum();
        let gated = if self.gate_loss.is_some() { gated } else { 0 };
        Some(Subset { sequences, candidates: probes + gated })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SEQUENCES, self.gate_sequences?))
    }

    /// A gate on all of the data is none.
    fn fit(&mut self, sequences: u64) {
        subset::fit(&mut self.gate_sequences, sequences);
        self.gate_loss = self.gate_loss.filter(|_| self.gate_sequences.is_some());
    }
}

impl Beam {
    /// Sequences that sensitivity and gate are measured on, if those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        subset::of(self.gate_sequences, experiment)
    }

    /// Times that a candidate may be measured.
    fn times(&self, experiment: &Experiment) -> u64 {
        1 + u64::from(self.gate_loss.is_some() && self.subset_of(experiment).is_some())
    }

    /// Groups of a tier, and the most candidates that it tries.
    fn at_most(&self, experiment: &Experiment, axis: Axis, tier: Tier) -> (usize, u64) {
        let groups = groups(experiment, axis, tier);
        (groups.len(), at_most(axis, tier, &groups, self.width as usize))
    }
}

/// The most candidates that so many groups try: every level from each candidate of the beam.
fn at_most<'a>(axis: Axis, tier: Tier, groups: impl IntoIterator<Item = &'a Group>, width: usize) -> u64 {
    // The beam begins with the float model alone.
    let from = if (axis, tier) == (Axis::Weights, Tier::Global) { 1 } else { width as u64 };
    all_levels(groups) * from
}

/// Axes and tiers in the order they are searched.
fn tiers(experiment: &Experiment, finest: Tier) -> Vec<(Axis, Tier)> {
    let of_axis = |axis| TIERS.into_iter().filter(|tier| *tier <= finest).map(move |tier| (axis, tier));
    experiment.space.axes().into_iter().flat_map(of_axis).collect()
}

/// Groups of a tier: those of the tier before that are no finer here were tried there. Weights begin with one group.
fn groups(experiment: &Experiment, axis: Axis, tier: Tier) -> Vec<Group> {
    let of = |tier| experiment.space.groups(&experiment.network, axis, tier);
    let before = TIERS.into_iter().rfind(|before| *before < tier);
    let tried = match (axis, before) {
        // The uniform candidates may be worse than the float model where the blocks of a few are not.
        (_, None) | (Axis::Weights, Some(Tier::Global)) => Vec::new(),
        (_, Some(before)) => of(before),
    };
    let mut groups = of(tier);
    groups.retain(|group| !tried.iter().any(|other| other.members == group.members));
    groups
}

/// Candidate of the beam, with the level of every site; absent for float.
#[derive(Debug, Clone)]
struct Kept {
    candidate: Candidate,
    id: CandidateId,
}

/// The search under way.
struct BeamSearch {
    experiment: Experiment,
    /// Candidates that are kept.
    width: usize,
    /// Sequences that sensitivity and gate are measured on, if not on all.
    subset: Option<u32>,
    /// Largest loss on these, if there is a gate.
    gate: Option<f64>,
    /// Added loss of each site alone.
    sensitivity: Sensitivity,
    /// Axis and tier that are searched.
    at: (Axis, Tier),
    /// Axes and tiers to come.
    ahead: VecDeque<(Axis, Tier)>,
    /// Groups of the tier that are still to be tried, least sensitive first.
    queue: VecDeque<Group>,
    /// The best candidates so far, which the next ones start from.
    beam: Vec<Kept>,
    /// Candidates that are being tried.
    trying: Vec<Kept>,
    /// Every candidate that was proposed.
    tried: BTreeSet<CandidateId>,
    state: State,
}

/// State of the search, by the generation that is being measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
    Float,
    Sensitivity,
    /// Candidates on the subset.
    Gate,
    /// Candidates on all data.
    Trying,
    Finished,
}

/// Rank of a candidate, smaller is better: excess over the bounds on costs, then what the tiered search compares.
#[derive(Debug, Clone, Copy)]
struct Rank([f64; 3]);

impl Rank {
    fn compare(&self, other: &Self) -> Ordering {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(Ordering::Equal, |order, (a, b)| order.then(a.total_cmp(b)))
    }
}

impl BeamSearch {
    fn new(strategy: &Beam, experiment: &Experiment) -> Self {
        let subset = strategy.subset_of(experiment);
        Self {
            experiment: experiment.clone(),
            width: strategy.width as usize,
            subset,
            gate: strategy.gate_loss.filter(|_| subset.is_some()),
            sensitivity: Sensitivity::new(),
            at: (Axis::Weights, Tier::Global),
            ahead: tiers(experiment, strategy.tier).into(),
            queue: VecDeque::new(),
            beam: Vec::new(),
            trying: Vec::new(),
            tried: BTreeSet::new(),
            state: State::Start,
        }
    }

    /// A generation of the stage that is under way.
    fn generation(&self, candidates: impl Iterator<Item = Candidate>, subset: Option<u32>) -> Step {
        let stage = if self.state == State::Trying { stage(self.at.0, self.at.1) } else { SENSITIVITY };
        let may_race = self.state == State::Trying && subset.is_none();
        Step::Measure(Generation { stage, candidates: candidates.collect(), subset, may_race })
    }

    /// The float model, and every site alone.
    fn probing(&mut self) -> Step {
        let alone = self.probes().into_iter().map(|probe| probe.candidate);
        let float = std::iter::once(Candidate::float(&self.experiment.network));
        let step = self.generation(float.chain(alone), self.subset);
        self.state = State::Sensitivity;
        step
    }

    /// The uniform candidates, beside the float model.
    fn begin(&mut self, archive: &Archive) -> Step {
        let Experiment { network, space, .. } = &self.experiment;
        self.sensitivity = sensitivity(&self.experiment, &self.probes(), self.subset.is_some(), archive);
        self.ahead.pop_front();
        self.beam = vec![Kept::new(Candidate::float(network))];
        let uniform = |level| Kept::new(space.uniform(network, level));
        let tried = (0..space.levels(Axis::Weights)).map(uniform).collect();
        match self.propose(tried) {
            Some(step) => step,
            None => self.go_on(archive),
        }
    }

    /// Proposes what is to be tried, before the gate if there is one; `None` if all of it was tried before.
    fn propose(&mut self, children: Vec<Kept>) -> Option<Step> {
        let new: Vec<Candidate> = children
            .iter()
            .filter(|child| self.tried.insert(child.id))
            .map(|child| child.candidate.clone())
            .collect();
        self.trying = children;
        if new.is_empty() {
            return None;
        }
        self.state = State::Trying;
        let step = self.generation(new.into_iter(), self.subset.filter(|_| self.gate.is_some()));
        self.state = if self.gate.is_some() { State::Gate } else { State::Trying };
        Some(step)
    }

    /// Proposes on all data what went through the gate; `None` if nothing did.
    fn pass(&mut self, archive: &Archive) -> Option<Step> {
        self.state = State::Trying;
        let float = archive.counts(&Candidate::float(&self.experiment.network).id(), true);
        let passes = |child: &Kept| {
            let counts = archive.counts(&child.id, true);
            let lost = float.zip(counts).map(|(float, counts)| quality_loss(float, counts));
            lost.zip(self.gate).is_some_and(|(lost, gate)| lost <= gate)
        };
        self.trying.retain(passes);
        let through: Vec<Candidate> = self.trying.iter().map(|child| child.candidate.clone()).collect();
        (!through.is_empty()).then(|| self.generation(through.into_iter(), None))
    }

    /// Settles what was tried, and tries the next group that can go further.
    fn go_on(&mut self, archive: &Archive) -> Step {
        loop {
            self.settle(archive);
            let Some(group) = self.next_group() else {
                self.state = State::Finished;
                return Step::Finished;
            };
            let children = self.beam.iter().flat_map(|kept| self.narrower(kept, &group)).collect();
            if let Some(step) = self.propose(children) {
                return step;
            }
        }
    }

    /// The next group of the tier, or of the tiers to come.
    fn next_group(&mut self) -> Option<Group> {
        while self.queue.is_empty() {
            self.at = self.ahead.pop_front()?;
            let mut groups = groups(&self.experiment, self.at.0, self.at.1);
            sort_by_sensitivity(&mut groups, &self.sensitivity);
            self.queue = groups.into();
        }
        self.queue.pop_front()
    }

    /// Keeps the best of the beam and of what was tried.
    fn settle(&mut self, archive: &Archive) {
        let Some(float) = archive.float(&self.experiment) else { return };
        let constraints = &self.experiment.constraints;
        let good = std::mem::take(&mut self.trying).into_iter().filter(|child| {
            let entry = archive.get(&child.id);
            let is_good = |entry: &Entry| constraints.allow_loss(&float.counts, entry.measured());
            entry.is_some_and(|entry| !constraints.bounds_quality() || is_good(entry))
        });
        let mut seen = BTreeSet::new();
        let all = std::mem::take(&mut self.beam).into_iter().chain(good);
        let ranked = all.filter_map(|kept| Some((self.rank(float, archive.get(&kept.id)?), kept)));
        let mut ranked: Vec<(Rank, Kept)> = ranked.filter(|(_, kept)| seen.insert(kept.id)).collect();
        // Of equals the first stays first: the candidate as it was, then the wider.
        ranked.sort_by(|(a, _), (b, _)| a.compare(b));
        // What is no better than the float model is a start for nothing, and it for nothing that anything is better than.
        let float_id = Candidate::float(&self.experiment.network).id();
        let float_at = ranked.iter().position(|(_, kept)| kept.id == float_id);
        let better = float_at.map_or(ranked.len(), |place| place.max(1));
        ranked.truncate(better.min(self.width));
        self.beam = ranked.into_iter().map(|(_, kept)| kept).collect();
    }

    fn rank(&self, float: &Entry, entry: &Entry) -> Rank {
        let (trade_off, measured) = (self.experiment.trade_off, entry.measured());
        let excess = excess_of_costs(&self.experiment, measured);
        if self.experiment.constraints.bounds_quality() {
            let cost = measured.cost(trade_off.cost()).unwrap_or(f64::INFINITY);
            return Rank([excess, cost, entry.counts.quality().summed_loss(&entry.counts)]);
        }
        Rank([excess, -trade_off.value(float.measured(), measured), 0.0])
    }

    /// A candidate with the group at every narrower level.
    fn narrower(&self, from: &Kept, group: &Group) -> Vec<Kept> {
        // The members of a group share a level, because what they were moved in was moved as one.
        let space = &self.experiment.space;
        let first = space.level_of(&from.candidate, group).map_or(0, |level| level + 1);
        let at = |level| Kept::new(space.place(from.candidate.clone(), group, level));
        (first..group.levels).map(at).collect()
    }
}

impl Kept {
    fn new(candidate: Candidate) -> Self {
        Self { id: candidate.id(), candidate }
    }
}

impl Search for BeamSearch {
    fn probes(&self) -> Vec<Probe> {
        Tiered::default().start(&self.experiment).probes()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        match self.state {
            State::Start if self.subset.is_some() => {
                let float = Candidate::float(&self.experiment.network);
                let step = self.generation(std::iter::once(float), None);
                self.state = State::Float;
                step
            }
            State::Start => self.probing(),
            State::Finished => Step::Finished,
            // Without the float model there is nothing to compare with.
            _ if archive.float(&self.experiment).is_none() => {
                self.state = State::Finished;
                Step::Finished
            }
            State::Float => self.probing(),
            State::Sensitivity => self.begin(archive),
            State::Gate => match self.pass(archive) {
                Some(step) => step,
                None => self.go_on(archive),
            },
            State::Trying => self.go_on(archive),
        }
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let of_tier =
            |at: &(Axis, Tier)| at_most(at.0, at.1, &groups(&self.experiment, at.0, at.1), self.width);
        let now = at_most(self.at.0, self.at.1, &self.queue, self.width);
        let tried = now + self.ahead.iter().map(of_tier).sum::<u64>();
        let times = 1 + u64::from(self.gate.is_some());
        let now = match self.state {
            State::Float => 1 + self.probes().len() as u64,
            State::Gate => self.trying.len() as u64,
            State::Finished => return Some(0),
            State::Start | State::Sensitivity | State::Trying => 0,
        };
        Some(now + tried * times)
    }
}

#[cfg(test)]
mod tests;
