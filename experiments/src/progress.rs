//! What a person sees while an experiment runs: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use qslm_proto::v1::ExperimentStatus;

/// Lines come at a change of tier, and at least this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows statuses as they come in, on standard error.
pub struct Progress {
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Option<(Instant, String)>,
}

impl Progress {
    /// Bar or lines, as standard error is a terminal or not.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{spinner} {prefix:11} [{bar:24}] {pos}/{len}  {wide_msg}";
            // A template that does not parse would be this program's mistake; the default one serves too.
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { started: Instant::now(), bar, last_line: None }
    }

    /// Shows a status.
    pub fn show(&mut self, status: &ExperimentStatus) {
        let left = self.time_left(status);
        if let Some(bar) = &self.bar {
            let settled = u64::from(status.generation_settled);
            bar.set_length(status.generation_trials.into());
            bar.set_position(settled);
            bar.set_prefix(status.stage.clone());
            bar.set_message(describe(status, left));
            return;
        }
        let due = |(at, stage): &(Instant, String)| *stage != status.stage || at.elapsed() >= LINE_EVERY;
        if self.last_line.as_ref().is_none_or(due) {
            self.last_line = Some((Instant::now(), status.stage.clone()));
            let (settled, of) = (status.generation_settled, status.generation_trials);
            eprintln!("{:11} {settled}/{of}  {}", status.stage, describe(status, left));
        }
    }

    /// An upper bound on the time left: what may still be proposed, at the pace so far.
    fn time_left(&self, status: &ExperimentStatus) -> Option<Duration> {
        let open = u64::from(status.generation_trials.saturating_sub(status.generation_settled));
        let remaining = open + status.remaining_at_most?;
        if status.evaluated == 0 {
            return None;
        }
        let pace = self.started.elapsed().as_secs_f64() / status.evaluated as f64;
        Some(Duration::from_secs_f64((pace * remaining as f64).min(1e9)))
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `12 measured  shards 3+2  9,120 tokens/s  < 2 minutes left  best 88.1 % saved at +1.20 %`
fn describe(status: &ExperimentStatus, left: Option<Duration>) -> String {
    let mut words = vec![format!("{} measured", status.measured)];
    if status.failed > 0 {
        words.push(format!("{} failed", status.failed));
    }
    words.push(format!("shards {} out, {} waiting", status.shards_leased, status.shards_pending));
    words.push(format!("{:.0} tokens/s", status.tokens_per_second));
    if let Some(left) = left {
        words.push(format!("at most {} left", HumanDuration(left)));
    }
    if let Some(best) = &status.best {
        words.push(format!("best {:.1} % saved at {:+.2} %", best.saving * 100.0, best.quality_loss * 100.0));
    }
    words.join("  ")
}
