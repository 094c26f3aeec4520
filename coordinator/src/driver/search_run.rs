//! The search of an experiment on workers: its record, its playback, and what waits in the ledger for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use qslm_common::ENGINE_VERSION;
use qslm_common::candidate::CandidateId;
use qslm_common::demands::Capabilities;
use qslm_common::evidence::{Engines, Evidence};
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, JobKey};
use qslm_common::task::Shard;
use qslm_common::trial::{Addressed, TrialKey};
use qslm_common::work::WorkKey;
use qslm_report::GivenArtifact;
use qslm_search::{Fate, OnRecord, Playback, Tell};

use super::status::State;
use super::{Refusal, SHOWN};
use crate::ledger::{Closed, Ledger, Opened, Owner};
use crate::store::{ExperimentRecord, Store, StoreError};

/// Back-pressure: shards that are kept ready for workers. The rest of a generation is drawn when these are out.
const READY: u32 = 4096;

/// Callback that hears of a trial that was filed, and of the engines that measured it if it is new in the
/// archive.
pub(super) type Filed<'a> = dyn FnMut(&Playback, &Addressed, Option<&Engines>) + 'a;

/// A search under way on workers.
pub(super) struct SearchRun {
    id: String,
    owner: Owner,
    record: ExperimentRecord,
    playback: Playback,
    /// True until the search was asked for the first time, and while more of the generation is to be looked
    /// up at once.
    looking_up: bool,
    /// True if a candidate of the generation is neither measured nor opened, because the experiment is paused
    /// or cancelled.
    passed_over: bool,
    history: History,
    /// Reason why no worker can go on with it, while that is so.
    stuck: Option<String>,
    /// Names of the jobs whose artifacts the search was given, as far as it has come.
    given: BTreeMap<JobKey, String>,
    /// Names of told candidates and their trials, of the tells that somebody asked about.
    addresses: BTreeMap<u64, Addresses>,
}

/// Names of the candidates of a tell, and of the trials that measure them.
pub(super) type Addresses = Arc<[(CandidateId, TrialKey)]>;

/// History of an experiment, beside what was measured: that is looked up as the search comes to it.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Failed trials and jobs with their reasons.
    pub(super) failures: BTreeMap<WorkKey, String>,
    /// Failures that were opened again.
    pub(super) retried: u64,
    /// Bindings: the artifacts that jobs gave the experiment.
    pub(super) bindings: BTreeMap<JobKey, ContentHash>,
    /// Tells: the generations that somebody outside proposed, in order.
    pub(super) tells: Vec<Tell>,
    /// Candidates that somebody outside told to prune.
    pub(super) prunes: BTreeSet<CandidateId>,
}

/// Start of a playback: of an experiment, its shards per trial, and what is known to fail.
pub(super) type StartPlayback = fn(Experiment, u32, BTreeSet<WorkKey>) -> Result<Playback, serde_json::Error>;

impl SearchRun {
    /// # Errors
    /// The experiment's strategy is none that there is.
    pub(super) fn new(
        owner: Owner,
        record: ExperimentRecord,
        mut history: History,
        start: StartPlayback,
    ) -> Result<Self, serde_json::Error> {
        let failed = history.failures.keys().copied().collect();
        let mut playback = start(record.experiment.clone(), record.shards, failed)?;
        std::mem::take(&mut history.tells).into_iter().for_each(|tell| playback.tell(Arc::new(tell)));
        std::mem::take(&mut history.prunes).into_iter().for_each(|candidate| playback.tell_off(candidate));
        Ok(Self {
            id: record.experiment.id(),
            owner,
            playback,
            record,
            // Until the search was asked for the first time, nobody knows.
            looking_up: true,
            passed_over: false,
            history,
            stuck: None,
            given: BTreeMap::new(),
            addresses: BTreeMap::new(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// True if a worker that works for one experiment alone means this one: by its id, or by its name, which may be known
    /// before the experiment is there.
    pub(super) fn is_called(&self, only: &str) -> bool {
        self.id == only || self.record.experiment.name == only
    }

    pub(super) fn record(&self) -> &ExperimentRecord {
        &self.record
    }

    pub(super) fn playback(&self) -> &Playback {
        &self.playback
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn failures(&self) -> &BTreeMap<WorkKey, String> {
        &self.history.failures
    }

    pub(super) fn retried(&self) -> u64 {
        self.history.retried
    }

    fn experiment(&self) -> &Experiment {
        &self.record.experiment
    }

    pub(super) fn priority(&self) -> i32 {
        self.record.priority
    }

    /// True if workers may get shards of it.
    pub(super) fn is_active(&self) -> bool {
        !self.has_ended() && !self.is_paused()
    }

    /// True if it was submitted for another engine version, which gave other numbers, so that no worker can
    /// go on with it.
    pub(super) fn is_outdated(&self) -> bool {
        self.experiment().engine_version != ENGINE_VERSION
    }

    fn is_paused(&self) -> bool {
        self.record.paused || self.is_outdated()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.playback.is_finished()
    }

    /// True if it is finished or cancelled: nothing more is to be expected, unless a person changes that.
    pub(super) fn has_ended(&self) -> bool {
        self.is_finished() || self.record.cancelled
    }

    /// True if a worker may evaluate it: its capabilities meet the demands.
    pub(super) fn suits(&self, worker: &Capabilities) -> bool {
        self.record.demands.are_met(self.experiment().backend, worker)
    }

    /// True if the search works out its next generation, a slice at a time.
    pub(super) fn is_thinking(&self) -> bool {
        self.playback.is_thinking()
    }

    pub(super) fn is_looking_up(&self) -> bool {
        self.looking_up
    }

    pub(super) fn state(&self) -> State {
        match (self.is_finished(), self.record.cancelled, self.is_paused()) {
            (true, _, _) => State::Finished,
            (false, true, _) => State::Cancelled,
            (false, false, true) => State::Paused,
            (false, false, false) if self.is_stuck() => State::Stuck,
            (false, false, false) => State::Running,
        }
    }

    /// Takes over what a person changed. A caller that cancels withdraws the experiment from the ledger, too.
    pub(super) fn change(&mut self, record: ExperimentRecord) {
        let cancelled = record.cancelled && !self.record.cancelled;
        self.record = record;
        if !self.is_finished() && (cancelled || self.passed_over && self.is_active()) {
            // The search starts over and finds what was measured, so no half-open generation is kept.
            self.passed_over = false;
            self.playback.rewind();
        }
    }

    /// Failed trials and jobs whose addresses begin so; all of them if nothing is asked for.
    pub(super) fn failed_work(&self, beginnings: &[String]) -> Result<BTreeSet<WorkKey>, Refusal> {
        let failures = self.failures();
        if beginnings.is_empty() {
            return Ok(failures.keys().copied().collect());
        }
        let mut found = BTreeSet::new();
        for beginning in beginnings {
            let before = found.len();
            let fits = |work: &&WorkKey| work.hash().to_string().starts_with(&beginning.to_lowercase());
            found.extend(failures.keys().filter(fits));
            if beginning.is_empty() || found.len() == before {
                let shown: String = beginning.chars().take(SHOWN).collect();
                return Err(Refusal::NotFound(format!("no failed trial of {} is {shown:?}", self.id)));
            }
        }
        Ok(found)
    }

    /// Starts the search over, with these failures forgotten: what a restart of the coordinator would find.
    pub(super) fn start_over(&mut self, record: ExperimentRecord, retried: &BTreeSet<WorkKey>) {
        self.record = record;
        self.history.failures.retain(|work, _| !retried.contains(work));
        self.history.retried += retried.len() as u64;
        (self.passed_over, self.looking_up) = (false, true);
        self.playback.retry(retried);
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

    /// Reason why no worker can go on with it; empty while one can.
    pub(super) fn stuck(&self) -> &str {
        self.stuck.as_deref().unwrap_or_default()
    }

    /// Lets the search go on until there are shards enough for workers, or it is done, or asks for jobs or a tell, or a chunk of
    /// candidates was looked up. What is paused or cancelled goes on as far as the store knows the results. `unwritten` are
    /// sums that are on the way to the store. Returns trials that turned out to be complete, because a crash came between
    /// the last shard and the sum.
    pub(super) fn advance(
        &mut self,
        ledger: &mut Ledger,
        store: &Store,
        unwritten: &HashMap<TrialKey, Evidence>,
        filed: &mut Filed<'_>,
    ) -> Result<Vec<Closed>, StoreError> {
        let mut closed = Vec::new();
        let mut left = Playback::CHUNK;
        let has_to_wait = |playback: &Playback| playback.has_jobs() || playback.is_waiting();
        while !self.playback.is_finished() && !has_to_wait(&self.playback) && left > 0 {
            let drawn = match self.wanted(ledger) {
                Some(wanted) if self.playback.has_more() => self.playback.draw(wanted.min(left)),
                _ if self.playback.has_more_measured() => self.playback.draw_measured(left),
                // Workers have enough to do.
                _ if self.playback.has_more() => break,
                _ if ledger.open_count(self.owner) > 0 || !closed.is_empty() || self.passed_over => break,
                _ => {
                    self.propose(store)?;
                    if self.is_thinking() {
                        break;
                    }
                    continue;
                }
            };
            left -= drawn.len();
            self.look_up(drawn, ledger, store, unwritten, filed, &mut closed)?;
        }
        let has_more = self.playback.has_more() && self.wanted(ledger).is_some();
        self.looking_up = self.is_thinking() || left == 0 && (self.playback.has_more_measured() || has_more);
        Ok(closed)
    }

    /// Candidates to draw until workers have enough to do; `None` if they have. What is not worked on draws all.
    fn wanted(&self, ledger: &Ledger) -> Option<usize> {
        if !self.is_active() {
            return Some(usize::MAX);
        }
        let missing = READY.saturating_sub(ledger.shard_counts(self.owner).pending);
        let per_candidate = self.record.shards as usize * self.playback.trials_per_candidate();
        (missing > 0).then(|| (missing as usize).div_ceil(per_candidate))
    }

    fn propose(&mut self, store: &Store) -> Result<(), StoreError> {
        let shards = self.record.shards;
        self.playback.propose(|trial| {
            let stored = store.look_up(&[*trial], shards)?;
            Ok::<_, StoreError>(matches!(stored[..], [OnRecord::Measured(_)]))
        })?;
        Ok(())
    }

    /// Takes the jobs that the search asks for; each is to be bound, failed, opened or passed over.
    pub(super) fn take_jobs(&mut self) -> Vec<AddressedJob> {
        self.playback.take_jobs()
    }

    /// Artifact that a job gave the experiment.
    /// Artifacts that the search was given, as far as it has come, in the order of their jobs' names.
    pub(super) fn given(&self) -> Vec<GivenArtifact> {
        let named = |(key, job): (&JobKey, &String)| {
            self.bound(*key).map(|artifact| GivenArtifact { job: job.clone(), artifact })
        };
        let mut given: Vec<GivenArtifact> = self.given.iter().filter_map(named).collect();
        given.sort_by(|a, b| a.job.cmp(&b.job));
        given
    }

    pub(super) fn bound(&self, job: JobKey) -> Option<ContentHash> {
        self.history.bindings.get(&job).copied()
    }

    /// Hands on the content of what a job gave the experiment; to be done before it is bound.
    pub(super) fn read_document(&mut self, job: JobKey, document: Vec<u8>) {
        self.playback.read_document(job, document);
    }

    /// Binds the experiment to the artifact of a job, if it is not bound to one. Returns whether that is new.
    pub(super) fn bind(&mut self, job: &AddressedJob, artifact: ContentHash) -> bool {
        let known = self.history.bindings.len();
        let bound = *self.history.bindings.entry(job.key).or_insert(artifact);
        self.given.insert(job.key, job.job.to_string());
        self.playback.made(job.key, bound);
        self.history.bindings.len() > known
    }

    /// Leaves what the search asks for undone, because the experiment is paused or cancelled.
    pub(super) fn pass_over(&mut self) {
        self.passed_over = true;
    }

    /// Files what the store knows of candidates that were drawn, and opens the rest.
    fn look_up(
        &mut self,
        drawn: Range<usize>,
        ledger: &mut Ledger,
        store: &Store,
        unwritten: &HashMap<TrialKey, Evidence>,
        filed: &mut Filed<'_>,
        closed: &mut Vec<Closed>,
    ) -> Result<(), StoreError> {
        let shards = self.record.shards;
        for drawn in self.playback.read(drawn, |trials| store.look_up(trials, shards))? {
            let on_the_way = || unwritten.get(&drawn.trial.key).cloned();
            if let Some(evidence) = (!drawn.is_measured()).then(on_the_way).flatten() {
                let new = self.playback.measured(&drawn.trial, evidence);
                filed(&self.playback, &drawn.trial, new.as_ref());
                continue;
            }
            match self.playback.file(drawn, |trial| store.shard_results(trial, shards))? {
                Fate::Measured(trial, new) => filed(&self.playback, &trial, new.as_ref()),
                Fate::Failed | Fate::Pruned => {}
                Fate::Open(..) if !self.is_active() => self.pass_over(),
                Fate::Open(trial, settled) => {
                    let opened = ledger.open(self.owner, Arc::new(trial), shards, &settled);
                    if let Opened::Complete(complete) = opened {
                        closed.push(complete);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the next tell.
    pub(super) fn tell(&mut self, tell: Arc<Tell>) {
        self.playback.tell(tell);
    }

    /// Prunes a told candidate for good; see [`Playback::tell_off`].
    pub(super) fn tell_off(&mut self, candidate: CandidateId, trial: TrialKey, ledger: &mut Ledger) {
        self.playback.tell_off(candidate);
        if let Some((open, settled, _)) = ledger.shard_results(&trial)
            && ledger.owners(trial).contains(&self.owner)
        {
            self.playback.prune(&open, settled.len());
            ledger.leave(self.owner, trial);
        }
    }

    /// A tell by its number from 1, with the names of its candidates and of the trials that measure them; `None` if there is
    /// none.
    pub(super) fn told(&mut self, number: u64) -> Option<(Arc<Tell>, Addresses)> {
        let tell = self.playback.tells().get(usize::try_from(number.checked_sub(1)?).ok()?)?.clone();
        let addresses = self.addresses.entry(number);
        let addresses = addresses.or_insert_with(|| self.playback.addresses(&tell).into()).clone();
        Some((tell, addresses))
    }

    /// True if the shard results of a trial have to be kept: a race compares the others' with them.
    pub(super) fn keeps_shard_results(&self, trial: &TrialKey) -> bool {
        self.playback.keeps_shard_results(trial)
    }

    /// Starts the race with the float model's shards, all of them or none.
    pub(super) fn start_race(&mut self, shard_results: &BTreeMap<Shard, Evidence>) {
        self.playback.start_race(shard_results);
    }

    /// Prunes an open trial if it loses too much. Returns whether it does.
    pub(super) fn judge(&mut self, key: &TrialKey, ledger: &mut Ledger) -> bool {
        if !self.playback.is_racing() {
            return false;
        }
        let Some((trial, settled, _)) = ledger.shard_results(key) else { return false };
        let lost = self.playback.judge(&trial, &settled);
        if lost {
            ledger.leave(self.owner, *key);
        }
        lost
    }

    /// Files a measured trial.
    pub(super) fn measured(&mut self, trial: &Addressed, evidence: Evidence, filed: &mut Filed<'_>) {
        let new = self.playback.measured(trial, evidence);
        filed(&self.playback, trial, new.as_ref());
    }

    /// Files a trial or job that failed for good.
    pub(super) fn failed(&mut self, work: WorkKey, reason: &str) {
        self.history.failures.insert(work, reason.to_owned());
        self.playback.fail(work);
    }
}
