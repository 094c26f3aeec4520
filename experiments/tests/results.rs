//! The program that makes RESULTS.md, on a few windows and sentences.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::{QSLM, root, shared};

/// Section that takes an interpreter of Python with Optuna, so it is made alone (`--only strategies`).
const APART: &str = "## Strategies at about a hundred evaluations (`strategies.toml`)";

#[test]
#[cfg_attr(not(qslm_shared), ignore = "needs the reference data: set QSLM_SHARED")]
fn results_are_made_by_a_command() {
    let program = std::path::Path::new(QSLM).with_file_name("examples").join("results");
    let stores = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(["--first", "3", "--stores", stores.path().to_str().unwrap()])
        .args(["--wikitext2", shared().join("data/wikitext-2/valid.txt").to_str().unwrap()])
        .args(["--wikitext2-train", shared().join("data/wikitext-2/train.txt").to_str().unwrap()])
        .args(["--sst2-train", shared().join("data/sst2/train.tsv").to_str().unwrap()])
        .args(["--sst2", shared().join("data/sst2/dev.tsv").to_str().unwrap()])
        .current_dir(root())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let page = String::from_utf8(output.stdout).unwrap();
    // Every table has rows, and every row a number where there should be one.
    let committed = std::fs::read_to_string(root().join("experiments/RESULTS.md")).unwrap();
    let headings = |page: &str| {
        page.lines().filter(|line| line.starts_with("## ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut expected = headings(&committed);
    let apart = expected.iter().position(|heading| heading == APART).unwrap();
    expected.remove(apart);
    assert_eq!(headings(&page), expected, "RESULTS.md is of another version of this program");
    assert!(!page.contains("NaN") && !page.contains("null"), "{page}");
    for bits in ["8", "6", "4", "3", "2"] {
        assert_eq!(page.matches(&format!("\n| {bits} bits |")).count(), 2, "both tasks at {bits} bits");
    }
    assert_eq!(page.matches("QSLM's choice").count(), 2);
}
