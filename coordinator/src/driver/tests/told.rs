//! Candidates from outside: acknowledged once they are on disk, in the order of their numbers, and the front is that of a
//! list of the same candidates.

use qslm_common::candidate::Candidate;
use qslm_common::experiment::Experiment;
use qslm_common::front_document::FrontDocument;
use qslm_search::{External, List, Tell};

use super::{CANCEL, finished, open, read_finished, report, work};
use crate::driver::*;
use crate::ledger::Grant;
use qslm_testing::experiment;

fn external() -> Experiment {
    experiment(External {})
}

/// Tell of uniform candidates by their levels.
fn tell(levels: &[usize], last: bool) -> Tell {
    Tell { candidates: levels.iter().map(|level| uniform(*level).encode()).collect(), last }
}

fn uniform(level: usize) -> Candidate {
    let experiment = external();
    experiment.space.uniform(&experiment.network, level)
}

/// Reports so often that nothing is left to measure.
const STEPS: usize = 40;

async fn states(handle: &Handle, number: u64) -> Vec<ToldState> {
    let told = handle.told(external().id(), number).await.unwrap();
    told.candidates.into_iter().map(|told| told.state).collect()
}

#[tokio::test]
async fn tells_outlive_a_restart_and_lead_to_the_front_of_a_list_of_the_same_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let id = handle.submit(Submission::new(external(), 2)).await.unwrap().id;
    // Any time, also before the float model is measured, and more than one.
    assert_eq!(handle.tell(id.clone(), 1, tell(&[0, 1, 2], false)).await, Ok(1));
    assert_eq!(handle.tell(id.clone(), 2, tell(&[3], false)).await, Ok(2));
    work(&handle, 2, 3).await;
    handle.stop();
    thread.join().unwrap().unwrap();

    let (handle, thread) = open(&path);
    assert_eq!(handle.get(id.clone()).await.unwrap().told, 2);
    assert_eq!(handle.tell(id.clone(), 2, tell(&[3], false)).await, Ok(2), "the same once more");
    let refused = handle.tell(id.clone(), 2, tell(&[4], false)).await;
    let words = format!("number 2: {id} was told other candidates under it; the next one is 3");
    assert_eq!(refused, Err(Refusal::Conflict(words)));
    for number in [0, 4] {
        let words = format!("number {number}: expected 3, the next one of {id}");
        let refused = handle.tell(id.clone(), number, tell(&[4], false)).await;
        assert_eq!(refused, Err(Refusal::NotNow(words)));
    }
    assert!(!work(&handle, 2, STEPS).await);
    let status = handle.get(id.clone()).await.unwrap();
    assert_eq!((status.state, status.stage, status.measured), (State::Running, "waiting for tells", 5));
    assert!(!handle.report(report("w0", 1)).await.unwrap().done, "more is to come");
    assert!(states(&handle, 1).await.iter().all(|state| matches!(state, ToldState::Measured(_))));
    handle.tell(id.clone(), 3, tell(&[4], false)).await.unwrap();
    handle.tell(id.clone(), 4, tell(&[], true)).await.unwrap();
    assert!(work(&handle, 2, STEPS).await, "the last one ends it");
    let refused = handle.tell(id.clone(), 5, tell(&[0], false)).await;
    assert_eq!(refused, Err(Refusal::NotNow(format!("number 5: {id} was told its last generation, 4"))));
    assert_eq!(handle.tell(id.clone(), 4, tell(&[], true)).await, Ok(4));
    handle.stop();
    thread.join().unwrap().unwrap();

    let (told, status) = read_finished(&path, &external(), 2).await;
    assert_eq!((status.evaluated, status.measured), (0, 6));
    let list = experiment(List::new(tell(&[0, 1, 2, 3, 4], true).candidates, Vec::new()));
    let other = folder.path().join("list.redb");
    let (handle, thread) = open(&other);
    handle.submit(Submission::new(list.clone(), 3)).await.unwrap();
    assert!(work(&handle, 1, STEPS).await);
    handle.stop();
    thread.join().unwrap().unwrap();
    let (listed, _) = read_finished(&other, &list, 3).await;
    let read = |front: &str| serde_json::from_str::<FrontDocument>(front).unwrap();
    let (told, listed) = (read(&told), read(&listed));
    assert_eq!((told.front, told.chosen, told.measured), (listed.front, listed.chosen, listed.measured));
}

#[tokio::test]
async fn nothing_is_told_to_what_does_not_ask_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let listed = experiment(List::new(tell(&[0], true).candidates, Vec::new()));
    let list = handle.submit(Submission::new(listed, 1)).await.unwrap().id;
    let words = format!("{list} has the strategy list: candidates are told to one that is external");
    assert_eq!(handle.tell(list, 1, tell(&[0], false)).await, Err(Refusal::NotNow(words)));
    let id = handle.submit(Submission::new(external(), 1)).await.unwrap().id;
    handle.change(id.clone(), CANCEL).await.unwrap();
    let refused = handle.tell(id.clone(), 1, tell(&[0], false)).await;
    assert_eq!(refused, Err(Refusal::NotNow(format!("{id} is cancelled: resume it first"))));
    let pause = Change { paused: Some(true), cancelled: Some(false), ..Change::default() };
    handle.change(id.clone(), pause).await.unwrap();
    assert_eq!(handle.tell(id.clone(), 1, tell(&[0], false)).await, Ok(1), "it is measured later");
    let words = format!("number 2: {id} was told 1 generations, from 1");
    assert_eq!(handle.told(id.clone(), 2).await.unwrap_err(), Refusal::NotFound(words));
    let words = "place 1: tell 1 has 1 candidates, from 0".to_owned();
    assert_eq!(handle.prune(id, 1, vec![0, 1]).await, Err(Refusal::NotFound(words)));
}

/// Measures the float model, and leases all shards of the first tell.
async fn lease_told(handle: &Handle) -> Vec<Grant> {
    let float = handle.report(report("w", 100)).await.unwrap().leases;
    settle(handle, &float.iter().collect::<Vec<_>>()).await;
    handle.report(report("w", 100)).await.unwrap().leases
}

/// Hands in results by another worker than the one that has the leases, which keeps the others.
async fn settle(handle: &Handle, grants: &[&Grant]) {
    let finished = grants.iter().map(|grant| finished(grant)).collect();
    handle.report(WorkerReport { finished, ..report("v", 0) }).await.unwrap();
}

#[tokio::test]
async fn whoever_tells_sees_finished_prefixes_of_shards_whatever_else_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, _thread) = open(&folder.path().join("s.redb"));
    let id = handle.submit(Submission::new(external(), 4)).await.unwrap().id;
    handle.tell(id.clone(), 1, tell(&[1], false)).await.unwrap();
    let grants = lease_told(&handle).await;
    let of = |index: u32| grants.iter().find(|grant| grant.shard.index == index).unwrap();
    let mut seen = Vec::new();
    for index in [2, 0, 1] {
        settle(&handle, &[of(index)]).await;
        match &states(&handle, 1).await[..] {
            [ToldState::Open { prefix, of: 4 }] => seen.push(prefix.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [0, 1, 3]);
    let told = handle.told(id.clone(), 1).await.unwrap();
    assert_eq!((told.float_shards.len(), told.float.is_some(), told.has_ended), (4, true, false));
    settle(&handle, &[of(3)]).await;
    assert!(matches!(states(&handle, 1).await[..], [ToldState::Measured(_)]));
}

#[tokio::test]
async fn a_candidate_that_is_pruned_from_outside_stays_pruned_whoever_measures_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (handle, thread) = open(&path);
    let id = handle.submit(Submission::new(external(), 2)).await.unwrap().id;
    handle.tell(id.clone(), 1, tell(&[1, 2], false)).await.unwrap();
    let grants = lease_told(&handle).await;
    let of =
        |level: usize| grants.iter().filter(move |grant| grant.trial().trial.candidate == uniform(level));
    settle(&handle, &of(1).collect::<Vec<_>>()).await;
    settle(&handle, &of(2).take(1).collect::<Vec<_>>()).await;
    // The first is measured already.
    assert_eq!(handle.prune(id.clone(), 1, vec![0, 1]).await, Ok(vec![1]));
    assert_eq!(handle.prune(id.clone(), 1, vec![1]).await, Ok(vec![1]), "once more");
    let status = handle.get(id.clone()).await.unwrap();
    assert_eq!((status.stage, status.measured, status.pruned), ("waiting for tells", 2, 1));
    assert_eq!(status.shards_spared, 1);
    let held = grants.iter().map(|grant| grant.lease).collect();
    let dropped = handle.report(WorkerReport { held, ..report("w", 0) }).await.unwrap().dropped;
    assert!(dropped.contains(&of(2).next_back().unwrap().lease), "nobody has to measure it any more");
    // A result that comes in late, and another experiment that measures it, change nothing, nor does a restart.
    settle(&handle, &of(2).skip(1).collect::<Vec<_>>()).await;
    let list = experiment(List::new(tell(&[2, 3], true).candidates, Vec::new()));
    handle.submit(Submission::new(list.clone(), 2)).await.unwrap();
    work(&handle, 1, STEPS).await;
    assert_eq!(handle.get(list.id()).await.unwrap().measured, 3);
    handle.tell(id.clone(), 2, tell(&[2, 3], true)).await.unwrap();
    work(&handle, 1, STEPS).await;
    let front = handle.front(id.clone()).await.unwrap();
    assert!(!front.contains(&uniform(2).id().to_string()), "{front}");
    assert!(matches!(states(&handle, 2).await[..], [ToldState::Pruned, ToldState::Measured(_)]));
    handle.stop();
    thread.join().unwrap().unwrap();
    let (again, status) = read_finished(&path, &external(), 2).await;
    assert_eq!((again, status.measured, status.pruned), (front, 3, 1));
}
