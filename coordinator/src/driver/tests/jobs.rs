//! Jobs that people ask for: made once, by workers that are able to, and found again.

use std::collections::BTreeSet;

use qslm_common::backend::Backend;
use qslm_common::demands::Capabilities;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};

use super::{able, open, report};
use crate::driver::*;
use crate::ledger::Grant;

fn job(kind: &str) -> Job {
    Job::new(kind, 100)
}

/// A report of a worker that is able to do jobs of these kinds.
fn of_able(worker: &str, slots: u32, kinds: &[&str]) -> WorkerReport {
    let jobs = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    WorkerReport { capabilities: Arc::new(Capabilities { jobs, ..able() }), ..report(worker, slots) }
}

fn finished(grant: &Grant, outcome: ShardOutcome) -> Finished {
    let engine = "an engine".to_owned();
    Finished { lease: grant.lease, work: grant.work.key(), shard: grant.shard, engine, outcome }
}

/// A report of what came of a lease.
fn told(worker: &str, slots: u32, grant: &Grant, outcome: ShardOutcome) -> WorkerReport {
    WorkerReport { finished: vec![finished(grant, outcome)], ..of_able(worker, slots, &["ranges"]) }
}

fn failure(reason: &str, fault: Fault) -> ShardOutcome {
    ShardOutcome::Failure { reason: reason.to_owned(), fault }
}

fn artifact(bytes: &[u8]) -> ContentHash {
    ContentHash::of(bytes)
}

async fn ask(handle: &Handle, jobs: &[Job]) -> Vec<JobState> {
    let request = MakeRequest { jobs: jobs.to_vec(), ..MakeRequest::default() };
    handle.make(request).await.unwrap().jobs.into_iter().map(|status| status.state).collect()
}

#[tokio::test]
async fn a_job_of_a_graphics_card_goes_to_a_worker_that_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, thread) = open(&folder.path().join("store.redb"));
    let on_card = job("qat").on(Backend::Cuda);
    let request = || MakeRequest { jobs: vec![on_card.clone()], ..MakeRequest::default() };
    let knows = of_able("knows", 1, &["qat"]);
    assert_eq!(handle.report(knows.clone()).await.unwrap().leases, []);
    assert_eq!(handle.make(request()).await.unwrap().able_workers, 0);
    // It knows the kind, and gets what is made on any machine.
    assert_eq!(ask(&handle, std::slice::from_ref(&on_card)).await, [JobState::Pending]);
    assert_eq!(ask(&handle, &[job("qat")]).await, [JobState::Pending]);
    let [given] = &handle.report(knows).await.unwrap().leases[..] else { panic!("one lease") };
    assert_eq!(given.work.job().unwrap().job, job("qat"));
    let mut has = Capabilities::clone(&of_able("has", 1, &["qat"]).capabilities);
    has.backends.insert("cuda".to_owned());
    let has = WorkerReport { capabilities: Arc::new(has), ..report("has", 1) };
    let [given] = &handle.report(has).await.unwrap().leases[..] else { panic!("one lease") };
    assert_eq!(given.work.job().unwrap().job, on_card);
    assert_eq!(handle.make(request()).await.unwrap().able_workers, 1);
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_job_goes_to_a_worker_that_knows_its_kind_and_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (handle, thread) = open(&path);
    assert_eq!(ask(&handle, &[job("ranges")]).await, [JobState::Pending]);
    assert_eq!(handle.report(of_able("other", 1, &["hessian"])).await.unwrap().leases, []);
    let answer = handle.report(of_able("able", 2, &["ranges"])).await.unwrap();
    let [grant] = &answer.leases[..] else { panic!("{answer:?}") };
    assert_eq!(answer.experiments[&grant.owner], JOBS);
    let leased = |progress| [JobState::Leased { workers: vec!["able".to_owned()], progress }];
    assert_eq!(ask(&handle, &[job("ranges")]).await, leased(None));
    let mut busy = of_able("able", 0, &["ranges"]);
    busy.held = vec![grant.lease];
    busy.progress = vec![(grant.lease, 3, 7), (LeaseId(99), 1, 1)];
    handle.report(busy).await.unwrap();
    assert_eq!(ask(&handle, &[job("ranges")]).await, leased(Some((3, 7))));
    let leased_job = handle.leased_job(grant.lease).await.unwrap().map(|job| job.key);
    assert_eq!(leased_job, Some(job("ranges").key()));
    let again = told("able", 0, grant, ShardOutcome::Artifact(artifact(b"1")));
    handle.report(again.clone()).await.unwrap();
    assert_eq!(handle.leased_job(grant.lease).await.unwrap(), None, "the lease has ended");
    let is_made = |states: &[JobState]| match states {
        [JobState::Made(made)] => made.artifact == artifact(b"1") && made.engines.len() == 1,
        _ => false,
    };
    assert!(is_made(&ask(&handle, &[job("ranges")]).await));
    // Also by a coordinator that was started anew; a report that comes twice changes nothing.
    handle.stop();
    thread.join().unwrap().unwrap();
    let (handle, thread) = open(&path);
    handle.report(again).await.unwrap();
    // Nor does another artifact of the same job, which is a conflict: the first one stays.
    handle.report(told("able", 0, grant, ShardOutcome::Artifact(artifact(b"2")))).await.unwrap();
    assert_eq!(handle.snapshot().await.unwrap().tally.conflicting, 1);
    assert!(is_made(&ask(&handle, &[job("ranges")]).await));
    assert_eq!(handle.report(of_able("able", 1, &["ranges"])).await.unwrap().leases, []);
    // Unless the file is lost.
    let request =
        MakeRequest { jobs: vec![job("ranges")], lost: BTreeSet::from([job("ranges").key()]), retry: false };
    let states = handle.make(request).await.unwrap().jobs;
    assert_eq!(states[0].state, JobState::Pending);
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn what_a_job_reads_is_made_first_and_named_to_its_worker() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, thread) = open(&folder.path().join("store.redb"));
    let first = job("ranges");
    let text = artifact(b"text");
    let second = job("ranges")
        .parameter("number", 2)
        .input("of", JobInput::Job(first.key()))
        .input("text", JobInput::Artifact(text));
    let alone = handle.make(MakeRequest { jobs: vec![second.clone()], ..MakeRequest::default() }).await;
    let words = format!(
        "job {} reads what job {} makes, which has to be asked for before it",
        second.key(),
        first.key()
    );
    assert_eq!(alone, Err(Refusal::Invalid(words)));
    let both = [first.clone(), second.clone()];
    assert_eq!(ask(&handle, &both).await, [JobState::Pending, JobState::Waiting]);
    let answer = handle.report(of_able("a", 5, &["ranges"])).await.unwrap();
    assert_eq!(answer.leases.len(), 1, "the second waits");
    let made = ShardOutcome::Artifact(artifact(b"1"));
    let answer = handle.report(told("a", 5, &answer.leases[0], made)).await.unwrap();
    let [grant] = &answer.leases[..] else { panic!("{answer:?}") };
    assert_eq!(grant.work.key(), second.key().into());
    let inputs = &answer.inputs[&grant.lease];
    assert_eq!((inputs["of"], inputs["text"], inputs.len()), (artifact(b"1"), text, 2));
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_job_that_fails_stays_failed_until_it_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, thread) = open(&folder.path().join("store.redb"));
    ask(&handle, &[job("ranges")]).await;
    let granted = handle.report(of_able("a", 1, &["ranges"])).await.unwrap().leases;
    let fails = told("a", 1, &granted[0], failure("no such unit", Fault::Evaluation));
    assert_eq!(handle.report(fails).await.unwrap().leases, []);
    assert_eq!(ask(&handle, &[job("ranges")]).await, [JobState::Failed("no such unit".to_owned())]);
    let request = MakeRequest { jobs: vec![job("ranges")], retry: true, ..MakeRequest::default() };
    assert_eq!(handle.make(request).await.unwrap().jobs[0].state, JobState::Pending);
    // A machine's fault is none of the job's.
    let granted = handle.report(of_able("b", 1, &["ranges"])).await.unwrap().leases;
    let fails = told("b", 0, &granted[0], failure("full disk", Fault::Machine));
    handle.report(fails).await.unwrap();
    assert_eq!(ask(&handle, &[job("ranges")]).await, [JobState::Pending]);
    assert_eq!(handle.snapshot().await.unwrap().tally.faults, 1);
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn an_artifact_for_a_trial_or_counts_for_a_job_are_a_fault_of_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, thread) = open(&folder.path().join("store.redb"));
    ask(&handle, &[job("ranges")]).await;
    let granted = handle.report(of_able("a", 1, &["ranges"])).await.unwrap().leases;
    let counts = qslm_common::measurement::Counts::zero(4);
    handle.report(told("a", 0, &granted[0], ShardOutcome::Counts(counts, None))).await.unwrap();
    assert_eq!(ask(&handle, &[job("ranges")]).await, [JobState::Pending]);
    assert_eq!(handle.snapshot().await.unwrap().tally.faults, 1);
    handle.stop();
    thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn people_have_so_many_open_jobs_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, thread) = open(&folder.path().join("store.redb"));
    let jobs = |numbers: std::ops::Range<u32>| -> Vec<Job> {
        numbers.map(|number| job("ranges").parameter("number", number)).collect()
    };
    let make = |jobs: Vec<Job>| handle.make(MakeRequest { jobs, ..MakeRequest::default() });
    assert_eq!(make(jobs(0..100_001)).await, Err(Refusal::Busy));
    assert_eq!(make(jobs(0..10)).await.unwrap().jobs.len(), 10, "nothing of the others was opened");
    assert_eq!(make(jobs(1..100_001)).await, Err(Refusal::Busy));
    // Those that are open already count once.
    assert_eq!(make(jobs(0..1000)).await.unwrap().jobs.len(), 1000);
    let counts = handle.snapshot().await.unwrap();
    assert_eq!((counts.jobs.pending, counts.of_people.pending), (1000, 1000));
    let shown = handle.cluster().await.unwrap().jobs;
    assert_eq!((shown.len(), shown[0].experiments.len(), shown[0].leased), (100, 0, None));
    handle.stop();
    thread.join().unwrap().unwrap();
}
