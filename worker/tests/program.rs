//! The `qslm-worker` program: what it refuses, and the evaluator's answer to broken input.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qslm-worker"));
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn refused(code: i32, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(arguments, variables);
    let errors = String::from_utf8(output.stderr).unwrap();
    let last = errors.trim_end().lines().last().unwrap_or_default().to_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(last.starts_with("error: "), "{errors}");
    last
}

#[test]
fn settings_are_refused_by_name() {
    assert!(refused(2, &[], &[("QSLM_WORKER_SLOTZ", "3")]).contains("QSLM_WORKER_SLOTZ"));
    let error = refused(2, &["--slots", "2000"], &[]);
    assert!(error.contains("slots = 2000: expected 0 to 1024"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_str().unwrap();
    let error = refused(2, &["--coordinator", "not an address", "--cache-dir", cache], &[]);
    assert!(error.contains("expected http://HOST:PORT"), "{error}");
    let error = refused(1, &["--cache-dir", "/dev/null/cache"], &[]);
    assert!(error.contains("/dev/null/cache"), "{error}");
}

#[test]
fn help_has_examples() {
    let help = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("QSLM_WORKER_"), "{help}");
}
