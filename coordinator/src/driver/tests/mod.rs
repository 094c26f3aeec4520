//! The driver with a real store: what is acknowledged stays, and the answer does not depend on the workers.

mod busy;
mod ends;
mod faults;
mod jobs;
mod simulation;
mod told;

use std::collections::BTreeSet;
use std::path::Path;

use qslm_common::archive::Archive;
use qslm_common::cost::Cost;
use qslm_common::demands::{Capabilities, Demands};
use qslm_common::experiment::Experiment;
use qslm_common::front_document::{FrontDocument, FrontRow};
use qslm_common::job::Job;
use qslm_common::measurement::Counts;
use qslm_common::origins::Origins;
use qslm_common::trade_off::TradeOff;
use qslm_common::work::WorkKey;
use qslm_search::{AnyStrategy, Playback, Probe, Random, Search, Step, Tell, Tiered};
use qslm_transport::gate::Denied;

use super::*;
use crate::ledger::Grant;
use qslm_testing::{experiment, measure};

fn open(path: &Path) -> (Handle, Thread) {
    // Long enough that no lease runs out by itself on a busy machine.
    let options = Options { lease_ttl: Duration::from_secs(2), ..Options::default() };
    start(Store::open(path).unwrap(), options).unwrap()
}

const CANCEL: Change =
    Change { cancelled: Some(true), paused: None, priority: None, demands: None, origins: Origins::NONE };

fn qslm() -> Experiment {
    experiment(Tiered::default())
}

/// Shard results: the share of a candidate's counts that falls into a shard.
pub(super) fn part(grant: &Grant) -> Counts {
    let whole = measure(&grant.trial().trial.candidate);
    let share = |n: u64| {
        let cut = |i: u32| n * u64::from(i) / u64::from(grant.shard.of);
        cut(grant.shard.index + 1) - cut(grant.shard.index)
    };
    let nll = qslm_common::measurement::Nll(share(whole.nll.0));
    Counts {
        nll,
        scored_tokens: share(whole.scored_tokens),
        processed_tokens: share(whole.processed_tokens),
        ..whole
    }
}

/// Capabilities with the usual backends.
pub(super) fn able() -> Capabilities {
    let backends = ["native", "ndarray"].map(str::to_owned).into();
    Capabilities { backends, ..Capabilities::default() }
}

pub(super) fn report(worker: &str, slots: u32) -> WorkerReport {
    WorkerReport {
        worker: worker.to_owned(),
        finished: vec![],
        held: vec![],
        slots,
        prefetch: 0,
        wait_ms: 0,
        experiment: None,
        capabilities: Arc::new(able()),
        session: 0,
        progress: Vec::new(),
    }
}

pub(super) fn finished(grant: &Grant) -> Finished {
    let outcome = ShardOutcome::Counts(part(grant), None);
    let engine = "test engine".to_owned();
    Finished { lease: grant.lease, work: grant.trial().key.into(), shard: grant.shard, engine, outcome }
}

/// A search that asks for jobs before anything else, and then goes its way.
struct MakesFirst {
    jobs: Vec<Job>,
    asked: bool,
    /// Looks at the archive whenever the search goes on.
    look: fn(&Archive),
    then: Box<dyn Search>,
}

impl Search for MakesFirst {
    fn next(&mut self, archive: &Archive) -> Step {
        if !std::mem::replace(&mut self.asked, true) {
            return Step::Make(self.jobs.clone());
        }
        (self.look)(archive);
        self.then.next(archive)
    }

    fn told(&mut self, tell: &Arc<Tell>) {
        self.then.told(tell);
    }

    fn remaining_at_most(&self) -> Option<u64> {
        self.then.remaining_at_most()
    }

    fn probes(&self) -> Vec<Probe> {
        self.then.probes()
    }
}

/// The playback of an experiment whose search asks for jobs first.
fn makes_first(
    experiment: Experiment,
    shards: u32,
    failed: BTreeSet<WorkKey>,
    jobs: Vec<Job>,
    look: fn(&Archive),
) -> Result<Playback, serde_json::Error> {
    Playback::started_by(experiment, shards, failed, move |experiment| {
        let then = AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment);
        Box::new(MakesFirst { jobs: jobs.clone(), asked: false, look, then })
    })
}

/// Works for the driver until the experiment has ended or `steps` reports were made.
async fn work(handle: &Handle, workers: usize, steps: usize) -> bool {
    let mut held: Vec<Vec<Grant>> = vec![vec![]; workers];
    for step in 0..steps {
        let mut reports = report(&format!("w{}", step % workers), 2);
        reports.finished = held[step % workers].drain(..).map(|grant| finished(&grant)).collect();
        let answer = handle.report(reports).await.unwrap();
        let idle = answer.leases.is_empty();
        held[step % workers] = answer.leases;
        if idle && handle.list().await.unwrap()[0].state == State::Finished {
            return true;
        }
    }
    false
}

async fn front(workers: usize, shards: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), shards)).await.unwrap();
    assert!(work(&handle, workers, 10_000).await);
    handle.front(qslm().id()).await.unwrap()
}

#[tokio::test]
async fn the_front_does_not_depend_on_workers_or_shards() {
    let one = front(1, 1).await;
    assert!(one.contains("\"chosen\": {"));
    assert_eq!(one, front(4, 1).await);
    assert_eq!(one, front(1, 7).await);
    assert_eq!(one, front(3, 5).await);
}

#[tokio::test]
async fn an_interrupted_experiment_goes_on_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let mut evaluated = 0;
    for steps in [7, 40, 10_000] {
        let (handle, thread) = open(&path);
        handle.submit(Submission::new(qslm(), 3)).await.unwrap();
        work(&handle, 2, steps).await;
        evaluated += handle.list().await.unwrap()[0].evaluated;
        handle.stop();
        thread.join().unwrap().unwrap();
    }
    let (handle, _thread) = open(&path);
    let status = handle.submit(Submission::new(qslm(), 3)).await.unwrap();
    assert_eq!(status.state, State::Finished);
    assert_eq!((status.evaluated, status.measured), (0, evaluated));
    assert_eq!(handle.front(qslm().id()).await.unwrap(), front(1, 1).await);
}

#[tokio::test]
async fn a_finished_experiments_results_serve_another_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    assert!(work(&handle, 1, 10_000).await);
    let other = Experiment { name: "other".to_owned(), ..qslm() };
    let status = handle.submit(Submission::new(other, 1)).await.unwrap();
    assert_eq!((status.state, status.evaluated), (State::Finished, 0));
}

#[tokio::test]
async fn a_silent_workers_lease_goes_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    let lost = handle.report(report("silent", 1000)).await.unwrap().leases;
    assert!(handle.report(report("other", 1)).await.unwrap().leases.is_empty());
    // Waits at the coordinator until the silent worker's leases have run out.
    let patient = WorkerReport { wait_ms: 10_000, ..report("other", 1000) };
    let regranted = handle.report(patient).await.unwrap().leases;
    assert_eq!(regranted.len(), lost.len());
    assert_eq!(regranted[0].trial(), lost[0].trial());
    assert!(regranted[0].lease > lost.last().unwrap().lease);
    // The silent worker is told that its leases are gone.
    let late = WorkerReport { held: vec![lost[0].lease], ..report("silent", 0) };
    assert_eq!(handle.report(late).await.unwrap().dropped, [lost[0].lease]);
}

#[tokio::test]
async fn cancelling_takes_the_work_back_and_resubmitting_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let id = handle.submit(Submission::new(qslm(), 1)).await.unwrap().id;
    let leases = handle.report(report("a", 2)).await.unwrap().leases;
    assert_eq!(handle.change(id.clone(), CANCEL).await.unwrap().state, State::Cancelled);
    let held: Vec<LeaseId> = leases.iter().map(|grant| grant.lease).collect();
    let answer = handle.report(WorkerReport { held: held.clone(), ..report("a", 5) }).await.unwrap();
    assert_eq!((answer.leases.len(), answer.dropped), (0, held));
    assert_eq!(handle.submit(Submission::new(qslm(), 1)).await.unwrap().state, State::Running);
    assert!(work(&handle, 1, 10_000).await);
}

#[tokio::test]
async fn a_failed_trial_is_shown_and_the_search_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    // The float model is granted first; the second trial fails.
    let leases = handle.report(report("a", 2)).await.unwrap().leases;
    let failure = ShardOutcome::Failure { reason: "loss is not finite".to_owned(), fault: Fault::Evaluation };
    let broken = Finished { outcome: failure, ..finished(&leases[1]) };
    let both = WorkerReport { finished: vec![finished(&leases[0]), broken], ..report("a", 0) };
    handle.report(both).await.unwrap();
    assert!(work(&handle, 1, 10_000).await);
    let status = handle.list().await.unwrap().remove(0);
    assert_eq!((status.failed, status.failures), (1, vec!["loss is not finite".to_owned()]));
    handle.stop();
    thread.join().unwrap().unwrap();
    // It stays failed, and finished, after a restart.
    let (handle, _thread) = open(&path);
    let status = handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    assert_eq!((status.state, status.failed), (State::Finished, 1));
}

#[tokio::test]
async fn ids_may_be_cut_short_while_they_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    handle.submit(Submission::new(Experiment { name: "formal".to_owned(), ..qslm() }, 1)).await.unwrap();
    assert!(handle.get("formu".to_owned()).await.is_ok());
    assert!(matches!(handle.get("form".to_owned()).await, Err(Refusal::Ambiguous(_))));
    assert!(matches!(handle.get("x".to_owned()).await, Err(Refusal::NotFound(_))));
    assert!(matches!(handle.get(String::new()).await, Err(Refusal::Ambiguous(_))));
}

#[tokio::test]
async fn a_whole_name_means_the_newest_of_that_name_and_refusals_list_ids() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let named = |name: &str| Experiment { name: name.to_owned(), ..qslm() };
    let other =
        Experiment { trade_off: TradeOff::WeightedSum { mu: 2.0, cost: Cost::Footprint }, ..named("form") };
    let mut ids = Vec::new();
    for experiment in [named("form"), other, named("formal")] {
        ids.push(handle.submit(Submission::new(experiment, 1)).await.unwrap().id);
    }
    assert_eq!(handle.get("form".to_owned()).await.unwrap().id, ids[1], "neither the older one nor formal");
    assert_eq!(handle.get(ids[0].clone()).await.unwrap().id, ids[0]);
    let refusal = handle.get("for".to_owned()).await.unwrap_err().to_string();
    assert_eq!(refusal, format!("3 experiments start with \"for\": {}, {}, {}", ids[2], ids[1], ids[0]));
    let refusal = handle.get("x".to_owned()).await.unwrap_err().to_string();
    assert_eq!(refusal, format!("no experiment \"x\"; there are {}, {}, {}", ids[2], ids[1], ids[0]));
}

#[tokio::test]
async fn only_workers_that_have_what_is_demanded_get_leases() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let labels = std::collections::BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let demands = Some(Demands { labels: labels.clone(), ..Demands::default() });
    let submission = Submission { demands, ..Submission::new(qslm(), 1) };
    let id = handle.submit(submission.clone()).await.unwrap().id;
    assert!(handle.report(report("plain", 5)).await.unwrap().leases.is_empty());
    let labelled =
        WorkerReport { capabilities: Arc::new(Capabilities { labels, ..able() }), ..report("labelled", 1) };
    assert_eq!(handle.report(labelled).await.unwrap().leases.len(), 1);
    let backendless = WorkerReport { capabilities: Arc::default(), ..report("other", 5) };
    assert!(handle.report(backendless).await.unwrap().leases.is_empty());
    let status = handle.get(id.clone()).await.unwrap();
    assert_eq!((status.workers.present, status.workers.suitable), (3, 1));
    // Submitting again without a word about workers leaves it; with one changes it.
    handle.submit(Submission { demands: None, ..submission.clone() }).await.unwrap();
    assert!(handle.report(report("plain", 5)).await.unwrap().leases.is_empty());
    handle.submit(Submission { demands: Some(Demands::default()), ..submission }).await.unwrap();
    assert_eq!(handle.get(id).await.unwrap().workers.suitable, 2);
    assert!(!handle.report(report("plain", 5)).await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn a_worker_is_told_when_all_that_it_could_work_for_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let done = async |only: Option<&str>| {
        let asking = WorkerReport { experiment: only.map(str::to_owned), ..report("asks", 0) };
        handle.report(asking).await.unwrap().done
    };
    assert!(!done(None).await, "nothing was submitted yet");
    let id = handle.submit(Submission::new(qslm(), 1)).await.unwrap().id;
    assert!(!done(None).await && !done(Some(&id)).await);
    assert!(work(&handle, 1, 10_000).await);
    assert!(done(None).await && done(Some(&id)).await && !done(Some("later")).await);
    let other = Experiment {
        task: qslm_common::task::Task::Perplexity { window: 4, stride: 4, windows: None },
        ..qslm()
    };
    let other = handle.submit(Submission::new(other, 1)).await.unwrap().id;
    assert!(!done(None).await && done(Some(&id)).await);
    handle.change(other, CANCEL).await.unwrap();
    assert!(done(None).await);
}

#[tokio::test]
async fn what_happens_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    let leases = handle.report(report("a", 2)).await.unwrap().leases;
    let both = || WorkerReport { finished: leases.iter().map(finished).collect(), ..report("a", 0) };
    handle.report(both()).await.unwrap();
    handle.report(both()).await.unwrap();
    let Snapshot { tally, workers, experiments, .. } = handle.snapshot().await.unwrap();
    assert_eq!((tally.granted, tally.recorded, tally.fenced), (2, 2, 2));
    assert_eq!((workers.len(), experiments.len(), experiments[0].measured), (1, 1, 2));
    let text = crate::metrics::text(&handle, &Denied::default()).await.unwrap();
    for line in [
        format!("qslm_trials_measured{{experiment=\"{}\"}} 2.0", qslm().id()),
        "qslm_results_total{outcome=\"recorded\"} 2.0".to_owned(),
        "qslm_leases_granted_total 2.0".to_owned(),
        format!("qslm_shards_settled_total{{experiment=\"{}\"}} 2.0", qslm().id()),
        "qslm_calls_denied_total{reason=\"role\"} 0.0".to_owned(),
        "# TYPE qslm_commit_seconds histogram".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    let documented = crate::metrics::reference();
    assert!(documented.iter().all(|(name, ..)| text.contains(name.as_str())));
}

#[tokio::test]
async fn events_outlive_a_restart_and_their_numbers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    handle.report(report("a", 0)).await.unwrap();
    let before = handle.cluster().await.unwrap().events;
    let texts: Vec<_> = before.iter().map(|event| event.text.as_str()).collect();
    assert!(texts.contains(&"submitted") && texts.contains(&"worker a is here"), "{texts:?}");
    handle.stop();
    thread.join().unwrap().unwrap();
    let (handle, _thread) = open(&path);
    let kept = handle.cluster().await.unwrap().events;
    assert_eq!(kept[..before.len()], before);
    handle.report(report("b", 0)).await.unwrap();
    let after = handle.cluster().await.unwrap().events;
    assert_eq!(after[..kept.len()], kept);
    let numbers: Vec<_> = after.iter().map(|event| event.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    assert_eq!(after.last().unwrap().text, "worker b is here");
}

#[tokio::test]
async fn a_worker_of_one_experiment_gets_no_leases_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    let mut second = Experiment { name: "second".to_owned(), ..qslm() };
    second.task = qslm_common::task::Task::Perplexity { window: 4, stride: 4, windows: None };
    let id = handle.submit(Submission::new(second.clone(), 1)).await.unwrap().id;
    let only = WorkerReport { experiment: Some(id), ..report("a", 1000) };
    let leases = handle.report(only).await.unwrap().leases;
    assert!(
        !leases.is_empty() && leases.iter().all(|grant| grant.trial().trial.protocol.task == second.task)
    );
    let nobody = WorkerReport { experiment: Some("nothing".to_owned()), ..report("b", 1000) };
    assert!(handle.report(nobody).await.unwrap().leases.is_empty());
    assert_eq!(
        handle.report(report("c", 1)).await.unwrap().leases[0].trial().trial.protocol.task,
        qslm().task
    );
}

/// Experiment of the same search on other data: it shares no trial with [`qslm`].
fn other() -> Experiment {
    let task = qslm_common::task::Task::Perplexity { window: 4, stride: 4, windows: None };
    Experiment { name: "other".to_owned(), task, ..qslm() }
}

/// Number of the leases that are for trials of the experiment.
fn of(leases: &[Grant], experiment: &Experiment) -> usize {
    leases.iter().filter(|grant| grant.trial().trial.protocol.task == experiment.task).count()
}

#[tokio::test]
async fn two_experiments_that_need_the_same_trials_measure_them_once() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let same = Experiment { name: "same".to_owned(), ..qslm() };
    let ids = [handle.submit(Submission::new(qslm(), 2)).await.unwrap().id, {
        handle.submit(Submission::new(same, 3)).await.unwrap().id
    }];
    let mut seen = std::collections::BTreeSet::new();
    let mut finished_ones: Vec<Finished> = vec![];
    loop {
        let mut next = report("w", 3);
        next.finished = std::mem::take(&mut finished_ones);
        let done = next.finished.is_empty();
        let leases = handle.report(next).await.unwrap().leases;
        if leases.is_empty() && done {
            break;
        }
        for grant in leases {
            assert!(seen.insert((grant.trial().key, grant.shard)), "{:?} is measured twice", grant.shard);
            finished_ones.push(finished(&grant));
        }
    }
    let mut fronts = vec![];
    for id in ids {
        assert_eq!(handle.get(id.clone()).await.unwrap().state, State::Finished);
        fronts.push(handle.front(id.clone()).await.unwrap().replace(&id, ""));
    }
    assert_eq!(fronts[0], fronts[1]);
}

#[tokio::test]
async fn experiments_of_one_priority_share_the_workers_and_a_higher_one_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    handle.submit(Submission::new(qslm(), 1)).await.unwrap();
    handle.submit(Submission::new(other(), 1)).await.unwrap();
    let leases = handle.report(report("a", 8)).await.unwrap().leases;
    assert_eq!((of(&leases, &qslm()), of(&leases, &other())), (4, 4));
    let urgent = Change { priority: Some(1), ..Change::default() };
    assert_eq!(handle.change(other().id(), urgent).await.unwrap().priority, 1);
    let leases = handle.report(report("b", 5)).await.unwrap().leases;
    assert_eq!((of(&leases, &qslm()), of(&leases, &other())), (0, 5));
    // What the urgent one leaves over is for the other.
    let leases = handle.report(report("c", 1000)).await.unwrap().leases;
    assert!(of(&leases, &qslm()) > 0);
}

#[tokio::test]
async fn a_paused_experiment_gets_no_workers_keeps_what_comes_back_and_stays_paused_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let id = handle.submit(Submission::new(qslm(), 1)).await.unwrap().id;
    let leases = handle.report(report("a", 2)).await.unwrap().leases;
    let pause = Change { paused: Some(true), ..Change::default() };
    assert_eq!(handle.change(id.clone(), pause).await.unwrap().state, State::Paused);
    let results = leases.iter().map(finished).collect();
    let answer = handle.report(WorkerReport { finished: results, ..report("a", 5) }).await.unwrap();
    assert!(answer.leases.is_empty() && answer.dropped.is_empty());
    handle.stop();
    thread.join().unwrap().unwrap();
    let (handle, _thread) = open(&path);
    let status = handle.get(id.clone()).await.unwrap();
    assert_eq!((status.state, status.measured), (State::Paused, 2), "what was measured is shown");
    assert!(handle.report(report("a", 5)).await.unwrap().leases.is_empty());
    let resume = Change { paused: Some(false), ..Change::default() };
    let status = handle.change(id, resume).await.unwrap();
    assert_eq!((status.state, status.measured, status.evaluated), (State::Running, 2, 0));
    assert!(work(&handle, 1, 10_000).await);
}

/// Shard results as of [`part`], of data whose shards are not equally hard.
fn uneven_part(grant: &Grant) -> Counts {
    let whole = measure(&grant.trial().trial.candidate);
    let of = f64::from(grant.shard.of);
    let cut = |at: u32| {
        let at = f64::from(at);
        (whole.nll.0 as f64 * (at + 0.3 * at.sin()) / (of + 0.3 * of.sin())) as u64
    };
    let nll = qslm_common::measurement::Nll(cut(grant.shard.index + 1) - cut(grant.shard.index));
    Counts { nll, ..part(grant) }
}

/// Works until nothing is left or for so many reports, so many shards at a time.
async fn work_unevenly(handle: &Handle, steps: usize, slots: u32) {
    let mut done = Vec::new();
    for _ in 0..steps {
        let answer = handle.report(WorkerReport { finished: done, ..report("a", slots) }).await.unwrap();
        done = answer
            .leases
            .iter()
            .map(|grant| Finished {
                outcome: ShardOutcome::Counts(uneven_part(grant), None),
                ..finished(grant)
            })
            .collect();
        if done.is_empty() && handle.list().await.unwrap()[0].state == State::Finished {
            break;
        }
    }
}

/// The front and the status of a finished experiment, read off its store. An export has as many candidates.
async fn read_finished(path: &Path, experiment: &Experiment, shards: u32) -> (String, ExperimentStatus) {
    let (handle, thread) = open(path);
    let status = handle.submit(Submission::new(experiment.clone(), shards)).await.unwrap();
    assert_eq!(status.state, State::Finished);
    let front = handle.front(experiment.id()).await.unwrap();
    let source = handle.source(experiment.id()).await.unwrap();
    let mut exported = 0;
    crate::replay::replay(&source, |found| {
        exported += found.len() as u64;
        true
    })
    .unwrap();
    assert_eq!(exported, status.measured, "an export goes to the end, without what is no result");
    handle.stop();
    thread.join().unwrap().unwrap();
    (front, status)
}

#[tokio::test]
async fn sensitivity_on_part_of_the_data_is_no_result_and_outlives_a_restart() {
    let on_two = experiment(Tiered { sensitivity_sequences: Some(2), ..Tiered::default() });
    let run = async |experiment: &Experiment, steps: &[usize]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.redb");
        let mut evaluated = 0;
        for steps in steps {
            let (handle, thread) = open(&path);
            handle.submit(Submission::new(experiment.clone(), 3)).await.unwrap();
            work(&handle, 2, *steps).await;
            evaluated += handle.get(experiment.id()).await.unwrap().evaluated;
            handle.stop();
            thread.join().unwrap().unwrap();
        }
        let (front, status) = read_finished(&path, experiment, 3).await;
        assert_eq!(status.evaluated, 0, "all is on record");
        (front, status.measured, evaluated)
    };
    let (front, measured, evaluated) = run(&on_two, &[100_000]).await;
    // The float model and 15 matrices, each alone.
    assert_eq!(evaluated, measured + 16);
    let (again, _, evaluated_again) = run(&on_two, &[9, 20, 100_000]).await;
    assert_eq!((&again, evaluated_again), (&front, evaluated), "nothing is done twice");
    let (whole, ..) = run(&qslm(), &[100_000]).await;
    let read = |front: &str| serde_json::from_str::<FrontDocument>(front).unwrap();
    assert_eq!(read(&front).chosen, read(&whole).chosen);
}

#[tokio::test]
async fn a_race_finds_what_measuring_everything_finds_with_less_work() {
    const SHARDS: u32 = 16;
    let racing = Experiment { racing: "confidence:0.99".parse().ok(), ..qslm() };
    let run = async |experiment: &Experiment, steps: &[usize], slots: u32| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.redb");
        for steps in steps {
            let (handle, thread) = open(&path);
            handle.submit(Submission::new(experiment.clone(), SHARDS)).await.unwrap();
            work_unevenly(&handle, *steps, slots).await;
            handle.stop();
            thread.join().unwrap().unwrap();
        }
        let (front, status) = read_finished(&path, experiment, SHARDS).await;
        (serde_json::from_str::<FrontDocument>(&front).unwrap(), status)
    };
    let (all, _) = run(&qslm(), &[100_000], 1).await;
    let (raced, status) = run(&racing, &[100_000], 1).await;
    assert!(status.pruned > 5 && status.shards_spared > 5 * 6, "{status:?}");
    assert_eq!((raced.measured, raced.racing), (all.measured, racing.racing));
    assert_eq!(raced.chosen, all.chosen);
    let good = |row: &&FrontRow| row.quality_loss.is_some_and(|loss| loss <= 0.03);
    let expected: Vec<&FrontRow> = all.front.iter().filter(good).collect();
    assert_eq!(raced.front.iter().collect::<Vec<_>>(), expected);
    // Results that come in after their candidate was pruned do not bring it back.
    for slots in [1, 5] {
        let (interrupted, again) = run(&racing, &[30, 100, 40, 100_000], slots).await;
        assert_eq!((&interrupted, again.pruned + again.measured), (&raced, status.pruned + status.measured));
    }
}

#[tokio::test]
async fn an_experiment_of_another_engine_stays_paused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let old = Experiment { engine_version: ENGINE_VERSION - 1, ..qslm() };
    let id = handle.submit(Submission::new(old, 1)).await.unwrap().id;
    let resume = Change { paused: Some(false), ..Change::default() };
    assert_eq!(handle.change(id.clone(), resume).await.unwrap().state, State::Paused);
    assert!(handle.report(report("a", 5)).await.unwrap().leases.is_empty());
    handle.stop();
    thread.join().unwrap().unwrap();
    let (handle, _thread) = open(&path);
    assert_eq!(handle.get(id).await.unwrap().state, State::Paused);
    let words = format!("it was submitted for another engine than version {ENGINE_VERSION}: it stays paused");
    assert!(handle.cluster().await.unwrap().events.iter().any(|event| event.text == words));
}

#[tokio::test]
async fn a_generation_of_many_candidates_is_drawn_as_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let strategy = Random { tier: qslm_common::space::Tier::Matrix, trials: 30_000, seed: 1 };
    let many = experiment(strategy);
    let status = handle.submit(Submission::new(many.clone(), 1)).await.unwrap();
    assert_eq!(status.generation_trials, 30_001);
    assert!(status.shards.pending < 10_000, "{} are open", status.shards.pending);
    let mut results = vec![];
    let mut measured = 0;
    loop {
        let next = WorkerReport { finished: std::mem::take(&mut results), ..report("a", 1000) };
        measured += next.finished.len();
        let leases = handle.report(next).await.unwrap().leases;
        if leases.is_empty() {
            break;
        }
        results.extend(leases.iter().map(finished));
    }
    assert_eq!(measured, 30_001);
    let front = handle.front(many.id()).await.unwrap();
    handle.stop();
    thread.join().unwrap().unwrap();
    let (handle, _thread) = open(&path);
    let status = handle.submit(Submission::new(many.clone(), 1)).await.unwrap();
    assert_eq!((status.state, status.measured, status.evaluated), (State::Finished, 30_001, 0));
    assert_eq!(handle.front(many.id()).await.unwrap(), front);
}

#[tokio::test]
async fn a_result_that_arrives_while_its_trial_is_not_open_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let id = handle.submit(Submission::new(qslm(), 2)).await.unwrap().id;
    let leases = handle.report(report("a", 2)).await.unwrap().leases;
    handle.change(id.clone(), CANCEL).await.unwrap();
    let late = |index: usize| WorkerReport { finished: vec![finished(&leases[index])], ..report("a", 0) };
    handle.report(late(0)).await.unwrap();
    handle.stop();
    thread.join().unwrap().unwrap();
    // Cancelled still, and now this coordinator never opened the trial at all.
    let (handle, _thread) = open(&path);
    handle.report(late(1)).await.unwrap();
    let forged = Finished { lease: LeaseId(u64::MAX), ..finished(&leases[0]) };
    handle.report(WorkerReport { finished: vec![forged], ..report("b", 0) }).await.unwrap();
    let status = handle.submit(Submission::new(qslm(), 2)).await.unwrap();
    assert_eq!((status.measured, status.evaluated), (1, 1), "nobody has to measure it again");
}
