//! Genomes that were proposed, so that none is proposed twice.

use std::collections::BTreeSet;

use crate::nsga2::Genome;

/// Draws for a genome that was not proposed before, until the generation goes without it.
const DRAWS: usize = 100;

/// Genomes that were proposed.
#[derive(Debug, Default)]
pub(super) struct Proposed(BTreeSet<Genome>);

impl Proposed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, genome: &Genome) -> bool {
        self.0.contains(genome)
    }

    pub(super) fn extend(&mut self, genomes: impl IntoIterator<Item = Genome>) {
        self.0.extend(genomes);
    }

    /// At most `count` genomes that were not proposed before, and are now: some that are given, then what is drawn.
    pub(super) fn new_ones(
        &mut self,
        given: Vec<Genome>,
        count: usize,
        mut draw: impl FnMut() -> Genome,
    ) -> Vec<Genome> {
        let (mut new, mut given) = (Vec::new(), given.into_iter());
        while new.len() < count {
            let next = given.by_ref().find(|genome| self.0.insert(genome.clone()));
            let mut drawn = || (0..DRAWS).map(|_| draw()).find(|genome| self.0.insert(genome.clone()));
            let Some(genome) = next.or_else(&mut drawn) else { break };
            new.push(genome);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_first_and_nothing_comes_twice() {
        let mut proposed = Proposed::default();
        let mut number = 0;
        let mut draw = || {
            number += 1;
            vec![number % 4]
        };
        assert_eq!(proposed.new_ones(vec![vec![7], vec![7], vec![1]], 3, &mut draw), [[7], [1], [2]]);
        assert_eq!(proposed.new_ones(vec![vec![1]], 5, &mut draw), [[3], [0]], "then there are no more");
        assert!(proposed.contains(&vec![3]) && !proposed.contains(&vec![4]));
    }
}
