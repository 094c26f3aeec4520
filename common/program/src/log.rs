//! Log lines: what is said, and in which form.

use std::io::IsTerminal;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::Coded;

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
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Coded::setting(anyhow::anyhow!("log = {filter:?}: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // Errors of writing would be written to the same place, and that they cannot be would be a panic.
        .log_internal_errors(false);
    // Not a setting of ours but a word between terminals and programs: no-color.org.
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second call, as tests make, keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(colour && std::io::stderr().is_terminal()).try_init(),
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
