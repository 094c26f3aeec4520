//! A coordinator and its workers under fire: what is done to them, and what they said that they have done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use qslm_coordinator::store::{Artifacts, Contents, Store};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::process::{Process, Said, is_crash};
use crate::support::proxy::{Proxy, Weather};
use crate::support::{program, qslm};

const WORKERS: usize = 3;
/// A round that takes longer does not come to its end.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A coordinator and its workers.
pub struct Cluster {
    pub seed: u64,
    pub rng: ChaCha8Rng,
    pub folder: PathBuf,
    pub address: SocketAddr,
    pub proxy: Proxy,
    pub sender: Sender<(u64, Said)>,
    pub said: Receiver<(u64, Said)>,
    pub started: u64,
    pub coordinator: Option<Process>,
    pub workers: Vec<Process>,
    pub acknowledged: BTreeSet<(String, u32, u32)>,
    /// Number of times that each trial and each job was recorded.
    pub recorded: BTreeMap<String, u32>,
    /// Number of times that each job was given out.
    pub granted: BTreeMap<String, u32>,
    /// Trials and jobs on record, each with the number of the first process that may know.
    pub made: BTreeMap<String, u64>,
    /// True while jobs are under way.
    pub making: bool,
    pub kills: u32,
    /// Seconds after which a silent worker's leases are given to others.
    pub lease_ttl_s: u32,
    /// Number of times that each thing was done, by its name.
    pub done: BTreeMap<&'static str, u32>,
    pub begun: Instant,
}

impl Cluster {
    /// A coordinator and its workers at work.
    pub fn start(seed: u64, folder: &Path) -> Self {
        let mut cluster = Self::new(seed, folder);
        cluster.start_coordinator(None);
        for index in 0..WORKERS {
            let worker = cluster.start_worker(index, None);
            cluster.workers.push(worker);
        }
        cluster
    }

    /// Nobody yet.
    pub fn new(seed: u64, folder: &Path) -> Self {
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
            lease_ttl_s: 1,
            done: BTreeMap::new(),
            begun: Instant::now(),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("s.redb")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the coordinator, which may be told to die at some point; `false` if it died before it listened.
    pub fn start_coordinator(&mut self, crash_at: Option<String>) -> bool {
        let mut command = Command::new(program("qslm-coordinator"));
        command.args(["--listen", &self.address.to_string(), "--web", "off"]);
        command.args(["--lease-ttl-s", &self.lease_ttl_s.to_string()]);
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
    pub fn start_worker(&mut self, index: usize, crash_at: Option<&str>) -> Process {
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
    pub fn wait_for(&mut self, number: u64, words: &Said) -> bool {
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

    pub fn has_ended(&mut self, number: u64) -> bool {
        let mut all = self.coordinator.iter_mut().chain(&mut self.workers);
        let this = all.find(|process| process.number == number);
        this.is_some_and(|process| process.child.try_wait().unwrap().is_some())
    }

    /// Waits until a process has ended.
    pub fn wait_for_end(&mut self, number: u64) -> ExitStatus {
        while !self.has_ended(number) {
            self.let_time_pass(20);
            assert!(self.begun.elapsed() < PATIENCE, "seed {}: nobody dies", self.seed);
        }
        let mut all = self.coordinator.iter_mut().chain(&mut self.workers);
        all.find(|process| process.number == number).unwrap().wait()
    }

    pub fn note(&mut self, from: u64, said: Said) {
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
    pub fn let_work(&mut self) {
        let wanted = self.acknowledged.len() + self.rng.random_range(0..6);
        let until = Instant::now() + Duration::from_millis(self.rng.random_range(50..700));
        while self.acknowledged.len() <= wanted {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((from, said)) => self.note(from, said),
                Err(_) => return,
            }
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    pub fn count_kill(&mut self) {
        self.kills += 1;
        if self.making {
            self.count("killed while jobs were under way");
        }
    }

    /// One fault.
    pub fn strike(&mut self) {
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
    pub fn replace_dead(&mut self) {
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

    pub fn crash_point(&mut self) -> String {
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
    pub fn keep_coordinator(&mut self, crash_at: Option<String>) {
        if !self.start_coordinator(crash_at) {
            let status = self.coordinator.take().unwrap().wait();
            self.note_crash(status);
            assert!(self.start_coordinator(None), "seed {}: the coordinator does not start", self.seed);
        }
    }

    pub fn note_crash(&mut self, status: ExitStatus) {
        assert!(is_crash(status), "seed {}: nobody killed the coordinator: {status}", self.seed);
        self.count("coordinator crashed at a point");
        self.count_kill();
        self.coordinator = None;
        self.check_store();
    }

    /// A worker has ended: it was told to, or died at its point.
    pub fn note_worker(&mut self, status: ExitStatus) {
        if is_crash(status) {
            self.count("worker crashed at a point");
            self.count_kill();
        } else {
            self.count("worker ended");
            assert_eq!(status.code(), Some(0), "seed {}: nobody killed the worker: {status}", self.seed);
        }
    }

    pub fn let_time_pass(&mut self, millis: u64) {
        let until = Instant::now() + Duration::from_millis(millis);
        while let Ok((from, said)) = self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.note(from, said);
        }
    }

    /// Whatever was acknowledged is in the store. Nobody may have it open.
    pub fn check_store(&mut self) -> Contents {
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

    pub fn is_finished(&self, id: &str) -> bool {
        let get = ["get", id, "--coordinator", &self.url(), "--connect-timeout", "0", "--output", "json"];
        let output = qslm(&get);
        // The coordinator may just have died.
        let status: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        status.is_ok_and(|status| status["state"] == "finished")
    }

    /// Ends everything in good order.
    pub fn stop(&mut self) {
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
