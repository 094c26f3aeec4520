//! `qslm bench rounding`: what ways to choose codes that are not offered would gain: the loss of a network under each.
//!
//! Every matrix but the embedding is rounded; vectors stay float, so that rounding alone is compared. Two ways follow the
//! inputs of the network as far as it is quantized, block after block, where the offered ones follow the float network's.

mod paired;
mod ways;

use std::path::PathBuf;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::measurement::Counts;
use qslm_common::network::{Network, Unit};
use qslm_common::scheme::{Format, Range, Scheme};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{BACKEND, gptq};
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::Hessian;
use qslm_engine::task::{Dataset, spread};
use serde::Serialize;

use super::show;
use crate::exit::{Exit, Failure, Outcome};
use crate::inputs::DataArgs;
use crate::output::Output;
use crate::parallel;
use crate::schemes::ModelArgs;
use paired::Paired;
use ways::{Matrix, Way};

/// Measure ways to choose the codes of a checkpoint, also those that are not offered
#[derive(Debug, Args)]
pub struct RoundingBench {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Text (or labelled sentences) that codes are calibrated with
    #[arg(long, value_name = "FILE")]
    calibration: PathBuf,
    /// Windows or sentences of the calibration data
    #[arg(long, value_name = "N", default_value_t = 128)]
    calibration_sequences: u32,
    /// Scheme of every matrix but the embedding, of integers with a scale per tensor, channel or group; how it rounds is
    /// what is compared
    #[arg(long, default_value = "int2:full:channel:f16:least_squares")]
    scheme: Scheme,
    /// Damping, as a multiple of the mean second moment of the inputs
    #[arg(long, value_name = "X", default_value_t = gptq::DAMPING)]
    damping: f64,
    /// Evaluation threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row; its keys are part of the interface.
#[derive(Serialize)]
struct Row {
    way: &'static str,
    /// Mean over matrices of the squared error of their outputs on the calibration data, with rounding to nearest as 1.
    output_error: f64,
    loss_percent: f64,
    low_percent: Option<f64>,
    high_percent: Option<f64>,
    about: &'static str,
}

impl RoundingBench {
    pub(super) fn run(self) -> Outcome {
        let Scheme::Integer { format, quantizer } = self.scheme else {
            return Err(Failure::new(
                Exit::Usage,
                format!("--scheme {}: expected one of integers", self.scheme),
            ));
        };
        let checkpoint = self.model.read()?;
        let network = *checkpoint.network();
        let data = self.data.load(&network)?;
        let (_, calibration) =
            self.data.cut()?.load_calibration(&self.calibration, self.calibration_sequences, &network)?;
        let threads = parallel::threads(self.threads);
        let study = Study { format, range: quantizer.range, damping: self.damping, checkpoint, calibration };
        let hessians = study.hessians(threads)?;
        let nearest = study.rounded(Way::Nearest, &hessians)?;
        let quality = self.data.task()?.quality();
        let float = counts(&study.checkpoint, &data, threads)?;
        let before = total(&network, &float)?;
        let mut rows = Vec::new();
        for way in Way::ALL {
            let rounded = study.rounded(way, &hessians)?;
            let each = counts(&rounded, &data, threads)?;
            let after = total(&network, &each)?;
            let interval = spread(quality, &float, &each).loss_interval(&before, &after);
            rows.push(Row {
                way: way.name(),
                output_error: study.output_error(&rounded, &nearest, &hessians),
                loss_percent: 100.0 * quality.loss_against(&before, &after),
                low_percent: interval.map(|(low, _)| 100.0 * low),
                high_percent: interval.map(|(_, high)| 100.0 * high),
                about: way.about(),
            });
        }
        let columns = ["way", "output_error", "loss_percent", "low_percent", "high_percent", "about"];
        show(&rows, &columns, self.output)
    }
}

/// A network to be rounded, and what its codes are calibrated with.
struct Study {
    format: Format,
    range: Range,
    damping: f64,
    checkpoint: Checkpoint,
    calibration: Dataset,
}

/// Hessians of the float network's inputs, by part and unit.
type Hessians = Vec<Vec<(Unit, Hessian)>>;

impl Study {
    fn hessians(&self, threads: usize) -> Outcome<Hessians> {
        let float = build(&self.checkpoint)?;
        let of_part = |part: usize| {
            let units = gptq::units_of(self.checkpoint.network(), part as u32);
            let sequences = self.calibration.len() as u64;
            let seen = gptq::see(&float, &self.calibration, part as u32, &units, &(), sequences);
            seen.map(|hessians| units.into_iter().zip(hessians).collect()).map_err(|error| failed(&error))
        };
        parallel::map(gptq::parts(self.checkpoint.network()) as usize, threads, of_part)
    }

    /// The network with every matrix but the embedding rounded in a way, part after part.
    fn rounded(&self, way: Way, hessians: &Hessians) -> Outcome<Checkpoint> {
        let float = build(&self.checkpoint)?;
        let mut rounded = self.checkpoint.clone();
        for (part, units) in (0..).zip(hessians) {
            let paired = match way.follows_prefix() {
                true => Some(Paired::see(&float, &build(&rounded)?, &self.calibration, part, units)?),
                false => None,
            };
            for (index, (unit, hessian)) in units.iter().enumerate() {
                let paired = paired.as_ref().map(|paired| &paired[index]);
                let values = self.checkpoint.tensor(&unit.name);
                let (format, range, damping) = (self.format, self.range, self.damping);
                let matrix = Matrix { values: &values, unit, format, range, damping, hessian };
                let chosen = way.choose(&matrix, paired).map_err(|error| failed(&error))?;
                rounded.replace(&unit.name, chosen);
            }
        }
        Ok(rounded)
    }

    /// Mean over matrices of the squared error of their outputs, with that of another rounding as 1.
    fn output_error(&self, rounded: &Checkpoint, other: &Checkpoint, hessians: &Hessians) -> f64 {
        let ratio = |(unit, hessian): &(Unit, Hessian)| {
            let float = self.checkpoint.tensor(&unit.name);
            let of = |rounded: &Checkpoint| {
                ways::output_error(&float, &rounded.tensor(&unit.name), unit.columns, hessian)
            };
            of(rounded) / of(other)
        };
        let ratios: Vec<f64> = hessians.iter().flatten().map(ratio).collect();
        ratios.iter().sum::<f64>() / ratios.len() as f64
    }
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, error)
}

fn build(checkpoint: &Checkpoint) -> Outcome<SpikeGpt> {
    SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), BACKEND)
        .map_err(|error| failed(&error))
}

fn counts(checkpoint: &Checkpoint, data: &Dataset, threads: usize) -> Outcome<Vec<Counts>> {
    parallel::evaluate_every(&build(checkpoint)?, data, threads).map_err(|error| failed(&error))
}

fn total(network: &Network, each: &[Counts]) -> Outcome<Counts> {
    Counts::sum(network.population_count(), each).map_err(|error| failed(&error))
}
