//! The end of an experiment: waited for, read, printed, and judged.

use std::time::{Duration, Instant};

use qslm_common::front_document::FrontDocument;
use qslm_proto::v1::experiment_status::State;
use qslm_proto::v1::{ExperimentStatus, GetRequest};
use serde::Serialize;

use crate::client::Client;
use crate::control::{Control, ITSELF};
use crate::exit::{Exit, Failure, Outcome};
use crate::holdout::HeldOut;
use crate::listing::Listing;
use crate::making::Maker;
use crate::output::{Output, json_of, print, print_data};
use crate::progress::Progress;
use crate::results;
use crate::spec::Resolved;

/// Behaviour while every worker that may evaluate an experiment is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStuck {
    /// Say so and wait: a worker may be repaired, or another one may come.
    Wait,
    /// The same, but no longer than this once no worker is there at all.
    WaitAtMost(Duration),
    /// Fail: there are no other workers.
    Fail,
}

/// Time without news after which it is told if there is no worker.
const IDLE: Duration = Duration::from_secs(5);

/// Shows progress until the experiment has ended.
pub async fn until_ended(client: &mut Client, id: &str, when_stuck: WhenStuck) -> Outcome<ExperimentStatus> {
    let mut progress = Progress::new();
    let mut stream = client.watch(GetRequest { experiment: id.to_owned() }).await?.into_inner();
    let mut last = None;
    let mut absent = AbsentSince::default();
    loop {
        absent.check(id, when_stuck)?;
        let patience = absent.patience(when_stuck);
        let status = match (tokio::time::timeout(patience, stream.message()).await, &last) {
            (Ok(status), _) => match status? {
                Some(status) => status,
                None => break,
            },
            // Nothing has changed for a while.
            (Err(_), Some(last)) => {
                progress.tell_idle(last);
                continue;
            }
            (Err(_), None) => continue,
        };
        if matches!(status.state(), State::Finished | State::Cancelled) {
            progress.finish();
            return Ok(status);
        }
        if status.state() == State::Stuck && when_stuck == WhenStuck::Fail {
            progress.finish();
            return Err(Failure::new(Exit::Failure, format!("{} is stuck: {}", status.id, status.stuck)));
        }
        progress.show(&status);
        absent.note(&status);
        last = Some(status);
    }
    Err(Failure::new(Exit::Unavailable, "the coordinator stopped"))
}

/// Time since which no worker was there, by this program's clock: a coordinator that is started again begins to count anew.
#[derive(Debug, Default)]
struct AbsentSince(Option<Instant>);

impl AbsentSince {
    fn note(&mut self, status: &ExperimentStatus) {
        let is_absent = status.state() == State::Running && status.suitable_workers == 0;
        let before = Duration::from_millis(status.without_worker_ms);
        let told = is_absent.then(|| Instant::now().checked_sub(before).unwrap_or_else(Instant::now));
        self.0 = told.map(|told| self.0.map_or(told, |since| since.min(told)));
    }

    /// Fails if that is too long.
    fn check(&self, id: &str, when_stuck: WhenStuck) -> Outcome {
        match (when_stuck, self.0) {
            (WhenStuck::WaitAtMost(most), Some(since)) if since.elapsed() >= most => {
                Err(Failure::no_worker(&format!("{id} goes on once there is one"), most))
            }
            _ => Ok(()),
        }
    }

    /// Time to wait for news: no longer than there is still hope.
    fn patience(&self, when_stuck: WhenStuck) -> Duration {
        match (when_stuck, self.0) {
            (WhenStuck::WaitAtMost(most), Some(since)) => most.saturating_sub(since.elapsed()).min(IDLE),
            _ => IDLE,
        }
    }
}

/// Remedy for failed trials.
const RETRY: &str = "when the cause is gone, `qslm run .. --retry-failed`, or `qslm retry` where a coordinator runs, measures them again";

/// A front, and what its chosen candidate is worth on data that was held out, or beside the float model after the same
/// training.
#[derive(Serialize)]
pub struct WithMore {
    #[serde(flatten)]
    front: FrontDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    holdout: Option<HeldOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<Control>,
}

/// A finished experiment.
pub struct Finished {
    /// The front document as the coordinator wrote it.
    pub json: String,
    /// Candidates measured since the coordinator started, as opposed to found in its store.
    pub evaluated: u64,
    failed: u64,
    failures: Vec<String>,
    /// Shards that were not evaluated, because their candidates were pruned.
    spared: u64,
    /// Trials that were measured on a subset of the data only.
    probed: u64,
    /// The share of their arithmetic that was done: the rest was found in the prefix cache. Known where the
    /// workers were this process's own.
    pub computed_share: Option<f64>,
    /// Candidates of a list, if its search has one.
    listing: Option<Listing>,
}

impl Finished {
    /// Reads the result of an experiment that has ended.
    pub async fn read(client: &mut Client, id: &str) -> Outcome<Self> {
        let get = || GetRequest { experiment: id.to_owned() };
        let json = client.front(get()).await?.into_inner().json;
        let status = client.get(get()).await?.into_inner();
        let listing = Listing::read(client, id, &status.stage).await?;
        Ok(Self {
            json,
            listing,
            evaluated: status.evaluated,
            failed: status.failed,
            failures: status.failures,
            spared: status.shards_spared,
            probed: status.probed,
            computed_share: None,
        })
    }

    /// Multiply-accumulates that were spared, because candidates were pruned, or measured on a subset of the
    /// data. A shard is as large as the next, and a sequence.
    pub fn arithmetic_spared(&self, resolved: &Resolved) -> f64 {
        let trial = resolved.experiment.network.macs_per_token() as f64 * resolved.positions as f64;
        let (_, share) = resolved.on_subset();
        trial * (self.spared as f64 / f64::from(resolved.shards) + self.probed as f64 * (1.0 - share))
    }

    /// Prints it.
    pub fn show(&self, output: Output) -> Outcome {
        match output {
            // The bytes that the coordinator wrote: they are what two runs are compared by.
            Output::Json => print(&self.json),
            Output::Yaml => print_data(output, &self.document()?),
            Output::Table => print(&self.tables(&self.document()?)),
        }
    }

    /// It with what the chosen candidate is worth on data that was held out, and what the float model gains by the training
    /// of the recovery, if the spec has such; `maker` measures that. To be used where blocking is allowed.
    pub fn with_more(&self, resolved: &Resolved, maker: &dyn Maker) -> Outcome<WithMore> {
        let front = self.document()?;
        let holdout = resolved.measure_held_out(&front, maker)?;
        let control = resolved.measure_control(maker)?;
        Ok(WithMore { front, holdout, control })
    }

    /// Prints it with more.
    pub fn show_with_more(&self, output: Output, more: &WithMore, resolved: &Resolved) -> Outcome {
        match output {
            Output::Json => print(&self.json_with(more)?),
            Output::Yaml => print_data(output, more),
            Output::Table => {
                let holdout = more.holdout.iter().map(HeldOut::describe);
                let is_control = more.control.is_none() && resolved.experiment.recovery.is_some();
                let itself = is_control.then(|| ITSELF.to_owned());
                let words: String =
                    holdout.chain(more.control.iter().map(Control::describe)).chain(itself).collect();
                print(&(self.tables(&more.front) + &words))
            }
        }
    }

    /// The tables of the front, and of a list.
    fn tables(&self, front: &FrontDocument) -> String {
        results::tables(front) + &self.listing.as_ref().map_or(String::new(), Listing::table)
    }

    /// It with more as one JSON document: the bytes that the coordinator wrote, where there is nothing more.
    pub fn json_with(&self, more: &WithMore) -> Outcome<String> {
        match more {
            WithMore { holdout: None, control: None, .. } => Ok(self.json.clone()),
            more => json_of(more),
        }
    }

    /// The front.
    fn document(&self) -> Outcome<FrontDocument> {
        let parsed = serde_json::from_str(&self.json);
        parsed.map_err(|error| Failure::new(Exit::Failure, format!("the front cannot be read: {error}")))
    }

    /// Fails if trials failed or nothing meets the constraints.
    pub fn verdict(&self) -> Outcome {
        if self.failed > 0 {
            let reasons = self.failures.join("; ");
            let words = format!("{} trials failed: {reasons}\n{RETRY}", self.failed);
            return Err(Failure::new(Exit::Unmet, words));
        }
        let front = self.document()?;
        match front.chosen {
            Some(_) => Ok(()),
            None => Err(Failure::new(Exit::Unmet, results::unmet_line(&front.unmet))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use qslm_coordinator::driver::{Fault, Finished as FinishedShard, ShardOutcome, WorkerReport};

    use super::*;
    use crate::client::{Embedded, submit};
    use crate::spec::resolve;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_whose_only_worker_cannot_evaluate_ends_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let resolved = resolve(&root.join("specs/plain.toml"), &["task.windows=2".to_owned()]).unwrap();
        let embedded = Embedded::start(&folder.path().join("s.redb")).await.unwrap();
        let mut client = embedded.connect().await.unwrap();
        let id = submit(&mut client, &resolved, None).await.unwrap().id;
        let driver = embedded.driver();
        let fails = async {
            let mut finished = Vec::new();
            loop {
                let report = WorkerReport {
                    worker: "local-0".to_owned(),
                    finished: std::mem::take(&mut finished),
                    held: Vec::new(),
                    slots: 1,
                    prefetch: 0,
                    wait_ms: 1000,
                    experiment: Some(id.clone()),
                    capabilities: Arc::new(qslm_worker::capabilities::detect(
                        std::collections::BTreeMap::new(),
                    )),
                    session: 1,
                    progress: Vec::new(),
                };
                let outcome =
                    ShardOutcome::Failure { reason: "no space left".to_owned(), fault: Fault::Machine };
                finished.extend(driver.report(report).await.unwrap().leases.into_iter().map(|grant| {
                    FinishedShard {
                        lease: grant.lease,
                        work: grant.work.trial().unwrap().key.into(),
                        shard: grant.shard,
                        engine: String::new(),
                        outcome: outcome.clone(),
                    }
                }));
            }
        };
        let ended = tokio::select! {
            ended = until_ended(&mut client, &id, WhenStuck::Fail) => ended.unwrap_err(),
            () = fails => unreachable!("it goes on for ever"),
        };
        let words = "is stuck: the only worker that may evaluate it is set aside: local-0: no space left";
        assert!(ended.to_string().contains(words), "{ended}");
        embedded.stop().await.unwrap();
    }
}
