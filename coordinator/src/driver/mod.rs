//! The driver: the one owner of all state, on a thread of its own.
//!
//! It takes whatever requests have arrived, applies them to the ledgers, lets the searches go on, writes
//! everything to the store in one transaction, and only then answers. What arrives while a transaction is
//! written goes into the next. There are no locks, and nobody else reads the clock for the ledger.

mod request;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use qslm_common::experiment::Experiment;
use qslm_proto::v1::ExperimentStatus;
use tokio::sync::{oneshot, watch};

use crate::ledger::{LeaseId, Millis};
use crate::store::{ExperimentRecord, Store, StoreError, Write};

pub use request::{Finished, Handle, Refusal, Report, ReportAnswer, ShardOutcome};
use request::{Reply, Request};
use running::Running;

/// Requests that may wait for the driver; more are refused with [`Refusal::Busy`].
const QUEUE: usize = 1024;
/// Requests that go into one transaction.
const BATCH: usize = 512;
/// How long the driver sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// The state of a coordinator.
struct Driver {
    store: Store,
    lease_ttl: Duration,
    started: Instant,
    /// In the order of submission.
    experiments: Vec<Running>,
    next_lease: LeaseId,
    /// When each worker was last heard of.
    workers: BTreeMap<String, Millis>,
    /// Reports that are to be answered: at once, or when there is work.
    waiting: Vec<Waiting>,
    /// What the next transaction writes.
    writes: Vec<Write>,
    /// Answers that go out once the transaction is on disk.
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// A report without an answer yet.
struct Waiting {
    worker: String,
    slots: u32,
    /// The only experiment that the worker works for, or any.
    experiment: Option<String>,
    dropped: Vec<LeaseId>,
    /// When it has to be answered, work or not.
    until: Millis,
    reply: Reply<ReportAnswer>,
}

/// Starts a driver on `store`. Experiments that were under way go on. The thread ends when every handle is
/// gone or asked to stop, and gives the error that ended it, if any, to whoever joins it.
///
/// # Errors
/// [`StoreError`] if the store's experiments cannot be read.
pub fn start(
    store: Store,
    lease_ttl: Duration,
) -> Result<(Handle, std::thread::JoinHandle<Result<(), StoreError>>), StoreError> {
    let (sender, receiver) = sync_channel(QUEUE);
    let mut driver = Driver::new(store, lease_ttl)?;
    let thread = std::thread::spawn(move || driver.run(&receiver));
    Ok((Handle::new(sender), thread))
}

impl Driver {
    fn new(store: Store, lease_ttl: Duration) -> Result<Self, StoreError> {
        let mut driver = Self {
            // A restarted coordinator must not give a lease number twice.
            next_lease: store.epoch() << 32,
            store,
            lease_ttl,
            started: Instant::now(),
            experiments: Vec::new(),
            workers: BTreeMap::new(),
            waiting: Vec::new(),
            writes: Vec::new(),
            answers: Vec::new(),
        };
        for record in driver.store.experiments()? {
            let failures = driver.store.failures(&record.experiment.id())?;
            driver.experiments.push(Running::new(record, failures));
        }
        driver.finish_batch()?;
        Ok(driver)
    }

    fn run(&mut self, requests: &Receiver<Request>) -> Result<(), StoreError> {
        loop {
            let mut open = true;
            match requests.recv_timeout(self.until_due()) {
                Ok(request) => open = self.apply(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for request in requests.try_iter().take(BATCH) {
                open &= self.apply(request);
            }
            self.finish_batch()?;
            if !open {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// Time until a lease runs out or a waiting report has to be answered.
    fn until_due(&self) -> Duration {
        let leases = self.experiments.iter().filter_map(Running::next_expiry);
        let due = leases.chain(self.waiting.iter().map(|waiting| waiting.until)).min();
        due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(self.now())).min(IDLE))
    }

    /// Expires, advances, commits, answers and grants, in this order.
    fn finish_batch(&mut self) -> Result<(), StoreError> {
        let now = self.now();
        for running in &mut self.experiments {
            running.expire(now, &mut self.writes);
            running.advance(&self.store)?;
        }
        self.store.commit(&self.writes)?;
        self.writes.clear();
        for answer in self.answers.drain(..) {
            answer();
        }
        self.answer_reports(now);
        let ttl = self.lease_ttl.as_millis() as Millis;
        self.workers.retain(|_, seen| *seen + ttl > now);
        let workers = self.workers.len() as u32;
        for running in &mut self.experiments {
            running.publish(now, workers);
        }
        Ok(())
    }

    /// Applies one request. `false` asks the driver to stop.
    fn apply(&mut self, request: Request) -> bool {
        match request {
            Request::Report(report, reply) => self.report(report, reply),
            Request::Submit(experiment, shards, reply) => self.submit(*experiment, shards, reply),
            Request::List(reply) => {
                let (now, workers) = (self.now(), self.workers.len() as u32);
                let all = self.experiments.iter_mut().map(|running| running.status(now, workers)).collect();
                self.answer(reply, Ok(all));
            }
            Request::Get(id, reply) => self.with(&id, reply, Self::status),
            Request::Watch(id, reply) => self.with(&id, reply, |driver, index| {
                let (now, workers) = (driver.now(), driver.workers.len() as u32);
                driver.experiments[index].publish(now, workers);
                driver.experiments[index].watch()
            }),
            Request::Front(id, reply) => {
                self.with(&id, reply, |driver, index| driver.experiments[index].front_document());
            }
            Request::Cancel(id, reply) => self.with(&id, reply, |driver, index| {
                let record = driver.experiments[index].set_cancelled(true);
                driver.writes.push(Write::Experiment(record));
                driver.status(index)
            }),
            Request::Stop => return false,
        }
        true
    }

    fn status(&mut self, index: usize) -> ExperimentStatus {
        let (now, workers) = (self.now(), self.workers.len() as u32);
        self.experiments[index].status(now, workers)
    }

    /// Answers after the next commit.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: Result<T, Refusal>) {
        // Nobody may be waiting any more, which is their business.
        self.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Answers with what `f` makes of the experiment of this id.
    fn with<T: Send + 'static>(&mut self, id: &str, reply: Reply<T>, f: impl FnOnce(&mut Self, usize) -> T) {
        let value = self.find(id).map(|index| f(self, index));
        self.answer(reply, value);
    }

    /// The experiment with this id, or the only one whose id starts so.
    fn find(&self, id: &str) -> Result<usize, Refusal> {
        let ids = || self.experiments.iter().map(Running::id).enumerate();
        if let Some((index, _)) = ids().find(|(_, known)| *known == id) {
            return Ok(index);
        }
        let matches: Vec<_> = ids().filter(|(_, known)| known.starts_with(id)).collect();
        match matches[..] {
            [(index, _)] if !id.is_empty() => Ok(index),
            [] | [_] => Err(Refusal::NotFound(format!("no experiment {id:?}"))),
            _ => Err(Refusal::Ambiguous(format!("{} experiments start with {id:?}", matches.len()))),
        }
    }

    /// Adds an experiment; one that is there already goes on, even if it was cancelled.
    fn submit(&mut self, experiment: Experiment, shards: u32, reply: Reply<ExperimentStatus>) {
        let id = experiment.id();
        let known = self.experiments.iter().position(|running| running.id() == id);
        let index = known.unwrap_or_else(|| {
            let order = self.experiments.len() as u64;
            let record = ExperimentRecord { order, shards, cancelled: false, experiment };
            self.writes.push(Write::Experiment(record.clone()));
            self.experiments.push(Running::new(record, BTreeMap::new()));
            self.experiments.len() - 1
        });
        if self.experiments[index].is_cancelled() {
            let record = self.experiments[index].set_cancelled(false);
            self.writes.push(Write::Experiment(record));
        }
        // So that a finished experiment is reported as finished: what the store knows is looked up now.
        if let Err(error) = self.experiments[index].advance(&self.store) {
            return self.answer(reply, Err(Refusal::Store(error.to_string())));
        }
        let status = self.status(index);
        self.answer(reply, Ok(status));
    }

    /// Takes a worker's report. It is answered in [`Driver::answer_reports`], after the commit.
    fn report(&mut self, report: Report, reply: Reply<ReportAnswer>) {
        let now = self.now();
        self.workers.insert(report.worker.clone(), now);
        // One call per worker: an older one that still waits was given up by its caller.
        self.waiting.retain(|waiting| waiting.worker != report.worker);
        let news = !report.finished.is_empty();
        for finished in report.finished {
            for running in &mut self.experiments {
                running.settle(&finished, now, &mut self.writes);
            }
        }
        let ends = now + self.lease_ttl.as_millis() as Millis;
        let mut unknown: BTreeSet<LeaseId> = report.held.into_iter().collect();
        for running in &mut self.experiments {
            running.extend(&report.worker, &mut unknown, ends);
        }
        let wait = if news || !unknown.is_empty() || report.slots == 0 { 0 } else { report.wait_ms };
        self.waiting.push(Waiting {
            worker: report.worker,
            slots: report.slots,
            experiment: report.experiment,
            dropped: unknown.into_iter().collect(),
            until: now + Millis::from(wait),
            reply,
        });
    }

    /// Answers the reports that are due and those for which there is work.
    fn answer_reports(&mut self, now: Millis) {
        let ttl = self.lease_ttl.as_millis() as Millis;
        for waiting in std::mem::take(&mut self.waiting) {
            // A caller that is gone would let its leases run out.
            if waiting.reply.is_closed() {
                continue;
            }
            let mut leases = Vec::new();
            while (leases.len() as u32) < waiting.slots {
                let lease = self.next_lease;
                let wanted = |running: &&mut Running| {
                    waiting.experiment.as_ref().is_none_or(|only| running.id() == only)
                };
                let grant = |running: &mut Running| running.grant(lease, &waiting.worker, now, now + ttl);
                let Some(grant) = self.experiments.iter_mut().filter(wanted).find_map(grant) else { break };
                self.next_lease += 1;
                leases.push(grant);
            }
            if leases.is_empty() && waiting.until > now {
                self.waiting.push(waiting);
                continue;
            }
            let answer = ReportAnswer { leases, dropped: waiting.dropped, ttl: self.lease_ttl };
            drop(waiting.reply.send(Ok(answer)));
        }
    }
}

#[cfg(test)]
mod tests;
