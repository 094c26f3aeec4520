//! Three jobs of new users (docs/jobs.md), each from an empty folder: the commands stand on the page, and print what it shows.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/console.rs"]
mod console;
mod support;

use std::net::TcpListener;

use console::Step;
use support::root;

/// Runs the section of the page that begins with this heading, on ports that nobody uses.
fn job(heading: &str) {
    let text = std::fs::read_to_string(root().join("docs/jobs.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading:?}"));
    // Taken all at once, so that each is another one.
    let free = ["7477", "7478", "7479"].map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
    let ports = free.map(|(port, free)| (port, free.local_addr().unwrap().port().to_string()));
    let elsewhere = |mut step: Step| {
        for (port, free) in &ports {
            step.command = step.command.replace(&format!(":{port}"), &format!(":{free}"));
        }
        step
    };
    let steps: Vec<Step> = console::steps(section).into_iter().map(elsewhere).collect();
    assert!(steps.len() >= 8, "{} steps", steps.len());
    console::run(&steps, &[]);
}

#[test]
fn a_model_within_a_budget_with_its_proof_its_file_and_its_picture() {
    job("1. ");
}

#[test]
fn three_workers_with_tls_and_tokens_lose_nothing_when_they_and_their_coordinator_die() {
    job("2. ");
}

#[test]
fn candidates_costs_and_a_strategy_of_ones_own() {
    job("3. ");
}
