//! Status of experiments, workers and jobs, as the driver tells it; [`crate::rpc`] puts it on the wire.

use std::time::Duration;

use qslm_common::candidate::CandidateId;
use qslm_common::demands::{Capabilities, Demands};
use qslm_common::hash::ContentHash;
use qslm_common::job::JobKey;
use qslm_common::quality::Quality;
use qslm_common::work::{Made, WorkKey};

use qslm_report::condition::{Work, of_running};

use super::absence::WorkerAbsence;
use crate::ledger::{OpenJob, ShardCounts};

/// State of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Workers are wanted.
    Running,
    /// Workers are wanted, and all that may evaluate it are set aside.
    Stuck,
    /// Interrupted: its store is read, and no coordinator has it open.
    Interrupted,
    /// Held up by a person, or because it is for another engine.
    Paused,
    /// Finished: everything that the search wants to know is known.
    Finished,
    /// Ended by a person.
    Cancelled,
}

impl State {
    /// Name, as metrics and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stuck => "stuck",
            Self::Interrupted => "interrupted",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
        }
    }

    /// True if it is finished or cancelled: nothing more is to be expected, unless a person changes that.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Finished | Self::Cancelled)
    }
}

/// Numbers of workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Workers heard of within a lease's time.
    pub present: u32,
    /// Number of these that may evaluate the experiment.
    pub suitable: u32,
    /// Number of the suitable ones that are set aside: their circuit breakers are open.
    pub set_aside: u32,
}

/// Summary of an archive.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Candidates on the front.
    pub front: u32,
    /// Hypervolume of the front; `None` without a float model.
    pub hypervolume: Option<f64>,
    /// The best candidate so far that meets the constraints.
    pub best: Option<Best>,
    /// What is nearest to each bound, in sentences, while no candidate meets all of them; else empty.
    pub unmet: String,
}

/// The best candidate so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Id of the candidate.
    pub candidate: CandidateId,
    /// Share of the float model's bytes that it saves, 0 to 1.
    pub saving: f64,
    /// Kind of the quality.
    pub kind: Quality,
    /// Perplexity or accuracy.
    pub quality: f64,
    /// Share of the float model's quality that it loses.
    pub quality_loss: f64,
    /// 95 % interval of the loss; `None` where the spread is not known.
    pub quality_loss_interval: Option<(f64, f64)>,
}

/// Status of an experiment.
// One field for each thing that people see of it: what belongs together in the code is grouped.
#[derive(Debug, Clone, PartialEq)]
pub struct ExperimentStatus {
    /// Id of the experiment.
    pub id: String,
    /// State.
    pub state: State,
    /// False if graphics cards measure or train; see [`qslm_common::experiment::Experiment::is_reproducible`].
    pub is_reproducible: bool,
    /// Stage of the search; empty before the first.
    pub stage: &'static str,
    /// Trials of the generation that are settled, or jobs that are done in its place.
    pub generation_settled: u32,
    /// Trials of the generation, or jobs that are done in its place.
    pub generation_trials: u32,
    /// Candidates measured, whenever that was.
    pub measured: u64,
    /// Trials and jobs that failed.
    pub failed: u64,
    /// Candidates that were pruned.
    pub pruned: u64,
    /// Shards of pruned trials that nobody had to evaluate.
    pub shards_spared: u64,
    /// Trials measured on a subset of the data since the coordinator started.
    pub probed: u64,
    /// Shards of open trials.
    pub shards: ShardCounts,
    /// Shards settled since the coordinator started.
    pub shards_settled: u64,
    /// Trials measured since the coordinator started.
    pub evaluated: u64,
    /// Workers.
    pub workers: WorkerCounts,
    /// Tokens that went through the network per second, lately.
    pub tokens_per_second: f64,
    /// Summary of the archive so far.
    pub summary: Summary,
    /// The most candidates that the search may still propose after the generation, if that can be told.
    pub remaining_at_most: Option<u64>,
    /// Number of these that it will propose, about, as searches like it did; `None` where nothing is known of such.
    pub remaining_about: Option<u64>,
    /// Time of the first result, in milliseconds since 1970; `None` before it.
    pub started_unix_ms: Option<u64>,
    /// Different reasons of failed trials, some of them.
    pub failures: Vec<String>,
    /// Priority.
    pub priority: i32,
    /// Demands on the workers that may evaluate it.
    pub demands: Demands,
    /// Reason why no worker can go on with it; empty while one can.
    pub stuck: String,
    /// Absence of workers that may evaluate it.
    pub absence: WorkerAbsence,
    /// Failures that were opened again.
    pub retried: u64,
    /// Generations that it was told from outside.
    pub told: u64,
    /// Failed trials and jobs with their reasons, some of them.
    pub failed_trials: Vec<(WorkKey, String)>,
}

impl ExperimentStatus {
    /// What it waits for, while workers are wanted and nobody works on it.
    pub fn condition(&self) -> Option<&'static str> {
        let ShardCounts { pending, leased, .. } = self.shards;
        let work = Work { suitable_workers: self.workers.suitable, pending, leased };
        of_running(work).filter(|_| self.state == State::Running)
    }

    /// The same with an estimate of what is still to come, if it is known what share searches like it visit.
    pub(super) fn with_share(self, share: Option<f64>) -> Self {
        let about = share.zip(self.remaining_at_most);
        let remaining_about = about.map(|(share, remaining)| (share * remaining as f64).ceil() as u64);
        Self { remaining_about, ..self }
    }
}

/// Status of a worker, as people see it.
// One field for each thing that people see.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStatus {
    /// Name of the worker.
    pub name: String,
    /// Time since its first report.
    pub present: Duration,
    /// Time since its last report.
    pub silent: Duration,
    /// Evaluations that it may have in hand.
    pub capacity: u64,
    /// Leases that it listed last.
    pub holding: u32,
    /// The only experiment that it works for, if it does.
    pub experiment: Option<String>,
    /// Capabilities, as it reported them last.
    pub capabilities: Capabilities,
    /// Shards that it measured.
    pub measured: u64,
    /// Shards that it could not measure.
    pub failed: u64,
    /// Faults of its own: shards that it could not measure because of its machine, and leases that ran out in
    /// its hands.
    pub faults: u64,
    /// The last such reason, while it had no result since.
    pub last_fault: Option<String>,
    /// Experiments for which it is set aside.
    pub set_aside: u32,
    /// Tokens that it evaluates per second, lately.
    pub tokens_per_second: f64,
}

/// Status of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStatus {
    /// The job.
    pub key: JobKey,
    /// State of the job.
    pub state: JobState,
}

impl JobStatus {
    /// The job with its artifact, once it is made.
    pub fn made(&self) -> Option<(JobKey, ContentHash)> {
        match &self.state {
            JobState::Made(made) => Some((self.key, made.artifact)),
            _ => None,
        }
    }
}

/// State of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    /// Waiting for the artifacts of others.
    Waiting,
    /// Pending: no worker has it.
    Pending,
    /// Leased: who does it, and how far whoever is further is (steps done, of so many).
    Leased {
        /// The workers.
        workers: Vec<String>,
        /// Steps done, of so many; `None` before the first.
        progress: Option<(u64, u64)>,
    },
    /// Made: its artifact.
    Made(Made),
    /// Failed, for this reason.
    Failed(String),
}

/// Job that is under way, as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobUnderWay {
    /// Status of the job.
    pub status: JobStatus,
    /// Kind and parameters in a few words.
    pub text: String,
    /// Experiments that it is for; none if people alone asked for it.
    pub experiments: Vec<String>,
    /// Time that whoever has it has had it.
    pub leased: Option<Duration>,
}

/// Open jobs by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs that wait for the artifacts of others.
    pub waiting: u32,
    /// Jobs that wait for a worker.
    pub pending: u32,
    /// Jobs that workers do.
    pub leased: u32,
}

/// What is known of jobs that people asked for, and how many workers could do them all.
#[derive(Debug, Clone, PartialEq)]
pub struct Making {
    /// Status of each job, in the order in which they were asked for.
    pub jobs: Vec<JobStatus>,
    /// Workers heard of within a lease's time that are able to do the kinds of all of them.
    pub able_workers: u32,
}

impl From<OpenJob> for JobState {
    fn from(open: OpenJob) -> Self {
        match open {
            OpenJob { waits: true, .. } => Self::Waiting,
            OpenJob { workers, .. } if workers.is_empty() => Self::Pending,
            OpenJob { workers, progress, .. } => Self::Leased { workers, progress },
        }
    }
}
