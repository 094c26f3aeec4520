//! Every measured candidate of an experiment, read off the store.
//!
//! A store keeps counts by trial and no candidates: they follow from the experiment. So the search is gone through once
//! more, with every answer from the store, and every candidate is handed on as it comes. Nobody waits for the driver; the
//! archive that a search looks back on takes a few hundred bytes per candidate meanwhile.

use std::collections::BTreeMap;
use std::sync::Weak;

use qslm_common::archive::Archive;
use qslm_common::candidate::Candidate;
use qslm_common::evidence::Evidence;
use qslm_common::experiment::Experiment;
use qslm_common::footprint::{footprint_bytes, saving};
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::objective::quality_loss;
use qslm_common::origin::Origin;
use qslm_common::racing::Race;
use qslm_common::trial::Addressed;
use qslm_proto::v1::MeasuredCandidate;

use crate::driver::ReplaySource;
use crate::search::{self, Step};
use crate::store::{Store, StoreError, Stored};

/// Candidates that are looked up and handed on at a time: a message of them stays below the 4 MB that gRPC allows by
/// itself.
const CHUNK: usize = 256;

/// Why not all candidates were handed on.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator stopped meanwhile.
    #[error("the coordinator is stopping")]
    Stopping,
    /// Nobody wants more of them.
    #[error("nobody listens any more")]
    Enough,
}

/// Calls `hand_on` with the measured candidates, many at a time, in the order in which the search first proposes them.
/// What is measured while this goes on may be among them. `hand_on` returns whether it wants more.
///
/// # Errors
/// [`Stopped`] says why it ended early.
pub fn replay(
    source: &ReplaySource,
    mut hand_on: impl FnMut(Vec<MeasuredCandidate>) -> bool,
) -> Result<(), Stopped> {
    let experiment = &source.record.experiment;
    let failures = open(&source.store)?.failures(&experiment.id())?;
    let known = open(&source.store)?.engines()?;
    let mut search = search::start(experiment);
    let float_id = Candidate::float(&experiment.network).id();
    let (mut archive, mut float, mut race) = (Archive::default(), None, None);
    let shards = source.record.shards;
    while let Step::Measure(generation) = search.next(&archive) {
        let candidates = &generation.candidates;
        let mut under_way = false;
        for start in (0..candidates.len()).step_by(CHUNK) {
            let chunk = (start..candidates.len().min(start + CHUNK)).filter_map(|at| candidates.get(at));
            let task = generation.task.as_ref();
            let trials: Vec<Addressed> =
                chunk.map(|candidate| experiment.trial_of(task, candidate).into()).collect();
            let keys: Vec<ContentHash> = trials.iter().map(|trial| trial.key).collect();
            let mut found = Vec::new();
            for (trial, stored) in trials.iter().zip(open(&source.store)?.look_up(&keys, shards)?) {
                let (counts, engines) = match stored {
                    Stored::Measured(Evidence { counts, engines }) => (counts, engines),
                    Stored::Shards(parts) => {
                        let lost = |race: &Race| search::has_lost(race, &parts, shards);
                        if generation.may_race && race.as_ref().is_some_and(lost) {
                            archive.stop(trial.candidate);
                        } else {
                            under_way |= !failures.contains_key(&trial.key);
                        }
                        continue;
                    }
                };
                if generation.task.is_some() {
                    // Not on all data, so nothing to show beside what is.
                    archive.insert_probe(trial.candidate, counts);
                } else if archive.get(&trial.candidate).is_none() {
                    // Every search proposes the float model first; without it there is nothing to compare with.
                    if trial.candidate == float_id {
                        float = Some(counts.clone());
                        if experiment.racing.is_some() {
                            let parts = open(&source.store)?.parts(&trial.key, shards)?;
                            race = search::race(experiment, &counts, &parts, shards);
                        }
                    }
                    let engines = engines.iter();
                    let names = engines
                        .map(|engine| known.get(engine).cloned().unwrap_or_else(|| engine.to_string()));
                    found.push(MeasuredCandidate {
                        engines: names.collect(),
                        ..describe(experiment, generation.stage, trial, &counts, float.as_ref())
                    });
                    archive.insert(experiment, &trial.trial.candidate, counts);
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

fn open(store: &Weak<Store>) -> Result<std::sync::Arc<Store>, Stopped> {
    store.upgrade().ok_or(Stopped::Stopping)
}

fn describe(
    experiment: &Experiment,
    stage: &str,
    trial: &Addressed,
    counts: &Counts,
    float: Option<&Counts>,
) -> MeasuredCandidate {
    let (network, candidate) = (&experiment.network, &trial.trial.candidate);
    let bytes = footprint_bytes(network, candidate);
    let mut schemes: Vec<String> =
        candidate.schemes().map(|(unit, scheme)| format!("{unit}={scheme}")).collect();
    schemes.push(format!("vectors={}", candidate.vectors()));
    schemes.extend(candidate.activations().map(|(unit, scheme)| format!("activation:{unit}={scheme}")));
    schemes.extend(candidate.membranes().map(|(name, scheme)| format!("membrane:{name}={scheme}")));
    let costs: BTreeMap<_, f64> = experiment.device.costs(network, candidate, counts);
    let Origin { checkpoint, data, protocol, engine } = experiment.origin();
    MeasuredCandidate {
        stage: stage.to_owned(),
        candidate: trial.candidate.as_bytes().to_vec(),
        footprint_bytes: bytes,
        saving: saving(network, bytes),
        quality_loss: float.map(|float| quality_loss(float, counts)),
        counts: Some(counts.into()),
        costs: costs.into_iter().map(|(cost, value)| (cost.to_string(), value)).collect(),
        schemes: schemes.join(" "),
        firing_rate: counts.mean_firing_rate(network.channels),
        engines: Vec::new(),
        checkpoint,
        data,
        protocol,
        engine,
    }
}
