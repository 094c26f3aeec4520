//! Pruning: what is not measured to its end, because a race or somebody outside says so.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::candidate::CandidateId;
use qslm_common::evidence::Evidence;
use qslm_common::measurement::Counts;
use qslm_common::racing::Race;
use qslm_common::task::Shard;
use qslm_common::trial::{Addressed, TrialKey};

use super::Playback;
use crate::race;

/// Pruning of candidates.
pub(super) struct Pruning {
    /// The trial of the float model on all data.
    float: TrialKey,
    /// Race that candidates run, if they race, once the float model is measured.
    race: Option<Race>,
    /// Counts of the float model's shards, where they are shown.
    float_shards: Vec<Counts>,
    /// Candidates that somebody outside told to prune.
    told: BTreeSet<CandidateId>,
    /// Shards of pruned trials that nobody had to evaluate.
    pub(super) spared: u64,
}

impl Pruning {
    pub(super) fn new(float: TrialKey) -> Self {
        Self { float, race: None, float_shards: Vec::new(), told: BTreeSet::new(), spared: 0 }
    }
}

impl Playback {
    /// True if the shard results of a trial have to be kept: a race runs against them, or whoever tells candidates is shown
    /// how those do meanwhile.
    pub fn keeps_shard_results(&self, trial: &TrialKey) -> bool {
        (self.experiment.racing.is_some() || self.takes_tells()) && self.pruning.float == *trial
    }

    /// Starts the race, with all shards of the float model, or with none.
    pub fn start_race(&mut self, shard_results: &BTreeMap<Shard, Evidence>) {
        let float = self.archive.float(&self.experiment);
        self.pruning.race =
            float.and_then(|float| race::start(&self.experiment, &float.counts, shard_results, self.shards));
        if self.takes_tells() && shard_results.len() == self.shards as usize {
            self.pruning.float_shards = shard_results.values().map(|shard| shard.counts.clone()).collect();
        }
    }

    /// True if there is all to run a race against that is kept for it.
    pub(super) fn has_race(&self) -> bool {
        self.pruning.race.is_some()
    }

    /// Counts of the float model's shards, in their order, for whoever tells candidates; empty if they are not all known.
    pub fn float_shards(&self) -> &[Counts] {
        &self.pruning.float_shards
    }

    /// True if candidates of the generation may be pruned.
    pub fn is_racing(&self) -> bool {
        self.pruning.race.is_some() && self.generation.as_ref().is_some_and(|under_way| under_way.may_race)
    }

    /// Prunes a trial of the generation if its settled shards say that it loses too much. Returns whether it does.
    pub fn judge(&mut self, trial: &Addressed, settled: &BTreeMap<Shard, Evidence>) -> bool {
        let lost = self.has_lost(trial, settled);
        if lost {
            self.prune(trial, settled.len());
        }
        lost
    }

    pub(super) fn has_lost(&self, trial: &Addressed, settled: &BTreeMap<Shard, Evidence>) -> bool {
        self.is_racing()
            && trial.key != self.pruning.float
            && self.pruning.race.as_ref().is_some_and(|race| race::has_lost(race, settled, self.shards))
    }

    /// Notes that a trial is pruned, so many shards of which are settled.
    pub fn prune(&mut self, trial: &Addressed, settled: usize) {
        if self.archive.prune(trial.candidate) {
            self.pruning.spared += u64::from(self.shards) - settled as u64;
        }
    }

    /// True if somebody outside told to prune the candidate of a trial.
    pub(super) fn is_told_off(&self, trial: &Addressed) -> bool {
        self.pruning.told.contains(&trial.candidate)
    }

    /// Prunes a candidate because somebody outside says so, for good: what is measured of it later is no result. To be
    /// asked of one that [`Playback::may_be_told_off`].
    pub fn tell_off(&mut self, candidate: CandidateId) {
        self.pruning.told.insert(candidate);
    }

    /// True if a candidate can still be pruned from outside: it is not measured, and not the float model.
    pub fn may_be_told_off(&self, candidate: &CandidateId, trial: &TrialKey) -> bool {
        self.archive.get(candidate).is_none() && !self.has_failed(*trial) && self.pruning.float != *trial
    }

    /// True if a candidate was pruned and is not measured.
    pub fn is_pruned(&self, candidate: &CandidateId) -> bool {
        self.pruning.told.contains(candidate) || self.archive.is_pruned(candidate)
    }

    /// Shards of pruned trials that nobody had to evaluate.
    pub fn spared(&self) -> u64 {
        self.pruning.spared
    }
}
