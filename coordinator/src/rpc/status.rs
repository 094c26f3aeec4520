//! Status of experiments, jobs and workers on the wire.

use std::time::Duration;

use qslm_common::quality::Quality;
use qslm_common::work::WorkKey;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{
    Best, Event, ExperimentStatus, FailedTrial, JobStatus, JobUnderWay, MakeResponse, WorkerStatus,
    job_status,
};

use crate::driver;

/// Puts what is known of jobs on the wire.
pub fn write_making(making: driver::Making) -> MakeResponse {
    MakeResponse { jobs: making.jobs.into_iter().map(write_job).collect(), able_workers: making.able_workers }
}

/// Puts a job under way on the wire.
pub(super) fn write_job_under_way(job: driver::JobUnderWay) -> JobUnderWay {
    let driver::JobUnderWay { status, text, experiments, leased } = job;
    let leased_ms = leased.map_or(0, |time| time.as_millis() as u64);
    JobUnderWay { status: Some(write_job(status)), text, experiments, leased_ms }
}

fn write_job(status: driver::JobStatus) -> JobStatus {
    use job_status::State;
    let (mut artifact, mut reason, mut workers) = (Vec::new(), String::new(), Vec::new());
    let (mut done, mut of) = (0, 0);
    let state = match status.state {
        driver::JobState::Waiting => State::Waiting,
        driver::JobState::Pending => State::Pending,
        driver::JobState::Leased { workers: by, progress } => {
            workers = by;
            (done, of) = progress.unwrap_or_default();
            State::Leased
        }
        driver::JobState::Made(made) => {
            artifact = made.artifact.as_bytes().to_vec();
            State::Made
        }
        driver::JobState::Failed(words) => {
            reason = words;
            State::Failed
        }
    };
    JobStatus {
        job: status.key.as_bytes().to_vec(),
        state: state.into(),
        artifact,
        reason,
        workers,
        done,
        of,
    }
}

/// Puts the status of an experiment on the wire.
pub fn write_status(status: driver::ExperimentStatus) -> ExperimentStatus {
    ExperimentStatus {
        id: status.id,
        state: write_state(status.state).into(),
        stage: status.stage.to_owned(),
        generation_settled: status.generation_settled,
        generation_trials: status.generation_trials,
        measured: status.measured,
        failed: status.failed,
        stopped: status.pruned,
        shards_spared: status.shards_spared,
        probed: status.probed,
        shards_settled: status.shards.settled,
        shards_leased: status.shards.leased,
        shards_pending: status.shards.pending,
        evaluated: status.evaluated,
        workers: status.workers.present,
        tokens_per_second: status.tokens_per_second,
        front: status.summary.front,
        hypervolume: status.summary.hypervolume,
        best: status.summary.best.map(write_best),
        unmet: status.summary.unmet,
        remaining_at_most: status.remaining_at_most,
        remaining_about: status.remaining_about,
        failures: status.failures,
        priority: status.priority,
        suitable_workers: status.workers.suitable,
        demands: Some(status.demands.into()),
        stuck: status.stuck,
        without_worker_ms: status.absence.without_worker.as_millis() as u64,
        vanished_leases: status.absence.vanished_leases,
        retried: status.retried,
        told: status.told,
        failed_trials: status.failed_trials.into_iter().map(write_failed_trial).collect(),
        set_aside_workers: status.workers.set_aside,
        reproducible: (!status.is_reproducible).then_some(false),
    }
}

fn write_state(state: driver::State) -> State {
    match state {
        driver::State::Running => State::Running,
        driver::State::Stuck => State::Stuck,
        driver::State::Interrupted => State::Interrupted,
        driver::State::Paused => State::Paused,
        driver::State::Finished => State::Finished,
        driver::State::Cancelled => State::Cancelled,
    }
}

fn write_best(best: driver::Best) -> Best {
    let driver::Best { candidate, saving, kind, quality, quality_loss, quality_loss_interval } = best;
    let candidate = candidate.as_bytes().to_vec();
    let quality_loss_interval = quality_loss_interval.map(Into::into);
    Best {
        candidate,
        saving,
        quality,
        quality_loss,
        quality_loss_interval,
        is_accuracy: kind == Quality::Accuracy,
    }
}

fn write_failed_trial((work, reason): (WorkKey, String)) -> FailedTrial {
    FailedTrial { trial: work.as_bytes().to_vec(), reason }
}

/// Puts the status of a worker on the wire.
pub(super) fn write_worker(worker: driver::WorkerStatus) -> WorkerStatus {
    let millis = |time: Duration| time.as_millis() as u64;
    WorkerStatus {
        present_ms: millis(worker.present),
        silent_ms: millis(worker.silent),
        name: worker.name,
        capacity: worker.capacity,
        holding: worker.holding,
        experiment: worker.experiment.unwrap_or_default(),
        measured: worker.measured,
        failed: worker.failed,
        faults: worker.faults,
        last_fault: worker.last_fault.unwrap_or_default(),
        set_aside: worker.set_aside,
        tokens_per_second: worker.tokens_per_second,
        capabilities: Some(worker.capabilities.into()),
    }
}

/// Puts an event on the wire.
pub(super) fn write_event(event: driver::Event) -> Event {
    let driver::Event { number, unix_ms, experiment, text } = event;
    Event { number, unix_ms, experiment, text }
}
