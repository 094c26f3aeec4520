//! Requests: what people ask of the driver, and what they change.

use std::sync::Arc;

use qslm_common::experiment::Experiment;

use super::presentation::Presentation;
use super::request::{Change, ClusterView, Refusal, ReplaySource, Reply, Request, Snapshot, Submission};
use super::run::ExperimentRun;
use super::search_run::History;
use super::status::ExperimentStatus;
use super::{Driver, DriverError, SHOWN, estimate};
use crate::ledger::{Moment, Owner};
use crate::store::{ExperimentRecord, Write};

impl Driver {
    /// Applies one request. `false` asks the driver to stop.
    pub(super) fn apply(&mut self, request: Request, now: Moment) -> Result<bool, DriverError> {
        self.journal.set_time(now);
        if self.has_to_wait(&request) {
            self.parked.push(request);
            return Ok(true);
        }
        match request {
            Request::Report(report, reply) => self.report(report, reply, now)?,
            Request::Submit(submission, reply) => self.submit(*submission, reply),
            Request::List(reply) => {
                let all = self.statuses(now);
                self.outbox.answer(reply, Ok(all));
            }
            Request::Get(id, reply) => self.with(&id, reply, |driver, index| driver.status(index, now)),
            Request::Watch(id, reply) => self.with(&id, reply, |driver, index| {
                driver.publish(index, now);
                driver.experiments[index].view.watch()
            }),
            Request::Front(id, reply) => {
                self.with(&id, reply, |driver, index| driver.experiments[index].front_document());
            }
            Request::Describe(id, reply) => self.with(&id, reply, |driver, index| {
                let share = driver.share_to_come(index);
                let ExperimentRun { search, view } = &mut driver.experiments[index];
                let workers = driver.workers.counts(index, search);
                view.report(search, &driver.ledger, now, workers, &driver.engines, share)
            }),
            Request::Cluster(reply) => {
                let jobs = self.jobs_under_way(now);
                let cluster =
                    ClusterView { workers: self.workers.status(now), jobs, events: self.journal.events() };
                self.outbox.answer(reply, Ok(cluster));
            }
            Request::Snapshot(reply) => {
                let (experiments, workers) = (self.statuses(now), self.workers.status(now));
                let (jobs, of_people) = (self.job_counts(), self.ledger.shard_counts(Owner::PEOPLE));
                let snapshot = Snapshot { experiments, workers, jobs, of_people, tally: self.journal.tally };
                self.outbox.answer(reply, Ok(snapshot));
            }
            Request::Source(id, reply) => self.with(&id, reply, |driver, index| ReplaySource {
                record: driver.experiments[index].search.record().clone(),
                store: Arc::downgrade(&driver.store),
            }),
            Request::Change(id, change, reply) => match self.find(&id) {
                Ok(index) => {
                    self.change(index, change);
                    self.outbox.answer_with_status(index, reply);
                }
                Err(refusal) => self.outbox.answer(reply, Err(refusal)),
            },
            Request::Retry(id, trials, reply) => {
                let retried = self.find(&id).and_then(|index| self.retry(index, &trials).map(|()| index));
                match retried {
                    Ok(index) => self.outbox.answer_with_status(index, reply),
                    Err(refusal) => self.outbox.answer(reply, Err(refusal)),
                }
            }
            Request::Tell(id, number, tell, reply) => {
                let told = self.take_tell(&id, number, tell);
                self.outbox.answer(reply, told);
            }
            Request::Prune(id, number, places, reply) => {
                let pruned = self.prune(&id, number, &places);
                self.outbox.answer(reply, pruned);
            }
            Request::Told(id, number, reply) => {
                let told = self.told(&id, number);
                self.outbox.answer(reply, told);
            }
            Request::Make(request, reply) => self.make(request, reply)?,
            Request::LeasedJob(lease, reply) => {
                drop(reply.send(Ok(self.leased_job(lease))));
            }
            Request::Committed(written) => {
                self.outbox.written(&written?);
                self.committed();
            }
            Request::Stop => return Ok(false),
        }
        Ok(true)
    }

    /// True if a question is about an experiment of which more is to be looked up.
    fn has_to_wait(&self, request: &Request) -> bool {
        let loading = |index: usize| self.experiments[index].search.is_looking_up();
        match request {
            Request::List(_) => (0..self.experiments.len()).any(loading),
            Request::Get(id, _)
            | Request::Watch(id, _)
            | Request::Front(id, _)
            | Request::Describe(id, _)
            | Request::Prune(id, ..)
            | Request::Told(id, ..)
            | Request::Source(id, _) => self.find(id).is_ok_and(loading),
            _ => false,
        }
    }

    /// Share that a search will visit of what it may still propose; see [`estimate`]. Of one that is over, or waits for
    /// nobody, nobody asks.
    fn share_to_come(&self, index: usize) -> Option<f64> {
        let search = &self.experiments[index].search;
        let visited = self.experiments.iter().filter_map(|run| run.view.visited());
        search.is_active().then(|| estimate::share(search.playback().experiment(), visited)).flatten()
    }

    pub(super) fn status(&mut self, index: usize, now: Moment) -> ExperimentStatus {
        let share = self.share_to_come(index);
        let ExperimentRun { search, view } = &mut self.experiments[index];
        let status = view.status(search, &self.ledger, now, self.workers.counts(index, search));
        status.with_share(share)
    }

    fn statuses(&mut self, now: Moment) -> Vec<ExperimentStatus> {
        (0..self.experiments.len()).map(|index| self.status(index, now)).collect()
    }

    /// Shows watchers the status of an experiment if it changed.
    pub(super) fn publish(&mut self, index: usize, now: Moment) {
        let share = self.share_to_come(index);
        let ExperimentRun { search, view } = &mut self.experiments[index];
        view.publish(search, &self.ledger, now, self.workers.counts(index, search), share);
    }

    /// Answers with what `f` makes of the experiment of this id.
    fn with<T: Send + 'static>(&mut self, id: &str, reply: Reply<T>, f: impl FnOnce(&mut Self, usize) -> T) {
        let value = self.find(id).map(|index| f(self, index));
        self.outbox.answer(reply, value);
    }

    /// The experiment with this id, or the newest of this name, or the only one whose id starts so.
    pub(super) fn find(&self, id: &str) -> Result<usize, Refusal> {
        let ids = || self.experiments.iter().map(|run| run.search.id()).enumerate();
        if let Some((index, _)) = ids().find(|(_, known)| *known == id) {
            return Ok(index);
        }
        // A whole name is no beginning of another one. They are in the order of submission.
        let has_name = |run: &ExperimentRun| run.search.record().experiment.name == id;
        if let Some(index) = self.experiments.iter().rposition(has_name) {
            return Ok(index);
        }
        let matches: Vec<_> = ids().filter(|(_, known)| known.starts_with(id)).collect();
        // What is quoted travels back in a header, which has a bound.
        let shown: String = id.chars().take(SHOWN).collect();
        match matches[..] {
            [(index, _)] if !id.is_empty() => Ok(index),
            [] | [_] => {
                let there = listed(ids().map(|(_, id)| id));
                let there = if there.is_empty() { String::new() } else { format!("; there are {there}") };
                Err(Refusal::NotFound(format!("no experiment {shown:?}{there}")))
            }
            _ => {
                let (count, which) = (matches.len(), listed(matches.iter().map(|(_, id)| *id)));
                Err(Refusal::Ambiguous(format!("{count} experiments start with {shown:?}: {which}")))
            }
        }
    }

    /// Adds an experiment; one that is there already goes on, even if it was cancelled or paused.
    fn submit(&mut self, submission: Submission, reply: Reply<ExperimentStatus>) {
        let Submission { experiment, shards, priority, demands, origins } = submission;
        let id = experiment.id();
        let known = self.experiments.iter().position(|run| run.search.id() == id);
        let index = match known.map_or_else(|| self.submit_new(&id, experiment, shards, priority), Ok) {
            Ok(index) => index,
            Err(refusal) => return self.outbox.answer(reply, Err(refusal)),
        };
        self.change(
            index,
            Change { cancelled: Some(false), paused: Some(false), priority, demands, origins },
        );
        self.outbox.answer_with_status(index, reply);
    }

    fn submit_new(
        &mut self,
        id: &str,
        experiment: Experiment,
        shards: u32,
        priority: Option<i32>,
    ) -> Result<usize, Refusal> {
        let order = self.experiments.len() as u64;
        let record = ExperimentRecord::new(order, shards, priority.unwrap_or(0), experiment);
        let added = self.add(record.clone(), History::default(), Presentation::default());
        let index = added.map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.outbox.write(Write::Experiment(record));
        self.journal.note(id, "submitted");
        Ok(index)
    }

    /// Changes what a person may change of an experiment.
    fn change(&mut self, index: usize, change: Change) {
        let search = &mut self.experiments[index].search;
        if search.is_finished() {
            return;
        }
        let known = search.record();
        let mut origins = known.origins.clone();
        origins.join(change.origins);
        let record = ExperimentRecord {
            cancelled: change.cancelled.unwrap_or(known.cancelled),
            paused: change.paused.unwrap_or(known.paused),
            priority: change.priority.unwrap_or(known.priority),
            demands: change.demands.unwrap_or_else(|| known.demands.clone()),
            origins,
            ..known.clone()
        };
        if record == *known {
            return;
        }
        if record.cancelled {
            self.ledger.withdraw(Owner::at(index));
        }
        self.outbox.write(Write::Experiment(record.clone()));
        search.change(record);
        // What is demanded may have changed.
        self.workers.restaffed();
    }

    /// Opens failed trials again: those whose addresses begin so, or all. The search starts over, as after a restart of the
    /// coordinator, so that it goes on as if they had never failed.
    fn retry(&mut self, index: usize, trials: &[String]) -> Result<(), Refusal> {
        let ExperimentRun { search, view } = &mut self.experiments[index];
        let retried = search.failed_work(trials)?;
        if retried.is_empty() {
            return Ok(());
        }
        let (id, record) = (search.id().to_owned(), search.record().clone());
        let record = ExperimentRecord { finished: false, cancelled: false, paused: false, ..record };
        self.journal.note(&id, format!("{} failed trials are opened again", retried.len()));
        for work in &retried {
            self.outbox.write(Write::Retry(id.clone(), *work));
        }
        self.outbox.write(Write::Experiment(record.clone()));
        self.ledger.withdraw(Owner::at(index));
        search.start_over(record, &retried);
        view.start_over();
        Ok(())
    }
}

/// Ids of experiments that a refusal names.
const LISTED: usize = 5;

/// The last few ids, the newest first, and how many more there are.
fn listed<'a>(ids: impl DoubleEndedIterator<Item = &'a str>) -> String {
    let mut newest: Vec<&str> = ids.rev().collect();
    let more = newest.len().saturating_sub(LISTED);
    newest.truncate(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    newest.join(", ") + &more
}
