//! The driver and workers that cannot work: whose fault it is decides what comes of it. No time passes; it is told.

use std::collections::BTreeSet;

use qslm_common::demands::Capabilities;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_search::{Grid, Tiered};

use tokio::sync::oneshot;

use super::{able, finished, makes_first, report};
use crate::driver::committer::measured;
use crate::driver::request::Reply;
use crate::driver::search_run::StartPlayback;
use crate::driver::*;
use crate::ledger::Grant;
use crate::store::disk::Disk;
use qslm_testing::{experiment, run};

const TTL: Duration = Duration::from_millis(2000);

/// A driver on a disk in memory, and its clock.
struct World {
    driver: Driver,
    disk: Disk,
    now: Moment,
}

fn options() -> Options {
    Options { lease_ttl: TTL, ..Options::default() }
}

impl World {
    fn new() -> Self {
        let disk = Disk::default();
        let driver = Driver::new(Store::on(disk.clone()).unwrap(), options()).unwrap();
        Self { driver, disk, now: Moment::START }
    }

    /// Starts the coordinator anew.
    fn restart(&mut self) {
        self.disk = Disk::holding(self.disk.after_kill());
        self.driver = Driver::new(Store::on(self.disk.clone()).unwrap(), options()).unwrap();
        self.now = Moment::START;
    }

    /// Asks, lets the driver work and write, and takes the answer.
    fn ask<T>(&mut self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, mut answer) = oneshot::channel();
        self.driver.apply(request(reply), self.now).unwrap();
        self.driver.turn(self.now).unwrap();
        while !self.driver.outbox.is_empty() {
            let writes = self.driver.outbox.take_batch();
            self.driver.store.commit(&writes).unwrap();
            self.driver.apply(Request::Committed(Ok(measured(&writes))), self.now).unwrap();
            self.driver.turn(self.now).unwrap();
        }
        self.driver.ledger.check().unwrap();
        answer.try_recv().unwrap()
    }

    fn submit(&mut self, experiment: Experiment, shards: u32) {
        let submission = Box::new(Submission::new(experiment, shards));
        self.ask(|reply| Request::Submit(submission, reply)).unwrap();
    }

    fn report(&mut self, report: WorkerReport) -> Vec<Grant> {
        self.ask(|reply| Request::Report(report, reply)).unwrap().leases
    }

    fn status(&mut self) -> ExperimentStatus {
        self.ask(Request::List).unwrap().remove(0)
    }

    /// Lets a worker report what it did, ask for more, and do all of it, until there is no more.
    fn work(&mut self, worker: &str, slots: u32) {
        let mut held: Vec<Grant> = Vec::new();
        loop {
            let finished = held.iter().map(finished).collect();
            held = self.report(WorkerReport { finished, ..report(worker, slots) });
            if held.is_empty() {
                return;
            }
        }
    }

    /// Lets a worker ask for work and say of all that it gets that it cannot do it. Returns how much it got.
    fn fail(&mut self, worker: &str, slots: u32, fault: Fault) -> usize {
        let granted = self.report(report(worker, slots));
        let outcome = ShardOutcome::Failure { reason: "No space left on device".to_owned(), fault };
        let failed = |grant: &Grant| Finished { outcome: outcome.clone(), ..finished(grant) };
        let finished = granted.iter().map(failed).collect();
        self.report(WorkerReport { finished, ..report(worker, 0) });
        granted.len()
    }

    fn front(&mut self) -> String {
        let id = self.driver.experiments[0].search.id().to_owned();
        self.ask(|reply| Request::Front(id, reply)).unwrap()
    }
}

fn grid() -> Experiment {
    experiment(Grid { tier: qslm_common::space::Tier::Global })
}

fn tiered() -> Experiment {
    experiment(Tiered::default())
}

/// The front of a search in which nothing fails.
fn undisturbed(experiment: &Experiment) -> String {
    FrontDocument::new(experiment, &run(experiment, |_| false).0).to_json()
}

#[test]
fn a_worker_that_fails_everything_fails_no_trial_and_is_set_aside() {
    let mut world = World::new();
    world.submit(tiered(), 2);
    let mut got = 0;
    for _ in 0..2000 {
        world.now += Duration::from_millis(100);
        got += world.fail("full", 2, Fault::Machine);
        // The good one comes late, and does one shard after the other.
        if world.now > Moment(60_000) {
            let leases = world.report(report("good", 1));
            let finished = leases.iter().map(finished).collect();
            world.report(WorkerReport { finished, ..report("good", 0) });
        }
        if world.status().state == State::Finished {
            break;
        }
    }
    let status = world.status();
    assert_eq!((status.state, status.failed), (State::Finished, 0));
    assert_eq!(world.front(), undisturbed(&tiered()));
    assert!(got < 15, "it got {got} shards in {} s", world.now.0 / 1000);
    let workers = world.ask(Request::Cluster).unwrap().workers;
    let full = workers.iter().find(|worker| worker.name == "full").unwrap();
    assert_eq!((full.set_aside, full.last_fault.as_deref()), (1, Some("No space left on device")));
    assert_eq!(full.faults, full.failed);
}

#[test]
fn an_experiment_is_stuck_while_every_worker_that_may_take_it_is_set_aside() {
    let mut world = World::new();
    world.submit(grid(), 1);
    for name in ["a", "b"] {
        for _ in 0..4 {
            assert_eq!(world.status().stuck, "");
            assert_eq!(world.fail(name, 1, Fault::Machine), 1);
            world.now += Duration::from_millis(10_000);
            world.report(report("a", 0));
            world.report(report("b", 0));
        }
    }
    world.report(report("a", 0));
    world.report(report("b", 0));
    let status = world.status();
    assert_eq!((status.state, status.workers.suitable, status.workers.set_aside), (State::Stuck, 2, 2));
    let why = "all 2 workers that may evaluate it are set aside: a: No space left on device";
    assert_eq!(status.stuck, why);
    // Where the cause is gone one shard is enough to show it.
    world.now += Duration::from_millis(60_000);
    let tried = world.report(report("a", 5));
    assert_eq!(tried.len(), 1, "one to see whether it can");
    world.report(WorkerReport { finished: vec![finished(&tried[0])], ..report("a", 0) });
    let status = world.status();
    assert_eq!((status.state, status.stuck.as_str()), (State::Running, ""));
    world.work("a", 3);
    assert_eq!(world.front(), undisturbed(&grid()));
}

#[test]
fn an_experiment_is_stuck_while_no_worker_does_the_jobs_that_it_waits_for() {
    let start: StartPlayback = |experiment, shards, failed| {
        makes_first(experiment, shards, failed, vec![Job::new("hessian", 100)], |_| {})
    };
    let disk = Disk::default();
    let driver = Driver::with_searches(Store::on(disk.clone()).unwrap(), options(), start).unwrap();
    let mut world = World { driver, disk, now: Moment::START };
    world.submit(grid(), 1);
    assert_eq!(world.status().stuck, "", "nobody is there yet");
    assert_eq!(world.report(report("a", 1)).len(), 0);
    let only = "the only worker that may work for it does no jobs of the kind hessian";
    assert_eq!((world.status().state, world.status().stuck.as_str()), (State::Stuck, only));
    assert_eq!(world.report(report("b", 1)).len(), 0);
    let none = "none of the 2 workers that may work for it does jobs of the kind hessian";
    assert_eq!(world.status().stuck, none);
    // One that does them comes; the others may take the trials.
    let jobs = BTreeSet::from(["hessian".to_owned()]);
    let capabilities = Arc::new(Capabilities { jobs, ..able() });
    let able = |slots| WorkerReport { capabilities: capabilities.clone(), ..report("c", slots) };
    let granted = world.report(able(1));
    assert_eq!((granted.len(), world.status().stuck.as_str()), (1, ""));
    let finished = Finished {
        lease: granted[0].lease,
        work: granted[0].work.key(),
        shard: granted[0].shard,
        engine: "test engine".to_owned(),
        outcome: ShardOutcome::Artifact(ContentHash::of(b"made")),
    };
    world.report(WorkerReport { finished: vec![finished], ..able(0) });
    world.work("a", 3);
    assert_eq!((world.status().state, world.status().stuck.as_str()), (State::Finished, ""));
    assert_eq!(world.front(), undisturbed(&grid()));
    // What was made for it is on its page.
    let id = grid().id();
    let report = world.ask(|reply| Request::Describe(id, reply)).unwrap();
    let given: Vec<_> = report.artifacts.iter().map(|given| (given.job.as_str(), given.artifact)).collect();
    assert_eq!(given, [("hessian", ContentHash::of(b"made"))]);
}

#[test]
fn a_fault_with_one_experiments_files_does_not_keep_a_worker_from_another() {
    let mut world = World::new();
    world.submit(grid(), 1);
    assert_eq!(world.fail("a", 1, Fault::Machine), 1);
    world.submit(Experiment { name: "other".to_owned(), ..tiered() }, 1);
    let other = world.driver.experiments[1].search.id().to_owned();
    let granted = world.report(report("a", 1));
    assert_eq!(granted.len(), 1);
    assert_eq!(world.driver.experiments[granted[0].owner.index()].search.id(), other);
}

#[test]
fn what_nobody_is_to_blame_for_is_given_to_the_same_worker_at_once() {
    let mut world = World::new();
    world.submit(grid(), 1);
    for _ in 0..20 {
        assert_eq!(world.fail("a", 1, Fault::Nobody), 1);
    }
    assert_eq!(world.driver.journal.tally.faults, 0);
}

#[test]
fn counts_that_cannot_be_are_a_fault_of_whoever_reports_them() {
    let mut world = World::new();
    world.submit(grid(), 1);
    for _ in 0..4 {
        let granted = world.report(report("liar", 1));
        let counts = qslm_common::measurement::Counts::zero(1);
        let lie = Finished { outcome: ShardOutcome::Counts(counts, None), ..finished(&granted[0]) };
        world.report(WorkerReport { finished: vec![lie], ..report("liar", 0) });
        world.now += Duration::from_millis(10_000);
    }
    world.report(report("liar", 0));
    assert_eq!((world.status().failed, world.status().workers.set_aside), (0, 1));
}

#[test]
fn a_worker_whose_process_starts_anew_over_and_over_with_work_in_hand_is_set_aside() {
    let mut world = World::new();
    world.submit(grid(), 1);
    let mut leases = 0;
    for session in 1..=20 {
        leases += world.report(WorkerReport { session, ..report("crashes", 1) }).len();
        world.now += Duration::from_millis(1000);
    }
    assert!((4..6).contains(&leases), "{leases} in 20 s");
    assert_eq!(
        world.driver.workers.breakers.open("crashes", Owner(0)),
        Some("it vanished with work in hand")
    );
    // One worker counts once against the trial.
    world.work("good", 2);
    assert_eq!((world.status().failed, world.front()), (0, undisturbed(&grid())));
}

#[test]
fn what_failed_is_opened_again_and_the_search_ends_where_it_would_have() {
    let mut world = World::new();
    world.submit(tiered(), 2);
    // A trial of the sensitivity stage fails, for its evaluation, so that the search goes another way.
    let granted = world.report(report("w", 9));
    let outcome = ShardOutcome::Failure { reason: "loss is not finite".to_owned(), fault: Fault::Evaluation };
    let mut done: Vec<Finished> = granted.iter().map(finished).collect();
    let doomed = granted.iter().position(|grant| grant.trial().key != granted[0].trial().key).unwrap();
    done[doomed].outcome = outcome;
    world.report(WorkerReport { finished: done, ..report("w", 0) });
    world.work("w", 3);
    let status = world.status();
    assert_eq!((status.state, status.failed, status.retried), (State::Finished, 1, 0));
    assert_ne!(world.front(), undisturbed(&tiered()));

    let id = tiered().id();
    let [failed] = &status.failed_trials[..] else { panic!("{:?}", status.failed_trials) };
    assert_eq!(failed.1, "loss is not finite");
    let nobody = vec!["zz".to_owned()];
    let refused = world.ask(|reply| Request::Retry(id.clone(), nobody, reply)).unwrap_err();
    assert_eq!(refused, Refusal::NotFound(format!("no failed trial of {id} is \"zz\"")));
    let start = failed.0.hash().to_string()[..8].to_owned();
    let reopened = world.ask(|reply| Request::Retry(id.clone(), vec![start], reply)).unwrap();
    assert_eq!((reopened.state, reopened.failed, reopened.retried), (State::Running, 0, 1));

    // A restart in between changes nothing.
    world.restart();
    assert_eq!((world.status().state, world.status().retried), (State::Running, 1));
    world.work("w", 3);
    assert_eq!((world.status().state, world.status().failed), (State::Finished, 0));
    assert_eq!(world.front(), undisturbed(&tiered()));
    let retried = world.driver.store.contents().unwrap().retried;
    let reasons: Vec<_> = retried.into_values().collect();
    assert_eq!(reasons, [["loss is not finite".to_owned()]], "the first failure stays on record");
}

#[test]
fn an_experiment_without_a_worker_says_for_how_long_and_how_many_leases_were_lost_with_theirs() {
    let mut world = World::new();
    world.submit(grid(), 1);
    let lost = world.report(report("a", 2)).len() as u64;
    assert!(lost > 0);
    world.now += 2 * TTL;
    // What is asked is answered as of the last turn.
    let status = |world: &mut World| {
        world.status();
        world.status()
    };
    let absence = status(&mut world).absence;
    assert_eq!((absence.vanished_leases, absence.words()), (lost, None), "another may be starting");
    world.now += Duration::from_secs(185);
    let late = status(&mut world);
    assert_eq!(late.absence.without_worker, Duration::from_secs(185));
    let plural = if lost == 1 { "" } else { "s" };
    let words = format!("no worker for 3 minutes; {lost} lease{plural} ran out on workers that vanished");
    assert_eq!(late.absence.words(), Some(words));
    world.now += Duration::from_secs(60);
    status(&mut world);
    let events = world.ask(Request::Cluster).unwrap().events;
    assert_eq!(events.iter().filter(|event| event.text.starts_with("no worker for")).count(), 1, "told once");
    // Somebody comes, and measures.
    let granted = world.report(report("b", 1));
    let absence = status(&mut world).absence;
    assert_eq!((absence.without_worker, absence.vanished_leases), (Duration::ZERO, lost));
    let finished = granted.iter().map(finished).collect();
    world.report(WorkerReport { finished, ..report("b", 4) });
    assert_eq!(status(&mut world).absence, WorkerAbsence::default());
    // Of one that is held up nobody says so.
    let id = world.status().id;
    world
        .ask(|reply| Request::Change(id, Change { paused: Some(true), ..Change::default() }, reply))
        .unwrap();
    world.now += Duration::from_secs(600);
    assert_eq!(status(&mut world).absence.words(), None);
}
