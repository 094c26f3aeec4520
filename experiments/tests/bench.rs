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
fn every_job_is_made_and_memory_does_not_grow_with_an_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let arguments = ["bench", "jobs", "--jobs", "60", "--workers", "1,3", "--slots", "4", "--output", "json"];
    let sizes = ["--artifact-mib", "64,1", "--job-bytes", "33", "--folder", place];
    let rows = json(&[&arguments[..], &sizes].concat());
    let rows = rows.as_array().unwrap();
    let bytes = |mebibytes: u64| mebibytes << 20;
    let all = rows.iter().map(|row| (row["what"].as_str().unwrap(), row["artifact_bytes"].as_u64().unwrap()));
    let wanted = [
        ("artifact up", bytes(1)),
        ("artifact down", bytes(1)),
        ("artifact up", bytes(64)),
        ("artifact down", bytes(64)),
        ("jobs", 33),
        ("jobs", 33),
    ];
    assert_eq!(all.collect::<Vec<_>>(), wanted);
    for row in rows {
        // The program itself fails if an artifact is missing, or another one.
        let keys: &[&str] = match row["what"].as_str().unwrap() {
            "jobs" => {
                &["jobs_per_second", "asked", "put_p50", "put_p99", "acknowledged_p50", "acknowledged_p99"]
            }
            _ => &["mib_per_second"],
        };
        for key in keys {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
    }
    assert_eq!(
        [&rows[4], &rows[5]].map(|row| (row["workers"].as_u64(), row["jobs"].as_u64())),
        [(Some(1), Some(60)), (Some(3), Some(60))]
    );
    let peak = |index: usize| rows[index]["peak_memory_mib"].as_f64().unwrap();
    assert!(peak(3) - peak(1) < 32.0, "63 MiB more took {} MiB of memory", peak(3) - peak(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "stores are removed");
    assert!(refused(2, &["bench", "jobs", "--workers", "257"]).contains("expected 1 to 256"));
    assert!(refused(2, &["bench", "jobs", "--artifact-mib", "1,0"]).contains("0: expected 1 to 16384"));
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
    assert_eq!((named("whole"), named("product")), (5, 16), "{rows:?}");
    // Left out, in so many words, where a product was faster: other tests may have had the processor meanwhile.
    assert!([0, 2].contains(&named("peak")), "{rows:?}");
    for row in rows {
        assert!(row["gflops"].as_f64().or(row["ns_per_element"].as_f64()).unwrap() > 0.0, "{row}");
        let whole = row["what"].as_str().unwrap().starts_with("whole");
        assert_eq!(row["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0), whole, "{row}");
        if row["what"].as_str().unwrap().ends_with("floats") {
            let share = row["share_of_peak"].as_f64();
            assert_eq!(share.is_some(), named("peak") > 0, "{row}");
            let is_share = share.is_none_or(|share| share > 0.0 && share <= 1.0);
            assert!(is_share, "no product does more than the processor can: {row}");
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
