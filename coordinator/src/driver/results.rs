//! Results: what workers make of shards, and what becomes of trials.

use std::collections::{BTreeMap, BTreeSet};

use qslm_common::evidence::{Backing, Engines, Evidence, Fingerprint};
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::{Made, Work, WorkKey};

use super::breaker::Tripped;
use super::{Driver, Fault, Finished, ShardOutcome};
use crate::crash::CrashPoint;
use crate::ledger::{Closed, Expired, LeaseId, Moment, Outcome, Owner, Settled};
use crate::store::{StoreError, Write};

/// Different engines that are told apart: kinds of machines and versions of the program, not workers.
const MOST_ENGINES: usize = 1000;

impl Driver {
    /// Takes what a worker made of a shard.
    pub(super) fn settle(&mut self, worker: &str, finished: Finished, now: Moment) -> Result<(), StoreError> {
        let Finished { lease, work, shard, engine, outcome } = finished;
        let in_force = self.ledger.is_out(lease);
        match (outcome, work) {
            (ShardOutcome::Counts(counts, spread), WorkKey::Trial(trial)) => {
                let backing = Backing { engines: self.known_engine(engine), spread };
                let evidence = Evidence { counts, backing };
                self.settle_counts(worker, lease, (trial, shard), evidence, in_force, now);
            }
            (ShardOutcome::Artifact(artifact), WorkKey::Job(job)) => {
                let made = Made { artifact, engines: self.known_engine(engine) };
                self.settle_made(worker, lease, job, made, now)?;
            }
            (ShardOutcome::Counts(..) | ShardOutcome::Artifact(_), work) => {
                let reason = format!("it reported a result of another kind for {work}");
                self.journal.ended(lease, Some(&reason));
                self.hand_back(worker, lease, Fault::Machine, &reason, now);
            }
            (ShardOutcome::Failure { reason, fault }, _) => {
                self.journal.tally.note_failure(in_force);
                self.journal.ended(lease, Some("the worker could not measure it"));
                match fault {
                    Fault::Evaluation => {
                        for closed in self.ledger.fail(lease, &reason) {
                            self.close(closed);
                        }
                    }
                    fault => self.hand_back(worker, lease, fault, &reason, now),
                }
            }
        }
        Ok(())
    }

    /// Takes counts: records them, follows up what that led to, and tells.
    fn settle_counts(
        &mut self,
        worker: &str,
        lease: LeaseId,
        (trial, shard): (TrialKey, Shard),
        evidence: Evidence,
        in_force: bool,
        now: Moment,
    ) {
        let owners = self.ledger.owners(trial).to_vec();
        // What a race runs against; taken before the trial is closed.
        let mut kept = self.kept_shard_results(&owners, &trial);
        if let Some((_, shard_results)) = &mut kept {
            shard_results.insert(shard, evidence.clone());
        }
        let settled = self.record(worker, &owners, lease, (trial, shard), evidence, now);
        self.journal.tally.note(&settled, in_force);
        self.journal.ended(lease, None);
        match settled {
            Settled::Complete(closed) => {
                self.close(closed);
                if let Some((racers, shard_results)) = kept {
                    self.start_races(&racers, trial, shard_results);
                }
            }
            Settled::Recorded => self.judge(&owners, &trial),
            Settled::Conflict => {
                tracing::error!(%trial, ?shard, "a shard came back with other counts than were recorded; the first ones stay");
            }
            Settled::Implausible => {
                tracing::warn!(%trial, lease = lease.0, worker, "refused counts that this network cannot give");
                let reason = "it reported counts that this network cannot give";
                self.hand_back(worker, lease, Fault::Machine, reason, now);
            }
            Settled::Known | Settled::Unknown => {}
        }
    }

    /// Settles a shard in the ledger, and keeps the result.
    fn record(
        &mut self,
        worker: &str,
        owners: &[Owner],
        lease: LeaseId,
        (trial, shard): (TrialKey, Shard),
        evidence: Evidence,
        now: Moment,
    ) -> Settled {
        let settled = self.ledger.settle(trial, shard, evidence.clone(), now);
        if matches!(settled, Settled::Recorded | Settled::Complete(_)) {
            for owner in owners {
                self.success(worker, *owner);
                self.experiments[owner.index()].view.note_shard(now, evidence.counts.processed_tokens);
            }
        }
        // A result for a trial that is not open is kept, too: it was cancelled meanwhile, or the search has not
        // come back to it since this coordinator started. A lease that nobody ever got proves nothing.
        let late = matches!(settled, Settled::Unknown) && lease < self.next_lease;
        if late || matches!(settled, Settled::Recorded) {
            self.outbox.write(Write::Shard(trial, shard, evidence));
        }
        settled
    }

    /// The owners whose races run against a trial, with its settled shards; `None` for almost all trials.
    fn kept_shard_results(
        &self,
        owners: &[Owner],
        trial: &TrialKey,
    ) -> Option<(Vec<Owner>, BTreeMap<Shard, Evidence>)> {
        let keeps = |owner: &&Owner| self.experiments[owner.index()].search.keeps_shard_results(trial);
        let racers: Vec<Owner> = owners.iter().filter(keeps).copied().collect();
        let settled = || self.ledger.shard_results(trial).map(|(_, settled, _)| settled).unwrap_or_default();
        (!racers.is_empty()).then(|| (racers, settled()))
    }

    fn start_races(&mut self, racers: &[Owner], trial: TrialKey, shard_results: BTreeMap<Shard, Evidence>) {
        for racer in racers {
            self.experiments[racer.index()].search.start_race(&shard_results);
        }
        // After the sum, which stands for them all otherwise.
        if !shard_results.is_empty() {
            self.outbox.write(Write::ShardResults(trial, shard_results));
        }
    }

    /// Prunes an open trial for those owners for whom it loses too much.
    fn judge(&mut self, owners: &[Owner], trial: &TrialKey) {
        for owner in owners {
            let search = &mut self.experiments[owner.index()].search;
            if search.judge(trial, &mut self.ledger) {
                tracing::debug!(experiment = search.id(), %trial, "pruned: it lost the race");
            }
        }
    }

    /// Files a closed trial with everyone who waited for it.
    pub(super) fn close(&mut self, closed: Closed) {
        let experiments = &self.experiments;
        let ids = closed.owners.iter().filter_map(|owner| experiments.get(owner.index()));
        self.journal.closed(&closed, ids.map(|run| run.search.id()));
        let Closed { work, owners, outcome } = closed;
        let trial = match work {
            Work::Trial(trial) => trial,
            Work::Job(job) => return self.close_job(&job, &owners, outcome),
        };
        if let Outcome::Measured(evidence) = &outcome {
            self.options.crash_at.pass(CrashPoint::UpdatingFront);
            self.outbox.write_sum(trial.key, evidence.clone());
        }
        for owner in owners {
            let Some(run) = self.experiments.get_mut(owner.index()) else { continue };
            match &outcome {
                Outcome::Measured(evidence) => run.measured(&trial, evidence.clone()),
                // Of jobs alone.
                Outcome::Made(_) => {}
                Outcome::Failed(reason) => {
                    let candidate = trial.candidate.short();
                    tracing::warn!(experiment = run.search.id(), candidate, reason, "trial failed");
                    self.fail(owner.index(), trial.key.into(), &candidate, reason);
                }
            }
        }
    }

    /// Files work of an experiment that failed for good.
    pub(super) fn fail(&mut self, index: usize, work: WorkKey, name: &str, reason: &str) {
        let search = &mut self.experiments[index].search;
        let id = search.id().to_owned();
        search.failed(work, reason);
        self.journal.note(&id, format!("{name} failed: {reason}"));
        self.outbox.write(Write::Failure(id, work, reason.to_owned()));
    }

    /// Follows up leases that ran out, or were lost with their worker.
    pub(super) fn lapsed(&mut self, expired: Expired) {
        self.journal.tally.expired += expired.lapsed.len() as u64;
        for (lease, worker, owner) in expired.lapsed {
            self.journal
                .remember("", format!("a lease of {worker} ran out; its shard goes to another worker"));
            tracing::info!(worker, lease = lease.0, "a lease ran out; its shard goes to another worker");
            self.journal.ended(lease, Some("it ran out"));
            if let Some(run) = self.experiments.get_mut(owner.index()) {
                run.view.absence().note_lapse();
            }
            self.fault(&worker, owner, "it vanished with work in hand", self.journal.now());
        }
        for closed in expired.failed {
            self.close(closed);
        }
    }

    /// The fingerprint of an engine, whose description goes on record the first time.
    fn known_engine(&mut self, description: String) -> Engines {
        let fingerprint = Fingerprint::of(&description);
        if !description.is_empty()
            && !self.engines.contains_key(&fingerprint)
            && self.engines.len() < MOST_ENGINES
        {
            self.outbox.write(Write::Engine(fingerprint, description.clone()));
            self.engines.insert(fingerprint, description);
        }
        self.engines.get_key_value(&fingerprint).map(|(known, _)| *known).into_iter().collect()
    }

    /// Takes a shard back that a worker could not measure, which is none of the trial's fault.
    fn hand_back(&mut self, worker: &str, lease: LeaseId, fault: Fault, reason: &str, now: Moment) {
        let owner = self.ledger.hand_back(lease);
        if let Some(owner) = owner.filter(|_| fault == Fault::Machine) {
            self.fault(worker, owner, reason, now);
        }
    }

    /// Notes that a worker could not measure a shard, for a reason of its own.
    fn fault(&mut self, worker: &str, owner: Owner, reason: &str, now: Moment) {
        self.journal.tally.faults += 1;
        self.workers.count_fault(worker);
        let experiment = self.account(owner).to_owned();
        let experiment = experiment.as_str();
        match self.workers.breakers.fault(worker, owner, reason, now) {
            Tripped::No => return,
            Tripped::Pause(pause) => {
                let pause_s = pause.as_secs_f64();
                tracing::warn!(worker, experiment, reason, pause_s, "a worker cannot measure, it pauses");
                let text = format!("{worker} cannot measure, it pauses for {pause_s} s: {reason}");
                self.journal.remember(experiment, text);
            }
            Tripped::Open(pause) => {
                let next_s = pause.as_secs_f64();
                tracing::warn!(
                    worker,
                    experiment,
                    reason,
                    next_s,
                    "a worker is set aside: it had faults only"
                );
                let text = format!("{worker} is set aside, it had faults only: {reason}");
                self.journal.remember(experiment, text);
            }
        }
        self.workers.restaffed();
    }

    /// Notes that a worker measured a shard.
    pub(super) fn success(&mut self, worker: &str, owner: Owner) {
        if let Some(run) = self.experiments.get_mut(owner.index()) {
            run.view.absence().note_result();
        }
        if self.workers.breakers.success(worker, owner) {
            let experiment = self.account(owner).to_owned();
            let experiment = experiment.as_str();
            tracing::info!(worker, experiment, "a worker that was set aside measures again");
            self.journal.remember(experiment, format!("{worker} measures again"));
            self.workers.restaffed();
        }
    }

    /// Notes which experiments no worker can go on with: all that may evaluate them are set aside, or none does the jobs that
    /// they wait for.
    pub(super) fn look_for_stuck(&mut self) {
        for (index, run) in self.experiments.iter_mut().enumerate() {
            let search = &mut run.search;
            let makes = search.playback().jobs() > 0;
            // Almost always nobody is.
            if self.workers.breakers.is_empty() && !search.is_stuck() && !makes {
                continue;
            }
            let kinds = if makes { self.ledger.pending_kinds(search.owner()) } else { BTreeSet::new() };
            let stuck = self.workers.stuck(index, search, &kinds);
            if search.set_stuck(stuck) && search.is_stuck() {
                tracing::error!(experiment = search.id(), reason = search.stuck(), "stuck");
            }
        }
    }
}
