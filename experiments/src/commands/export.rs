//! `qslm export`: every measured candidate of an experiment as rows for other programs.

mod parquet;
mod text;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use qslm_proto::v1::GetRequest;

use super::target::Source;
use crate::client::{Client, describe};
use crate::columns::{CandidateRow, Column, Kind, columns, columns_of_bits, columns_of_task};
use crate::ending;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plain_table, print};
use crate::place::{Made, OutputPlace, Unfinished};
use crate::standing::Judge;
use parquet::Parquet;
use text::{Csv, Lines};

/// Write every measured candidate of an experiment as CSV, lines of JSON, or Parquet.
///
/// A row per candidate, in the order in which the search proposed them; `--columns` lists what is in it. Further tasks have
/// columns of their own, tasks.NAME.quality_loss for one. Rows are written as they are read; whoever has the store holds a few
/// hundred bytes per candidate meanwhile. An experiment that is under way gives what is measured so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm export quickstart > quickstart.csv
  qslm export quickstart --store runs/quickstart.redb --out quickstart.parquet
  qslm export quickstart --format jsonl | head -1
  qslm export quickstart --unit-bits --out bits.parquet
  qslm export --columns")]
pub struct Export {
    /// The experiment's id or the beginning of it, or its name, which means the newest of that name
    #[arg(required_unless_present = "columns")]
    experiment: Option<String>,
    #[command(flatten)]
    source: Source,
    /// The form of the rows [default: by the end of the file's name, else csv]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The file to write; - for standard output [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace what is there even if it is no export; never a store, a checkpoint or an input
    #[arg(long)]
    force: bool,
    /// Also write a column bits:UNIT for every matrix: its bits per weight
    #[arg(long)]
    unit_bits: bool,
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

/// The forms by the end of a file's name.
const ENDINGS: [(&str, Format); 4] =
    [("csv", Format::Csv), ("jsonl", Format::Jsonl), ("ndjson", Format::Jsonl), ("parquet", Format::Parquet)];

impl Format {
    fn made(self) -> Made {
        match self {
            Self::Csv => Made::Csv,
            Self::Jsonl => Made::Lines,
            Self::Parquet => Made::Parquet,
        }
    }
}

/// Sink of rows.
trait Sink {
    /// Writes a row.
    fn write(&mut self, row: CandidateRow) -> std::io::Result<()>;

    /// Writes what is left.
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

impl Export {
    /// Writes the rows.
    pub async fn run(self) -> Outcome {
        let Some(experiment) = self.experiment else { return show_columns() };
        let out = self.out.filter(|out| out != Path::new("-"));
        let name = out.as_ref().map_or("standard output".to_owned(), |path| path.display().to_string());
        let inputs = self.source.inputs();
        let inputs: Vec<_> = inputs.iter().map(PathBuf::as_path).collect();
        out.as_deref().map_or(Ok(()), |out| OutputPlace::refuse_inputs(out, &inputs))?;
        let format = ending::choose(self.format, out.as_deref(), &ENDINGS, Format::Csv)?;
        let place = |path: &PathBuf| OutputPlace::new(path, format.made(), &inputs, self.force);
        let place = out.as_ref().map(place).transpose()?;
        let rows = Rows { experiment: &experiment, format, unit_bits: self.unit_bits };
        self.source.with(async |client| rows.write(client, place.as_ref(), &name).await).await
    }
}

/// Writes the rows of an experiment as CSV.
pub(crate) async fn write_csv(
    client: &mut Client,
    experiment: &str,
    place: &OutputPlace,
    name: &str,
) -> Outcome {
    let rows = Rows { experiment, format: Format::Csv, unit_bits: false };
    rows.write(client, Some(place), name).await
}

/// Rows to be written.
struct Rows<'a> {
    experiment: &'a str,
    format: Format,
    unit_bits: bool,
}

impl Rows<'_> {
    /// Writes them to a place, or to standard output; `name` is what that is called in a message.
    async fn write(&self, client: &mut Client, place: Option<&OutputPlace>, name: &str) -> Outcome {
        let judge = judge(client, self.experiment).await?;
        let mut columns = columns();
        columns.extend(judge.tasks().flat_map(columns_of_task));
        if self.unit_bits {
            columns.extend(columns_of_bits(judge.network()));
        }
        let request = GetRequest { experiment: self.experiment.to_owned() };
        let mut stream = client.candidates(request).await?.into_inner();
        // Not before there is something to write: a wrong id leaves no empty file behind.
        let Some(place) = place else {
            let sink = sink(self.format, Box::new(std::io::stdout()), columns)?;
            return copy(&mut stream, sink, &judge, name).await;
        };
        let (to, unfinished) = place.writer()?;
        copy(&mut stream, sink(self.format, Box::new(to), columns)?, &judge, name).await?;
        unfinished.map_or(Ok(()), Unfinished::finish)
    }
}

fn sink(format: Format, to: Box<dyn Write + Send>, columns: Vec<Column>) -> Outcome<Box<dyn Sink>> {
    let to = BufWriter::new(to);
    Ok(match format {
        Format::Csv => Box::new(Csv::new(to, columns)),
        Format::Jsonl => Box::new(Lines::new(to, columns)),
        Format::Parquet => {
            Box::new(Parquet::new(to, columns).map_err(|error| Failure::new(Exit::Failure, error))?)
        }
    })
}

/// What the experiment decides by.
async fn judge(client: &mut Client, experiment: &str) -> Outcome<Judge> {
    Ok(Judge::new(describe(client, experiment).await?))
}

/// Writes everything that comes in.
async fn copy(
    stream: &mut tonic::Streaming<qslm_proto::v1::CandidatesResponse>,
    mut sink: Box<dyn Sink>,
    judge: &Judge,
    name: &str,
) -> Outcome {
    while let Some(message) = stream.message().await? {
        for candidate in message.candidates {
            if let Err(error) = sink.write(CandidateRow::new(candidate, judge)) {
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
        table.add_row([&column.name, kind, &column.about]);
    }
    print(&format!("{table}\n"))
}
