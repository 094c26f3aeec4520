//! `qslm export`: every measured candidate of an experiment as rows for other programs.

mod parquet;
mod text;

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qslm_proto::v1::GetRequest;

use super::target::Source;
use crate::columns::{Kind, Row, columns};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plain_table, print};
use parquet::Parquet;
use text::{Csv, Lines};

/// Write every measured candidate of an experiment as CSV, lines of JSON, or Parquet.
///
/// A row per candidate, in the order in which the search proposed them; `--columns` lists what is in it. Rows are written
/// as they are read; whoever has the store holds a few hundred bytes per candidate meanwhile. An experiment that is under way gives what is measured so
/// far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm export quickstart > quickstart.csv
  qslm export quickstart --store runs/quickstart.redb --out quickstart.parquet
  qslm export quickstart --format jsonl | head -1
  qslm export --columns")]
pub struct Export {
    /// The experiment's id, or the beginning of it
    #[arg(required_unless_present = "columns")]
    experiment: Option<String>,
    #[command(flatten)]
    source: Source,
    /// The form of the rows [default: by the end of the file's name, else csv]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the names of the columns and what they say
    #[arg(long, exclusive = true)]
    columns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// A JSON object on each line
    Jsonl,
    /// Apache Parquet: typed and compressed
    Parquet,
}

/// Where rows go.
trait Sink {
    /// Writes a row.
    fn write(&mut self, row: Row) -> std::io::Result<()>;

    /// Writes what is left.
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

impl Export {
    /// Writes the rows.
    pub async fn run(self) -> Outcome {
        let Some(experiment) = self.experiment else { return show_columns() };
        let name = self.out.as_ref().map_or("standard output".to_owned(), |path| path.display().to_string());
        let extension = self.out.as_ref().and_then(|path| path.extension());
        let format = self.format.unwrap_or(match extension.and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => Format::Jsonl,
            Some("parquet") => Format::Parquet,
            _ => Format::Csv,
        });
        let out = self.out;
        self.source
            .with(async |client| {
                let mut stream =
                    client.candidates(GetRequest { experiment: experiment.clone() }).await?.into_inner();
                // Not before there is something to write: a wrong id leaves no empty file behind.
                let to: Box<dyn Write + Send> = match &out {
                    Some(path) => {
                        Box::new(std::fs::File::create(path).map_err(|error| Failure::file(path, &error))?)
                    }
                    None => Box::new(std::io::stdout()),
                };
                copy(&mut stream, sink(format, to)?, &name).await
            })
            .await
    }
}

fn sink(format: Format, to: Box<dyn Write + Send>) -> Outcome<Box<dyn Sink>> {
    let to = BufWriter::new(to);
    Ok(match format {
        Format::Csv => Box::new(Csv::new(to)),
        Format::Jsonl => Box::new(Lines::new(to)),
        Format::Parquet => Box::new(Parquet::new(to).map_err(|error| Failure::new(Exit::Failure, error))?),
    })
}

/// Writes everything that comes in.
async fn copy(
    stream: &mut tonic::Streaming<qslm_proto::v1::CandidatesResponse>,
    mut sink: Box<dyn Sink>,
    name: &str,
) -> Outcome {
    while let Some(message) = stream.message().await? {
        for candidate in message.candidates {
            if let Err(error) = sink.write(Row::new(candidate)) {
                return ended(&error, name);
            }
        }
    }
    sink.finish().or_else(|error| ended(&error, name))
}

/// A reader that went away (`| head`) is no failure.
fn ended(error: &std::io::Error, name: &str) -> Outcome {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::new(Exit::Failure, format!("{name}: {error}"))),
    }
}

fn show_columns() -> Outcome {
    let mut table = plain_table();
    table.set_header(["column", "kind", "what it says"]);
    for column in columns() {
        let kind = match column.kind() {
            Kind::Text => "text",
            Kind::Count => "whole number",
            Kind::Number => "number",
        };
        table.add_row([&column.name, kind, column.about]);
    }
    print(&format!("{table}\n"))
}
