//! The `qslm-coordinator` program: what it refuses before it serves.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qslm-coordinator"));
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn refused(code: i32, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(arguments, variables);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.starts_with("error: ") && errors.trim_end().lines().count() == 1, "{errors}");
    errors
}

#[test]
fn settings_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let error = refused(2, &["--config", file.to_str().unwrap()], &[]);
    assert!(error.contains("c.toml") && error.contains("lisen") && error.contains("listen"), "{error}");
    assert!(refused(2, &[], &[("QSLM_COORDINATOR_STOER", "x")]).contains("QSLM_COORDINATOR_STOER"));
    assert!(refused(2, &["--config", "no/such/file"], &[]).contains("no/such/file"));
    let store = folder.path().join("s.redb");
    let error = refused(2, &["--lease-ttl-s", "0.1", "--store", store.to_str().unwrap()], &[]);
    assert!(error.contains("lease_ttl_s = 0.1: expected 1 to 3600 seconds"), "{error}");
}

#[test]
fn it_does_not_listen_beyond_this_machine_without_authentication() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    for (flag, name) in [("--listen", "listen"), ("--web", "web")] {
        let error = refused(2, &[flag, "0.0.0.0:0", "--store", store.to_str().unwrap()], &[]);
        assert!(error.contains(&format!("{name} = 0.0.0.0:0: reachable from other machines")), "{error}");
    }
    assert!(!store.exists(), "refused before anything is made");
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("notes.txt");
    std::fs::write(&store, "not a store").unwrap();
    let error = refused(1, &["--store", store.to_str().unwrap(), "--listen", "127.0.0.1:0"], &[]);
    assert!(error.contains("notes.txt"), "{error}");
    assert_eq!(std::fs::read_to_string(&store).unwrap(), "not a store");
}

#[test]
fn an_address_in_use_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let error = refused(1, &["--listen", &address, "--store", store.to_str().unwrap()], &[]);
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn help_has_examples() {
    let help = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("QSLM_COORDINATOR_"), "{help}");
}
