//! Standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs: one JSON document
    Json,
    /// The same as YAML
    Yaml,
}

/// The form of experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// For people
    Table,
    /// For people with a wide terminal: every column
    Wide,
    /// For programs: one JSON document
    Json,
    /// The same as YAML
    Yaml,
    /// Ids only, one on a line
    Name,
}

impl Listed {
    /// The form of what follows, such as a front.
    pub fn of_result(self) -> Output {
        match self {
            Self::Table | Self::Wide | Self::Name => Output::Table,
            Self::Json => Output::Json,
            Self::Yaml => Output::Yaml,
        }
    }
}

/// Prints to standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failure, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The most memory that this process has held so far, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Prints one document: YAML if that is asked for, else JSON.
pub fn print_data(output: Output, value: &impl Serialize) -> Outcome {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failure, error);
    if output == Output::Yaml {
        // By way of JSON, so that both say the same in the same order.
        let value = serde_json::to_value(value).map_err(|error| failed(&error))?;
        return print(&serde_saphyr::to_string(&value).map_err(|error| failed(&error))?);
    }
    print(&json_of(value)?)
}

/// One JSON document.
pub fn json_of(value: &impl Serialize) -> Outcome<String> {
    let text = serde_json::to_string_pretty(value);
    Ok(text.map_err(|error| Failure::new(Exit::Failure, error))? + "\n")
}

/// Prints names and values in two columns.
pub fn print_pairs(rows: &[(String, String)]) -> Outcome {
    let mut table = plain_table();
    for (name, value) in rows {
        table.add_row([name, value]);
    }
    print(&format!("{table}\n"))
}

/// A table without borders inside, for a header and rows.
pub fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Aligns columns to the right: those of which `has_numbers`, given their place, is true.
pub fn align_right(table: &mut Table, has_numbers: impl Fn(usize) -> bool) {
    for (_, column) in table.column_iter_mut().enumerate().filter(|(place, _)| has_numbers(*place)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
