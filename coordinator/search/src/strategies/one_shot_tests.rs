//! Tests of the strategies that propose all their candidates at once.

use std::collections::BTreeSet;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{MembraneSpace, Tier};
use qslm_testing::{experiment, run};

use crate::testing::start;
use crate::{Grid, List, Random, Ranked, Step, problems};

fn ids(archive: &Archive) -> BTreeSet<String> {
    archive.iter().map(|(id, _)| id.to_string()).collect()
}

#[test]
fn a_list_is_measured_with_the_float_model_and_nothing_else() {
    let mut experiment = experiment(Grid { tier: Tier::Global });
    let listed: Vec<Candidate> =
        [2, 0].map(|level| experiment.space.uniform(&experiment.network, level)).to_vec();
    let candidates = listed.iter().map(Candidate::encode).collect();
    experiment.strategy = List::new(candidates, Vec::new()).into();
    assert_eq!(problems(&experiment), []);
    let archive = run(&experiment, |_| false).0;
    let expected = [&Candidate::float(&experiment.network), &listed[0], &listed[1]];
    assert!(archive.len() == 3 && expected.iter().all(|candidate| archive.get(&candidate.id()).is_some()));
    let refused = |candidates| {
        let wrong = Experiment { strategy: List::new(candidates, Vec::new()).into(), ..experiment.clone() };
        problems(&wrong).first().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(refused(Vec::new()), "strategy.candidates: 0 candidates: expected 1 to 1000");
    let error = refused(vec![listed[0].encode(), "x".to_owned()]);
    assert!(error.starts_with("strategy.candidates: number 2: "), "{error}");
}

#[test]
fn a_grid_measures_every_combination_once() {
    let experiment = experiment(Grid { tier: Tier::Block });
    let (archive, stages) = run(&experiment, |_| false);
    // Two blocks and the head move over five levels; the sign embedding does not. Plus the float model.
    assert_eq!(stages, [("grid", 126)]);
    assert_eq!(archive.len(), 126);
}

#[test]
fn a_grid_combines_membranes_with_weights() {
    let mut experiment = experiment(Grid { tier: Tier::Global });
    experiment.space.membranes = Some(MembraneSpace { bits: vec![32, 8, 4], integer_bits: 1 });
    let (archive, stages) = run(&experiment, |_| false);
    assert_eq!(stages, [("grid", 16)]);
    let Step::Measure(generation) = start(&experiment).next(&archive) else { panic!() };
    let with = |bits: u8| {
        generation.candidates.iter().filter(|c| c.encode().contains(&format!("fixed{bits}:"))).count()
    };
    assert_eq!((archive.len(), with(8), with(4)), (16, 5, 5));
}

#[test]
fn an_order_of_importance_narrows_from_its_start() {
    let order = ["blocks.1", "head", "blocks.0"].map(str::to_owned).to_vec();
    let strategy = Ranked { metric: "lsaq".to_owned(), tier: Tier::Block, order };
    let experiment = experiment(strategy);
    let (archive, stages) = run(&experiment, |_| false);
    // Float, five uniform widths, and two steps between for each of the ten pairs.
    assert_eq!((stages, archive.len()), (vec![("ranked", 26)], 26));
    let narrow = |candidate: &Candidate, unit: &str| candidate.scheme(unit).to_string().starts_with("int2:");
    let Step::Measure(generation) = start(&experiment).next(&archive) else { panic!() };
    for candidate in generation.candidates.iter() {
        let [first, second, last] = ["blocks.1.ffn.key.weight", "head.weight", "blocks.0.att.key.weight"]
            .map(|unit| narrow(&candidate, unit));
        assert!(first >= second && second >= last);
    }
}

#[test]
fn a_random_search_is_its_seeds() {
    let draw = |seed, trials| {
        let strategy = Random { tier: Tier::Matrix, trials, seed };
        ids(&run(&experiment(strategy), |_| false).0)
    };
    assert_eq!(draw(1, 40), draw(1, 40));
    assert_ne!(draw(1, 40), draw(2, 40));
    assert_eq!(draw(1, 40).len(), 41);
}

#[test]
fn a_random_search_for_everything_is_the_grid() {
    let strategy = Random { tier: Tier::Block, trials: 125, seed: 7 };
    let all = ids(&run(&experiment(strategy), |_| false).0);
    assert_eq!(all, ids(&run(&experiment(Grid { tier: Tier::Block }), |_| false).0));
}
