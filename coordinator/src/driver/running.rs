//! One experiment under way: its search, ledger and archive, and what people see of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qslm_common::archive::{Archive, FrontDocument};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::objective::quality_loss;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{Best, ExperimentStatus};
use tokio::sync::watch;

use super::request::{Finished, ShardOutcome};
use crate::ledger::{Grant, LeaseId, Ledger, Limits, Millis, Outcome, Settled};
use crate::search::{self, Search, Step};
use crate::store::{ExperimentRecord, Store, StoreError, Write};

/// Throughput is an average over this time.
const SPEED_WINDOW: Millis = 10_000;
/// Different reasons of failed trials that a status carries.
const SHOWN_FAILURES: usize = 5;

/// An experiment and everything that goes with it.
pub(super) struct Running {
    id: String,
    record: ExperimentRecord,
    search: Box<dyn Search>,
    ledger: Ledger,
    archive: Archive,
    /// Failed trials with their reasons.
    failures: BTreeMap<ContentHash, String>,
    finished: bool,
    stage: &'static str,
    generation_trials: u32,
    /// Trials measured since the coordinator started.
    evaluated: u64,
    /// When how many tokens were reported.
    speed: VecDeque<(Millis, u64)>,
    /// The sum of them.
    speed_tokens: u64,
    /// What a status says of the archive; worked out when the archive changes.
    summary: Option<Summary>,
    status: watch::Sender<ExperimentStatus>,
}

#[derive(Clone)]
struct Summary {
    front: u32,
    hypervolume: Option<f64>,
    best: Option<Best>,
}

impl Running {
    pub(super) fn new(record: ExperimentRecord, failures: BTreeMap<ContentHash, String>) -> Self {
        Self {
            id: record.experiment.id(),
            search: search::start(&record.experiment),
            record,
            ledger: Ledger::new(Limits::default()),
            archive: Archive::default(),
            failures,
            finished: false,
            stage: "",
            generation_trials: 0,
            evaluated: 0,
            speed: VecDeque::new(),
            speed_tokens: 0,
            summary: None,
            status: watch::Sender::new(ExperimentStatus::default()),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn experiment(&self) -> &Experiment {
        &self.record.experiment
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.record.cancelled
    }

    /// Ends the experiment or lets it go on. Returns the record to store.
    pub(super) fn set_cancelled(&mut self, cancelled: bool) -> ExperimentRecord {
        if !self.finished && self.record.cancelled != cancelled {
            self.record.cancelled = cancelled;
            // The search starts over and finds what was measured, so no half-open generation is kept.
            self.ledger.clear();
            self.search = search::start(&self.record.experiment);
        }
        self.record.clone()
    }

    /// Lets the search propose generations until one has to be measured, or it is done.
    pub(super) fn advance(&mut self, store: &Store) -> Result<(), StoreError> {
        while !self.finished && !self.record.cancelled && self.ledger.is_empty() {
            let generation = match self.search.next(&self.archive) {
                Step::Measure(generation) => generation,
                Step::Finished => {
                    self.finished = true;
                    break;
                }
            };
            self.stage = generation.stage;
            self.generation_trials = generation.candidates.len() as u32;
            for candidate in generation.candidates {
                if self.archive.get(&candidate.id()).is_some() {
                    continue;
                }
                let trial = self.experiment().trial(candidate);
                let key = trial.key();
                if self.failures.contains_key(&key) {
                    continue;
                }
                if let Some(counts) = store.measurement(&key)? {
                    self.insert(trial.candidate, counts);
                    continue;
                }
                let shards = store.shards(&key, self.record.shards)?;
                let opened = self.ledger.open(trial, self.record.shards, &shards);
                // A crash between the last shard and the sum leaves a trial whose shards are all there.
                let mut writes = Vec::new();
                self.close(opened, &mut writes);
                store.commit(&writes)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, candidate: qslm_common::candidate::Candidate, counts: Counts) {
        self.archive.insert(&self.record.experiment, candidate, counts);
        self.summary = None;
    }

    /// Takes what a worker made of a shard, if the shard is one of this experiment's.
    pub(super) fn settle(&mut self, finished: &Finished, now: Millis, writes: &mut Vec<Write>) {
        let settled = match &finished.outcome {
            ShardOutcome::Counts(counts) => {
                let settled = self.ledger.settle(finished.trial, finished.shard, counts.clone(), now);
                if matches!(settled, Settled::Recorded) {
                    writes.push(Write::Shard(finished.trial, finished.shard, counts.clone()));
                }
                if matches!(settled, Settled::Recorded | Settled::Complete(..)) {
                    self.speed.push_back((now, counts.positions));
                    self.speed_tokens = self.speed_tokens.saturating_add(counts.positions);
                }
                settled
            }
            ShardOutcome::Failure { reason, retryable } => {
                self.ledger.fail(finished.lease, *retryable, reason)
            }
        };
        match &settled {
            Settled::Conflict => {
                tracing::error!(trial = %finished.trial, shard = ?finished.shard, "a shard came back with other counts than were recorded; the first ones stay");
            }
            Settled::Implausible => {
                tracing::warn!(trial = %finished.trial, lease = finished.lease, "refused counts that this network cannot give");
                let reason = "a worker reported counts that this network cannot give";
                let failed = self.ledger.fail(finished.lease, true, reason);
                self.close(failed, writes);
            }
            _ => {}
        }
        self.close(settled, writes);
    }

    /// Files a closed trial.
    fn close(&mut self, settled: Settled, writes: &mut Vec<Write>) {
        match settled {
            Settled::Complete(key, Outcome::Measured(trial, counts)) => {
                writes.push(Write::Measurement(key, counts.clone()));
                self.evaluated += 1;
                self.insert(trial.candidate, counts);
            }
            Settled::Complete(key, Outcome::Failed(trial, reason)) => {
                let candidate = trial.candidate.id().short();
                tracing::warn!(experiment = self.id, candidate, reason, "trial failed");
                writes.push(Write::Failure(self.id.clone(), key, reason.clone()));
                self.failures.insert(key, reason);
            }
            _ => {}
        }
    }

    pub(super) fn expire(&mut self, now: Millis, writes: &mut Vec<Write>) {
        for (key, outcome) in self.ledger.expire(now) {
            self.close(Settled::Complete(key, outcome), writes);
        }
    }

    pub(super) fn extend(&mut self, worker: &str, held: &mut BTreeSet<LeaseId>, ends: Millis) {
        self.ledger.extend(worker, held, ends);
    }

    pub(super) fn grant(&mut self, lease: LeaseId, worker: &str, now: Millis, ends: Millis) -> Option<Grant> {
        self.ledger.grant(lease, worker, now, ends)
    }

    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.ledger.next_expiry()
    }

    pub(super) fn front_document(&mut self) -> String {
        FrontDocument::new(self.experiment(), &self.archive).to_json()
    }

    pub(super) fn watch(&self) -> watch::Receiver<ExperimentStatus> {
        self.status.subscribe()
    }

    /// Shows watchers the status if it changed.
    pub(super) fn publish(&mut self, now: Millis, workers: u32) {
        let status = self.status(now, workers);
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }

    pub(super) fn status(&mut self, now: Millis, workers: u32) -> ExperimentStatus {
        while let Some((_, tokens)) = self.speed.pop_front_if(|(at, _)| *at + SPEED_WINDOW < now) {
            self.speed_tokens = self.speed_tokens.saturating_sub(tokens);
        }
        // Over the time since the oldest report in the window, which is not yet full at the start.
        let since = self.speed.front().map_or(0, |(at, _)| now - at).max(1000);
        let summary = self.summary();
        let reasons: BTreeSet<&String> = self.failures.values().collect();
        let shards = self.ledger.shard_counts();
        let state = match (self.finished, self.record.cancelled) {
            (true, _) => State::Finished,
            (false, true) => State::Cancelled,
            (false, false) => State::Running,
        };
        ExperimentStatus {
            id: self.id.clone(),
            state: state.into(),
            stage: self.stage.to_owned(),
            generation_settled: self.generation_trials.saturating_sub(self.ledger.open_trials() as u32),
            generation_trials: self.generation_trials,
            measured: self.archive.len() as u64,
            failed: self.failures.len() as u64,
            shards_settled: shards.settled,
            shards_leased: shards.leased,
            shards_pending: shards.pending,
            evaluated: self.evaluated,
            workers,
            tokens_per_second: self.speed_tokens as f64 * 1000.0 / since as f64,
            front: summary.front,
            hypervolume: summary.hypervolume,
            best: summary.best,
            remaining_at_most: self.search.remaining_at_most(),
            failures: reasons.into_iter().take(SHOWN_FAILURES).cloned().collect(),
        }
    }

    fn summary(&mut self) -> Summary {
        if let Some(summary) = &self.summary {
            return summary.clone();
        }
        let experiment = &self.record.experiment;
        let float = self.archive.float(experiment);
        let best = self.archive.chosen().zip(float).map(|((id, entry), float)| Best {
            candidate: id.as_bytes().to_vec(),
            saving: saving(&experiment.network, entry.footprint_bytes),
            quality: entry.counts.perplexity().or(entry.counts.accuracy()).unwrap_or(0.0),
            quality_loss: quality_loss(&float.counts, &entry.counts),
        });
        let summary = Summary {
            front: self.archive.front_len() as u32,
            hypervolume: self.archive.hypervolume(experiment),
            best,
        };
        self.summary = Some(summary.clone());
        summary
    }
}
