//! One lease, from its files to a report. Whatever happens becomes a report that says whose fault it is: a trial must not
//! fail for what is wrong with this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qslm_common::measurement::Counts;
use qslm_common::spread::Spread;
use qslm_common::task::Shard;
use qslm_common::trial::Trial;
use qslm_proto::convert;
use qslm_proto::v1::work_client::WorkClient;
use qslm_proto::v1::{self, Lease, ShardFailure, ShardReport, shard_report};
use qslm_transport::Link;
use tokio::task::JoinError;

use crate::cache::ArtifactCache;
use crate::capabilities::fingerprint;
use crate::checkpoints::Checkpoints;
use crate::evaluator::{Evaluator, Files};
use crate::failure::{Cause, EvaluationFailure};
use crate::fetch::fetch;
use crate::job::{self, Progress};

/// Evaluates one lease.
pub(crate) async fn work(
    lease: Lease,
    evaluator: &Arc<Evaluator>,
    cache: &ArtifactCache,
    client: WorkClient<Link>,
    (interrupt, progress): (&Arc<AtomicBool>, &Arc<Progress>),
    checkpoint_every: Duration,
) -> ShardReport {
    let started = Instant::now();
    let (id, index, of) = (lease.id, lease.index, lease.of);
    if let Some(given) = lease.job {
        let watched = (interrupt.clone(), progress.clone());
        return do_job(id, given, cache, client, watched, (checkpoint_every, started)).await;
    }
    // Named from the trial itself, so that a result can never be filed under another trial.
    let trial = lease.trial.ok_or_else(|| convert::Invalid::new("trial", "missing"));
    let (key, engine, outcome) = match trial.and_then(Trial::try_from) {
        // A failure is filed by its lease; without a trial that can be read there is no key to name. Another
        // worker, of another version perhaps, may be able to read it.
        Err(error) => {
            let words = format!("this worker cannot read the trial: {error}");
            let unread = EvaluationFailure::machine(Cause::Other, words);
            (NAMELESS.to_vec(), String::new(), Err(unread))
        }
        Ok(trial) => {
            let (key, engine) = (trial.key(), fingerprint(trial.protocol.backend));
            tracing::Span::current().record("trial", tracing::field::display(key));
            let shard = Shard { index, of };
            let outcome = measure(trial, shard, evaluator, cache, client, interrupt.clone()).await;
            (key.as_bytes().to_vec(), engine, outcome)
        }
    };
    let outcome = match outcome {
        Ok((counts, spread)) => shard_report::Outcome::Counts(convert::write_counts(&counts, Some(spread))),
        Err(failure) => shard_report::Outcome::Failure(tell(failure)),
    };
    let seconds = started.elapsed().as_secs_f64();
    ShardReport { lease: id, trial: key, index, of, outcome: Some(outcome), seconds, engine, job: Vec::new() }
}

/// Does the job of a lease.
async fn do_job(
    lease: u64,
    given: v1::Job,
    cache: &ArtifactCache,
    client: WorkClient<Link>,
    watched: (Arc<AtomicBool>, Arc<Progress>),
    (every, started): (Duration, Instant),
) -> ShardReport {
    let (key, backend, made) = match job::read(&given) {
        Err(failure) => (NAMELESS.to_vec(), qslm_engine::jobs::BACKEND, Err(failure)),
        Ok(job) => {
            let (key, backend) = (job.key(), job.backend);
            tracing::Span::current().record("job", tracing::field::display(key));
            tracing::info!(kind = job.kind, "makes an artifact");
            let inputs = given.inputs.into_iter().collect();
            let checkpoints = Checkpoints { every, is_there: given.checkpoint };
            let made = job::make(lease, job, inputs, cache, client, watched, checkpoints).await;
            (key.as_bytes().to_vec(), backend, made)
        }
    };
    let outcome = match made {
        Ok(hash) => shard_report::Outcome::Artifact(hash.as_bytes().to_vec()),
        Err(failure) => shard_report::Outcome::Failure(tell(failure)),
    };
    let (seconds, engine) = (started.elapsed().as_secs_f64(), fingerprint(backend));
    let (outcome, trial) = (Some(outcome), Vec::new());
    ShardReport { lease, trial, index: 0, of: 1, outcome, seconds, engine, job: key }
}

/// The key of a trial that cannot be read.
const NAMELESS: [u8; 32] = [0; 32];

/// The report of a lease whose task ended without one.
pub(crate) fn lost(lease: &Lease, error: &JoinError) -> ShardReport {
    let words = format!("this worker lost the evaluation: {error}");
    let failure = tell(EvaluationFailure::machine(cause_of_end(error), words));
    let outcome = Some(shard_report::Outcome::Failure(failure));
    let (lease, index, of) = (lease.id, lease.index, lease.of);
    ShardReport {
        lease,
        trial: NAMELESS.to_vec(),
        index,
        of,
        outcome,
        seconds: 0.0,
        engine: String::new(),
        job: Vec::new(),
    }
}

/// Report of a failure; a fault of this machine is logged, too.
fn tell(failure: EvaluationFailure) -> ShardFailure {
    if let EvaluationFailure::Machine { reason, .. } = &failure {
        tracing::warn!(reason, "this machine cannot evaluate a shard");
    }
    failure.into()
}

/// The cause of a task that ended without a result.
fn cause_of_end(error: &JoinError) -> Cause {
    if error.is_panic() { Cause::Panic } else { Cause::Other }
}

async fn measure(
    trial: Trial,
    shard: Shard,
    evaluator: &Arc<Evaluator>,
    cache: &ArtifactCache,
    client: WorkClient<Link>,
    interrupt: Arc<AtomicBool>,
) -> Result<(Counts, Spread), EvaluationFailure> {
    if !shard.is_valid() {
        let words = format!("the coordinator sent shard {} of {}", shard.index, shard.of);
        return Err(EvaluationFailure::evaluation(Cause::Other, words));
    }
    let protocol = &trial.protocol;
    let artifacts = trial.candidate.artifacts();
    let hashes = [protocol.checkpoint, protocol.data.text, protocol.data.tokenizer];
    let hashes: Vec<_> = hashes.into_iter().chain(artifacts.iter().copied()).collect();
    let mut codes = BTreeMap::new();
    for hash in artifacts {
        codes.insert(hash, fetch(hash, cache, &client, &interrupt).await?);
    }
    let files = Files {
        codes,
        checkpoint: fetch(protocol.checkpoint, cache, &client, &interrupt).await?,
        text: fetch(protocol.data.text, cache, &client, &interrupt).await?,
        tokenizer: fetch(protocol.data.tokenizer, cache, &client, &interrupt).await?,
    };
    tracing::debug!(candidate = trial.candidate.id().short(), "evaluating");
    let evaluator = evaluator.clone();
    let evaluation = tokio::task::spawn_blocking(move || {
        evaluator.evaluate(&trial, &files, shard, &|| interrupt.load(Ordering::Relaxed))
    });
    let outcome =
        evaluation.await.unwrap_or_else(|error| Err(EvaluationFailure::machine(cause_of_end(&error), error)));
    let failure = match outcome {
        Err(failure) if failure != EvaluationFailure::Interrupted => failure,
        outcome => return outcome,
    };
    // Before a trial fails for what is in a file, it has to be that file. What was damaged is fetched again next time.
    Err(match (cache.first_damaged(&hashes).await, failure) {
        (
            Some(damaged),
            EvaluationFailure::Evaluation { reason, .. } | EvaluationFailure::Machine { reason, .. },
        ) => {
            let words = format!("artifact {damaged} was damaged in the cache: {reason}");
            EvaluationFailure::machine(Cause::Disk, words)
        }
        (_, failure) => failure,
    })
}

#[cfg(test)]
mod tests {
    use qslm_proto::v1::shard_failure::{Cause, Kind};
    use qslm_transport::{Access, Connector};

    use super::*;

    #[tokio::test]
    async fn a_trial_that_cannot_be_read_is_handed_back_under_its_lease() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::new(folder.path().to_owned(), 1).unwrap();
        let nowhere = Connector::new("http://127.0.0.1:9", Access::default()).unwrap();
        let client = WorkClient::new(nowhere.lazy().unwrap());
        let lease = Lease {
            id: 7,
            trial: None,
            index: 0,
            of: 1,
            traceparent: String::new(),
            experiment: String::new(),
            job: None,
        };
        let watched = (&Arc::default(), &Arc::default());
        let report = work(lease, &Arc::new(Evaluator::new(1)), &cache, client, watched, Duration::MAX).await;
        assert_eq!((report.lease, report.trial.len()), (7, 32), "what the coordinator takes");
        let Some(shard_report::Outcome::Failure(failure)) = report.outcome else { panic!("not a failure") };
        assert_eq!((failure.kind(), failure.cause(), failure.retryable), (Kind::Machine, Cause::Other, true));
        assert!(failure.reason.contains("cannot read the trial: trial: missing"));
    }

    #[tokio::test]
    async fn an_evaluation_that_ends_without_a_report_is_reported_as_lost() {
        let lease = Lease { id: 7, index: 1, of: 2, ..Lease::default() };
        let error = tokio::spawn(async { panic!("no thread for it") }).await.unwrap_err();
        let report = lost(&lease, &error);
        let Some(shard_report::Outcome::Failure(failure)) = report.outcome else { panic!("not a failure") };
        assert_eq!((report.lease, report.index, report.of), (7, 1, 2));
        assert_eq!((failure.kind(), failure.cause()), (Kind::Machine, Cause::Panic));
    }
}
