//! Real processes under fire: coordinator and workers are killed, stopped, ended and restarted, die at named points, and
//! talk through a proxy that delays, goes silent and cuts connections, all drawn from a seed. They work at an experiment, and
//! meanwhile at jobs that a second one needs. Afterwards nothing that was acknowledged is lost, nothing is recorded twice,
//! nothing that was on record was given out again, artifacts and fronts are those of an undisturbed process.
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
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qslm_common::hash::ContentHash;
use qslm_common::job::{Job, JobKey};
use qslm_common::trial::TrialKey;
use qslm_coordinator::store::{Artifacts, Contents, Store};
use qslm_engine::jobs::{self, Inputs};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::proxy::{Proxy, Weather};
use support::{QSLM, json, program, qslm, root, succeed};

const WORKERS: usize = 3;
/// A round that takes longer does not come to its end.
const PATIENCE: Duration = Duration::from_secs(240);

/// Log lines of a program that matter here.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
enum Said {
    Listening,
    /// The coordinator told a worker that a shard of a trial, or what a job made, is safe: trial or job, index, of.
    Acknowledged(String, u32, u32),
    /// The coordinator has a trial's sum or what a job made on disk.
    Recorded(String),
    /// The coordinator gave out a job.
    Granted(String),
    /// A lease ended because its worker was silent.
    LeaseRanOut,
}

/// A program whose log lines go to a channel, under its number.
struct Process {
    child: Child,
    number: u64,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    fn start(command: &mut Command, number: u64, said: &Sender<(u64, Said)>) -> Self {
        let mut child =
            command.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = said.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                assert!(!line.contains("panicked"), "{line}");
                if let Some(words) = understand(&line)
                    && said.send((number, words)).is_err()
                {
                    return;
                }
            }
        });
        Self { child, number, reader: Some(reader) }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {name}");
    }

    fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits for the end, and for all that it said before.
    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
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
        return Some(Said::Acknowledged(field("trial").or_else(|| field("job"))?, index, of));
    }
    if line.contains(" recorded ") {
        return Some(Said::Recorded(field("trial").or_else(|| field("job"))?));
    }
    if line.contains(" granted ") {
        return Some(Said::Granted(field("job")?));
    }
    if line.contains(" a lease ran out") {
        return Some(Said::LeaseRanOut);
    }
    line.contains(" listening ").then_some(Said::Listening)
}

/// A coordinator and its workers.
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
    /// Number of times that each trial and each job was recorded.
    recorded: BTreeMap<String, u32>,
    /// Number of times that each job was given out.
    granted: BTreeMap<String, u32>,
    /// Trials and jobs on record, each with the number of the first process that may know.
    made: BTreeMap<String, u64>,
    /// True while jobs are under way.
    making: bool,
    kills: u32,
    /// Number of times that each thing was done, by its name.
    done: BTreeMap<&'static str, u32>,
    begun: Instant,
}

impl Cluster {
    /// A coordinator and its workers at work.
    fn start(seed: u64, folder: &Path) -> Self {
        let mut cluster = Self::new(seed, folder);
        cluster.start_coordinator(None);
        for index in 0..WORKERS {
            let worker = cluster.start_worker(index, None);
            cluster.workers.push(worker);
        }
        cluster
    }

    /// Nobody yet.
    fn new(seed: u64, folder: &Path) -> Self {
        // The port is given back and taken again at every start of the coordinator.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (sender, said) = channel();
        Self {
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
            granted: BTreeMap::new(),
            made: BTreeMap::new(),
            making: false,
            kills: 0,
            done: BTreeMap::new(),
            begun: Instant::now(),
        }
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

    /// Starts a worker, which may be told to die at some point.
    fn start_worker(&mut self, index: usize, crash_at: Option<&str>) -> Process {
        let mut command = Command::new(program("qslm-worker"));
        command.args(["--coordinator", &format!("http://{}", self.proxy.address), "--slots", "2"]);
        // Now and then a job goes on from what another worker left.
        command.args(["--checkpoint-every-s", "0.05"]);
        command.args(["--log", "error,qslm_worker=debug", "--cache-dir"]);
        command.arg(self.folder.join(format!("cache-{index}")));
        command.envs(crash_at.map(|point| ("QSLM_WORKER_CRASH_AT", point)));
        self.started += 1;
        Process::start(&mut command, self.started, &self.sender)
    }

    /// Takes note of what the programs say until one says this; `false` if it ends instead.
    fn wait_for(&mut self, number: u64, words: &Said) -> bool {
        loop {
            match self.said.recv_timeout(Duration::from_millis(50)) {
                Ok((from, said)) => {
                    let found = from == number && said == *words;
                    self.note(from, said);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.has_ended(number) {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("this side holds a sender"),
            }
            assert!(self.begun.elapsed() < PATIENCE, "seed {}: {words:?} does not come", self.seed);
        }
    }

    fn has_ended(&mut self, number: u64) -> bool {
        let mut all = self.coordinator.iter_mut().chain(&mut self.workers);
        let this = all.find(|process| process.number == number);
        this.is_some_and(|process| process.child.try_wait().unwrap().is_some())
    }

    /// Waits until a process has ended.
    fn wait_for_end(&mut self, number: u64) -> ExitStatus {
        while !self.has_ended(number) {
            self.let_time_pass(20);
            assert!(self.begun.elapsed() < PATIENCE, "seed {}: nobody dies", self.seed);
        }
        let mut all = self.coordinator.iter_mut().chain(&mut self.workers);
        all.find(|process| process.number == number).unwrap().wait()
    }

    fn note(&mut self, from: u64, said: Said) {
        match said {
            Said::Acknowledged(work, index, of) => drop(self.acknowledged.insert((work, index, of))),
            Said::Recorded(work) => {
                self.made.entry(work.clone()).or_insert(from);
                *self.recorded.entry(work).or_default() += 1;
            }
            Said::Granted(job) => {
                // What a coordinator that is dead by now said may be heard late.
                let known = self.made.get(&job).is_some_and(|first| from >= *first);
                assert!(!known, "seed {}: job {job} was given out, and it is made", self.seed);
                *self.granted.entry(job).or_default() += 1;
            }
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
                Ok((from, said)) => self.note(from, said),
                Err(_) => return,
            }
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn count_kill(&mut self) {
        self.kills += 1;
        if self.making {
            self.count("killed while jobs were under way");
        }
    }

    /// One fault.
    fn strike(&mut self) {
        let index = self.rng.random_range(0..WORKERS);
        match self.rng.random_range(0..100) {
            0..35 => {
                // It may have died at its point just now.
                let status = self.workers[index].kill();
                self.count(if is_crash(status) { "worker crashed at a point" } else { "worker killed" });
                self.count_kill();
                let point = (self.making && self.rng.random_range(0..2) == 0).then_some("artifact-put:1");
                self.workers[index] = self.start_worker(index, point);
            }
            35..60 => {
                self.count("coordinator killed");
                self.coordinator.take().unwrap().kill();
                self.count_kill();
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
                let asked = Instant::now();
                self.workers[index].signal("-TERM");
                let status = self.workers[index].wait();
                self.note_worker(status);
                assert!(
                    asked.elapsed() < Duration::from_secs(8),
                    "a worker took {:?} to end",
                    asked.elapsed()
                );
                self.workers[index] = self.start_worker(index, None);
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

    /// Replaces whoever died at its point.
    fn replace_dead(&mut self) {
        let coordinator = self.coordinator.as_ref().unwrap().number;
        if self.has_ended(coordinator) {
            let status = self.coordinator.as_mut().unwrap().wait();
            self.note_crash(status);
            self.keep_coordinator(None);
        }
        for index in 0..WORKERS {
            if self.has_ended(self.workers[index].number) {
                let status = self.workers[index].wait();
                self.note_worker(status);
                self.workers[index] = self.start_worker(index, None);
            }
        }
    }

    fn crash_point(&mut self) -> String {
        let points: &[&str] = match self.making {
            // On a job's way. There are few of them at a time.
            true => &["before-commit", "after-commit", "artifact-stored", "artifact-stored"],
            false => &["starting", "before-commit", "after-commit", "updating-front"],
        };
        let point = *points.choose(&mut self.rng).unwrap();
        let pass = match point {
            "starting" => 1,
            _ if self.making => self.rng.random_range(1..6),
            _ => self.rng.random_range(1..12),
        };
        format!("{point}:{pass}")
    }

    /// Starts the coordinator; again, if it dies at once as it was told.
    fn keep_coordinator(&mut self, crash_at: Option<String>) {
        if !self.start_coordinator(crash_at) {
            let status = self.coordinator.take().unwrap().wait();
            self.note_crash(status);
            assert!(self.start_coordinator(None), "seed {}: the coordinator does not start", self.seed);
        }
    }

    fn note_crash(&mut self, status: ExitStatus) {
        assert!(is_crash(status), "seed {}: nobody killed the coordinator: {status}", self.seed);
        self.count("coordinator crashed at a point");
        self.count_kill();
        self.coordinator = None;
        self.check_store();
    }

    /// A worker has ended: it was told to, or died at its point.
    fn note_worker(&mut self, status: ExitStatus) {
        if is_crash(status) {
            self.count("worker crashed at a point");
            self.count_kill();
        } else {
            self.count("worker ended");
            assert_eq!(status.code(), Some(0), "seed {}: nobody killed the worker: {status}", self.seed);
        }
    }

    fn let_time_pass(&mut self, millis: u64) {
        let until = Instant::now() + Duration::from_millis(millis);
        while let Ok((from, said)) = self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.note(from, said);
        }
    }

    /// Whatever was acknowledged is in the store. Nobody may have it open.
    fn check_store(&mut self) -> Contents {
        // What the dead coordinator's workers were told before it died.
        while let Ok((from, said)) = self.said.try_recv() {
            self.note(from, said);
        }
        let contents = Store::open(&self.store()).unwrap().contents().unwrap();
        assert!(contents.conflicts().is_empty(), "seed {}: two results of one trial", self.seed);
        assert_eq!(contents.made_differently().count(), 0, "seed {}: two artifacts of one job", self.seed);
        let audit = Artifacts::of(&self.store()).audit(&contents).unwrap();
        let fault = audit.faults().next();
        assert_eq!(fault, None, "seed {}: what is on record has no whole file", self.seed);
        for job in contents.made.keys() {
            // Also where the coordinator died before it said so.
            self.made.entry(job.to_string()).or_insert(self.started + 1);
        }
        let measured = contents.measurements.keys().map(ToString::to_string);
        let measured: BTreeSet<String> =
            measured.chain(contents.made.keys().map(ToString::to_string)).collect();
        let open: BTreeSet<_> =
            contents.shards.keys().map(|(trial, shard)| (trial.to_string(), shard.index, shard.of)).collect();
        let lost = self.acknowledged.iter().find(|(trial, index, of)| {
            !measured.contains(trial) && !open.contains(&(trial.clone(), *index, *of))
        });
        assert_eq!(lost, None, "seed {}: an acknowledged result is lost", self.seed);
        let forgotten = self.recorded.keys().find(|trial| !measured.contains(*trial));
        assert_eq!(forgotten, None, "seed {}: a recorded trial or artifact is lost", self.seed);
        contents
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
            let status = worker.wait();
            assert_eq!(status.code(), Some(0), "seed {}: {status}", self.seed);
        }
        let mut coordinator = self.coordinator.take().unwrap();
        coordinator.signal("-TERM");
        let status = coordinator.wait();
        // It may have been about to die at its point.
        if status.code() != Some(0) {
            self.note_crash(status);
        }
    }
}

/// True for a process that died at the point that it was told.
fn is_crash(status: ExitStatus) -> bool {
    const SIGABRT: i32 = 6;
    status.signal() == Some(SIGABRT)
}

/// `qslm submit` under way, which is called again when the coordinator dies meanwhile, as people do.
struct Submitting {
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Submitting {
    fn start(arguments: &[&str], url: &str) -> Self {
        let arguments = [&["submit"], arguments, &["--coordinator", url]].concat();
        let mut submitting =
            Self { arguments: arguments.into_iter().map(str::to_owned).collect(), child: None };
        submitting.call();
        submitting
    }

    fn call(&mut self) {
        let mut command = Command::new(QSLM);
        command.args(&self.arguments).current_dir(root()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.child = Some(command.spawn().unwrap());
    }

    /// The experiment's id, if it is submitted by now.
    fn id(&mut self) -> Option<String> {
        self.child.as_mut().unwrap().try_wait().unwrap()?;
        let id = self.end();
        if id.is_none() {
            self.call();
        }
        id
    }

    /// Waits for the experiment's id.
    fn wait(mut self) -> String {
        loop {
            match self.end() {
                Some(id) => return id,
                None => self.call(),
            }
        }
    }

    /// Waits for the end of the call: the experiment's id, unless the coordinator died.
    fn end(&mut self) -> Option<String> {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => Some(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
            Some(5) => None,
            _ => {
                panic!("{:?}: {} {}", self.arguments, output.status, String::from_utf8_lossy(&output.stderr))
            }
        }
    }
}

impl Drop for Submitting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What jobs make in this process, where nobody disturbs them; each is done once.
#[derive(Default)]
struct MadeHere(BTreeMap<JobKey, ContentHash>);

impl MadeHere {
    /// Every job of a store is made, once, and what was made is what is made here.
    fn check(&mut self, seed: u64, contents: &Contents, artifacts: &Artifacts) {
        let named = contents.jobs.keys().eq(contents.made.keys());
        assert!(named, "seed {seed}: a job without an artifact, or an artifact without a job");
        for (key, text) in &contents.jobs {
            let here = *self.0.entry(*key).or_insert_with(|| {
                let job = Job::decode(text).unwrap();
                let file = |hash: ContentHash| artifacts.folder().join(hash.to_string());
                let files = job.inputs.iter().map(|(name, of)| (name.clone(), file(of.artifact().unwrap())));
                let mut artifact = Vec::new();
                jobs::make(&job, &Inputs::new(files.collect()), &(), &mut artifact).unwrap();
                ContentHash::of(&artifact)
            });
            let made: Vec<ContentHash> = contents.made[key].keys().copied().collect();
            assert_eq!(made, [here], "seed {seed}: job {key}: {text}");
        }
    }
}

/// An experiment, another one that needs jobs, and what a process alone comes to.
struct Case {
    search: Vec<&'static str>,
    needing: Vec<&'static str>,
    /// Jobs that the other one needs.
    jobs: usize,
    fronts: [String; 2],
    /// What both measure.
    trials: BTreeSet<TrialKey>,
}

impl Case {
    fn new(folder: &Path, search: &[&'static str], needing: &[&'static str], jobs: usize) -> Self {
        let store = folder.join("reference.redb");
        let _ = std::fs::remove_file(&store);
        let to = ["--store", store.to_str().unwrap(), "--output", "json"];
        let fronts = [search, needing].map(|spec| succeed(&[&["run"], spec, &to].concat()));
        let trials = Store::open(&store).unwrap().contents().unwrap().measurements.into_keys().collect();
        Self { search: search.to_vec(), needing: needing.to_vec(), jobs, fronts, trials }
    }
}

/// One case under fire, which ceases after so many kills. Returns what was done to it, and how many processes were killed.
fn round(seed: u64, case: &Case, here: &mut MadeHere, most: u32) -> (BTreeMap<&'static str, u32>, u32) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(seed, folder.path());
    let url = cluster.url();
    let id = succeed(&[&["submit"], &case.search[..], &["--coordinator", &url]].concat()).trim().to_owned();
    let mut submitting = Submitting::start(&case.needing, &url);
    let mut needing: Option<String> = None;
    cluster.making = true;
    while !(cluster.is_finished(&id) && needing.as_ref().is_some_and(|id| cluster.is_finished(id))) {
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
        if needing.is_none() {
            needing = submitting.id();
            cluster.making = needing.is_none();
        }
    }
    cluster.stop();
    let contents = cluster.check_store();

    assert!(contents.measurements.keys().eq(&case.trials), "seed {seed}: trials on record");
    assert!(contents.failures.is_empty() && contents.shards.is_empty(), "seed {seed}: {contents:?}");
    assert_eq!(contents.made.len(), case.jobs, "seed {seed}: artifacts on record");
    let store = cluster.store();
    here.check(seed, &contents, &Artifacts::of(&store));
    let twice = cluster.recorded.iter().find(|(_, times)| **times > 1);
    assert_eq!(twice, None, "seed {seed}: recorded twice");
    for (id, reference) in [Some(id), needing].iter().flatten().zip(&case.fronts) {
        let front = succeed(&["front", id, "--store", store.to_str().unwrap(), "--output", "json"]);
        assert_eq!(front, *reference, "seed {seed}: another front");
    }
    (cluster.done, cluster.kills)
}

/// The tiered search.
const TIERED: [&str; 3] = ["experiments/specs/quickstart.toml", "--set", "run.shards=3"];
/// An exhaustive grid of 3 widths over 4 blocks and the head: 244 trials with the float model.
const GRID: [&str; 7] = [
    "experiments/specs/quickstart.toml",
    "--set",
    "space.bits=[8, 4, 3]",
    "--set",
    "strategy.kind=\"grid\"",
    "--set",
    "strategy.tier=\"block\"",
];
/// A search that needs scores of 25 matrices, eight at a time: 4 jobs. They are short, or none would come to its end
/// between two deaths of a coordinator.
const RANKED: [&str; 7] = [
    "experiments/specs/quickstart.toml",
    "--set",
    "space.bits=[8, 3]",
    "--set",
    "strategy={ kind = \"ranked\", metric = \"lsaq\", tier = \"block\", sequences = 2 }",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];
/// One that needs static ranges of activations: 1 job.
const RANGES: [&str; 13] = [
    "experiments/specs/quickstart.toml",
    "--set",
    "space.bits=[8]",
    "--set",
    "space.activations={ bits = [8], range = \"static\", symmetry = \"affine\" }",
    "--set",
    "calibration.text=experiments/data/encyclopaedia.txt",
    "--set",
    "calibration.sequences=16",
    "--set",
    "strategy={ kind = \"grid\", tier = \"global\" }",
    "--set",
    "constraints.max_perplexity_increase=5.0",
];

/// Rounds with so many windows of the text, of so many kills at most, until so many processes were killed; prints and
/// returns what was done.
fn rounds(kills: u32, per_round: u32, windows: &'static str, first_seed: u64) -> BTreeMap<&'static str, u32> {
    let folder = tempfile::tempdir().unwrap();
    let case = |search: &[&'static str], needing: &[&'static str], jobs: usize| {
        let [search, needing] = [search, needing].map(|spec| [spec, &["--set", windows]].concat());
        Case::new(folder.path(), &search, &needing, jobs)
    };
    let cases = [case(&TIERED, &RANKED, 4), case(&GRID, &RANGES, 1)];
    let mut here = MadeHere::default();
    let (mut killed, mut done, begun) = (0, BTreeMap::<&str, u32>::new(), Instant::now());
    let mut seed = first_seed;
    while killed < kills || seed < first_seed + cases.len() as u64 {
        let which = (seed % cases.len() as u64) as usize;
        let (what, more) = round(seed, &cases[which], &mut here, per_round);
        killed += more;
        for (name, times) in what {
            *done.entry(name).or_default() += times;
        }
        seed += 1;
        eprintln!("{killed} kills after {} rounds, {:?}", seed - first_seed, begun.elapsed());
    }
    eprintln!(
        "{} rounds, {killed} kills, 0 lost, 0 recorded twice, 0 other fronts or artifacts: {done:?}",
        seed - first_seed
    );
    done
}

#[test]
fn nothing_is_lost_or_done_twice_under_fire() {
    rounds(40, 20, "task.windows=2", 1);
}

#[test]
#[ignore = "the long form: 1,000 kills; see CONTRIBUTING.md"]
fn nothing_is_lost_or_done_twice_under_a_thousand_kills() {
    let done = rounds(1000, u32::MAX, "task.windows=8", 1000);
    for what in ["killed while jobs were under way", "worker crashed at a point"] {
        assert!(done.contains_key(what), "{what}: never");
    }
}

/// What is on record of a job, nobody having the store open: its text, its file, and that it is made.
fn left(store: &Path) -> [bool; 3] {
    let contents = Store::open(store).unwrap().contents().unwrap();
    [contents.jobs.len() == 1, is_stored(store), contents.made.len() == 1]
}

/// True if there is one whole file more than the checkpoint, the text and the tokenizer.
fn is_stored(store: &Path) -> bool {
    let files = std::fs::read_dir(Artifacts::of(store).folder()).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let hashes: Vec<ContentHash> = names.filter_map(|name| name.parse().ok()).collect();
    assert!(hashes.iter().all(|hash| Artifacts::of(store).has(hash)), "a file is not what its name says");
    hashes.len() == 4
}

#[test]
fn a_job_is_made_whoever_dies_at_whichever_point_of_its_way_and_not_again_once_it_was_reported() {
    // Where the coordinator dies, what it leaves, and how often the job is given out until it is made. The first commit is of
    // the job, the second of what it made.
    let points = [
        ("before-commit:1", [false, false, false], 1..=2),
        ("after-commit:1", [true, false, false], 1..=2),
        ("artifact-stored:1", [true, true, false], 2..=2),
        // Its worker has the result in hand, and brings it.
        ("before-commit:2", [true, true, false], 1..=1),
        ("after-commit:2", [true, true, true], 1..=1),
        // Here it is the worker that dies.
        ("artifact-put:1", [true, true, false], 2..=2),
    ];
    let mut here = MadeHere::default();
    for (seed, (point, leaves, times)) in (0..).zip(points) {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::new(seed, folder.path());
        let of_worker = (point == "artifact-put:1").then_some(point);
        let of_coordinator = of_worker.is_none().then(|| point.to_owned());
        assert!(cluster.start_coordinator(of_coordinator), "{point}");
        let worker = cluster.start_worker(0, of_worker);
        cluster.workers.push(worker);
        let spec = [&RANGES[..], &["--set", "task.windows=2"]].concat();
        let submitting = Submitting::start(&spec, &cluster.url());
        let store = cluster.store();
        if of_worker.is_some() {
            let status = cluster.wait_for_end(cluster.workers[0].number);
            cluster.note_worker(status);
            assert!(is_stored(&store), "{point}");
            cluster.workers[0] = cluster.start_worker(0, None);
        } else {
            let status = cluster.wait_for_end(cluster.coordinator.as_ref().unwrap().number);
            cluster.note_crash(status);
            assert_eq!(left(&store), leaves, "{point}");
            assert!(cluster.start_coordinator(None), "{point}");
        }
        submitting.wait();
        cluster.stop();
        let contents = cluster.check_store();
        here.check(seed, &contents, &Artifacts::of(&store));
        assert_eq!(cluster.granted.len(), 1, "{point}: {:?}", cluster.granted);
        let granted = cluster.granted.values().sum::<u32>();
        assert!(times.contains(&granted), "{point}: given out {granted} times");
        assert!(cluster.recorded.values().all(|recorded| *recorded == 1), "{point}: {:?}", cluster.recorded);
        assert_eq!(cluster.kills, 1, "{point}");
    }
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
