//! Log lines: what is said, and in which form.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use clap::Args;
use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::{Coded, limits};

/// Lines that wait to be written, at most: some megabytes, and more than a thousand workers say when they join.
const WAITING: usize = 8192;

/// The flags of programs that serve.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct LogFlags {
    /// What is logged: a level or directives [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object per line, with what the line is about in fields of its own.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".to_owned()),
        }
    }
}

/// Writes log lines to standard error, coloured on a terminal; a panic becomes one of them, unless it is
/// [expected](crate::quietly). What cannot be written is dropped. `filter` is a level or the
/// directives of `tracing-subscriber`, such as `info,qslm_coordinator=debug`.
///
/// # Errors
/// If the filter does not parse.
pub fn init_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    init(filter, format, io::stderr)
}

/// Non-blocking log of a program that serves: the same lines, written by a thread of their own, so that a pipe that nobody
/// reads never holds up who has something to say. Lines are dropped where too many wait, and one says so afterwards. What is
/// returned writes the rest when it is dropped, for a second at most.
///
/// # Errors
/// If the filter does not parse, or there is no thread left.
pub fn init_service_log(filter: &str, format: LogFormat) -> anyhow::Result<WorkerGuard> {
    limits::ensure_threads(1)?;
    let lines = Lines { dropped: Arc::default(), told: 0 };
    let dropped = lines.dropped.clone();
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING).thread_name("log");
    let (writer, guard) = builder.finish(lines);
    dropped.get_or_init(|| writer.error_counter());
    init(filter, format, writer)?;
    Ok(guard)
}

/// Standard error as a thread of its own writes to it.
struct Lines {
    /// Counter of lines that were dropped.
    dropped: Arc<OnceLock<ErrorCounter>>,
    /// Those that were told of.
    told: usize,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // What cannot be written is dropped, as where no thread is between.
        drop(io::stderr().write_all(line));
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.told {
            self.told = dropped;
            // It waits like the others; if there is no room for it, it counts as one more and is said again.
            tracing::warn!(lines = dropped, "log lines were dropped: whoever reads them was too slow");
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn init<W>(filter: &str, format: LogFormat, writer: W) -> anyhow::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Coded::setting(anyhow::anyhow!("log = {filter:?}: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        // Errors of writing would be written to the same place, and that they cannot be would be a panic.
        .log_internal_errors(false);
    // Not a setting of ours but a word between terminals and programs: no-color.org.
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second call, as tests make, keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(colour && io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        if crate::quiet::is_expected() {
            return;
        }
        let words = panic.to_string();
        tracing::error!("{}", words.split_whitespace().collect::<Vec<_>>().join(" "));
    }));
    Ok(())
}
