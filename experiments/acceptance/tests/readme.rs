//! A new user's path, from the clone to the report, is the commands of the README and nothing else.

use std::os::unix::fs::symlink;
use std::process::Command;

use qslm_acceptance::root;

/// The indented lines of the README's first section, in their order.
fn commands() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let start = text.split("## Start\n").nth(1).unwrap().split("\n## ").next().unwrap();
    start.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_readme_lead_from_a_clone_to_a_report() {
    let commands = commands();
    assert!(commands.len() >= 3, "{commands:?}");
    // As in a clone, but nothing that is left here before helps, and nothing is left behind. What is built and tested here
    // was built by these very commands: `.ci/run` runs the second one.
    let clone = tempfile::tempdir().unwrap();
    for name in ["experiments", "target"] {
        symlink(root().join(name), clone.path().join(name)).unwrap();
    }
    let mut ran = 0;
    for command in commands.iter().filter(|command| !command.starts_with("cargo test")) {
        let command = command.replace("cargo run --release --", "target/release/qslm");
        let output = Command::new("sh").args(["-euc", &command]).current_dir(clone.path()).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        ran += 1;
    }
    assert!(ran >= 2, "{commands:?}");
    let page = std::fs::read_to_string(clone.path().join("quickstart.html")).unwrap();
    assert!(
        page.contains("of the float model&#39;s memory saved")
            || page.contains("of the float model's memory saved")
    );
}
