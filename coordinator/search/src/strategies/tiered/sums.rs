//! Sums: what a lowering is expected to lose, by what groups lost alone. Losses of groups add up roughly, and each grows with
//! the squared error of its codes, so what by the sums is far beyond the bound need not be measured.

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::quality::Quality;
use qslm_common::space::{Axis, Group, Tier};

use super::super::allocate::squared_error;
use crate::Probe;
use crate::prediction::nats_per_item;
use qslm_common::elementary::ln_1p;

/// Predicted losses of groups of the finest tier.
pub(super) struct Sums {
    /// Loss of each group in nats per token, by the squared error of its codes.
    per_error: Vec<(Group, f64)>,
    /// Largest predicted loss in nats per token that is worth a measurement.
    most: f64,
}

/// Predicted losses up to so many times the bound are measured: sums are not that far out.
const SLACK: f64 = 2.0;

impl Sums {
    /// Sums of what was measured of every group alone; `None` where it is not perplexity that is bounded.
    pub(super) fn new(
        experiment: &Experiment,
        probes: &[Probe],
        on_subset: bool,
        archive: &Archive,
    ) -> Option<Self> {
        let bound = experiment.constraints.largest_loss(Quality::Perplexity)?;
        let loss = |candidate: &Candidate| Some(nats_per_item(archive.counts(&candidate.id(), on_subset)?));
        let float = loss(&Candidate::float(&experiment.network))?;
        let of_group = |(group, probe): (Group, &Probe)| {
            let error = error_of(&probe.candidate, &group);
            // Of what could not be measured nothing is predicted.
            let lost = loss(&probe.candidate).map_or(0.0, |alone| (alone - float).max(0.0));
            (group, if error > 0.0 { lost / error } else { 0.0 })
        };
        let groups = experiment.moving(Tier::Matrix).into_iter().zip(probes);
        let of_weights = groups.filter(|(group, _)| group.axis == Axis::Weights);
        Some(Self { per_error: of_weights.map(of_group).collect(), most: SLACK * ln_1p(bound) })
    }

    /// Scales the sums by a whole network that was measured: the first of these that loses more than the bound, or the last.
    /// Groups together lose less than their sum, and noise alone makes sums of losses large.
    pub(super) fn scale(&mut self, experiment: &Experiment, uniform: &[Candidate], archive: &Archive) {
        let float = Candidate::float(&experiment.network);
        let measured: Vec<(f64, f64)> = uniform
            .iter()
            .filter_map(|candidate| {
                Some((self.added(&float, candidate), lost(experiment, candidate, archive)?))
            })
            .collect();
        let beyond = measured.iter().find(|(_, lost)| *lost > self.most / SLACK).or(measured.last());
        if let Some((predicted, lost)) = beyond.filter(|(predicted, _)| *predicted > 0.0) {
            let times = (lost / predicted).clamp(0.0, 1.0);
            self.per_error.iter_mut().for_each(|(_, per_error)| *per_error *= times);
        }
    }

    /// True if a candidate may be good enough, given one that was measured.
    pub(super) fn may_pass(
        &self,
        experiment: &Experiment,
        measured: &Candidate,
        next: &Candidate,
        archive: &Archive,
    ) -> bool {
        let lost = lost(experiment, measured, archive);
        lost.is_none_or(|lost| lost + self.added(measured, next) <= self.most)
    }

    /// Loss that a candidate is expected to add to another's.
    fn added(&self, before: &Candidate, after: &Candidate) -> f64 {
        let of_group = |(group, per_error): &(Group, f64)| {
            per_error * (error_of(after, group) - error_of(before, group))
        };
        self.per_error.iter().map(of_group).sum()
    }
}

/// Loss of a candidate on all data, in nats per token more than the float model; `None` if it was not measured.
fn lost(experiment: &Experiment, candidate: &Candidate, archive: &Archive) -> Option<f64> {
    let float = archive.float(experiment)?;
    Some(nats_per_item(&archive.get(&candidate.id())?.counts) - nats_per_item(&float.counts))
}

/// Squared error of the codes of a group, the mean of its members.
fn error_of(candidate: &Candidate, group: &Group) -> f64 {
    let errors = group.members.iter().map(|unit| squared_error(candidate.scheme(unit)));
    errors.sum::<f64>() / group.members.len().max(1) as f64
}
