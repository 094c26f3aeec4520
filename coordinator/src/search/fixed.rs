//! The baselines: every combination of widths over the groups of a tier, some of them drawn at random, or those that
//! follow from an order of importance.
//!
//! All know all their candidates at the start and measure them in one generation.

use std::collections::BTreeSet;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Tier};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::candidates::Numbers;
use super::{Candidates, Generation, Search, Step};

/// A list of candidates, proposed once.
pub(super) struct Fixed {
    generation: Option<Generation>,
}

impl Fixed {
    /// Every combination, counting up with the first group as the lowest digit.
    pub(super) fn grid(experiment: &Experiment, tier: Tier) -> Self {
        Self::of(experiment, tier, "grid", Numbers::Below(experiment.combinations(tier)))
    }

    /// `trials` different combinations, all equally likely, in the order drawn.
    pub(super) fn random(experiment: &Experiment, tier: Tier, trials: u32, seed: u64) -> Self {
        let all = experiment.combinations(tier);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut seen = BTreeSet::new();
        let mut drawn = Vec::new();
        // Drawing again what was seen slows down only when nearly all are wanted: then list and shuffle.
        if u64::from(trials).saturating_mul(2) >= all {
            drawn = (0..all).collect();
            for last in (1..drawn.len()).rev() {
                drawn.swap(last, rng.random_range(0..=last));
            }
            drawn.truncate(trials as usize);
        }
        while drawn.len() < (trials as usize).min(usize::try_from(all).unwrap_or(usize::MAX)) {
            let combination = rng.random_range(0..all);
            if seen.insert(combination) {
                drawn.push(combination);
            }
        }
        Self::of(experiment, tier, "random", Numbers::Some(drawn))
    }

    fn of(experiment: &Experiment, tier: Tier, stage: &'static str, numbers: Numbers) -> Self {
        let (space, network) = (&experiment.space, &experiment.network);
        // Everything is measured against the float model.
        let first = vec![Candidate::float(network)];
        let base = space.uniform(network, 0);
        let candidates = Candidates::combinations(first, space, base, &experiment.moving(tier), numbers);
        Self { generation: Some(Generation { stage, candidates, task: None, may_race: true }) }
    }

    /// The first groups of `order` at one width and the rest at a wider one, for every number of groups and every
    /// two widths.
    pub(super) fn ranked(experiment: &Experiment, tier: Tier, order: &[String]) -> Self {
        let (space, network) = (&experiment.space, &experiment.network);
        let groups = space.groups(network, Axis::Weights, tier);
        let mut candidates = vec![Candidate::float(network)];
        for wide in 0..space.levels(Axis::Weights) {
            candidates.push(space.uniform(network, wide));
            for narrow in wide + 1..space.levels(Axis::Weights) {
                let mut candidate = space.uniform(network, wide);
                // All of them at the narrow width is that width's uniform candidate.
                for name in &order[..order.len().saturating_sub(1)] {
                    if let Some(group) = groups.iter().find(|group| group.name == *name) {
                        candidate = space.place(candidate, group, narrow);
                        candidates.push(candidate.clone());
                    }
                }
            }
        }
        let candidates = candidates.into_iter().collect();
        Self { generation: Some(Generation { stage: "ranked", candidates, task: None, may_race: true }) }
    }
}

impl Fixed {
    /// The candidates with these canonical texts. What is none was refused with the experiment.
    pub(super) fn list(experiment: &Experiment, texts: &[String]) -> Self {
        let float = std::iter::once(Candidate::float(&experiment.network));
        let listed = texts.iter().filter_map(|text| Candidate::decode(text).ok());
        let candidates = float.chain(listed).collect();
        Self { generation: Some(Generation { stage: "list", candidates, task: None, may_race: true }) }
    }
}

impl Search for Fixed {
    fn next(&mut self, _archive: &Archive) -> Step {
        self.generation.take().map_or(Step::Finished, Step::Measure)
    }

    fn remaining_at_most(&self) -> Option<u64> {
        Some(self.generation.as_ref().map_or(0, |generation| generation.candidates.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use qslm_common::experiment::Strategy;
    use qslm_common::space::MembraneSpace;

    use super::super::testing::{experiment, run};
    use super::*;

    fn ids(archive: &Archive) -> BTreeSet<String> {
        archive.iter().map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn a_list_is_measured_with_the_float_model_and_nothing_else() {
        let mut experiment = experiment(Strategy::Grid { tier: Tier::Global });
        let listed: Vec<Candidate> =
            [2, 0].map(|level| experiment.space.uniform(&experiment.network, level)).to_vec();
        let candidates = listed.iter().map(Candidate::encode).collect();
        experiment.strategy = Strategy::List { candidates };
        assert_eq!(experiment.validate(), Ok(()));
        let archive = run(&experiment, |_| false).0;
        let expected = [&Candidate::float(&experiment.network), &listed[0], &listed[1]];
        assert!(
            archive.len() == 3 && expected.iter().all(|candidate| archive.get(&candidate.id()).is_some())
        );
        let wrong = |candidates| Experiment { strategy: Strategy::List { candidates }, ..experiment.clone() };
        assert!(
            wrong(Vec::new())
                .validate()
                .unwrap_err()
                .to_string()
                .contains("0 candidates: expected 1 to 1000")
        );
        let error = wrong(vec![listed[0].encode(), "x".to_owned()]).validate().unwrap_err().to_string();
        assert!(error.contains("number 2"), "{error}");
    }

    #[test]
    fn a_grid_measures_every_combination_once() {
        let experiment = experiment(Strategy::Grid { tier: Tier::Block });
        let (archive, stages) = run(&experiment, |_| false);
        // Two blocks and the head move over five levels; the sign embedding does not. Plus the float model.
        assert_eq!(stages, [("grid", 126)]);
        assert_eq!(archive.len(), 126);
    }

    #[test]
    fn a_grid_combines_membranes_with_weights() {
        let mut experiment = experiment(Strategy::Grid { tier: Tier::Global });
        experiment.space.membranes = Some(MembraneSpace { bits: vec![32, 8, 4], integer_bits: 1 });
        let (archive, stages) = run(&experiment, |_| false);
        assert_eq!(stages, [("grid", 16)]);
        let Step::Measure(generation) = super::super::start(&experiment).next(&archive) else { panic!() };
        let with = |bits: u8| {
            generation.candidates.iter().filter(|c| c.encode().contains(&format!("fixed{bits}:"))).count()
        };
        assert_eq!((archive.len(), with(8), with(4)), (16, 5, 5));
    }

    #[test]
    fn an_order_of_importance_narrows_from_its_start() {
        let order = ["blocks.1", "head", "blocks.0"].map(str::to_owned).to_vec();
        let strategy = Strategy::Ranked { metric: "lsaq".to_owned(), tier: Tier::Block, order };
        let experiment = experiment(strategy);
        let (archive, stages) = run(&experiment, |_| false);
        // Float, five uniform widths, and two steps between for each of the ten pairs.
        assert_eq!((stages, archive.len()), (vec![("ranked", 26)], 26));
        let narrow =
            |candidate: &Candidate, unit: &str| candidate.scheme(unit).to_string().starts_with("int2:");
        let Step::Measure(generation) = super::super::start(&experiment).next(&archive) else { panic!() };
        for candidate in generation.candidates.iter() {
            let [first, second, last] = ["blocks.1.ffn.key.weight", "head.weight", "blocks.0.att.key.weight"]
                .map(|unit| narrow(&candidate, unit));
            assert!(first >= second && second >= last);
        }
    }

    #[test]
    fn a_random_search_is_its_seeds() {
        let draw = |seed, trials| {
            let strategy = Strategy::Random { tier: Tier::Matrix, trials, seed };
            ids(&run(&experiment(strategy), |_| false).0)
        };
        assert_eq!(draw(1, 40), draw(1, 40));
        assert_ne!(draw(1, 40), draw(2, 40));
        assert_eq!(draw(1, 40).len(), 41);
    }

    #[test]
    fn a_random_search_for_everything_is_the_grid() {
        let strategy = Strategy::Random { tier: Tier::Block, trials: 125, seed: 7 };
        let all = ids(&run(&experiment(strategy), |_| false).0);
        assert_eq!(all, ids(&run(&experiment(Strategy::Grid { tier: Tier::Block }), |_| false).0));
    }
}
