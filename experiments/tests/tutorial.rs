//! The tutorial, run as a reader runs it: its commands in their order, in one shell, and each prints what the page shows.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{QSLM, program, root};

/// A command of the page, and the lines that the page shows below it.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The steps of a page: lines that begin with `$`, with the lines that a `\` at their end continues.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                (None, Some(step)) if step.command.ends_with('\\') => {
                    step.command.push_str(&format!("\n{line}"));
                }
                (None, Some(step)) => step.shown.push(line.to_owned()),
                (None, None) => panic!("{line:?} is the output of no command"),
            }
        }
    }
    steps
}

/// True if a line is as shown, where `...` stands for anything and any white space for any other.
fn is_as_shown(line: &str, shown: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (plain(line), plain(shown));
    let pieces: Vec<_> = shown.split("...").map(str::trim).collect();
    let [first, middle @ .., last] = &pieces[..] else { return line == shown };
    let Some(mut rest) = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    middle.iter().all(|piece| {
        let found = rest.find(piece);
        rest = found.map_or("", |at| &rest[at + piece.len()..]);
        found.is_some()
    })
}

#[test]
fn every_step_of_the_tutorial_prints_what_the_page_shows() {
    let text = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let steps = steps(&text);
    assert!(steps.len() >= 20, "{} steps", steps.len());
    let folder = tempfile::tempdir().unwrap();
    symlink(root().join("experiments"), folder.path().join("experiments")).unwrap();
    // All of them are built.
    program("qslm-coordinator");
    program("qslm-worker");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    // One shell, so that jobs can be ended; a line of its own ends the output of each step.
    let mut script = "exec 2>&1\n".to_owned();
    for (number, step) in steps.iter().enumerate() {
        script.push_str(&format!("{}\necho end of step {number}\n", step.command));
    }
    script.push_str("wait\n");
    let path = format!("{}:{}", Path::new(QSLM).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", path)
        .envs([("QSLM_COORDINATOR_LISTEN", &*listen), ("QSLM_COORDINATOR_WEB", "off")])
        .envs([("QSLM_WORKER_COORDINATOR", &url), ("QSLM_CLIENT_COORDINATOR", &url)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut rest = std::str::from_utf8(&output.stdout).unwrap();
    for (number, Step { command, shown }) in steps.iter().enumerate() {
        let said;
        (said, rest) = rest
            .split_once(&format!("end of step {number}\n"))
            .unwrap_or_else(|| panic!("{command}: never ended"));
        // What is shown comes in this order; what lies between is what the page leaves out.
        let mut lines = said.lines();
        for shown in shown.iter().filter(|shown| !["", "..."].contains(&shown.trim())) {
            assert!(lines.any(|line| is_as_shown(line, shown)), "{command}: not shown: {shown:?}\n{said}");
        }
    }
}
