//! Processes that may be killed, and what of their log lines matters.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use crate::support::root;

/// Log lines of a program that matter here.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
pub enum Said {
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
pub struct Process {
    pub child: Child,
    pub number: u64,
    pub reader: Option<JoinHandle<()>>,
}

impl Process {
    pub fn start(command: &mut Command, number: u64, said: &Sender<(u64, Said)>) -> Self {
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

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {name}");
    }

    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits for the end, and for all that it said before.
    pub fn wait(&mut self) -> ExitStatus {
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

pub fn understand(line: &str) -> Option<Said> {
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

/// True for a process that died at the point that it was told.
pub fn is_crash(status: ExitStatus) -> bool {
    const SIGABRT: i32 = 6;
    status.signal() == Some(SIGABRT)
}
