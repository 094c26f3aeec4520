//! Tests of tables in the place of groups measured alone.

use qslm_common::scheme::Width;
use qslm_common::space::VectorSpace;
use qslm_testing::{experiment, measure};

use super::tests::{ALLOCATE, Played, all_well, lost, play};
use super::*;

/// The strategy with what every group really loses alone at each level as its table.
fn told(experiment: &Experiment) -> Allocate {
    let probes = Probes::new(&ALLOCATE, experiment);
    let nats = |candidate: &Candidate| measure(candidate).nll.nats() / 100.0;
    let of_group = |group: &Group| {
        let at = |level| nats(&probes.alone(group, level)) - nats(&probes.float());
        (0..group.levels).map(|level| (at(level) * PER_NAT).round() as u64).collect()
    };
    let weights = probes.groups.iter().filter(|group| group.axis == Axis::Weights);
    Allocate { table: Some(Table::Fisher), losses: weights.map(of_group).collect(), ..ALLOCATE }
}

#[test]
fn a_table_takes_the_place_of_groups_alone_and_of_no_others() {
    let plain = experiment(ALLOCATE);
    let of_table = Experiment { strategy: told(&plain).into(), ..plain.clone() };
    assert!(crate::problems(&of_table).is_empty());
    let (measured, predicted) = (play(&plain, all_well), play(&of_table, all_well));
    // The float model, and the embedding, blocks and head as a whole.
    let blocks = plain.space.groups(&plain.network, Axis::Weights, Tier::Block).len();
    assert_eq!(predicted.stages[0], (SENSITIVITY, 1 + 2 * blocks));
    assert!(predicted.proposed.len() <= measured.proposed.len());
    // As good an end for fewer evaluations, since the table is the truth here.
    let smallest = |played: &Played| {
        let allowed = |id: &CandidateId| lost(played, &plain, id) <= 0.05;
        let ids = played.proposed.iter().filter(|candidate| allowed(&candidate.id()));
        ids.map(|candidate| plain.footprint(candidate)).min().unwrap()
    };
    assert!(smallest(&predicted) <= smallest(&measured), "{} {}", smallest(&predicted), smallest(&measured));
    // Vectors are in no table.
    let mut moving = of_table.clone();
    let bits = [16, 8].map(|bits| Width::try_from(bits).unwrap()).to_vec();
    moving.space.vectors = Some(VectorSpace { bits });
    assert_eq!(play(&moving, all_well).stages[0], (SENSITIVITY, 3 + 2 * blocks));
    // Law or regression.
    let law = Allocate { fit: Some(Fit::Law), ..told(&plain) };
    let by_law = play(&Experiment { strategy: law.into(), ..plain.clone() }, all_well);
    assert_eq!(by_law.stages[0], (SENSITIVITY, 1 + 2 * blocks));
    // How large its losses are does not count, only how they compare within a block.
    let mut small = told(&plain);
    small.losses.iter_mut().flatten().for_each(|loss| *loss /= 100);
    let of_small = play(&Experiment { strategy: small.into(), ..plain.clone() }, all_well);
    assert!(smallest(&of_small).abs_diff(smallest(&predicted)) * 100 < smallest(&predicted));
}

#[test]
fn losses_that_fit_no_table_are_refused() {
    let plain = experiment(ALLOCATE);
    let words = |strategy: Allocate| {
        let problems = crate::problems(&Experiment { strategy: strategy.into(), ..plain.clone() });
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let told = told(&plain);
    assert_eq!(words(told.clone()), "");
    let losses = told.losses.clone();
    assert!(words(Allocate { table: None, ..told.clone() }).contains("expected none without strategy.table"));
    assert!(
        words(Allocate { losses: losses[1..].to_vec(), ..told.clone() })
            .contains("one for each group of weights")
    );
    let mut short = losses;
    short[2].pop();
    assert!(words(Allocate { losses: short, ..told }).contains("one for each level"));
}
