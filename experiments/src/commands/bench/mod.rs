//! `qslm bench`: speed of the program's own parts, on this machine, now.

mod codes;
mod coordinator;
mod eval;
mod front;
mod jobs;
mod load;
mod rounding;
mod scale;
mod transfer;
mod workload;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, align_right, plain_table, print, print_data};

/// Measure the parts of qslm on this machine.
///
/// Numbers are medians or quantiles of one run; a busy machine makes them worse.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm bench coordinator --workers 1,2,4,8
  qslm bench coordinator --workers 8 --slots 128 --trials 999999
  qslm bench jobs --workers 8 --artifact-mib 16,1024
  qslm bench codes --channels 768 --vocabulary 50277
  qslm bench eval --channels 768 --vocabulary 50277
  qslm bench rounding --checkpoint m.pth --tokenizer t.json --text valid.txt --window 128 --calibration train.txt
  qslm bench scale --workers 1000 --spread 0.5
  qslm bench load --connections 2000 --seconds 30
  qslm bench front --output json")]
pub struct Bench {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Codes(codes::CodesBench),
    Coordinator(coordinator::CoordinatorBench),
    Eval(eval::EvalBench),
    Front(front::FrontBench),
    Jobs(jobs::JobsBench),
    Load(load::LoadBench),
    Rounding(rounding::RoundingBench),
    Scale(scale::ScaleBench),
}

impl Bench {
    /// Measures and prints.
    pub async fn run(self) -> Outcome {
        match self.part {
            Part::Codes(bench) => bench.run(),
            Part::Coordinator(bench) => bench.run().await,
            Part::Eval(bench) => bench.run(),
            Part::Front(bench) => bench.run(),
            Part::Jobs(bench) => bench.run().await,
            Part::Load(bench) => bench.run().await,
            Part::Rounding(bench) => bench.run(),
            Part::Scale(bench) => bench.run().await,
        }
    }
}

/// Folder in which a coordinator is measured, and the form of the figures.
#[derive(Debug, Args)]
struct StoreFolder {
    /// Folder of the stores, on the disk to be measured; they are removed afterwards
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl StoreFolder {
    /// A folder for one measurement.
    fn folder(&self) -> Outcome<TempDir> {
        std::fs::create_dir_all(&self.folder).map_err(|error| Failure::file(&self.folder, &error))?;
        Ok(tempfile::tempdir_in(&self.folder).map_err(anyhow::Error::from)?)
    }
}

/// Refuses a number of workers that is not 1 to `most`.
fn check_workers(workers: u32, most: u32) -> Outcome {
    check("--workers", workers, most)
}

/// Refuses a value of a flag that is not 1 to `most`.
fn check(flag: &str, value: u32, most: u32) -> Outcome {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("{flag} {value}: expected 1 to {most}")))
}

/// Prints rows as JSON, or as a table with these fields as its columns.
fn show(rows: &[impl Serialize], columns: &[&str], output: Output) -> Outcome {
    if output != Output::Table {
        return print_data(output, &rows);
    }
    let mut table = plain_table();
    table.set_header(columns);
    for row in rows {
        let fields = serde_json::to_value(row).unwrap_or_default();
        table.add_row(columns.iter().map(|column| match &fields[column] {
            Value::Null => String::new(),
            Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or(f64::NAN)),
            other => other.to_string().trim_matches('"').to_owned(),
        }));
    }
    align_right(&mut table, |place| place >= 1);
    print(&format!("{table}\n"))
}

/// Seconds that `f` takes: the median of so many times.
fn median_seconds(times: u32, mut f: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let started = Instant::now();
            f();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    quantile(&seconds, 0.5)
}

/// The value that a share of the (sorted) values does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
