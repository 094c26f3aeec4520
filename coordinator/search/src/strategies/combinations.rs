//! Combinations of levels over the groups of a tier, by number; shared by the strategies that try some or all of them.

use std::ops::RangeInclusive;

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::space::{Axis, Group, Tier};

use crate::candidates::Numbers;
use crate::{Candidates, Key, Problem};

/// The most candidates that a grid or a random search may propose.
pub(super) const MAX_CANDIDATES: u64 = 1_000_000;

/// The key that names the tier.
pub(super) const TIER: Key = Key {
    name: "tier",
    takes: "\"global\", \"block\", \"module\", \"matrix\"",
    default: "required",
    means: "what moves together",
};

/// The key of the seed of whatever draws.
pub(super) const SEED: Key = Key {
    name: "seed",
    takes: "whole number",
    default: "required",
    means: "the same seed takes the same path, everywhere",
};

/// The float model, which all is measured against, and the combinations with these numbers.
pub(super) fn candidates(experiment: &Experiment, tier: Tier, numbers: Numbers) -> Candidates {
    let (space, network) = (&experiment.space, &experiment.network);
    let first = vec![Candidate::float(network)];
    let base = space.uniform(network, 0);
    Candidates::combinations(first, space, base, &experiment.moving(tier), numbers)
}

/// The candidate with a level for every group.
pub(super) fn placed(
    experiment: &Experiment,
    base: &Candidate,
    groups: &[Group],
    levels: &[usize],
) -> Candidate {
    let placed = groups.iter().zip(levels);
    placed.fold(base.clone(), |candidate, (group, level)| experiment.space.place(candidate, group, *level))
}

/// A space with axes that take no bytes, for a strategy that spends these.
pub(super) fn spends_bytes(kind: &str, experiment: &Experiment) -> Option<Problem> {
    let is_inner = |axis: &Axis| matches!(axis, Axis::Activations | Axis::Membranes);
    let words = || {
        format!(
            "strategy {kind} spends bytes, which activations and membranes have none of: leave them out of the space"
        )
    };
    experiment.space.axes().iter().any(is_inner).then(|| Problem::new("strategy", words()))
}

/// A number that is outside its range.
pub(super) fn outside(key: &'static str, value: u32, range: RangeInclusive<u32>) -> Option<Problem> {
    let words = || format!("{key} = {value}: expected {} to {}", range.start(), range.end());
    (!range.contains(&value)).then(|| Problem::new(key, words()))
}

/// Too many candidates, or none.
pub(super) fn problems(count: u64) -> Vec<Problem> {
    // Where numbers of combinations end.
    let told = if count == u64::MAX { "2^64 or more".to_owned() } else { count.to_string() };
    let words = || format!("strategy: {told} candidates: expected 1 to {MAX_CANDIDATES}");
    let wrong = count == 0 || count > MAX_CANDIDATES;
    wrong.then(|| Problem::new("strategy", words())).into_iter().collect()
}
