//! Parts of a measurement: of a candidate that is measured on several tasks, those that are there before the last one.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::archive::Measurement;
use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Backing, Engines, Evidence};
use qslm_common::experiment::Experiment;
use qslm_common::tasks::TaskName;
use qslm_common::trial::{Addressed, Protocol};

/// Parts of candidates that are measured on some tasks of an experiment, and not on all yet.
pub(super) struct Parts {
    /// Protocols of the further tasks.
    further: Vec<(TaskName, Arc<Protocol>)>,
    waiting: BTreeMap<CandidateId, BTreeMap<Part, Evidence>>,
}

/// Task that a part is measured on; `None` for the experiment's own.
type Part = Option<TaskName>;

impl Parts {
    pub(super) fn new(experiment: &Experiment) -> Self {
        Self { further: experiment.task_protocols().collect(), waiting: BTreeMap::new() }
    }

    /// Protocols of the further tasks, in their order.
    pub(super) fn protocols(&self) -> impl Iterator<Item = &Arc<Protocol>> {
        self.further.iter().map(|(_, protocol)| protocol)
    }

    /// Trials of a candidate on all data: one for each task.
    pub(super) fn per_candidate(&self) -> usize {
        1 + self.further.len()
    }

    /// Files one part of a candidate. With the last one, its measurement, and the engines of all.
    pub(super) fn join(
        &mut self,
        experiment: &Experiment,
        trial: &Addressed,
        evidence: Evidence,
    ) -> Option<(Measurement, Engines)> {
        let candidate = &trial.trial.candidate;
        let measurement = |Evidence { counts, backing: Backing { engines, spread } }| {
            (Measurement::new(experiment, trial.candidate, candidate, counts, spread), engines)
        };
        if self.further.is_empty() {
            return Some(measurement(evidence));
        }
        let parts = self.waiting.entry(trial.candidate).or_default();
        parts.insert(self.further.iter().find(|(_, of)| is_of(trial, of)).map(|(name, _)| *name), evidence);
        if parts.len() <= self.further.len() {
            return None;
        }
        let mut parts = self.waiting.remove(&trial.candidate)?;
        let mut whole = parts.remove(&None)?;
        let mut spreads = BTreeMap::new();
        for (name, part) in parts.into_iter().filter_map(|(name, part)| Some((name?, part))) {
            whole.backing.engines.extend(part.backing.engines);
            spreads.extend(part.backing.spread.map(|spread| (name, spread)));
            whole.counts.tasks.insert(name, part.counts);
        }
        let (measurement, engines) = measurement(whole);
        Some((measurement.with_task_spreads(spreads), engines))
    }

    /// True if a trial is of a further task.
    pub(super) fn is_further(&self, trial: &Addressed) -> bool {
        self.protocols().any(|protocol| is_of(trial, protocol))
    }

    /// Forgets what waits: the search starts over, and finds it again.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }
}

fn is_of(trial: &Addressed, protocol: &Arc<Protocol>) -> bool {
    let of = &trial.trial.protocol;
    Arc::ptr_eq(of, protocol) || (of.task == protocol.task && of.data == protocol.data)
}
