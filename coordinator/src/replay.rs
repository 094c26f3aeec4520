//! Every measured candidate of an experiment, read off the store.
//!
//! A store keeps counts by trial and no candidates: they follow from the experiment. So the search is gone through once
//! more, with every answer from the store, and every candidate is handed on as it comes. Nobody waits for the driver; the
//! archive that a search looks back on takes a few hundred bytes per candidate meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use qslm_common::archive::Entry;
use qslm_common::candidate::{Candidate, CandidateId};
use qslm_common::constraints::{task_interval, task_loss};
use qslm_common::evidence::{Engines, Fingerprint};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::objective::quality_loss;
use qslm_common::origin::Origin;
use qslm_common::quality::Quality;
use qslm_common::tasks::TaskName;
use qslm_common::trial::Addressed;
use qslm_common::trial::TrialKey;
use qslm_proto::convert;
use qslm_proto::v1::{MeasuredCandidate, TaskResult};
use qslm_search::{Fate, Playback};

use crate::driver::ReplaySource;
use crate::store::{ArtifactError, Artifacts, Store, StoreError};

/// Candidates that are looked up and handed on at a time: a message of them stays below the 4 MB that gRPC allows by
/// itself.
const CHUNK: usize = 256;

/// Reasons why not all candidates were handed on.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a job made is not there, and the search reads it.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The experiment's strategy is none that there is.
    #[error("the strategy cannot be read: {0}")]
    Strategy(#[from] serde_json::Error),
    /// The coordinator stopped meanwhile.
    #[error("the coordinator is stopping")]
    Stopping,
    /// Nobody wants more of them.
    #[error("nobody listens any more")]
    Enough,
}

/// Calls `hand_on` with the measured candidates, many at a time, in the order in which the search first
/// proposes them. Candidates that are measured while this goes on may be among them. `hand_on` returns
/// whether it wants more.
///
/// # Errors
/// [`Stopped`] says why it ended early.
pub fn replay(
    source: &ReplaySource,
    mut hand_on: impl FnMut(Vec<MeasuredCandidate>) -> bool,
) -> Result<(), Stopped> {
    let (experiment, shards) = (source.record.experiment.clone(), source.record.shards);
    let failures = open(&source.store)?.failures(&experiment.id())?;
    let known = open(&source.store)?.engines()?;
    let mut playback = Playback::new(experiment, shards, failures.into_keys())?;
    let id = source.record.experiment.id();
    let bindings = open(&source.store)?.bindings(&id)?;
    open(&source.store)?.prunes(&id)?.into_iter().for_each(|candidate| playback.tell_off(candidate));
    open(&source.store)?.tells(&id)?.into_iter().for_each(|tell| playback.tell(Arc::new(tell)));
    let look_up = |trials: &[TrialKey]| Ok::<_, Stopped>(open(&source.store)?.look_up(trials, shards)?);
    while playback.propose(|_| Ok::<_, Stopped>(false))? {
        let mut under_way = false;
        for job in playback.take_jobs() {
            let Some(artifact) = bindings.get(&job.key) else {
                under_way |= !playback.has_failed(job.key);
                continue;
            };
            if job.job.is_read() {
                let document = Artifacts::of(open(&source.store)?.path()).document(artifact)?;
                playback.read_document(job.key, document);
            }
            playback.made(job.key, *artifact);
        }
        while playback.has_more() {
            let drawn = playback.draw(CHUNK);
            let mut found = Vec::new();
            let predicted: BTreeMap<_, _> = predicted_losses(&playback).collect();
            for drawn in playback.read(drawn, look_up)? {
                match playback.file(drawn, |trial| {
                    Ok::<_, Stopped>(open(&source.store)?.shard_results(trial, shards)?)
                })? {
                    Fate::Measured(trial, Some(engines)) => {
                        found.extend(described(&playback, &trial, &engines, &known, &predicted));
                    }
                    Fate::Open(..) => under_way = true,
                    Fate::Measured(_, None) | Fate::Failed | Fate::Pruned => {}
                }
            }
            if !found.is_empty() && !hand_on(found) {
                return Err(Stopped::Enough);
            }
        }
        // A search that is not finished goes no further than this.
        if under_way {
            break;
        }
    }
    Ok(())
}

fn open(store: &Weak<Store>) -> Result<Arc<Store>, Stopped> {
    store.upgrade().ok_or(Stopped::Stopping)
}

/// Losses of perplexity that the search expected, by candidate.
fn predicted_losses(playback: &Playback) -> impl Iterator<Item = (CandidateId, f64)> {
    let quality = playback.experiment().task.quality();
    let predictions = playback.predictions().into_iter().filter(move |_| quality == Quality::Perplexity);
    predictions.map(move |one| (one.candidate, quality.loss_of(one.predicted)))
}

/// A candidate that was measured, with who measured it; `None` if it is not in the archive.
fn described(
    playback: &Playback,
    trial: &Addressed,
    engines: &Engines,
    known: &BTreeMap<Fingerprint, String>,
    predicted: &BTreeMap<CandidateId, f64>,
) -> Option<MeasuredCandidate> {
    let (experiment, archive) = (playback.experiment(), playback.archive());
    let entry = archive.get(&trial.candidate)?;
    let name = |engine: &Fingerprint| known.get(engine).cloned().unwrap_or_else(|| engine.to_string());
    Some(MeasuredCandidate {
        stage: playback.stage().to_owned(),
        engines: engines.iter().map(name).collect(),
        predicted_loss: predicted.get(&trial.candidate).copied(),
        ..describe(experiment, &trial.trial.candidate, entry, archive.float(experiment))
    })
}

/// A candidate that was measured, beside the float model; without stage and engines.
pub(crate) fn describe(
    experiment: &Experiment,
    candidate: &Candidate,
    entry: &Entry,
    float: Option<&Entry>,
) -> MeasuredCandidate {
    let Entry { counts, spread, .. } = entry;
    let network = &experiment.network;
    let bytes = entry.footprint_bytes;
    let costs: BTreeMap<_, f64> = experiment.costs(candidate, counts);
    let Origin { checkpoint, data, protocol, engine } = experiment.origin();
    MeasuredCandidate {
        stage: String::new(),
        candidate: candidate.id().as_bytes().to_vec(),
        footprint_bytes: bytes,
        saving: saving(network, bytes),
        // Every search proposes the float model first; without it there is nothing to compare with.
        quality_loss: float.map(|float| quality_loss(&float.counts, counts)),
        quality_loss_interval: float.and_then(|float| entry.loss_interval(float)).map(Into::into),
        predicted_loss: None,
        counts: Some(convert::write_counts(counts, *spread)),
        tasks: counts
            .tasks
            .keys()
            .filter_map(|name| Some((name.to_string(), on_task(*name, entry, float)?)))
            .collect(),
        costs: costs.into_iter().map(|(cost, value)| (cost.to_string(), value)).collect(),
        schemes: schemes(candidate),
        firing_rate: counts.mean_firing_rate(network.channels),
        engines: Vec::new(),
        checkpoint,
        data,
        protocol,
        engine,
    }
}

/// What a candidate does on a further task, beside the float model.
fn on_task(name: TaskName, entry: &Entry, float: Option<&Entry>) -> Option<TaskResult> {
    let counts = entry.counts.tasks.get(&name)?;
    let interval = float.and_then(|float| task_interval(name, &float.counts, entry.measured()));
    Some(TaskResult {
        counts: Some(convert::write_counts(counts, entry.task_spreads.get(&name).copied())),
        quality_loss: float.and_then(|float| task_loss(name, &float.counts, &entry.counts)),
        quality_loss_interval: interval.map(Into::into),
    })
}

/// Words for everything that a candidate says.
fn schemes(candidate: &Candidate) -> String {
    let mut schemes: Vec<String> =
        candidate.schemes().map(|(unit, scheme)| format!("{unit}={scheme}")).collect();
    schemes.push(format!("vectors={}", candidate.vectors()));
    schemes.extend(candidate.codes().map(|(unit, artifact)| format!("codes:{unit}={artifact}")));
    schemes.extend(candidate.coded_bytes().map(|(unit, bytes)| format!("coded_bytes:{unit}={bytes}")));
    schemes.extend(candidate.activations().map(|(unit, scheme)| format!("activation:{unit}={scheme}")));
    schemes.extend(candidate.membranes().map(|(name, scheme)| format!("membrane:{name}={scheme}")));
    schemes.join(" ")
}
