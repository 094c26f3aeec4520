//! Pins: what strategies that draw propose first, as a hash. Another one means that seeds on record take other paths, or
//! that the path depends on the machine; neither may happen unnoticed. Strategies without a seed draw nothing: what they
//! propose follows from the space and from what was measured.

use qslm_common::archive::Archive;
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::space::Tier;
use qslm_testing::{experiment, measure};

use crate::testing::start;
use crate::{Evolve, Haq, Random, Step, Surrogate, registry};

/// Draws that are pinned.
const DRAWS: usize = 1000;

/// Number of the first candidates that the strategy proposes, and their hash in order, where every seventh fails.
fn pin(experiment: &Experiment) -> (usize, String) {
    let (mut search, mut archive) = (start(experiment), Archive::default());
    let mut ids = Vec::new();
    while let Step::Measure(generation) = search.next_at_last(&archive) {
        for candidate in generation.candidates.iter().take(DRAWS - ids.len()) {
            ids.push(candidate.id().to_string());
            if ids.len() % 7 != 0 {
                let counts = measure(&candidate);
                archive.insert(experiment, &candidate, counts);
            }
        }
        if ids.len() == DRAWS {
            break;
        }
    }
    (ids.len(), ContentHash::of(ids.join("\n").as_bytes()).to_string())
}

#[test]
fn the_first_thousand_candidates_of_a_random_search_stay_what_they_are() {
    let random = experiment(Random { tier: Tier::Matrix, trials: 1000, seed: 1 });
    let pinned = "bce4f3b3b7f7d63fd145182cd591ddbb6e38db068384c3f580837d3bfdf3b667";
    assert_eq!(pin(&random), (DRAWS, pinned.to_owned()));
}

#[test]
fn the_first_thousand_candidates_of_an_evolution_stay_what_they_are() {
    let evolve = experiment(Evolve {
        tier: Tier::Matrix,
        population: 50,
        generations: 40,
        seed: 1,
        warm_start: Vec::new(),
    });
    let pinned = "d97a7dd05d48c13da9b7ec95daf2dae7abac3a30ac2c052f253ef128b979edc4";
    assert_eq!(pin(&evolve), (DRAWS, pinned.to_owned()));
}

#[test]
fn the_first_thousand_candidates_of_a_search_by_a_surrogate_stay_what_they_are() {
    // The float model and the first sample, then sixteen iterations.
    let surrogate = experiment(Surrogate {
        tier: Tier::Matrix,
        initial: 200,
        iterations: 16,
        batch: 50,
        seed: 1,
        prune: None,
        sensitivity_sequences: None,
        warm_start: Vec::new(),
    });
    let pinned = "74e4d43e9f662f72a9b957bbf5e3d595df037ccd2a3a4b9fab6445bd12f06cef";
    assert_eq!(pin(&surrogate), (DRAWS, pinned.to_owned()));
}

#[test]
fn whoever_has_a_seed_is_pinned_here() {
    let seeded = registry().iter().filter(|one| one.keys.iter().any(|key| key.name == "seed"));
    let kinds: Vec<&str> = seeded.map(|one| one.kind).collect();
    assert_eq!(kinds, ["random", "evolve", "surrogate", "haq"]);
}

#[test]
fn what_an_agent_proposes_in_a_thousand_walks_stays_what_it_is() {
    // Walks that lead to where others led propose nothing, so what they lead to is in the number.
    let mut haq = experiment(Haq { tier: Tier::Matrix, episodes: 1000, parallel: 10, hidden: 8, seed: 1 });
    let bytes = |level| haq.footprint(&haq.space.uniform(&haq.network, level));
    haq.constraints.max_footprint_bytes = Some(bytes(0).midpoint(bytes(4)));
    let pinned = "b2dcba61913ee005310a07c4c975c8a51146798683aa7384641155834b9df33a";
    assert_eq!(pin(&haq), (295, pinned.to_owned()));
}
