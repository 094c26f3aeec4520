//! Traces: what became of a trial, on the coordinator and on workers, as OpenTelemetry spans sent to a collector.
//!
//! Their names follow from what they are about: a trial's trace has the first half of its content address, a lease's span
//! the lease's number. So a coordinator keeps nothing to name them by, and one that was restarted goes on in the same
//! trace. Spans are sent in batches by a thread of their own; what a slow collector does not take is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfig, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SpanData, SpanProcessor,
};

use crate::address::is_encrypted;

/// The header of W3C Trace Context that names a span.
const TRACEPARENT: &str = "traceparent";
/// Version, trace, span and flags, in hexadecimal digits, with dashes between: the length of that header.
const TRACEPARENT_BYTES: usize = "00-".len() + 32 + "-".len() + 16 + "-01".len();
/// Time that the last spans may take to be sent.
const FAREWELL: Duration = Duration::from_secs(2);

/// The way to a collector. Clones lead to the same one.
#[derive(Debug, Clone)]
pub struct Traces {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

/// Context of a span: its trace and its own name in it.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// The root span of the trial with this content address.
    pub fn of_trial(key: &[u8; 32]) -> Self {
        let [.., a, b, c, d, e, f, g, h] = *key;
        Self::new(key, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The span of a lease of that trial.
    pub fn of_lease(key: &[u8; 32], lease: u64) -> Self {
        Self::new(key, lease)
    }

    fn new(key: &[u8; 32], span: u64) -> Self {
        let trace = u128::from_be_bytes(std::array::from_fn(|index| key[index]));
        // Zero is no name.
        let (trace, span) = (TraceId::from(trace.max(1)), SpanId::from(span.max(1)));
        Self(SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE))
    }

    /// A new place in the same trace.
    pub fn beside(&self) -> Self {
        let id = RandomIdGenerator::default().new_span_id();
        Self(SpanContext::new(self.0.trace_id(), id, TraceFlags::SAMPLED, false, TraceState::NONE))
    }

    /// Text of the header `traceparent` of W3C Trace Context.
    pub fn to_traceparent(&self) -> String {
        let context = Context::new().with_remote_span_context(self.0.clone());
        let mut headers = HashMap::new();
        TraceContextPropagator::new().inject_context(&context, &mut headers);
        headers.remove(TRACEPARENT).unwrap_or_default()
    }

    /// Context from the header `traceparent`; `None` for a text that is none, the empty one among them.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        // The propagator also takes names with too few digits.
        if text.len() != TRACEPARENT_BYTES {
            return None;
        }
        let headers = HashMap::from([(TRACEPARENT.to_owned(), text.to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let found = context.span().span_context().clone();
        found.is_valid().then_some(Self(found))
    }
}

/// Span of a trace: work that took time.
#[derive(Debug, Clone)]
pub struct Span {
    /// Context of the span: its trace and name.
    pub context: TraceContext,
    /// The span that it was a part of, if of any.
    pub parent: Option<TraceContext>,
    /// Kind of the span, in a word or two.
    pub name: &'static str,
    /// Time at which it began.
    pub start: SystemTime,
    /// Time at which it ended.
    pub end: SystemTime,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, String)>,
    /// Reason of its failure, if it failed.
    pub error: Option<String>,
}

impl Traces {
    /// Sends spans to the collector at `endpoint` (OTLP over gRPC, `http://HOST:4317`) as the service `service`, of which
    /// this process is `instance`. No endpoint, no traces. Has to be called on a tokio runtime that outlives it.
    ///
    /// # Errors
    /// One line that names the address.
    pub fn start(endpoint: &str, service: &'static str, instance: &str) -> anyhow::Result<Option<Self>> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        is_encrypted("traces", endpoint)?;
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.with_context(|| format!("traces = {endpoint:?}"))?;
        let mut processor = BatchSpanProcessor::new(exporter, BatchConfig::default());
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("qslm").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some(Self { processor: Arc::new(processor), scope }))
    }

    /// Hands a span over; it never waits.
    pub fn record(&self, span: Span) {
        let Span { context, parent, name, start, end, attributes, error } = span;
        let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
        self.processor.on_end(SpanData {
            span_context: context.0,
            parent_span_is_remote: parent.as_ref().is_some_and(|parent| parent.0.is_remote()),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.0.span_id()),
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            end_time: end,
            attributes: attributes.collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Sends what is left, for two seconds at most. Blocks.
    pub fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_found_again_by_its_header() {
        let key = std::array::from_fn(|index| index as u8 + 1);
        let lease = TraceContext::of_lease(&key, 0x0000_0002_0000_0007);
        let header = lease.to_traceparent();
        assert_eq!(header, "00-0102030405060708090a0b0c0d0e0f10-0000000200000007-01");
        assert_eq!(TraceContext::from_traceparent(&header), Some(lease.clone()));
        let beside = lease.beside();
        assert_eq!(beside.0.trace_id(), TraceContext::of_trial(&key).0.trace_id());
        assert_ne!(beside.0.span_id(), lease.0.span_id());
        for text in ["", "00-01-02-01", "00-00000000000000000000000000000000-0000000000000000-01", "x"] {
            assert_eq!(TraceContext::from_traceparent(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_collector_that_makes_no_sense_is_told() {
        assert!(Traces::start("", "qslm", "me").unwrap().is_none());
        let error = Traces::start("localhost:4317", "qslm", "me").unwrap_err().to_string();
        assert_eq!(error, "traces = \"localhost:4317\": expected http://HOST:PORT or https://HOST:PORT");
    }
}
