//! Genes: the groups of a tier with their levels, and what a genome is: a candidate, a point, a number of bytes.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Group, Tier};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::combinations;
use crate::nsga2::Genome;

/// Genes of a search.
pub(super) struct Genes {
    groups: Vec<Group>,
    /// Levels that each group may take: all of them, or only the first once it is pinned.
    pub levels: Vec<usize>,
    /// Last level of each group.
    last: Vec<usize>,
    /// Every group at its first level.
    base: Candidate,
    /// Bytes of the whole with one group at a level, the rest at their first.
    bytes: Vec<Vec<u64>>,
}

impl Genes {
    pub(super) fn new(experiment: &Experiment, tier: Tier) -> Self {
        let groups = experiment.moving(tier);
        let levels: Vec<usize> = groups.iter().map(|group| group.levels).collect();
        let base = experiment.space.uniform(&experiment.network, 0);
        let base = combinations::placed(experiment, &base, &groups, &vec![0; groups.len()]);
        let of_group = |(group, levels): (&Group, &usize)| {
            let at = |level| experiment.space.place(base.clone(), group, level);
            (0..*levels).map(|level| experiment.footprint(&at(level))).collect()
        };
        let bytes = groups.iter().zip(&levels).map(of_group).collect();
        let last = levels.iter().map(|levels| levels - 1).collect();
        Self { groups, levels, last, base, bytes }
    }

    /// Groups.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The candidate of a genome.
    pub(super) fn candidate(&self, experiment: &Experiment, genome: &Genome) -> Candidate {
        combinations::placed(experiment, &self.base, &self.groups, genome)
    }

    /// Every group at the same level, or its last.
    pub(super) fn uniform(&self, level: usize) -> Genome {
        self.levels.iter().map(|levels| level.min(levels - 1)).collect()
    }

    /// One group at its last level, the rest at their first.
    pub(super) fn alone(&self, group: usize) -> Genome {
        let mut genome = self.uniform(0);
        genome[group] = self.last[group];
        genome
    }

    /// Holds groups at their first level: those whose added loss is more than so many times the median.
    pub(super) fn hold(&mut self, added: &[f64], times: f64) {
        let median = median(added);
        for (levels, added) in self.levels.iter_mut().zip(added) {
            // Where half of the groups lose nothing, the median tells nobody apart.
            if median > 0.0 && *added > times * median {
                *levels = 1;
            }
        }
    }

    /// A genome with chances of its levels that are drawn themselves, so that few and many bits on average come up alike.
    pub(super) fn drawn(&self, rng: &mut ChaCha8Rng) -> Genome {
        let most = self.levels.iter().copied().max().unwrap_or(1);
        let weights: Vec<u32> = (0..most).map(|_| rng.random_range(1..=1000)).collect();
        let mut draw = |levels: &usize| {
            let mut left = rng.random_range(0..weights[..*levels].iter().sum::<u32>());
            let holds = |weight: &u32| {
                let holds = left < *weight;
                left = left.saturating_sub(*weight);
                holds
            };
            weights.iter().position(holds).unwrap_or(0)
        };
        self.levels.iter().map(&mut draw).collect()
    }

    /// True if no group is at a level that it may not take.
    pub(super) fn allow(&self, genome: &Genome) -> bool {
        genome.iter().zip(&self.levels).all(|(level, levels)| level < levels)
    }

    /// Point of a genome: 0 for a group at its first level, 1 at its last.
    pub(super) fn place(&self, genome: &Genome) -> Vec<f64> {
        genome.iter().zip(&self.last).map(|(level, last)| *level as f64 / (*last).max(1) as f64).collect()
    }

    /// Bytes of a genome's candidate: what each group takes off adds up.
    pub(super) fn bytes(&self, genome: &Genome) -> u64 {
        let first = self.bytes.first().map_or(0, |table| table[0]);
        let saved = genome
            .iter()
            .zip(&self.bytes)
            .map(|(level, table)| i128::from(first) - i128::from(table[*level]));
        u64::try_from(i128::from(first) - saved.sum::<i128>()).unwrap_or(0)
    }
}

/// The middle of numbers, or the mean of the two that are; 0 of none.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    (at(sorted.len().saturating_sub(1) / 2) + at(sorted.len() / 2)) / 2.0
}

#[cfg(test)]
mod tests {
    use qslm_common::scheme::Width;
    use qslm_common::space::VectorSpace;
    use qslm_testing::experiment;
    use rand::SeedableRng;

    use super::*;
    use crate::Grid;

    #[test]
    fn bytes_of_a_genome_are_those_of_its_candidate() {
        let mut experiment = experiment(Grid { tier: Tier::Block });
        experiment.space.vectors =
            Some(VectorSpace { bits: [16, 8].map(|bits| Width::try_from(bits).unwrap()).to_vec() });
        let mut genes = Genes::new(&experiment, Tier::Module);
        for number in 0..200usize {
            let levels = genes.levels.iter().enumerate();
            let genome: Genome =
                levels.map(|(at, levels)| (number * 7 + at * at * number / 3) % levels).collect();
            assert_eq!(genes.bytes(&genome), experiment.footprint(&genes.candidate(&experiment, &genome)));
        }
        assert_eq!(genes.place(&genes.alone(1)), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(genes.allow(&genes.alone(1)));
        genes.hold(&[1.0, 2.1, 1.0, 1.0, 0.0, 2.0], 2.0);
        assert!(!genes.allow(&genes.alone(1)) && genes.allow(&genes.alone(2)));
        assert_eq!(genes.uniform(4), [4, 0, 4, 4, 4, 1]);
    }
    #[test]
    fn where_the_median_is_nothing_no_group_is_held() {
        let mut genes = Genes::new(&experiment(Grid { tier: Tier::Block }), Tier::Block);
        genes.hold(&[0.0, 5.0, -1.0], 2.0);
        assert_eq!(genes.levels, [5, 5, 5]);
        genes.hold(&[0.5, f64::MAX, 1.0], 2.0);
        assert_eq!(genes.levels, [5, 1, 5], "what could not be measured");
    }

    #[test]
    fn the_median_is_that_of_the_definition() {
        let medians = [median(&[]), median(&[3.0]), median(&[1.0, 4.0]), median(&[9.0, 1.0, 2.0])];
        assert_eq!(medians, [0.0, 3.0, 2.5, 2.0]);
    }

    #[test]
    fn genomes_that_are_drawn_have_few_bits_and_many() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut genes = Genes::new(&experiment(Grid { tier: Tier::Matrix }), Tier::Matrix);
        let sums: Vec<usize> = (0..200).map(|_| genes.drawn(&mut rng).iter().sum()).collect();
        let (low, high) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
        assert!(*low < 16 && *high > 41, "{low} {high}: with equal chances 30 give or take 5.5");
        genes.levels.fill(1);
        assert_eq!(genes.drawn(&mut rng), [0; 15]);
    }
}
