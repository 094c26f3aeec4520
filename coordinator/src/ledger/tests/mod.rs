//! The ledger by examples, and against chance: random events with every invariant checked at every step.

mod jobs;
mod model;

use std::time::Duration;

use qslm_common::evidence::{Backing, Evidence, Fingerprint};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::spread::Spread;
use qslm_search::Tiered;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use qslm_testing::experiment;

fn trial(level: usize) -> Arc<Addressed> {
    let experiment = experiment(Tiered::default());
    Arc::new(experiment.trial(experiment.space.uniform(&experiment.network, level)).into())
}

fn counts(nll: u64) -> Counts {
    Counts { nll: Nll(nll), scored_tokens: 1, processed_tokens: 1, ..Counts::zero(4) }
}

fn measured(settled: &Settled) -> bool {
    matches!(settled, Settled::Complete(Closed { outcome: Outcome::Measured(_), .. }))
}

/// Reason why a trial failed, if it did.
fn failed(settled: &Settled) -> Option<&str> {
    match settled {
        Settled::Complete(Closed { outcome: Outcome::Failed(reason), .. }) => Some(reason),
        _ => None,
    }
}

fn has_pending(ledger: &Ledger) -> bool {
    ledger.shard_counts(Owner(0)).pending > 0
}

fn is_empty(ledger: &Ledger) -> bool {
    ledger.open_count(Owner(0)) == 0
}

fn ledger(shards: u32) -> Ledger {
    let mut ledger = Ledger::new(Limits::default());
    assert_eq!(ledger.open(Owner(0), trial(0), shards, &BTreeMap::new()), Opened::Waiting);
    ledger
}

#[test]
fn an_expired_lease_returns_its_shard() {
    let mut ledger = ledger(1);
    let first = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10)).unwrap();
    assert_eq!(ledger.grant(Owner(0), LeaseId(2), "b", Moment(0), Moment(10)), None);
    assert!(ledger.expire(Moment(9)).lapsed.is_empty() && !has_pending(&ledger));
    assert_eq!(ledger.expire(Moment(10)).lapsed, [(LeaseId(1), "a".to_owned(), Owner(0))]);
    assert!(has_pending(&ledger));
    let second = ledger.grant(Owner(0), LeaseId(2), "b", Moment(0), Moment(20)).unwrap();
    assert_eq!((first.shard, first.trial()), (second.shard, second.trial()));
}

#[test]
fn a_worker_gets_the_parts_of_the_data_that_it_had_before() {
    let mut ledger = Ledger::new(Limits::default());
    for number in 0..3 {
        ledger.open(Owner(0), trial(number), 4, &BTreeMap::new());
    }
    let mut leases = 0;
    let mut grant = |worker| {
        leases += 1;
        let grant = ledger.grant(Owner(0), LeaseId(leases), worker, Moment(0), Moment(10)).unwrap();
        (grant.trial().key, grant.shard.index)
    };
    let [first, second, third] = [0, 1, 2].map(|number| trial(number).key);
    let a_had = [grant("a"), grant("a"), grant("a")];
    assert_eq!(a_had, [(first, 0), (first, 1), (first, 2)]);
    // One that nobody had, and then none is left but another's: it is taken over.
    assert_eq!([grant("b"), grant("b"), grant("b")], [(first, 3), (second, 3), (third, 3)]);
    assert_eq!(grant("b"), (second, 0));
    // What a lost it does not ask for as long as there is other work.
    assert_eq!([grant("a"), grant("a")], [(second, 1), (second, 2)]);
    assert_eq!([grant("a"), grant("a"), grant("b")], [(third, 1), (third, 2), (third, 0)]);
}

#[test]
fn a_result_under_an_expired_lease_is_taken_while_the_shard_is_open() {
    let mut ledger = ledger(2);
    let late = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10)).unwrap();
    ledger.expire(Moment(10));
    assert_eq!(ledger.settle(late.trial().key, late.shard, counts(5), Moment(0)), Settled::Recorded);
    assert_eq!(ledger.settle(late.trial().key, late.shard, counts(5), Moment(0)), Settled::Known);
    assert_eq!(ledger.settle(late.trial().key, late.shard, counts(6), Moment(0)), Settled::Conflict);
    // The other shard is the only one left.
    assert_eq!(ledger.grant(Owner(0), LeaseId(2), "b", Moment(0), Moment(20)).unwrap().shard.index, 1);
    assert_eq!(ledger.grant(Owner(0), LeaseId(3), "b", Moment(0), Moment(20)), None);
}

#[test]
fn the_last_shard_closes_the_trial_with_the_sum() {
    let mut ledger = ledger(2);
    let key = trial(0).key;
    let by = |engine, nll| {
        let spread = Some(Spread { sequences: 1, squares: nll });
        Evidence { counts: counts(nll), backing: Backing { engines: [Fingerprint(engine)].into(), spread } }
    };
    ledger.settle(key, Shard { index: 1, of: 2 }, by(1, 7), Moment(0));
    let Settled::Complete(Closed { work, outcome: Outcome::Measured(sum), .. }) =
        ledger.settle(key, Shard { index: 0, of: 2 }, by(2, 5), Moment(0))
    else {
        panic!("not complete")
    };
    assert_eq!((work.key(), sum.counts.nll, sum.counts.scored_tokens), (key.into(), Nll(12), 2));
    let spread = Some(Spread { sequences: 2, squares: 12 });
    assert_eq!(sum.backing, Backing { engines: [Fingerprint(1), Fingerprint(2)].into(), spread });
    assert!(is_empty(&ledger));
    assert_eq!(ledger.settle(key, Shard { index: 0, of: 2 }, counts(5), Moment(0)), Settled::Unknown);
}

#[test]
fn shards_that_were_settled_before_are_not_granted_again() {
    let mut ledger = Ledger::new(Limits::default());
    let settled = BTreeMap::from([(Shard { index: 0, of: 2 }, counts(3).into())]);
    ledger.open(Owner(0), trial(0), 2, &settled);
    assert_eq!(ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10)).unwrap().shard.index, 1);
    assert_eq!(ledger.grant(Owner(0), LeaseId(2), "a", Moment(0), Moment(10)), None);
    let all = BTreeMap::from([0, 1].map(|index| (Shard { index, of: 2 }, counts(3).into())));
    assert!(matches!(ledger.open(Owner(0), trial(1), 2, &all), Opened::Complete(_)));
}

#[test]
fn a_lease_that_its_worker_does_not_list_is_taken_back() {
    let mut ledger = ledger(2);
    ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10));
    ledger.grant(Owner(0), LeaseId(2), "a", Moment(0), Moment(10));
    let mut held = BTreeSet::from([2, 99].map(LeaseId));
    ledger.extend("a", &mut held, Moment(50));
    assert_eq!(held, BTreeSet::from([LeaseId(99)]), "nobody knows lease 99");
    assert_eq!(ledger.shard_counts(Owner(0)), ShardCounts { pending: 1, leased: 1, settled: 0 });
    assert_eq!(ledger.next_expiry(), Some(Moment(50)));
}

#[test]
fn a_fault_of_a_worker_never_fails_a_trial() {
    let mut ledger = ledger(2);
    for attempt in (1..=100).map(LeaseId) {
        let grant = ledger.grant(Owner(0), attempt, "full disk", Moment(0), Moment(10)).unwrap();
        assert_eq!(grant.shard.index, 0);
        assert_eq!(ledger.hand_back(attempt), Some(Owner(0)));
        assert_eq!(ledger.hand_back(attempt), None, "once");
    }
    assert_eq!(ledger.shard_counts(Owner(0)), ShardCounts { pending: 2, leased: 0, settled: 0 });
    assert_eq!(ledger.check(), Ok(()));
}

/// A ledger of three shards, of which one was settled after `took`, and one is out since then.
fn with_straggler(took: u64) -> (Ledger, Grant) {
    let mut ledger = ledger(3);
    let quick = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(99_999)).unwrap();
    assert_eq!(ledger.settle(quick.trial().key, quick.shard, counts(1), Moment(took)), Settled::Recorded);
    let slow = ledger.grant(Owner(0), LeaseId(2), "a", Moment(took), Moment(99_999)).unwrap();
    let last = ledger.grant(Owner(0), LeaseId(3), "b", Moment(took), Moment(99_999)).unwrap();
    assert_eq!(ledger.settle(last.trial().key, last.shard, counts(1), Moment(2 * took)), Settled::Recorded);
    (ledger, slow)
}

#[test]
fn a_stragglers_shard_is_given_to_an_idle_worker_and_the_first_result_wins() {
    let (mut ledger, slow) = with_straggler(1000);
    // Three times as long as the others took, since 1000.
    assert_eq!(ledger.grant(Owner(0), LeaseId(4), "b", Moment(3999), Moment(99_999)), None);
    assert_eq!(
        ledger.grant(Owner(0), LeaseId(4), "a", Moment(4000), Moment(99_999)),
        None,
        "not to the straggler itself"
    );
    let second = ledger.grant(Owner(0), LeaseId(4), "b", Moment(4000), Moment(99_999)).unwrap();
    assert_eq!(second.shard, slow.shard);
    assert_eq!(ledger.grant(Owner(0), LeaseId(5), "c", Moment(9000), Moment(99_999)), None, "two are enough");
    assert_eq!(ledger.check(), Ok(()));
    let settled = ledger.settle(slow.trial().key, slow.shard, counts(1), Moment(4500));
    assert!(matches!(settled, Settled::Complete(..)));
    assert_eq!(ledger.shard_counts(Owner(0)), ShardCounts::default());
    // The other's result is nothing new.
    assert_eq!(ledger.settle(slow.trial().key, slow.shard, counts(1), Moment(5000)), Settled::Unknown);
}

#[test]
fn a_shard_that_is_out_twice_is_pending_only_when_both_come_back() {
    let (mut ledger, _) = with_straggler(1000);
    ledger.grant(Owner(0), LeaseId(4), "b", Moment(4000), Moment(10_000)).unwrap();
    assert_eq!(ledger.hand_back(LeaseId(2)), Some(Owner(0)));
    assert!(!has_pending(&ledger));
    assert!(ledger.expire(Moment(10_000)).failed.is_empty());
    assert!(has_pending(&ledger));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn nobody_straggles_while_nothing_is_known_of_how_long_a_shard_takes() {
    let mut ledger = ledger(1);
    ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(99_999)).unwrap();
    assert_eq!(ledger.grant(Owner(0), LeaseId(2), "b", Moment(50_000), Moment(99_999)), None);
}

#[test]
fn a_failure_of_the_evaluation_closes_the_trial_at_once() {
    let mut ledger = ledger(3);
    ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10));
    ledger.grant(Owner(0), LeaseId(2), "b", Moment(0), Moment(10));
    assert_eq!(ledger.fail(LeaseId(1), "broken")[0].outcome, Outcome::Failed("broken".to_owned()));
    assert_eq!(ledger.fail(LeaseId(2), "broken"), []);
    assert_eq!(ledger.check(), Ok(()));
}

/// Lets a worker vanish with so many leases as it gets, and tells how many that were.
fn vanish(ledger: &mut Ledger, worker: &str, leases: &mut LeaseId) -> (usize, Vec<Closed>) {
    loop {
        *leases = leases.next();
        if ledger.grant(Owner(0), *leases, worker, Moment(0), Moment(10)).is_none() {
            break;
        }
    }
    let expired = ledger.vanish(worker);
    assert_eq!(ledger.check(), Ok(()));
    (expired.lapsed.len(), expired.failed)
}

#[test]
fn three_different_workers_that_vanish_over_one_trial_fail_it() {
    let (mut ledger, mut leases) = (ledger(1), LeaseId(0));
    for _ in 0..10 {
        assert_eq!(vanish(&mut ledger, "a", &mut leases), (1, vec![]), "one worker counts once");
    }
    assert_eq!(vanish(&mut ledger, "b", &mut leases), (1, vec![]));
    let (_, given_up) = vanish(&mut ledger, "c", &mut leases);
    let reason = "3 workers vanished while evaluating it: a, b, c";
    assert_eq!(given_up[0].outcome, Outcome::Failed(reason.to_owned()));
    assert!(is_empty(&ledger));
}

#[test]
fn what_lies_beside_a_trial_that_kills_workers_is_measured() {
    let mut ledger = Ledger::new(Limits::default());
    (0..3).for_each(|number| drop(ledger.open(Owner(0), trial(number), 1, &BTreeMap::new())));
    let (poison, mut leases) = (trial(1).key, LeaseId(0));
    assert_eq!(vanish(&mut ledger, "a", &mut leases), (3, vec![]));
    assert_eq!(vanish(&mut ledger, "b", &mut leases), (3, vec![]));
    // All three are suspects now: each is evaluated alone, and the innocent come through.
    for number in [0, 2] {
        if number == 2 {
            let (lapsed, given_up) = vanish(&mut ledger, "c", &mut leases);
            assert_eq!((lapsed, given_up[0].trial().key), (1, poison));
        }
        let alone = ledger.grant(Owner(0), LeaseId(100 + number), "d", Moment(0), Moment(10)).unwrap();
        assert_eq!(alone.trial().key, trial(number as usize).key);
        assert_eq!(
            ledger.grant(Owner(0), LeaseId(200), "d", Moment(0), Moment(10)),
            None,
            "nothing beside it"
        );
        assert!(measured(&ledger.settle(alone.trial().key, alone.shard, counts(1), Moment(5))));
    }
    assert!(is_empty(&ledger));
}

#[test]
fn a_suspect_waits_until_its_worker_has_nothing_else() {
    let (mut ledger, mut leases) = (ledger(1), LeaseId(0));
    vanish(&mut ledger, "a", &mut leases);
    vanish(&mut ledger, "b", &mut leases);
    ledger.open(Owner(0), trial(1), 2, &BTreeMap::new());
    let granted = |grant: Option<Grant>| grant.map(|grant| grant.trial().key);
    assert_eq!(granted(ledger.grant(Owner(0), LeaseId(50), "c", Moment(0), Moment(10))), Some(trial(1).key));
    assert_eq!(granted(ledger.grant(Owner(0), LeaseId(51), "c", Moment(0), Moment(10))), Some(trial(1).key));
    assert_eq!(granted(ledger.grant(Owner(0), LeaseId(52), "c", Moment(0), Moment(10))), None);
    assert_eq!(granted(ledger.grant(Owner(0), LeaseId(53), "d", Moment(0), Moment(10))), Some(trial(0).key));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn a_worker_that_comes_back_with_its_lease_has_not_vanished() {
    let (mut ledger, mut leases) = (ledger(1), LeaseId(0));
    vanish(&mut ledger, "a", &mut leases);
    ledger.grant(Owner(0), LeaseId(77), "b", Moment(0), Moment(10)).unwrap();
    ledger.expire(Moment(10));
    assert_eq!(ledger.suspects.len(), 1);
    let mut held = BTreeSet::from([LeaseId(77)]);
    ledger.extend("b", &mut held, Moment(50));
    assert_eq!(held, BTreeSet::from([LeaseId(77)]), "its lease has ended all the same");
    assert!(ledger.suspects.is_empty());
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn counts_that_no_such_network_gives_are_refused() {
    let mut ledger = ledger(1);
    let grant = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(10)).unwrap();
    let settle =
        |ledger: &mut Ledger, counts| ledger.settle(grant.trial().key, grant.shard, counts, Moment(0));
    assert_eq!(settle(&mut ledger, Counts::zero(3)), Settled::Implausible);
    let spikes = Counts { spikes: vec![17, 0, 0, 0], ..counts(1) };
    assert_eq!(settle(&mut ledger, spikes), Settled::Implausible);
}

#[test]
fn nothing_scored_is_a_failure() {
    let mut ledger = ledger(1);
    let settled = ledger.settle(trial(0).key, Shard { index: 0, of: 1 }, Counts::zero(4), Moment(0));
    assert_eq!(failed(&settled), Some("nothing was scored"));
}

/// One random run: opens trials, grants, loses, repeats, fails and delays; every shard has one true result.
fn simulate(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ledger = Ledger::new(Limits { vanished: 4 });
    let truth = |key: TrialKey, shard: Shard| counts(u64::from(key.as_bytes()[0]) + u64::from(shard.index));
    let (mut now, mut next_lease, mut grants) = (Moment::START, LeaseId(0), Vec::<Grant>::new());
    let mut results = BTreeMap::new();
    let shards = rng.random_range(1..6);
    // Two owners, who share some of the trials.
    let mut wanted = 0;
    for level in 0..5 {
        for owner in (0..2).filter(|owner| level % 2 == *owner || rng.random_range(0..2) == 0).map(Owner) {
            assert_eq!(ledger.open(owner, trial(level as usize), shards, &BTreeMap::new()), Opened::Waiting);
            wanted += 1;
        }
    }
    for step in 0.. {
        assert!(step < 100_000, "seed {seed} does not end");
        let open = [0, 1].map(|owner| ledger.open_count(Owner(owner)));
        if open == [0, 0] {
            break;
        }
        let worker = ["a", "b", "c"][rng.random_range(0..3)];
        let pick: Option<Grant> = match grants.len() {
            0 => None,
            some => grants.get(rng.random_range(0..some)).cloned(),
        };
        match (rng.random_range(0..10), pick) {
            (0..=3, _) => {
                next_lease = next_lease.next();
                let owner = Owner(rng.random_range(0..2));
                grants.extend(ledger.grant(
                    owner,
                    next_lease,
                    worker,
                    now,
                    now + Duration::from_millis(rng.random_range(1..20)),
                ));
            }
            (4..=6, Some(grant)) => {
                // Sometimes a second time, sometimes long after the lease has ended.
                let key = grant.trial().key;
                let settled = ledger.settle(key, grant.shard, truth(key, grant.shard), now);
                assert_ne!(settled, Settled::Conflict, "seed {seed}");
                if let Settled::Complete(Closed { outcome: Outcome::Measured(sum), owners, .. }) = settled {
                    wanted -= owners.len();
                    assert_eq!(results.insert(key, sum.counts), None, "seed {seed}: recorded twice");
                }
            }
            (7, Some(grant)) => drop(ledger.hand_back(grant.lease)),
            (8, _) => {
                let own = grants.iter().map(|grant: &Grant| grant.lease);
                let mut held = own.filter(|_| rng.random_range(0..2) == 0).collect();
                ledger.extend(worker, &mut held, now + Duration::from_millis(rng.random_range(1..5000)));
            }
            _ => {
                // Now and then long enough for a lease that is extended again and again to straggle.
                now += Duration::from_millis(if rng.random_range(0..20) == 0 {
                    2000
                } else {
                    rng.random_range(0..8)
                });
                ledger.expire(now);
            }
        }
        assert_eq!(ledger.check(), Ok(()), "seed {seed} step {step}");
    }
    assert_eq!(wanted, 0, "seed {seed}: every owner hears of every trial once");
    for (key, sum) in results {
        let mut expected = Counts::zero(4);
        for index in 0..shards {
            expected.add(&truth(key, Shard { index, of: shards })).unwrap();
        }
        assert_eq!(sum, expected, "seed {seed}");
    }
}

#[test]
fn a_thousand_random_runs_keep_every_invariant() {
    (0..1000).for_each(simulate);
}

#[test]
fn granting_follows_the_order_of_opening() {
    let mut ledger = ledger(2);
    ledger.open(Owner(0), trial(1), 2, &BTreeMap::new());
    let order: Vec<_> = (1..=4)
        .map(|id| ledger.grant(Owner(0), LeaseId(id), "a", Moment(0), Moment(9)).unwrap())
        .map(|g| (g.trial().clone(), g.shard.index))
        .collect();
    assert_eq!(order, [(trial(0), 0), (trial(0), 1), (trial(1), 0), (trial(1), 1)]);
}

#[test]
fn a_trial_of_two_owners_is_measured_once_for_both() {
    let mut ledger = ledger(2);
    assert_eq!(ledger.open(Owner(1), trial(0), 7, &BTreeMap::new()), Opened::Waiting);
    assert_eq!(ledger.open(Owner(1), trial(0), 2, &BTreeMap::new()), Opened::Known);
    let first = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(9)).unwrap();
    let second = ledger.grant(Owner(1), LeaseId(2), "b", Moment(0), Moment(9)).unwrap();
    assert_eq!([first.shard, second.shard].map(|shard| (shard.index, shard.of)), [(0, 2), (1, 2)]);
    assert_eq!(
        (
            ledger.grant(Owner(0), LeaseId(3), "c", Moment(0), Moment(9)),
            ledger.grant(Owner(1), LeaseId(3), "c", Moment(0), Moment(9))
        ),
        (None, None)
    );
    assert_eq!(ledger.settle(trial(0).key, first.shard, counts(1), Moment(0)), Settled::Recorded);
    let Settled::Complete(closed) = ledger.settle(trial(0).key, second.shard, counts(1), Moment(0)) else {
        panic!()
    };
    assert_eq!(closed.owners, [Owner(0), Owner(1)]);
}

#[test]
fn a_withdrawn_owner_leaves_its_trials_to_those_who_share_them() {
    let mut ledger = ledger(1);
    ledger.open(Owner(0), trial(1), 1, &BTreeMap::new());
    ledger.open(Owner(1), trial(0), 1, &BTreeMap::new());
    let shared = ledger.grant(Owner(0), LeaseId(1), "a", Moment(0), Moment(9)).unwrap();
    ledger.grant(Owner(0), LeaseId(2), "a", Moment(0), Moment(9)).unwrap();
    ledger.withdraw(Owner(0));
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!((ledger.open_count(Owner(0)), ledger.open_count(Owner(1))), (0, 1));
    assert_eq!(ledger.shard_counts(Owner(1)), ShardCounts { pending: 0, leased: 1, settled: 0 });
    // The lease of what nobody wants is gone.
    let mut held = BTreeSet::from([1, 2].map(LeaseId));
    ledger.extend("a", &mut held, Moment(20));
    assert_eq!(held, BTreeSet::from([LeaseId(2)]));
    assert!(measured(&ledger.settle(shared.trial().key, shared.shard, counts(1), Moment(5))));
}
