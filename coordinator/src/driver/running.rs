//! One experiment under way: its search, generation and archive, and what people see of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use qslm_common::ENGINE_VERSION;
use qslm_common::archive::{Archive, FrontDocument, Measurement};
use qslm_common::candidate::Candidate;
use qslm_common::demands::Capabilities;
use qslm_common::evidence::{Engines, Evidence, Fingerprint};
use qslm_common::experiment::Experiment;
use qslm_common::footprint::saving;
use qslm_common::hash::ContentHash;
use qslm_common::objective::quality_loss;
use qslm_common::racing::Race;
use qslm_common::task::{Shard, Task};
use qslm_common::trial::Addressed;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{Best, ExperimentStatus, FailedTrial};
use qslm_report::{FORMAT, Lifecycle, ReportDocument, Sample, Sensitivity};
use tokio::sync::watch;

use super::seen::{Presentation, Spotted};
use super::speed::SlidingRate;
use super::{Refusal, SHOWN};
use crate::ledger::{Closed, Ledger, Millis, Owner, Settled};
use crate::search::{self, Candidates, Search, Step};
use crate::store::{ExperimentRecord, Store, StoreError, Stored};

/// Different reasons of failed trials that a status carries.
const SHOWN_FAILURES: usize = 5;
/// Failed trials that a status names.
const SHOWN_TRIALS: usize = 20;
/// Shards that are kept ready for workers. The rest of a generation is drawn when these are out.
const READY: u32 = 4096;
/// Candidates that are looked up at a time.
const CHUNK: usize = 2048;
/// Candidates below which a second thread is not worth its start.
const WORTH_A_THREAD: usize = 512;

/// An experiment and everything that goes with it.
pub(super) struct ExperimentRun {
    id: String,
    owner: Owner,
    record: ExperimentRecord,
    search: Box<dyn Search>,
    generation: Option<Cursor>,
    /// Whether more of the generation is to be looked up before workers have to wait.
    looking_up: bool,
    /// Whether something of the generation is not measured and was not opened either, because the experiment is paused or
    /// cancelled.
    passed_over: bool,
    archive: Archive,
    /// Failed trials with their reasons.
    failures: BTreeMap<ContentHash, String>,
    /// Failures that were opened again.
    retried: u64,
    /// Why no worker can go on with it, while that is so.
    stuck: Option<String>,
    /// What candidates run against, once the float model is measured, if they race.
    race: Option<Race>,
    /// Whether those of the generation do.
    may_race: bool,
    /// The protocol of the generation, if it is not the experiment's.
    task: Option<Task>,
    /// Trials measured by such a protocol since the coordinator started.
    probed: u64,
    /// The trial of the float model.
    float: ContentHash,
    /// Shards of trials that were given up which nobody had to evaluate.
    spared: u64,
    finished: bool,
    stage: &'static str,
    /// Trials measured since the coordinator started.
    evaluated: u64,
    /// Tokens that were reported.
    speed: SlidingRate,
    seen: Presentation,
    /// What was told last, so that it is told when it changes.
    told: LastAnnounced,
    /// What a status says of the archive; worked out when the archive changes.
    summary: Option<Summary>,
    status: watch::Sender<ExperimentStatus>,
}

/// A generation that is being measured.
struct Cursor {
    candidates: Candidates,
    /// What is still to be drawn for workers, in order.
    ahead: Range<usize>,
    /// What is very likely measured, and looked up when nobody waits.
    behind: Range<usize>,
}

impl Cursor {
    /// All candidates are to be drawn. Workers get them in order, so what is measured is, but for some that were out, the
    /// beginning; a coordinator that starts skips it at first, so that nobody waits until it has read a million results.
    fn new(
        candidates: Candidates,
        mut is_measured: impl FnMut(&Candidates, usize) -> Result<bool, StoreError>,
    ) -> Result<Self, StoreError> {
        let (mut low, mut high) = (0, candidates.len());
        while low < high && candidates.len() > CHUNK {
            let middle = low.midpoint(high);
            if is_measured(&candidates, middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Self { ahead: low..candidates.len(), behind: 0..low, candidates })
    }

    /// How many were drawn.
    fn drawn(&self) -> usize {
        self.candidates.len() - self.ahead.len() - self.behind.len()
    }
}

/// How many workers there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WorkerCounts {
    /// Heard of within a lease's time.
    pub(super) present: u32,
    /// Of these, those that may evaluate the experiment.
    pub(super) suitable: u32,
    /// Of these, those that are set aside.
    pub(super) set_aside: u32,
}

/// What people were told of an experiment.
#[derive(Default, PartialEq)]
struct LastAnnounced {
    stage: &'static str,
    state: State,
    best: Option<Best>,
}

#[derive(Clone)]
struct Summary {
    front: u32,
    hypervolume: Option<f64>,
    best: Option<Best>,
}

impl ExperimentRun {
    pub(super) fn new(
        owner: Owner,
        record: ExperimentRecord,
        failures: BTreeMap<ContentHash, String>,
        retried: u64,
        seen: Presentation,
    ) -> Self {
        let float = record.experiment.trial(Candidate::float(&record.experiment.network)).key();
        Self {
            id: record.experiment.id(),
            owner,
            search: search::start(&record.experiment),
            record,
            generation: None,
            // Until the search was asked for the first time, nobody knows.
            looking_up: true,
            passed_over: false,
            archive: Archive::default(),
            failures,
            retried,
            stuck: None,
            race: None,
            may_race: false,
            task: None,
            probed: 0,
            float,
            spared: 0,
            finished: false,
            stage: "",
            evaluated: 0,
            speed: SlidingRate::default(),
            seen,
            told: LastAnnounced::default(),
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
        !self.has_ended() && !self.is_paused()
    }

    /// Whether its engine gave other numbers than this program's, so that no worker can go on with it.
    pub(super) fn is_outdated(&self) -> bool {
        self.experiment().engine_version != ENGINE_VERSION
    }

    fn is_paused(&self) -> bool {
        self.record.paused || self.is_outdated()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether nothing more is to be expected, unless a person changes that.
    pub(super) fn has_ended(&self) -> bool {
        self.finished || self.record.cancelled
    }

    /// Whether a worker may evaluate it.
    pub(super) fn suits(&self, worker: &Capabilities) -> bool {
        self.record.demands.are_met(self.experiment().backend, worker)
    }

    pub(super) fn is_looking_up(&self) -> bool {
        self.looking_up
    }

    /// Takes over what a person changed. Whoever cancels withdraws the experiment from the ledger, too.
    pub(super) fn change(&mut self, record: ExperimentRecord) {
        let cancelled = record.cancelled && !self.record.cancelled;
        self.record = record;
        if !self.finished && (cancelled || self.passed_over && self.is_active()) {
            // The search starts over and finds what was measured, so no half-open generation is kept.
            self.passed_over = false;
            self.spared = 0;
            self.generation = None;
            self.search = search::start(&self.record.experiment);
        }
    }

    /// Failed trials whose addresses begin so; all of them if nothing is asked for.
    pub(super) fn failed_trials(&self, beginnings: &[String]) -> Result<BTreeSet<ContentHash>, Refusal> {
        if beginnings.is_empty() {
            return Ok(self.failures.keys().copied().collect());
        }
        let mut found = BTreeSet::new();
        for beginning in beginnings {
            let before = found.len();
            let fits = |trial: &&ContentHash| trial.to_string().starts_with(&beginning.to_lowercase());
            found.extend(self.failures.keys().filter(fits));
            if beginning.is_empty() || found.len() == before {
                let shown: String = beginning.chars().take(SHOWN).collect();
                return Err(Refusal::NotFound(format!("no failed trial of {} is {shown:?}", self.id)));
            }
        }
        Ok(found)
    }

    /// Starts the search over, with these failures forgotten: what a restart of the coordinator would find.
    pub(super) fn start_over(&mut self, record: ExperimentRecord, retried: &BTreeSet<ContentHash>) {
        self.record = record;
        self.failures.retain(|trial, _| !retried.contains(trial));
        self.retried += retried.len() as u64;
        // What the search measured on its way past the failures may not belong to the front.
        self.archive = Archive::default();
        self.seen.start_over();
        (self.spared, self.summary) = (0, None);
        (self.finished, self.passed_over, self.looking_up) = (false, false, true);
        self.generation = None;
        self.search = search::start(&self.record.experiment);
    }

    /// Takes over why no worker can go on with it, if that is so. Returns whether that is news.
    pub(super) fn set_stuck(&mut self, stuck: Option<String>) -> bool {
        let news = self.stuck.is_some() != stuck.is_some();
        self.stuck = stuck;
        news
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Lets the search go on until there are shards enough for workers, or it is done, or a chunk of candidates was
    /// looked up. What is paused or cancelled goes on as far as the store knows the results. `unwritten` are sums that are
    /// on the way to the store. Returns trials that turned out to be complete, because a crash came between the last shard
    /// and the sum.
    pub(super) fn advance(
        &mut self,
        ledger: &mut Ledger,
        store: &Store,
        unwritten: &HashMap<ContentHash, Evidence>,
    ) -> Result<Vec<Closed>, StoreError> {
        let mut closed = Vec::new();
        let mut left = CHUNK;
        self.looking_up = false;
        while !self.finished {
            let active = self.is_active();
            let ready = ledger.shard_counts(self.owner).pending;
            let wanting = !active || ready < READY;
            match &mut self.generation {
                Some(drawing) if wanting && !drawing.ahead.is_empty() => {
                    let wanted = match active {
                        true => (READY - ready).div_ceil(self.record.shards) as usize,
                        false => left,
                    };
                    let range = take(&mut drawing.ahead, wanted.min(left));
                    left -= range.len();
                    self.draw(range, ledger, store, unwritten, &mut closed)?;
                }
                Some(drawing) if !drawing.behind.is_empty() => {
                    let range = take(&mut drawing.behind, left);
                    left -= range.len();
                    self.draw(range, ledger, store, unwritten, &mut closed)?;
                }
                Some(drawing) if !drawing.ahead.is_empty() => break,
                _ if ledger.open_trials(self.owner) > 0 || !closed.is_empty() => break,
                _ if self.passed_over => break,
                _ => match self.search.next(&self.archive) {
                    Step::Measure(generation) => {
                        (self.stage, self.may_race) = (generation.stage, generation.may_race);
                        self.task = generation.task;
                        let experiment = &self.record.experiment;
                        let task = self.task.as_ref();
                        let is_measured = |candidates: &Candidates, index| {
                            let candidate = candidates.get(index);
                            let trial = candidate.map(|candidate| experiment.trial_of(task, candidate));
                            let key = trial.map(|trial| trial.key());
                            let stored = store.look_up(key.as_slice(), self.record.shards)?;
                            Ok(matches!(stored[..], [Stored::Measured(_)]))
                        };
                        self.generation = Some(Cursor::new(generation.candidates, is_measured)?);
                    }
                    Step::Finished => self.finished = true,
                },
            }
            if left == 0 {
                self.looking_up = self.generation.as_ref().is_some_and(|drawing| {
                    !drawing.behind.is_empty()
                        || !drawing.ahead.is_empty() && ledger.shard_counts(self.owner).pending < READY
                });
                break;
            }
        }
        Ok(closed)
    }

    /// Draws candidates of the generation: files what the store knows of them and opens the rest.
    fn draw(
        &mut self,
        range: Range<usize>,
        ledger: &mut Ledger,
        store: &Store,
        unwritten: &HashMap<ContentHash, Evidence>,
        closed: &mut Vec<Closed>,
    ) -> Result<(), StoreError> {
        let active = self.is_active();
        let Some(Cursor { candidates, .. }) = &self.generation else { return Ok(()) };
        let experiment = &self.record.experiment;
        let shards = self.record.shards;
        let task = self.task.as_ref();
        let look_up = |range: Range<usize>| {
            let candidates = range.filter_map(|index| candidates.get(index));
            let trials: Vec<Addressed> =
                candidates.map(|candidate| experiment.trial_of(task, candidate).into()).collect();
            let keys: Vec<ContentHash> = trials.iter().map(|trial| trial.key).collect();
            let known = trials.into_iter().zip(store.look_up(&keys, shards)?);
            Ok(known.map(|(trial, stored)| Found::new(experiment, trial, stored)).collect())
        };
        let found: Vec<Found> = in_parallel(range, &look_up)?;
        for Found { trial, stored } in found {
            let unwritten = unwritten.get(&trial.key);
            match (stored, unwritten) {
                (Lookup::Measured(measurement, engines), _) => {
                    self.file(&trial, measurement, &engines);
                    if self.keeps_parts_of(&trial.key) && self.race.is_none() {
                        self.start_race(&store.parts(&trial.key, shards)?);
                    }
                }
                (Lookup::Open(_), Some(evidence)) => self.file_evidence(&trial, evidence.clone()),
                (Lookup::Open(_), None) if self.failures.contains_key(&trial.key) => {}
                (Lookup::Open(settled), None) if self.has_lost(&trial, &settled, shards) => {
                    self.give_up(&trial, shards - settled.len() as u32);
                }
                (Lookup::Open(_), None) if !active => self.passed_over = true,
                (Lookup::Open(settled), None) => {
                    let opened = ledger.open(self.owner, Arc::new(trial), shards, &settled);
                    if let Settled::Complete(complete) = opened {
                        closed.push(complete);
                    }
                }
            }
        }
        self.summary = None;
        Ok(())
    }

    /// Whether all shards of a trial have to be kept: the others' are compared with them.
    pub(super) fn keeps_parts_of(&self, trial: &ContentHash) -> bool {
        self.experiment().racing.is_some() && self.float == *trial
    }

    /// Takes the float model's shards over, of which all others run against; all of them, or none.
    pub(super) fn start_race(&mut self, parts: &BTreeMap<Shard, Evidence>) {
        let experiment = &self.record.experiment;
        let float = self.archive.float(experiment);
        self.race =
            float.and_then(|float| search::race(experiment, &float.counts, parts, self.record.shards));
    }

    /// Whether a trial that is not complete has lost the race.
    fn has_lost(&self, trial: &Addressed, settled: &BTreeMap<Shard, Evidence>, of: u32) -> bool {
        self.may_race
            && trial.key != self.float
            && self.race.as_ref().is_some_and(|race| search::has_lost(race, settled, of))
    }

    /// Gives an open trial up if it has lost. Returns whether it did.
    pub(super) fn judge(&mut self, key: &ContentHash, ledger: &mut Ledger) -> bool {
        if !self.may_race || self.race.is_none() {
            return false;
        }
        let Some((trial, settled, of)) = ledger.parts(key) else { return false };
        if !self.has_lost(&trial, &settled, of) {
            return false;
        }
        ledger.leave(self.owner, *key);
        self.give_up(&trial, of - settled.len() as u32);
        true
    }

    fn give_up(&mut self, trial: &Addressed, spared: u32) {
        if self.archive.stop(trial.candidate) {
            self.spared += u64::from(spared);
        }
    }

    /// Counts work that a worker reported, for the throughput.
    pub(super) fn note_speed(&mut self, now: Millis, tokens: u64) {
        self.speed.note(now, tokens);
    }

    /// Files a measured trial.
    pub(super) fn measured(&mut self, trial: &Addressed, evidence: Evidence) {
        self.file_evidence(trial, evidence);
        self.evaluated += 1;
        self.probed += u64::from(self.is_probe(trial));
        self.summary = None;
    }

    fn file_evidence(&mut self, trial: &Addressed, Evidence { counts, engines }: Evidence) {
        let measurement =
            Measurement::new(self.experiment(), trial.candidate, &trial.trial.candidate, counts);
        self.file(trial, measurement, &engines);
    }

    /// Whether a trial of this experiment tells sensitivity only, by a protocol of its own.
    fn is_probe(&self, trial: &Addressed) -> bool {
        trial.trial.task != self.experiment().task
    }

    fn file(&mut self, trial: &Addressed, measurement: Measurement, engines: &Engines) {
        if self.is_probe(trial) {
            self.archive.insert_probe(trial.candidate, measurement.entry().counts.clone());
            return;
        }
        let experiment = &self.record.experiment;
        let spot = Spotted::new(&experiment.network, &measurement);
        if self.archive.insert_measured(experiment, &trial.trial.candidate, measurement) {
            self.seen.add(self.stage, spot, engines);
        }
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
    pub(super) fn publish(&mut self, ledger: &Ledger, now: Millis, staff: WorkerCounts) {
        let status = self.status(ledger, now, staff);
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }

    pub(super) fn status(&mut self, ledger: &Ledger, now: Millis, staff: WorkerCounts) -> ExperimentStatus {
        let summary = self.summary();
        let reasons: BTreeSet<&String> = self.failures.values().collect();
        let shards = ledger.shard_counts(self.owner);
        let drawing = self.generation.as_ref();
        let (trials, drawn) = drawing.map_or((0, 0), |drawing| (drawing.candidates.len(), drawing.drawn()));
        let open = ledger.open_trials(self.owner);
        ExperimentStatus {
            id: self.id.clone(),
            state: self.state().into(),
            stage: self.stage.to_owned(),
            generation_settled: (drawn as u32).saturating_sub(open),
            generation_trials: trials as u32,
            measured: self.archive.len() as u64,
            failed: self.failures.len() as u64,
            stopped: self.archive.stopped() as u64,
            shards_spared: self.spared,
            probed: self.probed,
            shards_settled: shards.settled,
            shards_leased: shards.leased,
            shards_pending: shards.pending,
            evaluated: self.evaluated,
            workers: staff.present,
            tokens_per_second: self.speed.per_second(now),
            front: summary.front,
            hypervolume: summary.hypervolume,
            best: summary.best,
            remaining_at_most: self.search.remaining_at_most(),
            failures: reasons.into_iter().take(SHOWN_FAILURES).cloned().collect(),
            priority: self.record.priority,
            suitable_workers: staff.suitable,
            demands: Some(self.record.demands.clone().into()),
            stuck: self.stuck.clone().unwrap_or_default(),
            retried: self.retried,
            failed_trials: self.failures.iter().take(SHOWN_TRIALS).map(failed_trial).collect(),
            set_aside_workers: staff.set_aside,
        }
    }

    fn state(&self) -> State {
        match (self.finished, self.record.cancelled, self.is_paused()) {
            (true, _, _) => State::Finished,
            (false, true, _) => State::Cancelled,
            (false, false, true) => State::Paused,
            (false, false, false) if self.is_stuck() => State::Stuck,
            (false, false, false) => State::ExperimentRun,
        }
    }

    /// All that there is to see.
    pub(super) fn report(
        &mut self,
        ledger: &Ledger,
        now: Millis,
        staff: WorkerCounts,
        known: &BTreeMap<Fingerprint, String>,
    ) -> ReportDocument {
        let status = self.status(ledger, now, staff);
        let state = match status.state() {
            State::Finished => Lifecycle::Finished,
            State::Cancelled => Lifecycle::Cancelled,
            State::Paused => Lifecycle::Paused,
            State::ExperimentRun | State::Stuck | State::Unspecified => Lifecycle::ExperimentRun,
        };
        ReportDocument {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: status.id,
            experiment: self.record.experiment.clone(),
            state,
            stage: status.stage,
            generation_settled: status.generation_settled,
            generation_trials: status.generation_trials,
            failed: status.failed,
            failures: status.failures,
            stuck: status.stuck,
            remaining_at_most: status.remaining_at_most,
            workers: staff.present,
            tokens_per_second: status.tokens_per_second,
            stages: self.seen.stages().to_vec(),
            spots: self.seen.cloud().spots(),
            front: FrontDocument::new(self.experiment(), &self.archive),
            sensitivity: self.sensitivity(),
            timeline: self.seen.timeline().to_vec(),
            comparisons: self.seen.comparisons().to_vec(),
            engines: self.seen.engines(known),
        }
    }

    /// What each part costs when it alone is quantized, as far as it was measured.
    fn sensitivity(&self) -> Vec<Sensitivity> {
        let probe = |candidate: &Candidate| self.archive.probe(self.experiment(), &candidate.id());
        let Some(float) = probe(&Candidate::float(&self.experiment().network)) else { return Vec::new() };
        let probes = self.search.probes().into_iter();
        let sensitivity = probes.map(|(part, name, alone)| {
            let quality_loss = probe(&alone).map(|alone| quality_loss(float, alone));
            Sensitivity { part, name, quality_loss }
        });
        sensitivity.collect()
    }

    /// How far it is now, if that is to be written down.
    pub(super) fn sample(&mut self, now: Millis, unix_ms: u64) -> Option<Sample> {
        // What was measured before a restart is not complete until it was read.
        if self.looking_up || !self.seen.is_due(unix_ms, self.evaluated, self.finished) {
            return None;
        }
        let summary = self.summary();
        let sample = Sample {
            unix_ms,
            measured: self.archive.len() as u64,
            front: summary.front,
            hypervolume: summary.hypervolume,
            tokens_per_second: self.speed.per_second(now),
        };
        self.seen.sample(sample, self.evaluated);
        Some(sample)
    }

    /// Whether it is in another stage or state than people were told.
    pub(super) fn has_turned(&self) -> bool {
        self.stage != self.told.stage || self.state() != self.told.state
    }

    /// What people have not been told yet, in a few words each.
    pub(super) fn news(&mut self) -> Vec<String> {
        // A search that is read from the store is no news.
        if self.looking_up {
            return Vec::new();
        }
        let now = LastAnnounced { stage: self.stage, state: self.state(), best: self.summary().best };
        let before = std::mem::replace(&mut self.told, now);
        let (before, now) = (&before, &self.told);
        let mut news = Vec::new();
        // Nothing is known before the first look, and that all of it is new is no news either.
        if before.state == State::Unspecified {
            return news;
        }
        if let Some(best) = now.best.as_ref().filter(|best| before.best.as_ref() != Some(best)) {
            let (saving, loss) = (best.saving * 100.0, best.quality_loss * 100.0);
            news.push(format!("best so far: {saving:.2} % saved at {loss:+.2} %"));
        }
        if now.stage != before.stage {
            news.push(format!("{} begins", now.stage));
        }
        if now.state != before.state {
            news.push(now.state.as_str_name().to_lowercase());
        }
        news
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

fn failed_trial((trial, reason): (&ContentHash, &String)) -> FailedTrial {
    FailedTrial { trial: trial.as_bytes().to_vec(), reason: reason.clone() }
}

/// Takes up to `most` off the front of a range.
fn take(range: &mut Range<usize>, most: usize) -> Range<usize> {
    let taken = range.start..range.end.min(range.start + most);
    range.start = taken.end;
    taken
}

/// A candidate that was drawn.
struct Found {
    trial: Addressed,
    stored: Lookup,
}

/// What the store knows of it.
enum Lookup {
    Measured(Measurement, Engines),
    /// Its shards that are settled.
    Open(BTreeMap<Shard, Evidence>),
}

impl Found {
    fn new(experiment: &Experiment, trial: Addressed, stored: Stored) -> Self {
        let stored = match stored {
            Stored::Measured(Evidence { counts, engines }) => {
                let candidate = &trial.trial.candidate;
                let measurement = Measurement::new(experiment, trial.candidate, candidate, counts);
                Lookup::Measured(measurement, engines)
            }
            Stored::Shards(settled) => Lookup::Open(settled),
        };
        Self { trial, stored }
    }
}

/// What `f` makes of the parts of a range, in order, on all cores if that is worth it. To find a trial's address takes two
/// hashes, and a coordinator that starts has to find those of all that was measured.
fn in_parallel<T: Send, E: Send>(
    range: Range<usize>,
    f: &(impl Fn(Range<usize>) -> Result<Vec<T>, E> + Sync),
) -> Result<Vec<T>, E> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(range.len() / WORTH_A_THREAD).max(1);
    let share = range.len().div_ceil(threads).max(1);
    let first = range.start..range.end.min(range.start + share);
    let others = (first.end..range.end).step_by(share).map(|start| start..range.end.min(start + share));
    std::thread::scope(|scope| {
        let start = |part: Range<usize>| {
            let started = std::thread::Builder::new().spawn_scoped(scope, {
                let part = part.clone();
                move || f(part)
            });
            started.map_err(|_| part)
        };
        let others: Vec<_> = others.map(start).collect();
        let mut all = f(first)?;
        for other in others {
            match other.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(part)) => all.extend(part?),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // The system allows no more threads.
                Err(part) => all.extend(f(part)?),
            }
        }
        Ok(all)
    })
}
