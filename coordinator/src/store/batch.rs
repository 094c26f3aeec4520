//! Changes of a store: a batch of them is one transaction, all or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use qslm_common::candidate::CandidateId;
use qslm_common::evidence::{Evidence, Fingerprint};
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobKey};
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::{Made, WorkKey};
use qslm_report::{Comparison, Sample};
use qslm_search::Tell;
use redb::{ReadableTable, WriteTransaction};

use super::database::Store;
use super::error::StoreError;
use super::record::{
    Event, ExperimentRecord, decode_counts, decode_made, decode_reasons, encode_comparison, encode_counts,
    encode_event, encode_experiment, encode_made, encode_reasons, encode_sample, encode_tell,
};
use super::tables::{
    BINDINGS, COMPARISONS, CONFLICTS, ENGINES, EVENTS, EXPERIMENTS, FAILURES, JOBS, KEPT_EVENTS, MADE,
    MADE_CONFLICTS, MEASUREMENTS, PRUNES, RETRIED, SHARDS, TELLS, TIMELINE,
};

/// Change of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// An experiment was submitted or changed.
    Experiment(ExperimentRecord),
    /// A shard of a trial was settled. Changes nothing if the trial was measured.
    Shard(TrialKey, Shard, Evidence),
    /// A trial was measured; its shards are not needed any more.
    Measurement(TrialKey, Evidence),
    /// Shard results of a measured trial, all of them, kept because other trials race against them.
    ShardResults(TrialKey, BTreeMap<Shard, Evidence>),
    /// A job was asked for.
    Job(Job),
    /// A job made an artifact, whose bytes are on disk.
    Made(JobKey, Made),
    /// An experiment was given this artifact of a job.
    Binding(String, JobKey, ContentHash),
    /// The description of an engine that results name by its fingerprint.
    Engine(Fingerprint, String),
    /// A trial or job of an experiment failed for good.
    Failure(String, WorkKey, String),
    /// A failed trial or job of an experiment is opened again; that it failed stays on record.
    Retry(String, WorkKey),
    /// An experiment was told a generation under this number.
    Tell(String, u64, Arc<Tell>),
    /// Somebody outside told to prune a candidate of an experiment.
    Prune(String, CandidateId),
    /// The progress of an experiment at a time.
    Sample(String, Sample),
    /// Points of another tool; they replace what the same source found before.
    Comparison(String, Comparison),
    /// Something happened that people are told of.
    Event(Event),
}

impl Store {
    /// Writes a batch. On return it is on disk.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the batch is written then.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| write_all(transaction, writes))
    }
}

fn write_all(transaction: &WriteTransaction, writes: &[Write]) -> Result<(), redb::Error> {
    // The tables of results are opened once per batch, the others where they are needed.
    let mut experiments = transaction.open_table(EXPERIMENTS)?;
    let mut measurements = transaction.open_table(MEASUREMENTS)?;
    let mut shards = transaction.open_table(SHARDS)?;
    let mut failures = transaction.open_table(FAILURES)?;
    for write in writes {
        match write {
            Write::Experiment(record) => {
                let id = record.experiment.id();
                experiments.insert(id.as_str(), encode_experiment(record).as_slice())?;
            }
            Write::Shard(key, shard, evidence) => {
                let at = (key.as_bytes(), shard.of, shard.index);
                let record = encode_counts(&evidence.counts, &evidence.backing);
                let known = shards.get(at)?.map(|known| decode_counts(known.value()));
                match known {
                    None if measurements.get(key.as_bytes())?.is_none() => {
                        shards.insert(at, record.as_slice())?;
                    }
                    None => {}
                    Some(Ok(known)) if known.counts == evidence.counts => {}
                    // The first ones stay; that there were others is not hidden.
                    Some(_) => {
                        transaction.open_multimap_table(CONFLICTS)?.insert(at, record.as_slice())?;
                    }
                }
            }
            Write::Engine(fingerprint, description) => {
                transaction.open_table(ENGINES)?.insert(fingerprint.0, description.as_str())?;
            }
            Write::Measurement(key, Evidence { counts, backing }) => {
                measurements.insert(key.as_bytes(), encode_counts(counts, backing).as_slice())?;
                let key = key.as_bytes();
                shards.retain_in((key, 0, 0)..=(key, u32::MAX, u32::MAX), |_, _| false)?;
            }
            Write::ShardResults(key, results) => {
                for (shard, Evidence { counts, backing }) in results {
                    let at = (key.as_bytes(), shard.of, shard.index);
                    shards.insert(at, encode_counts(counts, backing).as_slice())?;
                }
            }
            Write::Job(job) => {
                let key = job.key();
                transaction.open_table(JOBS)?.insert(key.as_bytes(), job.encode().as_str())?;
            }
            Write::Made(key, made) => {
                let (key, record) = (key.as_bytes(), encode_made(made));
                let mut table = transaction.open_table(MADE)?;
                let known = table.get(key)?.map(|known| decode_made(known.value()));
                match known {
                    None => drop(table.insert(key, record.as_slice())?),
                    Some(Ok(known)) if known.artifact == made.artifact => {}
                    // As for counts: the first one stays.
                    Some(_) => {
                        transaction.open_multimap_table(MADE_CONFLICTS)?.insert(key, record.as_slice())?;
                    }
                }
            }
            Write::Binding(experiment, job, artifact) => {
                let at = (experiment.as_str(), job.as_bytes());
                transaction.open_table(BINDINGS)?.insert(at, artifact.as_bytes())?;
            }
            Write::Failure(experiment, key, reason) => {
                failures.insert((experiment.as_str(), key.as_bytes()), reason.as_str())?;
            }
            Write::Retry(experiment, key) => {
                let at = (experiment.as_str(), key.as_bytes());
                let reason = failures.remove(at)?.map(|reason| reason.value().to_owned());
                let mut retried = transaction.open_table(RETRIED)?;
                let mut reasons = retried.get(at)?.map_or(Vec::new(), |known| decode_reasons(known.value()));
                reasons.extend(reason);
                retried.insert(at, encode_reasons(&reasons).as_str())?;
            }
            Write::Tell(experiment, number, tell) => {
                let at = (experiment.as_str(), *number);
                transaction.open_table(TELLS)?.insert(at, encode_tell(tell).as_slice())?;
            }
            Write::Prune(experiment, candidate) => {
                transaction.open_table(PRUNES)?.insert((experiment.as_str(), candidate.as_bytes()), ())?;
            }
            Write::Comparison(experiment, comparison) => {
                let at = (experiment.as_str(), comparison.source.as_str());
                let comparison = encode_comparison(comparison);
                transaction.open_table(COMPARISONS)?.insert(at, comparison.as_slice())?;
            }
            Write::Event(event) => {
                let mut events = transaction.open_table(EVENTS)?;
                events.insert(event.number, encode_event(event).as_slice())?;
                if let Some(oldest) = event.number.checked_sub(KEPT_EVENTS as u64) {
                    events.remove(oldest)?;
                }
            }
            Write::Sample(experiment, sample) => {
                let at = (experiment.as_str(), sample.unix_ms);
                transaction.open_table(TIMELINE)?.insert(at, encode_sample(sample).as_slice())?;
            }
        }
    }
    Ok(())
}
