//! `qslm bench load`: so many connections at once to a coordinator that runs elsewhere, through all its limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use qslm_proto::v1::ChangeRequest;
use qslm_proto::v1::work_client::WorkClient;
use qslm_transport::Link;
use qslm_transport::gate::pushback;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Code;

use super::super::target::Target;
use super::coordinator::{experiment, finish, request};
use super::{quantile, show};
use crate::client::submit;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;

/// Trials of the search that is worked on; more than anybody gets done.
const TRIALS: u32 = 999_999;
/// Connections that are made at the same time.
const AT_ONCE: usize = 64;

/// Load a coordinator that runs elsewhere: many workers whose evaluations cost nothing, for a while
///
/// It submits a search of its own, which is cancelled afterwards; use a coordinator without tokens (no role may both submit
/// and work) whose store you can do without.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm-coordinator --store /tmp/load.redb &
  qslm bench load --connections 2000 --seconds 30
  qslm bench load --connections 8 --slots 32 --seconds 30")]
pub struct LoadBench {
    /// Connections, each of one worker
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: u32,
    /// Evaluations that a worker has in hand, and hands in with one call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// For how long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    #[command(flatten)]
    target: Target,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row; its keys are part of the interface. Times are in milliseconds.
#[derive(Serialize)]
struct LoadRow {
    connections: u32,
    seconds: f64,
    /// Calls that were answered, per second, and results that are on disk, per second.
    calls_per_second: f64,
    completions_per_second: f64,
    /// Time of a call that was answered.
    answered_p50: f64,
    answered_p99: f64,
    /// Calls that were told to come back later (back-pressure).
    told_to_wait: u64,
    /// Calls that failed in another way, by status and words.
    errors: BTreeMap<String, u64>,
}

/// Observations of one connection, or of all together.
#[derive(Default)]
struct Seen {
    /// Milliseconds of answered calls.
    times: Vec<f64>,
    completed: u64,
    told_to_wait: u64,
    errors: Vec<String>,
}

impl LoadBench {
    pub(super) async fn run(self) -> Outcome {
        qslm_program::limits::ensure_files(16 + self.connections as usize)?;
        let mut client = self.target.connect().await?;
        let connector = self.target.connector()?;
        let folder = tempfile::tempdir().map_err(anyhow::Error::from)?;
        let resolved = experiment(folder.path(), TRIALS)?;
        let id = submit(&mut client, &resolved, None).await?.id;
        let started = Instant::now();
        let until = started + Duration::from_secs(self.seconds.into());
        let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for number in 0..self.connections {
            let (connector, places, slots) = (connector.clone(), places.clone(), self.slots);
            tasks.spawn(async move {
                let link = {
                    // The semaphore is never closed.
                    let _place = places.acquire().await;
                    connector.connect().await
                };
                match link {
                    Ok(link) => work(WorkClient::new(link), number, slots, until).await,
                    Err(error) => {
                        Seen { errors: vec![format!("cannot connect: {error:#}")], ..Seen::default() }
                    }
                }
            });
        }
        let (mut all, mut errors) = (Seen::default(), BTreeMap::new());
        while let Some(seen) = tasks.join_next().await {
            let seen = seen.map_err(anyhow::Error::from)?;
            all.times.extend(seen.times);
            all.completed += seen.completed;
            all.told_to_wait += seen.told_to_wait;
            for error in seen.errors {
                *errors.entry(error).or_insert(0) += 1;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let cancel = ChangeRequest { experiment: id, cancelled: Some(true), ..ChangeRequest::default() };
        client.change(cancel).await?;
        all.times.sort_by(f64::total_cmp);
        let row = LoadRow {
            connections: self.connections,
            seconds,
            calls_per_second: all.times.len() as f64 / seconds,
            completions_per_second: all.completed as f64 / seconds,
            answered_p50: quantile(&all.times, 0.5),
            answered_p99: quantile(&all.times, 0.99),
            told_to_wait: all.told_to_wait,
            errors,
        };
        let failed: u64 = row.errors.values().sum();
        let columns = [
            "connections",
            "seconds",
            "calls_per_second",
            "completions_per_second",
            "answered_p50",
            "answered_p99",
            "told_to_wait",
            "errors",
        ];
        show(&[row], &columns, self.output)?;
        match failed {
            0 => Ok(()),
            _ => Err(Failure::new(Exit::Failure, format!("{failed} calls failed"))),
        }
    }
}

/// A worker that knows every answer, until its time is over.
async fn work(mut client: WorkClient<Link>, number: u32, slots: u32, until: Instant) -> Seen {
    let name = format!("load-{number}");
    let (mut seen, mut finished) = (Seen::default(), Vec::new());
    while Instant::now() < until {
        let report = request(&name, finished.clone(), vec![], slots);
        let asked = Instant::now();
        match client.report(report).await {
            Ok(answer) => {
                seen.times.push(asked.elapsed().as_secs_f64() * 1e3);
                seen.completed += finished.len() as u64;
                let leases = answer.into_inner().leases.into_iter();
                finished = leases.filter_map(|lease| finish(lease).ok()).collect();
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                seen.told_to_wait += 1;
                tokio::time::sleep(pushback(&status).unwrap_or(Duration::from_millis(100))).await;
            }
            Err(status) => {
                seen.errors.push(format!("{}: {}", status.code(), status.message()));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Hands back what it has, so that others need not wait.
    drop(client.report(request(&name, finished, vec![], 0)).await);
    seen
}
