//! Finding everything that is wrong with a spec at once, each with its line.
//!
//! A reader of TOML stops at the first mistake. So the text is read again and again, each time without the line that was
//! complained about, until nothing is left to complain about or a complaint is about no line in particular. What is left
//! is looked at as a whole: numbers, files, and whether they go together.

use std::ops::Range;
use std::path::Path;

use super::files::{find_addresses, named_files};
use super::position::{key_at, line_at, with_key};
use super::written::{self, Spec, one_line};
use super::{KeyProblem, Refused, examine};
use crate::exit::{Outcome, unusable};
use crate::input::read_text;
use crate::making::Here;

/// A problem of a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line of the spec, from 1, if it is about one.
    pub line: Option<usize>,
    /// The problem in words.
    pub words: String,
}

/// Every problem of the spec at `path` with `settings` on top, in the order of its lines.
///
/// # Errors
/// If the spec itself cannot be read.
pub fn problems(path: &Path, settings: &[String]) -> Outcome<Vec<Problem>> {
    let text = read_text(path)?;
    let (mut problems, rest) = of_text(&text);
    // The rest is looked at as a whole: what was taken out may have been all that is wrong with a key.
    let rest = rest.and_then(|rest| match written::of_text(path, &rest, settings) {
        Ok(spec) => Some(spec),
        Err(failure) => {
            problems.push(Problem { line: None, words: failure.to_string() });
            None
        }
    });
    if let Some(mut spec) = rest {
        let known = problems.len();
        for (key, failure) in find_addresses(&mut spec).1 {
            problems.push(Problem { line: line_of(&text, &key), words: format!("{key}: {failure}") });
        }
        for (key, file) in named_files(path, &mut spec) {
            if let Some((_, why)) = unusable(&file) {
                let words = format!("{key} = {:?}: {why}", file.display().to_string());
                problems.push(Problem { line: line_of(&text, &key), words });
            }
        }
        // Only with all files is there a whole.
        if problems.len() == known {
            problems.extend(problems_of_whole(path, spec, &text));
        }
    }
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    problems.dedup();
    Ok(problems)
}

/// Problems of numbers, files, and whether they go together.
fn problems_of_whole(path: &Path, spec: Spec, text: &str) -> Vec<Problem> {
    match examine(path, spec, &Here) {
        Ok(_) => Vec::new(),
        Err(Refused::Spec(refused)) => {
            let line = |key: Option<String>| line_of(text, &key?);
            let problem = |KeyProblem { key, words }| Problem { line: line(key), words };
            refused.into_iter().map(problem).collect()
        }
        Err(Refused::Other(failure)) => vec![Problem { line: None, words: failure.to_string() }],
    }
}

/// Every problem of a spec's text that needs no other file to be seen.
pub fn problems_of_text(text: &str) -> Vec<Problem> {
    of_text(text).0
}

/// Problems of the text alone, and the text without them, if that is a spec.
fn of_text(text: &str) -> (Vec<Problem>, Option<String>) {
    let (mut problems, mut taken_out) = (Vec::new(), Vec::new());
    let mut rest = text.to_owned();
    loop {
        let error = match toml::from_str::<Spec>(&rest) {
            Ok(_) => return (problems, Some(rest)),
            Err(error) => error,
        };
        let message = one_line(error.message());
        let span = error.span().map(|span| culprit(&rest, span, error.message()));
        let line = span.as_ref().map(|span| line_at(&rest, span.start));
        if let Some(missing) = message.strip_prefix("missing field ") {
            // Of what was taken out that is no wonder. Whatever lacks a field stays wrong without more of its lines.
            if !taken_out.iter().any(|key: &String| missing.starts_with(&format!("`{key}`"))) {
                problems.push(Problem { line, words: message });
            }
            return (problems, None);
        }
        let key = span.as_ref().and_then(|span| key_at(&rest, span.start));
        let words = with_key(key.as_deref(), written::suggest(&message));
        problems.push(Problem { line, words });
        let Some(span) = span else { return (problems, None) };
        taken_out.extend(
            rest[..span.end]
                .lines()
                .last()
                .and_then(|line| line.split_once('='))
                .map(|(key, _)| key.trim().to_owned()),
        );
        if !blank_lines(&mut rest, span) {
            return (problems, None);
        }
    }
}

/// The span of a mistake. For some tables the reader knows no more than the table: then it is on the line without which it is
/// another mistake, or none.
pub(super) fn culprit(text: &str, span: Range<usize>, message: &str) -> Range<usize> {
    if !text[span.start..].starts_with('[') || message.starts_with("missing field") {
        return span;
    }
    let mut start = span.start + text[span.start..].find('\n').map_or(0, |at| at + 1);
    for line in text[start..].split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            break;
        }
        let here = start..start + line.trim_end().len();
        start += line.len();
        // Without its kind, nothing is known of a table.
        if line.contains('=') && !line.trim_start().starts_with("kind") {
            let mut without = text.to_owned();
            without.replace_range(here.start..here.start, "#");
            if toml::from_str::<Spec>(&without).err().is_none_or(|error| error.message() != message) {
                return here;
            }
        }
    }
    span
}

/// Turns the lines of a span into comments. `false` if they are comments already.
fn blank_lines(text: &mut String, span: Range<usize>) -> bool {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let lines: Vec<String> = text[start..end].split('\n').map(|line| format!("#{line}")).collect();
    if text[start..].starts_with('#') {
        return false;
    }
    text.replace_range(start..end, &lines.join("\n"));
    true
}

/// The line on which a key is set, by its last name, and by the table that it stands in where there is one.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut inside = String::new();
    let mut found = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = header.0.trim().to_owned();
            if inside == key {
                return Some(index + 1);
            }
            continue;
        }
        let sets = line.split_once('=').is_some_and(|(left, _)| {
            let left = left.trim();
            left == name || left == key || format!("{inside}.{left}") == key
        });
        if sets && (inside == table || inside.ends_with(table)) {
            return Some(index + 1);
        }
        if sets && found.is_none() {
            found = Some(index + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: &str = "name = \"x\"\nbakend = \"flex\"\n[checkpoint]\npath = \"m.pth\"\n\n[task]\n\
        kind = \"perplexity\"\nwindow = \"long\"\n[space]\nbits = [\n  8, 9\n]\nsymetry = \"affine\"\n";

    #[test]
    fn every_mistake_is_found_with_its_line() {
        let (problems, spec) = of_text(WRONG);
        let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
        let words: Vec<_> = problems.iter().map(|problem| problem.words.as_str()).collect();
        for (line, part) in [
            (2, "unknown field `bakend`"),
            (2, "did you mean `backend`?"),
            (8, "task.window: invalid type: string \"long\""),
            (10, "space.bits: 9 bits: expected 2 to 8, 16 or 32"),
            (13, "did you mean `symmetry`?"),
        ] {
            let found = problems.iter().any(|p| p.line == Some(line) && p.words.contains(part));
            assert!(found, "line {line}: {part}: {lines:?} {words:?}");
        }
        assert!(spec.is_none(), "the window is gone, and there is no spec without one");
    }

    #[test]
    fn problems_of_values_are_told_beside_those_of_keys() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("specs/plain.toml")).unwrap();
        let text = text.replace("../", &format!("{}/", root.display()));
        let wrong =
            text.replace("name = \"plain\"", "name = \"PLAIN\"\nbakend = \"flex\"\nmax_candidates = 0");
        assert_ne!(wrong, text);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.toml");
        std::fs::write(&path, &wrong).unwrap();
        let settings = ["run.shards=0".to_owned(), "constraints.min_saving=2.0".to_owned()];
        let problems = problems(&path, &settings).unwrap();
        for words in [
            "did you mean `backend`?",
            "name = \"PLAIN\"",
            "max_candidates = 0",
            "run.shards = 0",
            "min_saving = 2",
        ] {
            assert!(problems.iter().any(|problem| problem.words.contains(words)), "{words}: {problems:?}");
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_one_problem() {
        let (problems, spec) = of_text("name = \n");
        assert!(spec.is_none());
        assert_eq!(problems[0].line, Some(1));
    }

    #[test]
    fn a_key_is_found_in_its_table() {
        let text = "[a]\nbits = 1\n[space]\n  bits = 2\n[space.vectors]\nbits = 3\n";
        assert_eq!(line_of(text, "space.bits"), Some(4));
        assert_eq!(line_of(text, "space.vectors.bits"), Some(6));
        assert_eq!(line_of(text, "bits"), Some(2));
        assert_eq!(line_of(text, "nothing"), None);
        assert_eq!(line_of(text, "space"), Some(3), "a table");
    }
}
