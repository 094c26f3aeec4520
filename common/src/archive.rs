//! The archive: everything that an experiment measured; and what is read off it: the front, its
//! hypervolume, and the chosen candidate.
//!
//! An archive is a map by candidate id, so it is the same whatever the order of arrival, and so is everything
//! read off it. Front and choice are kept up to date as measurements come in, because they are looked at
//! after every one.

use std::collections::{BTreeMap, BTreeSet};

use crate::candidate::{Candidate, CandidateId};
use crate::cost::{Cost, Costs};
use crate::experiment::Experiment;
use crate::hash::ContentHash;
use crate::job::JobKey;
use crate::measurement::Counts;
use crate::objective::{Measured, quality_loss};
use crate::pareto::{self, Frontier};
use crate::spread::Spread;
use crate::tasks::TaskName;
use crate::unmet::{NearestToBounds, Unmet};

/// Entry of one measured candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Counts over the whole data.
    pub counts: Counts,
    /// Spread of the losses around the float model's; `None` where it is not known.
    pub spread: Option<Spread>,
    /// Spreads on further tasks, where they are known.
    pub task_spreads: BTreeMap<TaskName, Spread>,
    /// Bytes as the exported file stores them.
    pub footprint_bytes: u64,
    /// Costs beside the footprint, by the models that the experiment decides by; see
    /// [`Experiment::deciding_costs`]. Empty if the footprint alone decides.
    pub costs: Costs,
}

/// A measured candidate with all that can be told of it alone. A coordinator that starts works these out on
/// all cores.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    id: CandidateId,
    entry: Entry,
    losses: Vec<f64>,
}

impl Measurement {
    /// The candidate's id.
    pub fn id(&self) -> CandidateId {
        self.id
    }

    /// Entry of the candidate.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Measurement of the candidate with this id.
    pub fn new(
        experiment: &Experiment,
        id: CandidateId,
        candidate: &Candidate,
        counts: Counts,
        spread: Option<Spread>,
    ) -> Self {
        let footprint_bytes = experiment.footprint(candidate);
        // Most experiments decide by the footprint alone, and a million candidates should not pay for the
        // rest.
        let costs = match experiment.deciding_costs().iter().any(|cost| *cost != Cost::Footprint) {
            true => experiment.costs(candidate, &counts),
            false => Costs::new(),
        };
        let entry = Entry { counts, spread, task_spreads: BTreeMap::new(), footprint_bytes, costs };
        Self { id, losses: losses(experiment, &entry), entry }
    }

    /// The same with the spreads on further tasks, on which no objective depends.
    #[must_use]
    pub fn with_task_spreads(mut self, spreads: BTreeMap<TaskName, Spread>) -> Self {
        self.entry.task_spreads = spreads;
        self
    }
}

/// A measured candidate that an archive still has the schemes of.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The candidate's id.
    pub id: CandidateId,
    /// Schemes of the candidate.
    pub candidate: &'a Candidate,
    /// Entry of the candidate.
    pub entry: &'a Entry,
}

/// Everything that one experiment measured, by candidate id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Archive {
    entries: BTreeMap<CandidateId, Entry>,
    /// The candidates that are on the front, chosen, or may be so later. A candidate takes more memory than
    /// all else that is known of it, and of a million few are ever asked for.
    candidates: BTreeMap<CandidateId, Candidate>,
    front: Frontier,
    /// The best of those that meet the constraints; `None` before the float model is measured.
    chosen: Option<Best>,
    /// While nothing is chosen, what is nearest to each bound.
    nearest: NearestToBounds,
    /// Pruned candidates: they lost too much before all of the data was evaluated.
    pruned: BTreeSet<CandidateId>,
    /// Counts of a subset of the data, which are no result: strategies learn from them.
    on_subset: BTreeMap<CandidateId, Counts>,
    /// The id of the float model; known from the first measurement on, because it takes a hash to tell.
    float_id: Option<CandidateId>,
    /// Artifacts that jobs of the search made, which candidates may name.
    made: BTreeMap<JobKey, ContentHash>,
    /// Content of those artifacts that the search reads.
    documents: BTreeMap<JobKey, Vec<u8>>,
}

/// Candidates that are kept beyond those that are needed, so that they are not sorted out after every
/// measurement.
const SPARE: usize = 64;

/// A candidate with the value of the trade-off by which it is the best so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    value: f64,
    footprint_bytes: u64,
    quality_loss: f64,
    id: CandidateId,
}

impl Best {
    /// True if it is better: on equal values the smaller candidate, then the one that loses less, then the one with the lower
    /// id.
    fn beats(&self, other: &Self) -> bool {
        let by_value = self.value.total_cmp(&other.value);
        let by_bytes = other.footprint_bytes.cmp(&self.footprint_bytes);
        let by_quality = other.quality_loss.total_cmp(&self.quality_loss);
        by_value.then(by_bytes).then(by_quality).then(other.id.cmp(&self.id)).is_gt()
    }
}

impl Entry {
    /// 95 % interval of the loss of quality against the float model's entry; `None` where the spread is not known.
    pub fn loss_interval(&self, float: &Self) -> Option<(f64, f64)> {
        self.spread.and_then(|spread| spread.loss_interval(&float.counts, &self.counts))
    }

    /// View of it that objectives and constraints take.
    pub fn measured(&self) -> Measured<'_> {
        let Self { ref counts, spread, ref task_spreads, footprint_bytes, ref costs } = *self;
        Measured { counts, spread, task_spreads, footprint_bytes, costs }
    }
}

impl Archive {
    /// Folds a measurement in. Another one of the same candidate changes nothing: measurements are
    /// deterministic, and the first one is on record.
    pub fn insert(&mut self, experiment: &Experiment, candidate: &Candidate, counts: Counts) {
        self.insert_measured(
            experiment,
            candidate,
            Measurement::new(experiment, candidate.id(), candidate, counts, None),
        );
    }

    /// [`Archive::insert`], given what does not depend on the rest of the archive. Returns whether it is new.
    pub fn insert_measured(
        &mut self,
        experiment: &Experiment,
        candidate: &Candidate,
        measurement: Measurement,
    ) -> bool {
        let Measurement { id, entry, losses } = measurement;
        match self.entries.entry(id) {
            std::collections::btree_map::Entry::Occupied(_) => return false,
            std::collections::btree_map::Entry::Vacant(vacant) => drop(vacant.insert(entry)),
        }
        self.pruned.remove(&id);
        let is_float = id == *self.float_id.get_or_insert_with(|| float_id(experiment));
        let mut on_front = self.may_be_on_front(experiment, id) && self.front.insert(&losses, id);
        if is_float {
            // Everything is compared with it, also what came before.
            let all: Vec<CandidateId> = self.entries.keys().copied().collect();
            for other in all {
                if experiment.racing.is_some() && other != id {
                    on_front |= self.catch_up(experiment, other);
                }
                self.consider(experiment, other);
            }
        } else {
            self.consider(experiment, id);
        }
        // Before the float model is measured, anything may turn out to be the best.
        let compared = self.float(experiment).is_some();
        if !compared || on_front || self.chosen.is_some_and(|best| best.id == id) {
            self.candidates.insert(id, candidate.clone());
        }
        if compared && self.candidates.len() > 2 * self.front.len() + SPARE {
            self.forget();
        }
        true
    }

    /// Notes that a candidate was pruned before all of the data was evaluated: it loses too much. Returns
    /// whether that is new.
    pub fn prune(&mut self, id: CandidateId) -> bool {
        !self.entries.contains_key(&id) && self.pruned.insert(id)
    }

    /// Number of candidates that were pruned; see [`Archive::prune`].
    pub fn pruned(&self) -> usize {
        self.pruned.len()
    }

    /// True if a candidate was pruned, and is not measured.
    pub fn is_pruned(&self, id: &CandidateId) -> bool {
        self.pruned.contains(id)
    }

    /// Folds in what was measured on a subset of the data; the first on record stays.
    pub fn insert_on_subset(&mut self, id: CandidateId, counts: Counts) {
        self.on_subset.entry(id).or_insert(counts);
    }

    /// Notes what a job of the search made; the first on record stays.
    pub fn insert_made(&mut self, job: JobKey, artifact: ContentHash) {
        self.made.entry(job).or_insert(artifact);
    }

    /// Notes the content of what a job made, which the search reads.
    pub fn insert_document(&mut self, job: JobKey, document: Vec<u8>) {
        self.documents.entry(job).or_insert(document);
    }

    /// Content of what a job made, if that is read; see [`crate::job::Job::is_read`].
    pub fn document(&self, job: &JobKey) -> Option<&[u8]> {
        self.documents.get(job).map(Vec::as_slice)
    }

    /// Artifact that a job of the search made; `None` if it was not asked for, or failed.
    pub fn made(&self, job: &JobKey) -> Option<ContentHash> {
        self.made.get(job).copied()
    }

    /// Counts of a candidate on all of the data, or on a subset; `None` where it was not measured so.
    pub fn counts(&self, id: &CandidateId, on_subset: bool) -> Option<&Counts> {
        match on_subset {
            true => self.on_subset.get(id),
            false => self.get(id).map(|entry| &entry.counts),
        }
    }

    /// True if a measured candidate may be on the front. In a race those that lose too much quality are not:
    /// which of them were measured to the end is chance.
    fn may_be_on_front(&self, experiment: &Experiment, id: CandidateId) -> bool {
        if experiment.racing.is_none() {
            return true;
        }
        let compared = self.float(experiment).zip(self.get(&id));
        let within = experiment.within_reach();
        compared.is_some_and(|(float, entry)| within.allow_quality(&float.counts, &entry.counts))
    }

    /// Puts a candidate that came before the float model on the front if it belongs there.
    fn catch_up(&mut self, experiment: &Experiment, id: CandidateId) -> bool {
        let losses = self.get(&id).map(|entry| losses(experiment, entry)).unwrap_or_default();
        self.may_be_on_front(experiment, id) && self.front.insert(&losses, id)
    }

    /// Drops the candidates that are neither on the front nor chosen: they will not be again.
    fn forget(&mut self) {
        let mut wanted: BTreeSet<CandidateId> = self.front.keys().into_iter().collect();
        wanted.extend(self.chosen.map(|best| best.id));
        self.candidates.retain(|id, _| wanted.contains(id));
    }

    /// Takes a candidate for the chosen one if it is better.
    fn consider(&mut self, experiment: &Experiment, id: CandidateId) {
        // Not by a method, so that what is nearest may change beside it.
        let float_id = self.float_id.unwrap_or_else(|| float_id(experiment));
        let (Some(float), Some(entry)) = (self.entries.get(&float_id), self.entries.get(&id)) else { return };
        let (constraints, network) = (&experiment.constraints, &experiment.network);
        if !constraints.allow(network, &float.counts, entry.measured()) {
            if self.chosen.is_none() {
                self.nearest.consider(constraints, network, &float.counts, id, entry.measured());
            }
            return;
        }
        let value = experiment.trade_off.value(float.measured(), entry.measured());
        let quality_loss = quality_loss(&float.counts, &entry.counts);
        let new = Best { value, footprint_bytes: entry.footprint_bytes, quality_loss, id };
        if self.chosen.is_none_or(|best| new.beats(&best)) {
            self.chosen = Some(new);
        }
        self.nearest = NearestToBounds::default();
    }

    /// The entry of a candidate.
    pub fn get(&self, id: &CandidateId) -> Option<&Entry> {
        self.entries.get(id)
    }

    fn known(&self, id: CandidateId) -> Option<Known<'_>> {
        Some(Known { id, candidate: self.candidates.get(&id)?, entry: self.entries.get(&id)? })
    }

    /// All entries in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&CandidateId, &Entry)> {
        self.entries.iter()
    }

    /// Number of measured candidates.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The float model, once measured.
    pub fn float(&self, experiment: &Experiment) -> Option<&Entry> {
        self.get(&self.float_id.unwrap_or_else(|| float_id(experiment)))
    }

    /// The front, ordered by footprint, then quality, then id.
    pub fn front(&self) -> Vec<Known<'_>> {
        let mut front: Vec<_> = self.front.keys().into_iter().filter_map(|id| self.known(id)).collect();
        front.sort_by_key(|known| (known.entry.footprint_bytes, known.entry.counts.nll, known.id));
        front
    }

    /// Number of candidates on the front.
    pub fn front_len(&self) -> usize {
        self.front.len()
    }

    /// The share of the box between zero and the reference losses that the front dominates, 0 to 1. `None`
    /// before the float model is measured, because the reference is relative to it.
    pub fn hypervolume(&self, experiment: &Experiment) -> Option<f64> {
        let float = self.float(experiment)?;
        let reference: Vec<f64> =
            experiment.objectives.iter().map(|objective| objective.reference(float.measured())).collect();
        let volume = pareto::hypervolume(&self.front.points(), &reference);
        Some(volume / reference.iter().product::<f64>())
    }

    /// The candidate with the best trade-off among those that meet every constraint; on equal values the
    /// smaller one, then the one that loses less, then the one with the lower id. `None` if none meets them.
    pub fn chosen(&self) -> Option<Known<'_>> {
        self.known(self.chosen?.id)
    }

    /// Bounds with what is nearest to each, where the float model is measured and no candidate meets all of them;
    /// else empty.
    pub fn unmet(&self, experiment: &Experiment) -> Vec<Unmet> {
        match self.float(experiment) {
            Some(_) if self.chosen.is_none() => self.nearest.unmet(&experiment.constraints),
            _ => Vec::new(),
        }
    }
}

fn float_id(experiment: &Experiment) -> CandidateId {
    Candidate::float(&experiment.network).id()
}

fn losses(experiment: &Experiment, entry: &Entry) -> Vec<f64> {
    let loss =
        |objective: &crate::objective::Objective| objective.loss(&experiment.network, entry.measured());
    experiment.objectives.iter().map(loss).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::experiment::tests::experiment;
    use crate::measurement::Nll;

    pub(crate) fn counts(nats: f64) -> Counts {
        Counts {
            nll: Nll::from_nats(nats).unwrap(),
            scored_tokens: 100,
            processed_tokens: 100,
            ..Counts::zero(4)
        }
    }

    /// Float at 300 nats, then uniform levels of 8, 4 and 2 bits.
    pub(crate) fn archive(experiment: &Experiment, nats: [f64; 3]) -> Archive {
        let mut archive = Archive::default();
        archive.insert(experiment, &Candidate::float(&experiment.network), counts(300.0));
        for (level, nats) in nats.into_iter().enumerate() {
            archive.insert(experiment, &experiment.space.uniform(&experiment.network, level), counts(nats));
        }
        archive
    }

    #[test]
    fn the_chosen_candidate_meets_the_constraints() {
        let experiment = experiment();
        let good = archive(&experiment, [300.1, 301.0, 400.0]);
        assert_eq!(good.chosen().unwrap().id, experiment.space.uniform(&experiment.network, 1).id());
        // Only the float model is left within 3 %.
        let bad = archive(&experiment, [310.0, 320.0, 400.0]);
        assert_eq!(bad.chosen().unwrap().id, Candidate::float(&experiment.network).id());
    }

    #[test]
    fn a_dominated_candidate_is_not_on_the_front() {
        let experiment = experiment();
        let archive = archive(&experiment, [302.0, 301.0, 400.0]);
        let ids: Vec<_> = archive.front().into_iter().map(|known| known.id).collect();
        let level = |level| experiment.space.uniform(&experiment.network, level).id();
        assert_eq!(ids, [level(2), level(1), Candidate::float(&experiment.network).id()]);
    }

    #[test]
    fn only_candidates_that_may_be_asked_for_are_kept() {
        let mut experiment = experiment();
        experiment.space.bits = [8, 7, 6, 5, 4, 3, 2].map(|bits| bits.try_into().unwrap()).to_vec();
        let network = &experiment.network;
        let mut archive = Archive::default();
        // Every matrix of 16 at each of seven levels, all losing more than the uniform candidates.
        let uniform = |level| experiment.space.uniform(network, level);
        let units: Vec<_> = network.units().into_iter().map(|unit| unit.name).collect();
        let alone = units.iter().flat_map(|unit| {
            (1..7).map(|level| uniform(0).with([unit.as_str()], experiment.space.scheme(unit, level)))
        });
        let all: Vec<_> = alone.collect();
        let insert = |archive: &mut Archive, candidate: &Candidate| {
            let worse = 0.01 * (candidate.id().as_bytes()[0] as f64);
            archive.insert(&experiment, candidate, counts(305.0 + worse));
        };
        all[..20].iter().for_each(|candidate| insert(&mut archive, candidate));
        assert_eq!(archive.candidates.len(), archive.len(), "anything may be the best yet");
        archive.insert(&experiment, &Candidate::float(network), counts(300.0));
        (0..7).for_each(|level| archive.insert(&experiment, &uniform(level), counts(300.0 + level as f64)));
        all.iter().for_each(|candidate| insert(&mut archive, candidate));
        assert!(archive.len() > 80 && archive.candidates.len() <= 2 * archive.front_len() + SPARE);
        assert_eq!(archive.front().len(), archive.front_len());
        archive.forget();
        assert_eq!(archive.front().len(), archive.front_len());
        assert!(archive.chosen().is_some());
    }
}
