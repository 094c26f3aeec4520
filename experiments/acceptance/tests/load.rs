//! Two thousand connections for half a minute: bounded memory, and no error but being told to wait.
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

use std::process::Command;

use qslm_acceptance::{Running, after, program, succeed};
use serde_json::Value;

const CONNECTIONS: u64 = 2000;
const SECONDS: u64 = 30;
/// Bytes of the coordinator's memory at its peak: a connection takes some 100 kB, a result 400 bytes.
const MOST_MEMORY: u64 = 1 << 30;

#[test]
fn two_thousand_connections_get_answers_or_are_told_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("qslm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]).arg(folder.path().join("load.redb"));
    let mut coordinator = Running::start(&mut command);
    let url = format!("http://{}", after(&coordinator.wait_for("listening"), "address="));
    let (connections, seconds) = (CONNECTIONS.to_string(), SECONDS.to_string());
    let load = ["bench", "load", "--connections", &connections, "--seconds", &seconds, "--output", "json"];
    let printed = succeed(&[&load[..], &["--coordinator", &url]].concat());
    println!("{printed}");
    let row: Value = serde_json::from_str::<Value>(&printed).unwrap()[0].clone();
    assert_eq!(row["connections"], CONNECTIONS);
    assert_eq!(row["errors"], serde_json::json!({}));
    // Every connection got through, again and again.
    let calls = row["calls_per_second"].as_f64().unwrap() * row["seconds"].as_f64().unwrap();
    assert!(calls > (CONNECTIONS * 10) as f64, "{calls} calls");
    let memory = coordinator.peak_memory();
    println!("the coordinator's memory: {} MiB", memory >> 20);
    assert!(memory < MOST_MEMORY, "{memory} bytes");
    // It is as well as before.
    assert!(succeed(&["list", "--coordinator", &url]).contains("cancelled"));
}
