//! Jobs in the ledger: what waits for what, and what becomes of those that wait.

use std::time::Duration;

use qslm_common::backend::Backend;
use qslm_common::evidence::Engines;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};

use super::super::*;

const A: Owner = Owner(0);
const NOW: Moment = Moment::START;

fn job(name: &str, of: &[&Job]) -> Job {
    let new = Job::new(name, 1);
    of.iter().fold(new, |new, of| new.input(&of.kind, JobInput::Job(of.key())))
}

fn made(bytes: &[u8]) -> Made {
    Made { artifact: ContentHash::of(bytes), engines: Engines::new() }
}

/// Two jobs, the second of which waits for the first.
fn chain() -> (Ledger, Job, Job) {
    let mut ledger = Ledger::default();
    let first = job("first", &[]);
    let second = job("second", &[&first]);
    assert_eq!(ledger.open_job(A, first.clone().into(), BTreeSet::new()), Opened::Waiting);
    let waits_for = BTreeSet::from([first.key()]);
    assert_eq!(ledger.open_job(A, second.clone().into(), waits_for), Opened::Waiting);
    (ledger, first, second)
}

fn granted(ledger: &mut Ledger, lease: u64, worker: &str, now: Moment) -> Option<WorkKey> {
    let ends = now + Duration::from_secs(3600);
    ledger.grant(A, LeaseId(lease), worker, now, ends).map(|grant| grant.work.key())
}

#[test]
fn a_job_waits_until_the_artifact_that_it_reads_is_made() {
    let (mut ledger, first, second) = chain();
    assert_eq!(ledger.shard_counts(A), ShardCounts { pending: 1, leased: 0, settled: 0 });
    assert_eq!(granted(&mut ledger, 1, "a", NOW), Some(first.key().into()));
    assert_eq!(granted(&mut ledger, 2, "b", NOW), None, "the second waits");
    let settled = ledger.settle_job(first.key(), made(b"1"), NOW);
    let Settled::Complete(closed) = settled else { panic!("{settled:?}") };
    assert_eq!((closed.work.key(), closed.outcome), (first.key().into(), Outcome::Made(made(b"1"))));
    assert_eq!(granted(&mut ledger, 3, "b", NOW), Some(second.key().into()));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn jobs_that_wait_for_one_that_failed_fail_with_it_and_say_so() {
    let (mut ledger, first, second) = chain();
    let third = job("third", &[&second]);
    ledger.open_job(A, third.clone().into(), BTreeSet::from([second.key()]));
    granted(&mut ledger, 1, "a", NOW);
    let closed = ledger.fail(LeaseId(1), "no such unit");
    let failed: Vec<_> = closed.iter().map(|closed| (closed.work.key(), &closed.outcome)).collect();
    let says = |of: &Job| Outcome::Failed(format!("what it is made from cannot be made: job {}", of.key()));
    assert_eq!(
        failed,
        [
            (first.key().into(), &Outcome::Failed("no such unit".to_owned())),
            (second.key().into(), &says(&first)),
            (third.key().into(), &says(&second)),
        ]
    );
    assert_eq!((ledger.open_count(A), ledger.check()), (0, Ok(())));
}

#[test]
fn a_job_is_not_opened_before_those_that_it_waits_for() {
    let mut ledger = Ledger::default();
    let first = job("first", &[]);
    let second = job("second", &[&first]);
    let waits_for = || BTreeSet::from([first.key()]);
    let refused = Opened::Unknown(first.key());
    assert_eq!(ledger.open_job(A, second.clone().into(), waits_for()), refused);
    // Another owner's may be withdrawn any time.
    ledger.open_job(Owner(1), first.clone().into(), BTreeSet::new());
    assert_eq!(ledger.open_job(A, second.into(), waits_for()), refused);
    assert_eq!((ledger.open_count(A), ledger.check()), (0, Ok(())));
}

#[test]
fn an_artifact_that_comes_twice_settles_a_job_once_and_another_one_is_a_conflict() {
    let mut ledger = Ledger::default();
    let (first, other) = (job("first", &[]), job("other", &[]));
    for job in [&first, &other] {
        ledger.open_job(A, job.clone().into(), BTreeSet::new());
    }
    granted(&mut ledger, 1, "a", NOW);
    // Late, under a lease that ran out, and by a worker that was never asked: it is taken.
    ledger.expire(NOW + Duration::from_secs(3600));
    assert!(matches!(ledger.settle_job(first.key(), made(b"1"), NOW), Settled::Complete(_)));
    assert_eq!(ledger.settle_job(first.key(), made(b"1"), NOW), Settled::Unknown, "closed");
    // Counts for a job, or an artifact for a trial, settle nothing.
    let shard = Shard { index: 0, of: 1 };
    let counts = qslm_common::measurement::Counts::zero(4);
    assert_eq!(
        ledger.settle(TrialKey::from_bytes(*other.key().as_bytes()), shard, counts, NOW),
        Settled::Unknown
    );
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn what_a_graphics_card_makes_is_made_by_one_worker_alone() {
    for (backend, expected) in [(Backend::Native, true), (Backend::Cuda, false)] {
        let mut ledger = Ledger::default();
        let [quick, slow] = ["quick", "slow"].map(|name| job(name, &[]).on(backend));
        ledger.open_job(A, quick.clone().into(), BTreeSet::new());
        granted(&mut ledger, 1, "a", NOW);
        ledger.settle_job(quick.key(), made(b"1"), NOW + Duration::from_secs(1));
        ledger.open_job(A, slow.clone().into(), BTreeSet::new());
        granted(&mut ledger, 2, "a", NOW + Duration::from_secs(1));
        let later = NOW + Duration::from_secs(100);
        assert_eq!(granted(&mut ledger, 3, "b", later).is_some(), expected, "{backend}");
        // Once that worker hands it back, another one may have it.
        ledger.hand_back(LeaseId(2));
        assert_eq!(granted(&mut ledger, 4, "b", later).is_some(), !expected, "{backend}");
        assert_eq!(ledger.check(), Ok(()));
    }
}

#[test]
fn a_long_job_is_no_straggler_among_short_trials() {
    let mut ledger = Ledger::default();
    let jobs: Vec<Job> = ["one", "two", "three"].map(|name| job(name, &[])).into();
    for job in &jobs {
        ledger.open_job(A, job.clone().into(), BTreeSet::new());
    }
    let after = |seconds| NOW + Duration::from_secs(seconds);
    let mut leases = 0;
    let mut next = |ledger: &mut Ledger, worker: &str, now: Moment| {
        leases += 1;
        granted(ledger, leases, worker, now)
    };
    // A trial takes a second.
    let trial = super::trial(1);
    ledger.open(A, trial.clone(), 1, &BTreeMap::new());
    for job in &jobs {
        assert_eq!(next(&mut ledger, "a", NOW), Some(job.key().into()));
    }
    assert_eq!(next(&mut ledger, "a", NOW), Some(trial.key.into()));
    let whole = Shard { index: 0, of: 1 };
    ledger.settle(trial.key, whole, super::counts(1), after(1));
    assert_eq!(next(&mut ledger, "b", after(600)), None, "nothing is known of jobs");
    ledger.settle_job(jobs[0].key(), made(b"1"), after(600));
    assert_eq!(next(&mut ledger, "b", after(1799)), None);
    assert_eq!(next(&mut ledger, "b", after(1800)), Some(jobs[1].key().into()), "three times as long");
    assert_eq!(ledger.check(), Ok(()));
}
