//! Surrogate: a predictor learns what was measured, and only what it holds for the best is measured next.
//!
//! ```text
//! sensitivity   with `prune`: one group at a time at its last level, the rest at their first; groups that lose more
//!     |         than so many medians are held at their first level
//!     |
//! sample        every uniform candidate, and others drawn at random
//!     |
//! surrogate     a cubic interpolant (crate::rbf) of everything measured, NSGA-II on its predictions from the best
//!   (repeated)  that was measured on, and of what comes out those that fill the gaps of the front
//! ```
//!
//! What differs from the paper: its proxy is no matter here, quantizers are what the space says. It predicts
//! divergence, which tells nothing of a spiking network (a spike that flips decorrelates all that follows and harms
//! nobody); here it is the loss against the float model, and bytes are counted, not bits. Its mutation draws all of an
//! individual anew, here one gene on average. It evens out gaps by a genetic algorithm of its own; here candidates are
//! taken one by one from the largest gap. Constraints come first, as in `evolve`. Of more than [`LEARNED`] candidates the
//! predictor learns the best and the latest.
//!
//! Nothing races: what loses too much teaches as much as what does not.
//!
//! Source: Lee et al., "AMQ: Enabling AutoML for mixed-precision weight-only quantization of large language models", arXiv
//! 2509.12019.

use std::collections::BTreeSet;

use qslm_common::archive::{Archive, Entry};
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::objective::Objective;
use qslm_common::space::{Group, Tier};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::combinations::{SEED, TIER, outside};
use super::proposed::Proposed;
use super::subset::{self, SENSITIVITY_SEQUENCES};
use super::warm::{self, WARM_START};
use crate::fitness::fitness;
use crate::nsga2::{Fitness, Genome, Standing, Variation, evolved, fitnesses, keep_best, standings};
use crate::{Generation, Key, Probe, Problem, Search, StagePlan, Step, Strategy, Subset};

mod gaps;
mod genes;
mod predictor;

use genes::Genes;
use predictor::Predictor;

/// Surrogate search over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surrogate {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Candidates of the first sample.
    pub initial: u32,
    /// Times that the predictor is asked.
    pub iterations: u32,
    /// Candidates that are measured each time.
    pub batch: u32,
    /// Seed: the same seed takes the same path, everywhere.
    pub seed: u64,
    /// Sensitivity, as a multiple of the median, above which a group is held at its first level; none is if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<f64>,
    /// Subset: the number of first windows or sentences on which sensitivity is measured; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_sequences: Option<u32>,
    /// Warm start: genomes of the first generation, levels of the tier's groups; those of a front, where a spec names one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm_start: Vec<Genome>,
}

/// Most candidates of a search, twice those of the paper.
const LARGEST: u64 = 20_000;
/// Largest first sample: sorting takes its square.
const LARGEST_SAMPLE: u32 = 2000;
/// Most candidates that the predictor learns from: to learn takes the third power.
const LEARNED: usize = 500;
/// Population and generations on the predictor.
const POPULATION: usize = 200;
const GENERATIONS: usize = 20;

const SENSITIVITY: &str = "sensitivity";
const SAMPLE: &str = "sample";

impl Strategy for Surrogate {
    const KIND: &'static str = "surrogate";
    const ABOUT: &'static str = "A predictor learns what was measured; what it holds for the best is measured next, where the front has gaps.";
    const KEYS: &'static [Key] = &[
        TIER,
        Key {
            name: "initial",
            takes: "2 to 2000",
            default: "required",
            means: "candidates of the first sample",
        },
        Key {
            name: "iterations",
            takes: "1 to 10000",
            default: "required",
            means: "how often the predictor is asked",
        },
        Key {
            name: "batch",
            takes: "1 to 200",
            default: "required",
            means: "candidates that are measured each time",
        },
        SEED,
        Key {
            name: "prune",
            takes: "1 or more",
            default: "nothing is pruned",
            means: "groups that lose more than so many medians are held at their first level; the paper has 2",
        },
        Key {
            name: "sensitivity_sequences",
            takes: "1 or more",
            default: "all",
            means: "with prune, sensitivity is measured on so many of the first windows or sentences; all else on all data",
        },
        WARM_START,
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [
            outside("strategy.initial", self.initial, 2..=LARGEST_SAMPLE),
            outside("strategy.iterations", self.iterations, 1..=10_000),
            outside("strategy.batch", self.batch, 1..=POPULATION as u32),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() && self.most(experiment) > LARGEST {
            let words = format!("strategy: {} candidates: expected {LARGEST} at most", self.most(experiment));
            problems.push(Problem::new("strategy", words));
        }
        if let Some(prune) = self.prune.filter(|prune| !(1.0..=1e6).contains(prune)) {
            let words = format!("strategy.prune = {prune}: expected 1 to 1000000");
            problems.push(Problem::new("strategy.prune", words));
        }
        problems.extend(subset::problem(SENSITIVITY_SEQUENCES, self.sensitivity_sequences));
        if self.prune.is_none() && self.sensitivity_sequences.is_some_and(|first| first > 0) {
            let words = format!("{SENSITIVITY_SEQUENCES}: expected with strategy.prune only");
            problems.push(Problem::new(SENSITIVITY_SEQUENCES, words));
        }
        problems.extend(warm::problems(&self.warm_start, &experiment.moving(self.tier)));
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        Box::new(SurrogateSearch {
            genes: Genes::new(experiment, self.tier),
            rng: ChaCha8Rng::seed_from_u64(self.seed),
            subset: self.subset_of(experiment),
            experiment: experiment.clone(),
            initial: self.initial as usize,
            left: self.iterations,
            batch: self.batch as usize,
            prune: self.prune,
            warm_start: self.warm_start.clone(),
            proposed: Proposed::default(),
            under_way: Vec::new(),
            measured: Vec::new(),
            best: Vec::new(),
            state: State::Start,
        })
    }

    fn caption(&self) -> String {
        let Self { tier, initial, iterations, batch, seed, .. } = self;
        let tier = tier.name();
        format!(
            "predicted over the {tier} tier, {initial} first, then {iterations} times {batch}, seed {seed}"
        )
    }

    fn outline(&self, experiment: &Experiment, _first: u64) -> Vec<StagePlan> {
        let groups = experiment.moving(self.tier).len();
        let plan = |stage: &str, candidates_at_most| StagePlan {
            stage: stage.to_owned(),
            groups,
            candidates_at_most,
        };
        // The float model, every group at its first level, and each group alone; the float model on all data before that.
        let sensitivity =
            plan(SENSITIVITY, 2 + groups as u64 + u64::from(self.subset_of(experiment).is_some()));
        let pruned = self.prune.map(|_| sensitivity);
        let float = u64::from(self.prune.is_none());
        let sample = plan(SAMPLE, float + u64::from(self.initial).min(experiment.combinations(self.tier)));
        let predicted = u64::from(self.iterations) * u64::from(self.batch);
        let predicted = plan(Self::KIND, predicted.min(experiment.combinations(self.tier)));
        pruned.into_iter().chain([sample, predicted]).collect()
    }

    fn subset(&self, experiment: &Experiment) -> Option<Subset> {
        let sequences = self.subset_of(experiment)?;
        Some(Subset { sequences, candidates: 2 + experiment.moving(self.tier).len() as u64 })
    }

    fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
        Some((SENSITIVITY_SEQUENCES, self.sensitivity_sequences?))
    }

    fn fit(&mut self, sequences: u64) {
        subset::fit(&mut self.sensitivity_sequences, sequences);
    }
}

impl Surrogate {
    /// Candidates of the sample and of all iterations.
    fn most(&self, experiment: &Experiment) -> u64 {
        let all = u64::from(self.initial) + u64::from(self.iterations) * u64::from(self.batch);
        all.min(experiment.combinations(self.tier))
    }

    /// Sequences that sensitivity is measured on, if it is at all and those are not all.
    fn subset_of(&self, experiment: &Experiment) -> Option<u32> {
        subset::of(self.sensitivity_sequences.filter(|_| self.prune.is_some()), experiment)
    }
}

/// The search under way.
struct SurrogateSearch {
    experiment: Experiment,
    genes: Genes,
    rng: ChaCha8Rng,
    /// Sequences that sensitivity is measured on, if not on all.
    subset: Option<u32>,
    /// Candidates of the first sample.
    initial: usize,
    /// Iterations to come.
    left: u32,
    /// Candidates of an iteration.
    batch: usize,
    /// Multiple of the median sensitivity above which a group is held at its first level.
    prune: Option<f64>,
    /// Genomes to begin with.
    warm_start: Vec<Genome>,
    /// Genomes that were proposed on all data.
    proposed: Proposed,
    /// The generation that is being measured.
    under_way: Vec<(Genome, CandidateId)>,
    /// Those that were measured and whose groups are at levels that they may take, in order.
    measured: Vec<(Genome, CandidateId)>,
    /// The best of these.
    best: Vec<(Genome, Fitness)>,
    state: State,
}

/// State of the search, by the generation that is being measured.
enum State {
    Start,
    /// The float model on all data, if sensitivity is measured on a subset.
    Float,
    Sensitivity,
    Iterating,
    Finished,
}

impl Search for SurrogateSearch {
    /// Every group at its last level, the rest at their first.
    fn probes(&self) -> Vec<Probe> {
        let probe = |(at, group): (usize, &Group)| Probe {
            axis: group.axis,
            name: group.name.clone(),
            candidate: self.genes.candidate(&self.experiment, &self.genes.alone(at)),
        };
        let groups = if self.prune.is_some() { self.genes.groups() } else { &[] };
        groups.iter().enumerate().map(probe).collect()
    }

    fn next(&mut self, archive: &Archive) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Finished) {
            State::Start if self.prune.is_none() => self.sample(),
            State::Start if self.subset.is_some() => {
                (State::Float, measure(SENSITIVITY, std::iter::once(self.float())))
            }
            State::Start => (State::Sensitivity, self.sensitivity()),
            State::Finished => (State::Finished, Step::Finished),
            // Without the float model there is nothing to compare with.
            _ if archive.float(&self.experiment).is_none() => (State::Finished, Step::Finished),
            State::Float => (State::Sensitivity, self.sensitivity()),
            State::Sensitivity => {
                self.hold(archive);
                self.take_in(archive);
                self.sample()
            }
            State::Iterating => self.iterate(archive),
        };
        self.state = state;
        step
    }

    fn remaining_at_most(&self) -> Option<u64> {
        let predicted = u64::from(self.left) * self.batch as u64;
        let sampled = self.initial as u64 + predicted;
        Some(match self.state {
            State::Start | State::Sensitivity => sampled,
            State::Float => 2 + self.genes.groups().len() as u64 + sampled,
            State::Iterating => predicted,
            State::Finished => 0,
        })
    }
}

/// A generation on all data.
fn measure(stage: &'static str, candidates: impl Iterator<Item = Candidate>) -> Step {
    Step::Measure(Generation { stage, candidates: candidates.collect(), subset: None, may_race: false })
}

impl SurrogateSearch {
    fn float(&self) -> Candidate {
        Candidate::float(&self.experiment.network)
    }

    /// The float model, every group at its first level, and each group alone at its last.
    fn sensitivity(&mut self) -> Step {
        let alone = (0..self.genes.groups().len()).map(|at| self.genes.alone(at));
        let genomes: Vec<Genome> = std::iter::once(self.genes.uniform(0)).chain(alone).collect();
        let candidates = self.proposing(&genomes);
        match self.subset {
            None => self.proposed.extend(genomes),
            // What is measured on part of the data is no result.
            Some(_) => self.under_way.clear(),
        }
        let candidates = std::iter::once(self.float()).chain(candidates).collect();
        Step::Measure(Generation { stage: SENSITIVITY, candidates, subset: self.subset, may_race: false })
    }

    /// Holds the groups that lose too much at their first level. One that could not be measured counts as the most
    /// sensitive.
    fn hold(&mut self, archive: &Archive) {
        let lost = |genome: &Genome| {
            let candidate = self.genes.candidate(&self.experiment, genome);
            Some(archive.counts(&candidate.id(), self.subset.is_some())?.nll.0 as f64)
        };
        let Some((base, prune)) = lost(&self.genes.uniform(0)).zip(self.prune) else { return };
        let added = |at| lost(&self.genes.alone(at)).map_or(f64::MAX, |alone| alone - base);
        let added: Vec<f64> = (0..self.genes.groups().len()).map(added).collect();
        self.genes.hold(&added, prune);
    }

    /// Every uniform candidate, and others drawn at random.
    fn sample(&mut self) -> (State, Step) {
        let most = self.genes.levels.iter().copied().max().unwrap_or(1);
        let mut warm = std::mem::take(&mut self.warm_start);
        warm.retain(|genome| self.genes.allow(genome));
        let warm = warm::spread(warm, self.initial);
        let uniform = (0..most).map(|level| self.genes.uniform(level));
        let given: Vec<Genome> = warm.into_iter().chain(uniform).collect();
        let genomes = self.proposed.new_ones(given, self.initial, || self.genes.drawn(&mut self.rng));
        // With sensitivities it was measured before.
        let float = self.prune.is_none().then(|| self.float());
        let candidates = self.proposing(&genomes);
        if float.is_none() && candidates.is_empty() {
            return (State::Finished, Step::Finished);
        }
        (State::Iterating, measure(SAMPLE, float.into_iter().chain(candidates)))
    }

    /// Takes in what was measured, and proposes what is predicted to be the best where the front has gaps.
    fn iterate(&mut self, archive: &Archive) -> (State, Step) {
        if self.left == 0 {
            return (State::Finished, Step::Finished);
        }
        self.left -= 1;
        self.take_in(archive);
        let population = self.predicted(archive);
        let standings = standings(&fitnesses(&population));
        let filling = self.filling(&population, &standings);
        let parents: Vec<&Genome> = population.iter().map(|(genome, _)| genome).collect();
        let Self { genes, rng, .. } = self;
        let variation = Variation { levels: &genes.levels, parents: &parents, standings: &standings };
        let draw = || match parents.is_empty() {
            true => genes.drawn(rng),
            false => variation.child(rng),
        };
        let genomes = self.proposed.new_ones(filling, self.batch, draw);
        if genomes.is_empty() {
            // All that there is was measured.
            return (State::Finished, Step::Finished);
        }
        let candidates = self.proposing(&genomes);
        (State::Iterating, measure(Surrogate::KIND, candidates.into_iter()))
    }

    /// Takes in the generation that was measured. What failed teaches nothing.
    fn take_in(&mut self, archive: &Archive) {
        let Some(float) = archive.float(&self.experiment) else { return };
        for (genome, id) in std::mem::take(&mut self.under_way) {
            let entry = archive.get(&id).filter(|_| self.genes.allow(&genome));
            if let Some(entry) = entry {
                self.best.push((genome.clone(), fitness(&self.experiment, float, entry)));
                self.measured.push((genome, id));
            }
        }
        keep_best(&mut self.best, POPULATION);
    }

    /// What NSGA-II finds on the predictor, from those that nothing measured dominates on. Empty if nothing was measured.
    fn predicted(&mut self, archive: &Archive) -> Vec<(Genome, Fitness)> {
        let Some(float) = archive.float(&self.experiment) else { return Vec::new() };
        let best: BTreeSet<&Genome> = self.best.iter().map(|(genome, _)| genome).collect();
        let latest = self.measured.len().saturating_sub(LEARNED - best.len());
        let learned = self.measured.iter().enumerate();
        let learned = learned.filter(|(at, (genome, _))| *at >= latest || best.contains(genome));
        let learned: Vec<(&Genome, &Entry)> =
            learned.filter_map(|(_, (genome, id))| Some((genome, archive.get(id)?))).collect();
        let Some(predictor) = Predictor::learn(&self.experiment, &self.genes, float, &learned) else {
            return Vec::new();
        };
        let start = self.front().map(|(genome, _)| genome.clone()).collect();
        let fitness = |genome: &Genome| predictor.fitness(genome);
        evolved(start, POPULATION, GENERATIONS, &self.genes.levels, fitness, &mut self.rng)
    }

    /// Those that nothing measured dominates.
    fn front(&self) -> impl Iterator<Item = &(Genome, Fitness)> {
        let standings = standings(&fitnesses(&self.best));
        self.best.iter().zip(standings).filter(|(_, standing)| standing.rank == 0).map(|(one, _)| one)
    }

    /// Genomes of a population that were not proposed before and fill the gaps of the front, the best ranks first. Gaps are
    /// those between costs.
    fn filling(&self, population: &[(Genome, Fitness)], standings: &[Standing]) -> Vec<Genome> {
        let is_cost = |objective: &Objective| matches!(objective, Objective::Cost(_));
        let axis = self.experiment.objectives.iter().position(is_cost).unwrap_or(0);
        let value = |(_, fitness): &(Genome, Fitness)| fitness.losses.get(axis).copied().unwrap_or_default();
        let mut there: Vec<f64> = self.front().map(value).collect();
        let mut chosen = Vec::new();
        for rank in 0..=standings.iter().map(|standing| standing.rank).max().unwrap_or(0) {
            let of_rank = population.iter().zip(standings).filter(|(_, standing)| standing.rank == rank);
            let new = of_rank.map(|(one, _)| one).filter(|(genome, _)| !self.proposed.contains(genome));
            let new: Vec<&(Genome, Fitness)> = new.collect();
            let values: Vec<f64> = new.iter().map(|one| value(one)).collect();
            for place in gaps::filling(&there, &values, self.batch - chosen.len()) {
                there.push(values[place]);
                chosen.push(new[place].0.clone());
            }
        }
        chosen
    }

    /// Candidates of genomes that are measured next.
    fn proposing(&mut self, genomes: &[Genome]) -> Vec<Candidate> {
        let candidate = |genome| self.genes.candidate(&self.experiment, genome);
        let candidates: Vec<Candidate> = genomes.iter().map(candidate).collect();
        self.under_way.extend(genomes.iter().cloned().zip(candidates.iter().map(Candidate::id)));
        candidates
    }
}

#[cfg(test)]
mod tests;
