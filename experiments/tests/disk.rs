//! Disks that fail: full, with damaged input files, with stores that somebody removed. Through the real programs.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{QSLM, Running, SPEC, TINY, program, qslm, root, succeed};

fn run(store: &Path, more: &[&str]) -> Vec<String> {
    let store = ["--store", store.to_str().unwrap(), "--workers", "1", "--output", "json"];
    [&["run", SPEC], &TINY[..], &store, more].concat().into_iter().map(str::to_owned).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A coordinator, and its address.
fn coordinator(mut command: Command, store: &Path) -> (Running, String) {
    command.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]).arg(store);
    let mut coordinator = Running::start(&mut command);
    let url = coordinator.url();
    (coordinator, url)
}

fn submit(url: &str, name: &str) -> Output {
    let name = format!("name={name}");
    qslm(&[&["submit", SPEC, "--coordinator", url, "--set", &name], &TINY[..]].concat())
}

/// The one line that a program said that failed.
fn line(output: &Output, code: i32) -> String {
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    let line = errors.lines().last().unwrap_or_default().to_owned();
    let all = errors.lines().filter(|line| line.starts_with("error: "));
    assert!(line.starts_with("error: ") && all.count() == 1 && !errors.contains("panicked"), "{errors}");
    line
}

/// The one line that a coordinator ends with.
fn end(mut coordinator: Running) -> String {
    let (code, _, errors) = coordinator.finish();
    assert_eq!(code, Some(1), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    let line = errors.lines().last().unwrap_or_default().to_owned();
    assert!(line.starts_with("error: "), "{errors}");
    line
}

/// Path of an artifact of a store: the file at `path` of the repository.
fn artifact(store: &Path, path: &str) -> PathBuf {
    let hash = qslm_common::hash::ContentHash::of(&std::fs::read(root().join(path)).unwrap());
    PathBuf::from(format!("{}.artifacts", store.display())).join(hash.to_string())
}

#[test]
fn damaged_and_missing_input_files_are_told_apart_and_mended_by_whoever_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let path = store.to_str().unwrap();
    let whole = run(&store, &[]);
    let front = succeed(&words(&whole));
    let check = || qslm(&["db", "check", path, "--output", "json"]);
    let report = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let sound = check();
    assert_eq!((sound.status.code(), report(&sound)["artifacts"]["intact"].as_u64()), (Some(0), Some(3)));

    let checkpoint = artifact(&store, "experiments/models/wikitext2-xs.safetensors");
    let tokenizer = artifact(&store, "experiments/models/tokenizer.json");
    let text = artifact(&store, "experiments/data/encyclopaedia.txt");
    let stray = checkpoint.with_file_name("notes");
    let damage = || {
        let mut bytes = std::fs::read(&checkpoint).unwrap();
        bytes[100_000] ^= 1;
        std::fs::write(&checkpoint, bytes).unwrap();
        let cut = std::fs::read(&tokenizer).unwrap();
        std::fs::write(&tokenizer, &cut[..cut.len() / 2]).unwrap();
        std::fs::remove_file(&text).unwrap();
    };
    damage();
    std::fs::write(&stray, "somebody's").unwrap();
    let checked = check();
    let said = line(&checked, 1);
    assert!(said.contains("3 input files are damaged or missing: ") && said.contains("plain-"), "{said}");
    let report_of = report(&checked);
    let state = |path: &Path| {
        let others = report_of["artifacts"]["others"].as_array().unwrap();
        let found = others.iter().find(|other| other["path"] == path.to_str().unwrap());
        found.map(|found| found["state"].clone())
    };
    let states = [&checkpoint, &tokenizer, &text, &stray].map(|path| state(path));
    assert_eq!(states, ["damaged", "damaged", "missing", "stray"].map(|state| Some(json!(state))));
    let table = String::from_utf8(qslm(&["db", "check", path]).stdout).unwrap();
    assert!(table.contains("intact input files") && table.contains(text.to_str().unwrap()), "{table}");

    // Another experiment on the same files, and the same one, which has nothing left to measure.
    succeed(&words(&run(&store, &["--set", "space.bits=[6]"])));
    assert!(check().status.success(), "a stray file is no fault");
    damage();
    assert_eq!(succeed(&words(&whole)), front);
    let mended = check();
    assert_eq!((mended.status.code(), report(&mended)["artifacts"]["intact"].as_u64()), (Some(0), Some(3)));
}

/// A command that finds `folder` on a disk of so many KiB, with the input files of `inputs` if there are any, and the
/// system's words for a full disk. Where none can be mounted, no file may take more than some KiB.
fn on_a_disk_of(kib: u64, folder: &Path, inputs: Option<&Path>, program: &Path) -> (Command, &'static str) {
    const MOUNT: &str = r#"mount -t tmpfs -o size="$0"k tmpfs "$1" || exit"#;
    // A store that was just made has room for a while.
    const LIMIT: &str = r#"trap '' XFSZ; ulimit -f $((2 * $0 + 80))"#;
    const START: &str = r#"[ -z "$2" ] || ln -sf "$2" "$1/s.redb.artifacts"; shift 2; exec "$@""#;
    let inputs = inputs.unwrap_or(Path::new(""));
    let shell = |mut command: Command, script: &str| {
        command.args(["-c", &format!("{script}\n{START}"), &kib.to_string()]).arg(folder).arg(inputs);
        command
    };
    for flags in [&["--mount"][..], &["--mount", "--map-root-user"]] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(flags).arg("sh");
            shell(command, MOUNT)
        };
        if unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
            let mut command = unshare();
            command.arg(program);
            return (command, "No space left on device");
        }
    }
    let mut command = shell(Command::new("sh"), LIMIT);
    command.arg(program);
    (command, "File too large")
}

/// The input files of a store, somewhere else.
fn inputs(folder: &Path) -> PathBuf {
    let store = folder.join("elsewhere.redb");
    succeed(&words(&run(&store, &[])));
    folder.join("elsewhere.redb.artifacts")
}

#[test]
fn a_run_on_a_full_disk_names_what_could_not_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = inputs(folder.path());
    // Not even a store, no input file, no result.
    for (kib, inputs) in [(4, None), (64, None), (48, Some(&*inputs))] {
        let disk = folder.path().join(kib.to_string());
        std::fs::create_dir(&disk).unwrap();
        let store = disk.join("s.redb");
        let checkpoint = artifact(&store, "experiments/models/wikitext2-xs.safetensors");
        let path = if kib == 64 { &checkpoint } else { &store };
        let (mut command, words) = on_a_disk_of(kib, &disk, inputs, Path::new(QSLM));
        let output = command.args(run(&store, &[])).current_dir(root()).output().unwrap();
        let said = line(&output, 1);
        assert!(said.contains(&format!("{}: ", path.display())) && said.contains(words), "{kib}: {said}");
    }
}

#[test]
fn a_coordinator_on_a_full_disk_ends_and_tells_whoever_calls() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = inputs(folder.path());
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let store = disk.join("s.redb");
    let (command, words) = on_a_disk_of(48, &disk, Some(&inputs), &program("qslm-coordinator"));
    let (served, url) = coordinator(command, &store);
    let mut outputs = (0..50).map(|number| submit(&url, &format!("number-{number}")));
    let refused = outputs.find(|output| !output.status.success()).unwrap();
    let said = line(&refused, 5);
    let words = format!("{}: I/O error: {words}", store.display());
    assert!(said.contains("the coordinator failed: ") && said.contains(&words), "{said}");
    let said = end(served);
    assert!(said.contains(&words), "{said}");
}

#[test]
fn a_store_that_is_taken_away_ends_its_coordinator_before_anything_is_acknowledged() {
    type Take = fn(&Path);
    let remove: Take = |store| std::fs::remove_file(store).unwrap();
    let replace: Take = |store| {
        let other = store.with_extension("other");
        std::fs::copy(store, &other).unwrap();
        std::fs::rename(&other, store).unwrap();
    };
    // Also where nothing new has to be written.
    let cases = [(remove, "removed", "first"), (replace, "replaced by another file", "second")];
    for (take, how, name) in cases {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("s.redb");
        let (served, url) = coordinator(Command::new(program("qslm-coordinator")), &store);
        assert!(submit(&url, "first").status.success());
        take(&store);
        let words = format!("{}: the store was {how} while it was open", store.display());
        let said = line(&submit(&url, name), 5);
        assert!(said.contains("the coordinator failed: ") && said.contains(&words), "{said}");
        let said = end(served);
        assert!(said.contains(&words), "{said}");
    }
}

#[test]
fn a_store_that_is_taken_away_from_a_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let more = ["--set", "task.windows=64", "--set", "space.bits=[8, 6, 4, 3]", "-vv"];
    let mut running = Running::start(Command::new(QSLM).args(run(&store, &more)));
    running.wait_for("recorded");
    std::fs::remove_file(&store).unwrap();
    let said = end(running);
    let words = format!("{}: the store was removed while it was open", store.display());
    assert!(said.contains(&words), "{said}");
}
