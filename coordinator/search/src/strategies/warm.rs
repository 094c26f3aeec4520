//! Warm start: genomes that a search begins with, such as those of a front that another search found.
//!
//! They are part of the experiment's text, so that its path does not hang on what a store happens to hold.

use qslm_common::candidate::Candidate;
use qslm_common::space::{Axis, Group, Space};

use crate::nsga2::Genome;
use crate::{Key, Problem};

/// Key of a warm start.
const NAME: &str = "strategy.warm_start";
/// Most genomes.
const MOST: usize = 1000;

/// The key that names a front.
pub(super) const WARM_START: Key = Key {
    name: "warm_start",
    takes: "file",
    default: "none",
    means: "a front (JSON), whose candidates are measured first, each group at the level next to its scheme there",
};

/// What is wrong with genomes of these groups.
pub(super) fn problems(genomes: &[Genome], groups: &[Group]) -> Option<Problem> {
    if genomes.len() > MOST {
        return Some(Problem::new(
            NAME,
            format!("{NAME}: {} candidates: expected at most {MOST}", genomes.len()),
        ));
    }
    let wrong = |(index, genome): (usize, &Genome)| {
        let words = if genome.len() != groups.len() {
            format!("{} levels: expected one for each of {} groups", genome.len(), groups.len())
        } else {
            let beyond = groups.iter().zip(genome).find(|(group, level)| **level >= group.levels)?;
            format!("level {} of {}: it has {}", beyond.1, beyond.0.name, beyond.0.levels)
        };
        Some(Problem::new(NAME, format!("{NAME}: candidate {index}: {words}")))
    };
    genomes.iter().enumerate().find_map(wrong)
}

/// So many of these genomes, evenly spread from the first to the last.
pub(super) fn spread(genomes: Vec<Genome>, most: usize) -> Vec<Genome> {
    let (count, last) = (genomes.len(), most.saturating_sub(1).max(1));
    if count <= most {
        return genomes;
    }
    (0..most).map(|place| genomes[place * (count - 1) / last].clone()).collect()
}

/// The levels of groups that are next to what a candidate has: of the same scheme, or of about as many bits.
pub fn levels(space: &Space, groups: &[Group], candidate: &Candidate) -> Vec<usize> {
    let next_to = |group: &Group| {
        let apart = |level: usize| apart(space, group, level, candidate);
        let levels = (0..group.levels).map(|level| (apart(level), level));
        levels.min_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(0, |(_, level)| level)
    };
    groups.iter().map(next_to).collect()
}

/// Bits that a group at a level and in a candidate are apart, and a little more where the schemes are not the same.
fn apart(space: &Space, group: &Group, level: usize, candidate: &Candidate) -> f64 {
    let of = |same: bool, a: f64, b: f64| (a - b).abs() + if same { 0.0 } else { 0.01 };
    let members = group.members.iter();
    match group.axis {
        Axis::Weights => {
            let pairs = space.schemes_of(group, level).into_iter().zip(members);
            let one = |(scheme, unit): (qslm_common::scheme::Scheme, &String)| {
                let other = candidate.scheme(unit);
                of(scheme == other, scheme.bits_about(), other.bits_about())
            };
            pairs.map(one).sum()
        }
        Axis::Vectors => {
            let (scheme, other) = (space.vector_scheme(level), candidate.vectors());
            of(scheme == other, scheme.bits_about(), other.bits_about())
        }
        Axis::Activations => {
            let bits =
                |of: Option<qslm_common::scheme::Activation>| of.map_or(32.0, |of| f64::from(of.bits.get()));
            members
                .map(|unit| (bits(space.activation(unit, level)) - bits(candidate.activation(unit))).abs())
                .sum()
        }
        Axis::Membranes => {
            let bits = |of: Option<qslm_common::scheme::Membrane>| of.map_or(32.0, |of| f64::from(of.bits()));
            members.map(|name| (bits(space.membrane(level)) - bits(candidate.membrane(name))).abs()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::experiment::Experiment;
    use qslm_common::space::Tier;
    use qslm_testing::{experiment, run};

    use super::*;
    use crate::{Evolve, Surrogate, problems};

    const EVOLVE: Evolve =
        Evolve { tier: Tier::Matrix, population: 20, generations: 3, seed: 7, warm_start: Vec::new() };

    #[test]
    fn a_candidate_of_the_space_is_at_its_own_levels_and_another_next_to_them() {
        let experiment = experiment(EVOLVE);
        let groups = experiment.moving(Tier::Matrix);
        let own: Vec<usize> = (0..groups.len()).map(|at| at % 5).collect();
        let base = experiment.space.uniform(&experiment.network, 0);
        let candidate = super::super::combinations::placed(&experiment, &base, &groups, &own);
        assert_eq!(levels(&experiment.space, &groups, &candidate), own);
        // Five bits are between six and four of the ladder; the wider comes first.
        let five = base.with([groups[0].members[0].as_str()], "int5:symmetric:tensor".parse().unwrap());
        assert_eq!(levels(&experiment.space, &groups, &five)[0], 1);
    }

    #[test]
    fn what_a_search_found_is_where_the_next_one_begins() {
        let cold = experiment(Evolve { generations: 12, ..EVOLVE });
        let (archive, _) = run(&cold, |_| false);
        let groups = cold.moving(Tier::Matrix);
        let of_front = archive.front().into_iter().map(|known| levels(&cold.space, &groups, known.candidate));
        let found: Vec<Genome> = of_front.collect();
        let next = |warm_start: Vec<Genome>| {
            let one = Evolve { seed: 8, generations: 1, warm_start, ..EVOLVE };
            let experiment = Experiment { strategy: one.into(), ..cold.clone() };
            assert_eq!(problems(&experiment), []);
            run(&experiment, |_| false).0.hypervolume(&experiment).unwrap()
        };
        assert!(next(found.clone()) > next(Vec::new()));
        let surrogate = Surrogate {
            tier: Tier::Matrix,
            initial: 20,
            iterations: 1,
            batch: 5,
            seed: 1,
            prune: None,
            sensitivity_sequences: None,
            warm_start: found.clone(),
        };
        let warm = Experiment { strategy: surrogate.into(), ..cold.clone() };
        let base = warm.space.uniform(&warm.network, 0);
        let first = super::super::combinations::placed(&warm, &base, &groups, &found[0]);
        assert!(run(&warm, |_| false).0.get(&first.id()).is_some());
    }

    #[test]
    fn of_too_many_those_that_are_evenly_spread_are_taken() {
        let genomes: Vec<Genome> = (0..10).map(|at| vec![at]).collect();
        assert_eq!(spread(genomes.clone(), 4), [[0], [3], [6], [9]]);
        assert_eq!(spread(genomes.clone(), 1), [[0]]);
        assert_eq!(spread(genomes.clone(), 12), genomes);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let words = |warm_start: Vec<Genome>| {
            let wrong = experiment(Evolve { tier: Tier::Global, warm_start, ..EVOLVE });
            problems(&wrong).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(words(vec![vec![4]]), [""; 0]);
        assert_eq!(words(vec![vec![5]]), ["strategy.warm_start: candidate 0: level 5 of network: it has 5"]);
        let short = "strategy.warm_start: candidate 1: 0 levels: expected one for each of 1 groups";
        assert_eq!(words(vec![vec![0], vec![]]), [short]);
        assert_eq!(
            words(vec![vec![0]; 1001]),
            ["strategy.warm_start: 1001 candidates: expected at most 1000"]
        );
    }
}
