//! Pages with commands, run as a reader runs them: all of them in their order in one shell, and each prints what the page
//! shows.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{QSLM, program, root};

/// A command of a page, and the lines that the page shows below it.
pub struct Step {
    pub command: String,
    shown: Vec<String>,
}

/// The steps of a page: lines that begin with `$`, with the lines that a `\` at their end continues, or that lines up to
/// `END` make a file of.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                (None, Some(step)) if goes_on(&step.command) => {
                    step.command.push_str(&format!("\n{line}"));
                }
                (None, Some(step)) => step.shown.push(line.to_owned()),
                (None, None) => panic!("{line:?} is the output of no command"),
            }
        }
    }
    steps
}

/// True if a command is not complete: its last line is continued, or it reads what follows it up to `END`.
fn goes_on(command: &str) -> bool {
    let last = command.lines().last().unwrap_or_default();
    last.ends_with('\\') || (command.contains("<<'END'") && last != "END")
}

/// True if a line is as shown, where `...` stands for anything and any white space for any other.
pub fn is_as_shown(line: &str, shown: &str) -> bool {
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

/// Runs steps in an empty folder with the repository's `experiments` and these variables beside them, and fails at the first
/// that does not print what is shown.
pub fn run(steps: &[Step], variables: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    symlink(root().join("experiments"), folder.path().join("experiments")).unwrap();
    // All of them are built.
    program("qslm-coordinator");
    program("qslm-worker");
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
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut rest = std::str::from_utf8(&output.stdout).unwrap();
    for (number, Step { command, shown }) in steps.iter().enumerate() {
        let said;
        (said, rest) = rest
            .split_once(&format!("end of step {number}\n"))
            .unwrap_or_else(|| panic!("{command}: never ended\n{rest}"));
        // What is shown comes in this order; what lies between is what the page leaves out.
        let mut lines = said.lines();
        for shown in shown.iter().filter(|shown| !["", "..."].contains(&shown.trim())) {
            assert!(lines.any(|line| is_as_shown(line, shown)), "{command}: not shown: {shown:?}\n{said}");
        }
    }
}
