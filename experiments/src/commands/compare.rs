//! `qslm compare`: is a quantized network worse, or is it noise?

use std::path::PathBuf;

use clap::Args;
use qslm_common::cost::Costs;
use qslm_common::footprint::{file_bytes, saving};
use qslm_common::measurement::{Counts, overflowed};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, EvaluateError};
use serde::Serialize;

use crate::codes::{CalibrationArgs, CodesArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::front_file::{FrontFile, candidate};
use crate::input::Input;
use crate::inputs::DataArgs;
use crate::output::{Output, print_data, print_pairs};
use crate::parallel::{evaluate_every, threads};
use crate::schemes::{LoadedModel, ModelArgs, SchemeArgs};
use crate::statistics::paired;
use crate::storage::{StorageArgs, sizes};

/// Compare a quantized network with the float one, sequence by sequence, with a paired significance test.
///
/// The test flips the sign of each window's (or sentence's) difference at random: if there were no difference, each
/// sign would be as likely. For sentences that is McNemar's test. The interval is a bootstrap over windows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm compare --checkpoint model.safetensors --tokenizer tokenizer.json --text valid.txt --window 128 --bits 4 --embedding sign
  qslm compare --checkpoint sst2.safetensors --tokenizer tokenizer.json --labelled dev.tsv --front runs/sst2-ID.front.json
  qslm compare --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --against packed.safetensors")]
pub struct Compare {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    codes: CodesArgs,
    #[command(flatten)]
    storage: StorageArgs,
    /// Compare with this checkpoint, float or packed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["matrices", "activation_bits", "membrane_bits", "front"])]
    against: Option<PathBuf>,
    /// Compare with the candidate that a run chose: its front
    #[arg(long, value_name = "FILE", conflicts_with_all = ["matrices", "activation_bits", "membrane_bits"])]
    front: Option<PathBuf>,
    /// Take this candidate of the front instead: its id, or the beginning of it
    #[arg(long, value_name = "ID", requires = "front")]
    candidate: Option<String>,
    /// Threads that evaluate side by side [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed document; its keys are part of the interface.
#[derive(Serialize)]
struct ComparedFronts {
    /// Windows or sentences.
    pairs: usize,
    candidate: String,
    saving: f64,
    /// Perplexity or accuracy.
    measure: &'static str,
    /// Null if it is beyond the largest number, and so is the loss then.
    before: Option<f64>,
    after: Option<f64>,
    /// `PPL / PPL0 - 1`, or the drop in accuracy.
    loss: f64,
    /// 95 % interval of the loss.
    loss_interval: (f64, f64),
    p_value: f64,
    /// Costs of both on a device of 45 nm; see docs/reference/spec.md (Costs).
    costs_before: Costs,
    costs_after: Costs,
}

impl Compare {
    /// Measures both and prints.
    pub fn run(self) -> Outcome {
        let threads = threads(self.threads);
        let (other, data) = self.other()?;
        let float = self.model.load()?;
        let (before, after) = (&float.model, &other.model);
        if before.network() != after.network() {
            return Err(Failure::new(Exit::Usage, "the two networks differ in shape"));
        }
        let every = |model: &SpikeGpt| {
            evaluate_every(model, &data, threads).map_err(|error: EvaluateError| {
                Failure::new(Exit::Failure, format!("{}: {error}", self.model.checkpoint.display()))
            })
        };
        let pairs: Vec<_> = every(before)?.into_iter().zip(every(after)?).collect();
        let report = ComparedFronts::new(&pairs, &float, &other)?;
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => report.print_table(),
        }
    }

    /// The network to compare with, and the data.
    fn other(&self) -> Outcome<(LoadedModel, Dataset)> {
        let loaded = match (&self.against, &self.front) {
            (Some(file), _) => ModelArgs { checkpoint: file.clone(), ..self.model.clone() }.load()?,
            (None, Some(front)) => {
                let (front, checkpoint) = (FrontFile::read(front)?, self.model.read()?);
                let hash = Input::checkpoint(&self.model.checkpoint)?.hash()?;
                front.check_checkpoint(hash, &self.model.checkpoint)?;
                let candidate = candidate(front.row(self.candidate.as_deref())?, checkpoint.network())?;
                let codes = self.codes.of(&candidate)?;
                let storage = self.storage.or(&front.document.storage);
                let sizes = sizes(&storage, &checkpoint, &candidate, &codes)?;
                let model = self.model.build(checkpoint, &candidate, &codes)?;
                LoadedModel { model, candidate, sizes }
            }
            (None, None) if self.scheme.is_empty() => {
                let words = "what to compare with is missing: give --bits and its like, --front or --against";
                return Err(Failure::new(Exit::Usage, words));
            }
            (None, None) => {
                self.scheme.load(&self.model, None, Some(&self.storage), |network, candidate| {
                    self.calibration.codes(&self.model, &self.data, network, candidate)
                })?
            }
        };
        let data = self.data.load(loaded.model.network())?;
        Ok((loaded, data))
    }
}

impl ComparedFronts {
    fn new(
        pairs: &[(Counts, Counts)],
        before_model: &LoadedModel,
        after_model: &LoadedModel,
    ) -> Outcome<Self> {
        let network = before_model.model.network();
        let sum = |of: fn(&(Counts, Counts)) -> &Counts| {
            Counts::sum(network.population_count(), pairs.iter().map(of))
        };
        let sums = sum(|pair| &pair.0).and_then(|before| Ok((before, sum(|pair| &pair.1)?)));
        let (before, after) = sums.map_err(|error| Failure::new(Exit::Failure, error))?;
        let quality = before.quality();
        let difference = |(before, after): &(Counts, Counts)| {
            (quality.summed_loss(after) - quality.summed_loss(before), quality.items(before) as f64)
        };
        let differences: Vec<_> = pairs.iter().map(difference).collect();
        let none = || Failure::new(Exit::Failure, "nothing to compare");
        let test = paired(&differences).ok_or_else(none)?;
        let loss = |mean| quality.loss_of(mean);
        let value = |counts: &Counts| quality.value(counts).filter(|value| !overflowed(*value));
        Ok(Self {
            pairs: pairs.len(),
            candidate: after_model.candidate.id().to_string(),
            saving: saving(network, file_bytes(network, &after_model.candidate, &after_model.sizes)),
            measure: quality.name(),
            before: value(&before),
            after: value(&after),
            loss: loss(test.mean),
            loss_interval: (loss(test.interval.0), loss(test.interval.1)),
            p_value: test.p_value,
            costs_before: before_model.costs(&before),
            costs_after: after_model.costs(&after),
        })
    }

    fn print_table(&self) -> Outcome {
        let (low, high) = self.loss_interval;
        let or_overflow = |shown: Option<String>| shown.unwrap_or_else(|| "overflow".to_owned());
        let finite = |share: f64| Some(share * 100.0).filter(|percent| percent.is_finite());
        let percent = |share: f64| or_overflow(finite(share).map(|percent| format!("{percent:+.2} %")));
        let quality = |quality: Option<f64>| or_overflow(quality.map(|quality| format!("{quality:.4}")));
        let verdict = if self.p_value < 0.05 { "significant" } else { "not significant" };
        print_pairs(&[
            (
                "candidate".to_owned(),
                format!("{} ({:.2} % saved)", &self.candidate[..12], self.saving * 100.0),
            ),
            (self.measure.to_owned(), format!("{} to {}", quality(self.before), quality(self.after))),
            (
                "loss".to_owned(),
                format!("{}, 95 % interval {} to {}", percent(self.loss), percent(low), percent(high)),
            ),
            (
                "p-value".to_owned(),
                format!("{:.4} over {} pairs: {verdict} at 5 %", self.p_value, self.pairs),
            ),
        ])
    }
}
