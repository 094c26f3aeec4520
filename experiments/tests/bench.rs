//! The benchmarks run and measure something; how fast is for people to read, not for a test.
#![allow(clippy::unwrap_used)]

mod support;

use support::{json, refused, succeed};

#[test]
fn every_trial_is_recorded_once_for_any_number_of_connections() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["bench", "coordinator", "--trials", "300", "--workers", "1,5", "--slots", "7"];
    let rows =
        json(&[&arguments[..], &["--folder", folder.path().to_str().unwrap(), "--output", "json"]].concat());
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        // The float model is one more; the program itself fails if any is missing.
        assert_eq!(row["trials"], 301);
        for key in
            ["completions_per_second", "acknowledged_p50", "acknowledged_p99", "lease_p50", "lease_p99"]
        {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "stores are removed");
    assert!(refused(2, &["bench", "coordinator", "--workers", "0"]).contains("expected 1 to 256"));
}

#[test]
fn an_evaluation_is_measured_as_a_whole_and_by_kernels() {
    let small =
        ["--channels", "32", "--vocabulary", "64", "--blocks", "2", "--window", "16", "--windows", "3"];
    let arguments = ["bench", "eval", "--repeat", "1", "--threads", "2", "--output", "json"];
    let rows = json(&[&arguments[..], &small].concat());
    let rows = rows.as_array().unwrap();
    let named =
        |what: &str| rows.iter().filter(|row| row["what"].as_str().unwrap().starts_with(what)).count();
    assert_eq!((named("peak"), named("whole"), named("product")), (2, 5, 16), "{rows:?}");
    for row in rows {
        assert!(row["gflops"].as_f64().or(row["ns_per_element"].as_f64()).unwrap() > 0.0, "{row}");
        let whole = row["what"].as_str().unwrap().starts_with("whole");
        assert_eq!(row["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0), whole, "{row}");
        if row["what"].as_str().unwrap().ends_with("floats") {
            let share = row["share_of_peak"].as_f64().unwrap();
            assert!(share > 0.0 && share <= 1.0, "no product does more than the processor can: {row}");
        }
    }
}

#[test]
fn simulated_workers_finish_a_whole_search() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["bench", "scale", "--workers", "3,20", "--milliseconds", "2", "--spread", "0.9"];
    let rows =
        json(&[&arguments[..], &["--folder", folder.path().to_str().unwrap(), "--output", "json"]].concat());
    for (row, shards) in rows.as_array().unwrap().iter().zip([1, 5]) {
        assert_eq!(row["shards"], shards);
        // The program itself fails if a trial of the ideal search is missing.
        assert!(row["trials"].as_u64().unwrap() > 50, "{row}");
        let efficiency = row["efficiency"].as_f64().unwrap();
        assert!(efficiency > 0.0 && efficiency <= 1.0, "nobody is faster than the ideal: {row}");
    }
    assert!(refused(2, &["bench", "scale", "--spread", "1"]).contains("expected 0 to below 1"));
    assert!(refused(2, &["bench", "scale", "--workers", "0"]).contains("expected 1 to 10000"));
}

#[test]
fn fronts_are_measured() {
    let table = succeed(&["bench", "front", "--repeat", "1"]);
    assert_eq!(table.lines().count(), 6, "{table}");
    let rows = json(&["bench", "front", "--repeat", "1", "--output", "json"]);
    let front = |index: usize| rows[index]["front"].as_u64().unwrap();
    assert_eq!([front(1), front(2), front(3)], [100_000, 1_000, 20_000]);
}
