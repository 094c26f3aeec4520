//! What workers say and what they get: reports with results come in, leases go out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qslm_common::demands::Capabilities;
use qslm_common::evidence::{Engines, Evidence, Fingerprint};

use super::breaker::{Breakers, Tripped};
use super::request::Reply;
use super::running::{ExperimentRun, WorkerCounts};
use super::speed::SlidingRate;
use super::{Driver, DriverError, Fault, Finished, Refusal, ReportAnswer, ShardOutcome, WorkerReport};
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
    /// Which of its processes was heard of last.
    session: u64,
    /// Shards that it measured.
    measured: u64,
    /// Shards that it could not measure.
    failed: u64,
    /// Of these, those that it could not measure for a reason of its own.
    faults: u64,
    /// Tokens that it evaluated.
    speed: SlidingRate,
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
    /// Of these, those that it could not measure for a reason of its own.
    pub faults: u64,
    /// The last such reason, while it had no result since.
    pub last_fault: Option<String>,
    /// Experiments for which it is set aside.
    pub set_aside: u32,
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
            session: 0,
            measured: 0,
            failed: 0,
            faults: 0,
            speed: SlidingRate::default(),
        }
    }

    /// Whether it may evaluate an experiment.
    fn suits(&self, running: &ExperimentRun) -> bool {
        self.experiment.as_deref().is_none_or(|only| only == running.id())
            && running.suits(&self.capabilities)
    }

    /// What people see of it.
    pub(super) fn status(&mut self, name: &str, now: Millis, breakers: &Breakers) -> WorkerStatus {
        let (set_aside, last_fault) = breakers.open_for(name);
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
            faults: self.faults,
            last_fault: last_fault.map(str::to_owned),
            set_aside: set_aside.len() as u32,
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

impl Waiting {
    pub(super) fn worker(&self) -> &str {
        &self.worker
    }
}

impl Driver {
    /// Takes a worker's report. If it brings something, it is answered after the commit, else at once, or as soon as
    /// there is work.
    pub(super) fn report(&mut self, report: WorkerReport, reply: Reply<ReportAnswer>, now: Millis) {
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
        if worker.capabilities != report.capabilities || worker.experiment != report.experiment {
            worker.capabilities = report.capabilities.clone();
            worker.experiment.clone_from(&report.experiment);
            self.staffing += 1;
        }
        let restarted = worker.session != report.session && worker.session != 0;
        worker.session = report.session;
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
        if restarted {
            // What the process before it held is lost with it, and perhaps was why it ended.
            let expired = self.ledger.vanish(&report.worker);
            self.lapsed(expired);
        }
        let news = !report.finished.is_empty();
        for finished in report.finished {
            self.settle(&report.worker, finished, now);
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

    /// Notes that a worker could not measure a shard, for a reason of its own.
    pub(super) fn fault(&mut self, worker: &str, owner: Owner, reason: &str, now: Millis) {
        self.tally.faults += 1;
        if let Some(known) = self.workers.get_mut(worker) {
            known.faults += 1;
        }
        let Some(experiment) = self.experiments.get(owner as usize).map(|running| running.id().to_owned())
        else {
            return;
        };
        let seconds = |millis: Millis| millis as f64 / 1000.0;
        match self.breakers.fault(worker, owner, reason, now) {
            Tripped::No => return,
            Tripped::Pause(pause) => {
                let pause_s = seconds(pause);
                tracing::warn!(worker, experiment, reason, pause_s, "a worker cannot measure, it pauses");
                self.note(
                    &experiment,
                    format!("{worker} cannot measure, it pauses for {pause_s} s: {reason}"),
                );
            }
            Tripped::Open(pause) => {
                let next_s = seconds(pause);
                tracing::warn!(
                    worker,
                    experiment,
                    reason,
                    next_s,
                    "a worker is set aside: it had faults only"
                );
                self.note(&experiment, format!("{worker} is set aside, it had faults only: {reason}"));
            }
        }
        self.staffing += 1;
    }

    /// Notes that a worker measured a shard.
    fn success(&mut self, worker: &str, owner: Owner) {
        if self.breakers.success(worker, owner) {
            let experiment = self.experiments[owner as usize].id().to_owned();
            tracing::info!(worker, experiment, "a worker that was set aside measures again");
            self.note(&experiment, format!("{worker} measures again"));
            self.staffing += 1;
        }
    }

    /// Takes a shard back that a worker could not measure, which is none of the trial's fault.
    fn hand_back(
        &mut self,
        worker: &str,
        lease: LeaseId,
        fault: Fault,
        reason: &str,
        now: Millis,
    ) -> Settled {
        let Some(owner) = self.ledger.hand_back(lease) else { return Settled::Unknown };
        if fault == Fault::Machine {
            self.fault(worker, owner, reason, now);
        }
        Settled::Recorded
    }

    /// The workers of an experiment.
    pub(super) fn staff(&mut self, index: usize) -> WorkerCounts {
        if self.staff.len() <= index {
            self.staff.resize(index + 1, (0, WorkerCounts::default()));
        }
        if self.staff[index].0 != self.staffing {
            let running = &self.experiments[index];
            let suitable = self.workers.iter().filter(|(_, worker)| worker.suits(running));
            let mut staff = WorkerCounts { present: self.workers.len() as u32, suitable: 0, set_aside: 0 };
            for (name, _) in suitable {
                staff.suitable += 1;
                staff.set_aside += u32::from(self.breakers.open(name, index as Owner).is_some());
            }
            self.staff[index] = (self.staffing, staff);
        }
        self.staff[index].1
    }

    /// Notes which experiments no worker can go on with, because all that may evaluate them are set aside.
    pub(super) fn look_for_stuck(&mut self) {
        for index in 0..self.experiments.len() {
            // Almost always nobody is.
            if self.breakers.is_empty() && !self.experiments[index].is_stuck() {
                continue;
            }
            let WorkerCounts { suitable, set_aside, .. } = self.staff(index);
            let stuck = self.experiments[index].is_active() && suitable > 0 && set_aside == suitable;
            let stuck = stuck.then(|| self.why_stuck(index, suitable));
            if self.experiments[index].set_stuck(stuck) && self.experiments[index].is_stuck() {
                let (experiment, reason) = (self.experiments[index].id(), self.why_stuck(index, suitable));
                tracing::error!(experiment, reason, "stuck");
            }
        }
    }

    fn why_stuck(&self, index: usize, workers: u32) -> String {
        let suitable = self.workers.iter().filter(|(_, worker)| worker.suits(&self.experiments[index]));
        let open = suitable.filter_map(|(name, _)| Some((name, self.breakers.open(name, index as Owner)?)));
        // Always the same one, of a map that has no order.
        let first = open.min().map_or(String::new(), |(name, reason)| format!("{name}: {reason}"));
        match workers {
            1 => format!("the only worker that may evaluate it is set aside: {first}"),
            more => format!("all {more} workers that may evaluate it are set aside: {first}"),
        }
    }

    /// Takes what a worker made of a shard.
    fn settle(&mut self, worker: &str, finished: Finished, now: Millis) {
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
                        self.success(worker, *owner);
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
            ShardOutcome::Failure { reason, fault: Fault::Evaluation } => self.ledger.fail(lease, &reason),
            ShardOutcome::Failure { reason, fault } => self.hand_back(worker, lease, fault, &reason, now),
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
                tracing::warn!(%trial, lease, worker, "refused counts that this network cannot give");
                let reason = "it reported counts that this network cannot give";
                self.hand_back(worker, lease, Fault::Machine, reason, now);
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
                self.waiting.insert(number, waiting);
                continue;
            }
            let experiments = leases.iter().map(|grant| grant.owner);
            let id = |owner: Owner| self.experiments[owner as usize].id().to_owned();
            let (set_aside, last_fault) = self.breakers.open_for(&waiting.worker);
            let answer = ReportAnswer {
                set_aside: last_fault.filter(|_| !set_aside.is_empty()).map(str::to_owned),
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
        wanted.peek().is_some() && wanted.all(ExperimentRun::has_ended)
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
        let eligible = self.experiments.iter().enumerate().filter(|&(index, running)| {
            let leases = || self.ledger.leases_of(&waiting.worker, index as Owner);
            running.is_active()
                && self.breakers.allows(&waiting.worker, index as Owner, now, leases)
                && waiting.experiment.as_ref().is_none_or(|only| running.id() == only)
                && running.suits(&waiting.capabilities)
        });
        let turn = |(index, running): (usize, &ExperimentRun)| {
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
        self.breakers.forget(|worker| self.workers.contains_key(worker), now);
    }
}
