//! Races over what is on record; see [`qslm_common::racing`].

use std::collections::BTreeMap;

use qslm_common::evidence::Evidence;
use qslm_common::experiment::Experiment;
use qslm_common::measurement::Counts;
use qslm_common::racing::Race;
use qslm_common::task::Shard;

/// Race of an experiment, if its candidates race: the float model's counts over all data, and those of its
/// `of` shards, unless some are missing.
pub(crate) fn start(
    experiment: &Experiment,
    float: &Counts,
    parts: &BTreeMap<Shard, Evidence>,
    of: u32,
) -> Option<Race> {
    let complete = parts.len() == of as usize;
    let parts = if complete { parts.values().map(|part| part.counts.clone()).collect() } else { vec![] };
    Race::new(experiment.racing?, &experiment.within_reach(), float, parts)
}

/// True if a candidate has lost its race, given those of its `of` shards that are settled.
pub(crate) fn has_lost(race: &Race, settled: &BTreeMap<Shard, Evidence>, of: u32) -> bool {
    race.is_lost(settled.iter().map(|(shard, part)| (shard.index, &part.counts)), of)
}
