//! `qslm reference`: the references in `docs/reference`, made of what the programs know of themselves. Not in the help:
//! it is for whoever changes the programs; a test holds the files to it.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use qslm_common::cost::Cost;
use qslm_engine::task::sensitivity::MEASURES;

use super::config::Program;
use crate::columns::{Kind, columns};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;
use crate::spec::reference::tables;

/// Print a reference as Markdown.
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Example:\n  qslm reference spec > docs/reference/spec.md")]
pub struct Reference {
    /// Which one
    #[arg(value_enum)]
    which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The keys of a spec
    Spec,
    /// The settings of the programs
    Configuration,
    /// The columns of an export
    Export,
    /// The metrics that Prometheus reads
    Metrics,
}

impl Reference {
    /// Prints it.
    pub fn run(self) -> Outcome {
        print(&match self.which {
            Which::Spec => spec(),
            Which::Configuration => {
                configuration().map_err(|error| Failure::new(Exit::Failure, format!("{error:#}")))?
            }
            Which::Export => export(),
            Which::Metrics => metrics(),
        })
    }
}

/// A row of a Markdown table.
fn row(text: &mut String, cells: &[&str]) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn spec() -> String {
    let mut text = "# Spec\n\nMade by `qslm reference spec`. A spec is a TOML file; `qslm init` writes one with comments, \
                    `qslm validate` checks it, `--set KEY=VALUE` changes a key for one run.\n"
        .to_owned();
    for table in tables() {
        let _ = writeln!(text, "\n## {}", table.name);
        if !table.about.is_empty() {
            let _ = writeln!(text, "\n{}", table.about);
        }
        if !table.keys.is_empty() {
            text.push('\n');
            row(&mut text, &["key", "takes", "if left out", "meaning"]);
            row(&mut text, &["---", "---", "---", "---"]);
        }
        for (name, takes, default, about) in table.keys {
            row(&mut text, &[&format!("`{name}`"), takes, default, about]);
        }
    }
    text.push_str("\n## Costs\n\n");
    row(&mut text, &["name", "unit", "meaning"]);
    row(&mut text, &["---", "---", "---"]);
    for cost in Cost::all() {
        row(&mut text, &[&format!("`{cost}`"), cost.unit(), cost.model().about]);
    }
    text.push_str("\n## Measures of sensitivity\n\n");
    row(&mut text, &["name", "meaning"]);
    row(&mut text, &["---", "---"]);
    for measure in MEASURES {
        row(&mut text, &[&format!("`{}`", measure.name), measure.about]);
    }
    text
}

/// Meaning of a setting, by program and key.
fn about(program: Program, key: &str) -> &'static str {
    match (program, key) {
        (Program::Coordinator, "listen") => "address and port for workers and people",
        (Program::Coordinator, "web") => "address and port of the live view for browsers, or `off`",
        (Program::Coordinator, "store") => {
            "the redb file that keeps everything; input files are kept beside it"
        }
        (Program::Coordinator, "lease_ttl_s") => {
            "seconds after which a silent worker's leases go to others, 1 to 3600"
        }
        (Program::Coordinator, "crash_at") => {
            "for tests: dies at the n-th pass of a point (`starting`, `before-commit`, `after-commit`, `updating-front`, \
             `artifact-stored`), such as `after-commit:3`"
        }
        (Program::Worker, "crash_at") => {
            "for tests: dies at the n-th pass of a point (`artifact-put`), such as `artifact-put:1`"
        }
        (Program::Coordinator, "monitor") | (Program::Worker, "monitor") => {
            "address and port of gRPC health checks and metrics, without TLS or tokens, or `off`"
        }
        (Program::Coordinator, "tokens") => {
            "a file of lines `ROLE NAME TOKEN`, roles worker, reader, submitter; if empty, everyone may do everything"
        }
        (Program::Coordinator, "certificate") => "the certificate that callers see, in PEM; turns TLS on",
        (Program::Coordinator, "client_ca") => {
            "callers need a certificate that one of these signed (mutual TLS), in PEM"
        }
        (Program::Coordinator, "insecure") => {
            "listen beyond this machine though anybody who reaches it may do anything"
        }
        (Program::Coordinator, "max_vanished_workers") => {
            "different workers that may vanish over one shard before its trial has failed, 2 to 1000"
        }
        (Program::Coordinator, "max_connections") => "connections at a time; more wait; 1 to 100000",
        (Program::Coordinator, "calls_per_second") => {
            "calls per second of one connection; more are told to wait; 1 to 1000000"
        }
        (Program::Coordinator, "uploads_per_client") => {
            "uploads that one client (a token's name, or an address) may have under way; 1 to 1000000"
        }
        (Program::Coordinator, "experiments_per_client") => {
            "experiments of one client that have not ended; 1 to 1000000"
        }
        (Program::Coordinator, "artifacts_max_bytes") => {
            "bytes that uploaded files, made artifacts and checkpoints of jobs together may take; a number, or `256 GiB`"
        }
        (Program::Coordinator, "until_done") => {
            "end, with exit code 0, once all experiments have ended and whoever waited for them has the results"
        }
        (Program::Coordinator, "collect_within_s") => {
            "seconds that `until_done` keeps results ready where nobody says that they are collected; 1 to 86400"
        }
        (Program::Coordinator | Program::Worker, "traces") => {
            "where to send traces: an OpenTelemetry collector that takes OTLP over gRPC, `http://HOST:4317`"
        }
        (Program::Worker, "until_done") => {
            "end, with exit code 0, when the experiment has ended; without one, when all have"
        }
        (Program::Worker, "labels") => "what else experiments may demand of a worker: `zone=a,rack=7`",
        (Program::Worker, "certificate") => {
            "the worker's own certificate in PEM, where the coordinator asks for one"
        }
        (Program::Client, "certificate") => "your own certificate in PEM, where the coordinator asks for one",
        (_, "ca") => "whoever signed the coordinator's certificate, in PEM; the system's roots if empty",
        (_, "key") => "the private key of the certificate, in PEM",
        (_, "token_file") => "a file that holds a token",
        (_, "log_format") => "how it is logged: `text` for people, or `json`, an object per line",
        (Program::Worker, "coordinator") => "the coordinator's address",
        (Program::Worker, "name") => "unique among the coordinator's workers; made up if empty",
        (Program::Worker, "slots") => "evaluations at a time, one thread each, 1 to 1024; 0 for one per core",
        (Program::Worker, "experiment") => {
            "the name or id of the only experiment to work for, which may be submitted later; any if empty"
        }
        (Program::Worker, "token_patience_s") => {
            "seconds to wait for a coordinator that does not know the token yet; 0 to 86400"
        }
        (Program::Worker, "cache_dir") => {
            "where fetched checkpoints and data are kept, and results while the coordinator is away"
        }
        (Program::Worker, "cache_max_bytes") => "bytes that the cache may take; a number, or `20 GiB`",
        (Program::Worker, "checkpoint_every_s") => {
            "seconds between two checkpoints of a job, from which another worker goes on if this one is lost; 0.001 to 86400"
        }
        (Program::Client, "coordinator") => "the coordinator's address",
        (Program::Client, "connect_timeout") => {
            "seconds to wait for a coordinator that cannot be reached; 0 tries once; 10 if empty, 60 with `submit --wait`"
        }
        (_, "log") => "what is logged: a level, or directives such as `info,qslm_worker=debug`",
        _ => "",
    }
}

fn configuration() -> anyhow::Result<String> {
    let mut text = "# Configuration\n\nMade by `qslm reference configuration`. Defaults, a TOML `--config` file with these \
                    keys, environment variables and flags (`--lease-ttl-s`), the later ones winning. `qslm config show \
                    PROGRAM --origin` prints what is in force. A key that nobody reads is refused.\n\n\
                    `QSLM_TERMINATION_MESSAGE` names a file in which any of the programs that fails leaves its exit code \
                    and the reason: `/dev/termination-log` in a pod.\n"
        .to_owned();
    let programs = [
        (Program::Coordinator, "qslm-coordinator"),
        (Program::Worker, "qslm-worker"),
        (Program::Client, "qslm, where it talks to a coordinator"),
    ];
    for (program, name) in programs {
        let _ = write!(text, "\n## {name}\n\n");
        row(&mut text, &["key", "variable", "default", "meaning"]);
        row(&mut text, &["---", "---", "---", "---"]);
        for setting in program.defaults()? {
            let variable = format!("`{}_{}`", program.prefix(), setting.key.to_uppercase());
            let default = match setting.key.as_str() {
                // It depends on who runs it.
                "cache_dir" => "`qslm` in the user's cache folder".to_owned(),
                _ if setting.value.is_empty() => String::new(),
                _ => format!("`{}`", setting.value),
            };
            let about = about(program, &setting.key);
            anyhow::ensure!(!about.is_empty(), "{}: nothing says what it means", setting.key);
            row(&mut text, &[&format!("`{}`", setting.key), &variable, &default, about]);
        }
    }
    Ok(text)
}

fn metrics() -> String {
    let mut text = "# Metrics\n\nMade by `qslm reference metrics`. OpenMetrics text at `http://ADDRESS/metrics` of the `monitor` \
                    port, without TLS or tokens; the same port answers gRPC health checks. Counters begin at 0 when a program \
                    starts. Of experiments that have ended only the last 20 are shown. `k8s/monitoring` has a dashboard and \
                    alert rules.\n"
        .to_owned();
    let programs = [
        ("qslm-coordinator", qslm_coordinator::metrics::reference()),
        ("qslm-worker", qslm_worker::monitor::reference()),
    ];
    for (name, metrics) in programs {
        let _ = write!(text, "\n## {name}\n\n");
        row(&mut text, &["metric", "kind", "meaning"]);
        row(&mut text, &["---", "---", "---"]);
        for (name, kind, help) in metrics {
            row(&mut text, &[&format!("`{name}`"), kind, help]);
        }
    }
    text
}

fn export() -> String {
    let mut text = "# Columns of an export\n\nMade by `qslm reference export`. The same in CSV, lines of JSON and Parquet; \
                    an empty field, `null` or a missing value is one that does not apply. Names, order and meaning are kept; \
                    a new column goes to the end.\n\n"
        .to_owned();
    row(&mut text, &["column", "kind", "Parquet", "meaning"]);
    row(&mut text, &["---", "---", "---", "---"]);
    for column in columns() {
        let (kind, parquet) = match column.kind() {
            Kind::Text => ("text", "string"),
            Kind::Count => ("whole number", "uint64"),
            Kind::Number => ("number", "double, optional"),
        };
        row(&mut text, &[&format!("`{}`", column.name), kind, parquet, &column.about]);
    }
    text
}
