//! Metrics of a coordinator, as a Prometheus server reads them: one table makes the answer and the reference.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use qslm_common::ENGINE_VERSION;
use qslm_transport::gate::Denied;

use crate::driver::{ExperimentStatus, Handle, Refusal, Snapshot, State, WorkerStatus};

/// Experiments that have ended and are shown all the same: the latest.
const ENDED: usize = 20;

/// A metric of a snapshot.
struct Metric {
    name: &'static str,
    help: &'static str,
    counter: bool,
    values: fn(&Snapshot) -> Vec<Value>,
}

/// A value with its labels.
type Value = (Vec<(&'static str, String)>, f64);

const METRICS: &[Metric] = &[
    Metric {
        name: "qslm_shards",
        help: "Shards of the generation under way, by experiment and state: pending, leased",
        counter: false,
        values: |snapshot| {
            let states = |status: &ExperimentStatus| {
                let states = [("pending", status.shards.pending), ("leased", status.shards.leased)];
                let id = status.id.clone();
                states.map(|(state, shards)| {
                    (vec![("experiment", id.clone()), ("state", state.to_owned())], f64::from(shards))
                })
            };
            shown(snapshot).flat_map(states).collect()
        },
    },
    Metric {
        name: "qslm_shards_settled",
        help: "Shards settled since the coordinator started, by experiment: measured, of whatever generation",
        counter: true,
        values: |snapshot| each(snapshot, |status| Some(status.shards_settled as f64)),
    },
    Metric {
        name: "qslm_open_shards",
        help: "Shards and jobs pending or leased, of all experiments and people together: what a pool is scaled by",
        counter: false,
        values: |snapshot| {
            let open = snapshot.experiments.iter().filter(|status| is_open(status));
            let all = open.map(|status| &status.shards).chain([&snapshot.of_people]);
            let all = all.map(|shards| u64::from(shards.pending) + u64::from(shards.leased));
            vec![(vec![], all.sum::<u64>() as f64)]
        },
    },
    Metric {
        name: "qslm_jobs",
        help: "Open jobs by state: waiting (for the artifacts of others), pending, leased",
        counter: false,
        values: |snapshot| {
            let jobs = &snapshot.jobs;
            let states = [("waiting", jobs.waiting), ("pending", jobs.pending), ("leased", jobs.leased)];
            states.map(|(state, jobs)| (vec![("state", state.to_owned())], f64::from(jobs))).to_vec()
        },
    },
    Metric {
        name: "qslm_jobs_ended",
        help: "Jobs that ended, by outcome: made (their artifacts), failed",
        counter: true,
        values: |snapshot| {
            let outcomes = [("made", snapshot.tally.jobs_made), ("failed", snapshot.tally.jobs_failed)];
            outcomes.map(|(outcome, jobs)| (vec![("outcome", outcome.to_owned())], jobs as f64)).to_vec()
        },
    },
    Metric {
        name: "qslm_trials_measured",
        help: "Trials measured and on record, by experiment",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.measured as f64)),
    },
    Metric {
        name: "qslm_trials_failed",
        help: "Failed trials, which could not be measured, by experiment",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.failed as f64)),
    },
    Metric {
        name: "qslm_trials_stopped",
        help: "Pruned trials, which racing ended early because they lose too much quality, by experiment",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.pruned as f64)),
    },
    Metric {
        name: "qslm_front_size",
        help: "Size of the front in candidates, by experiment",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(f64::from(status.summary.front))),
    },
    Metric {
        name: "qslm_hypervolume",
        help: "Hypervolume of the front, by experiment, once the float model is measured",
        counter: false,
        values: |snapshot| each(snapshot, |status| status.summary.hypervolume),
    },
    Metric {
        name: "qslm_best_saving",
        help: "Share of the float model's bytes that the best candidate so far saves, by experiment, once one meets the \
               constraints",
        counter: false,
        values: |snapshot| each(snapshot, |status| status.summary.best.as_ref().map(|best| best.saving)),
    },
    Metric {
        name: "qslm_best_quality_loss",
        help: "Loss of quality of the best candidate so far against the float model, by experiment",
        counter: false,
        values: |snapshot| {
            each(snapshot, |status| status.summary.best.as_ref().map(|best| best.quality_loss))
        },
    },
    Metric {
        name: "qslm_remaining_candidates",
        help: "Candidates that the search may still propose after the generation under way, at most, by experiment, where \
               its strategy can tell",
        counter: false,
        values: |snapshot| each(snapshot, |status| status.remaining_at_most.map(|most| most as f64)),
    },
    Metric {
        name: "qslm_tokens_per_second",
        help: "Tokens processed per second by all workers together, lately, by experiment",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.tokens_per_second)),
    },
    Metric {
        name: "qslm_suitable_workers",
        help: "Workers that have the backend of an experiment and what it demands",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(f64::from(status.workers.suitable))),
    },
    Metric {
        name: "qslm_without_worker_seconds",
        help: "Seconds for which no worker was here that may evaluate an experiment under way; 0 while one is",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.absence.without_worker.as_secs_f64())),
    },
    Metric {
        name: "qslm_vanished_leases",
        help: "Leases of an experiment that were lost with their workers since its last result: workers that run out of memory, \
               for one",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(status.absence.vanished_leases as f64)),
    },
    Metric {
        name: "qslm_set_aside_workers",
        help: "Suitable workers with an open circuit breaker: set aside after several faults in a row",
        counter: false,
        values: |snapshot| each(snapshot, |status| Some(f64::from(status.workers.set_aside))),
    },
    Metric {
        name: "qslm_experiments",
        help: "Experiments by state: running, stuck, paused, finished, cancelled",
        counter: false,
        values: |snapshot| {
            let states = [State::Running, State::Stuck, State::Paused, State::Finished, State::Cancelled];
            let count =
                |state: State| snapshot.experiments.iter().filter(|status| status.state == state).count();
            let value = |state: State| (vec![("state", state.name().to_owned())], count(state) as f64);
            states.map(value).to_vec()
        },
    },
    Metric {
        name: "qslm_workers",
        help: "Workers that reported within the time of a lease",
        counter: false,
        values: |snapshot| vec![(vec![], snapshot.workers.len() as f64)],
    },
    Metric {
        name: "qslm_worker_last_seen_seconds",
        help: "Seconds since the last report of a worker; left out after the time of a lease",
        counter: false,
        values: |snapshot| {
            let value =
                |worker: &WorkerStatus| (vec![("worker", worker.name.clone())], worker.silent.as_secs_f64());
            snapshot.workers.iter().map(value).collect()
        },
    },
    Metric {
        name: "qslm_worker_tokens_per_second",
        help: "Tokens processed per second by a worker, lately",
        counter: false,
        values: |snapshot| {
            let value =
                |worker: &WorkerStatus| (vec![("worker", worker.name.clone())], worker.tokens_per_second);
            snapshot.workers.iter().map(value).collect()
        },
    },
    Metric {
        name: "qslm_leases_granted",
        help: "Leases granted to workers",
        counter: true,
        values: |snapshot| vec![(vec![], snapshot.tally.granted as f64)],
    },
    Metric {
        name: "qslm_leases_expired",
        help: "Leases that expired because their worker was silent",
        counter: true,
        values: |snapshot| vec![(vec![], snapshot.tally.expired as f64)],
    },
    Metric {
        name: "qslm_results",
        help: "Results of shards and jobs by outcome: recorded, duplicate (settled already), conflicting (other counts than \
               recorded), implausible (refused), failed",
        counter: true,
        values: |snapshot| {
            let tally = &snapshot.tally;
            let outcomes = [
                ("recorded", tally.recorded),
                ("duplicate", tally.duplicate),
                ("conflicting", tally.conflicting),
                ("implausible", tally.implausible),
                ("failed", tally.failed),
            ];
            outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count as f64)).to_vec()
        },
    },
    Metric {
        name: "qslm_worker_faults",
        help: "Shards that a worker could not measure for a reason of its own (disk, cache, memory, network), and leases \
               that were lost with their worker, of all workers together",
        counter: true,
        values: |snapshot| vec![(vec![], snapshot.tally.faults as f64)],
    },
    Metric {
        name: "qslm_results_fenced",
        help: "Results reported under a lease that had expired or been taken back (fenced); new ones are recorded all the same",
        counter: true,
        values: |snapshot| vec![(vec![], snapshot.tally.fenced as f64)],
    },
    Metric {
        name: "qslm_build",
        help: "Always 1; labels carry the version of the program, of its engine and of its protocol",
        counter: false,
        values: |_| {
            let labels = vec![
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("engine_version", ENGINE_VERSION.to_string()),
                ("protocol", qslm_proto::PROTOCOL.to_string()),
            ];
            vec![(labels, 1.0)]
        },
    },
];

/// Metrics of the committer, which counts them itself.
const COMMITS: [(&str, &str); 2] = [
    ("qslm_commit_batch", "Changes written by one transaction of the store (group commit)"),
    ("qslm_commit_seconds", "Seconds that one transaction took until it was on disk"),
];

/// Metric of the gate, which counts those itself whom it does not let in.
const DENIED: (&str, &str) = (
    "qslm_calls_denied",
    "Calls and pages that were not let in, by reason: token (none that is known), role (another one's token), pace (too \
     many calls of one connection)",
);

/// True if workers are wanted.
fn is_open(status: &ExperimentStatus) -> bool {
    matches!(status.state, State::Running | State::Stuck)
}

/// Experiments under way, and the last ones that have ended.
fn shown(snapshot: &Snapshot) -> impl Iterator<Item = &ExperimentStatus> {
    let under_way = |status: &&ExperimentStatus| is_open(status) || status.state == State::Paused;
    let ended = snapshot.experiments.iter().rev().filter(move |status| !under_way(status)).take(ENDED);
    snapshot.experiments.iter().filter(under_way).chain(ended)
}

fn each(snapshot: &Snapshot, value: fn(&ExperimentStatus) -> Option<f64>) -> Vec<Value> {
    let labelled =
        |status: &ExperimentStatus| Some((vec![("experiment", status.id.clone())], value(status)?));
    shown(snapshot).filter_map(labelled).collect()
}

#[derive(Debug)]
struct Reading {
    snapshot: Arc<Snapshot>,
    denied: [(&'static str, u64); 3],
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for Metric { name, help, counter, values } in METRICS {
            let kind = if *counter { MetricType::Counter } else { MetricType::Gauge };
            // The library's own registrations end their help so.
            let mut metric = encoder.encode_descriptor(name, &format!("{help}."), None, kind)?;
            for (labels, value) in values(&self.snapshot) {
                // Only the last value is without labels.
                if labels.is_empty() {
                    write(*counter, value, metric)?;
                    break;
                }
                write(*counter, value, metric.encode_family(&labels)?)?;
            }
        }
        let help = format!("{}.", DENIED.1);
        let mut metric = encoder.encode_descriptor(DENIED.0, &help, None, MetricType::Counter)?;
        for (reason, calls) in self.denied {
            write(true, calls as f64, metric.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}

fn write(counter: bool, value: f64, encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
    if counter { ConstCounter::new(value).encode(encoder) } else { ConstGauge::new(value).encode(encoder) }
}

/// Everything in the OpenMetrics text format, with those whom the gate did not let in.
///
/// # Errors
/// [`Refusal`] if the driver is busy or gone.
pub async fn text(driver: &Handle, denied: &Denied) -> Result<String, Refusal> {
    let snapshot = Arc::new(driver.snapshot().await?);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reading { snapshot, denied: denied.by_reason() }));
    let (batch, seconds) = driver.metrics().histograms();
    registry.register(COMMITS[0].0, COMMITS[0].1, batch);
    registry.register(COMMITS[1].0, COMMITS[1].1, seconds);
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = encode(&mut text, &registry);
    Ok(text)
}

/// Name, kind and help of every metric, in the order of the answer.
pub fn reference() -> Vec<(String, &'static str, &'static str)> {
    let ours = METRICS.iter().map(|metric| match metric.counter {
        true => (format!("{}_total", metric.name), "counter", metric.help),
        false => (metric.name.to_owned(), "gauge", metric.help),
    });
    let denied = (format!("{}_total", DENIED.0), "counter", DENIED.1);
    ours.chain([denied]).chain(COMMITS.map(|(name, help)| (name.to_owned(), "histogram", help))).collect()
}
