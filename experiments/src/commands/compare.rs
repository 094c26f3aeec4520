//! `qslm compare`: is a quantized network worse, or is it noise?

use std::path::PathBuf;

use clap::Args;
use qslm_common::cost::Costs;
use qslm_common::footprint::{file_bytes, saving};
use qslm_common::measurement::{Counts, overflowed};
use qslm_common::quality::Quality;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, EvaluateError};
use qslm_report::words::{lost, lost_at_most};
use serde::Serialize;

use crate::codes::CalibrationArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::inputs::DataArgs;
use crate::known::Known;
use crate::output::{Output, print, print_data, print_pairs};
use crate::parallel::{evaluate_every, threads};
use crate::schemes::{LoadedModel, ModelArgs, SchemeArgs};
use crate::selected::SelectArgs;
use crate::statistics::{LEAST_P, paired};
use crate::storage::StorageArgs;

/// Compare a quantized network with the float one, sequence by sequence, with a paired significance test.
///
/// With --margin the question is the one that people have of a deployed network: is the loss below a margin, with 95 %
/// confidence? The test flips the sign of each window's (or sentence's) difference at random: if there were no difference,
/// each sign would be as likely. For sentences that is McNemar's test. The interval is a bootstrap over windows. A candidate
/// that was chosen on the same data looks better than it is; data that the search did not see tells.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm compare --checkpoint model.safetensors --tokenizer tokenizer.json --text valid.txt --window 128 --bits 4 --embedding sign
  qslm compare --checkpoint model.pth --tokenizer tokenizer.json --text unseen.txt --front front.json --margin 0.03
  qslm compare --checkpoint model.pth --tokenizer tokenizer.json --text unseen.txt --store runs/q.redb --experiment quickstart \
    --candidate 9a7d64 --against-candidate 5f10
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
    storage: StorageArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// Compare with this checkpoint, float or packed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["matrices", "activation_bits", "membrane_bits", "searched"])]
    against: Option<PathBuf>,
    /// Compare this candidate of the front with the one that is selected, in the place of the float model: its id, or the
    /// beginning of it
    #[arg(long, value_name = "ID", requires = "searched")]
    against_candidate: Option<String>,
    /// Ask whether the loss is below this with 95 % confidence: 0.03 is 3 % more perplexity, or 3 points of accuracy
    #[arg(long, value_name = "LOSS", allow_negative_numbers = true, value_parser = margin)]
    margin: Option<f64>,
    /// Threads that evaluate side by side [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

fn margin(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?}: expected a number above 0"))?;
    let sane = value.is_finite() && value > 0.0;
    if sane { Ok(value) } else { Err(format!("{text}: expected a number above 0")) }
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
    /// The loss is below this with 95 % confidence.
    loss_below: f64,
    /// The margin that was asked about, and whether the loss is below it with 95 % confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within_margin: Option<bool>,
    /// True if a search is known to have measured the candidate on this very data; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    chosen_on_this_data: bool,
    #[serde(skip)]
    quality: Quality,
    p_value: f64,
    /// Costs of both on the device of the search, or else on one of 45 nm; see docs/device.md.
    costs_before: Costs,
    costs_after: Costs,
}

/// What follows of choosing and proving on the same data.
const CHOSEN_HERE: &str = "\nThe search measured this candidate on this very data, and took it because it looked good here: \
                           loss and interval are too\ngood by that. Proof takes data that the search did not see \
                           (--text, --labelled, or a spec's [holdout]).\n";

impl Compare {
    /// Measures both and prints.
    pub fn run(mut self) -> Outcome {
        self.model.find()?;
        self.data.find()?;
        self.calibration.find()?;
        fetched::find(&mut self.against)?;
        let threads = threads(self.threads);
        let (other, data, known) = self.other()?;
        known.check_backend(self.model.backend);
        let first = match &self.against_candidate {
            Some(id) => self.select.load(&self.model, Some(&self.storage), Some(id))?.map(|(first, _)| first),
            None => None,
        };
        let first = first.map_or_else(|| self.model.load(), Ok)?;
        let (before, after) = (&first.model, &other.model);
        if before.network() != after.network() {
            return Err(Failure::new(Exit::Usage, "the two networks differ in shape"));
        }
        let every = |model: &SpikeGpt| {
            evaluate_every(model, &data, threads).map_err(|error: EvaluateError| {
                Failure::new(Exit::Failure, format!("{}: {error}", self.model.checkpoint.display()))
            })
        };
        let pairs: Vec<_> = every(before)?.into_iter().zip(every(after)?).collect();
        let report = ComparedFronts::new(&pairs, &first, &other, &known)?.beside(self.margin);
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => report.print_table(),
        }
    }

    /// The network to compare with, the data, and what a search knows of the network, if one chose it.
    fn other(&self) -> Outcome<(LoadedModel, Dataset, Known)> {
        let selected = self.select.load(&self.model, Some(&self.storage), None)?;
        let (loaded, known) = match (&self.against, selected) {
            (_, Some(selected)) => selected,
            (Some(file), None) => {
                let model = ModelArgs { checkpoint: file.clone(), ..self.model.clone() };
                let checkpoint = model.read()?;
                (model.load_read(checkpoint)?, Known::of_file(&model))
            }
            (None, None) if self.scheme.is_empty() => {
                let words = "what to compare with is missing: give --bits and its like, --front, --experiment or --against";
                return Err(Failure::new(Exit::Usage, words));
            }
            (None, None) => {
                let (cut, calibration) = (self.data.cut()?, &self.calibration);
                let ranges = calibration.ranges(&self.model, &cut, &self.scheme)?;
                let loaded = self.scheme.load(
                    &self.model,
                    ranges.as_ref(),
                    Some(&self.storage),
                    |network, candidate| calibration.codes(&self.model.checkpoint, &cut, network, candidate),
                )?;
                (loaded, Known::default())
            }
        };
        let data = self.data.clone().measured_as(&known)?.load(loaded.model.network())?;
        Ok((loaded, data, known))
    }
}

impl ComparedFronts {
    fn new(
        pairs: &[(Counts, Counts)],
        before_model: &LoadedModel,
        after_model: &LoadedModel,
        known: &Known,
    ) -> Outcome<Self> {
        let network = before_model.model.network();
        let sum = |of: fn(&(Counts, Counts)) -> &Counts| {
            Counts::sum(network.population_count(), pairs.iter().map(of))
        };
        let sums = sum(|pair| &pair.0).and_then(|before| Ok((before, sum(|pair| &pair.1)?)));
        let (before, after) = sums.map_err(|error| Failure::new(Exit::Failure, error))?;
        let quality = before.quality();
        let device = known.device();
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
            loss_below: loss(test.upper),
            margin: None,
            within_margin: None,
            // The same counts to the last digit come of the same data only.
            chosen_on_this_data: known.counts.as_ref() == Some(&after),
            quality,
            p_value: test.p_value,
            costs_before: before_model.costs(&before, &device),
            costs_after: after_model.costs(&after, &device),
        })
    }

    /// The same beside a margin that the loss may not reach.
    fn beside(self, margin: Option<f64>) -> Self {
        let within_margin = margin.map(|margin| self.loss_below < margin);
        Self { margin, within_margin, ..self }
    }

    fn print_table(&self) -> Outcome {
        let (low, high) = self.loss_interval;
        let or_overflow = |shown: Option<String>| shown.unwrap_or_else(|| "overflow".to_owned());
        let finite = |share: f64| Some(share * 100.0).filter(|percent| percent.is_finite());
        let percent = |share: f64| or_overflow(finite(share).map(|percent| format!("{percent:+.2}")));
        let loss = or_overflow(finite(self.loss).map(|_| lost(self.quality, self.loss)));
        let quality = |quality: Option<f64>| or_overflow(quality.map(|quality| format!("{quality:.4}")));
        let by_chance = match self.p_value <= LEAST_P {
            true => "p <= 0.0001, the least that 10,000 permutations can tell".to_owned(),
            false => format!("p = {:.4}", self.p_value),
        };
        let mut rows = vec![
            (
                "candidate".to_owned(),
                format!("{} ({:.2} % saved)", &self.candidate[..12], self.saving * 100.0),
            ),
            (self.measure.to_owned(), format!("{} to {}", quality(self.before), quality(self.after))),
            ("loss".to_owned(), format!("{loss}, 95 % interval {} to {}", percent(low), percent(high))),
            ("no difference".to_owned(), format!("{by_chance} (signs flipped over {} pairs)", self.pairs)),
        ];
        if let (Some(margin), Some(within)) = (self.margin, self.within_margin) {
            let (margin, below) = (lost_at_most(self.quality, margin), percent(self.loss_below));
            let answer = if within { "yes" } else { "no" };
            let words =
                format!("the loss is below {margin} with 95 % confidence: {answer} (it is below {below})");
            rows.push(("margin".to_owned(), words));
        }
        print_pairs(&rows)?;
        if self.chosen_on_this_data { print(CHOSEN_HERE) } else { Ok(()) }
    }
}
