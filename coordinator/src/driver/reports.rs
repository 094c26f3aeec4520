//! Reports in, leases out: one call is heartbeat, results and long polling for work.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qslm_common::work::Work;
use tracing::field::display;

use super::jobs::JOBS;
use super::request::Reply;
use super::run::ExperimentRun;
use super::search_run::SearchRun;
use super::workers::{Heard, Waiting};
use super::{Driver, DriverError, Refusal, ReportAnswer, WorkerReport};
use crate::ledger::{Grant, LeaseId, Moment, Owner};
use crate::store::StoreError;

impl Driver {
    /// Takes a worker's report. If it brings something, it is answered after the commit, else at once, or as soon as
    /// there is work.
    pub(super) fn report(
        &mut self,
        report: WorkerReport,
        reply: Reply<ReportAnswer>,
        now: Moment,
    ) -> Result<(), StoreError> {
        let Heard { number, is_new, is_restarted } = self.workers.hear(&report, now);
        if is_new {
            self.journal.note("", format!("worker {} is here", report.worker));
        }
        if is_restarted {
            // What the process before it held is lost with it, and perhaps was why it ended.
            let expired = self.ledger.vanish(&report.worker);
            self.lapsed(expired);
        }
        let news = !report.finished.is_empty();
        for finished in report.finished {
            self.settle(&report.worker, finished, now)?;
        }
        for (lease, done, of) in report.progress {
            self.ledger.note_progress(&report.worker, lease, done, of);
        }
        let mut unknown: BTreeSet<LeaseId> = report.held.into_iter().collect();
        self.ledger.extend(&report.worker, &mut unknown, now + self.options.lease_ttl);
        let wait = if news || !unknown.is_empty() || report.slots == 0 { 0 } else { report.wait_ms };
        let waiting = Waiting {
            worker: report.worker,
            slots: report.slots,
            prefetch: report.prefetch,
            experiment: report.experiment,
            capabilities: report.capabilities,
            dropped: unknown.into_iter().collect(),
            until: now + Duration::from_millis(wait.into()),
            reply,
        };
        if news {
            self.outbox.answer_report(number, waiting);
        } else {
            self.workers.waiting.insert(number, waiting);
        }
        Ok(())
    }

    /// Long polling: answers the reports that are due and those for which there is work.
    pub(super) fn answer_reports(&mut self, now: Moment) -> Result<(), DriverError> {
        // Whether there is anything for a worker who takes any work.
        let mut dry = false;
        for (number, waiting) in std::mem::take(&mut self.workers.waiting) {
            // A caller that is gone would let its leases run out.
            if waiting.reply.is_closed() || !self.workers.is_latest(&waiting.worker, number) {
                drop(waiting.reply.send(Err(Refusal::Superseded(waiting.worker))));
                continue;
            }
            let mut leases = Vec::new();
            let wanted = waiting.slots + waiting.prefetch;
            while (leases.len() as u32) < wanted && !(dry && waiting.experiment.is_none()) {
                let beforehand = leases.len() as u32 >= waiting.slots;
                let Some(grant) = self.grant(&waiting, beforehand, now)? else {
                    dry |= !beforehand && waiting.experiment.is_none() && !self.ledger.has_work(now);
                    break;
                };
                leases.push(grant);
            }
            if leases.is_empty() && waiting.until > now {
                self.workers.waiting.insert(number, waiting);
                continue;
            }
            self.answer_report(waiting, leases)?;
        }
        Ok(())
    }

    fn answer_report(&mut self, waiting: Waiting, leases: Vec<Grant>) -> Result<(), StoreError> {
        let mut inputs = BTreeMap::new();
        for grant in &leases {
            if let Some(job) = grant.work.job() {
                inputs.insert(grant.lease, self.inputs(&job.job)?);
            }
        }
        let experiments = leases.iter().map(|grant| grant.owner);
        let id = |owner: Owner| self.account(owner).to_owned();
        let (set_aside, last_fault) = self.workers.breakers.open_for(&waiting.worker);
        let answer = ReportAnswer {
            set_aside: last_fault.filter(|_| !set_aside.is_empty()).map(str::to_owned),
            experiments: experiments.map(|owner| (owner, id(owner))).collect(),
            done: leases.is_empty() && self.is_done(waiting.experiment.as_deref()),
            leases,
            inputs,
            dropped: waiting.dropped,
            ttl: self.options.lease_ttl,
        };
        drop(waiting.reply.send(Ok(answer)));
        Ok(())
    }

    /// Word for an owner: the id of an experiment, or that it is people's jobs.
    pub(super) fn account(&self, owner: Owner) -> &str {
        self.experiments.get(owner.index()).map_or(JOBS, |run| run.search.id())
    }

    /// True if everything that a worker could work for has ended.
    fn is_done(&self, only: Option<&str>) -> bool {
        let searches = self.experiments.iter().map(|run| &run.search);
        let mut wanted = searches.filter(|search| only.is_none_or(|only| search.is_called(only))).peekable();
        let jobs = self.wants_jobs(only) && self.ledger.open_count(Owner::PEOPLE) > 0;
        wanted.peek().is_some() && wanted.all(SearchRun::has_ended) && !jobs
    }

    /// True if a worker does jobs that people wait for. Who works for one experiment alone does them only for the sake of one
    /// that is not there yet, or is known by its name: it may need some before it is there.
    fn wants_jobs(&self, only: Option<&str>) -> bool {
        only.is_none_or(|only| only == JOBS || self.experiments.iter().all(|run| run.search.id() != only))
    }

    /// The next shard for a worker: of the experiment with the highest priority; among equals, of the one that has
    /// the fewest shards out, so that they share the workers evenly. What a worker takes `beforehand` it evaluates later:
    /// there has to be enough for everyone else to do until then.
    fn grant(
        &mut self,
        waiting: &Waiting,
        beforehand: bool,
        now: Moment,
    ) -> Result<Option<Grant>, DriverError> {
        let turns = self.turns(waiting, now);
        let pending = |driver: &Self, owner: Owner| driver.ledger.shard_counts(owner).pending;
        // Of all that it may work for: else the last few shards of one search would wait until others have few, too.
        let mut enough: u32 = turns.iter().map(|owner| pending(self, *owner)).sum();
        for owner in turns {
            let is_thinking = |index: usize| self.experiments[index].search.is_thinking();
            let is_dry = pending(self, owner) == 0 && owner != Owner::PEOPLE;
            // Each turn has one slice of what it works out, however many workers wait.
            if is_dry && !is_thinking(owner.index()) {
                self.advance(owner.index())?;
                enough += pending(self, owner);
            }
            if beforehand && !self.workers.are_outnumbered_by(enough) {
                continue;
            }
            let (lease, ends) = (self.next_lease, now + self.options.lease_ttl);
            let capabilities = &waiting.capabilities;
            let able =
                |work: &Work| work.job().is_none_or(|job| capabilities.make(&job.job.kind, job.job.backend));
            if let Some(grant) = self.ledger.grant_able(owner, lease, &waiting.worker, &able, now, ends) {
                self.next_lease = lease.next();
                self.journal.granted(&grant, &waiting.worker);
                let experiment = self.account(owner);
                let trial = grant.work.trial().map(|trial| display(trial.key));
                let job = grant.work.job().map(|job| display(job.key));
                let shard = grant.shard.index;
                tracing::debug!(
                    experiment,
                    trial,
                    job,
                    shard,
                    of = grant.shard.of,
                    lease = lease.0,
                    worker = waiting.worker,
                    "granted"
                );
                return Ok(Some(grant));
            }
        }
        Ok(None)
    }

    /// The owners that a worker may work for, in the order of their turns: first people, who wait for their jobs.
    fn turns(&self, waiting: &Waiting, now: Moment) -> Vec<Owner> {
        let eligible =
            self.experiments.iter().enumerate().filter(|&(index, ExperimentRun { search, .. })| {
                let leases = || self.ledger.leases_of(&waiting.worker, Owner::at(index));
                search.is_active()
                    && self.workers.breakers.allows(&waiting.worker, Owner::at(index), now, leases)
                    && waiting.experiment.as_ref().is_none_or(|only| search.is_called(only))
                    && search.suits(&waiting.capabilities)
            });
        let turn = |(index, run): (usize, &ExperimentRun)| {
            (Reverse(run.search.priority()), self.ledger.shard_counts(Owner::at(index)).leased, index)
        };
        let mut turns: Vec<_> = eligible.map(turn).collect();
        turns.sort_unstable();
        let wants_jobs = self.wants_jobs(waiting.experiment.as_deref());
        let leases = || self.ledger.leases_of(&waiting.worker, Owner::PEOPLE);
        let may = wants_jobs
            && !waiting.capabilities.jobs.is_empty()
            && self.ledger.open_count(Owner::PEOPLE) > 0
            && self.workers.breakers.allows(&waiting.worker, Owner::PEOPLE, now, leases);
        let people = may.then_some(Owner::PEOPLE);
        people.into_iter().chain(turns.into_iter().map(|(_, _, index)| Owner::at(index))).collect()
    }

    pub(super) fn forget_silent_workers(&mut self, now: Moment) {
        for name in self.workers.forget_silent(now, self.options.lease_ttl) {
            self.journal.note("", format!("worker {name} is silent"));
        }
    }
}
