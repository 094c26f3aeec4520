//! Real processes under fire: coordinator and workers are killed, stopped, ended and restarted, die at named points, and
//! talk through a proxy that delays, goes silent and cuts connections, all drawn from a seed. Afterwards nothing that
//! was acknowledged is lost, nothing is recorded twice, and the front is that of an undisturbed run.
#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use qslm_coordinator::store::Store;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::proxy::{Proxy, Weather};
use support::{json, program, qslm, root, succeed};

const WORKERS: usize = 3;
/// A round that takes longer does not come to its end.
const PATIENCE: Duration = Duration::from_secs(240);

/// Log lines of a program that matter here.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
enum Said {
    Listening,
    /// The coordinator told a worker that a shard of a trial is safe: trial, index, of.
    Acknowledged(String, u32, u32),
    /// The coordinator has a trial's sum on disk.
    Recorded(String),
    /// A lease ended because its worker was silent.
    LeaseRanOut,
}

/// A program whose log lines go to a channel, under its number.
struct Process {
    child: Child,
    number: u64,
}

impl Process {
    fn start(command: &mut Command, number: u64, said: &Sender<(u64, Said)>) -> Self {
        let mut child =
            command.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                assert!(!line.contains("panicked"), "{line}");
                if let Some(words) = understand(&line)
                    && said.send((number, words)).is_err()
                {
                    return;
                }
            }
        });
        Self { child, number }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {name}");
    }

    fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn understand(line: &str) -> Option<Said> {
    let field = |name: &str| {
        let rest = line.split_once(&format!(" {name}="))?.1;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    if line.contains(" acknowledged ") {
        let (index, of) = (field("index")?.parse().ok()?, field("of")?.parse().ok()?);
        return Some(Said::Acknowledged(field("trial")?, index, of));
    }
    if line.contains(" recorded ") {
        return Some(Said::Recorded(field("trial")?));
    }
    if line.contains(" a lease ran out") {
        return Some(Said::LeaseRanOut);
    }
    line.contains(" listening ").then_some(Said::Listening)
}

/// A coordinator and its workers, for one experiment.
struct Cluster {
    seed: u64,
    rng: ChaCha8Rng,
    folder: PathBuf,
    address: SocketAddr,
    proxy: Proxy,
    sender: Sender<(u64, Said)>,
    said: Receiver<(u64, Said)>,
    started: u64,
    coordinator: Option<Process>,
    workers: Vec<Process>,
    acknowledged: BTreeSet<(String, u32, u32)>,
    /// Number of times that each trial was recorded.
    recorded: BTreeMap<String, u32>,
    kills: u32,
    /// Number of times that each thing was done, by its name.
    done: BTreeMap<&'static str, u32>,
    begun: Instant,
}

impl Cluster {
    fn start(seed: u64, folder: &Path) -> Self {
        // The port is given back and taken again at every start of the coordinator.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (sender, said) = channel();
        let mut cluster = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            folder: folder.to_owned(),
            address,
            proxy: Proxy::start(address),
            sender,
            said,
            started: 0,
            coordinator: None,
            workers: Vec::new(),
            acknowledged: BTreeSet::new(),
            recorded: BTreeMap::new(),
            kills: 0,
            done: BTreeMap::new(),
            begun: Instant::now(),
        };
        cluster.start_coordinator(None);
        for index in 0..WORKERS {
            let worker = cluster.start_worker(index);
            cluster.workers.push(worker);
        }
        cluster
    }

    fn store(&self) -> PathBuf {
        self.folder.join("s.redb")
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the coordinator, which may be told to die at some point; `false` if it died before it listened.
    fn start_coordinator(&mut self, crash_at: Option<String>) -> bool {
        let mut command = Command::new(program("qslm-coordinator"));
        command.args(["--listen", &self.address.to_string(), "--web", "off", "--lease-ttl-s", "1"]);
        // Here workers vanish at a rate that no cluster knows, and for no reason of the trials'.
        command.args(["--max-vanished-workers", "1000"]);
        command.args(["--log", "info,qslm_coordinator=debug", "--store"]).arg(self.store());
        command.envs(crash_at.iter().map(|point| ("QSLM_COORDINATOR_CRASH_AT", point)));
        self.started += 1;
        let process = Process::start(&mut command, self.started, &self.sender);
        self.coordinator = Some(process);
        self.wait_for(self.started, &Said::Listening)
    }

    fn start_worker(&mut self, index: usize) -> Process {
        let mut command = Command::new(program("qslm-worker"));
        command.args(["--coordinator", &format!("http://{}", self.proxy.address), "--slots", "2"]);
        command.args(["--log", "error,qslm_worker=debug", "--cache-dir"]);
        command.arg(self.folder.join(format!("cache-{index}")));
        self.started += 1;
        Process::start(&mut command, self.started, &self.sender)
    }

    /// Takes note of what the programs say until one says this; `false` if it ends instead.
    fn wait_for(&mut self, number: u64, words: &Said) -> bool {
        loop {
            match self.said.recv_timeout(Duration::from_millis(50)) {
                Ok((from, said)) => {
                    let found = from == number && said == *words;
                    self.note(said);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let coordinator = self.coordinator.as_mut().filter(|process| process.number == number);
                    if coordinator.is_some_and(|process| process.child.try_wait().unwrap().is_some()) {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("this side holds a sender"),
            }
            assert!(self.begun.elapsed() < PATIENCE, "seed {}: {words:?} does not come", self.seed);
        }
    }

    fn note(&mut self, said: Said) {
        match said {
            Said::Acknowledged(trial, index, of) => drop(self.acknowledged.insert((trial, index, of))),
            Said::Recorded(trial) => *self.recorded.entry(trial).or_default() += 1,
            Said::LeaseRanOut => self.count("lease ran out"),
            Said::Listening => {}
        }
    }

    /// Lets the cluster work until some results more are acknowledged, or for a moment.
    fn let_work(&mut self) {
        let wanted = self.acknowledged.len() + self.rng.random_range(0..6);
        let until = Instant::now() + Duration::from_millis(self.rng.random_range(50..700));
        while self.acknowledged.len() <= wanted {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((_, said)) => self.note(said),
                Err(_) => return,
            }
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// One fault.
    fn strike(&mut self) {
        let index = self.rng.random_range(0..WORKERS);
        match self.rng.random_range(0..100) {
            0..35 => {
                self.count("worker killed");
                self.workers[index].kill();
                self.kills += 1;
                self.workers[index] = self.start_worker(index);
            }
            35..60 => {
                self.count("coordinator killed");
                self.coordinator.take().unwrap().kill();
                self.kills += 1;
                self.check_store();
                let crash_at = if self.rng.random_range(0..2) == 0 { Some(self.crash_point()) } else { None };
                self.keep_coordinator(crash_at);
            }
            60..68 => {
                self.count("worker stopped past its lease");
                self.workers[index].signal("-STOP");
                self.let_time_pass(1500);
                self.workers[index].signal("-CONT");
            }
            68..73 => {
                self.count("coordinator stopped");
                let millis = self.rng.random_range(100..1500);
                self.coordinator.as_ref().unwrap().signal("-STOP");
                self.let_time_pass(millis);
                self.coordinator.as_ref().unwrap().signal("-CONT");
            }
            73..80 => {
                self.count("worker ended");
                let asked = Instant::now();
                self.workers[index].signal("-TERM");
                let status = self.workers[index].child.wait().unwrap();
                assert_eq!(status.code(), Some(0), "seed {}", self.seed);
                assert!(
                    asked.elapsed() < Duration::from_secs(8),
                    "a worker took {:?} to end",
                    asked.elapsed()
                );
                self.workers[index] = self.start_worker(index);
            }
            80..90 => {
                self.count("connections cut");
                self.proxy.cut();
            }
            90..95 => {
                self.count("network slow");
                self.proxy.set(Weather::Slow(Duration::from_millis(self.rng.random_range(5..200))));
                self.let_time_pass(1000);
                self.proxy.set(Weather::Fine);
            }
            _ => {
                self.count("network silent");
                self.proxy.set(Weather::Silent);
                let millis = self.rng.random_range(500..2500);
                self.let_time_pass(millis);
                // What was held back comes late, or never.
                if self.rng.random_range(0..2) == 0 {
                    self.proxy.cut();
                }
                self.proxy.set(Weather::Fine);
            }
        }
    }

    /// Replaces a coordinator that died at its point.
    fn replace_dead(&mut self) {
        let coordinator = self.coordinator.as_mut().unwrap();
        if let Some(status) = coordinator.child.try_wait().unwrap() {
            self.note_crash(status);
            self.keep_coordinator(None);
        }
    }

    fn crash_point(&mut self) -> String {
        let points = ["starting", "before-commit", "after-commit", "updating-front"];
        let point = *points.choose(&mut self.rng).unwrap();
        let pass = if point == "starting" { 1 } else { self.rng.random_range(1..12) };
        format!("{point}:{pass}")
    }

    /// Starts the coordinator; again, if it dies at once as it was told.
    fn keep_coordinator(&mut self, crash_at: Option<String>) {
        if !self.start_coordinator(crash_at) {
            let status = self.coordinator.take().unwrap().child.wait().unwrap();
            self.note_crash(status);
            assert!(self.start_coordinator(None), "seed {}: the coordinator does not start", self.seed);
        }
    }

    fn note_crash(&mut self, status: ExitStatus) {
        const SIGABRT: i32 = 6;
        assert_eq!(
            status.signal(),
            Some(SIGABRT),
            "seed {}: nobody killed the coordinator: {status}",
            self.seed
        );
        self.count("coordinator crashed at a point");
        self.kills += 1;
        self.coordinator = None;
        self.check_store();
    }

    fn let_time_pass(&mut self, millis: u64) {
        let until = Instant::now() + Duration::from_millis(millis);
        while let Ok((_, said)) = self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.note(said);
        }
    }

    /// Whatever was acknowledged is in the store. Nobody may have it open.
    fn check_store(&mut self) {
        // What the dead coordinator's workers were told before it died.
        while let Ok((_, said)) = self.said.try_recv() {
            self.note(said);
        }
        let contents = Store::open(&self.store()).unwrap().contents().unwrap();
        assert!(contents.conflicts().is_empty(), "seed {}: two results of one trial", self.seed);
        let measured: BTreeSet<String> = contents.measurements.keys().map(ToString::to_string).collect();
        let open: BTreeSet<_> =
            contents.shards.keys().map(|(trial, shard)| (trial.to_string(), shard.index, shard.of)).collect();
        let lost = self.acknowledged.iter().find(|(trial, index, of)| {
            !measured.contains(trial) && !open.contains(&(trial.clone(), *index, *of))
        });
        assert_eq!(lost, None, "seed {}: an acknowledged result is lost", self.seed);
        let forgotten = self.recorded.keys().find(|trial| !measured.contains(*trial));
        assert_eq!(forgotten, None, "seed {}: a recorded trial is lost", self.seed);
    }

    fn is_finished(&self, id: &str) -> bool {
        let get = ["get", id, "--coordinator", &self.url(), "--connect-timeout", "0", "--output", "json"];
        let output = qslm(&get);
        // The coordinator may just have died.
        let status: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        status.is_ok_and(|status| status["state"] == "finished")
    }

    /// Ends everything in good order.
    fn stop(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            worker.signal("-TERM");
            assert_eq!(worker.child.wait().unwrap().code(), Some(0), "seed {}", self.seed);
        }
        let mut coordinator = self.coordinator.take().unwrap();
        coordinator.signal("-TERM");
        let status = coordinator.child.wait().unwrap();
        // It may have been about to die at its point.
        if status.code() != Some(0) {
            self.note_crash(status);
        }
    }
}

/// One experiment under fire, which ceases after so many kills. Returns what was done to it, and how many processes were
/// killed.
fn round(seed: u64, arguments: &[&str], reference: &str, most: u32) -> (BTreeMap<&'static str, u32>, u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(seed, folder.path());
    let url = cluster.url();
    let id = succeed(&[&["submit"], arguments, &["--coordinator", &url]].concat()).trim().to_owned();
    while !cluster.is_finished(&id) {
        assert!(
            cluster.begun.elapsed() < PATIENCE,
            "seed {seed} does not come to its end: {:?}",
            cluster.done
        );
        cluster.let_work();
        if cluster.kills < most {
            cluster.strike();
        }
        cluster.replace_dead();
    }
    cluster.stop();
    cluster.check_store();

    let contents = Store::open(&cluster.store()).unwrap().contents().unwrap();
    let expected: serde_json::Value = serde_json::from_str(reference).unwrap();
    let exactly = expected["measured"].as_u64().unwrap() as usize;
    assert_eq!(contents.measurements.len(), exactly, "seed {seed}: trials on record");
    assert!(contents.failures.is_empty() && contents.shards.is_empty(), "seed {seed}: {contents:?}");
    let twice = cluster.recorded.iter().find(|(_, times)| **times > 1);
    assert_eq!(twice, None, "seed {seed}: recorded twice");
    let store = cluster.store();
    let front = succeed(&["front", &id, "--store", store.to_str().unwrap(), "--output", "json"]);
    assert_eq!(front, reference, "seed {seed}: another front");
    (cluster.done, cluster.kills)
}

/// The tiered search, and an exhaustive grid of 3 widths over 4 blocks and the head: 244 trials with the float model.
const SEARCHES: [&[&str]; 2] = [
    &["experiments/specs/quickstart.toml", "--set", "run.shards=3"],
    &[
        "experiments/specs/quickstart.toml",
        "--set",
        "space.bits=[8, 4, 3]",
        "--set",
        "strategy.kind=\"grid\"",
        "--set",
        "strategy.tier=\"block\"",
    ],
];

fn reference(folder: &Path, arguments: &[&str]) -> String {
    let store = folder.join("reference.redb");
    let _ = std::fs::remove_file(&store);
    succeed(&[&["run"], arguments, &["--store", store.to_str().unwrap(), "--output", "json"]].concat())
}

/// Rounds over so many windows of the text, of so many kills at most, until so many processes were killed; prints what
/// was done.
fn rounds(kills: u32, per_round: u32, windows: u32, first_seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let windows = format!("task.windows={windows}");
    let searches = SEARCHES.map(|arguments| [arguments, &["--set", &windows]].concat());
    let references: Vec<_> = searches.iter().map(|arguments| reference(folder.path(), arguments)).collect();
    let (mut killed, mut done, begun) = (0, BTreeMap::<&str, u32>::new(), Instant::now());
    let mut seed = first_seed;
    while killed < kills || seed < first_seed + SEARCHES.len() as u64 {
        let which = (seed % SEARCHES.len() as u64) as usize;
        let (what, more) = round(seed, &searches[which], &references[which], per_round);
        killed += more;
        for (name, times) in what {
            *done.entry(name).or_default() += times;
        }
        seed += 1;
        eprintln!("{killed} kills after {} rounds, {:?}", seed - first_seed, begun.elapsed());
    }
    eprintln!(
        "{} rounds, {killed} kills, 0 lost, 0 recorded twice, 0 other fronts: {done:?}",
        seed - first_seed
    );
}

#[test]
fn nothing_is_lost_or_done_twice_under_fire() {
    rounds(40, 20, 2, 1);
}

#[test]
#[ignore = "the long form: 1,000 kills; see CONTRIBUTING.md"]
fn nothing_is_lost_or_done_twice_under_a_thousand_kills() {
    rounds(1000, u32::MAX, 8, 1000);
}

#[test]
fn an_evaluation_longer_than_a_lease_keeps_it() {
    // Windows that start after every 4th token: 32 times the work.
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(0, folder.path());
    let submit = [
        "submit",
        "experiments/specs/quickstart.toml",
        "--set",
        "task.stride=2",
        "--set",
        "run.shards=1",
        "--set",
        "strategy.kind=\"grid\"",
        "--set",
        "strategy.tier=\"global\"",
        "--set",
        "space.bits=[4]",
        "--coordinator",
        &cluster.url(),
    ];
    let id = succeed(&submit).trim().to_owned();
    let begun = Instant::now();
    while !cluster.is_finished(&id) {
        cluster.let_time_pass(200);
    }
    assert!(begun.elapsed() > Duration::from_secs(3), "too quick to tell: {:?}", begun.elapsed());
    let status = json(&["get", &id, "--coordinator", &cluster.url(), "--output", "json"]);
    assert_eq!((&status["measured"], &status["failed"]), (&2.into(), &0.into()));
    cluster.stop();
    cluster.let_time_pass(100);
    assert_eq!((cluster.acknowledged.len(), cluster.done.get("lease ran out")), (2, None));
}
