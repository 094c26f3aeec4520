//! `qslm watch` on a terminal of 80 columns and 24 lines.

use qslm_acceptance::terminal::Terminal;
use qslm_acceptance::{Cluster, pictures, program, succeed};

#[test]
fn the_live_view_fits_a_small_terminal_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), true);
    let spec = "experiments/specs/plain.toml";
    let id = succeed(&["submit", spec, "--coordinator", &cluster.url]).trim().to_owned();
    let watch = ["watch", "--coordinator", &cluster.url];
    let mut terminal = Terminal::start(&program("qslm"), &watch, 24, 80);
    // Everything that the view is for, at once.
    let words = [
        &id[..],
        "running",
        "matrix",
        "tokens/s",
        "bench-1",
        "events",
        "\u{2588} chosen",
        "begins",
        "q leave",
    ];
    terminal.wait_until(|screen| words.iter().all(|word| screen.contains(word)));
    let screen = terminal.screen();
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    std::fs::write(pictures().join("watch.txt"), &screen).unwrap();
    terminal.press("q");
    assert_eq!(terminal.finish(), (0, true));
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
