//! Tracing of a lease: the fields of its log lines, and its spans for a collector.

use std::time::{Duration, SystemTime};

use qslm_proto::v1::{Lease, ShardReport, shard_report};
use qslm_transport::Traces;
use qslm_transport::traces::{Span, TraceContext};

/// Span of a lease, whose fields every log line about it carries.
pub(crate) fn lease_line(lease: &Lease) -> tracing::Span {
    let (id, shard, of) = (lease.id, lease.index, lease.of);
    let (trial, job) = (tracing::field::Empty, tracing::field::Empty);
    tracing::info_span!("evaluation", experiment = lease.experiment, trial, job, shard, of, lease = id)
}

/// Span of a lease on its way through a worker; there is one while traces are sent.
pub(crate) struct Work {
    traces: Traces,
    context: TraceContext,
    parent: TraceContext,
    start: SystemTime,
    worker: String,
    experiment: String,
}

impl Work {
    /// Span that begins now. `None` if the coordinator does not trace.
    pub(crate) fn start(traces: Traces, lease: &Lease, worker: &str) -> Option<Self> {
        let parent = TraceContext::from_traceparent(&lease.traceparent)?;
        let (worker, experiment) = (worker.to_owned(), lease.experiment.clone());
        Some(Self { traces, context: parent.beside(), parent, start: SystemTime::now(), worker, experiment })
    }

    /// Ends the span.
    pub(crate) fn end(self, report: &ShardReport) {
        let end = SystemTime::now();
        let error = match &report.outcome {
            Some(shard_report::Outcome::Failure(failure)) => Some(failure.reason.clone()),
            _ => None,
        };
        let mut attributes = vec![
            ("qslm.worker", self.worker),
            ("qslm.experiment", self.experiment),
            ("qslm.lease", report.lease.to_string()),
            ("qslm.shard", format!("{}/{}", report.index, report.of)),
            ("qslm.engine", report.engine.clone()),
        ];
        if let Some(shard_report::Outcome::Counts(counts)) = &report.outcome {
            attributes.push(("qslm.positions", counts.positions.to_string()));
        }
        // From the lease's coming to its going; the evaluation itself, after waiting for a slot, is a part of that.
        let took = Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
        let evaluation = self.context.beside();
        let (traces, context) = (self.traces, self.context);
        let span = Span {
            context: context.clone(),
            parent: Some(self.parent),
            name: "work",
            start: self.start,
            end,
            attributes,
            error: error.clone(),
        };
        let start = end.checked_sub(took).map_or(self.start, |start| start.max(self.start));
        let part = Span {
            context: evaluation,
            parent: Some(context),
            name: "evaluate",
            start,
            attributes: Vec::new(),
            ..span.clone()
        };
        traces.record(part);
        traces.record(span);
    }
}
