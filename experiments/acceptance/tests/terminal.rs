//! `qslm watch` and `qslm list` on terminals: of 80 columns and 24 lines, and of 200 and 50.

use qslm_acceptance::terminal::Terminal;
use qslm_acceptance::{Cluster, pictures, program, succeed};

/// Name that no terminal has room for.
const LONG: &str = "a-name-that-is-longer-than-anybody-would-want-to-type-twice";

#[test]
fn the_live_view_fits_a_small_terminal_and_a_large_one_and_leaves_them_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), true);
    let spec = "experiments/specs/plain.toml";
    let name = format!("name={LONG}");
    let id = succeed(&["submit", spec, "--set", &name, "--priority", "7", "--coordinator", &cluster.url]);
    let end = &id.trim()[id.trim().len() - 5..];
    let watch = ["watch", "--coordinator", &cluster.url];
    let mut small = Terminal::start(&program("qslm"), &watch, 24, 80);
    let mut large = Terminal::start(&program("qslm"), &watch, 50, 200);
    // Everything that the view is for, at once: a long name cuts off neither what happened nor the numbers.
    let words = [
        end,
        "running",
        "matrix",
        "tokens/s",
        "bench-1",
        "events",
        "\u{2500} front",
        "\u{2500} bound",
        "\u{2588} chosen",
        "left",
        "priority 7",
        "% saved at +",
        "q leave",
    ];
    for (terminal, columns, file) in [(&mut small, 80, "watch.txt"), (&mut large, 200, "watch-large.txt")] {
        terminal.wait_until(|screen| words.iter().all(|word| screen.contains(word)));
        let screen = terminal.screen();
        assert!(screen.lines().all(|line| line.chars().count() <= columns), "{screen}");
        assert!(!screen.contains("-0.00") && !screen.contains("-0.0 "), "{screen}");
        std::fs::write(pictures().join(file), &screen).unwrap();
    }
    assert!(large.screen().contains("priority"), "a wide list has it as a column");
    for mut terminal in [small, large] {
        terminal.press("q");
        assert_eq!(terminal.finish(), (0, true));
    }
    // The list is as wide as its terminal, and whole where nobody looks.
    let list = ["list", "--coordinator", &cluster.url];
    let mut narrow = Terminal::start(&program("qslm"), &list, 24, 80);
    narrow.wait_until(|screen| screen.contains("loss %") && screen.contains(end));
    assert!(!narrow.screen().contains(LONG));
    let lines = narrow.screen().lines().filter(|line| line.contains(end)).count();
    assert_eq!(lines, 1, "{}", narrow.screen());
    assert!(succeed(&list).contains(LONG));
}

#[test]
fn watching_one_experiment_ends_with_it_and_prints_its_front() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), true);
    let set = ["--set", "task.windows=5", "--set", "name=short"];
    let submit = ["submit", "experiments/specs/plain.toml", "--coordinator", &cluster.url];
    let id = succeed(&[&submit[..], &set].concat()).trim().to_owned();
    let mut terminal =
        Terminal::start(&program("qslm"), &["watch", &id, "--coordinator", &cluster.url], 60, 120);
    terminal.wait_until(|screen| screen.contains("Chosen:") && screen.contains("hypervolume"));
    assert_eq!(terminal.finish(), (0, true));
}

#[test]
fn ctrl_c_leaves_with_130_and_a_terminal_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), false);
    let mut terminal = Terminal::start(&program("qslm"), &["watch", "--coordinator", &cluster.url], 24, 80);
    terminal.wait_until(|screen| screen.contains("No experiments yet"));
    terminal.press("\x03");
    assert_eq!(terminal.finish(), (130, true));
}
