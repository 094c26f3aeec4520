//! Statements of the documents about the sources, held to the sources.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use support::root;

/// The Markdown files that people read: those at the top, the guide, and the ones beside the code.
fn documents() -> Vec<PathBuf> {
    let markdown = |folder: &str| {
        let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "md")).collect::<Vec<_>>()
    };
    let mut found: Vec<_> =
        [".", "docs", "docs/reference", "experiments", "experiments/python", "k8s"].map(markdown).concat();
    found.sort();
    found
}

/// The sources of a place that is named without an ending: a file, or all files of a folder.
fn sources(place: &str) -> String {
    fn read(path: &Path, text: &mut String) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                read(&entry.unwrap().path(), text);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let (mut text, path) = (String::new(), root().join(place));
    for path in [path.with_extension("rs"), path].iter().filter(|path| path.exists()) {
        read(path, &mut text);
    }
    assert!(!text.is_empty(), "{place} has no sources");
    text
}

/// Values that sources give constants of a name, as they are written there.
fn values<'a>(sources: &'a str, constant: &str) -> Vec<&'a str> {
    let declared = format!("const {constant}: ");
    let lines = sources.lines().filter(|line| line.contains(&declared));
    lines.filter_map(|line| Some(line.split_once(" = ")?.1.trim_end_matches(';'))).collect()
}

#[test]
fn every_limit_is_that_of_the_sources() {
    let text = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let mut compared = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, _, constant, place] = cells[..] else { continue };
        if !place.contains('/') {
            continue;
        }
        let sources = sources(place);
        match constant.split_once(" = ") {
            Some((name, expected)) if !name.contains(':') => {
                let found = values(&sources, name);
                assert!(found.contains(&expected), "{place}: {name} = {expected}, found {found:?}");
            }
            _ => assert!(sources.contains(constant), "{place} has no {constant}"),
        }
        compared += 1;
    }
    assert!(compared >= 50, "{compared} limits");
}

/// Targets of the links of a document, less those that are elsewhere in the world.
fn links(text: &str) -> Vec<String> {
    let after = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    after.filter(|link| !link.starts_with("http")).map(str::to_owned).collect()
}

/// The names by which the headings of a document can be linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => document.clone(),
                _ => document.parent().unwrap_or(Path::new(".")).join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let headings = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(headings.contains(anchor), "{}: {link}", document.display());
            }
            followed += 1;
        }
    }
    assert!(followed >= 60, "{followed} links");
}

#[test]
fn lines_of_documents_fit_a_screen() {
    for document in documents() {
        // References are made by the programs, results by a command; tables and commands cannot be wrapped.
        if document.parent().unwrap().ends_with("reference") || document.ends_with("RESULTS.md") {
            continue;
        }
        let text = std::fs::read_to_string(&document).unwrap();
        for (number, line) in text.lines().enumerate() {
            let may_be_long = ["|", "    ", "!["].into_iter().any(|start| line.starts_with(start));
            let place = format!("{}:{}", document.display(), number + 1);
            assert!(may_be_long || line.chars().count() <= 120, "{place} is longer than 120 characters");
        }
    }
}

#[test]
fn every_source_that_a_document_names_is_there() {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut sources = Vec::new();
    for folder in ["common", "coordinator", "experiments", "proto", "worker"] {
        walk(&root().join(folder), &mut sources);
    }
    let mut named = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        // `NAME.rs` is for the reader to write.
        let names = quoted.filter(|word| {
            word.ends_with(".rs") && !word.contains("NAME") && !word.contains(char::is_whitespace)
        });
        for name in names {
            let there = sources.iter().any(|path| path.ends_with(name));
            assert!(there, "{}: {name} is no source", document.display());
            named += 1;
        }
    }
    assert!(named >= 60, "{named} names");
}
