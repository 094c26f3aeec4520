//! What workers say and what they get: reports with results come in, leases go out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qslm_common::demands::Capabilities;
use qslm_common::evidence::{Engines, Evidence, Fingerprint};

use super::request::Reply;
use super::running::Running;
use super::speed::Speed;
use super::{Driver, DriverError, Finished, Report, ReportAnswer, ShardOutcome};
use crate::ledger::{Grant, LeaseId, Millis, Owner, Settled};
use crate::store::Write;

/// Different engines that are told apart: kinds of machines and versions of the program, not workers.
const MOST_ENGINES: usize = 1000;

/// What is known of a worker.
pub(super) struct Worker {
    /// When it was heard of first.
    since: Millis,
    /// When it was last heard of.
    seen: Millis,
    /// Its latest report; whoever made an earlier one has given it up.
    report: u64,
    /// Evaluations that it may have in hand.
    capacity: u64,
    /// Leases that it listed last.
    holding: u32,
    /// The only experiment that it works for, if it does.
    experiment: Option<String>,
    /// What it can do.
    capabilities: Arc<Capabilities>,
    /// Shards that it measured.
    measured: u64,
    /// Shards that it could not measure.
    failed: u64,
    /// Tokens that it evaluated.
    speed: Speed,
}

/// What people see of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// How long it has been here.
    pub present: Duration,
    /// How long ago it was heard of.
    pub silent: Duration,
    /// Evaluations that it may have in hand.
    pub capacity: u64,
    /// Leases that it listed last.
    pub holding: u32,
    /// The only experiment that it works for, if it does.
    pub experiment: Option<String>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Shards that it measured.
    pub measured: u64,
    /// Shards that it could not measure.
    pub failed: u64,
    /// Tokens that it evaluates per second, lately.
    pub tokens_per_second: f64,
}

impl Worker {
    fn new(now: Millis) -> Self {
        Self {
            since: now,
            seen: now,
            report: 0,
            capacity: 0,
            holding: 0,
            experiment: None,
            capabilities: Arc::default(),
            measured: 0,
            failed: 0,
            speed: Speed::default(),
        }
    }

    /// What it can do.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What people see of it.
    pub(super) fn status(&mut self, name: &str, now: Millis) -> WorkerStatus {
        WorkerStatus {
            name: name.to_owned(),
            present: Duration::from_millis(now.saturating_sub(self.since)),
            silent: Duration::from_millis(now.saturating_sub(self.seen)),
            capacity: self.capacity,
            holding: self.holding,
            experiment: self.experiment.clone(),
            capabilities: Capabilities::clone(&self.capabilities),
            measured: self.measured,
            failed: self.failed,
            tokens_per_second: self.speed.per_second(now),
        }
    }
}

/// A report without an answer yet.
pub(super) struct Waiting {
    worker: String,
    slots: u32,
    /// Leases beyond the slots that it would take.
    prefetch: u32,
    /// The only experiment that the worker works for, or any.
    experiment: Option<String>,
    /// What it can do. Whoever waits for longer than a lease's time is not known as a worker any more.
    capabilities: Arc<Capabilities>,
    dropped: Vec<LeaseId>,
    /// When it has to be answered, work or not.
    pub(super) until: Millis,
    reply: Reply<ReportAnswer>,
}

impl Driver {
    /// Takes a worker's report. If it brings something, it is answered after the commit, else at once, or as soon as
    /// there is work.
    pub(super) fn report(&mut self, report: Report, reply: Reply<ReportAnswer>, now: Millis) {
        self.reports += 1;
        if !self.workers.contains_key(&report.worker) {
            self.staffing += 1;
            self.note("", format!("worker {} is here", report.worker));
        }
        let worker = self.workers.entry(report.worker.clone()).or_insert_with(|| Worker::new(now));
        self.capacity -= worker.capacity;
        (worker.seen, worker.report) = (now, self.reports);
        worker.capacity = report.held.len() as u64 + u64::from(report.slots);
        worker.holding = report.held.len() as u32;
        worker.experiment.clone_from(&report.experiment);
        if worker.capabilities != report.capabilities {
            worker.capabilities = report.capabilities.clone();
            self.staffing += 1;
        }
        self.capacity += worker.capacity;
        for finished in &report.finished {
            match &finished.outcome {
                ShardOutcome::Counts(counts) => {
                    worker.measured += 1;
                    worker.speed.note(now, counts.positions);
                }
                ShardOutcome::Failure { .. } => worker.failed += 1,
            }
        }
        let news = !report.finished.is_empty();
        for finished in report.finished {
            self.settle(finished, now);
        }
        let mut unknown: BTreeSet<LeaseId> = report.held.into_iter().collect();
        self.ledger.extend(&report.worker, &mut unknown, now + self.ttl());
        let wait = if news || !unknown.is_empty() || report.slots == 0 { 0 } else { report.wait_ms };
        let waiting = Waiting {
            worker: report.worker,
            slots: report.slots,
            prefetch: report.prefetch,
            experiment: report.experiment,
            capabilities: report.capabilities,
            dropped: unknown.into_iter().collect(),
            until: now + Millis::from(wait),
            reply,
        };
        if news {
            self.next.reports.push((self.reports, waiting));
        } else {
            self.waiting.insert(self.reports, waiting);
        }
    }

    /// The fingerprint of an engine, whose description goes on record the first time.
    fn known_engine(&mut self, description: String) -> Engines {
        let fingerprint = Fingerprint::of(&description);
        if !description.is_empty()
            && !self.engines.contains_key(&fingerprint)
            && self.engines.len() < MOST_ENGINES
        {
            self.next.writes.push(Write::Engine(fingerprint, description.clone()));
            self.engines.insert(fingerprint, description);
        }
        self.engines.get_key_value(&fingerprint).map(|(known, _)| *known).into_iter().collect()
    }

    /// Takes what a worker made of a shard.
    fn settle(&mut self, finished: Finished, now: Millis) {
        let Finished { lease, trial, shard, engine, outcome } = finished;
        let owners = self.ledger.owners(&trial).to_vec();
        let in_force = self.ledger.is_out(lease);
        let is_failure = matches!(outcome, ShardOutcome::Failure { .. });
        let keeps_parts = |owner: &&Owner| self.experiments[**owner as usize].keeps_parts_of(&trial);
        let racers: Vec<Owner> = owners.iter().filter(keeps_parts).copied().collect();
        let mut parts = BTreeMap::new();
        let settled = match outcome {
            ShardOutcome::Counts(counts) => {
                let evidence = Evidence { engines: self.known_engine(engine), counts };
                if !racers.is_empty() {
                    parts = self.ledger.parts(&trial).map(|(_, parts, _)| parts).unwrap_or_default();
                    parts.insert(shard, evidence.clone());
                }
                let settled = self.ledger.settle(trial, shard, evidence.clone(), now);
                if matches!(settled, Settled::Recorded | Settled::Complete(_)) {
                    for owner in &owners {
                        self.experiments[*owner as usize].note_speed(now, evidence.counts.positions);
                    }
                }
                // A result for a trial that is not open is kept, too: it was cancelled meanwhile, or the search has not
                // come back to it since this coordinator started. A lease that nobody ever got proves nothing.
                let late = matches!(settled, Settled::Unknown) && lease < self.next_lease;
                if late || matches!(settled, Settled::Recorded) {
                    self.next.writes.push(Write::Shard(trial, shard, evidence));
                }
                settled
            }
            ShardOutcome::Failure { reason, retryable } => self.ledger.fail(lease, retryable, &reason),
        };
        self.tally.note(&settled, is_failure, in_force);
        let unix_ms = self.born_unix_ms + now;
        if let Some(traced) = &mut self.traced {
            traced.ended(lease, is_failure.then_some("the worker could not measure it"), unix_ms);
        }
        match settled {
            Settled::Complete(closed) => {
                self.close(closed);
                for racer in &racers {
                    self.experiments[*racer as usize].start_race(&parts);
                }
                // After the sum, which stands for them all otherwise.
                if !parts.is_empty() {
                    self.next.writes.push(Write::Parts(trial, parts));
                }
            }
            Settled::Recorded => {
                for owner in owners {
                    let running = &mut self.experiments[owner as usize];
                    if running.judge(&trial, &mut self.ledger) {
                        tracing::debug!(experiment = running.id(), %trial, "lost the race: given up");
                    }
                }
            }
            Settled::Conflict => {
                tracing::error!(%trial, ?shard, "a shard came back with other counts than were recorded; the first ones stay");
            }
            Settled::Implausible => {
                tracing::warn!(%trial, lease, "refused counts that this network cannot give");
                let reason = "a worker reported counts that this network cannot give";
                if let Settled::Complete(closed) = self.ledger.fail(lease, true, reason) {
                    self.close(closed);
                }
            }
            Settled::Known | Settled::Unknown => {}
        }
    }

    /// Answers the reports that are due and those for which there is work.
    pub(super) fn answer_reports(&mut self, now: Millis) -> Result<(), DriverError> {
        // Whether there is anything for a worker who takes any work.
        let mut dry = false;
        for (number, waiting) in std::mem::take(&mut self.waiting) {
            // A caller that is gone would let its leases run out.
            let latest = self.workers.get(&waiting.worker).map(|worker| worker.report);
            if waiting.reply.is_closed() || latest.is_some_and(|latest| latest != number) {
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
                self.waiting.insert(number, waiting);
                continue;
            }
            let experiments = leases.iter().map(|grant| grant.owner);
            let id = |owner: Owner| self.experiments[owner as usize].id().to_owned();
            let answer = ReportAnswer {
                experiments: experiments.map(|owner| (owner, id(owner))).collect(),
                done: leases.is_empty() && self.is_done(waiting.experiment.as_deref()),
                leases,
                dropped: waiting.dropped,
                ttl: self.options.lease_ttl,
            };
            drop(waiting.reply.send(Ok(answer)));
        }
        Ok(())
    }

    /// Whether everything that a worker could work for has ended.
    fn is_done(&self, only: Option<&str>) -> bool {
        let mut wanted =
            self.experiments.iter().filter(|running| only.is_none_or(|only| running.id() == only)).peekable();
        wanted.peek().is_some() && wanted.all(Running::has_ended)
    }

    /// The next shard for a worker: of the experiment with the highest priority; among equals, of the one that has
    /// the fewest shards out, so that they share the workers evenly. What a worker takes `beforehand` it evaluates later:
    /// there has to be enough for everyone else to do until then.
    fn grant(
        &mut self,
        waiting: &Waiting,
        beforehand: bool,
        now: Millis,
    ) -> Result<Option<Grant>, DriverError> {
        let eligible = self.experiments.iter().enumerate().filter(|(_, running)| {
            running.is_active()
                && waiting.experiment.as_ref().is_none_or(|only| running.id() == only)
                && running.suits(&waiting.capabilities)
        });
        let turn = |(index, running): (usize, &Running)| {
            (Reverse(running.priority()), self.ledger.shard_counts(index as Owner).leased, index)
        };
        let mut turns: Vec<_> = eligible.map(turn).collect();
        turns.sort_unstable();
        for (_, _, index) in turns {
            if self.ledger.shard_counts(index as Owner).pending == 0 {
                self.advance(index)?;
            }
            let pending = self.ledger.shard_counts(index as Owner).pending;
            if beforehand && u64::from(pending) < self.capacity {
                continue;
            }
            let (lease, ends) = (self.next_lease, now + self.ttl());
            if let Some(grant) = self.ledger.grant(index as Owner, lease, &waiting.worker, now, ends) {
                self.next_lease += 1;
                self.tally.granted += 1;
                let unix_ms = self.born_unix_ms + now;
                if let Some(traced) = &mut self.traced {
                    traced.granted(&grant, &waiting.worker, unix_ms);
                }
                let (experiment, trial, shard) =
                    (self.experiments[index].id(), grant.trial.key, grant.shard.index);
                tracing::debug!(experiment, %trial, shard, of = grant.shard.of, lease, worker = waiting.worker, "granted");
                return Ok(Some(grant));
            }
        }
        Ok(None)
    }

    pub(super) fn forget_silent_workers(&mut self, now: Millis) {
        let ttl = self.ttl();
        let gone = self.workers.extract_if(|_, worker| worker.seen + ttl <= now);
        for (name, worker) in gone.collect::<Vec<_>>() {
            self.capacity -= worker.capacity;
            self.staffing += 1;
            self.note("", format!("worker {name} is silent"));
        }
    }
}
