//! Model of the ledger, slow and obvious: a list of trials and jobs with their shards, searched from the start every
//! time. Random events have to lead both to the same answers.

use std::time::Duration;

use proptest::prelude::*;
use qslm_common::evidence::Engines;
use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobInput};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::trial::Trial;
use qslm_search::Tiered;

use super::super::*;
use qslm_testing::experiment;

/// Event of a ledger. Trials, jobs, shards and leases by small numbers, so that events meet.
#[derive(Debug, Clone)]
enum Event {
    Open { owner: Owner, trial: usize, shards: u32 },
    Grant { owner: Owner, worker: usize, lasts: Duration },
    Withdraw(Owner),
    Leave { owner: Owner, trial: usize },
    Settle { trial: usize, index: u32, counts: u64 },
    OpenJob { owner: Owner, job: usize },
    SettleJob { job: usize, artifact: u8 },
    Fail(LeaseId),
    HandBack(LeaseId),
    Vanish(usize),
    Extend { worker: usize, held: BTreeSet<LeaseId>, lasts: Duration },
    Expire,
    Wait(Duration),
}

fn event() -> impl Strategy<Value = Event> {
    let owner = || (0..2u32).prop_map(Owner);
    let lease = || (1u64..12).prop_map(LeaseId);
    let lasts = prop_oneof![1u64..20, 1000u64..9000].prop_map(Duration::from_millis);
    let held = prop::collection::btree_set(lease(), 0..6);
    prop_oneof![
        4 => (owner(), 0usize..3, 1u32..4).prop_map(|(owner, trial, shards)| Event::Open { owner, trial, shards }),
        6 => (owner(), 0usize..3, lasts.clone())
            .prop_map(|(owner, worker, lasts)| Event::Grant { owner, worker, lasts }),
        1 => owner().prop_map(Event::Withdraw),
        1 => (owner(), 0usize..3).prop_map(|(owner, trial)| Event::Leave { owner, trial }),
        4 => (0usize..3, 0u32..4, 1u64..3).prop_map(|(trial, index, counts)| Event::Settle { trial, index, counts }),
        6 => (owner(), 0usize..3).prop_map(|(owner, job)| Event::OpenJob { owner, job }),
        3 => (0usize..3, 1u8..3).prop_map(|(job, artifact)| Event::SettleJob { job, artifact }),
        1 => lease().prop_map(Event::Fail),
        1 => lease().prop_map(Event::HandBack),
        1 => (0usize..3).prop_map(Event::Vanish),
        2 => (0usize..3, held, lasts).prop_map(|(worker, held, lasts)| Event::Extend { worker, held, lasts }),
        2 => Just(Event::Expire),
        3 => prop_oneof![0u64..30, 900u64..5000].prop_map(|time| Event::Wait(Duration::from_millis(time))),
    ]
}

/// A trial or job that is or was open.
struct ModelWork {
    key: WorkKey,
    /// Numbers of jobs that have to be made first.
    waits_for: Vec<usize>,
    owners: Vec<Owner>,
    shards: Vec<ModelShard>,
    open: bool,
}

impl ModelWork {
    fn lose(&mut self, owner: Owner) {
        self.owners.retain(|other| *other != owner);
        let Some(heir) = self.owners.first() else {
            self.open = false;
            return;
        };
        for lease in self.shards.iter_mut().flat_map(|shard| &mut shard.out) {
            lease.owner = *heir;
        }
    }
}

#[derive(Default)]
struct ModelShard {
    /// Counts, or the artifact.
    settled: Option<u64>,
    out: Vec<ModelLease>,
    /// Workers that vanished over it, each with the lease that ran out last.
    vanished: BTreeMap<usize, LeaseId>,
}

impl ModelShard {
    fn is_suspect(&self) -> bool {
        self.vanished.len() + 1 >= LIMITS.vanished as usize
    }
}

struct ModelLease {
    id: LeaseId,
    owner: Owner,
    worker: usize,
    since: Moment,
    ends: Moment,
    alone: bool,
}

#[derive(Default)]
struct Model {
    all: Vec<ModelWork>,
    /// Jobs that were made.
    made: [bool; 3],
    /// Settled leases by owner, and how long they were out together: of trials and of jobs.
    durations: [[(u32, Duration); 2]; 2],
    /// Affinity by owner: the worker that had a shard's index last.
    had: [BTreeMap<usize, usize>; 2],
}

/// Answer to an event, in words that both can say.
#[derive(Debug, PartialEq)]
enum Answer {
    Granted(Option<(WorkKey, u32)>),
    Said(String),
    Unknown(BTreeSet<LeaseId>),
    GivenUp(Vec<WorkKey>),
}

fn trial(number: usize) -> Trial {
    let experiment = experiment(Tiered::default());
    experiment.trial(experiment.space.uniform(&experiment.network, number))
}

/// The first job waits for nothing, the second for the first, and the third for both.
const INPUTS: [&[usize]; 3] = [&[], &[0], &[0, 1]];

fn job(number: usize) -> Job {
    let new = Job::new("test", 1).parameter("number", number);
    let input = |new: Job, of: &usize| new.input(&format!("of_{of}"), JobInput::Job(job(*of).key()));
    INPUTS[number].iter().fold(new, input)
}

fn made(artifact: u8) -> Made {
    Made { artifact: ContentHash::of(&[artifact]), engines: Engines::new() }
}

fn counts(number: u64) -> Counts {
    Counts { nll: Nll(number), scored_tokens: 1, processed_tokens: 1, ..Counts::zero(4) }
}

/// Index of durations.
fn is_job(key: WorkKey) -> usize {
    usize::from(matches!(key, WorkKey::Job(_)))
}

const WORKERS: [&str; 3] = ["a", "b", "c"];
const LIMITS: Limits = Limits { vanished: 2 };

impl Model {
    fn opened(&mut self, key: impl Into<WorkKey>) -> Option<&mut ModelWork> {
        let key = key.into();
        self.all.iter_mut().find(|known| known.open && known.key == key)
    }

    fn open(&mut self, owner: Owner, key: WorkKey, waits_for: Vec<usize>, shards: u32) -> Answer {
        let said = |words: &str| Answer::Said(words.to_owned());
        if let Some(known) = self.opened(key) {
            if known.owners.contains(&owner) {
                return said("known");
            }
            known.owners.push(owner);
            return said("recorded");
        }
        let shards = (0..shards).map(|_| ModelShard::default()).collect();
        self.all.push(ModelWork { key, waits_for, owners: vec![owner], shards, open: true });
        said("recorded")
    }

    /// Closes work as failed, with the jobs that wait for it.
    fn fail(&mut self, key: WorkKey) -> Vec<WorkKey> {
        let Some(known) = self.opened(key) else { return Vec::new() };
        known.open = false;
        let mut failed = vec![key];
        let number = (0..3).find(|number| key == job(*number).key().into());
        let waits = |work: &&ModelWork| work.open && number.is_some_and(|job| work.waits_for.contains(&job));
        let waiting: BTreeSet<WorkKey> = self.all.iter().filter(waits).map(|work| work.key).collect();
        failed.extend(waiting.into_iter().flat_map(|key| self.fail(key)));
        failed
    }

    /// Numbers of the jobs that have to be made before one.
    fn waits_for(&self, number: usize) -> Vec<usize> {
        INPUTS[number].iter().copied().filter(|of| !self.made[*of]).collect()
    }

    /// Every lease that is out, oldest first.
    fn leases(&self) -> Vec<(usize, usize, &ModelLease)> {
        let mut all = Vec::new();
        for (t, trial) in self.all.iter().enumerate().filter(|(_, trial)| trial.open) {
            for (s, shard) in trial.shards.iter().enumerate() {
                all.extend(shard.out.iter().map(|lease| (t, s, lease)));
            }
        }
        all.sort_by_key(|(_, _, lease)| lease.id);
        all
    }

    fn take(&mut self, id: LeaseId) -> Option<(usize, usize)> {
        let (t, s, _) = self.leases().into_iter().find(|(_, _, lease)| lease.id == id)?;
        self.all[t].shards[s].out.retain(|lease| lease.id != id);
        Some((t, s))
    }

    fn to_grant(&self, owner: Owner, worker: usize, now: Moment) -> Option<(usize, usize)> {
        let own = self.leases().into_iter().filter(|(_, _, lease)| lease.worker == worker);
        let own: Vec<bool> = own.map(|(_, _, lease)| lease.alone).collect();
        if own.contains(&true) {
            return None;
        }
        let owned = |t: usize| self.all[t].open && self.all[t].owners.contains(&owner);
        let waiting = |shard: &ModelShard| shard.settled.is_none() && shard.out.is_empty();
        let mut pending = Vec::new();
        for (t, work) in self.all.iter().enumerate().filter(|(t, _)| owned(*t)) {
            let ready = work.waits_for.is_empty();
            let indexes = (0..work.shards.len()).filter(|s| ready && waiting(&work.shards[*s]));
            pending.extend(indexes.map(|s| (t, s)));
        }
        let had = |place: &&(usize, usize)| self.had[owner.index()].get(&place.1);
        let suits = |place: &&(usize, usize)| had(place).is_none_or(|had| *had == worker);
        let (suspects, sound): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|(t, s)| self.all[*t].shards[*s].is_suspect());
        if let Some(next) = sound.iter().find(suits).or(sound.first()) {
            return Some(*next);
        }
        if let Some(next) = suspects.first().filter(|_| own.is_empty()) {
            return Some(*next);
        }
        let is_late = |t: usize, lease: &ModelLease| {
            let (settled, together) = self.durations[owner.index()][is_job(self.all[t].key)];
            let patience = |settled: u32| (3 * (together / settled)).max(Duration::from_secs(1));
            settled > 0 && lease.since + patience(settled) <= now
        };
        let late = self.leases().into_iter().filter(|(t, _, lease)| is_late(*t, lease));
        let mut alone = late.filter(|(t, s, _)| {
            let shard = &self.all[*t].shards[*s];
            owned(*t) && shard.out.len() == 1 && !shard.is_suspect()
        });
        alone.find(|(_, _, lease)| lease.worker != worker).map(|(t, s, _)| (t, s))
    }

    /// Takes a result, and closes the work if nothing of it is open.
    fn settle(&mut self, key: WorkKey, index: usize, result: u64, now: Moment) -> Answer {
        let said = |words: &str| Answer::Said(words.to_owned());
        let t = self.all.iter().position(|known| known.open && known.key == key);
        let Some(t) = t.filter(|t| index < self.all[*t].shards.len()) else { return said("unknown") };
        let shard = &mut self.all[t].shards[index];
        if let Some(settled) = shard.settled {
            return said(if settled == result { "known" } else { "conflict" });
        }
        shard.settled = Some(result);
        for lease in shard.out.drain(..) {
            let durations = &mut self.durations[lease.owner.index()][is_job(key)];
            *durations = (durations.0 + 1, durations.1 + now.since(lease.since));
        }
        let settled: Option<Vec<u64>> = self.all[t].shards.iter().map(|shard| shard.settled).collect();
        let Some(settled) = settled else { return said("recorded") };
        self.all[t].open = false;
        if let Some(number) = (0..3).find(|number| key == job(*number).key().into()) {
            self.made[number] = true;
            self.all.iter_mut().for_each(|work| work.waits_for.retain(|waited| *waited != number));
        }
        Answer::Said(format!("settled {}", settled.iter().sum::<u64>()))
    }

    fn apply(&mut self, event: &Event, now: Moment, lease: LeaseId) -> Answer {
        let said = |words: &str| Answer::Said(words.to_owned());
        match event {
            Event::Open { owner, trial: number, shards } => {
                self.open(*owner, trial(*number).key().into(), Vec::new(), *shards)
            }
            Event::OpenJob { owner, job: number } => {
                let waits_for = self.waits_for(*number);
                let owned = |model: &mut Self, of: usize| {
                    model.opened(job(of).key()).is_some_and(|known| known.owners.contains(owner))
                };
                if !waits_for.iter().all(|of| owned(self, *of)) {
                    return said("not opened");
                }
                self.open(*owner, job(*number).key().into(), waits_for, 1)
            }
            Event::SettleJob { job: number, artifact } => {
                self.settle(job(*number).key().into(), 0, u64::from(*artifact), now)
            }
            Event::Withdraw(owner) => {
                self.durations[owner.index()] = Default::default();
                self.had[owner.index()].clear();
                self.all.iter_mut().filter(|work| work.open).for_each(|work| work.lose(*owner));
                said("withdrawn")
            }
            Event::Leave { owner, trial: number } => {
                if let Some(known) = self.opened(trial(*number).key()) {
                    known.lose(*owner);
                }
                said("left")
            }
            Event::Grant { owner, worker, lasts } => {
                let found = self.to_grant(*owner, *worker, now);
                let (owner, worker) = (*owner, *worker);
                Answer::Granted(found.map(|(t, s)| {
                    let shards = &self.all[t].shards;
                    if shards[s].out.is_empty() && shards.len() > 1 {
                        self.had[owner.index()].insert(s, worker);
                    }
                    let alone = shards[s].is_suspect();
                    let new = ModelLease { id: lease, owner, worker, since: now, ends: now + *lasts, alone };
                    self.all[t].shards[s].out.push(new);
                    (self.all[t].key, s as u32)
                }))
            }
            Event::Settle { trial: number, index, counts } => {
                self.settle(trial(*number).key().into(), *index as usize, *counts, now)
            }
            Event::Fail(lease) => {
                let Some((t, _)) = self.take(*lease) else { return Answer::GivenUp(Vec::new()) };
                Answer::GivenUp(self.fail(self.all[t].key))
            }
            Event::HandBack(lease) => said(if self.take(*lease).is_some() { "recorded" } else { "unknown" }),
            Event::Vanish(worker) => {
                let own = self.leases().into_iter().filter(|(_, _, lease)| lease.worker == *worker);
                let own = own.map(|(_, _, lease)| lease.id).collect();
                self.lapse(own)
            }
            Event::Extend { worker, held, lasts } => {
                let own = self.leases().into_iter().filter(|(_, _, lease)| lease.worker == *worker);
                let own: Vec<LeaseId> = own.map(|(_, _, lease)| lease.id).collect();
                for trial in &mut self.all {
                    for lease in trial.shards.iter_mut().flat_map(|shard| &mut shard.out) {
                        if own.contains(&lease.id) && held.contains(&lease.id) {
                            lease.ends = now + *lasts;
                        }
                    }
                }
                own.iter().filter(|id| !held.contains(id)).for_each(|id| {
                    self.take(*id);
                });
                for trial in self.all.iter_mut().filter(|trial| trial.open) {
                    for shard in trial.shards.iter_mut().filter(|shard| shard.settled.is_none()) {
                        shard.vanished.retain(|who, lease| who != worker || !held.contains(lease));
                    }
                }
                Answer::Unknown(held.iter().filter(|id| !own.contains(id)).copied().collect())
            }
            Event::Expire => {
                let over = self.leases().into_iter().filter(|(_, _, lease)| lease.ends <= now);
                let mut over: Vec<_> = over.map(|(_, _, lease)| (lease.ends, lease.id)).collect();
                over.sort_unstable();
                self.lapse(over.into_iter().map(|(_, id)| id).collect())
            }
            Event::Wait(_) => said("time"),
        }
    }

    /// Lets these leases run out.
    fn lapse(&mut self, over: Vec<LeaseId>) -> Answer {
        let mut given_up = Vec::new();
        for id in over {
            let Some((_, _, lease)) = self.leases().into_iter().find(|(_, _, lease)| lease.id == id) else {
                continue;
            };
            let (worker, alone) = (lease.worker, lease.alone);
            let Some((t, s)) = self.take(id) else { continue };
            let vanished = &mut self.all[t].shards[s].vanished;
            vanished.insert(worker, id);
            if alone && vanished.len() >= LIMITS.vanished as usize {
                given_up.extend(self.fail(self.all[t].key));
            }
        }
        Answer::GivenUp(given_up)
    }

    fn shard_counts(&self, owner: Owner) -> ShardCounts {
        let mut counts = ShardCounts::default();
        let owned = self.all.iter().filter(|trial| trial.open && trial.owners.contains(&owner));
        for shard in owned.flat_map(|trial| &trial.shards) {
            counts.leased += shard.out.iter().filter(|lease| lease.owner == owner).count() as u32;
            counts.settled += u32::from(shard.settled.is_some());
        }
        for work in self.all.iter().filter(|work| work.open && work.owners.contains(&owner)) {
            let pending = work.shards.iter().filter(|shard| shard.settled.is_none() && shard.out.is_empty());
            counts.pending += if work.waits_for.is_empty() { pending.count() as u32 } else { 0 };
        }
        counts
    }
}

fn words(settled: Settled) -> Answer {
    Answer::Said(match settled {
        Settled::Recorded => "recorded".to_owned(),
        Settled::Known => "known".to_owned(),
        Settled::Conflict => "conflict".to_owned(),
        Settled::Unknown => "unknown".to_owned(),
        Settled::Implausible => "implausible".to_owned(),
        Settled::Complete(Closed { outcome: Outcome::Measured(sum), .. }) => {
            format!("settled {}", sum.counts.nll.0)
        }
        Settled::Complete(Closed { outcome: Outcome::Made(which), .. }) => {
            format!("settled {}", (1..3).find(|artifact| made(*artifact) == which).unwrap())
        }
        Settled::Complete(Closed { outcome: Outcome::Failed(_), .. }) => "failed".to_owned(),
    })
}

fn opened(opened: Opened) -> Answer {
    let said = |words: &str| Answer::Said(words.to_owned());
    match opened {
        Opened::Waiting => said("recorded"),
        Opened::Known => said("known"),
        Opened::Unknown(_) => said("not opened"),
        Opened::Complete(closed) => words(Settled::Complete(closed)),
    }
}

fn given_up(failed: Vec<Closed>) -> Answer {
    Answer::GivenUp(failed.into_iter().map(|closed| closed.work.key()).collect())
}

/// The same event on the real ledger. `of` is how many shards each trial was last opened with; `waits_for` are the jobs that
/// one has to wait for.
fn apply(
    ledger: &mut Ledger,
    event: &Event,
    now: Moment,
    lease: LeaseId,
    of: &mut [u32; 3],
    waits_for: impl Fn(usize) -> Vec<usize>,
) -> Answer {
    match event {
        Event::Open { owner, trial: number, shards } => {
            let new: Addressed = trial(*number).into();
            if ledger.owners(new.key).is_empty() {
                of[*number] = *shards;
            }
            opened(ledger.open(*owner, Arc::new(new), *shards, &BTreeMap::new()))
        }
        Event::OpenJob { owner, job: number } => {
            let waits_for = waits_for(*number).into_iter().map(|of| job(of).key());
            opened(ledger.open_job(*owner, job(*number).into(), waits_for.collect()))
        }
        Event::SettleJob { job: number, artifact } => {
            words(ledger.settle_job(job(*number).key(), made(*artifact), now))
        }
        Event::Withdraw(owner) => {
            ledger.withdraw(*owner);
            Answer::Said("withdrawn".to_owned())
        }
        Event::Leave { owner, trial: number } => {
            ledger.leave(*owner, trial(*number).key());
            Answer::Said("left".to_owned())
        }
        Event::Grant { owner, worker, lasts } => {
            let grant = ledger.grant(*owner, lease, WORKERS[*worker], now, now + *lasts);
            Answer::Granted(grant.map(|grant| (grant.work.key(), grant.shard.index)))
        }
        Event::Settle { trial: number, index, counts: nll } => {
            let shard = Shard { index: *index, of: of[*number] };
            words(ledger.settle(trial(*number).key(), shard, counts(*nll), now))
        }
        Event::Fail(lease) => given_up(ledger.fail(*lease, "chance")),
        Event::HandBack(lease) => {
            let in_force = ledger.hand_back(*lease).is_some();
            Answer::Said(if in_force { "recorded" } else { "unknown" }.to_owned())
        }
        Event::Vanish(worker) => given_up(ledger.vanish(WORKERS[*worker]).failed),
        Event::Extend { worker, held, lasts } => {
            let mut held = held.clone();
            ledger.extend(WORKERS[*worker], &mut held, now + *lasts);
            Answer::Unknown(held)
        }
        Event::Expire => given_up(ledger.expire(now).failed),
        Event::Wait(_) => Answer::Said("time".to_owned()),
    }
}

proptest! {
    #[test]
    fn the_ledger_answers_as_the_slow_one_does(events in prop::collection::vec(event(), 1..80)) {
        let (mut ledger, mut model) = (Ledger::new(LIMITS), Model::default());
        let (mut now, mut lease, mut of) = (Moment::START, LeaseId(0), [0; 3]);
        for (step, event) in events.iter().enumerate() {
            if let Event::Wait(time) = event {
                now += *time;
            }
            if matches!(event, Event::Grant { .. }) {
                lease = lease.next();
            }
            let answer =
                apply(&mut ledger, event, now, lease, &mut of, |number| model.waits_for(number));
            let expected = model.apply(event, now, lease);
            prop_assert_eq!(answer, expected, "step {}: {:?}", step, event);
            for owner in [Owner(0), Owner(1)] {
                let (counts, expected) = (ledger.shard_counts(owner), model.shard_counts(owner));
                prop_assert_eq!(counts, expected, "step {}: {:?}", step, event);
            }
            prop_assert_eq!(ledger.check(), Ok(()));
        }
    }
}
