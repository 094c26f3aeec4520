//! The lease loop: reports to the coordinator, runs what it is given, and lives through its absence.
//!
//! One report is under way at a time. With free slots it waits at the coordinator for work (long polling); when an
//! evaluation finishes meanwhile, the wait is broken off and the result reported. Where there is plenty of work it takes a
//! lease more than it has slots, so that nothing idles while results travel. A result stays in hand until
//! a report that carries it was answered, because only then is it on disk; while the coordinator is away, results
//! go to the [`Spool`], so that they outlive this worker, too. Evaluations have threads of their own and never hold up a report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use qslm_common::ENGINE_VERSION;
use qslm_common::demands::Capabilities;
use qslm_program::Coded;
use qslm_proto::PROTOCOL;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{JobProgress, Lease, ReportRequest, ReportResponse, ShardReport, shard_report};
use qslm_transport::gate::pushback;
use qslm_transport::serving::Boxed;
use qslm_transport::{Connector, Link, Traces};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::Instrument;

use crate::backoff::{backoff, chance, jittered};
use crate::cache::ArtifactCache;
use crate::crash::{CrashPlan, CrashPoint};
use crate::evaluator::Evaluator;
use crate::job::Progress;
use crate::lease::{lost, work};
use crate::monitor::Tally;
use crate::spool::{Spool, is_measured, job_name, trial_name};
use crate::traced::{Work, lease_line};

/// Time that handing leases back may take when the worker stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time beyond what it asked to wait after which a call that is not answered has failed. Within these bounds
/// it is a third of the lease time, so that there is time for another one.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Time after which a connection is closed on which nothing comes back.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A worker: `slots` evaluations at a time for one coordinator.
pub struct Agent {
    /// Unique among the coordinator's workers.
    pub name: String,
    /// Evaluations at a time.
    pub slots: u32,
    /// The name or id of the only experiment to work for, or any.
    pub experiment: Option<String>,
    /// Shared with the other agents of the process.
    pub evaluator: Arc<Evaluator>,
    /// Shared with the other agents of the process.
    pub cache: Arc<ArtifactCache>,
    /// Spool for results while the coordinator is away. Not needed where both are one process.
    pub spool: Option<Spool>,
    /// Capabilities of this machine, as the coordinator hears of them.
    pub capabilities: Capabilities,
    /// Collector of traces, if there is one.
    pub traces: Option<Traces>,
    /// Counters for monitoring.
    pub tally: Arc<Tally>,
    /// Time between two checkpoints of a job.
    pub checkpoint_every: Duration,
    /// True to end when all that it could work for has ended.
    pub until_done: bool,
    /// Time for which it tries a token that the coordinator does not know, before it was let in for the first time.
    pub token_patience: Duration,
    /// Crash plan: the point at which the worker dies, for tests.
    pub crash_at: CrashPlan,
}

/// End of an agent without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A request to stop.
    Stopped,
    /// The end of all that it could work for.
    Done,
}

/// State of the loop.
struct Loop {
    /// Permits, one per slot. A prefetched lease waits for one.
    slots: Arc<Semaphore>,
    agent: Agent,
    connector: Connector,
    client: WorkClient<Link>,
    /// Leases in hand.
    running: BTreeMap<u64, Running>,
    /// Results that no answered report has carried yet.
    unreported: Vec<ShardReport>,
    sender: mpsc::UnboundedSender<ShardReport>,
    /// Time between two reports (heartbeats): a third of the lease time.
    heartbeat: Duration,
    contact: Contact,
    /// True if its last answer was that there is nothing more to do.
    done: bool,
    /// Reason why it has set this worker aside, if it has.
    set_aside: String,
    /// Number that tells this process from one before it under the same name.
    session: u64,
}

/// A lease in hand: the flag that ends it, and how far it is if it is for a job.
#[derive(Clone, Default)]
struct Running {
    interrupt: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Running {
    /// What the next report says of a job's progress.
    fn said(&self, lease: u64) -> Option<JobProgress> {
        self.progress.read().map(|(done, of)| JobProgress { lease, done, of })
    }
}

/// Contact with the coordinator: how its last calls went.
#[derive(Default)]
struct Contact {
    /// Calls that failed since the last answer. While there are any, the coordinator is away.
    failures: u32,
    /// Time of the first of them.
    away_since: Option<tokio::time::Instant>,
    /// Time of the next call after a failure.
    pause_until: Option<tokio::time::Instant>,
    /// True once the coordinator has answered.
    known: bool,
    /// Time of the first call that was not let in, if there was never another.
    shut_out_since: Option<tokio::time::Instant>,
}

/// End of a wait.
enum Event {
    Answer(Box<Result<ReportResponse, tonic::Status>>),
    Finished(ShardReport),
    Stop,
}

impl Agent {
    /// Works for a coordinator until `stop` is cancelled, then hands its leases back.
    ///
    /// # Errors
    /// If the coordinator refuses this worker for good. A coordinator that is away is waited for.
    pub fn run(
        self,
        coordinator: Connector,
        stop: CancellationToken,
    ) -> Boxed<'static, anyhow::Result<Ended>> {
        Box::pin(self.work_until(coordinator, stop))
    }

    async fn work_until(self, coordinator: Connector, stop: CancellationToken) -> anyhow::Result<Ended> {
        let connector = coordinator.keep_alive(KEEP_ALIVE);
        let (sender, mut finished) = mpsc::unbounded_channel();
        let mut state = Loop {
            slots: Arc::new(Semaphore::new(self.slots as usize)),
            agent: self,
            client: WorkClient::new(connector.lazy()?),
            connector,
            running: BTreeMap::new(),
            unreported: Vec::new(),
            sender,
            heartbeat: Duration::from_secs(1),
            contact: Contact::default(),
            done: false,
            set_aside: String::new(),
            // 0 would say that it is not known.
            session: chance().max(1),
        };
        state.take_over_spooled()?;
        loop {
            if state.agent.until_done && state.done && state.running.is_empty() && state.unreported.is_empty()
            {
                state.farewell().await?;
                return Ok(Ended::Done);
            }
            match state.wait(&mut finished, &stop).await {
                Event::Stop => {
                    state.farewell().await?;
                    return Ok(Ended::Stopped);
                }
                Event::Finished(report) => state.keep(report),
                Event::Answer(answer) => match *answer {
                    Ok(answer) => state.take(answer),
                    Err(status) => state.note_failure(&status)?,
                },
            }
        }
    }
}

impl Loop {
    /// Reports when there is something to say or a slot to fill; otherwise waits for a reason to.
    async fn wait(
        &mut self,
        finished: &mut mpsc::UnboundedReceiver<ShardReport>,
        stop: &CancellationToken,
    ) -> Event {
        // What has finished already goes into the same report.
        while let Ok(report) = finished.try_recv() {
            self.keep(report);
        }
        let request = self.request();
        let busy = request.free_slots == 0 && self.unreported.is_empty();
        // A call that brings results is answered soon. Only one that waits for work (long polling) is broken
        // off for a new result.
        let interruptible = self.unreported.is_empty() || self.contact.failures > 0;
        let mut client = self.client.clone();
        let patience = self.heartbeat.clamp(PATIENCE.0, PATIENCE.1);
        let deadline = Duration::from_millis(request.wait_ms.into()) + patience;
        let (heartbeat, pause_until) = (self.heartbeat, self.contact.pause_until);
        let report = async move {
            if let Some(until) = pause_until {
                tokio::time::sleep_until(until).await;
            }
            // All slots are taken: nothing to say but, once in a while, that they are.
            if busy {
                tokio::time::sleep(heartbeat).await;
            }
            let call = tokio::time::timeout(deadline, client.report(request)).await;
            let late = |_| Err(tonic::Status::deadline_exceeded("the coordinator does not answer"));
            Event::Answer(Box::new(call.unwrap_or_else(late).map(tonic::Response::into_inner)))
        };
        tokio::select! {
            event = report => event,
            Some(report) = finished.recv(), if interruptible => Event::Finished(report),
            () = stop.cancelled() => Event::Stop,
        }
    }

    fn request(&self) -> ReportRequest {
        ReportRequest {
            worker: self.agent.name.clone(),
            engine_version: ENGINE_VERSION,
            finished: self.unreported.clone(),
            holding: self.running.keys().copied().collect(),
            free_slots: self.agent.slots.saturating_sub(self.running.len() as u32),
            // Prefetch: a lease more for each slot, so that nothing idles while results are on their way.
            prefetch: (2 * self.agent.slots).saturating_sub(self.agent.slots.max(self.running.len() as u32)),
            wait_ms: self.heartbeat.as_millis() as u32,
            experiment: self.agent.experiment.clone().unwrap_or_default(),
            protocol: PROTOCOL,
            capabilities: Some(self.agent.capabilities.clone().into()),
            session: self.session,
            progress: self.running.iter().filter_map(|(lease, running)| running.said(*lease)).collect(),
        }
    }

    /// Delivers what an earlier worker could not.
    fn take_over_spooled(&mut self) -> anyhow::Result<()> {
        if let Some(spool) = &self.agent.spool {
            self.unreported = spool.load().context("spool")?;
            if !self.unreported.is_empty() {
                let results = self.unreported.len();
                tracing::info!(worker = self.agent.name, results, "delivers what was kept on disk");
            }
        }
        Ok(())
    }

    /// Keeps a result, unless its lease was taken away meanwhile.
    fn keep(&mut self, report: ShardReport) {
        if job_name(&report).is_some() {
            self.agent.crash_at.pass(CrashPoint::ArtifactPut);
        }
        let wanted = self.running.remove(&report.lease).is_some();
        self.count(&report);
        if wanted {
            if self.contact.failures > 0 {
                self.spool(&report);
            }
            self.unreported.push(report);
        }
    }

    fn count(&self, report: &ShardReport) {
        let tally = &self.agent.tally;
        tally.holding.store(self.running.len() as u64, Ordering::Relaxed);
        let reuse = self.agent.evaluator.reuse();
        tally.computed.store(reuse.computed, Ordering::Relaxed);
        tally.reused.store(reuse.reused, Ordering::Relaxed);
        match &report.outcome {
            Some(shard_report::Outcome::Counts(counts)) => {
                tally.measured.fetch_add(1, Ordering::Relaxed);
                tally.tokens.fetch_add(counts.positions, Ordering::Relaxed);
            }
            Some(shard_report::Outcome::Artifact(_)) => {}
            Some(shard_report::Outcome::Failure(_)) | None => {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn spool(&self, report: &ShardReport) {
        let Some(spool) = &self.agent.spool else { return };
        match spool.put(report) {
            Ok(true) => tracing::debug!(worker = self.agent.name, lease = report.lease, "kept on disk"),
            Ok(false) => {}
            Err(error) => tracing::warn!(worker = self.agent.name, %error, "cannot keep a result on disk"),
        }
    }

    /// Goes on without an answer: what is in hand goes to disk, and the next call waits a little.
    fn note_failure(&mut self, status: &tonic::Status) -> anyhow::Result<()> {
        let is_shut_out = !self.contact.known && status.code() == Code::Unauthenticated;
        let now = tokio::time::Instant::now();
        self.contact.shut_out_since = is_shut_out.then(|| self.contact.shut_out_since.unwrap_or(now));
        let (since, patience) = (self.contact.shut_out_since, self.agent.token_patience);
        refuse_for_good(status, since.is_none_or(|since| now - since < patience))?;
        if is_shut_out && self.contact.failures == 0 {
            let worker = &self.agent.name;
            tracing::error!(
                worker,
                patience_s = patience.as_secs_f64(),
                "the coordinator does not know this worker's token; tries until it does"
            );
        }
        self.agent.tally.unanswered.fetch_add(1, Ordering::Relaxed);
        if let Some(wait) = pushback(status) {
            // It is not away, it has too much to do (back-pressure); calls that come back all at once make
            // that worse.
            let (worker, said, pause) = (&self.agent.name, status.message(), jittered(wait * 2));
            tracing::debug!(worker, said, pause_s = pause.as_secs_f64(), "told to wait");
            self.contact.pause_until = Some(tokio::time::Instant::now() + pause);
            return Ok(());
        }
        if self.contact.failures == 0 {
            self.unreported.iter().for_each(|report| self.spool(report));
        }
        self.contact.failures += 1;
        let pause = backoff(self.contact.failures);
        let (worker, said) = (&self.agent.name, status.message());
        let (code, pause_s) = (status.code(), pause.as_secs_f64());
        // An outage is told once, and once more when it is over.
        if self.contact.failures == 1 {
            self.contact.away_since = Some(now);
            tracing::warn!(worker, %code, said, "no answer from the coordinator; tries again until there is one");
        } else {
            tracing::debug!(worker, %code, said, calls = self.contact.failures, pause_s, "no answer yet");
        }
        self.contact.pause_until = Some(tokio::time::Instant::now() + pause);
        // The old connection may be one of those on which nothing ever comes back.
        match self.connector.lazy() {
            Ok(link) => self.client = WorkClient::new(link),
            // A certificate that is being replaced; the next failure tries again.
            Err(error) => tracing::warn!(worker, error = format!("{error:#}"), "cannot connect"),
        }
        Ok(())
    }

    /// Follows an answer: what was reported is safe, dropped leases end, new ones start.
    fn take(&mut self, answer: ReportResponse) {
        if let Some(since) = self.contact.away_since {
            let (worker, away_s) = (&self.agent.name, since.elapsed().as_secs_f64());
            tracing::info!(worker, away_s, calls = self.contact.failures, "the coordinator answers again");
        }
        self.contact = Contact { known: true, ..Contact::default() };
        self.done = answer.done && answer.leases.is_empty();
        self.note_set_aside(&answer.set_aside);
        for report in self.unreported.drain(..) {
            if let Some(spool) = &self.agent.spool {
                spool.remove(&report);
            }
            if is_measured(&report) {
                let trial = trial_name(&report);
                tracing::debug!(trial, index = report.index, of = report.of, "acknowledged");
            }
            if let Some(job) = job_name(&report) {
                tracing::debug!(job, index = report.index, of = report.of, "acknowledged");
            }
        }
        self.heartbeat = Duration::from_millis(u64::from(answer.ttl_ms).max(300) / 3);
        for lease in &answer.dropped {
            if let Some(running) = self.running.remove(lease) {
                let worker = &self.agent.name;
                tracing::info!(worker, lease, "lease taken back: its shard is not wanted from here any more");
                running.interrupt.store(true, Ordering::Relaxed);
            }
        }
        for lease in answer.leases {
            self.start(lease);
        }
    }

    /// Starts to evaluate a lease.
    fn start(&mut self, lease: Lease) {
        let running = Running::default();
        self.running.insert(lease.id, running.clone());
        let (evaluator, cache) = (self.agent.evaluator.clone(), self.agent.cache.clone());
        let (client, sender) = (self.client.clone(), self.sender.clone());
        let (slots, traces) = (self.slots.clone(), self.agent.traces.clone());
        let traced = traces.and_then(|traces| Work::start(traces, &lease, &self.agent.name));
        let line = lease_line(&lease);
        let given = lease.clone();
        let every = self.agent.checkpoint_every;
        let work = async move {
            // The semaphore is never closed.
            let _permit = slots.acquire_owned().await;
            work(lease, &evaluator, &cache, client, (&running.interrupt, &running.progress), every).await
        };
        let work = tokio::spawn(work.instrument(line));
        tokio::spawn(async move {
            // A lease that is never reported would be held for ever.
            let report = work.await.unwrap_or_else(|error| lost(&given, &error));
            if let Some(traced) = traced {
                traced.end(&report);
            }
            // The loop is gone if the worker has stopped.
            let _ = sender.send(report);
        });
    }

    /// Logs that this worker is set aside and gets hardly any work, and why; once.
    fn note_set_aside(&mut self, reason: &str) {
        let worker = &self.agent.name;
        match (self.set_aside.is_empty(), reason.is_empty()) {
            (true, false) => tracing::error!(
                worker,
                reason,
                "the coordinator has set this worker aside, it had faults only; it gets a shard now and then until it \
                 measures one"
            ),
            (false, true) => tracing::info!(worker, "the coordinator gives this worker work again"),
            _ => {}
        }
        reason.clone_into(&mut self.set_aside);
    }

    /// Ends all evaluations and reports once more, holding nothing, so that others get the leases at once.
    async fn farewell(mut self) -> anyhow::Result<()> {
        for running in std::mem::take(&mut self.running).into_values() {
            running.interrupt.store(true, Ordering::Relaxed);
        }
        let request = ReportRequest { free_slots: 0, prefetch: 0, wait_ms: 0, ..self.request() };
        match tokio::time::timeout(FAREWELL, self.client.report(request)).await {
            Ok(Ok(answer)) => {
                self.take(ReportResponse { leases: Vec::new(), ..answer.into_inner() });
                tracing::debug!(worker = self.agent.name, "handed its leases back");
            }
            _ => {
                self.unreported.iter().for_each(|report| self.spool(report));
                tracing::debug!(worker = self.agent.name, "left without a farewell");
            }
        }
        Ok(())
    }
}

/// Fails if the coordinator will never take this worker: with exit code 7 if it is not allowed, else 4. A token that is not
/// known may be about to be (`may_pass`): it was good before, or both sides are still given theirs.
fn refuse_for_good(status: &tonic::Status, may_pass: bool) -> anyhow::Result<()> {
    let code = match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => 4,
        Code::PermissionDenied => 7,
        Code::Unauthenticated if !may_pass => 7,
        _ => return Ok(()),
    };
    Err(Coded::error(code, anyhow!("the coordinator refuses this worker: {}", status.message())))
}
