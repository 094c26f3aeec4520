//! Files: what a command reads stays as it is, what it writes is whole or not there, what is broken is told in one line.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qslm_coordinator::store::{Contents, Store};
use serde_json::{Value, json};
use support::{QSLM, SPEC, TINY, program, qslm, refused, root, succeed};

const MODEL: &str = "experiments/models/wikitext2-xs.safetensors";
const TOKENIZER: &str = "experiments/models/tokenizer.json";
const TEXT: &str = "experiments/data/encyclopaedia.txt";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The arguments that run it, with more settings on top.
fn run<'a>(store: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", SPEC, "--quiet", "--store", text(store)], &TINY[..], more].concat()
}

/// A folder with a finished experiment in `s.redb`.
struct Work {
    folder: tempfile::TempDir,
    store: PathBuf,
    front: PathBuf,
}

impl Work {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("s.redb");
        let printed = succeed(&run(&store, &[]));
        let front = printed.lines().find_map(|line| line.strip_prefix("Front:   ")).unwrap();
        Self { store, front: front.into(), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `what` is a command without its source.
    fn with_store<'a>(&'a self, what: &[&'a str]) -> Vec<&'a str> {
        [what, &["--store", text(&self.store)]].concat()
    }
}

/// Every file below a folder with its content and the time of its last change.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = std::fs::metadata(&path).unwrap();
        let content = if about.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
        if about.is_dir() {
            found.extend(snapshot(&path));
        }
        found.insert(path, (about.mtime(), about.mtime_nsec(), content));
    }
    found
}

/// A name for a file that is not the file's.
fn linked(file: &Path, name: &str) -> PathBuf {
    let link = file.with_file_name(format!("{name}-{}", file.file_name().unwrap().to_str().unwrap()));
    match name {
        "soft" => symlink(file, &link).unwrap(),
        _ => std::fs::hard_link(file, &link).unwrap(),
    }
    link
}

#[test]
fn no_output_goes_onto_what_is_read_by_whatever_name() {
    let work = Work::new();
    let (model, spec) = (work.at("model.safetensors"), work.at("spec.toml"));
    std::fs::copy(root().join(MODEL), &model).unwrap();
    std::fs::copy(root().join(SPEC), &spec).unwrap();
    let words = work.at("text.txt");
    std::fs::copy(root().join(TEXT), &words).unwrap();
    let artifacts = work.at("s.redb.artifacts");
    let artifact = std::fs::read_dir(&artifacts).unwrap().next().unwrap().unwrap().path();
    let links: Vec<PathBuf> =
        ["soft", "hard"].iter().flat_map(|name| [linked(&work.store, name), linked(&model, name)]).collect();
    let before = snapshot(work.folder.path());

    let refuse = |arguments: &[&str], out: &Path, words: &str| {
        for force in [&[][..], &["--force"]] {
            let said = refused(4, &[arguments, &[text(out)], force].concat());
            assert!(said.contains(text(out)) && said.contains(words), "{said}");
        }
    };
    let report = ["report", "plain", "--store", text(&work.store), "--out"];
    for out in [&work.store, &links[0], &links[2], &artifact] {
        refuse(&report, out, "is read by this command");
        refuse(&["export", "plain", "--store", text(&work.store), "--out"], out, "is read by this command");
    }
    for out in [&work.store, &links[0], &links[2]] {
        refuse(&["apply", "--checkpoint", text(&model), "--bits", "4", "--out"], out, "is a store");
    }
    for format in ["csv", "jsonl", "parquet"] {
        let export = ["export", "plain", "--store", text(&work.store), "--format", format, "--out"];
        refuse(&export, &work.store, "is read by this command");
        refuse(&export, &artifact, "is read by this command");
        refuse(&export, &model, "is a checkpoint");
    }
    for out in [&model, &links[1], &links[3]] {
        refuse(
            &["apply", "--checkpoint", text(&model), "--bits", "4", "--out"],
            out,
            "is read by this command",
        );
    }
    let apply = ["apply", "--checkpoint", text(&model), "--front", text(&work.front), "--out"];
    refuse(&apply, &work.front, "is read by this command");
    let data = ["--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", text(&words)];
    refuse(
        &[&["sensitivity", "--bits", "4"], &data[..], &["--csv"]].concat(),
        &words,
        "is read by this command",
    );
    refuse(&[&["init"], &data[..], &["--out"]].concat(), &work.store, "is ");
    // What nobody reads now may be read another time.
    let said = refused(4, &[&report[..], &[text(&spec), "--format", "html"]].concat());
    assert!(said.contains("spec.toml: is there already and is no report; --force replaces it"), "{said}");
    assert!(
        refused(4, &["db", "backup", text(&work.store), "--to", text(&model)]).contains("is there already")
    );
    assert!(refused(1, &run(&model, &[])).contains("model.safetensors: "));
    assert!(refused(1, &run(&spec, &[])).contains("spec.toml: "));
    let into = ["reconcile", text(&work.store), "--into", text(&model)];
    assert!(refused(1, &into).contains("model.safetensors: "));
    assert!(snapshot(work.folder.path()) == before, "something was changed");

    // A plot is no report.
    let plots = work.at("plots");
    let out = plots.join("front.svg");
    let both = [&report[..], &[text(&out), "--format", "html", "--plots", text(&plots)]].concat();
    assert!(refused(4, &both).contains("is the plot"));
    succeed(&[&report[..], &[text(&spec), "--format", "html", "--force"]].concat());
}

#[test]
fn what_a_command_wrote_before_is_replaced_and_streams_are_written_to() {
    let work = Work::new();
    let (page, link, packed) = (work.at("page.html"), work.at("link.html"), work.at("packed.safetensors"));
    std::fs::write(&page, "").unwrap();
    std::fs::set_permissions(&page, PermissionsExt::from_mode(0o600)).unwrap();
    symlink("page.html", &link).unwrap();
    for out in [&page, &page, &link] {
        succeed(&work.with_store(&["report", "plain", "--out", text(out)]));
    }
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));
    assert_eq!(std::fs::metadata(&page).unwrap().mode() & 0o777, 0o600);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let plots = work.at("plots");
    for _ in 0..2 {
        succeed(&[
            "apply",
            "--force",
            "--checkpoint",
            MODEL,
            "--front",
            text(&work.front),
            "--out",
            text(&packed),
        ]);
        let arguments = ["report", "plain", "--out", "-", "--scale", "1", "--plots", text(&plots)];
        succeed(&work.with_store(&arguments));
        for name in ["rows.csv", "rows.jsonl", "rows.parquet", "rows.PARQUET"] {
            succeed(&work.with_store(&["export", "plain", "--out", text(&work.at(name))]));
        }
    }
    assert!(std::fs::read(work.at("rows.PARQUET")).unwrap().starts_with(b"PAR1"));

    let rows = std::fs::read_to_string(work.at("rows.csv")).unwrap();
    for out in ["-", "/dev/stdout"] {
        assert_eq!(succeed(&work.with_store(&["export", "plain", "--out", out])), rows);
    }
    // Into a file that somebody else has open, as a shell does.
    let whole = work.at("whole");
    let command = format!(
        "{{ echo before; {QSLM} report plain --store {} --out /dev/stdout; }} > {}",
        text(&work.store),
        text(&whole)
    );
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    let whole = std::fs::read_to_string(&whole).unwrap();
    assert!(whole.starts_with("before\n<!doctype html>") && whole.ends_with("/dev/stdout\n"));
    let pipe = work.at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = Command::new("cat");
    let reader = reader.arg(&pipe).stdout(std::process::Stdio::piped()).spawn().unwrap();
    succeed(&work.with_store(&["export", "plain", "--out", text(&pipe)]));
    assert_eq!(reader.wait_with_output().unwrap().stdout, rows.as_bytes());
    assert!(std::fs::metadata(&pipe).unwrap().mode() & 0o170_000 == 0o010_000, "still a pipe");
}

#[test]
fn the_end_of_a_name_says_the_form_and_one_that_says_nothing_is_refused() {
    let work = Work::new();
    for name in ["x.csv.gz", "x.xlsx", "x.txt"] {
        let out = work.at(name);
        let said = refused(2, &work.with_store(&["export", "plain", "--out", text(&out)]));
        assert!(said.contains("expected .csv, .jsonl, .ndjson, .parquet, or give --format"), "{said}");
        let said = refused(2, &work.with_store(&["report", "plain", "--out", text(&out)]));
        assert!(said.contains("expected .html, .htm, .json, or give --format"), "{said}");
        assert!(!out.exists());
    }
    let (document, rows) = (work.at("x.JSON"), work.at("rows"));
    succeed(&work.with_store(&["report", "plain", "--out", text(&document)]));
    let document: Value = serde_json::from_slice(&std::fs::read(document).unwrap()).unwrap();
    assert_eq!(document["state"], "finished");
    succeed(&work.with_store(&["export", "plain", "--out", text(&rows)]));
    assert!(std::fs::read_to_string(&rows).unwrap().starts_with("stage,candidate,"));
    // Rows in another form are told from their first byte.
    let into = ["--into", text(&work.store), "--experiment", "plain"];
    let said = refused(2, &[&["import", "results", text(&rows)], &into[..]].concat());
    assert!(said.contains("rows: no lines of JSON, which `qslm export --format jsonl` writes"), "{said}");
}

/// A small disk; `None` where this process may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(folder);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let work = Work::new();
    let folder = work.at("outputs");
    let disk = SmallDisk::mount(&folder);
    let store = ["--store", text(&work.store)];
    let outputs = ["p.html", "r.parquet", "m.safetensors", "s.toml"].map(|name| folder.join(name));
    let [page, rows, packed, spec] = outputs.each_ref().map(|path| text(path));
    let data = ["--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", TEXT];
    let commands: [(&str, Vec<&str>); 4] = [
        (page, [&["report", "plain", "--out", page], &store[..]].concat()),
        (rows, [&["export", "plain", "--out", rows], &store[..]].concat()),
        (packed, vec!["apply", "--checkpoint", MODEL, "--bits", "4", "--out", packed]),
        (spec, [&["init"], &data[..], &["--out", spec]].concat()),
    ];
    for (out, arguments) in &commands {
        // A file of more than a block or none is too large; the signal that says so is ignored, as programs do that
        // want to hear of it.
        let blocks = if *out == spec { "0" } else { "2" };
        let limited = |arguments: &[&str]| -> Output {
            let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh", QSLM]).args(arguments);
            command.current_dir(root()).output().unwrap()
        };
        let check = |output: Output, how: &str| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{how} {arguments:?}: {said}");
            assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{how}: {said}");
            assert!(said.contains(out), "{how}: {said}");
        };
        check(limited(arguments), "limit");
        assert!(snapshot(&folder).is_empty(), "{arguments:?} left {:?}", snapshot(&folder).keys());
        if disk.is_some() && *out != spec {
            check(qslm(arguments), "disk");
            assert!(snapshot(&folder).is_empty(), "{arguments:?} left {:?}", snapshot(&folder).keys());
        }
    }
    // What is there already stays.
    std::fs::write(page, "<!doctype html>before").unwrap();
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", QSLM]).args(&commands[0].1).current_dir(root());
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(page).unwrap(), "<!doctype html>before");
    assert_eq!(snapshot(&folder).len(), 1);
}

/// Commands that only read, each with its arguments before the store's.
const READERS: [&[&str]; 6] = [
    &["list", "--store"],
    &["get", "plain", "--store"],
    &["front", "plain", "--output", "json", "--store"],
    &["export", "plain", "--format", "jsonl", "--store"],
    &["report", "plain", "--format", "json", "--out", "-", "--store"],
    &["db", "check"],
];

#[test]
fn reading_changes_nothing_and_needs_no_permission_to_write() {
    let work = Work::new();
    let folder = work.folder.path();
    let answers: Vec<String> =
        READERS.iter().map(|reader| succeed(&[reader, &[text(&work.store)][..]].concat())).collect();
    // Alone, without the folder beside it, and while nobody has closed it.
    let alone = work.at("alone");
    std::fs::create_dir(&alone).unwrap();
    let open = Store::open(&work.store).unwrap();
    std::fs::copy(&work.store, alone.join("open.redb")).unwrap();
    for reader in READERS {
        let said = refused(4, &[reader, &[text(&work.store)][..]].concat());
        assert!(said.contains("in use by another process"), "{said}");
    }
    drop(open);
    std::fs::copy(&work.store, alone.join("closed.redb")).unwrap();

    let modes = [(folder, 0o555), (&*alone, 0o555), (&*work.store, 0o444)];
    let modes = modes.map(|(path, mode)| (path.to_owned(), mode));
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    modes.iter().for_each(|(path, mode)| set(path, *mode));
    // Modes are no bar to root, but a disk that takes no writes is.
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let mounted = mount(&["--bind", text(folder), text(folder)]);
    assert!(!mounted || mount(&["-o", "remount,ro,bind", text(folder)]));
    let before = snapshot(folder);
    let outcome = std::panic::catch_unwind(|| {
        for (reader, answer) in READERS.iter().zip(&answers) {
            let again = succeed(&[reader, &[text(&work.store)][..]].concat());
            // How long ago something was differs.
            let exact = ["front", "export"].contains(&reader[0]);
            assert!(!exact || again == *answer, "{reader:?}");
            for name in ["open.redb", "closed.redb"] {
                // That the input files are not there is for `db check` to say.
                let code = i32::from(reader[0] == "db");
                let read = qslm(&[reader, &[text(&alone.join(name))][..]].concat());
                assert_eq!(read.status.code(), Some(code), "{read:?}");
            }
        }
        let open = qslm(&["db", "check", text(&alone.join("open.redb"))]);
        assert!(String::from_utf8_lossy(&open.stdout).contains("did not close it"), "{open:?}");
        assert!(snapshot(folder) == before, "something was changed");
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy.redb");
        succeed(&["db", "backup", text(&work.store), "--to", text(&copy)]);
        succeed(&["reconcile", text(&work.store), "--into", text(&copy)]);
        succeed(&["front", "plain", "--store", text(&copy)]);
        assert!(snapshot(folder) == before, "something was changed");
    });
    if mounted {
        assert!(Command::new("umount").arg("-l").arg(folder).status().unwrap().success());
    }
    set(folder, 0o755);
    set(&alone, 0o755);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_damaged_store_is_told_in_one_line_and_stays_as_it_is() {
    let work = Work::new();
    let whole = std::fs::read(&work.store).unwrap();
    let (mut told, elsewhere) = (0, work.at("elsewhere.redb"));
    // Without its first page it is no store at all, and called so.
    for page in 1..whole.len() / 4096 {
        let mut broken = whole.clone();
        broken[page * 4096..(page + 1) * 4096].fill(0);
        std::fs::write(&work.store, &broken).unwrap();
        let check = ["db", "check", text(&work.store)];
        if qslm(&check).status.success() {
            // Nothing was there.
            continue;
        }
        told += 1;
        refused(1, &check);
        // Every command opens stores in one of two ways, so a few pages are enough for all of them.
        if told <= 3 {
            let readers = READERS.iter().map(|reader| [reader, &[text(&work.store)][..]].concat());
            let writers = [
                run(&work.store, &[]),
                vec!["db", "compact", text(&work.store)],
                vec!["db", "backup", text(&work.store), "--to", text(&elsewhere)],
                vec!["reconcile", text(&work.store), "--into", text(&elsewhere)],
            ];
            for arguments in readers.chain(writers) {
                let said = refused(1, &arguments);
                assert!(said.contains("the store is damaged ("), "{arguments:?}: {said}");
            }
            let mut coordinator = Command::new(program("qslm-coordinator"));
            coordinator.args(["--listen", "127.0.0.1:0", "--web", "off", "--store"]).arg(&work.store);
            let output = coordinator.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
        }
        assert!(std::fs::read(&work.store).unwrap() == broken, "page {page}: something was changed");
    }
    assert!(told > 3 && !elsewhere.exists(), "{told} damaged pages");
}

#[test]
fn results_of_another_experiment_are_refused_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (large, small, file) = (at("large.redb"), at("small.redb"), at("rows.jsonl"));
    succeed(&run(&large, &["--set", "task.windows=6"]));
    succeed(&run(&small, &[]));
    let export = |store: &Path| {
        let text = succeed(&["export", "plain", "--store", text(store), "--format", "jsonl"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let (rows, own) = (export(&large), export(&small));
    assert_eq!((&rows[0]["tokens"], &own[0]["tokens"]), (&json!(192), &json!(64)));
    assert_eq!(own[0]["protocol"], "perplexity window=32 stride=32 windows=2");
    assert_eq!(own[0]["engine"], "3 native");
    let import = |store: &Path, rows: &[Value]| {
        std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        ["import", "results", text(&file), "--into", text(store), "--experiment", "plain"].map(str::to_owned)
    };
    let refuse = |store: &Path, rows: &[Value], words: &str| {
        let arguments = import(store, rows);
        let said = refused(2, &arguments.each_ref().map(String::as_str));
        assert!(said.contains(words), "{words:?}: {said}");
    };
    let take = |store: &Path, rows: &[Value]| {
        let arguments = import(store, rows);
        succeed(&arguments.each_ref().map(String::as_str))
    };
    // An export of an earlier version does not say where it is from.
    let names = ["checkpoint", "data", "protocol", "engine"];
    let earlier = |rows: &[Value]| -> Vec<Value> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            names.iter().for_each(|name| drop(row.as_object_mut().unwrap().remove(*name)));
        }
        rows
    };
    // The same experiment without its results, with its input files and without.
    let (empty, bare) = (at("empty.redb"), at("bare.redb"));
    for store in [&empty, &bare] {
        let contents = Store::open(&small).unwrap().contents().unwrap();
        let emptied = Contents { measurements: BTreeMap::new(), ..contents };
        Store::open(store).unwrap().replace(&emptied).unwrap();
    }
    std::fs::create_dir(at("empty.redb.artifacts")).unwrap();
    for entry in std::fs::read_dir(at("small.redb.artifacts")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, at("empty.redb.artifacts").join(path.file_name().unwrap())).unwrap();
    }

    let protocol = "line 1: protocol = \"perplexity window=32 stride=32 windows=6\": the experiment has";
    [&small, &empty, &bare].iter().for_each(|store| refuse(store, &rows, protocol));
    // One line among good ones is enough, and is named.
    let mixed = [&own[..2], &rows[2..3]].concat();
    refuse(&empty, &mixed, "line 3: protocol = ");
    for name in names {
        let mut row = own[1].clone();
        row[name] = json!("another");
        refuse(&empty, &[own[0].clone(), row], &format!("line 2: {name} = \"another\": the experiment has"));
    }
    // The counts tell as well: by what is on record, by the data, and by what no data give.
    refuse(&small, &earlier(&rows), "line 1: tokens = 192: this protocol gives 1 to 64");
    for (key, value) in [("tokens", 63), ("positions", 63)] {
        let mut other = earlier(&own);
        other.iter_mut().for_each(|row| {
            row["tokens"] = json!(63);
            row[key] = json!(value);
        });
        refuse(&small, &other, "line 1: tokens = 63: the float model on record has 64");
        refuse(&empty, &other, "line 1: tokens = 63: the experiment's data give 64");
    }
    let mut other = earlier(&own[..2]);
    other[1]["tokens"] = json!(63);
    refuse(&bare, &other, "line 2: tokens = 63: line 1 has 64");
    // Nothing was taken in, and its own are.
    assert_eq!(Store::open(&empty).unwrap().contents().unwrap().measurements.len(), 0);
    assert_eq!(take(&bare, &earlier(&own)), format!("{} new results, 0 known\n", own.len()));
    assert_eq!(take(&empty, &own), format!("{} new results, 0 known\n", own.len()));
    let fronts = [&small, &empty].map(|store| succeed(&["front", "plain", "--store", text(store)]));
    assert_eq!(fronts[0], fronts[1]);
}

#[test]
fn a_folder_where_a_file_is_expected_is_called_one() {
    let folder = tempfile::tempdir().unwrap();
    let (here, store) = (text(folder.path()), folder.path().join("s.redb"));
    let data = ["--checkpoint", MODEL, "--tokenizer", TOKENIZER, "--text", TEXT, "--windows", "1"];
    let with = |flag: &str| -> Vec<&str> {
        let at = data.iter().position(|word| *word == flag).unwrap();
        [&data[..=at], &[here], &data[at + 2..]].concat()
    };
    let mut commands: Vec<Vec<&str>> = ["--checkpoint", "--tokenizer", "--text"]
        .iter()
        .flat_map(|flag| [[&["eval"][..], &with(flag)].concat(), [&["init"][..], &with(flag)[..6]].concat()])
        .collect();
    commands.extend([
        vec!["list", "--store", here],
        vec!["db", "check", here],
        vec!["inspect", here],
        vec!["run", here],
        vec!["validate", here],
        vec!["config", "show", "--config", here],
        vec!["import", "results", here, "--into", here, "--experiment", "x"],
        vec!["apply", "--checkpoint", MODEL, "--front", here, "--out", text(&store)],
    ]);
    for arguments in commands {
        let said = refused(1, &arguments);
        // Of a checkpoint's folder it is told which file of it to name.
        let words = ["is a folder, not a file", "not a checkpoint: it is a folder: name its file"];
        assert!(
            words.iter().any(|words| said.contains(&format!("{here}: {words}"))),
            "{arguments:?}: {said}"
        );
    }
    let spec = format!("task.text={here}");
    let said = qslm(&["validate", SPEC, "--set", &spec]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("is a folder, not a file"), "{said:?}");
    assert!(refused(3, &["inspect", "no/such.pth"]).contains("no/such.pth: no such file"));
    assert!(refused(3, &["inspect", "Cargo.toml/x"]).contains("Cargo.toml/x: no such file"));
    // A file where a folder is expected.
    let plots = ["report", "plain", "--plots", "Cargo.toml", "--store", text(&store)];
    succeed(&run(&store, &[]));
    assert!(refused(1, &plots).contains("Cargo.toml: is no folder"));
}

#[test]
fn a_list_that_is_too_long_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.jsonl");
    let inspected = support::json(&["inspect", MODEL, "--output", "json"]);
    let units: Vec<&str> =
        inspected["units"].as_array().unwrap().iter().map(|unit| unit["name"].as_str().unwrap()).collect();
    let mut line = serde_json::Map::new();
    for unit in units {
        line.insert(unit.to_owned(), json!("int4:symmetric:channel"));
        if unit != "emb.weight" {
            line.insert(format!("activation:{unit}"), json!("int8:symmetric:dynamic"));
        }
    }
    let line = Value::Object(line).to_string() + "\n";
    let candidates = format!("strategy.candidates={}", list.display());
    let arguments =
        ["submit", SPEC, "--dry-run", "--set", "strategy.kind=list", "--set", &candidates, TINY[0], TINY[1]];
    for (lines, words) in [
        (100_000, "list.jsonl: strategy.candidates: 100000 candidates: expected 1 to 1000"),
        (1000, "expected at most 3000000; make several lists of them"),
    ] {
        std::fs::write(&list, line.repeat(lines)).unwrap();
        let started = std::time::Instant::now();
        let said = refused(2, &arguments);
        assert!(said.contains(words), "{said}");
        assert!(started.elapsed().as_secs() < 5, "{lines} lines: {:?}", started.elapsed());
    }
}
