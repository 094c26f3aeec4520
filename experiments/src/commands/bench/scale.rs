//! `qslm bench scale`: how well a coordinator keeps many workers busy. The driver, its search and its store on disk are
//! the real ones; workers are simulated in this process and sleep instead of evaluating.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use qslm_common::archive::Archive;
use qslm_common::experiment::Experiment;
use qslm_common::task::{MAX_SHARDS, Shard};
use qslm_common::trial::Addressed;
use qslm_common::trial::TrialKey;
use qslm_coordinator::Options;
use qslm_coordinator::driver::{
    self, Finished, Handle, Refusal, ReportAnswer, ShardOutcome, State, Submission, WorkerReport,
};
use qslm_coordinator::ledger::{Grant, LeaseId};
use qslm_coordinator::store::Store;
use qslm_search::{Step, Strategy, Tiered};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{StoreFolder, check_workers, show, workload};
use crate::exit::{Exit, Failure, Outcome};

/// Measure how well the coordinator keeps many workers busy
///
/// A whole qslm search runs against simulated workers. The ideal is the shortest time in which so many workers could
/// finish one generation after the other if everything but evaluating took no time.
#[derive(Debug, Args)]
pub struct ScaleBench {
    /// Numbers of simulated workers, one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 2000])]
    workers: Vec<u32>,
    /// Mean milliseconds of an evaluation
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    milliseconds: u32,
    /// Largest distance of evaluation times from their mean, as a share of it
    #[arg(long, default_value_t = 0.0)]
    spread: f64,
    /// Shards per trial [default: one for every four workers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    shards: Option<u32>,
    #[command(flatten)]
    place: StoreFolder,
}

/// Printed row; its keys are part of the interface.
#[derive(Serialize)]
struct ScaleRow {
    workers: u32,
    shards: u32,
    trials: u64,
    generations: usize,
    evaluations: u64,
    ideal_seconds: f64,
    seconds: f64,
    /// The ideal time by the time taken, 0 to 1.
    efficiency: f64,
}

/// Durations of evaluations.
#[derive(Debug, Clone, Copy)]
struct Durations {
    mean: f64,
    spread: f64,
}

impl Durations {
    /// Seconds of a shard's evaluation: the same whoever does it.
    fn of(&self, trial: &TrialKey, shard: Shard) -> f64 {
        let bytes = [&trial.as_bytes()[..], &shard.index.to_le_bytes()].concat();
        let hash = TrialKey::of(&bytes);
        let chance = f64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) / 65_535.0;
        self.mean * (1.0 + self.spread * (2.0 * chance - 1.0))
    }
}

impl ScaleBench {
    pub(super) async fn run(self) -> Outcome {
        let mut rows = Vec::new();
        if !(0.0..1.0).contains(&self.spread) {
            let spread = self.spread;
            return Err(Failure::new(Exit::Usage, format!("--spread {spread}: expected 0 to below 1")));
        }
        for workers in &self.workers {
            check_workers(*workers, 10_000)?;
            rows.push(self.measure(*workers).await?);
        }
        let columns = [
            "workers",
            "shards",
            "trials",
            "generations",
            "evaluations",
            "ideal_seconds",
            "seconds",
            "efficiency",
        ];
        show(&rows, &columns, self.place.output)
    }

    async fn measure(&self, workers: u32) -> Outcome<ScaleRow> {
        let shards = self.shards.unwrap_or((workers / 4).clamp(1, MAX_SHARDS));
        let durations = Durations { mean: f64::from(self.milliseconds) / 1e3, spread: self.spread };
        let experiment = workload::experiment(Tiered::default())?;
        let ideal = Ideal::of(&experiment, workers, shards, durations);

        let folder = self.place.folder()?;
        let store = Store::open(&folder.path().join("bench.redb")).map_err(anyhow::Error::from)?;
        let (handle, thread) = driver::start(store, Options::default()).map_err(anyhow::Error::from)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(work(handle.clone(), format!("bench-{worker}"), durations, stop.clone()));
        }
        let started = Instant::now();
        let failed = |refusal: Refusal| Failure::new(Exit::Failure, refusal);
        handle.submit(Submission::new(experiment.clone(), shards)).await.map_err(failed)?;
        let mut status = handle.watch(experiment.id()).await.map_err(failed)?;
        let finished = status
            .wait_for(|status| status.as_ref().is_some_and(|status| status.state == State::Finished))
            .await;
        let seconds = started.elapsed().as_secs_f64();
        let finished = finished.map_err(|_| Failure::new(Exit::Failure, "the driver ended"))?;
        let trials = finished.as_ref().map_or(0, |status| status.measured);
        drop(finished);
        stop.cancel();
        while let Some(done) = tasks.join_next().await {
            done.map_err(anyhow::Error::from)?.map_err(failed)?;
        }
        handle.stop();
        let ended = tokio::task::spawn_blocking(move || thread.join()).await.map_err(anyhow::Error::from)?;
        ended
            .map_err(|_| Failure::new(Exit::Failure, "the driver panicked"))?
            .map_err(anyhow::Error::from)?;
        if trials != ideal.trials {
            let wanted = ideal.trials;
            return Err(Failure::new(Exit::Failure, format!("{trials} of {wanted} trials were recorded")));
        }
        Ok(ScaleRow {
            workers,
            shards,
            trials,
            generations: ideal.generations,
            evaluations: trials * u64::from(shards),
            ideal_seconds: ideal.seconds,
            seconds,
            efficiency: ideal.seconds / seconds,
        })
    }
}

/// The search as it would go if nothing but evaluating took any time.
struct Ideal {
    trials: u64,
    generations: usize,
    seconds: f64,
}

impl Ideal {
    fn of(experiment: &Experiment, workers: u32, shards: u32, durations: Durations) -> Self {
        let mut search = Tiered::default().start(experiment);
        let (mut archive, mut seen) = (Archive::default(), BTreeSet::new());
        let mut ideal = Self { trials: 0, generations: 0, seconds: 0.0 };
        while let Step::Measure(generation) = search.next(&archive) {
            let mut evaluations = Vec::new();
            for candidate in generation.candidates.iter() {
                let trial = Addressed::from(experiment.trial(candidate));
                if !seen.insert(trial.key) {
                    continue;
                }
                let parts = (0..shards).map(|index| Shard { index, of: shards });
                evaluations.extend(parts.clone().map(|shard| durations.of(&trial.key, shard)));
                let candidate = &trial.trial.candidate;
                let mut whole = qslm_common::measurement::Counts::zero(8);
                for shard in parts {
                    // Far below any overflow.
                    let _ = whole.add(&workload::counts(candidate, shard));
                }
                archive.insert(experiment, candidate, whole);
                ideal.trials += 1;
            }
            ideal.generations += usize::from(!evaluations.is_empty());
            ideal.seconds += schedule(workers, &evaluations);
        }
        ideal
    }
}

/// Seconds in which so many workers do these one after the other: whoever is free takes the next.
fn schedule(workers: u32, evaluations: &[f64]) -> f64 {
    // In nanoseconds, which can be ordered.
    let mut free: BinaryHeap<Reverse<u64>> = (0..workers).map(|_| Reverse(0)).collect();
    let mut last = 0;
    for seconds in evaluations {
        let Some(Reverse(at)) = free.pop() else { break };
        let until = at + (seconds * 1e9) as u64;
        last = last.max(until);
        free.push(Reverse(until));
    }
    last as f64 / 1e9
}

/// Lease of a trial.
struct Lease {
    id: LeaseId,
    trial: Arc<Addressed>,
    shard: Shard,
}

impl Lease {
    fn of(grant: Grant) -> Option<Self> {
        Some(Self { id: grant.lease, trial: grant.work.trial()?.clone(), shard: grant.shard })
    }
}

/// A worker of one slot that sleeps: like a real one, it takes a lease beforehand where there is plenty, and goes on
/// while its results are on their way.
async fn work(
    handle: Handle,
    worker: String,
    durations: Durations,
    stop: CancellationToken,
) -> Result<(), Refusal> {
    type Call = Pin<Box<dyn Future<Output = Result<ReportAnswer, Refusal>> + Send>>;
    let (mut queue, mut finished) = (VecDeque::<Lease>::new(), Vec::new());
    let mut busy: Option<(Lease, Pin<Box<tokio::time::Sleep>>)> = None;
    let mut call: Option<Call> = None;
    loop {
        if busy.is_none() {
            busy = queue.pop_front().map(|lease| {
                let seconds = durations.of(&lease.trial.key, lease.shard);
                (lease, Box::pin(tokio::time::sleep(Duration::from_secs_f64(seconds))))
            });
        }
        if call.is_none() && (!finished.is_empty() || busy.is_none()) {
            let held: Vec<LeaseId> =
                busy.iter().map(|(lease, _)| lease.id).chain(queue.iter().map(|lease| lease.id)).collect();
            let report = WorkerReport {
                worker: worker.clone(),
                finished: std::mem::take(&mut finished),
                slots: u32::from(held.is_empty()),
                prefetch: u32::from(held.len() < 2),
                held,
                wait_ms: 1000,
                experiment: None,
                capabilities: Arc::new(workload::capabilities()),
                session: 0,
                progress: Vec::new(),
            };
            let handle = handle.clone();
            call = Some(Box::pin(async move { handle.report(report).await }));
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = async { if let Some((_, sleep)) = &mut busy { sleep.as_mut().await } }, if busy.is_some() => {
                finished.extend(busy.take().map(|(lease, _)| Finished {
                    lease: lease.id,
                    work: lease.trial.key.into(),
                    shard: lease.shard,
                    engine: String::new(),
                    outcome: ShardOutcome::Counts(workload::counts(&lease.trial.trial.candidate, lease.shard), None),
                }));
            }
            answer = async { match &mut call { Some(call) => Some(call.await), None => None } }, if call.is_some() => {
                call = None;
                if let Some(answer) = answer {
                    queue.extend(answer?.leases.into_iter().filter_map(Lease::of));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_free_takes_the_next() {
        assert_eq!(schedule(2, &[1.0, 3.0, 1.0, 1.0]), 3.0);
        assert_eq!(schedule(4, &[0.5; 9]), 1.5);
        assert_eq!(schedule(3, &[]), 0.0);
    }
}
