//! Surroundings of programs: outputs that cannot be written, limits of the system, variables, addresses that
//! make no sense, and networks that come up late. The work goes on, or one line says what is wrong.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{QSLM, Running, SPEC, TINY, json, program, qslm, refused, root, succeed};

/// The three programs, with what keeps them from doing anything beyond `folder`.
fn programs(folder: &Path) -> [Command; 3] {
    let command = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root()).stdin(Stdio::null());
        command
    };
    let mut run = command(Path::new(QSLM), &["run", SPEC, "--workers", "1"]);
    run.args(TINY).arg("--store").arg(folder.join("run.redb"));
    let mut coordinator = command(&program("qslm-coordinator"), &["--store"]);
    coordinator.arg(folder.join("coordinator.redb"));
    // Variables, so that flags may say something else.
    coordinator.envs([("QSLM_COORDINATOR_LISTEN", "127.0.0.1:0"), ("QSLM_COORDINATOR_WEB", "off")]);
    let mut worker = command(&program("qslm-worker"), &["--slots", "1", "--cache-dir"]);
    worker.arg(folder.join("cache")).env("QSLM_WORKER_COORDINATOR", "http://127.0.0.1:9");
    [run, coordinator, worker]
}

/// The same command after words of a shell.
fn after(words: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{words}; exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(root()).stdin(Stdio::null());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// An address at which nobody listens now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Fails unless the program ended with this code and one line, which is returned.
fn one_line(code: i32, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
    said
}

#[test]
fn a_line_that_cannot_be_written_is_dropped_and_exit_codes_stay() {
    for stderr in [full, closed] {
        let code = |arguments: &[&str]| {
            let mut command = Command::new(QSLM);
            command.args(arguments).current_dir(root()).stderr(stderr()).stdout(Stdio::null());
            command.status().unwrap().code()
        };
        assert_eq!(code(&["validate", "nosuch.toml"]), Some(3));
        assert_eq!(code(&["validate"]), Some(2), "what flags lack");
        assert_eq!(code(&["list", "--coordinator", "unix:///x"]), Some(2));
        assert_eq!(code(&["validate", SPEC]), Some(0));
        for program in ["qslm-coordinator", "qslm-worker"].map(program) {
            let status = Command::new(program).args(["--log", "no=such=level"]).stderr(stderr()).status();
            assert_eq!(status.unwrap().code(), Some(2));
        }
    }
}

/// Standard error of a program: the disk is full, nobody reads it, or the file is as large as a file may be.
fn broken(kind: usize, command: &mut Command, folder: &Path) -> Command {
    // The shell counts in blocks of 512 or 1024 bytes.
    const MOST: u64 = 128 << 20;
    let mut command = after(if kind == 2 { "ulimit -f 131072" } else { ":" }, command);
    let log = folder.join("log");
    match kind {
        0 => command.stderr(full()),
        1 => command.stderr(closed()),
        _ => {
            let file = File::options().append(true).create(true).open(log).unwrap();
            file.set_len(MOST).unwrap();
            command.stderr(file)
        }
    };
    command
}

#[test]
fn work_goes_on_where_no_log_can_be_written() {
    for kind in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let [mut run, mut coordinator, mut worker] = programs(folder.path());
        run.args(["-vv", "--output", "json"]);
        let output = broken(kind, &mut run, folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "kind {kind}: {:?}", output.status);
        let front: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

        // A cluster of programs, none of which can say a word.
        let address = free();
        let url = format!("http://{address}");
        coordinator.args(["--log", "debug", "--listen", &address.to_string()]);
        worker.args(["--log", "debug", "--coordinator", &url]);
        let start = |command| broken(kind, command, folder.path()).stdout(Stdio::null()).spawn().unwrap();
        let (mut coordinator, mut worker) = (start(&mut coordinator), start(&mut worker));
        let mut submit = Command::new(QSLM);
        submit.args(["submit", SPEC, "--wait", "--output", "json", "--coordinator", &url]).args(TINY);
        let output = broken(kind, &mut submit, folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "kind {kind}: {:?}", output.status);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap(), front);
        for child in [&mut worker, &mut coordinator] {
            Command::new("kill").arg(child.id().to_string()).status().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "kind {kind}");
        }
    }
}

#[test]
fn work_goes_on_where_nobody_reads_the_log_and_lost_lines_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let [_, mut coordinator, mut worker] = programs(folder.path());
    // Far more lines than a pipe holds and than may wait for it.
    let mut coordinator = Running::start(coordinator.args(["--log", "trace"]));
    let url = coordinator.url();
    let mut worker = Running::start(worker.args(["--log", "trace", "--coordinator", &url]));
    succeed(&[&["submit", SPEC, "--wait", "--coordinator", &url], &TINY[..]].concat());
    coordinator.wait_for("log lines were dropped");
    for program in [&mut worker, &mut coordinator] {
        program.read_on();
        assert_eq!(program.terminate(), Some(0));
    }
}

#[test]
fn data_that_cannot_be_written_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let store = store.to_str().unwrap();
    succeed(&[&["run", SPEC, "--store", store, "--workers", "1"], &TINY[..]].concat());
    let (qslm, coordinator, worker) =
        (PathBuf::from(QSLM), program("qslm-coordinator"), program("qslm-worker"));
    let commands: [(&Path, &[&str]); 14] = [
        (&qslm, &["--help"]),
        (&qslm, &["run", "--help"]),
        (&qslm, &["help", "submit"]),
        (&qslm, &["--version"]),
        (&coordinator, &["--help"]),
        (&worker, &["--version"]),
        (&qslm, &["version"]),
        (&qslm, &["completions", "bash"]),
        (&qslm, &["config", "show", "worker"]),
        (&qslm, &["reference", "configuration"]),
        (&qslm, &["validate", SPEC]),
        (&qslm, &["list", "--store", store]),
        (&qslm, &["front", "plain", "--store", store, "--output", "json"]),
        (&qslm, &["export", "plain", "--store", store]),
    ];
    for (program, arguments) in commands {
        let run = |stdout: Stdio| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(root()).stdout(stdout).stderr(Stdio::piped());
            command.spawn().unwrap().wait_with_output().unwrap()
        };
        let said = one_line(1, &run(full()));
        assert_eq!(said, "error: standard output: No space left on device (os error 28)\n", "{arguments:?}");
        // A reader that went away is no failure.
        let output = run(closed());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
    let status = Command::new(QSLM).arg("version").stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_variable_of_digits_stays_the_text_that_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["0012", "5e8730912345", "true"] {
        let mut show = Command::new(QSLM);
        show.args(["config", "show", "worker", "--output", "json"]);
        let variables =
            [("QSLM_WORKER_NAME", name), ("QSLM_WORKER_CACHE_DIR", "007"), ("QSLM_WORKER_SLOTS", "3")];
        let output = show.envs(variables).output().unwrap();
        let settings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let value =
            |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap()["value"].clone();
        assert_eq!([value("name"), value("cache_dir"), value("slots")], [name, "007", "3"]);

        let [_, _, mut worker] = programs(folder.path());
        let line = Running::start(worker.env("QSLM_WORKER_NAME", name)).wait_for("working");
        assert!(line.contains(&format!("worker=\"{name}\"")), "{line}");
    }
}

#[test]
fn a_variable_that_no_setting_has_or_that_makes_no_sense_is_named() {
    let said = |program: &Path, arguments: &[&str], name: &str, value: &str| {
        let output = Command::new(program).args(arguments).env(name, value).output().unwrap();
        one_line(2, &output)
    };
    let (coordinator, worker) = (program("qslm-coordinator"), program("qslm-worker"));
    let misspelt = said(&worker, &[], "QSLM_WORKER_NAEM", "a");
    assert_eq!(misspelt, "error: QSLM_WORKER_NAEM: no such setting; did you mean QSLM_WORKER_NAME?\n");
    // What Kubernetes adds where a service has the coordinator's name.
    let service = said(&coordinator, &[], "QSLM_COORDINATOR_SERVICE_HOST", "10.0.0.1");
    assert!(service.starts_with("error: QSLM_COORDINATOR_SERVICE_HOST: no such setting"), "{service}");
    let client = said(Path::new(QSLM), &["list"], "QSLM_CLIENT_TOKEN_FIEL", "a");
    assert!(client.contains("did you mean QSLM_CLIENT_TOKEN_FILE?"), "{client}");
    let many = said(&worker, &[], "QSLM_WORKER_SLOTS", "many");
    assert!(many.starts_with("error: QSLM_WORKER_SLOTS = \"many\": "), "{many}");
}

#[test]
fn an_address_that_makes_no_sense_is_refused_by_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let [_, mut coordinator, mut worker] = programs(folder.path());
    let port = |name: &str| format!("{name} = \"http://H:99999\": port 99999: expected 1 to 65535");
    let scheme =
        |name: &str| format!("{name} = \"unix:///x\": expected http://HOST:PORT or https://HOST:PORT");
    assert!(refused(2, &["list", "--coordinator", "http://H:99999"]).contains(&port("coordinator")));
    assert!(refused(2, &["submit", SPEC, "--coordinator", "unix:///x"]).contains(&scheme("coordinator")));
    refused(2, &["list", "--coordinator", "not an address"]);
    for (flag, url) in
        [("coordinator", "http://H:99999"), ("traces", "unix:///x"), ("traces", "http://H:99999")]
    {
        let expected = if url.starts_with("unix") { scheme(flag) } else { port(flag) };
        let mut command = Command::new(worker.get_program());
        command.args(worker.get_args()).args([format!("--{flag}"), url.to_owned()]);
        let said = one_line(2, &command.output().unwrap());
        assert!(said.contains(&expected), "{said}");
    }
    let said = one_line(2, &coordinator.args(["--traces", "unix:///x"]).output().unwrap());
    assert!(said.contains(&scheme("traces")), "{said}");
    let [_, coordinator, _] = programs(folder.path());
    for (flag, value, expected) in [
        ("listen", "127.0.0.1:99999", "expected an address and port such as 127.0.0.1:7477"),
        ("listen", "localhost:7477", "expected an address and port such as 127.0.0.1:7477"),
        ("web", "127.0.0.1:99999", "expected off, or an address and port such as 127.0.0.1:7478"),
        ("monitor", "nowhere", "expected off, or an address and port such as 127.0.0.1:7478"),
    ] {
        let given = format!("{value:?}: {expected}");
        let variable = format!("QSLM_COORDINATOR_{}", flag.to_uppercase());
        let output = Command::new(coordinator.get_program()).env(&variable, value).output().unwrap();
        let said = one_line(2, &output);
        assert!(said.contains(&variable) && said.contains(&given), "{said}");
        let output = Command::new(coordinator.get_program()).args([&format!("--{flag}"), value]).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(&given), "{said}");
    }
    worker.args(["--monitor", "127.0.0.1"]);
    assert_eq!(worker.output().unwrap().status.code(), Some(2));
}

#[test]
fn a_command_waits_for_a_coordinator_that_comes_up_later() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let url = format!("http://{address}");
    let mut list = Command::new(QSLM);
    let mut list = Running::start(list.args(["list", "-v", "--output", "name", "--coordinator", &url]));
    let line = list.wait_for("tries again");
    assert!(line.contains("connection refused"), "{line}");
    let [_, mut coordinator, _] = programs(folder.path());
    let mut coordinator = Running::start(coordinator.args(["--listen", &address.to_string()]));
    coordinator.wait_for("listening");
    assert_eq!(list.finish().0, Some(0));
}

#[test]
fn a_command_that_waited_in_vain_says_why_and_for_how_long() {
    let url = format!("http://{}", free());
    let said = refused(5, &["list", "--coordinator", &url, "--connect-timeout", "0.6"]);
    assert_eq!(
        said,
        format!(
            "error: no coordinator answers at {url}: connection refused; tried for 0.6 s (--connect-timeout)\n"
        )
    );
    let nowhere = ["list", "--coordinator", "http://no-such-host.invalid:1", "--connect-timeout", "0"];
    assert!(refused(5, &nowhere).contains("no-such-host.invalid:1: name not found: "));
    for wrong in ["-1", "nan", "1e9"] {
        let said = qslm(&["list", &format!("--connect-timeout={wrong}")]);
        assert_eq!(said.status.code(), Some(2));
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.contains("connect_timeout = ") && said.contains("expected 0 to 86400 seconds"),
            "{said}"
        );
    }
    let settings = json(&["config", "show", "client", "--output", "json"]);
    assert!(settings.as_array().unwrap().iter().any(|setting| setting["key"] == "connect_timeout"));
    let output = Command::new(QSLM)
        .args(["list", "--coordinator", &url])
        .env("QSLM_CLIENT_CONNECT_TIMEOUT", "0")
        .output()
        .unwrap();
    assert!(one_line(5, &output).ends_with(": connection refused\n"));
}

#[test]
fn too_few_open_files_or_threads_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for command in programs(folder.path()) {
        let said = one_line(1, &after("ulimit -n 16", &command).output().unwrap());
        assert!(said.contains("open files are needed") && said.contains("ulimit -n"), "{said}");
    }
    for (name, arguments) in [("qslm", &["run", SPEC][..]), ("qslm-coordinator", &[]), ("qslm-worker", &[])] {
        let said = one_line(1, &support::without_threads(folder.path(), name, arguments).output().unwrap());
        assert!(said.contains("threads are needed") && said.contains("ulimit -u"), "{said}");
    }
}

#[test]
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let [run, coordinator, _] = programs(folder.path());
    for (command, file) in [(run, "run.redb"), (coordinator, "coordinator.redb")] {
        let said = one_line(1, &after("ulimit -f 8", &command).output().unwrap());
        assert!(said.contains(file), "{said}");
    }
    // In the middle of the work, too.
    let folder = tempfile::tempdir().unwrap();
    let [mut run, ..] = programs(folder.path());
    assert!(run.output().unwrap().status.success());
    let blocks = std::fs::metadata(folder.path().join("run.redb")).unwrap().len() / 512;
    run.args(["--quiet", "--set", "space.bits=[8, 6, 5, 4, 3, 2]"]);
    run.args(["--set", "strategy.kind=grid", "--set", "strategy.tier=block"]);
    let said = one_line(1, &after(&format!("ulimit -f {blocks}"), &run).output().unwrap());
    assert!(said.contains("run.redb: ") && said.contains("File too large"), "{said}");
}
