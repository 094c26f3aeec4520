//! NSGA-II: fast non-dominated sorting with crowding distances, and variation of genomes whose genes are levels.
//!
//! Source: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Trans.
//! Evolutionary Computation 6, 2002, with its constrained domination. Only `+ - * /` and comparisons of floats, and
//! integers drawn from a seed: the same path everywhere.

use std::collections::BTreeSet;

use rand::{Rng, RngExt};

/// Individual: a level for every gene.
pub(crate) type Genome = Vec<usize>;

/// What is known of an individual.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fitness {
    /// How far outside the constraints it is; 0 if it meets them all.
    pub violation: f64,
    /// Objectives, smaller is better, as many for each individual.
    pub losses: Vec<f64>,
}

/// Rank and crowding distance of an individual: of two, the one with the lower rank is better, and among equals the less
/// crowded one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    pub rank: usize,
    pub crowding: f64,
}

impl Fitness {
    /// True if it is better than another: closer to the constraints, or within them no worse in every objective and better
    /// in one.
    fn dominates(&self, other: &Self) -> bool {
        if self.violation > 0.0 || other.violation > 0.0 {
            return self.violation < other.violation;
        }
        let pairs = || self.losses.iter().zip(&other.losses);
        pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
    }
}

impl Standing {
    /// True if it is better than another.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.rank < other.rank || (self.rank == other.rank && self.crowding > other.crowding)
    }
}

/// Standing of every individual of a population.
pub(crate) fn standings(population: &[&Fitness]) -> Vec<Standing> {
    let mut standings = vec![Standing { rank: 0, crowding: 0.0 }; population.len()];
    for (rank, front) in fronts(population).into_iter().enumerate() {
        for (place, crowding) in front.iter().zip(crowding(population, &front)) {
            standings[*place] = Standing { rank, crowding };
        }
    }
    standings
}

/// Places of the individuals that go on, at most `count`: the best by their standing, in the order of their places.
pub(crate) fn survivors(population: &[&Fitness], count: usize) -> Vec<usize> {
    let standings = standings(population);
    let mut places: Vec<usize> = (0..population.len()).collect();
    places.sort_by(|a, b| {
        let (a, b) = (standings[*a], standings[*b]);
        a.rank.cmp(&b.rank).then(b.crowding.total_cmp(&a.crowding))
    });
    places.truncate(count);
    places.sort_unstable();
    places
}

/// Leaves the best of a population, at most `count`, in their order.
pub(crate) fn keep_best(population: &mut Vec<(Genome, Fitness)>, count: usize) {
    let stay: BTreeSet<usize> = survivors(&fitnesses(population), count).into_iter().collect();
    let mut place = 0..;
    population.retain(|_| place.next().is_some_and(|place| stay.contains(&place)));
}

/// Fronts by rank: those that nobody dominates, those that only these do, and so on.
fn fronts(population: &[&Fitness]) -> Vec<Vec<usize>> {
    let mut dominated_by = vec![0usize; population.len()];
    let mut dominates: Vec<Vec<usize>> = vec![Vec::new(); population.len()];
    for a in 0..population.len() {
        for b in 0..population.len() {
            if population[a].dominates(population[b]) {
                dominates[a].push(b);
                dominated_by[b] += 1;
            }
        }
    }
    let mut fronts: Vec<Vec<usize>> = Vec::new();
    let mut front: Vec<usize> = (0..population.len()).filter(|place| dominated_by[*place] == 0).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for place in &front {
            for other in &dominates[*place] {
                dominated_by[*other] -= 1;
                if dominated_by[*other] == 0 {
                    next.push(*other);
                }
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// Crowding distances within a front: the sides of the box that the neighbours span, infinite at its ends.
fn crowding(population: &[&Fitness], front: &[usize]) -> Vec<f64> {
    let mut distances = vec![0.0; front.len()];
    let objectives = front.first().map_or(0, |place| population[*place].losses.len());
    for objective in 0..objectives {
        let loss = |at: usize| population[front[at]].losses[objective];
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|a, b| loss(*a).total_cmp(&loss(*b)));
        let (Some(first), Some(last)) = (order.first(), order.last()) else { continue };
        let span = loss(*last) - loss(*first);
        (distances[*first], distances[*last]) = (f64::INFINITY, f64::INFINITY);
        if span > 0.0 {
            for window in order.windows(3) {
                distances[window[1]] += (loss(window[2]) - loss(window[0])) / span;
            }
        }
    }
    distances
}

/// Draws for a child that is not in the population, until the generation goes without it.
const DRAWS: usize = 20;

/// The population, without duplicates, that so many generations of `size` children leave of one that is not empty.
pub(crate) fn evolved(
    start: Vec<Genome>,
    size: usize,
    generations: usize,
    levels: &[usize],
    fitness: impl Fn(&Genome) -> Fitness,
    rng: &mut impl Rng,
) -> Vec<(Genome, Fitness)> {
    let mut known: BTreeSet<Genome> = BTreeSet::new();
    let start = start.into_iter().filter(|genome| known.insert(genome.clone()));
    let mut population: Vec<(Genome, Fitness)> =
        start.map(|genome| (genome.clone(), fitness(&genome))).collect();
    for _ in 0..generations {
        let standings = standings(&fitnesses(&population));
        let parents: Vec<&Genome> = population.iter().map(|(genome, _)| genome).collect();
        let variation = Variation { levels, parents: &parents, standings: &standings };
        let mut new = |_| (0..DRAWS).map(|_| variation.child(rng)).find(|child| known.insert(child.clone()));
        let children: Vec<Genome> = (0..size).filter_map(&mut new).collect();
        population.extend(children.into_iter().map(|genome| (genome.clone(), fitness(&genome))));
        let stay: BTreeSet<usize> = survivors(&fitnesses(&population), size).into_iter().collect();
        let mut place = 0..;
        population.retain(|_| place.next().is_some_and(|place| stay.contains(&place)));
        known = population.iter().map(|(genome, _)| genome.clone()).collect();
    }
    population
}

/// Fitness of every individual.
pub(crate) fn fitnesses(population: &[(Genome, Fitness)]) -> Vec<&Fitness> {
    population.iter().map(|(_, fitness)| fitness).collect()
}

/// Parents and their children: binary tournaments, uniform crossover, mutation of single genes.
pub(crate) struct Variation<'a> {
    /// Levels of every gene.
    pub levels: &'a [usize],
    pub parents: &'a [&'a Genome],
    pub standings: &'a [Standing],
}

/// Chances in a thousand that two parents are crossed at all, and that a gene is the other's then.
const CROSSOVER: u32 = 900;
const SWAP: u32 = 500;
/// Chances in a thousand that a mutated gene goes a level up or down; else it is drawn anew.
const NEIGHBOUR: u32 = 700;

impl Variation<'_> {
    /// One child. There is at least one parent.
    pub(crate) fn child(&self, rng: &mut impl Rng) -> Genome {
        let mut child = self.parents[self.tournament(rng)].clone();
        let other = self.parents[self.tournament(rng)];
        if rng.random_range(0..1000) < CROSSOVER {
            for (gene, others) in child.iter_mut().zip(other) {
                if rng.random_range(0..1000) < SWAP {
                    *gene = *others;
                }
            }
        }
        // One gene on average.
        for (gene, levels) in child.iter_mut().zip(self.levels) {
            if rng.random_range(0..self.levels.len()) == 0 {
                *gene = mutate(*gene, *levels, rng);
            }
        }
        child
    }

    /// The better of two that are drawn.
    fn tournament(&self, rng: &mut impl Rng) -> usize {
        let mut draw = || rng.random_range(0..self.parents.len());
        let (a, b) = (draw(), draw());
        if self.standings[b].is_better_than(self.standings[a]) { b } else { a }
    }
}

fn mutate(gene: usize, levels: usize, rng: &mut impl Rng) -> usize {
    if rng.random_range(0..1000) >= NEIGHBOUR {
        return rng.random_range(0..levels);
    }
    match rng.random_range(0..2) {
        0 => gene.saturating_sub(1),
        _ => (gene + 1).min(levels - 1),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn fitness(violation: f64, losses: &[f64]) -> Fitness {
        Fitness { violation, losses: losses.to_vec() }
    }

    #[test]
    fn ranks_and_crowding_are_those_of_the_definition() {
        let population = [
            fitness(0.0, &[1.0, 5.0]),
            fitness(0.0, &[2.0, 3.0]),
            fitness(0.0, &[4.0, 1.0]),
            fitness(0.0, &[2.0, 4.0]),
            fitness(0.0, &[5.0, 5.0]),
            fitness(0.1, &[0.0, 0.0]),
            fitness(0.2, &[0.0, 0.0]),
        ];
        let population: Vec<&Fitness> = population.iter().collect();
        let standings = standings(&population);
        let ranks: Vec<_> = standings.iter().map(|standing| standing.rank).collect();
        assert_eq!(ranks, [0, 0, 0, 1, 2, 3, 4], "those outside the constraints come after all others");
        // (4 - 1) / 3 + (5 - 1) / 4
        assert_eq!(standings[1].crowding, 2.0);
        assert!(standings[0].crowding.is_infinite() && standings[2].crowding.is_infinite());
        assert_eq!(survivors(&population, 4), [0, 1, 2, 3]);
        assert_eq!(survivors(&population, 2), [0, 2], "the ends of a front go on first");
        assert_eq!(survivors(&[], 3), [0usize; 0]);
    }

    /// ZDT1 on a grid: 30 variables of 101 levels, of which the first decides the place on the front and the others the
    /// distance to it.
    fn zdt1(genome: &Genome) -> Fitness {
        let x: Vec<f64> = genome.iter().map(|level| *level as f64 / 100.0).collect();
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / (x.len() - 1) as f64;
        fitness(0.0, &[x[0], g * (1.0 - (x[0] / g).sqrt())])
    }

    /// Area that a front of two objectives covers below (1, 1).
    fn hypervolume(losses: impl Iterator<Item = (f64, f64)>) -> f64 {
        let mut points: Vec<_> = losses.filter(|(a, b)| *a < 1.0 && *b < 1.0).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let (mut area, mut low) = (0.0, 1.0);
        for (a, b) in points {
            if b < low {
                area += (1.0 - a) * (low - b);
                low = b;
            }
        }
        area
    }

    #[test]
    fn it_finds_the_front_of_zdt1_within_20_000_evaluations() {
        let levels = [101; 30];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let random = |_| levels.iter().map(|levels| rng.random_range(0..*levels)).collect();
        let start: Vec<Genome> = (0..100).map(random).collect();
        let evaluations = Cell::new(0);
        let counted = |genome: &Genome| {
            evaluations.set(evaluations.get() + 1);
            zdt1(genome)
        };
        let population = evolved(start, 100, 199, &levels, counted, &mut rng);
        assert_eq!(evaluations.get(), 20_000);
        let different: BTreeSet<&Genome> = population.iter().map(|(genome, _)| genome).collect();
        assert_eq!(different.len(), 100, "no duplicates");
        let area = hypervolume(population.iter().map(|(_, fitness)| (fitness.losses[0], fitness.losses[1])));
        // The whole front has 0.662.
        assert!(area > 0.65, "{area}");
    }
}
