//! The help of every command.
#![allow(clippy::unwrap_used)]

mod support;

use support::{qslm, succeed};

/// The names below `Commands:` of a help text.
fn commands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// Looks at a command and at those below it; gives how many have something to do themselves.
fn look(path: &[&str]) -> usize {
    let help = succeed(&[path, &["--help"]].concat());
    let below = commands(&help);
    if below.is_empty() {
        // Of several verbs below one name, the name has the examples.
        let parents = (1..=path.len()).map(|depth| succeed(&[&path[..depth], &["--help"]].concat()));
        assert!(
            parents.into_iter().any(|help| help.contains("Example")),
            "{path:?} has no examples:\n{help}"
        );
    }
    below.iter().map(|name| look(&[path, &[name.as_str()]].concat())).sum::<usize>()
        + usize::from(below.is_empty())
}

#[test]
fn every_command_shows_examples() {
    assert!(look(&[]) >= 30, "{} commands", look(&[]));
}

#[test]
fn a_verb_that_is_nearly_right_gets_a_suggestion() {
    let output = qslm(&["exprt", "quickstart"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("'export'"), "{said}");
}
