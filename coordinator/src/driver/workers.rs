//! Workers: who reports, what each can do, who is set aside, and whose report waits for an answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use qslm_common::demands::Capabilities;
use qslm_common::job::JobKind;

use super::breaker::Breakers;
use super::rate::SlidingRate;
use super::request::{Reply, ReportAnswer, ShardOutcome, WorkerReport};
use super::search_run::SearchRun;
use super::status::{WorkerCounts, WorkerStatus};
use crate::ledger::{LeaseId, Moment, Owner};

/// All workers that were heard of within a lease's time.
#[derive(Default)]
pub(super) struct Workers {
    by_name: HashMap<String, Worker>,
    /// Circuit breakers of those that had faults lately.
    pub(super) breakers: Breakers,
    /// Long polling: reports by number that are to be answered, at once or when there is work.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Number of the last report.
    reports: u64,
    /// Evaluations that all may have in hand together, not counting what they take beforehand.
    capacity: u64,
    /// Changes when a worker comes, goes, can do something else, or has faults.
    staffing: u64,
    /// Worker counts of each experiment, by its index, with the staffing of which they hold.
    counts: Vec<(u64, WorkerCounts)>,
}

/// A worker, as far as it is known.
// One field for each thing that its reports tell.
pub(super) struct Worker {
    /// Time of its first report.
    since: Moment,
    /// Time of its last report, which is its heartbeat.
    seen: Moment,
    /// Number of its latest report; the caller of an earlier one has given it up.
    report: u64,
    /// Evaluations that it may have in hand.
    capacity: u64,
    /// Leases that it listed last.
    holding: u32,
    /// The only experiment that it works for, if it does.
    experiment: Option<String>,
    /// Capabilities, as it reported them last.
    capabilities: Arc<Capabilities>,
    /// Session: the one of its processes that reported last; 0 if unknown.
    session: u64,
    /// Shards that it measured, and jobs that it did.
    measured: u64,
    /// Shards that it could not measure.
    failed: u64,
    /// Faults of its own: shards that it could not measure because of its machine, and leases that ran out in
    /// its hands.
    faults: u64,
    /// Tokens that it processed, for a sliding window rate.
    tokens: SlidingRate,
}

impl Worker {
    fn new(now: Moment) -> Self {
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
            tokens: SlidingRate::default(),
        }
    }

    /// True if it may evaluate an experiment.
    fn suits(&self, search: &SearchRun) -> bool {
        self.experiment.as_deref().is_none_or(|only| search.is_called(only))
            && search.suits(&self.capabilities)
    }

    /// Status of the worker, as people see it.
    pub(super) fn status(&mut self, name: &str, now: Moment, breakers: &Breakers) -> WorkerStatus {
        let (set_aside, last_fault) = breakers.open_for(name);
        WorkerStatus {
            name: name.to_owned(),
            present: now.since(self.since),
            silent: now.since(self.seen),
            capacity: self.capacity,
            holding: self.holding,
            experiment: self.experiment.clone(),
            capabilities: Capabilities::clone(&self.capabilities),
            measured: self.measured,
            failed: self.failed,
            faults: self.faults,
            last_fault: last_fault.map(str::to_owned),
            set_aside: set_aside.len() as u32,
            tokens_per_second: self.tokens.per_second(now),
        }
    }
}

/// A report without an answer yet.
pub(super) struct Waiting {
    pub(super) worker: String,
    pub(super) slots: u32,
    /// Prefetch: leases beyond the slots that it would take.
    pub(super) prefetch: u32,
    /// The only experiment that the worker works for, or any.
    pub(super) experiment: Option<String>,
    /// Capabilities of the worker, kept here too: one that waits for longer than a lease's time is not known
    /// any more.
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) dropped: Vec<LeaseId>,
    /// Deadline of the answer, work or not (long polling).
    pub(super) until: Moment,
    pub(super) reply: Reply<ReportAnswer>,
}

/// News that a report brings of its worker.
pub(super) struct Heard {
    /// Number of the report.
    pub(super) number: u64,
    /// True if the worker was not known.
    pub(super) is_new: bool,
    /// True if the worker is another process than before: the leases of that one are lost with it.
    pub(super) is_restarted: bool,
}

impl Workers {
    /// Hears from a worker.
    pub(super) fn hear(&mut self, report: &WorkerReport, now: Moment) -> Heard {
        self.reports += 1;
        let is_new = !self.by_name.contains_key(&report.worker);
        let worker = self.by_name.entry(report.worker.clone()).or_insert_with(|| Worker::new(now));
        self.capacity -= worker.capacity;
        (worker.seen, worker.report) = (now, self.reports);
        worker.capacity = report.held.len() as u64 + u64::from(report.slots);
        worker.holding = report.held.len() as u32;
        self.capacity += worker.capacity;
        let changed = worker.capabilities != report.capabilities || worker.experiment != report.experiment;
        if changed {
            worker.capabilities = report.capabilities.clone();
            worker.experiment.clone_from(&report.experiment);
        }
        let is_restarted = worker.session != report.session && worker.session != 0;
        worker.session = report.session;
        for finished in &report.finished {
            match &finished.outcome {
                ShardOutcome::Counts(counts, _) => {
                    worker.measured += 1;
                    worker.tokens.note(now, counts.processed_tokens);
                }
                ShardOutcome::Artifact(_) => worker.measured += 1,
                ShardOutcome::Failure { .. } => worker.failed += 1,
            }
        }
        if is_new || changed {
            self.restaffed();
        }
        Heard { number: self.reports, is_new, is_restarted }
    }

    /// Notes that other workers may evaluate some experiment now: cached counts of workers hold no more.
    pub(super) fn restaffed(&mut self) {
        self.staffing += 1;
    }

    /// Counts a fault of a worker.
    pub(super) fn count_fault(&mut self, worker: &str) {
        if let Some(known) = self.by_name.get_mut(worker) {
            known.faults += 1;
        }
    }

    /// True unless a later report of its worker is known: the caller of an earlier one has given it up.
    pub(super) fn is_latest(&self, worker: &str, number: u64) -> bool {
        self.by_name.get(worker).is_none_or(|known| known.report == number)
    }

    /// True if at least as many shards are pending as all workers may have in hand, so that one may prefetch.
    pub(super) fn are_outnumbered_by(&self, pending: u32) -> bool {
        u64::from(pending) >= self.capacity
    }

    /// Number of workers that are able to do jobs of all these kinds.
    pub(super) fn able(&self, kinds: &BTreeSet<JobKind<'_>>) -> u32 {
        let does_all = |worker: &&Worker| {
            kinds.iter().all(|JobKind { kind, backend }| worker.capabilities.make(kind, *backend))
        };
        self.by_name.values().filter(does_all).count() as u32
    }

    /// The workers of an experiment, which has this index.
    pub(super) fn counts(&mut self, index: usize, of: &SearchRun) -> WorkerCounts {
        if self.counts.len() <= index {
            // No staffing yet, so worked out below.
            self.counts.resize(index + 1, (u64::MAX, WorkerCounts::default()));
        }
        if self.counts[index].0 != self.staffing {
            let suitable = self.by_name.iter().filter(|(_, worker)| worker.suits(of));
            let mut counts = WorkerCounts { present: self.by_name.len() as u32, suitable: 0, set_aside: 0 };
            for (name, _) in suitable {
                counts.suitable += 1;
                counts.set_aside += u32::from(self.breakers.open(name, Owner::at(index)).is_some());
            }
            self.counts[index] = (self.staffing, counts);
        }
        self.counts[index].1
    }

    /// Reason why no worker can go on with an experiment whose jobs of these kinds wait: the circuit breakers of all that
    /// may evaluate it are open, or none of them knows a kind.
    pub(super) fn stuck(
        &mut self,
        index: usize,
        of: &SearchRun,
        kinds: &BTreeSet<JobKind<'_>>,
    ) -> Option<String> {
        let WorkerCounts { suitable, set_aside, .. } = self.counts(index, of);
        if !of.is_active() || suitable == 0 {
            return None;
        }
        let suiting = || self.by_name.iter().filter(|(_, worker)| worker.suits(of));
        let is_unknown = |JobKind { kind, backend }: &&JobKind<'_>| {
            !suiting().any(|(_, worker)| worker.capabilities.make(kind, *backend))
        };
        if let Some(kind) = kinds.iter().find(is_unknown) {
            return Some(match suitable {
                1 => format!("the only worker that may work for it does no jobs of the kind {kind}"),
                more => {
                    format!("none of the {more} workers that may work for it does jobs of the kind {kind}")
                }
            });
        }
        if set_aside != suitable {
            return None;
        }
        let open =
            suiting().filter_map(|(name, _)| Some((name, self.breakers.open(name, Owner::at(index))?)));
        // Always the same one, of a map that has no order.
        let first = open.min().map_or(String::new(), |(name, reason)| format!("{name}: {reason}"));
        Some(match suitable {
            1 => format!("the only worker that may evaluate it is set aside: {first}"),
            more => format!("all {more} workers that may evaluate it are set aside: {first}"),
        })
    }

    /// Forgets workers that were not heard of for a lease's time. Returns their names.
    pub(super) fn forget_silent(&mut self, now: Moment, ttl: Duration) -> Vec<String> {
        let gone: Vec<_> = self.by_name.extract_if(|_, worker| worker.seen + ttl <= now).collect();
        for (_, worker) in &gone {
            self.capacity -= worker.capacity;
            self.restaffed();
        }
        self.breakers.forget(|worker| self.by_name.contains_key(worker), now);
        gone.into_iter().map(|(name, _)| name).collect()
    }

    /// Status of all workers, by name.
    pub(super) fn status(&mut self, now: Moment) -> Vec<WorkerStatus> {
        let Self { by_name, breakers, .. } = self;
        let mut workers: Vec<WorkerStatus> =
            by_name.iter_mut().map(|(name, worker)| worker.status(name, now, breakers)).collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        workers
    }

    /// Time at which the next waiting report has to be answered, or a pause of its worker ends.
    pub(super) fn next_due(&self, now: Moment) -> Option<Moment> {
        let due = self.waiting.values().map(|waiting| waiting.until);
        let pauses = self.waiting.values().filter_map(|waiting| self.breakers.next_end(&waiting.worker, now));
        due.chain(pauses).min()
    }
}
