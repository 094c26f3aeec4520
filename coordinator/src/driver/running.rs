//! One experiment under way: its search, generation and archive, and what people see of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use qslm_common::archive::{Archive, FrontDocument};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::hash::ContentHash;
use qslm_common::measurement::Counts;
use qslm_common::objective::quality_loss;
use qslm_common::trial::Addressed;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{Best, ExperimentStatus};
use tokio::sync::watch;

use crate::ledger::{Closed, Ledger, Millis, Owner, Settled};
use crate::search::{self, Candidates, Search, Step};
use crate::store::{ExperimentRecord, Store, StoreError, Stored};

/// Throughput is an average over this time.
const SPEED_WINDOW: Millis = 10_000;
/// Different reasons of failed trials that a status carries.
const SHOWN_FAILURES: usize = 5;
/// Shards that are kept ready for workers. The rest of a generation is drawn when these are out.
const READY: u32 = 4096;
/// Candidates that are looked up at a time.
const CHUNK: usize = 2048;
/// Candidates below which a second thread is not worth its start.
const WORTH_A_THREAD: usize = 512;

/// An experiment and everything that goes with it.
pub(super) struct Running {
    id: String,
    owner: Owner,
    record: ExperimentRecord,
    search: Box<dyn Search>,
    /// What is being measured, and how much of it was drawn.
    generation: Option<(Candidates, usize)>,
    /// Whether more of the generation is to be looked up before workers have to wait.
    looking_up: bool,
    archive: Archive,
    /// Failed trials with their reasons.
    failures: BTreeMap<ContentHash, String>,
    finished: bool,
    stage: &'static str,
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
    pub(super) fn new(
        owner: Owner,
        record: ExperimentRecord,
        failures: BTreeMap<ContentHash, String>,
    ) -> Self {
        Self {
            id: record.experiment.id(),
            owner,
            search: search::start(&record.experiment),
            record,
            generation: None,
            looking_up: false,
            archive: Archive::default(),
            failures,
            finished: false,
            stage: "",
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

    pub(super) fn record(&self) -> &ExperimentRecord {
        &self.record
    }

    fn experiment(&self) -> &Experiment {
        &self.record.experiment
    }

    pub(super) fn priority(&self) -> i32 {
        self.record.priority
    }

    /// Whether workers may get work of it.
    pub(super) fn is_active(&self) -> bool {
        !self.finished && !self.record.cancelled && !self.record.paused
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn is_looking_up(&self) -> bool {
        self.looking_up
    }

    /// Takes over what a person changed. Whoever cancels withdraws the experiment from the ledger, too.
    pub(super) fn change(&mut self, record: ExperimentRecord) {
        if record.cancelled && !self.record.cancelled && !self.finished {
            // The search starts over and finds what was measured, so no half-open generation is kept.
            self.generation = None;
            self.search = search::start(&record.experiment);
        }
        self.record = record;
    }

    /// Lets the search go on until there are shards enough for workers, or it is done, or a chunk of candidates was
    /// looked up. Call it when everything that was settled is on disk, for it reads the store. Returns trials that
    /// turned out to be complete, because a crash came between the last shard and the sum.
    pub(super) fn advance(&mut self, ledger: &mut Ledger, store: &Store) -> Result<Vec<Closed>, StoreError> {
        let mut closed = Vec::new();
        let mut left = CHUNK;
        self.looking_up = false;
        while self.is_active() {
            let ready = ledger.shard_counts(self.owner).pending;
            match &self.generation {
                Some((candidates, next)) if *next < candidates.len() => {
                    if ready >= READY {
                        break;
                    }
                    if left == 0 {
                        self.looking_up = true;
                        break;
                    }
                    let wanted = (READY - ready).div_ceil(self.record.shards) as usize;
                    left -= self.draw(wanted.min(left), ledger, store, &mut closed)?;
                }
                _ if ledger.open_trials(self.owner) > 0 || !closed.is_empty() => break,
                _ => match self.search.next(&self.archive) {
                    Step::Measure(generation) => {
                        self.stage = generation.stage;
                        self.generation = Some((generation.candidates, 0));
                    }
                    Step::Finished => self.finished = true,
                },
            }
        }
        Ok(closed)
    }

    /// Draws up to `wanted` candidates of the generation: files what the store knows of them and opens the rest.
    /// Returns how many there were.
    fn draw(
        &mut self,
        wanted: usize,
        ledger: &mut Ledger,
        store: &Store,
        closed: &mut Vec<Closed>,
    ) -> Result<usize, StoreError> {
        let Some((candidates, next)) = &mut self.generation else { return Ok(0) };
        let range = *next..candidates.len().min(*next + wanted);
        *next = range.end;
        let experiment = &self.record.experiment;
        let address = |index| candidates.get(index).map(|c| Addressed::from(experiment.trial(c)));
        let mut trials = in_parallel(range.clone(), &address);
        let known = |trial: &Addressed| {
            self.archive.get(&trial.candidate).is_some() || self.failures.contains_key(&trial.key)
        };
        trials.retain(|trial| !known(trial));
        let shards = self.record.shards;
        let keys: Vec<ContentHash> = trials.iter().map(|trial| trial.key).collect();
        for (trial, stored) in trials.into_iter().zip(store.look_up(&keys, shards)?) {
            match stored {
                Stored::Measured(counts) => self.insert(&trial, counts),
                Stored::Shards(settled) => {
                    let opened = ledger.open(self.owner, Arc::new(trial), shards, &settled);
                    if let Settled::Complete(complete) = opened {
                        closed.push(complete);
                    }
                }
            }
        }
        Ok(range.len())
    }

    fn insert(&mut self, trial: &Addressed, counts: Counts) {
        let candidate = &trial.trial.candidate;
        self.archive.insert_known(&self.record.experiment, trial.candidate, candidate, counts);
        self.summary = None;
    }

    /// Counts work that a worker reported, for the throughput.
    pub(super) fn note_speed(&mut self, now: Millis, tokens: u64) {
        self.speed.push_back((now, tokens));
        self.speed_tokens = self.speed_tokens.saturating_add(tokens);
    }

    /// Files a measured trial.
    pub(super) fn measured(&mut self, trial: &Addressed, counts: Counts) {
        self.evaluated += 1;
        self.insert(trial, counts);
    }

    /// Files a trial that failed for good.
    pub(super) fn failed(&mut self, trial: &Addressed, reason: &str) {
        let candidate = trial.candidate.short();
        tracing::warn!(experiment = self.id, candidate, reason, "trial failed");
        self.failures.insert(trial.key, reason.to_owned());
    }

    pub(super) fn front_document(&mut self) -> String {
        FrontDocument::new(self.experiment(), &self.archive).to_json()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.status.receiver_count() > 0
    }

    pub(super) fn watch(&self) -> watch::Receiver<ExperimentStatus> {
        self.status.subscribe()
    }

    /// Shows watchers the status if it changed.
    pub(super) fn publish(&mut self, ledger: &Ledger, now: Millis, workers: u32) {
        let status = self.status(ledger, now, workers);
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }

    pub(super) fn status(&mut self, ledger: &Ledger, now: Millis, workers: u32) -> ExperimentStatus {
        while let Some((_, tokens)) = self.speed.pop_front_if(|(at, _)| *at + SPEED_WINDOW < now) {
            self.speed_tokens = self.speed_tokens.saturating_sub(tokens);
        }
        // Over the time since the oldest report in the window, which is not yet full at the start.
        let since = self.speed.front().map_or(0, |(at, _)| now - at).max(1000);
        let summary = self.summary();
        let reasons: BTreeSet<&String> = self.failures.values().collect();
        let shards = ledger.shard_counts(self.owner);
        let (trials, drawn) = self.generation.as_ref().map_or((0, 0), |(all, drawn)| (all.len(), *drawn));
        let open = ledger.open_trials(self.owner);
        let state = match (self.finished, self.record.cancelled, self.record.paused) {
            (true, _, _) => State::Finished,
            (false, true, _) => State::Cancelled,
            (false, false, true) => State::Paused,
            (false, false, false) => State::Running,
        };
        ExperimentStatus {
            id: self.id.clone(),
            state: state.into(),
            stage: self.stage.to_owned(),
            generation_settled: (drawn as u32).saturating_sub(open),
            generation_trials: trials as u32,
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
            priority: self.record.priority,
        }
    }

    fn summary(&mut self) -> Summary {
        if let Some(summary) = &self.summary {
            return summary.clone();
        }
        let experiment = &self.record.experiment;
        let float = self.archive.float(experiment);
        let best = self.archive.chosen().zip(float).map(|(chosen, float)| Best {
            candidate: chosen.id.as_bytes().to_vec(),
            saving: saving(&experiment.network, chosen.entry.footprint_bytes),
            quality: chosen.entry.counts.perplexity().or(chosen.entry.counts.accuracy()).unwrap_or(0.0),
            quality_loss: quality_loss(&float.counts, &chosen.entry.counts),
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

/// What `f` makes of every index, in order, on all cores if that is worth it. To find a trial's address takes two
/// hashes, and a coordinator that starts has to find those of all that was measured.
fn in_parallel<T: Send>(range: std::ops::Range<usize>, f: &(impl Fn(usize) -> Option<T> + Sync)) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(range.len() / WORTH_A_THREAD).max(1);
    let share = range.len().div_ceil(threads).max(1);
    let parts: Vec<_> =
        range.clone().step_by(share).map(|start| start..(start + share).min(range.end)).collect();
    std::thread::scope(|scope| {
        let (first, others) = match parts.split_first() {
            Some((first, others)) => (first.clone(), others),
            None => return Vec::new(),
        };
        let others: Vec<_> = others
            .iter()
            .map(|part| scope.spawn(|| part.clone().filter_map(f).collect::<Vec<T>>()))
            .collect();
        let mut all: Vec<T> = first.filter_map(f).collect();
        for other in others {
            match other.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}
