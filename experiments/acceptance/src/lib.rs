//! Running the finished programs, and driving a browser and a terminal.
//!
//! The programs are those of `target/release` at the top of the repository (`cargo build --release --workspace`), or of
//! the folder that `QSLM_PROGRAMS` names. Pictures of what was seen are left in `target/pictures`.
#![allow(clippy::disallowed_methods, reason = "tests find their programs and wait for a browser")]

pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod containers;
pub mod hosts;
pub mod manifests;
pub mod terminal;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// One of the programs.
pub fn program(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("QSLM_PROGRAMS").map_or_else(|| root().join("target/release"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: cargo build --release --workspace", path.display());
    path
}

/// Folder in which pictures are left for people to look at.
pub fn pictures() -> PathBuf {
    let folder = root().join("target/pictures");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs `qslm` at the top of the repository until it ends.
pub fn qslm(arguments: &[&str]) -> Output {
    Command::new(program("qslm")).args(arguments).current_dir(root()).output().unwrap()
}

/// Runs `qslm`, expects success, and gives its standard output.
pub fn succeed(arguments: &[&str]) -> String {
    let output = qslm(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Front that `qslm run` prints of the plain search, and that every cluster has to find.
pub fn one_process() -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.redb");
    let run = ["run", "experiments/specs/plain.toml", "--output", "json", "--quiet", "--store"];
    serde_json::from_str(&succeed(&[&run[..], &[store.to_str().unwrap()]].concat())).unwrap()
}

/// A program under way whose log is read. Killed when dropped.
pub struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it at the top of the repository.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.current_dir(root()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line that contains `words`, which is returned.
    pub fn wait_for(&mut self, words: &str) -> String {
        let _limit = Limit::on(&self.child);
        let mut seen = String::new();
        loop {
            let start = seen.len();
            assert!(self.log.read_line(&mut seen).unwrap() > 0, "ended without {words:?}:\n{seen}");
            if seen[start..].contains(words) {
                return seen[start..].trim_end().to_owned();
            }
        }
    }

    /// The most memory that it has taken so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let _limit = Limit::on(&self.child);
        // Read to the end, or it could not go on writing.
        std::io::copy(&mut self.log, &mut std::io::sink()).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A limit on how long a test waits for a program: past it the program is killed, so that the wait fails and says for what.
struct Limit(#[expect(dead_code, reason = "dropped: the wait is over")] mpsc::Sender<()>);

impl Limit {
    fn on(child: &Child) -> Self {
        let (over, waiting) = mpsc::channel();
        let id = child.id().to_string();
        std::thread::spawn(move || {
            if waiting.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        Self(over)
    }
}

/// A coordinator on ports of its own, with a worker.
pub struct Cluster {
    /// Its address for programs.
    pub url: String,
    /// Its address for browsers.
    pub web: String,
    _coordinator: Running,
    _worker: Option<Running>,
}

impl Cluster {
    /// On a store in `folder`.
    pub fn start(folder: &Path, with_worker: bool) -> Self {
        let mut command = Command::new(program("qslm-coordinator"));
        command
            .args(["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--store"])
            .arg(folder.join("sweep.redb"));
        let mut coordinator = Running::start(&mut command);
        let url = format!("http://{}", after(&coordinator.wait_for("listening"), "address="));
        let web = after(&coordinator.wait_for("live view"), "address=");
        let worker = with_worker.then(|| {
            let mut command = Command::new(program("qslm-worker"));
            command.args(["--coordinator", &url, "--slots", "2", "--name", "bench-1", "--cache-dir"]);
            let mut worker = Running::start(command.arg(folder.join("cache")));
            worker.wait_for("working");
            worker
        });
        Self { url, web, _coordinator: coordinator, _worker: worker }
    }
}

/// The word after `key`.
pub fn after(line: &str, key: &str) -> String {
    line.split(key).nth(1).unwrap().split_whitespace().next().unwrap().trim_matches('"').to_owned()
}
