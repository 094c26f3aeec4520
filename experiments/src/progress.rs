//! Progress of an experiment while it runs: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qslm_common::quality::Quality;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{Best, ExperimentStatus};
use qslm_report::condition::{Work, of_running, without_worker};
use qslm_report::pace;
use qslm_report::words::{loss_with_interval, speed};

/// Longest time between two lines; they come at a change of stage, too.
pub const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows statuses as they come in, on standard error.
pub struct Progress {
    started: Instant,
    bar: Option<ProgressBar>,
    /// True if anyone wants to see any of it.
    shown: bool,
    last_line: Option<(Instant, String)>,
    /// Reason why it was stuck when that was told last.
    stuck: String,
    /// True if it was told that there is no worker.
    told_idle: bool,
    /// Minutes without a worker when that was told last.
    told_minutes: u64,
}

impl Progress {
    /// Bar or lines, as standard error is a terminal or not.
    pub fn new() -> Self {
        let bar = bar("{spinner} {prefix:21} [{bar:24}] {pos} of at most {len} candidates\n  {wide_msg}");
        Self {
            started: Instant::now(),
            bar,
            shown: is_shown(),
            last_line: None,
            stuck: String::new(),
            told_idle: false,
            told_minutes: 0,
        }
    }

    /// Shows a status.
    pub fn show(&mut self, status: &ExperimentStatus) {
        self.tell_stuck(status);
        self.tell_absence(status);
        let ahead = ahead(status);
        let left = ahead.and_then(|ahead| self.time_left(status, ahead));
        if let Some(bar) = &self.bar {
            let settled = status.measured + status.failed + status.stopped;
            bar.set_length(settled + ahead.unwrap_or(0));
            bar.set_position(settled);
            bar.set_prefix(status.stage.clone());
            bar.set_message(describe(status, left));
            return;
        }
        let due = |(at, stage): &(Instant, String)| *stage != status.stage || at.elapsed() >= LINE_EVERY;
        if self.shown && self.last_line.as_ref().is_none_or(due) {
            self.last_line = Some((Instant::now(), status.stage.clone()));
            let (settled, of) = (status.generation_settled, status.generation_trials);
            let words = describe(status, left);
            qslm_program::say(format_args!("{:21} {settled}/{of}  {words}", status.stage));
        }
    }

    /// Says that nothing goes on any more, and why; and that it goes on again.
    fn tell_stuck(&mut self, status: &ExperimentStatus) {
        if self.stuck == status.stuck {
            return;
        }
        status.stuck.clone_into(&mut self.stuck);
        match self.stuck.as_str() {
            "" => tracing::warn!("{} goes on", status.id),
            reason => tracing::warn!("{} is stuck, waiting: {reason}", status.id),
        }
    }

    /// Says that no worker is there, after a minute, two, four, and so on.
    fn tell_absence(&mut self, status: &ExperimentStatus) {
        let minutes = status.without_worker_ms / 60_000;
        if minutes >= (2 * self.told_minutes).max(1) {
            let words = absence(status).unwrap_or_default();
            tracing::warn!("{}: {words}", status.id);
        } else if minutes >= self.told_minutes {
            return;
        }
        self.told_minutes = minutes;
    }

    /// Says once, as long as it lasts, that no worker is there, and how to start one. To be called when nothing has changed for
    /// a while.
    pub fn tell_idle(&mut self, status: &ExperimentStatus) {
        let is_idle = status.state() == State::Running && status.suitable_workers == 0;
        if is_idle && !std::mem::replace(&mut self.told_idle, is_idle) {
            let words = match status.workers {
                0 => "no worker has reported".to_owned(),
                workers => format!("none of {workers} workers may evaluate it"),
            };
            tracing::warn!("{}: {words}; start one: qslm-worker --coordinator URL", status.id);
        }
        self.told_idle = is_idle;
    }

    /// Time left at the pace so far: `about 25 s left (at most 85 s)`, by what searches like it visited, where that is known,
    /// and by what is ahead at most.
    fn time_left(&self, status: &ExperimentStatus, ahead: u64) -> Option<String> {
        if status.evaluated == 0 {
            return None;
        }
        let pace = Duration::from_secs_f64(self.started.elapsed().as_secs_f64() / status.evaluated as f64);
        Some(pace::left(pace, about(status), ahead))
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// True if anyone wants to see progress: `--quiet` leaves errors only.
pub fn is_shown() -> bool {
    tracing::enabled!(tracing::Level::WARN)
}

/// A bar on standard error, if that is a terminal and anyone wants to see it.
pub fn bar(template: &str) -> Option<ProgressBar> {
    (is_shown() && std::io::stderr().is_terminal()).then(|| {
        // A template that does not parse would be this program's mistake; the default one serves too.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    })
}

/// Candidates that are still to be measured, at most: of this generation and of those that may follow.
pub fn ahead(status: &ExperimentStatus) -> Option<u64> {
    Some(open(status) + status.remaining_at_most?)
}

/// Candidates that are still to be measured, about, as searches like it did.
pub fn about(status: &ExperimentStatus) -> Option<u64> {
    Some(open(status) + status.remaining_about?)
}

/// Candidates of this generation that are still to be measured.
fn open(status: &ExperimentStatus) -> u64 {
    status.generation_trials.saturating_sub(status.generation_settled).into()
}

/// Kind of quality of the best candidate; a coordinator of an earlier version says nothing of it.
pub fn kind_of(best: &Best) -> Quality {
    if best.is_accuracy { Quality::Accuracy } else { Quality::Perplexity }
}

/// State in words: what a running experiment waits for, if it does.
pub fn state(status: &ExperimentStatus) -> String {
    let work = Work {
        suitable_workers: status.suitable_workers,
        pending: status.shards_pending,
        leased: status.shards_leased,
    };
    let condition = of_running(work).filter(|_| status.state() == State::Running);
    condition.map_or_else(|| status.state().as_str_name().to_lowercase(), str::to_owned)
}

/// Sentence about a lack of workers that lasts.
pub fn absence(status: &ExperimentStatus) -> Option<String> {
    without_worker(status.without_worker_ms / 1000, status.vanished_leases)
}

/// An experiment on a line of its own, where several are followed.
pub fn line(status: &ExperimentStatus) -> String {
    let state = state(status);
    format!("{} {state} {}  {}", status.id, status.stage, describe(status, None))
}

/// `best 88.1 % saved at +1.20 %, about 25 s left (at most 85 s), 12 measured, 41000 tokens/s, shards: 2 out, 6 waiting`
fn describe(status: &ExperimentStatus, left: Option<String>) -> String {
    let mut words = Vec::new();
    if let Some(best) = &status.best {
        let loss =
            loss_with_interval(kind_of(best), best.quality_loss, best.quality_loss_interval.map(Into::into));
        words.push(format!("best {:.1} % saved at {loss}", best.saving * 100.0));
    }
    words.extend(left);
    if status.state() == State::Paused {
        words.push("paused".to_owned());
    }
    if status.state() == State::Stuck {
        words.push("stuck".to_owned());
    }
    words.extend(absence(status));
    words.push(format!("{} measured", status.measured));
    if status.stopped > 0 {
        words.push(format!("{} pruned", status.stopped));
    }
    if status.failed > 0 {
        words.push(format!("{} failed", status.failed));
    }
    if status.set_aside_workers > 0 {
        let (aside, all) = (status.set_aside_workers, status.suitable_workers);
        words.push(format!("{aside} of {all} workers set aside"));
    }
    words.push(speed(status.tokens_per_second));
    words.push(format!("shards: {} out, {} waiting", status.shards_leased, status.shards_pending));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_experiment_says_what_it_waits_for() {
        let mut status = ExperimentStatus { state: State::Running.into(), ..Default::default() };
        assert_eq!(state(&status), "no worker");
        status.suitable_workers = 2;
        assert_eq!(state(&status), "running");
        status.shards_pending = 4;
        assert_eq!(state(&status), "waiting (others have priority)");
        status.state = State::Finished.into();
        assert_eq!(state(&status), "finished");
    }

    #[test]
    fn the_time_left_is_told_once_a_candidate_was_measured() {
        let status = |evaluated| ExperimentStatus { evaluated, ..Default::default() };
        assert_eq!(Progress::new().time_left(&status(0), 10), None);
        assert!(Progress::new().time_left(&status(1), 10).unwrap().starts_with("at most "));
    }
}
