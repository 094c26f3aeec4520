//! Finding everything that is wrong with a spec at once, each with its line.
//!
//! A reader of TOML stops at the first mistake. So the text is read again and again, each time without what was complained
//! about, until nothing is left to complain about or a complaint is about no line in particular. What is left is looked at
//! as a whole: numbers, files, and whether they go together.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::files::{find_addresses, named_files};
use super::position::{key_at, line_at, with_key};
use super::written::{self, Spec, one_line, refuse_toml};
use super::{KeyProblem, Refused, examine};
use super::{contents, draft};
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
    let Mended { mut problems, mut spec, mut keys } = mended(&text);
    if let (Some(rest), false) = (&spec, settings.is_empty()) {
        let table = toml::from_str(rest).map_err(|error| refuse_toml(path, rest, &error));
        let of_settings = match table.and_then(|table| written::with_settings(table, settings)) {
            Ok(text) => mended(&text),
            Err(failure) => Mended::broken(failure.to_string()),
        };
        // Its lines are nobody's.
        problems.extend(of_settings.problems.into_iter().map(|problem| Problem { line: None, ..problem }));
        // Where nothing can be made of the settings, the file is looked at without them.
        spec = of_settings.spec.or(spec);
        keys.extend(of_settings.keys);
    }
    if let Some(spec) = spec.and_then(|text| toml::from_str(&text).ok()) {
        let of_whole = problems_of_whole(path, spec);
        // A value that stands in for a wrong one is no problem.
        let own = of_whole.into_iter().filter(|one| one.key.as_ref().is_none_or(|key| !keys.contains(key)));
        problems.extend(own.map(|KeyProblem { key, words }| {
            let line = key.and_then(|key| line_of(&text, &key));
            Problem { line, words }
        }));
    }
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    problems.dedup();
    Ok(problems)
}

/// Problems of files, of numbers, and of whether they go together.
fn problems_of_whole(path: &Path, mut spec: Spec) -> Vec<KeyProblem> {
    let mut problems = Vec::new();
    for (key, failure) in find_addresses(&mut spec).1 {
        problems.push(KeyProblem::new(&key, format!("{key}: {failure}")));
    }
    for (key, file) in named_files(path, &mut spec) {
        if let Some((_, why)) = unusable(&file) {
            let words = format!("{key} = {:?}: {why}", file.display().to_string());
            problems.push(KeyProblem::new(&key, words));
        }
    }
    let of_values = draft::problems(path, &spec);
    // Only with all files is there a whole.
    let of_whole = match problems.is_empty().then(|| examine(path, &mut spec, &Here)) {
        None | Some(Ok(_)) => Vec::new(),
        Some(Err(Refused::Spec(refused))) => refused,
        Some(Err(Refused::Other(failure))) => {
            let words = failure.to_string();
            let mut found = contents::problems(path, &spec);
            if !found.iter().any(|problem| problem.words == words) {
                found.push(KeyProblem { key: None, words });
            }
            found
        }
    };
    // What needs no file is found both ways.
    let more: Vec<_> = of_values.into_iter().filter(|one| !of_whole.contains(one)).collect();
    problems.extend(of_whole);
    problems.extend(more);
    problems
}

/// Every problem of a spec's text that needs no other file to be seen.
pub fn problems_of_text(text: &str) -> Vec<Problem> {
    mended(text).problems
}

/// A text of which every mistake was taken out.
struct Mended {
    /// The mistakes.
    problems: Vec<Problem>,
    /// The rest, if that is a spec.
    spec: Option<String>,
    /// Keys whose values in the rest stand in for wrong ones, or for none.
    keys: BTreeSet<String>,
}

impl Mended {
    /// A text that is beyond that.
    fn broken(words: String) -> Self {
        Self { problems: vec![Problem { line: None, words }], spec: None, keys: BTreeSet::new() }
    }
}

/// Takes one mistake after the other out of a text: a value that is wrong is replaced by one that can be read, a key that is
/// missing is written, and whatever else is on such a line becomes a comment.
fn mended(text: &str) -> Mended {
    let (mut problems, mut keys) = (Vec::new(), BTreeSet::new());
    let (mut rest, mut written, mut stand_ins) = (text.to_owned(), Vec::new(), BTreeSet::new());
    for _ in 0..MOST_MISTAKES {
        let error = match toml::from_str::<Spec>(&rest) {
            Ok(_) => return Mended { problems, spec: Some(rest), keys },
            Err(error) => error,
        };
        let message = one_line(error.message());
        let span = error.span().map(|span| culprit(&rest, span, error.message()));
        let line = span.as_ref().map(|span| own_line(line_at(&rest, span.start), &written));
        if let Some(missing) = message.strip_prefix("missing field ") {
            let name = missing.trim_matches('`');
            let key =
                |header: Option<&str>| header.map_or(name.to_owned(), |table| format!("{table}.{name}"));
            let key = key(span.as_ref().and_then(|span| header_at(&rest, span.start)));
            // Of what was taken out that is no wonder.
            if !keys.contains(&key) {
                let table = key.rsplit_once('.').map_or(String::new(), |(table, _)| format!(" in [{table}]"));
                problems.push(Problem { line, words: message.clone() + &table });
            }
            match write_missing(&rest, span, name, error.message()) {
                Some((mended, at)) => {
                    rest = mended;
                    written.push(at);
                    stand_ins.insert(key.clone());
                    keys.insert(key);
                    continue;
                }
                None => return Mended { problems, spec: None, keys },
            }
        }
        let key = span.as_ref().and_then(|span| key_at(&rest, span.start));
        // A value that stands in is nobody's mistake.
        if !key.as_ref().is_some_and(|key| stand_ins.contains(key)) {
            let words = with_key(key.as_deref(), written::suggest(&message));
            problems.push(Problem { line, words });
        }
        let Some(span) = span else { return Mended { problems, spec: None, keys } };
        keys.extend(key.clone());
        // Without it a value is the usual one, unless there has to be some.
        let mut without = rest.clone();
        let may_be_absent = blank_lines(&mut without, span.clone()) && !is_missed(&without, key.as_deref());
        rest = match stand_in(&rest, &span, &message).filter(|_| !may_be_absent) {
            Some(mended) => {
                stand_ins.extend(key);
                mended
            }
            None if without != rest => without,
            None => return Mended { problems, spec: None, keys },
        };
    }
    Mended { problems, spec: None, keys }
}

/// Mistakes that are told of one text: each takes many looks at it, and random bytes have one on every line.
const MOST_MISTAKES: usize = 12;

/// Values that may stand in for one of the wrong type.
const STAND_INS: [&str; 6] = ["1", "0.5", "\"x\"", "true", "[]", "{}"];

/// Line of the file, of a line of a text with lines that were written into it, in this order.
fn own_line(line: usize, written: &[usize]) -> usize {
    written.iter().rev().fold(line, |line, at| if line > *at { line - 1 } else { line })
}

/// True if a text lacks a key that it has to have.
fn is_missed(text: &str, key: Option<&str>) -> bool {
    let name = key.map(|key| key.rsplit_once('.').map_or(key, |(_, name)| name));
    let error = toml::from_str::<Spec>(text).err();
    error
        .zip(name)
        .is_some_and(|(error, name)| error.message().starts_with(&format!("missing field `{name}`")))
}

/// Name of the table whose header begins at an offset.
fn header_at(text: &str, offset: usize) -> Option<&str> {
    let line = text[offset..].lines().next()?.trim().strip_prefix('[')?;
    let (name, _) = line.split_once(']')?;
    Some(name.trim_matches(['[', ' ']))
}

/// The text with a value that can be read in the place of a wrong one, if any can.
fn stand_in(text: &str, span: &Range<usize>, message: &str) -> Option<String> {
    if message.starts_with("unknown field") || message.starts_with("duplicate key") {
        return None;
    }
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    let (left, right) = text[start..end].split_once('=')?;
    // An array that goes on below cannot be told from its first line.
    if right.matches('[').count() != right.matches(']').count() {
        return None;
    }
    let variants = message.split('`').skip(3).step_by(2).map(|name| format!("\"{name}\""));
    STAND_INS.into_iter().map(str::to_owned).chain(variants).find_map(|value| {
        let mut mended = text.to_owned();
        mended.replace_range(start..end, &format!("{left}= {value}"));
        let error = toml::from_str::<Spec>(&mended).err();
        let here = |error: &toml::de::Error| {
            let span = error.span().map(|span| culprit(&mended, span, error.message()));
            span.is_none_or(|span| (start..=end).contains(&span.start))
                || one_line(error.message()) == message
        };
        (!error.is_some_and(|error| here(&error))).then_some(mended)
    })
}

/// The text with a key that is missing, below the header of its table or at the top, and that line.
fn write_missing(
    text: &str,
    span: Option<Range<usize>>,
    name: &str,
    message: &str,
) -> Option<(String, usize)> {
    let header = span.filter(|span| text[span.start..].starts_with('['));
    let at = header.map_or(Some(0), |span| Some(span.start + text[span.start..].find('\n')? + 1))?;
    STAND_INS.into_iter().find_map(|value| {
        let mut mended = text.to_owned();
        mended.insert_str(at, &format!("{name} = {value}\n"));
        let error = toml::from_str::<Spec>(&mended).err();
        let is_read = error.is_none_or(|error| {
            let span = error.span().map(|span| culprit(&mended, span, error.message()));
            let is_here = span.is_some_and(|span| line_at(&mended, span.start) == line_at(&mended, at));
            // The reader tells which variants it knows: one of them stands in next.
            error.message() != message && (!is_here || error.message().starts_with("unknown variant"))
        });
        is_read.then(|| (mended, line_at(text, at)))
    })
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
        let Mended { problems, spec, .. } = mended(WRONG);
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
        assert!(spec.is_some(), "another window stands in for it");
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

    /// Found by fuzzing: what was written for the missing tier was no tier, and was complained about without end.
    #[test]
    fn a_value_that_stands_in_is_nobodys_mistake() {
        let text = "name = \"plain\"\n[checkpoint]\npath = \"a\"\ntokenizer = \"b\"\n\
            [task]\nkind = \"perplexity\"\nwindow = 128\n\
            [strategy]\nkind = \"allocate\"\ntier = \"matrix\"ed by coordy_sequences = 256\nfit = \"law\"\n\
            [trade_off]\nkind = \"epsilon_constraint\"\n";
        let Mended { problems, spec, .. } = mended(text);
        let words = "strategy.tier: unexpected key or value, expected newline, `#`".to_owned();
        assert_eq!(problems, [Problem { line: Some(10), words }]);
        assert!(spec.is_some(), "one of the tiers stands in");
    }

    #[test]
    fn problems_of_values_are_told_although_a_file_is_missing_and_other_values_are_no_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.toml");
        let text = "name = \"PLAIN\"\nmax_candidates = 0\n[checkpoint]\npath = \"none.pth\"\n\
            [task]\nkind = \"perplexity\"\ntext = \"none.txt\"\nwindow = \"long\"\n\
            [constraints]\nmin_saving = 2.0\n[device.energy]\ndram_pj = -1.0\n[run]\nshards = 0\n";
        std::fs::write(&path, text).unwrap();
        let found =
            problems(&path, &["max_candidates=none".to_owned(), "task.windows=many".to_owned()]).unwrap();
        let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
        let words = found.iter().map(|problem| problem.words.clone()).collect::<Vec<_>>().join("\n");
        for part in [
            "name = \"PLAIN\"",
            "checkpoint.path",
            "task.text",
            "task.window: invalid type: string \"long\"",
            "min_saving = 2",
            "device.energy.dram_pj = -1",
            "run.shards = 0",
            "max_candidates: invalid type: string \"none\"",
            "task.windows: invalid type: string \"many\", expected a whole number",
        ] {
            assert!(words.contains(part), "{part}:\n{words}");
        }
        let expected = [1, 4, 7, 8, 10, 12, 14].map(Some);
        assert_eq!(lines[..7], expected, "{words}");
        assert_eq!(lines[7..], [None, None], "of the command line, and of nothing that stands in:\n{words}");
    }

    #[test]
    fn files_that_cannot_be_read_are_all_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.toml");
        let text = "name = \"plain\"\n[checkpoint]\npath = \"m.pth\"\ntokenizer = \"t.json\"\n\
            [task]\nkind = \"perplexity\"\ntext = \"text.txt\"\nwindow = 16\n\
            [tasks.of-film]\nkind = \"accuracy\"\nlabelled = \"film.tsv\"\n";
        let bytes = [
            ("spec.toml", text),
            ("m.pth", "none"),
            ("t.json", "{"),
            ("text.txt", "a text"),
            ("film.tsv", "a\tb\tc"),
        ];
        for (name, bytes) in bytes {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let found = problems(&path, &[]).unwrap();
        let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [3, 4, 11].map(Some), "{found:?}");
        for (problem, file) in found.iter().zip(["m.pth: ", "t.json: ", "film.tsv: line 1 has 3 columns"]) {
            assert!(problem.words.contains(file), "{file}: {found:?}");
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_one_problem() {
        let Mended { problems, spec, .. } = mended("name = \n");
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
