//! The front as a document: the file that two runs are compared by.
//!
//! It is read off an archive and has the same bytes for the same measurements, whoever made them and in
//! whatever order they came. Keys are part of the interface; what is absent in files of an earlier version
//! has a default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::{Archive, Entry, Known};
use crate::candidate::{Candidate, CandidateId};
use crate::conditions::Conditions;
use crate::constraints::{task_interval, task_loss};
use crate::cost::Costs;
use crate::experiment::Experiment;
use crate::footprint::saving;
use crate::hash::ContentHash;
use crate::measurement::Counts;
use crate::objective::{Objective, quality_loss};
use crate::quality::Quality;
use crate::racing::Racing;
use crate::scheme::Scheme;
use crate::storage::Storage;
use crate::tasks::TaskName;
use crate::unmet::Unmet;

/// The result of an experiment as a document: the same bytes for the same measurements, whoever made them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontDocument {
    /// Id of the experiment.
    pub experiment: String,
    /// Content hash of the checkpoint.
    pub checkpoint: ContentHash,
    /// False if graphics cards measured or trained: whoever runs it again gets other last digits, and another trained
    /// candidate. Absent otherwise.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub reproducible: bool,
    /// The axes of the front.
    pub objectives: Vec<Objective>,
    /// What files of its candidates may store codes as; packed ones only if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<Storage>,
    /// Candidates that were measured, or pruned because they lose too much.
    pub measured: usize,
    /// Rule by which candidates were pruned, if they were; those that lose too much are not on the front
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub racing: Option<Racing>,
    /// Share of the reference box that the front dominates, 0 to 1; absent before the float model is
    /// measured.
    pub hypervolume: Option<f64>,
    /// The float model under the same protocol.
    pub float: Option<FrontRow>,
    /// The candidate that the trade-off picked, if any meets the constraints.
    pub chosen: Option<FrontRow>,
    /// The front by rising footprint.
    pub front: Vec<FrontRow>,
    /// Uniform candidates that were measured, the widest first: what one gets without a search. Absent in files of an
    /// earlier version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uniform: Vec<UniformRow>,
    /// Bounds with what is nearest to each, if nothing that was measured meets all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<Unmet>,
    /// Conditions of its measurements; absent in files of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Uniform candidate: every unit at the same level of the space's ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UniformRow {
    /// Scheme of the level.
    pub scheme: String,
    /// Row of the candidate.
    pub row: FrontRow,
}

/// One candidate of a [`FrontDocument`]. It has a field for every key of the document.
// A document: one field for each thing that is told of a candidate, as its readers know them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontRow {
    /// Candidate id.
    pub candidate: CandidateId,
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
    /// 95 % interval of the loss; absent where the spread is not known. See [`crate::spread`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_loss_interval: Option<(f64, f64)>,
    /// Divergence from the float model in nats per scored token or sentence; absent where the experiment does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// What it does on further tasks, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<TaskName, TaskRow>,
    /// Value of the trade-off.
    pub trade_off: Option<f64>,
    /// Spikes per neuron and token over all LIF populations; null where the network has none.
    #[serde(default)]
    pub firing_rate: Option<f64>,
    /// The raw counts.
    pub counts: Counts,
    /// Costs on the device, per token where the unit says so; see [`crate::cost`]. Empty in files of a
    /// version that did not model costs.
    #[serde(default)]
    pub costs: Costs,
    /// The scheme of every unit.
    pub schemes: BTreeMap<String, String>,
    /// Scheme of one-dimensional parameters, if not float.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<String>,
    /// Artifacts that hold calibrated codes, by unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ContentHash>,
    /// Bytes of the entropy-coded codes of units, where the candidate says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub coded_bytes: BTreeMap<String, u64>,
    /// The quantized activations, by the matrix that they enter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub activations: BTreeMap<String, String>,
    /// The quantized membranes, by population.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub membranes: BTreeMap<String, String>,
}

/// Quality of a candidate on a further task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Perplexity, if that is what the task measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Share of what is answered rightly, if that is what it measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Loss of quality against the float model.
    pub quality_loss: Option<f64>,
    /// 95 % interval of the loss, where the spread is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_loss_interval: Option<(f64, f64)>,
}

impl TaskRow {
    /// Quality that was measured.
    pub fn quality(&self) -> Quality {
        if self.perplexity.is_some() { Quality::Perplexity } else { Quality::Accuracy }
    }

    /// Value of the quality.
    pub fn quality_value(&self) -> Option<f64> {
        self.perplexity.or(self.accuracy)
    }
}

impl FrontDocument {
    /// Reads the document off an archive.
    pub fn new(experiment: &Experiment, archive: &Archive) -> Self {
        let float = archive.float(experiment);
        let row = |known: Known<'_>| FrontRow::new(experiment, float, known);
        let as_is = Candidate::float(&experiment.network);
        Self {
            experiment: experiment.id(),
            checkpoint: experiment.checkpoint,
            reproducible: experiment.is_reproducible(),
            objectives: experiment.objectives.clone(),
            storage: experiment.space.storage.clone(),
            measured: archive.len() + archive.pruned(),
            racing: experiment.racing,
            hypervolume: archive.hypervolume(experiment),
            float: float.map(|entry| row(Known { id: as_is.id(), candidate: &as_is, entry })),
            chosen: archive.chosen().map(row),
            front: archive.front().into_iter().map(row).collect(),
            uniform: uniform(experiment, archive),
            unmet: archive.unmet(experiment),
            conditions: Some(experiment.conditions()),
        }
    }

    /// The document as indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers are JSON") + "\n"
    }
}

impl FrontRow {
    /// Quality that was measured.
    pub fn quality(&self) -> Quality {
        if self.perplexity.is_some() { Quality::Perplexity } else { Quality::Accuracy }
    }

    /// Value of the quality.
    pub fn quality_value(&self) -> Option<f64> {
        match self.quality() {
            Quality::Perplexity => self.perplexity,
            Quality::Accuracy => self.accuracy,
        }
    }

    fn new(experiment: &Experiment, float: Option<&Entry>, known: Known<'_>) -> Self {
        let Known { id, candidate, entry } = known;
        let network = &experiment.network;
        let trade_off = |float: &Entry| experiment.trade_off.value(float.measured(), entry.measured());
        Self {
            candidate: id,
            footprint_bytes: entry.footprint_bytes,
            saving: saving(network, entry.footprint_bytes),
            perplexity: entry.counts.perplexity(),
            accuracy: entry.counts.accuracy(),
            quality_loss: float.map(|float| quality_loss(&float.counts, &entry.counts)),
            quality_loss_interval: float.and_then(|float| entry.loss_interval(float)),
            kl: entry.counts.mean_kl(),
            tasks: task_rows(float, entry),
            trade_off: float.map(trade_off),
            firing_rate: entry.counts.mean_firing_rate(network.channels),
            counts: entry.counts.clone(),
            costs: experiment.costs(candidate, &entry.counts),
            schemes: candidate.schemes().map(|(unit, s)| (unit.to_owned(), s.to_string())).collect(),
            vectors: Some(candidate.vectors()).filter(|s| *s != Scheme::Float).map(|s| s.to_string()),
            codes: candidate.codes().map(|(unit, artifact)| (unit.to_owned(), artifact)).collect(),
            coded_bytes: candidate.coded_bytes().map(|(unit, bytes)| (unit.to_owned(), bytes)).collect(),
            activations: candidate.activations().map(|(unit, s)| (unit.to_owned(), s.to_string())).collect(),
            membranes: candidate.membranes().map(|(name, s)| (name.to_owned(), s.to_string())).collect(),
        }
    }
}

/// What an entry says of further tasks.
fn task_rows(float: Option<&Entry>, entry: &Entry) -> BTreeMap<TaskName, TaskRow> {
    let row = |(name, counts): (&TaskName, &Counts)| {
        let loss = float.and_then(|float| task_loss(*name, &float.counts, &entry.counts));
        let interval = float.and_then(|float| task_interval(*name, &float.counts, entry.measured()));
        let (perplexity, accuracy) = (counts.perplexity(), counts.accuracy());
        let row = TaskRow { perplexity, accuracy, quality_loss: loss, quality_loss_interval: interval };
        (*name, row)
    };
    entry.counts.tasks.iter().map(row).collect()
}

/// The uniform candidates of the experiment's ladder that are on record.
fn uniform(experiment: &Experiment, archive: &Archive) -> Vec<UniformRow> {
    let (space, network) = (&experiment.space, &experiment.network);
    let float = archive.float(experiment);
    let at = |(level, scheme): (usize, Scheme)| {
        let candidate = space.uniform(network, level);
        let id = candidate.id();
        let known = Known { id, candidate: &candidate, entry: archive.get(&id)? };
        Some(UniformRow { scheme: scheme.to_string(), row: FrontRow::new(experiment, float, known) })
    };
    space.ladder().enumerate().filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::{archive, counts};
    use crate::backend::Backend;
    use crate::experiment::tests::experiment;

    #[test]
    fn the_order_of_arrival_leaves_no_trace() {
        let experiment = experiment();
        let nats = [300.1, 301.0, 400.0];
        let forward = archive(&experiment, nats);
        let mut backward = Archive::default();
        for (level, nats) in nats.into_iter().enumerate().rev() {
            for _ in 0..2 {
                let candidate = experiment.space.uniform(&experiment.network, level);
                backward.insert(&experiment, &candidate, counts(nats));
            }
        }
        backward.insert(&experiment, &Candidate::float(&experiment.network), counts(300.0));
        let document = |archive| FrontDocument::new(&experiment, archive).to_json();
        assert_eq!(document(&forward), document(&backward));
    }

    #[test]
    fn a_front_of_an_earlier_version_is_still_read() {
        let experiment = experiment();
        let archive = archive(&experiment, [300.1, 301.0, 400.0]);
        let document = FrontDocument::new(&experiment, &archive);
        let mut json = serde_json::to_value(&document).unwrap();
        json.as_object_mut().unwrap().remove("conditions").unwrap();
        for row in json["front"].as_array_mut().unwrap() {
            row.as_object_mut().unwrap().remove("costs").unwrap();
        }
        let read: FrontDocument = serde_json::from_value(json).unwrap();
        assert!(read.front.iter().all(|row| row.costs.is_empty()));
        assert_eq!(read.chosen, document.chosen);
    }

    #[test]
    fn the_uniform_candidates_that_were_measured_are_named_by_their_scheme() {
        let experiment = experiment();
        let document = FrontDocument::new(&experiment, &archive(&experiment, [300.1, 301.0, 400.0]));
        let named: Vec<_> =
            document.uniform.iter().map(|uniform| (&*uniform.scheme, uniform.row.candidate)).collect();
        let schemes = experiment.space.ladder().map(|scheme| scheme.to_string()).collect::<Vec<_>>();
        let expected: Vec<_> = (0..3)
            .map(|level| (&*schemes[level], experiment.space.uniform(&experiment.network, level).id()))
            .collect();
        assert_eq!(named, expected);
        let read: FrontDocument = serde_json::from_str(&document.to_json()).unwrap();
        assert_eq!(read, document);
        // What is not there leaves no trace.
        let mut archive = Archive::default();
        archive.insert(&experiment, &Candidate::float(&experiment.network), counts(300.0));
        let json = FrontDocument::new(&experiment, &archive).to_json();
        assert!(!json.contains("uniform") && !json.contains("unmet"), "{json}");
    }

    #[test]
    fn a_front_says_so_where_it_is_not_reproducible() {
        let here = experiment();
        let there = Experiment { backend: Backend::Cuda, ..here.clone() };
        let json = |of: &Experiment| FrontDocument::new(of, &Archive::default()).to_json();
        assert!(!json(&here).contains("reproducible"));
        assert!(json(&there).contains("\n  \"reproducible\": false,\n"), "{}", json(&there));
        let read = |of: &Experiment| serde_json::from_str::<FrontDocument>(&json(of)).unwrap();
        assert_eq!((read(&here).reproducible, read(&there).reproducible), (true, false));
    }

    #[test]
    fn nothing_measured_is_an_empty_document() {
        let document = FrontDocument::new(&experiment(), &Archive::default());
        assert_eq!((document.front.len(), document.chosen, document.hypervolume), (0, None, None));
    }
}
