//! View of an experiment: what people see of it. Nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::evidence::{Engines, Fingerprint};
use qslm_common::footprint::saving;
use qslm_common::front_document::FrontDocument;
use qslm_common::objective::quality_loss;
use qslm_common::trial::Addressed;
use qslm_report::words::{lost, percent};
use qslm_report::{BestSoFar, FORMAT, Lifecycle, ReportDocument, Sample, Sensitivity, unmet};
use qslm_search::{Playback, Probed};
use tokio::sync::watch;

use super::absence::Absence;
use super::estimate::Visited;
use super::presentation::{Presentation, Spotted};
use super::rate::SlidingRate;
use super::search_run::SearchRun;
use super::status::{Best, ExperimentStatus, State, Summary, WorkerCounts};
use crate::ledger::{Ledger, Moment};

/// Different reasons of failed trials that a status carries.
const SHOWN_FAILURES: usize = 5;
/// Failed trials and jobs that a status names.
const SHOWN_TRIALS: usize = 20;

/// Artifacts that a report names.
const SHOWN_ARTIFACTS: usize = 100;

/// View of one experiment.
pub(super) struct View {
    presentation: Presentation,
    /// Last announcement, so that a change is announced.
    announced: LastAnnounced,
    /// Summary, cached: worked out when it is asked for and the archive has changed.
    summary: Option<Summary>,
    /// Trials measured since the coordinator started.
    evaluated: u64,
    /// Number of these that were measured on a subset of the data.
    probed: u64,
    /// Shards settled since the coordinator started.
    shards_settled: u64,
    /// Tokens that workers reported, for a sliding window rate.
    tokens: SlidingRate,
    status: watch::Sender<Option<ExperimentStatus>>,
    /// Share that the search visited; `None` until that was looked at after its end.
    visited: Option<Option<Visited>>,
    absence: Absence,
    /// [`super::Options::only_reads`].
    only_reads: bool,
}

/// Announcement: the stage, state and best candidate that people were told of last.
#[derive(Default, PartialEq)]
struct LastAnnounced {
    stage: &'static str,
    /// State; `None` before the first look.
    state: Option<State>,
    best: Option<Best>,
}

impl View {
    pub(super) fn new(presentation: Presentation, only_reads: bool) -> Self {
        Self {
            presentation,
            announced: LastAnnounced::default(),
            summary: None,
            evaluated: 0,
            probed: 0,
            shards_settled: 0,
            tokens: SlidingRate::default(),
            status: watch::Sender::new(None),
            visited: None,
            absence: Absence::default(),
            only_reads,
        }
    }

    /// Absence of workers.
    pub(super) fn absence(&mut self) -> &mut Absence {
        &mut self.absence
    }

    /// Forgets candidates and stages, which come again.
    pub(super) fn start_over(&mut self) {
        self.presentation.start_over();
        (self.summary, self.visited) = (None, None);
    }

    /// Shows a measured trial, if it is `new` in the archive.
    pub(super) fn file(&mut self, playback: &Playback, trial: &Addressed, new: Option<&Engines>) {
        self.summary = None;
        let Some(engines) = new else { return };
        if let Some(entry) = playback.archive().get(&trial.candidate) {
            let spot = Spotted::new(&playback.experiment().network, trial.candidate, entry);
            self.presentation.add(playback.stage(), spot, engines);
        }
    }

    /// Counts a trial that was measured now.
    pub(super) fn count(&mut self, on_subset: bool) {
        self.evaluated += 1;
        self.probed += u64::from(on_subset);
    }

    /// Counts a shard that was settled with so many tokens, for the throughput.
    pub(super) fn note_shard(&mut self, now: Moment, tokens: u64) {
        self.shards_settled += 1;
        self.tokens.note(now, tokens);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.status.receiver_count() > 0
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<ExperimentStatus>> {
        self.status.subscribe()
    }

    /// Shows watchers the status if it changed.
    /// `share` is that of what is still to come that it will propose, about.
    pub(super) fn publish(
        &mut self,
        of: &SearchRun,
        ledger: &Ledger,
        now: Moment,
        workers: WorkerCounts,
        share: Option<f64>,
    ) {
        let mut status = self.status(of, ledger, now, workers).with_share(share);
        status.absence = status.absence.by_the_minute();
        self.status.send_if_modified(|shown| {
            let changed = shown.as_ref() != Some(&status);
            *shown = Some(status);
            changed
        });
    }

    /// Share that the search visited, once it has finished and was looked at.
    pub(super) fn visited(&self) -> Option<&Visited> {
        self.visited.as_ref().and_then(Option::as_ref)
    }

    /// Notes what a search visited that has finished, once.
    fn note_visited(&mut self, of: &SearchRun) {
        if self.visited.is_none() && of.is_finished() && !of.is_looking_up() {
            let archive = of.playback().archive();
            let all = (archive.len() + archive.pruned()) as u64 + of.failures().len() as u64;
            let first = self.presentation.stages().first().map_or(0, |stage| stage.measured);
            self.visited = Some(Visited::new(of.playback().experiment(), all.saturating_sub(first)));
        }
    }

    /// State as people see it: a search that only waits for workers is interrupted where none can come.
    fn state(&self, of: &SearchRun) -> State {
        match of.state() {
            State::Running | State::Stuck if self.only_reads => State::Interrupted,
            state => state,
        }
    }

    pub(super) fn status(
        &mut self,
        of: &SearchRun,
        ledger: &Ledger,
        now: Moment,
        workers: WorkerCounts,
    ) -> ExperimentStatus {
        self.note_visited(of);
        let playback = of.playback();
        let reasons: BTreeSet<&String> = of.failures().values().collect();
        let (trials, drawn) = playback.progress();
        let open = ledger.open_count(of.owner());
        ExperimentStatus {
            id: of.id().to_owned(),
            state: self.state(of),
            is_reproducible: playback.experiment().is_reproducible(),
            stage: playback.stage(),
            generation_settled: (drawn as u32).saturating_sub(open),
            generation_trials: trials as u32,
            measured: playback.archive().len() as u64,
            failed: of.failures().len() as u64,
            pruned: playback.archive().pruned() as u64,
            shards_spared: playback.spared(),
            probed: self.probed,
            shards: ledger.shard_counts(of.owner()),
            shards_settled: self.shards_settled,
            evaluated: self.evaluated,
            workers,
            tokens_per_second: self.tokens.per_second(now),
            summary: self.summary(playback),
            remaining_at_most: playback.remaining_at_most(),
            remaining_about: None,
            started_unix_ms: self.presentation.timeline().first().map(|first| first.unix_ms),
            failures: reasons.into_iter().take(SHOWN_FAILURES).cloned().collect(),
            priority: of.priority(),
            demands: of.record().demands.clone(),
            stuck: of.stuck().to_owned(),
            absence: self.absence.at(now),
            retried: of.retried(),
            told: playback.tells().len() as u64,
            failed_trials: of
                .failures()
                .iter()
                .take(SHOWN_TRIALS)
                .map(|(work, reason)| (*work, reason.clone()))
                .collect(),
        }
    }

    /// Report document: all that there is to see. `share` is that of what is still to come that it will propose, about.
    pub(super) fn report(
        &mut self,
        of: &SearchRun,
        ledger: &Ledger,
        now: Moment,
        workers: WorkerCounts,
        known: &BTreeMap<Fingerprint, String>,
        share: Option<f64>,
    ) -> ReportDocument {
        let status = self.status(of, ledger, now, workers).with_share(share);
        let state = match status.state {
            State::Finished => Lifecycle::Finished,
            State::Cancelled => Lifecycle::Cancelled,
            State::Paused => Lifecycle::Paused,
            State::Interrupted => Lifecycle::Interrupted,
            State::Running | State::Stuck => Lifecycle::Running,
        };
        let playback = of.playback();
        let experiment = playback.experiment();
        ReportDocument {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: status.id,
            experiment: experiment.clone(),
            strategy: playback.caption(),
            state,
            stage: status.stage.to_owned(),
            generation_settled: status.generation_settled,
            generation_trials: status.generation_trials,
            failed: status.failed,
            failures: status.failures,
            without_worker: status.absence.words().unwrap_or_default(),
            stuck: status.stuck,
            remaining_at_most: status.remaining_at_most,
            remaining_about: status.remaining_about,
            workers: workers.present,
            tokens_per_second: status.tokens_per_second,
            stages: self.presentation.stages().to_vec(),
            spots: self.presentation.cloud().spots(),
            front: FrontDocument::new(experiment, playback.archive()),
            sensitivity: playback.sensitivity().into_iter().map(sensitivity).collect(),
            timeline: self.presentation.timeline().to_vec(),
            comparisons: self.presentation.comparisons().to_vec(),
            engines: self.presentation.engines(known),
            artifacts: of.given().into_iter().take(SHOWN_ARTIFACTS).collect(),
            origins: of.record().origins.clone(),
        }
    }

    /// Sample of how far it is now, if one is due.
    pub(super) fn sample(&mut self, of: &SearchRun, now: Moment, unix_ms: u64) -> Option<Sample> {
        // What was measured before a restart is not complete until it was read.
        if of.is_looking_up() || !self.presentation.is_due(unix_ms, self.evaluated, of.is_finished()) {
            return None;
        }
        let summary = self.summary(of.playback());
        let sample = Sample {
            unix_ms,
            measured: of.playback().archive().len() as u64,
            front: summary.front,
            hypervolume: summary.hypervolume,
            tokens_per_second: self.tokens.per_second(now),
            best: summary.best.map(|best| BestSoFar {
                saving: best.saving,
                quality_loss: best.quality_loss,
                quality_loss_interval: best.quality_loss_interval,
            }),
        };
        self.presentation.sample(sample, self.evaluated);
        Some(sample)
    }

    /// True if its stage or state is not the one announced last.
    pub(super) fn has_turned(&self, of: &SearchRun) -> bool {
        of.playback().stage() != self.announced.stage || Some(of.state()) != self.announced.state
    }

    /// News since the last announcement, in a few words each.
    pub(super) fn news(&mut self, of: &SearchRun) -> Vec<String> {
        // A search that is read from the store is no news.
        if of.is_looking_up() {
            return Vec::new();
        }
        let best = self.summary(of.playback()).best;
        let now = LastAnnounced { stage: of.playback().stage(), state: Some(of.state()), best };
        let before = std::mem::replace(&mut self.announced, now);
        let (before, now) = (&before, &self.announced);
        let mut news = Vec::new();
        // Nothing is known before the first look, and that all of it is new is no news either.
        let Some(state) = now.state.filter(|_| before.state.is_some()) else { return news };
        if let Some(best) = now.best.as_ref().filter(|best| before.best.as_ref() != Some(best)) {
            let (saving, loss) = (percent(best.saving), lost(best.kind, best.quality_loss));
            news.push(format!("best so far: {saving} saved at {loss}"));
        }
        if now.stage != before.stage {
            news.push(match of.playback().is_waiting() {
                true => now.stage.to_owned(),
                false => format!("{} begins", now.stage),
            });
        }
        if now.state != before.state {
            news.push(state.name().to_owned());
        }
        news
    }

    fn summary(&mut self, playback: &Playback) -> Summary {
        self.summary.get_or_insert_with(|| summary(playback)).clone()
    }
}

fn summary(playback: &Playback) -> Summary {
    let (experiment, archive) = (playback.experiment(), playback.archive());
    let chosen = archive.chosen().zip(archive.float(experiment));
    let best = chosen.map(|(chosen, float)| Best {
        candidate: chosen.id,
        saving: saving(&experiment.network, chosen.entry.footprint_bytes),
        kind: experiment.task.quality(),
        quality: chosen.entry.counts.perplexity().or(chosen.entry.counts.accuracy()).unwrap_or(0.0),
        quality_loss: quality_loss(&float.counts, &chosen.entry.counts),
        quality_loss_interval: chosen.entry.loss_interval(float),
    });
    Summary {
        front: archive.front_len() as u32,
        hypervolume: archive.hypervolume(experiment),
        best,
        unmet: unmet::sentences(&archive.unmet(experiment)),
    }
}

fn sensitivity(Probed { probe, loss, interval }: Probed) -> Sensitivity {
    let scheme = probe.scheme();
    Sensitivity {
        axis: probe.axis,
        name: probe.name,
        scheme,
        quality_loss: loss,
        quality_loss_interval: interval,
    }
}
