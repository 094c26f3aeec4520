//! `qslm sensitivity`: which units matter, by every measure, and which measure tells.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::codes::CalibrationArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::inputs::DataArgs;
use crate::output::{Output, align_right, plain_table, print, print_data};
use crate::parallel::threads;
use crate::place::{Made, OutputPlace};
use crate::schemes::{ModelArgs, SchemeArgs};
use crate::sensitivity::{Metric, Options, UnitSensitivity, measure};
use crate::statistics::spearman;

/// Measure how sensitive each matrix is, by several measures, and how well the cheap ones rank.
///
/// Every unit is quantized alone, the rest stays float. The rank correlation (Spearman) with the task loss
/// says which measure could stand in for it in a search.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm sensitivity --checkpoint model.safetensors --tokenizer tokenizer.json --text valid.txt --window 128 --bits 3
  qslm sensitivity --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --windows 16 --bits 4 --csv units.csv
  qslm sensitivity --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --bits 3 --rounding gptq --calibration train.txt
  qslm sensitivity --checkpoint sst2.safetensors --tokenizer tokenizer.json --labelled dev.tsv --bits 2 --metric task_loss --metric weight_error

CSV columns: unit, block, module, scheme, then one per measure; empty where a measure does not apply.")]
pub struct Sensitivity {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Show these measures only; may be given several times
    #[arg(long = "metric", value_enum, value_name = "METRIC")]
    metrics: Vec<Metric>,
    /// Windows or sentences for membrane_drift and lsaq
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    mini_batch: u32,
    /// Tokens that lsaq compares: the k of its top k
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Also write the table as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Replace what --csv names even if it is no such table; never a store, a checkpoint or an input
    #[arg(long, requires = "csv")]
    force: bool,
    /// Threads that evaluate side by side [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed document; its keys are part of the interface.
#[derive(Serialize)]
struct SensitivityReport {
    units: Vec<UnitSensitivity>,
    /// Spearman's rank correlation with the task loss, by measure, over the units that have it; null if undefined.
    rank_correlation: serde_json::Map<String, serde_json::Value>,
}

impl Sensitivity {
    /// Measures, writes and prints.
    pub fn run(mut self) -> Outcome {
        self.model.find()?;
        self.data.find()?;
        self.calibration.find()?;
        if self.metrics.is_empty() {
            self.metrics = Metric::ALL.to_vec();
        }
        let place = self.csv.as_deref().map(|path| self.place(path)).transpose()?;
        let checkpoint = self.model.read()?;
        if checkpoint.manifest().is_some() {
            let words =
                format!("{} is packed already: measure the float one", self.model.checkpoint.display());
            return Err(Failure::new(Exit::Usage, words));
        }
        let missing = || Failure::new(Exit::Usage, "--bits is needed: what each unit is quantized to, alone");
        let candidate = self.scheme.candidate(checkpoint.network(), None)?.ok_or_else(missing)?;
        let (cut, path) = (self.data.cut()?, &self.model.checkpoint);
        let (candidate, codes) = self.calibration.codes(path, &cut, checkpoint.network(), candidate)?;
        let data = self.data.load(checkpoint.network())?;
        let options = Options {
            backend: self.model.backend,
            mini_batch: self.mini_batch as usize,
            top_k: self.top_k as usize,
            threads: threads(self.threads),
        };
        let bar = ProgressBar::new(checkpoint.network().units().len() as u64);
        let style = ProgressStyle::with_template("[{bar:24}] {pos} of at most {len} units, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        let units = measure(&checkpoint, (&candidate, &codes), &data, options, || bar.inc(1))?;
        bar.finish_and_clear();
        if let Some(place) = place {
            place.write(self.to_csv(&units).as_bytes())?;
        }
        let correlations: Vec<_> = self.metrics.iter().map(|metric| correlation(&units, *metric)).collect();
        match self.output {
            Output::Json | Output::Yaml => {
                let named = self.metrics.iter().zip(correlations);
                let rank_correlation =
                    named.map(|(metric, rho)| (metric.name().to_owned(), rho.into())).collect();
                print_data(self.output, &SensitivityReport { units, rank_correlation })
            }
            Output::Table => print(&self.table(&units, &correlations)),
        }
    }

    fn place(&self, path: &Path) -> Outcome<OutputPlace> {
        let inputs = self.data.files().chain([&*self.model.checkpoint]);
        let inputs: Vec<_> = inputs.chain(self.calibration.calibration.as_deref()).collect();
        OutputPlace::new(path, Made::Sensitivities, &inputs, self.force)
    }

    fn table(&self, units: &[UnitSensitivity], correlations: &[Option<f64>]) -> String {
        let mut table = plain_table();
        table.set_header(["unit"].into_iter().chain(self.metrics.iter().map(|metric| metric.name())));
        align_right(&mut table, |place| place >= 1);
        for row in units {
            let value = |metric: &Metric| row.value(*metric).map_or("-".to_owned(), |v| format!("{v:.3e}"));
            table.add_row(std::iter::once(row.unit.clone()).chain(self.metrics.iter().map(value)));
        }
        let rho = correlations.iter().map(|rho| rho.map_or("-".to_owned(), |rho| format!("{rho:+.3}")));
        table.add_row(std::iter::once("rank correlation with task_loss".to_owned()).chain(rho));
        format!("{table}\n")
    }

    fn to_csv(&self, units: &[UnitSensitivity]) -> String {
        let mut text = "unit,block,module,scheme".to_owned();
        self.metrics.iter().for_each(|metric| text.extend([",", metric.name()]));
        text.push('\n');
        for row in units {
            let mut parts = row.unit.split('.');
            let (block, module) = match parts.next() {
                Some("blocks") => (parts.next().unwrap_or(""), parts.next().unwrap_or("")),
                _ => ("", ""),
            };
            // Names and numbers only: nothing needs quoting.
            let _ = write!(text, "{},{block},{module},{}", row.unit, row.scheme);
            for metric in &self.metrics {
                let _ = match row.value(*metric) {
                    Some(value) => write!(text, ",{value:e}"),
                    None => write!(text, ","),
                };
            }
            text.push('\n');
        }
        text
    }
}

/// Rank correlation of a measure with the task loss, over the units that have it.
fn correlation(units: &[UnitSensitivity], metric: Metric) -> Option<f64> {
    let pairs = units.iter().filter_map(|row| Some((row.value(metric)?, row.value(Metric::YARDSTICK)?)));
    let (values, losses): (Vec<_>, Vec<_>) = pairs.unzip();
    spearman(&values, &losses)
}
