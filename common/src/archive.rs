//! The archive: everything that an experiment measured; and what is read off it: the front, its
//! hypervolume, and the chosen candidate.
//!
//! An archive is a map by candidate id, so it is the same whatever the order of arrival, and so is everything read off
//! it. Front and choice are kept up to date as measurements come in, because they are looked at after every one. The
//! [`FrontDocument`] is the file that two runs are compared by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::cost::{Cost, Costs};
use crate::experiment::Experiment;
use crate::footprint::{footprint_bytes, saving};
use crate::hash::ContentHash;
use crate::measurement::Counts;
use crate::objective::{Measured, quality_loss};
use crate::pareto::{self, Frontier};
use crate::scheme::Scheme;

/// One measured candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What was measured.
    pub candidate: Candidate,
    /// Its counts over the whole data.
    pub counts: Counts,
    /// Its bytes as the exported file stores them.
    pub footprint_bytes: u64,
    /// What it costs, by the models that the experiment decides by; see [`Experiment::deciding_costs`].
    pub costs: Costs,
}

/// Everything that one experiment measured, by candidate id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Archive {
    entries: BTreeMap<ContentHash, Entry>,
    front: Frontier<ContentHash>,
    /// The best of those that meet the constraints; `None` before the float model is measured.
    chosen: Option<Best>,
    /// The id of the float model; known from the first measurement on, because it takes a hash to tell.
    float_id: Option<ContentHash>,
}

/// A candidate with the value of the trade-off by which it is the best so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    value: f64,
    footprint_bytes: u64,
    id: ContentHash,
}

impl Best {
    /// On equal values the smaller candidate is better, then the one with the lower id.
    fn beats(&self, other: &Self) -> bool {
        let by_value = self.value.total_cmp(&other.value);
        let by_bytes = other.footprint_bytes.cmp(&self.footprint_bytes);
        by_value.then(by_bytes).then(other.id.cmp(&self.id)).is_gt()
    }
}

impl Entry {
    /// What objectives and constraints look at.
    pub fn measured(&self) -> Measured<'_> {
        Measured { counts: &self.counts, footprint_bytes: self.footprint_bytes, costs: &self.costs }
    }
}

impl Archive {
    /// Folds a measurement in. Another one of the same candidate changes nothing: measurements are deterministic, and
    /// the first one is on record.
    pub fn insert(&mut self, experiment: &Experiment, candidate: Candidate, counts: Counts) {
        let id = candidate.id();
        if self.entries.contains_key(&id) {
            return;
        }
        let footprint_bytes = footprint_bytes(&experiment.network, &candidate);
        // Most experiments decide by the footprint alone, and a hundred thousand candidates should not pay for the rest.
        let costs = match experiment.deciding_costs().iter().any(|cost| *cost != Cost::Footprint) {
            true => experiment.device.costs(&experiment.network, &candidate, &counts),
            false => Costs::from([(Cost::Footprint, footprint_bytes as f64)]),
        };
        let entry = Entry { candidate, counts, footprint_bytes, costs };
        self.front.insert(&losses(experiment, &entry), id);
        self.entries.insert(id, entry);
        if id == *self.float_id.get_or_insert_with(|| float_id(experiment)) {
            // Everything is compared with it, also what came before.
            let all: Vec<ContentHash> = self.entries.keys().copied().collect();
            all.into_iter().for_each(|id| self.consider(experiment, id));
        } else {
            self.consider(experiment, id);
        }
    }

    /// Takes a candidate for the chosen one if it is better.
    fn consider(&mut self, experiment: &Experiment, id: ContentHash) {
        let (Some(float), Some(entry)) = (self.float(experiment), self.get(&id)) else { return };
        if !experiment.constraints.allow(&experiment.network, &float.counts, entry.measured()) {
            return;
        }
        let value = experiment.trade_off.value(float.measured(), entry.measured());
        let new = Best { value, footprint_bytes: entry.footprint_bytes, id };
        if self.chosen.is_none_or(|best| new.beats(&best)) {
            self.chosen = Some(new);
        }
    }

    /// The entry of a candidate.
    pub fn get(&self, id: &ContentHash) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// All entries in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&ContentHash, &Entry)> {
        self.entries.iter()
    }

    /// Number of measured candidates.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The float model, once measured.
    pub fn float(&self, experiment: &Experiment) -> Option<&Entry> {
        self.get(&self.float_id.unwrap_or_else(|| float_id(experiment)))
    }

    /// The front, ordered by footprint, then quality, then id.
    pub fn front(&self) -> Vec<(ContentHash, &Entry)> {
        let entry = |id: ContentHash| Some((id, self.entries.get(&id)?));
        let mut front: Vec<_> = self.front.keys().into_iter().filter_map(entry).collect();
        front.sort_by_key(|(id, entry)| (entry.footprint_bytes, entry.counts.nll, *id));
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
    /// smaller one, then the one with the lower id. `None` if none meets them.
    pub fn chosen(&self) -> Option<(ContentHash, &Entry)> {
        let id = self.chosen?.id;
        Some((id, self.entries.get(&id)?))
    }
}

fn float_id(experiment: &Experiment) -> ContentHash {
    Candidate::float(&experiment.network).id()
}

fn losses(experiment: &Experiment, entry: &Entry) -> Vec<f64> {
    let loss =
        |objective: &crate::objective::Objective| objective.loss(&experiment.network, entry.measured());
    experiment.objectives.iter().map(loss).collect()
}

/// The result of an experiment as a document: the same bytes for the same measurements, whoever made them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontDocument {
    /// Id of the experiment.
    pub experiment: String,
    /// Content hash of the checkpoint.
    pub checkpoint: ContentHash,
    /// The axes of the front.
    pub objectives: Vec<crate::objective::Objective>,
    /// Candidates that were measured.
    pub measured: usize,
    /// Share of the reference box that the front dominates, 0 to 1; absent before the float model is measured.
    pub hypervolume: Option<f64>,
    /// The float model under the same protocol.
    pub float: Option<Row>,
    /// The candidate that the trade-off picked, if any meets the constraints.
    pub chosen: Option<Row>,
    /// The front by rising footprint.
    pub front: Vec<Row>,
}

/// One candidate of a [`FrontDocument`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Candidate id.
    pub candidate: ContentHash,
    /// Bytes as the exported file stores them.
    pub footprint_bytes: u64,
    /// Share of the float bytes that is saved.
    pub saving: f64,
    /// Perplexity, for a language model.
    pub perplexity: Option<f64>,
    /// Hits per sentence, for a classifier.
    pub accuracy: Option<f64>,
    /// Loss of quality against the float model; see [`quality_loss`].
    pub quality_loss: Option<f64>,
    /// Value of the trade-off.
    pub trade_off: Option<f64>,
    /// Spikes per neuron and token over all LIF populations.
    pub firing_rate: f64,
    /// The raw counts.
    pub counts: Counts,
    /// What it costs the device, per token where the unit says so; see [`crate::cost`]. Empty in files of a version
    /// that did not model costs.
    #[serde(default)]
    pub costs: Costs,
    /// The scheme of every unit.
    pub schemes: BTreeMap<String, String>,
    /// How one-dimensional parameters are stored, if not in float.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<String>,
    /// The quantized activations, by the matrix that they enter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub activations: BTreeMap<String, String>,
    /// The quantized membranes, by population.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub membranes: BTreeMap<String, String>,
}

impl FrontDocument {
    /// Reads the document off an archive.
    pub fn new(experiment: &Experiment, archive: &Archive) -> Self {
        let float = archive.float(experiment);
        let row = |(id, entry): (ContentHash, &Entry)| Row::new(experiment, float, id, entry);
        Self {
            experiment: experiment.id(),
            checkpoint: experiment.checkpoint,
            objectives: experiment.objectives.clone(),
            measured: archive.len(),
            hypervolume: archive.hypervolume(experiment),
            float: float.map(|entry| row((float_id(experiment), entry))),
            chosen: archive.chosen().map(row),
            front: archive.front().into_iter().map(row).collect(),
        }
    }

    /// The document as indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl Row {
    fn new(experiment: &Experiment, float: Option<&Entry>, id: ContentHash, entry: &Entry) -> Self {
        let network = &experiment.network;
        let trade_off = |float: &Entry| experiment.trade_off.value(float.measured(), entry.measured());
        let candidate = &entry.candidate;
        Self {
            candidate: id,
            footprint_bytes: entry.footprint_bytes,
            saving: saving(network, entry.footprint_bytes),
            perplexity: entry.counts.perplexity(),
            accuracy: entry.counts.accuracy(),
            quality_loss: float.map(|float| quality_loss(&float.counts, &entry.counts)),
            trade_off: float.map(trade_off),
            firing_rate: entry.counts.mean_firing_rate(network.channels),
            counts: entry.counts.clone(),
            costs: experiment.device.costs(network, candidate, &entry.counts),
            schemes: candidate.schemes().map(|(unit, s)| (unit.to_owned(), s.to_string())).collect(),
            vectors: Some(candidate.vectors()).filter(|s| *s != Scheme::Float).map(|s| s.to_string()),
            activations: candidate.activations().map(|(unit, s)| (unit.to_owned(), s.to_string())).collect(),
            membranes: candidate.membranes().map(|(name, s)| (name.to_owned(), s.to_string())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::experiment;
    use crate::measurement::Nll;

    fn counts(nats: f64) -> Counts {
        Counts { nll: Nll::from_nats(nats).unwrap(), tokens: 100, positions: 100, ..Counts::zero(4) }
    }

    /// Float at 300 nats, then uniform rungs of 8, 4 and 2 bits.
    fn archive(experiment: &Experiment, nats: [f64; 3]) -> Archive {
        let mut archive = Archive::default();
        archive.insert(experiment, Candidate::float(&experiment.network), counts(300.0));
        for (rung, nats) in nats.into_iter().enumerate() {
            archive.insert(experiment, experiment.space.uniform(&experiment.network, rung), counts(nats));
        }
        archive
    }

    #[test]
    fn the_chosen_candidate_meets_the_constraints() {
        let experiment = experiment();
        let good = archive(&experiment, [300.1, 301.0, 400.0]);
        let (id, _) = good.chosen().unwrap();
        assert_eq!(id, experiment.space.uniform(&experiment.network, 1).id());
        // Only the float model is left within 3 %.
        let bad = archive(&experiment, [310.0, 320.0, 400.0]);
        assert_eq!(bad.chosen().unwrap().0, Candidate::float(&experiment.network).id());
    }

    #[test]
    fn a_dominated_candidate_is_not_on_the_front() {
        let experiment = experiment();
        let archive = archive(&experiment, [302.0, 301.0, 400.0]);
        let ids: Vec<_> = archive.front().into_iter().map(|(id, _)| id).collect();
        let rung = |rung| experiment.space.uniform(&experiment.network, rung).id();
        assert_eq!(ids, [rung(2), rung(1), Candidate::float(&experiment.network).id()]);
    }

    #[test]
    fn the_order_of_arrival_leaves_no_trace() {
        let experiment = experiment();
        let forward = archive(&experiment, [300.1, 301.0, 400.0]);
        let mut backward = Archive::default();
        for (_, entry) in forward.iter().collect::<Vec<_>>().into_iter().rev() {
            for _ in 0..2 {
                backward.insert(&experiment, entry.candidate.clone(), entry.counts.clone());
            }
        }
        let document = |archive| FrontDocument::new(&experiment, archive).to_json();
        assert_eq!(document(&forward), document(&backward));
    }

    #[test]
    fn a_front_of_an_earlier_version_is_still_read() {
        let experiment = experiment();
        let archive = archive(&experiment, [300.1, 301.0, 400.0]);
        let document = FrontDocument::new(&experiment, &archive);
        let mut json = serde_json::to_value(&document).unwrap();
        for row in json["front"].as_array_mut().unwrap() {
            row.as_object_mut().unwrap().remove("costs").unwrap();
        }
        let read: FrontDocument = serde_json::from_value(json).unwrap();
        assert!(read.front.iter().all(|row| row.costs.is_empty()));
        assert_eq!(read.chosen, document.chosen);
    }

    #[test]
    fn nothing_measured_is_an_empty_document() {
        let document = FrontDocument::new(&experiment(), &Archive::default());
        assert_eq!((document.front.len(), document.chosen, document.hypervolume), (0, None, None));
    }
}
