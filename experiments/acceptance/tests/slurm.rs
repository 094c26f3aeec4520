//! The scripts for Slurm on a real one: controller, node and authentication on this machine, on ports of their own. The sweep
//! and one of its workers are queued again in the middle, and the answer is that of one process. Needs root, as Slurm does
//! that runs jobs.
#![allow(clippy::disallowed_methods, reason = "waits for what a scheduler does")]
#![expect(clippy::disallowed_macros, reason = "what a test prints is shown by its harness")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use qslm_acceptance::{one_process, program, root};
use serde_json::Value;

/// Time that anything may take that Slurm does: a job that is queued again begins when its last credential has run out.
const PATIENCE: Duration = Duration::from_secs(300);
const PROGRAMS: [&str; 3] = ["munged", "slurmctld", "slurmd"];

/// A cluster of one node.
struct Slurm {
    folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where a program of the system lies, which is not in everybody's `PATH`.
fn found(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

impl Slurm {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Of whoever asks, too, as the socket is.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("munge.key"), [7; 128]).unwrap();
        std::fs::set_permissions(at("munge.key"), PermissionsExt::from_mode(0o400)).unwrap();
        let host = String::from_utf8(Command::new("hostname").output().unwrap().stdout).unwrap();
        let (host, place) = (host.trim(), folder.path().display());
        let (controller, node) = (free_port(), free_port());
        let settings = format!(
            "ClusterName=one\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={controller}\nSlurmdPort={node}\n\
             SlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\nAuthInfo=socket={place}/munge.socket,cred_expire=10\n\
             StateSaveLocation={place}/state\nSlurmdSpoolDir={place}/spool\nSlurmctldPidFile={place}/slurmctld.pid\n\
             SlurmdPidFile={place}/slurmd.pid\nProctrackType=proctrack/pgid\nTaskPlugin=task/none\nMpiDefault=none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8192 State=UNKNOWN\n\
             PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
        );
        std::fs::write(at("slurm.conf"), settings).unwrap();
        for folder in ["state", "spool"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        let mut slurm = Self { folder, daemons: Vec::new() };
        let (socket, key) = (slurm.at("munge.socket"), slurm.at("munge.key"));
        let (seed, pid, log) = (slurm.at("munge.seed"), slurm.at("munge.pid"), slurm.at("munge.log"));
        let of_munge = |name: &str, path: &Path| format!("--{name}={}", path.display());
        slurm.daemon(
            "munged",
            &[
                "--foreground".to_owned(),
                "--force".to_owned(),
                of_munge("socket", &socket),
                of_munge("key-file", &key),
                of_munge("seed-file", &seed),
                of_munge("pid-file", &pid),
                of_munge("log-file", &log),
            ],
        );
        slurm.until("munged listens", || socket.exists().then_some(()));
        slurm.daemon("slurmctld", &["-D".to_owned()]);
        slurm.daemon("slurmd", &["-D".to_owned()]);
        slurm.until("the node is idle", || {
            let states = slurm.ask("sinfo", &["--noheader", "--format=%T"]).stdout;
            String::from_utf8_lossy(&states).contains("idle").then_some(())
        });
        slurm
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn daemon(&mut self, name: &str, arguments: &[String]) {
        let mut command = Command::new(found(name).unwrap());
        command.args(arguments).env("SLURM_CONF", self.at("slurm.conf"));
        let log = std::fs::File::create(self.at(&format!("{name}.out"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.daemons.push(command.spawn().unwrap());
    }

    fn ask(&self, command: &str, arguments: &[&str]) -> Output {
        let programs = program("qslm").parent().unwrap().to_owned();
        let path = std::env::var("PATH").unwrap();
        Command::new(command)
            .args(arguments)
            .current_dir(root())
            .env("SLURM_CONF", self.at("slurm.conf"))
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("QSLM_PORT", "7577")
            .output()
            .unwrap()
    }

    fn succeed(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.ask(command, arguments);
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Queues a script; the number of its job.
    fn submit(&self, more: &[&str], script: &str, arguments: &[&str]) -> String {
        let log = format!("--output={}/{script}-%A_%a.log", self.folder.path().display());
        let script = format!("experiments/slurm/{script}");
        self.succeed("sbatch", &[&["--parsable", &log], more, &[&script], arguments].concat())
    }

    /// State of a job, with its exit code.
    fn job(&self, job: &str, field: &str) -> String {
        let shown = self.succeed("scontrol", &["--oneliner", "show", "job", job]);
        let field = format!("{field}=");
        let word = shown.split_whitespace().find_map(|word| word.strip_prefix(field.as_str()));
        word.unwrap_or_else(|| panic!("{field} {shown}")).to_owned()
    }

    fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if begun.elapsed() > PATIENCE {
                panic!("{what}: not within {PATIENCE:?}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What everybody logged.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log" || end == "out"));
        logs.map(|path| {
            format!("{}:\n{}\n", path.display(), std::fs::read_to_string(&path).unwrap_or_default())
        })
        .collect()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Jobs are not the node's children for long.
        let _ = self.ask("scancel", &["--user=root"]);
        for daemon in self.daemons.iter_mut().rev() {
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn a_sweep_whose_jobs_are_queued_again_finds_what_one_process_finds() {
    if let Some(missing) = PROGRAMS.iter().find(|name| found(name).is_none()) {
        eprintln!("SKIPPED: no {missing}. Install slurm-wlm to run this.");
        return;
    }
    let slurm = Slurm::start();
    let sweep = slurm.at("sweep");
    let folder = sweep.to_str().unwrap();
    let workers = slurm.submit(&["--array=0-2", "--cpus-per-task=1"], "workers.sbatch", &[folder]);
    let small = ["--mem=512M"];
    let job = slurm.submit(&small, "sweep.sbatch", &["experiments/specs/plain.toml", folder]);
    let log = |script: &str, job: &str| {
        let files = std::fs::read_dir(slurm.folder.path()).unwrap().map(|file| file.unwrap().path());
        let of_job = |path: &PathBuf| {
            path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{script}-{job}_"))
        };
        files.filter(of_job).map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    // When there is something to lose.
    slurm.until("workers have fetched the model", || {
        log("workers.sbatch", &workers).contains("fetched").then_some(())
    });
    eprintln!("the sweep runs as job {job}, its workers as {workers}");
    slurm.succeed("scontrol", &["requeue", &job]);
    slurm.succeed("scontrol", &["requeue", &format!("{workers}_1")]);
    slurm.until("the sweep is done", || {
        let state = slurm.job(&job, "JobState");
        assert!(state != "FAILED" && state != "CANCELLED", "{state}\n{}", slurm.logs());
        (state == "COMPLETED").then_some(())
    });
    assert_eq!(slurm.job(&job, "Restarts"), "1");
    eprintln!("the sweep was queued again, went on, and is done");
    for task in 0..3 {
        let task = format!("{workers}_{task}");
        slurm.until("a worker ends", || {
            let state = slurm.job(&task, "JobState");
            assert!(state != "FAILED" && state != "CANCELLED", "{task}: {state}\n{}", slurm.logs());
            (state == "COMPLETED").then_some(())
        });
    }
    eprintln!("all workers have ended by themselves, also the one that was queued again");
    let front = std::fs::read_to_string(sweep.join("front.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&front).unwrap(), one_process());
    for file in ["report.html", "export.csv", "packed.safetensors", "done"] {
        assert!(sweep.join(file).exists(), "{file}");
    }
}
