//! One trial seen from outside: spans of coordinator and worker, sent to a real collector service, make one trace; and
//! log lines in JSON say what they are about.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use support::{Running, json, program, succeed};

/// Passes on what it is sent: the service's name, and a span.
struct Collector(Sender<(String, Span)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name");
            for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.send((service.clone(), span)).map_err(|_| Status::unavailable("the test is over"))?;
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn a_trial_is_one_trace_from_coordinator_to_worker() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (sender, spans) = channel();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let collector = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(Collector(sender));
    let incoming = TcpListenerStream::new(listener);
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let log = ["--traces", &collector, "--log", "info,qslm_worker=debug,qslm_coordinator=debug"];
    let mut command = Command::new(program("qslm-coordinator"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--web",
        "off",
        "--store",
        &at("s.redb"),
        "--log-format",
        "json",
    ]);
    let mut coordinator = Running::start(command.args(log));
    let line: serde_json::Value = serde_json::from_str(&coordinator.wait_for("listening")).unwrap();
    let url = format!("http://{}", line["address"].as_str().unwrap());
    let mut command = Command::new(program("qslm-worker"));
    command.args([
        "--coordinator",
        &url,
        "--slots",
        "1",
        "--cache-dir",
        &at("cache"),
        "--log-format",
        "json",
    ]);
    let mut worker = Running::start(command.args(log));
    let submit = ["submit", "experiments/specs/plain.toml", "--coordinator", &url];
    let id = succeed(&[&submit[..], &["--set", "task.windows=5", "--set", "run.shards=2"]].concat());
    let id = id.trim();

    // What a log line is about stands in fields of its own.
    let line = worker.wait_for("\"evaluating\"");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let about = &line["span"];
    assert_eq!((&about["experiment"], &about["of"]), (&id.into(), &2.into()), "{line}");
    let (trial, lease) = (about["trial"].as_str().unwrap(), about["lease"].as_u64().unwrap());
    assert!(trial.len() == 64 && about["shard"].is_u64(), "{line}");
    let line = coordinator.wait_for("\"granted\"");
    let granted: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&granted["experiment"], &granted["trial"]), (&id.into(), &trial.into()), "{line}");
    assert!(granted["lease"].is_u64() && granted["worker"].is_string(), "{line}");

    coordinator.read_on();
    worker.read_on();
    succeed(&["watch", id, "--coordinator", &url, "--output", "json"]);
    let status = json(&["get", id, "--coordinator", &url, "--output", "json"]);
    // The last spans are sent before the programs end.
    assert_eq!((worker.terminate(), coordinator.terminate()), (Some(0), Some(0)));
    let spans: Vec<(String, Span)> = spans.try_iter().collect();

    let named = |name: &'static str| spans.iter().filter(move |(_, span)| span.name == name);
    assert_eq!(named("trial").count() as u64, status["measured"].as_u64().unwrap());
    let (service, root) =
        named("trial").find(|(_, span)| text(&span.attributes, "qslm.trial") == trial).unwrap();
    assert_eq!((service.as_str(), root.parent_span_id.len()), ("qslm-coordinator", 0));
    assert_eq!(text(&root.attributes, "qslm.experiments"), id);
    let of_trace = spans.iter().filter(|(_, span)| span.trace_id == root.trace_id);
    let mut names = BTreeMap::new();
    of_trace.clone().for_each(|(_, span)| *names.entry(span.name.as_str()).or_insert(0) += 1);
    assert_eq!(names, BTreeMap::from([("evaluate", 2), ("lease", 2), ("trial", 1), ("work", 2)]));

    // trial > lease > work > evaluate, each within the one before as far as two clocks of one machine can tell.
    for (service, work) in of_trace.filter(|(_, span)| span.name == "work") {
        assert_eq!(service, "qslm-worker");
        let parent = |child: &Span, name| {
            named(name).find(|(_, span)| span.span_id == child.parent_span_id).unwrap().1.clone()
        };
        let of = parent(work, "lease");
        assert_eq!(of.parent_span_id, root.span_id);
        assert_eq!(text(&of.attributes, "qslm.lease"), text(&work.attributes, "qslm.lease"));
        let evaluate = named("evaluate").find(|(_, span)| span.parent_span_id == work.span_id).unwrap();
        assert!(evaluate.1.start_time_unix_nano >= work.start_time_unix_nano);
        assert!(evaluate.1.end_time_unix_nano <= work.end_time_unix_nano);
        assert!(text(&work.attributes, "qslm.engine").contains("native"));
    }
    assert!(named("lease").any(|(_, span)| text(&span.attributes, "qslm.lease") == lease.to_string()));
}
