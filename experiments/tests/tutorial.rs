//! The tutorial, run as a reader runs it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/console.rs"]
mod console;
mod support;

use std::net::TcpListener;

use support::root;

#[test]
fn every_step_of_the_tutorial_prints_what_the_page_shows() {
    let text = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let steps = console::steps(&text);
    assert!(steps.len() >= 20, "{} steps", steps.len());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let variables = [
        ("QSLM_COORDINATOR_LISTEN", &*listen),
        ("QSLM_COORDINATOR_WEB", "off"),
        ("QSLM_WORKER_COORDINATOR", &url),
        ("QSLM_CLIENT_COORDINATOR", &url),
    ];
    console::run(&steps, &variables);
}
