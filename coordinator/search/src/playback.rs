//! Playback: one search, driven from results.
//!
//! A playback asks the search for generations, gives their candidates addresses, files what is on record of each, and
//! decides what becomes of the rest: failed before, pruned by the race or from outside, or to be measured. In place of a
//! generation a search may ask for jobs, whose artifacts its candidates name later on, or wait until it is told candidates.
//! Where results, artifacts and tells come from is the caller's business: the driver of a coordinator has live ones and a
//! store, a replay has a store, a plan has none.
//!
//! ```text
//!             take_jobs
//!           +-----------> jobs ----- made ----> archive
//!           |
//!            propose                  read                      file
//!   search ----------> generation ----------> trials + records ------> Measured | Failed | Pruned | Open
//!     ^                                                                    |                        |
//!     +------------------------------ archive <----------------------------+----- measured ---------+
//! ```

mod drawn;
mod parts;
mod pruning;
mod tells;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use qslm_common::archive::{Archive, Measurement};
use qslm_common::candidate::Candidate;
use qslm_common::evidence::{Engines, Evidence};
use qslm_common::experiment::Experiment;
use qslm_common::hash::ContentHash;
use qslm_common::job::{AddressedJob, JobKey};
use qslm_common::objective::quality_loss;
use qslm_common::task::Shard;
use qslm_common::trial::{Addressed, Protocol, TrialKey};
use qslm_common::work::WorkKey;

use crate::cursor::{CHUNK, Cursor};
use crate::limited::within_limit;
use crate::parallel::in_parallel;
use crate::recovery::with_recovery;
use crate::strategy::{Probe, Probed};
use crate::{AnyStrategy, Prediction, Search, Step, Tell, prediction};
use drawn::Record;
pub use drawn::{Drawn, OnRecord};
use parts::Parts;
use pruning::Pruning;

/// A search under way, with everything that decides how it goes on.
pub struct Playback {
    experiment: Experiment,
    /// Shards per trial.
    shards: u32,
    strategy: AnyStrategy,
    start: Start,
    search: Box<dyn Search>,
    generation: Option<UnderWay>,
    making: Making,
    archive: Archive,
    /// Trials and jobs that failed for good.
    failed: BTreeSet<WorkKey>,
    /// The protocol on all data.
    whole: Arc<Protocol>,
    parts: Parts,
    pruning: Pruning,
    /// Tells: the generations that somebody outside proposed so far, in their order.
    tells: Vec<Arc<Tell>>,
    /// Stage of the generation; empty before the first.
    stage: &'static str,
    /// True if the search has nothing to do before the next tell.
    waiting: bool,
    /// True if the search is to be asked again, since it knows no next step yet.
    thinking: bool,
    finished: bool,
}

/// Start of a search.
type Start = Box<dyn Fn(&Experiment) -> Box<dyn Search> + Send>;

/// Stage of a search while jobs are done for it.
const MAKING: &str = "making";
/// Stage of a search that has nothing to do before the next tell.
const WAITING: &str = "waiting for tells";

/// Jobs that the search asked for in place of a generation.
#[derive(Default)]
struct Making {
    /// Number of them.
    jobs: usize,
    /// Those that nobody has taken to do.
    untaken: Vec<AddressedJob>,
}

/// A generation that is being measured.
struct UnderWay {
    cursor: Cursor,
    /// Protocols that each candidate is measured by: the own task's, on all data or on a subset, and on all data those of
    /// further tasks.
    protocols: Vec<Arc<Protocol>>,
    may_race: bool,
}

/// Fate of a candidate that was drawn.
pub enum Fate {
    /// Measured, and in the archive; with the engines that measured it if it is new there. On a subset of the
    /// data, or on some of several tasks, it is no result yet, so nothing to show.
    Measured(Addressed, Option<Engines>),
    /// Failed before.
    Failed,
    /// Pruned: it loses too much.
    Pruned,
    /// Open: it is to be measured; these shards are settled.
    Open(Addressed, BTreeMap<Shard, Evidence>),
}

impl Playback {
    /// A playback at the start of the search, with the trials and jobs that are known to fail.
    ///
    /// # Errors
    /// The experiment's strategy is none that there is, in the words of `serde`.
    pub fn new(
        experiment: Experiment,
        shards: u32,
        failed: impl IntoIterator<Item = WorkKey>,
    ) -> Result<Self, serde_json::Error> {
        let strategy = AnyStrategy::parse(&experiment.strategy)?;
        let start = strategy.clone();
        Ok(Self::of(
            experiment,
            shards,
            failed,
            strategy,
            Box::new(move |experiment| {
                with_recovery(within_limit(start.start(experiment), experiment), experiment)
            }),
        ))
    }

    /// As [`Playback::new`], with the search that `start` gives in place of the strategy's own.
    ///
    /// # Errors
    /// As [`Playback::new`].
    pub fn started_by(
        experiment: Experiment,
        shards: u32,
        failed: impl IntoIterator<Item = WorkKey>,
        start: impl Fn(&Experiment) -> Box<dyn Search> + Send + 'static,
    ) -> Result<Self, serde_json::Error> {
        let strategy = AnyStrategy::parse(&experiment.strategy)?;
        Ok(Self::of(experiment, shards, failed, strategy, Box::new(start)))
    }

    fn of(
        experiment: Experiment,
        shards: u32,
        failed: impl IntoIterator<Item = WorkKey>,
        strategy: AnyStrategy,
        start: Start,
    ) -> Self {
        let whole = experiment.protocol();
        Self {
            shards,
            search: start(&experiment),
            start,
            strategy,
            generation: None,
            making: Making::default(),
            archive: Archive::default(),
            failed: failed.into_iter().collect(),
            pruning: Pruning::new(whole.trial(Candidate::float(&experiment.network)).key()),
            whole,
            parts: Parts::new(&experiment),
            tells: Vec::new(),
            stage: "",
            waiting: false,
            thinking: false,
            finished: false,
            experiment,
        }
    }

    /// Starts the search over; what is in the archive stays. With what was measured answered from a record,
    /// it comes back to where it was.
    pub fn rewind(&mut self) {
        if self.experiment.recovery.is_some() {
            // What was trained may have taken places on the front of those that were picked to be trained.
            self.archive = Archive::default();
        }
        (self.generation, self.pruning.spared, self.finished, self.thinking) = (None, 0, false, false);
        self.making = Making::default();
        self.parts.forget();
        self.search = (self.start)(&self.experiment);
        self.tell_again();
    }

    /// Starts the search over without the archive, and with these failures forgotten.
    pub fn retry(&mut self, retried: &BTreeSet<WorkKey>) {
        self.failed.retain(|work| !retried.contains(work));
        // What the search measured on its way past the failures may not belong to the front.
        self.archive = Archive::default();
        self.rewind();
    }

    /// Asks the search for its next generation, or for jobs ([`Playback::take_jobs`]), once nothing of the last ones is
    /// open. `is_measured` tells whether a trial has a result; it is asked about a few, to find where a search that was
    /// interrupted goes on. Returns whether there is anything, or is to be asked for again ([`Playback::is_thinking`]); if not,
    /// the search is finished, or waits for a tell.
    ///
    /// # Errors
    /// Those of `is_measured`.
    pub fn propose<E>(
        &mut self,
        mut is_measured: impl FnMut(&TrialKey) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.making = Making::default();
        let step = self.search.next(&self.archive);
        self.thinking = step == Step::Again;
        let generation = match step {
            Step::Measure(generation) => generation,
            Step::Make(jobs) => {
                let untaken: Vec<AddressedJob> = jobs.into_iter().map(AddressedJob::from).collect();
                self.making = Making { jobs: untaken.len(), untaken };
                (self.generation, self.stage) = (None, MAKING);
                return Ok(true);
            }
            Step::Again => return Ok(true),
            Step::Wait => {
                (self.generation, self.stage, self.waiting) = (None, WAITING, true);
                return Ok(false);
            }
            Step::Finished => {
                self.finished = true;
                return Ok(false);
            }
        };
        let protocols = match generation.subset {
            Some(first) => vec![self.whole.first(first)],
            None => [&self.whole].into_iter().chain(self.parts.protocols()).cloned().collect(),
        };
        let cursor = Cursor::new(generation.candidates, |candidates, index| {
            let key = candidates.get(index).map(|candidate| protocols[0].trial(candidate).key());
            key.map_or(Ok(false), |key| is_measured(&key))
        })?;
        self.stage = generation.stage;
        self.generation = Some(UnderWay { cursor, protocols, may_race: generation.may_race });
        Ok(true)
    }

    /// True if the search asks for jobs that nobody has taken.
    pub fn has_jobs(&self) -> bool {
        !self.making.untaken.is_empty()
    }

    /// Takes the jobs that the search asks for, those that others read before these. Each is to be answered by
    /// [`Playback::made`] or [`Playback::fail`] before the search is asked again.
    pub fn take_jobs(&mut self) -> Vec<AddressedJob> {
        std::mem::take(&mut self.making.untaken)
    }

    /// Files what a job made.
    pub fn made(&mut self, job: JobKey, artifact: ContentHash) {
        self.archive.insert_made(job, artifact);
    }

    /// Files the content of what a job made, before [`Playback::made`]: of each that [is read](qslm_common::job::Job::is_read).
    pub fn read_document(&mut self, job: JobKey, document: Vec<u8>) {
        self.archive.insert_document(job, document);
    }

    /// True if a trial or job is known to fail.
    pub fn has_failed(&self, work: impl Into<WorkKey>) -> bool {
        self.failed.contains(&work.into())
    }

    /// Draws up to `most` candidates of the generation, in order.
    pub fn draw(&mut self, most: usize) -> Range<usize> {
        self.generation.as_mut().map_or(0..0, |under_way| under_way.cursor.take_ahead(most))
    }

    /// Draws up to `most` candidates of the generation that are very likely measured: a search that goes on from a record
    /// passes them over at first.
    pub fn draw_measured(&mut self, most: usize) -> Range<usize> {
        self.generation.as_mut().map_or(0..0, |under_way| under_way.cursor.take_behind(most))
    }

    /// True if [`Playback::draw`] has more.
    pub fn has_more(&self) -> bool {
        self.generation.as_ref().is_some_and(|under_way| under_way.cursor.has_ahead())
    }

    /// True if [`Playback::draw_measured`] has more.
    pub fn has_more_measured(&self) -> bool {
        self.generation.as_ref().is_some_and(|under_way| under_way.cursor.has_behind())
    }

    /// Reads what is on record of the trials of candidates that were drawn, on all cores if that is worth it: to find a trial's address
    /// takes two hashes, and a coordinator that starts has to find those of all that was measured. `look_up` gives one
    /// record per address.
    ///
    /// # Errors
    /// Those of `look_up`.
    pub fn read<E: Send>(
        &self,
        drawn: Range<usize>,
        look_up: impl Fn(&[TrialKey]) -> Result<Vec<OnRecord>, E> + Sync,
    ) -> Result<Vec<Drawn>, E> {
        let Some(UnderWay { cursor, protocols, .. }) = &self.generation else { return Ok(Vec::new()) };
        // The search itself is not shared between threads.
        let experiment = &self.experiment;
        // On a subset, or on one task of several, it is no result that could be worked out here.
        let is_whole = protocols.len() == 1 && protocols[0].task == self.whole.task;
        in_parallel(drawn, &|range: Range<usize>| {
            let candidates = range.filter_map(|index| cursor.candidates().get(index));
            let of =
                |candidate: Candidate| protocols.iter().map(move |by| by.trial(candidate.clone()).into());
            let trials: Vec<Addressed> = candidates.flat_map(of).collect();
            let keys: Vec<TrialKey> = trials.iter().map(|trial| trial.key).collect();
            let known = trials.into_iter().zip(look_up(&keys)?);
            Ok(known.map(|(trial, on_record)| Drawn::new(experiment, is_whole, trial, on_record)).collect())
        })
    }

    /// Files what is on record of a candidate, or decides what becomes of it. `shard_results` gives the settled shards of
    /// the float model, which a race runs against.
    ///
    /// # Errors
    /// Those of `shard_results`.
    pub fn file<E>(
        &mut self,
        drawn: Drawn,
        shard_results: impl FnOnce(&TrialKey) -> Result<BTreeMap<Shard, Evidence>, E>,
    ) -> Result<Fate, E> {
        let Drawn { trial, record } = drawn;
        let new = match record {
            Record::Measured(measurement, engines) => self.insert(&trial, measurement, engines),
            Record::Part(evidence) => self.measured(&trial, evidence),
            Record::Shards(_) if self.has_failed(trial.key) => return Ok(Fate::Failed),
            Record::Shards(settled) if self.is_told_off(&trial) || self.has_lost(&trial, &settled) => {
                self.prune(&trial, settled.len());
                return Ok(Fate::Pruned);
            }
            Record::Shards(settled) => return Ok(Fate::Open(trial, settled)),
        };
        // Also where the float model is measured on one task of several.
        if self.keeps_shard_results(&trial.key) && !self.has_race() {
            self.start_race(&shard_results(&trial.key)?);
        }
        Ok(Fate::Measured(trial, new))
    }

    /// Files a trial that was measured. Returns the engines that measured its candidate if that is new in the archive.
    pub fn measured(&mut self, trial: &Addressed, evidence: Evidence) -> Option<Engines> {
        if self.is_on_subset(trial) {
            self.archive.insert_on_subset(trial.candidate, evidence.counts);
            return None;
        }
        let (measurement, engines) = self.parts.join(&self.experiment, trial, evidence)?;
        self.insert(trial, measurement, engines)
    }

    fn insert(&mut self, trial: &Addressed, measurement: Measurement, engines: Engines) -> Option<Engines> {
        if self.is_told_off(trial) {
            // Also what was measured meanwhile, for somebody else: what is pruned does not depend on who is faster.
            self.archive.prune(trial.candidate);
            return None;
        }
        let candidate = &trial.trial.candidate;
        let is_new = self.archive.insert_measured(&self.experiment, candidate, measurement);
        is_new.then_some(engines)
    }

    /// Notes a trial or job that failed for good.
    pub fn fail(&mut self, work: impl Into<WorkKey>) {
        self.failed.insert(work.into());
    }

    /// True if a trial is measured on a subset of the data, which tells sensitivity and is no result.
    pub fn is_on_subset(&self, trial: &Addressed) -> bool {
        let is_whole = || self.generation.as_ref().is_none_or(|under_way| under_way.protocols.len() > 1);
        // A further task may be the beginning of the own one; of one generation it is either.
        trial.trial.protocol.task != self.whole.task && !(is_whole() && self.parts.is_further(trial))
    }

    /// The experiment.
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// The archive of what was measured.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// True if the search has nothing to do before it is told something.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// True if the search knew no next step when it was asked, and is to be asked again.
    pub fn is_thinking(&self) -> bool {
        self.thinking
    }

    /// True if the search proposes nothing more.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Stage of the generation; empty before the first.
    pub fn stage(&self) -> &'static str {
        self.stage
    }

    /// Trials of one candidate on all data: one for each task.
    pub fn trials_per_candidate(&self) -> usize {
        self.parts.per_candidate()
    }

    /// Candidates of the generation.
    pub fn candidates(&self) -> usize {
        self.generation.as_ref().map_or(0, |under_way| under_way.cursor.candidates().len())
    }

    /// Trials of the generation, and how many of them were drawn; or the jobs that are done in its place.
    pub fn progress(&self) -> (usize, usize) {
        let of = |UnderWay { cursor, protocols, .. }: &UnderWay| {
            (cursor.candidates().len() * protocols.len(), cursor.drawn() * protocols.len())
        };
        self.generation.as_ref().map_or((self.making.jobs, self.making.jobs), of)
    }

    /// Jobs that the search asked for last, in place of a generation.
    pub fn jobs(&self) -> usize {
        self.making.jobs
    }

    /// See [`crate::Strategy::caption`].
    pub fn caption(&self) -> String {
        self.strategy.caption()
    }

    /// See [`Search::remaining_at_most`].
    pub fn remaining_at_most(&self) -> Option<u64> {
        self.search.remaining_at_most()
    }

    /// Probe candidates with the quality that each loses, `None` where it is not measured. Empty before the float model
    /// is measured, and if the strategy has none. The interval is `None` on a subset, where no spread is kept.
    pub fn sensitivity(&self) -> Vec<Probed> {
        let on_subset = self.strategy.subset(&self.experiment).is_some();
        let counts = |candidate: &Candidate| self.archive.counts(&candidate.id(), on_subset);
        let Some(float) = counts(&Candidate::float(&self.experiment.network)) else { return Vec::new() };
        let of_float = self.archive.float(&self.experiment).filter(|_| !on_subset);
        let with_loss = |probe: Probe| {
            let loss = counts(&probe.candidate).map(|alone| quality_loss(float, alone));
            let entry = self.archive.get(&probe.candidate.id());
            let interval = entry.zip(of_float).and_then(|(entry, float)| entry.loss_interval(float));
            Probed { probe, loss, interval }
        };
        self.search.probes().into_iter().map(with_loss).collect()
    }

    /// Losses that the strategy predicted of candidates, with those that were measured; see [`Search::predictions`].
    pub fn predictions(&self) -> Vec<Prediction> {
        prediction::of(&*self.search, &self.experiment, &self.archive)
    }

    /// Candidates that are looked up at a time.
    pub const CHUNK: usize = CHUNK;
}
