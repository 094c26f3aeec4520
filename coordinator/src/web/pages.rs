//! Pages, made at most once a second however many people ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use askama::Template;
use qslm_report::page::{self, render};
use qslm_report::words::{date, grouped, lost_briefly, percent, rate};
use tokio::sync::Mutex as AsyncMutex;

use crate::driver::{Event, ExperimentStatus, Handle, JobState, JobUnderWay, Refusal, State, WorkerStatus};

/// Age up to which a page is shown again instead of being made again.
const FRESH: Duration = Duration::from_millis(900);
/// Experiments whose pages are kept at hand.
const KEPT: usize = 64;

/// Subject of a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Content {
    /// All experiments.
    Experiments,
    /// Workers, jobs and events.
    Workers,
    /// The experiment of this id.
    Experiment(String),
}

/// The pages as they were last made.
pub(super) struct Pages {
    driver: Handle,
    made: Mutex<HashMap<Content, Arc<Slot>>>,
}

/// A page with the time at which it was made. Whoever makes it holds the lock, so that the others wait for that.
type Slot = AsyncMutex<Option<(Instant, Arc<str>)>>;

impl Pages {
    pub(super) fn new(driver: Handle) -> Self {
        Self { driver, made: Mutex::default() }
    }

    /// Body of a page, at most a second old.
    pub(super) async fn get(&self, content: &Content) -> Result<Arc<str>, Refusal> {
        let slot = self.slot(content);
        let mut slot = slot.lock().await;
        if let Some((at, body)) = &*slot
            && at.elapsed() < FRESH
        {
            return Ok(body.clone());
        }
        let body: Arc<str> = self.make(content).await?.into();
        *slot = Some((Instant::now(), body.clone()));
        Ok(body)
    }

    fn slot(&self, content: &Content) -> Arc<Slot> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() > KEPT && !made.contains_key(content) {
            made.clear();
        }
        made.entry(content.clone()).or_default().clone()
    }

    async fn make(&self, content: &Content) -> Result<String, Refusal> {
        match content {
            Content::Experiments => {
                let experiments = self.driver.list().await?;
                let problem = |status: &ExperimentStatus| {
                    status.absence.words().map(|words| format!("{}: {words}", status.id))
                };
                Ok(render(&ExperimentsBody {
                    columns: COLUMNS,
                    problems: experiments.iter().filter_map(problem).collect(),
                    experiments: experiments.iter().map(ExperimentRow::new).collect(),
                }))
            }
            Content::Workers => {
                let cluster = self.driver.cluster().await?;
                let workers = cluster.workers.iter().map(worker_row).collect();
                let events = cluster.events.iter().rev().map(event_row).collect();
                let jobs = cluster.jobs.iter().map(job_row).collect();
                Ok(render(&WorkersBody { workers, jobs, events }))
            }
            Content::Experiment(id) => {
                let report = self.driver.describe(id.clone()).await?;
                let id = report.id.clone();
                // Plots of thousands of spots take their time, and others want to be served.
                let body = tokio::task::spawn_blocking(move || page::body(&report));
                let body = body.await.map_err(|_| Refusal::Stopping)?;
                Ok(render(&ExperimentBody { id: &id, body: &body }))
            }
        }
    }
}

#[derive(Template)]
#[template(path = "experiments.html")]
struct ExperimentsBody {
    columns: [&'static str; COLUMNS.len()],
    experiments: Vec<ExperimentRow>,
    /// Sentences about what holds some of them up.
    problems: Vec<String>,
}

struct ExperimentRow {
    id: String,
    /// State in words; the list has them up to a parenthesis.
    state: &'static str,
    /// Candidates settled, and at most to be settled.
    settled: u64,
    of: u64,
    /// Values in the order of [`COLUMNS`].
    cells: [(&'static str, String); COLUMNS.len()],
}

/// Headings of the columns behind the progress.
const COLUMNS: [&str; 9] =
    ["stage", "measured", "failed", "front", "saved", "loss", "tokens/s", "priority", "since (UTC)"];

impl ExperimentRow {
    fn badge(&self) -> &str {
        self.state.split(" (").next().unwrap_or_default()
    }

    fn new(status: &ExperimentStatus) -> Self {
        let best = status.summary.best.as_ref();
        let is_unmet = status.state == State::Finished && !status.summary.unmet.is_empty();
        let settled = status.measured + status.failed + status.pruned;
        let open = u64::from(status.generation_trials.saturating_sub(status.generation_settled));
        let ahead = if status.state.has_ended() { 0 } else { open + status.remaining_at_most.unwrap_or(0) };
        let values = [
            status.stage.to_owned(),
            grouped(status.measured),
            grouped(status.failed),
            grouped(status.summary.front.into()),
            best.map_or(String::new(), |best| percent(best.saving)),
            best.map_or(String::new(), |best| lost_briefly(best.kind, best.quality_loss)),
            rate(status.tokens_per_second),
            status.priority.to_string(),
            // Whoever wants to know the second finds it on the experiment's own page.
            status.started_unix_ms.map_or(String::new(), |at| date(at)[..16].to_owned()),
        ];
        Self {
            id: status.id.clone(),
            state: match status.condition() {
                _ if is_unmet => "unmet",
                Some(condition) => condition,
                None => status.state.name(),
            },
            settled,
            of: (settled + ahead).max(1),
            cells: std::array::from_fn(|at| (COLUMNS[at], values[at].clone())),
        }
    }
}

/// The page of an experiment with what can be taken along.
#[derive(Template)]
#[template(path = "experiment.html")]
struct ExperimentBody<'a> {
    id: &'a str,
    body: &'a str,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersBody {
    workers: Vec<[String; 9]>,
    jobs: Vec<[String; 6]>,
    events: Vec<[String; 3]>,
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn job_row(job: &JobUnderWay) -> [String; 6] {
    let (state, workers, steps) = match &job.status.state {
        JobState::Waiting => ("waits for other jobs", String::new(), String::new()),
        JobState::Leased { workers, progress } => {
            let steps = progress.map_or(String::new(), |(done, of)| format!("{done} of {of}"));
            ("under way", workers.join(", "), steps)
        }
        _ => ("waits for a worker", String::new(), String::new()),
    };
    let whose = if job.experiments.is_empty() { "people".to_owned() } else { job.experiments.join(", ") };
    let leased = job.leased.map_or(String::new(), seconds);
    [job.text.clone(), whose, state.to_owned(), workers, leased, steps]
}

fn worker_row(worker: &WorkerStatus) -> [String; 9] {
    [
        worker.name.clone(),
        seconds(worker.present),
        // A worker reports every few seconds; how many of them just passed would change the page all the time.
        if worker.silent < Duration::from_secs(10) {
            "now".to_owned()
        } else {
            seconds(worker.silent) + " ago"
        },
        format!("{} of {}", worker.holding, worker.capacity),
        grouped(worker.measured),
        grouped(worker.failed),
        rate(worker.tokens_per_second),
        worker.experiment.clone().unwrap_or_default(),
        match (&worker.last_fault, worker.set_aside) {
            (None, _) => String::new(),
            (Some(fault), 0) => fault.clone(),
            (Some(fault), _) => format!("set aside: {fault}"),
        },
    ]
}

fn event_row(event: &Event) -> [String; 3] {
    [date(event.unix_ms), event.experiment.clone(), event.text.clone()]
}
