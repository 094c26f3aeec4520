//! Evolution: NSGA-II over the objectives of the experiment, a generation at a time.
//!
//! The first generation has every uniform candidate of the tier and others drawn at random; each later one is bred from the
//! best of all that was measured. What loses more than the constraints allow comes after all that does not, so a budget
//! draws the search to where its bounds meet. See [`crate::nsga2`].

use qslm_common::archive::Archive;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::experiment::Experiment;
use qslm_common::space::{Group, Tier};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::combinations::{self, SEED, TIER, outside};
use super::proposed::Proposed;
use super::warm::{self, WARM_START};
use crate::fitness::fitness;
use crate::nsga2::{Fitness, Genome, Variation, fitnesses, keep_best, standings};
use crate::{Generation, Key, Problem, Search, StagePlan, Step, Strategy};

/// Evolution over the groups of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evolve {
    /// Tier: the units of one of its groups move together.
    pub tier: Tier,
    /// Candidates of a generation.
    pub population: u32,
    /// Generations.
    pub generations: u32,
    /// Seed: the same seed takes the same path, everywhere.
    pub seed: u64,
    /// Warm start: genomes of the first generation, levels of the tier's groups; those of a front, where a spec names one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm_start: Vec<Genome>,
}

/// Largest population: sorting takes its square.
const LARGEST_POPULATION: u32 = 1000;

impl Strategy for Evolve {
    const KIND: &'static str = "evolve";
    const ABOUT: &'static str = "NSGA-II: each generation is bred from the best of all that was measured, within the constraints if it can be.";
    const KEYS: &'static [Key] = &[
        TIER,
        Key {
            name: "population",
            takes: "2 to 1000",
            default: "required",
            means: "candidates of a generation",
        },
        Key { name: "generations", takes: "1 to 10000", default: "required", means: "how many of them" },
        SEED,
        WARM_START,
    ];

    fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
        let population = outside("strategy.population", self.population, 2..=LARGEST_POPULATION);
        let generations = outside("strategy.generations", self.generations, 1..=10_000);
        let mut problems: Vec<Problem> = population.into_iter().chain(generations).collect();
        if problems.is_empty() {
            let all = u64::from(self.population) * u64::from(self.generations);
            problems.extend(combinations::problems(all.min(experiment.combinations(self.tier))));
            problems.extend(warm::problems(&self.warm_start, &experiment.moving(self.tier)));
        }
        problems
    }

    fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
        let groups = experiment.moving(self.tier);
        let levels = groups.iter().map(|group| group.levels).collect();
        let base = experiment.space.uniform(&experiment.network, 0);
        Box::new(EvolveSearch {
            experiment: experiment.clone(),
            rng: ChaCha8Rng::seed_from_u64(self.seed),
            population: self.population as usize,
            left: self.generations,
            groups,
            levels,
            base,
            warm_start: self.warm_start.clone(),
            proposed: Proposed::default(),
            under_way: Vec::new(),
            parents: Vec::new(),
        })
    }

    fn caption(&self) -> String {
        let Self { population, generations, seed, tier, .. } = self;
        format!("bred over the {} tier, {generations} generations of {population}, seed {seed}", tier.name())
    }

    fn outline(&self, experiment: &Experiment, _first: u64) -> Vec<StagePlan> {
        let all = u64::from(self.population) * u64::from(self.generations);
        let candidates_at_most = 1 + all.min(experiment.combinations(self.tier));
        let groups = experiment.moving(self.tier).len();
        vec![StagePlan { stage: Self::KIND.to_owned(), groups, candidates_at_most }]
    }
}

/// The search under way.
struct EvolveSearch {
    experiment: Experiment,
    rng: ChaCha8Rng,
    population: usize,
    /// Generations to come.
    left: u32,
    groups: Vec<Group>,
    /// Levels of every group.
    levels: Vec<usize>,
    /// Every group at its first level.
    base: Candidate,
    /// Genomes to begin with.
    warm_start: Vec<Genome>,
    /// Genomes that were proposed.
    proposed: Proposed,
    /// The generation that is being measured.
    under_way: Vec<(Genome, CandidateId)>,
    /// The best that were measured.
    parents: Vec<(Genome, Fitness)>,
}

impl Search for EvolveSearch {
    fn next(&mut self, archive: &Archive) -> Step {
        self.select(archive);
        if self.left == 0 {
            return Step::Finished;
        }
        self.left -= 1;
        let is_first = self.proposed.is_empty();
        let genomes = if is_first { self.first() } else { self.breed() };
        if genomes.is_empty() {
            // All that there is was measured.
            self.left = 0;
            return Step::Finished;
        }
        let bred: Vec<Candidate> = genomes.iter().map(|genome| self.candidate(genome)).collect();
        self.under_way = genomes.into_iter().zip(bred.iter().map(Candidate::id)).collect();
        let float = is_first.then(|| Candidate::float(&self.experiment.network));
        let candidates = float.into_iter().chain(bred).collect();
        Step::Measure(Generation { stage: Evolve::KIND, candidates, subset: None, may_race: !is_first })
    }

    fn remaining_at_most(&self) -> Option<u64> {
        Some(u64::from(self.left) * self.population as u64)
    }
}

impl EvolveSearch {
    fn candidate(&self, genome: &Genome) -> Candidate {
        combinations::placed(&self.experiment, &self.base, &self.groups, genome)
    }

    /// Takes the best of the parents and of the generation that was measured as parents. What failed or was pruned has no
    /// children.
    fn select(&mut self, archive: &Archive) {
        for (genome, id) in std::mem::take(&mut self.under_way) {
            if let (Some(float), Some(entry)) = (archive.float(&self.experiment), archive.get(&id)) {
                self.parents.push((genome, fitness(&self.experiment, float, entry)));
            }
        }
        keep_best(&mut self.parents, self.population);
    }

    /// Genomes of the warm start, uniform ones, and others drawn at random.
    fn first(&mut self) -> Vec<Genome> {
        let most = self.levels.iter().copied().max().unwrap_or(1);
        let uniform = |level: usize| self.levels.iter().map(|levels| level.min(levels - 1)).collect();
        let warm = warm::spread(std::mem::take(&mut self.warm_start), self.population);
        let given = warm.into_iter().chain((0..most).map(uniform));
        let given: Vec<Genome> = given.take(self.population).collect();
        let Self { levels, rng, .. } = self;
        let draw = || levels.iter().map(|levels| rng.random_range(0..*levels)).collect();
        self.proposed.new_ones(given, self.population, draw)
    }

    /// Children of the parents; drawn at random where there are none.
    fn breed(&mut self) -> Vec<Genome> {
        let Self { parents, levels, rng, .. } = self;
        let standings = standings(&fitnesses(parents));
        let genomes: Vec<&Genome> = parents.iter().map(|(genome, _)| genome).collect();
        let variation = Variation { levels, parents: &genomes, standings: &standings };
        let draw = || match genomes.is_empty() {
            true => levels.iter().map(|levels| rng.random_range(0..*levels)).collect(),
            false => variation.child(rng),
        };
        self.proposed.new_ones(Vec::new(), self.population, draw)
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::front_document::FrontDocument;
    use qslm_testing::{experiment, run};

    use super::*;
    use crate::{Grid, Random, problems};

    const EVOLVE: Evolve =
        Evolve { tier: Tier::Matrix, population: 20, generations: 6, seed: 7, warm_start: Vec::new() };

    #[test]
    fn it_beats_as_many_drawn_at_random() {
        let evolved = experiment(EVOLVE);
        assert_eq!(problems(&evolved), []);
        let (archive, stages) = run(&evolved, |_| false);
        assert_eq!(stages.len(), 6);
        assert_eq!(stages[0], ("evolve", 21), "the float model comes first");
        assert_eq!(archive.len(), 121);
        let random = experiment(Random { tier: Tier::Matrix, trials: 120, seed: 7 });
        let drawn = run(&random, |_| false).0;
        let (evolved, drawn) = (archive.hypervolume(&evolved).unwrap(), drawn.hypervolume(&random).unwrap());
        assert!(evolved > drawn, "{evolved} {drawn}");
        assert!(archive.chosen().is_some());
    }

    #[test]
    fn the_same_seed_takes_the_same_path_also_where_candidates_fail() {
        let experiment = experiment(EVOLVE);
        let fails = |candidate: &Candidate| candidate.id().as_bytes()[0] < 40;
        let front = || FrontDocument::new(&experiment, &run(&experiment, fails).0).to_json();
        assert_eq!(front(), front());
        let other = Experiment { strategy: Evolve { seed: 8, ..EVOLVE }.into(), ..experiment.clone() };
        assert_ne!(run(&other, fails).0, run(&experiment, fails).0);
    }

    #[test]
    fn a_small_space_is_measured_whole_and_then_it_ends() {
        let small = experiment(Evolve { tier: Tier::Global, generations: 50, ..EVOLVE });
        let grid = experiment(Grid { tier: Tier::Global });
        let (archive, _) = run(&small, |_| false);
        assert_eq!(archive.len(), run(&grid, |_| false).0.len());
    }

    #[test]
    fn a_budget_in_bytes_is_met_where_it_can_be() {
        let mut bounded = experiment(EVOLVE);
        let small = bounded.space.uniform(&bounded.network, 3);
        bounded.constraints = Default::default();
        bounded.constraints.max_footprint_bytes = Some(bounded.footprint(&small));
        let (archive, _) = run(&bounded, |_| false);
        let within =
            archive.iter().filter(|(_, entry)| entry.footprint_bytes <= bounded.footprint(&small)).count();
        assert!(within > 40, "{within} of {}", archive.len());
        let chosen = archive.chosen().unwrap().entry;
        let uniform = archive.get(&small.id()).unwrap();
        assert!(chosen.counts.nll < uniform.counts.nll, "mixed widths lose less in as many bytes");
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_bound() {
        let wrong = experiment(Evolve { population: 1, generations: 0, ..EVOLVE });
        let words: Vec<_> = problems(&wrong).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            ["strategy.population = 1: expected 2 to 1000", "strategy.generations = 0: expected 1 to 10000"]
        );
    }
}
