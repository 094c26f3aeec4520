//! Four strategies at once on fifty workers, in virtual time: how busy they keep them. The driver, its searches and its store
//! are the real ones; an evaluation takes a tenth of a second of a clock that jumps to whatever happens next.
//!
//! The makespan is held against a bound that no schedule can beat: all work by the number of workers, or the longest of the
//! searches, whose generations come one after the other, whichever is more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qslm_common::archive::Archive;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_common::space::Tier;
use qslm_common::strategy::StrategySpec;
use qslm_common::trial::{Addressed, TrialKey};
use qslm_search::{Allocate, AnyStrategy, Evolve, Fit, Haq, Random, Step, Surrogate, Tiered};
use tokio::sync::oneshot;

use super::{finished, report};
use crate::driver::committer::measured;
use crate::driver::*;
use crate::ledger::Grant;
use crate::store::disk::Disk;
use qslm_testing::{experiment, measure, run};

const WORKERS: usize = 50;
/// Shards of a trial: one for every four workers, about.
const SHARDS: u32 = 12;
/// Time of an evaluation.
const EVALUATION: Duration = Duration::from_millis(100);

/// The four experiments, of which the same network is searched.
fn experiments() -> Vec<Experiment> {
    let tier = Tier::Matrix;
    let allocate = Allocate::over(tier, Fit::Regression);
    let evolve = Evolve { tier, population: 40, generations: 10, seed: 1, warm_start: Vec::new() };
    let surrogate = Surrogate {
        tier,
        initial: 50,
        iterations: 20,
        batch: 10,
        seed: 1,
        prune: None,
        sensitivity_sequences: None,
        warm_start: Vec::new(),
    };
    let tiered = Tiered { plain: Some(false), ..Tiered::default() };
    let strategies: [StrategySpec; 4] = [allocate.into(), evolve.into(), surrogate.into(), tiered.into()];
    let named =
        |strategy: StrategySpec| Experiment { name: strategy.kind().to_owned(), ..experiment(strategy) };
    strategies.into_iter().map(named).collect()
}

/// New trials of every generation of a search.
fn generations(experiment: &Experiment) -> Vec<BTreeSet<TrialKey>> {
    let mut search = AnyStrategy::parse(&experiment.strategy).unwrap().start(experiment);
    let (mut archive, mut seen, mut generations) = (Archive::default(), BTreeSet::new(), Vec::new());
    while let Step::Measure(generation) = search.next(&archive) {
        let mut new = BTreeSet::new();
        for candidate in generation.candidates.iter() {
            let key = Addressed::from(experiment.trial(candidate.clone())).key;
            if seen.insert(key) {
                new.insert(key);
            }
            archive.insert(experiment, &candidate, measure(&candidate));
        }
        generations.push(new);
    }
    generations
}

/// Evaluations of so many trials, one after the other on every worker.
fn rounds(trials: usize) -> u32 {
    (trials as u32 * SHARDS).div_ceil(WORKERS as u32)
}

/// The bound, in evaluations one after the other: of all work, and of every search alone, of which only those trials count
/// that no other measures for it.
fn bound(experiments: &[Experiment]) -> (u32, Vec<u32>) {
    let searches: Vec<Vec<BTreeSet<TrialKey>>> = experiments.iter().map(generations).collect();
    let mut proposed = BTreeMap::<TrialKey, u32>::new();
    for key in searches.iter().flatten().flatten() {
        *proposed.entry(*key).or_default() += 1;
    }
    let own = |generation: &BTreeSet<TrialKey>| generation.iter().filter(|key| proposed[key] == 1).count();
    let longest = searches.iter().map(|search| search.iter().map(|new| rounds(own(new))).sum());
    (rounds(proposed.len()), longest.collect())
}

/// A worker of one slot, which takes a lease beforehand where there is plenty.
#[derive(Default)]
struct Worker {
    /// The evaluation under way, and when it ends.
    busy: Option<(Moment, Grant)>,
    queue: VecDeque<Grant>,
    /// A report that is not answered yet.
    call: Option<oneshot::Receiver<Result<ReportAnswer, Refusal>>>,
}

/// Cluster: a driver, its workers and their clock.
struct Cluster {
    driver: Driver,
    now: Moment,
    workers: Vec<Worker>,
}

impl Cluster {
    fn new(experiments: &[Experiment]) -> Self {
        let store = Store::on(Disk::default()).unwrap();
        let driver =
            Driver::new(store, Options { lease_ttl: 100 * EVALUATION, ..Options::default() }).unwrap();
        let workers = (0..WORKERS).map(|_| Worker::default()).collect();
        let mut cluster = Self { driver, now: Moment::START, workers };
        for experiment in experiments {
            let (reply, _) = oneshot::channel();
            let submission = Box::new(Submission::new(experiment.clone(), SHARDS));
            cluster.apply(Request::Submit(submission, reply));
        }
        cluster.settle();
        cluster
    }

    fn apply(&mut self, request: Request) {
        assert!(self.driver.apply(request, self.now).unwrap());
    }

    /// Lets the driver go on until all is on disk, and no search has anything to do.
    fn settle(&mut self) {
        self.driver.turn(self.now).unwrap();
        while self.driver.unfinished || !self.driver.outbox.is_empty() {
            let writes = self.driver.outbox.take_batch();
            self.driver.store.commit(&writes).unwrap();
            self.apply(Request::Committed(Ok(measured(&writes))));
            self.driver.turn(self.now).unwrap();
        }
    }

    /// Lets a worker report what it finished, and ask for more.
    fn call(&mut self, index: usize, done: Option<Grant>) {
        let worker = &mut self.workers[index];
        let held: Vec<LeaseId> = worker
            .busy
            .iter()
            .map(|(_, grant)| grant.lease)
            .chain(worker.queue.iter().map(|one| one.lease))
            .collect();
        let (reply, answer) = oneshot::channel();
        worker.call = Some(answer);
        let report = WorkerReport {
            finished: done.iter().map(finished).collect(),
            slots: u32::from(held.is_empty()),
            prefetch: u32::from(held.len() < 2),
            held,
            wait_ms: 5000,
            ..report(&format!("w{index}"), 0)
        };
        self.apply(Request::Report(report, reply));
    }

    /// Lets workers hear the answers that there are. Returns those that have nothing to do and no call under way.
    fn hear(&mut self) -> Vec<usize> {
        let now = self.now;
        let mut idle = Vec::new();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(call) = &mut worker.call {
                match call.try_recv() {
                    Ok(answer) => worker.queue.extend(answer.unwrap().leases),
                    Err(oneshot::error::TryRecvError::Empty) => continue,
                    Err(error) => panic!("{error}"),
                }
                worker.call = None;
            }
            if worker.busy.is_none() {
                worker.busy = worker.queue.pop_front().map(|grant| (now + EVALUATION, grant));
            }
            if worker.busy.is_none() {
                idle.push(index);
            }
        }
        idle
    }

    fn is_finished(&mut self) -> bool {
        let now = self.now;
        (0..self.driver.experiments.len())
            .all(|index| self.driver.status(index, now).state == State::Finished)
    }

    /// Lets time pass until the next evaluations end, and their workers report them. False if there is none.
    fn pass(&mut self) -> bool {
        for index in self.hear() {
            self.call(index, None);
        }
        self.settle();
        // Whoever was answered at once begins.
        self.hear();
        let next = self.workers.iter().filter_map(|worker| Some(worker.busy.as_ref()?.0)).min();
        let Some(next) = next else { return false };
        self.now = next;
        for index in 0..self.workers.len() {
            let ends = |(until, _): &mut (Moment, Grant)| *until <= next;
            if let Some((_, done)) = self.workers[index].busy.take_if(ends) {
                let worker = &mut self.workers[index];
                worker.busy = worker.queue.pop_front().map(|grant| (next + EVALUATION, grant));
                self.call(index, Some(done));
            }
        }
        true
    }

    /// Runs to the end. Returns the time that it took, in evaluations one after the other.
    fn run(&mut self) -> f64 {
        while self.pass() {
            self.settle();
        }
        assert!(self.is_finished(), "nobody has anything to do");
        self.now.since(Moment::START).as_secs_f64() / EVALUATION.as_secs_f64()
    }
}

#[test]
#[expect(clippy::disallowed_macros, reason = "the figure is half of what it is for")]
fn four_strategies_at_once_keep_fifty_workers_busy() {
    let experiments = experiments();
    let (work, searches) = bound(&experiments);
    let bound = searches.iter().copied().max().unwrap().max(work);
    let makespan = Cluster::new(&experiments).run();
    let efficiency = f64::from(bound) / makespan;
    println!(
        "{efficiency}: {makespan} where {work} of all work and {searches:?} of each alone are the least"
    );
    assert!(efficiency >= 0.95, "{efficiency}");
}

#[test]
fn workers_of_others_are_served_while_an_agent_learns() {
    let tier = Tier::Matrix;
    let mut haq = experiment(Haq { tier, episodes: 48, parallel: 24, hidden: 64, seed: 1 });
    let bytes = |level| haq.footprint(&haq.space.uniform(&haq.network, level));
    haq.constraints.max_footprint_bytes = Some(bytes(0).midpoint(bytes(4)));
    let random = experiment(Random { tier, trials: 400, seed: 1 });
    let random = Experiment { name: "random".to_owned(), ..random };
    let mut cluster = Cluster::new(&[haq.clone(), random.clone()]);
    let is_learning = |cluster: &Cluster| cluster.driver.experiments[0].search.is_thinking();
    while !is_learning(&cluster) {
        cluster.settle();
        assert!(cluster.pass(), "it never learns");
        cluster.driver.turn(cluster.now).unwrap();
    }
    let (reply, mut answer) = oneshot::channel();
    cluster.apply(Request::Report(report("late", 1), reply));
    cluster.driver.turn(cluster.now).unwrap();
    let answer = answer.try_recv().unwrap().unwrap();
    assert!(
        cluster.now < Moment::START + 30 * EVALUATION,
        "its last shards waited for the other's: {:?}",
        cluster.now
    );
    let lease = &answer.leases[0];
    assert!(is_learning(&cluster), "one turn has one slice of learning");
    assert_eq!(cluster.driver.account(lease.owner), random.id());
    let (nobody, _) = oneshot::channel();
    cluster.apply(Request::Report(report("late", 0), nobody));
    cluster.run();
    let front = FrontDocument::new(&haq, &run(&haq, |_| false).0).to_json();
    assert_eq!(cluster.driver.experiments[0].front_document(), front, "the agent takes the same path");
}
