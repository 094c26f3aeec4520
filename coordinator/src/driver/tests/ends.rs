//! End of a driver, and what its callers hear of it.

use qslm_common::trial::TrialKey;
use qslm_search::Tiered;

use super::able;
use crate::driver::*;
use crate::store::disk::Disk;
use qslm_testing::experiment;

fn submission() -> Submission {
    let strategy = Tiered::default();
    Submission::new(experiment(strategy), 1)
}

#[tokio::test]
async fn whoever_asks_a_driver_whose_disk_fails_hears_what_failed() {
    let disk = Disk::default();
    let (handle, thread) = start(Store::on(disk.clone()).unwrap(), Options::default()).unwrap();
    disk.fail_in(1);
    let failed = Refusal::Failed("in memory: I/O error: no power".into());
    // Waiting for the commit, waiting for the driver, and too late.
    let (submitted, counted) = tokio::join!(handle.submit(submission()), handle.snapshot());
    assert_eq!((submitted.unwrap_err(), counted.unwrap_err()), (failed.clone(), failed.clone()));
    assert_eq!(handle.list().await.unwrap_err(), failed);
    let error = thread.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "in memory: I/O error: no power");
}

#[test]
fn what_follows_from_a_failed_disk_is_told_as_what_failed() {
    let disk = Disk::default();
    let store = Store::on(disk.clone()).unwrap();
    let writes = [Write::Failure("x".to_owned(), TrialKey::of(b"a").into(), "broke".to_owned())];
    disk.fail_in(1);
    for _ in 0..3 {
        let error = store.commit(&writes).unwrap_err();
        assert_eq!(error.to_string(), "in memory: I/O error: no power");
    }
}

#[tokio::test]
async fn a_driver_that_was_stopped_says_so() {
    let (handle, thread) = start(Store::on(Disk::default()).unwrap(), Options::default()).unwrap();
    handle.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(handle.list().await.unwrap_err(), Refusal::Stopping);
}

#[test]
fn a_panic_becomes_one_line() {
    let panic = std::panic::catch_unwind(|| panic!("what {}\n  followed", "never")).unwrap_err();
    let error = DriverError::panicked(&*panic).to_string();
    assert_eq!(error, "the thread that decides panicked: what never followed");
}

#[tokio::test]
async fn a_report_whose_place_a_later_one_took_is_not_told_that_the_coordinator_stops() {
    let (handle, _thread) = start(Store::on(Disk::default()).unwrap(), Options::default()).unwrap();
    let report = |wait_ms| WorkerReport {
        worker: "twin".to_owned(),
        finished: vec![],
        held: vec![],
        slots: 1,
        prefetch: 0,
        wait_ms,
        experiment: None,
        capabilities: Arc::new(able()),
        session: 0,
        progress: Vec::new(),
    };
    let (first, second) = tokio::join!(handle.report(report(30_000)), handle.report(report(0)));
    assert_eq!(first.unwrap_err(), Refusal::Superseded("twin".to_owned()));
    assert!(second.unwrap().leases.is_empty());
}
