//! Traces of the driver for a collector: how long trials and jobs were open, and what became of their leases.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qslm_common::task::Shard;
use qslm_common::work::{Work, WorkKey};
use qslm_transport::traces::{Span, TraceContext, Traces};

use crate::ledger::{Closed, Grant, LeaseId, Outcome};

/// Open work and leases, while somebody traces.
pub(super) struct Traced {
    traces: Traces,
    /// Time at which the first shard of open work was leased, and all its leases.
    work: HashMap<WorkKey, (SystemTime, Vec<LeaseId>)>,
    leases: HashMap<LeaseId, Out>,
}

/// A lease that is in force.
struct Out {
    work: WorkKey,
    shard: Shard,
    worker: String,
    since: SystemTime,
}

impl Traced {
    pub(super) fn new(traces: Traces) -> Self {
        Self { traces, work: HashMap::new(), leases: HashMap::new() }
    }

    /// Notes that a worker got a lease.
    pub(super) fn granted(&mut self, grant: &Grant, worker: &str, unix_ms: u64) {
        let (work, since) = (grant.work.key(), at(unix_ms));
        self.work.entry(work).or_insert_with(|| (since, Vec::new())).1.push(grant.lease);
        let out = Out { work, shard: grant.shard, worker: worker.to_owned(), since };
        self.leases.insert(grant.lease, out);
    }

    /// Records the span of a lease that ended: with a result, or else for the reason given.
    pub(super) fn ended(&mut self, lease: LeaseId, error: Option<&str>, unix_ms: u64) {
        let Some(Out { work, shard, worker, since }) = self.leases.remove(&lease) else { return };
        self.traces.record(Span {
            context: TraceContext::of_lease(work.as_bytes(), lease.0),
            parent: Some(TraceContext::of_trial(work.as_bytes())),
            name: "lease",
            start: since,
            end: at(unix_ms),
            attributes: vec![
                ("qslm.lease", lease.to_string()),
                ("qslm.shard", format!("{}/{}", shard.index, shard.of)),
                ("qslm.worker", worker),
            ],
            error: error.map(str::to_owned),
        });
    }

    /// Records the span of work that is closed. Its other leases are not waited for.
    pub(super) fn closed(&mut self, closed: &Closed, experiments: String, unix_ms: u64) {
        let Closed { work, outcome, .. } = closed;
        let key = work.key();
        let (start, leases) = self.work.remove(&key).unwrap_or_else(|| (at(unix_ms), Vec::new()));
        for lease in leases {
            self.ended(lease, Some("given back, or not needed any more"), unix_ms);
        }
        self.traces.record(Span {
            context: TraceContext::of_trial(key.as_bytes()),
            parent: None,
            name: if work.trial().is_some() { "trial" } else { "job" },
            start,
            end: at(unix_ms),
            attributes: match work {
                Work::Trial(trial) => vec![
                    ("qslm.trial", trial.key.to_string()),
                    ("qslm.candidate", trial.candidate.to_string()),
                    ("qslm.experiments", experiments),
                ],
                Work::Job(job) => {
                    vec![("qslm.job", job.key.to_string()), ("qslm.kind", job.job.kind.clone())]
                }
            },
            error: match outcome {
                Outcome::Measured(_) | Outcome::Made(_) => None,
                Outcome::Failed(reason) => Some(reason.clone()),
            },
        });
    }
}

fn at(unix_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_ms)
}
