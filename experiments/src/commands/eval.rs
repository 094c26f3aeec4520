//! `qslm eval`: one measurement of one checkpoint, without a coordinator.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::cost::{Cost, Costs, Device, Subject};
use qslm_common::experiment::check_model;
use qslm_common::footprint::{file_bytes, float_bytes};
use qslm_common::measurement::{Counts, overflowed};
use qslm_common::network::Network;
use qslm_common::storage::CodedSizes;
use qslm_engine::task::Dataset;
use qslm_report::words::{bytes, cost, grouped};
use serde::Serialize;

use crate::codes::CalibrationArgs;
use crate::data::warn_of_fewer;
use crate::exit::{Exit, Failure, Outcome};
use crate::fetched;
use crate::input::read_text;
use crate::inputs::DataArgs;
use crate::known::Known;
use crate::output::{Output, peak_memory_bytes, print_data};
use crate::parallel::{evaluate_all, threads};
use crate::place::{Made, OutputPlace};
use crate::schemes::{LoadedModel, ModelArgs, SchemeArgs};
use crate::selected::SelectArgs;
use crate::spec::refuse_toml;
use crate::storage::StorageArgs;
use crate::tensors;

/// Measure one checkpoint, float or quantized, without a coordinator.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --window 128
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --bits 4 --embedding sign
  qslm eval --checkpoint hf://OWNER/NAME/model.pth --tokenizer hf://OWNER/NAME/tokenizer.json --text valid.txt
  qslm eval --checkpoint packed.safetensors --tokenizer tokenizer.json --text valid.txt
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --store runs/q.redb --experiment quickstart
  qslm eval --checkpoint sst2.pth --tokenizer tokenizer.json --labelled dev.tsv --bits 8 --output json
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --bits 8 --activation-bits 8 --membrane-bits 8
  qslm eval --checkpoint model.pth --tokens tokens.safetensors --logits-out logits.safetensors")]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Safetensors file whose int32 tensor `tokens` [sequences, length] stands in for text and tokenizer
    #[arg(long, value_name = "FILE", group = "data")]
    tokens: Option<PathBuf>,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    storage: StorageArgs,
    /// TOML file that describes a device, as the table `device` of a spec does
    #[arg(long, value_name = "FILE")]
    device: Option<PathBuf>,
    /// Threads that evaluate side by side [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the logits of every sequence of --tokens to this safetensors file
    #[arg(long, value_name = "FILE", requires = "tokens")]
    logits_out: Option<PathBuf>,
    /// Replace what --logits-out names even if it is no such file; never a store, a checkpoint or an input
    #[arg(long, requires = "logits_out")]
    force: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed document; its keys are part of the interface.
// A document: one field for each figure.
#[derive(Serialize)]
struct Evaluation {
    nll_sum: f64,
    tokens: u64,
    /// Absent for a classifier; null if it is beyond the largest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<Option<f64>>,
    hits: u64,
    sentences: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    firing_rates: serde_json::Map<String, serde_json::Value>,
    footprint_bytes: u64,
    float_bytes: u64,
    saving: f64,
    parameters: u64,
    /// Per token where the unit says so; see docs/device.md.
    costs: Costs,
    candidate: String,
    /// Perplexity or accuracy that a search measured for it; absent if none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_search: Option<f64>,
    /// True if the search counted the very same, so on the same data.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as_search: Option<bool>,
    seconds: f64,
    tokens_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    backend: Backend,
}

impl Eval {
    /// Measures and prints.
    pub fn run(mut self) -> Outcome {
        self.find()?;
        let logits = self.logits_out.as_deref().map(|path| self.place(path)).transpose()?;
        let (loaded, known) = self.load()?;
        known.check_backend(self.model.backend);
        let device = self.device(&known)?;
        let asked = self.data.clone().measured_as(&known)?;
        let LoadedModel { model, candidate, sizes } = loaded;
        let network = *model.network();
        let problems: Vec<_> = device.problems(&network).iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("--device: {}", problems.join("; "))));
        }
        let data = self.data(&asked, &network)?;
        let started = Instant::now();
        let counts = evaluate_all(&model, &data, threads(self.threads)).map_err(|error| {
            Failure::new(Exit::Failure, format!("{}: {error}", self.model.checkpoint.display()))
        })?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(place) = logits {
            tensors::write_logits(&place, &model, &data)?;
        }
        let subject = Subject::new(&device, &network, &candidate, &counts).stored(&sizes);
        let costs = device.costs_of(&subject);
        let report =
            Evaluation::new(&network, (&candidate, &sizes), &counts, costs, seconds, self.model.backend);
        let report = report.beside(known.counts.as_ref(), &counts);
        match self.output {
            Output::Json | Output::Yaml => print_data(self.output, &report),
            Output::Table => report.print_table(),
        }
    }

    /// Puts files in the place of addresses.
    fn find(&mut self) -> Outcome {
        self.model.find()?;
        self.data.find()?;
        self.calibration.find()?;
        fetched::find(&mut self.tokens).map(drop)
    }

    fn place(&self, path: &Path) -> Outcome<OutputPlace> {
        let more = [&self.tokens, &self.calibration.calibration, &self.device].into_iter().flatten();
        let inputs = self.data.files().chain(more.map(PathBuf::as_path)).chain([&*self.model.checkpoint]);
        OutputPlace::new(path, Made::Logits, &inputs.collect::<Vec<_>>(), self.force)
    }

    /// The network, and what a search knows of it.
    fn load(&self) -> Outcome<(LoadedModel, Known)> {
        if let Some(selected) = self.select.load(&self.model, Some(&self.storage), None)? {
            return Ok(selected);
        }
        let cut = self.data.cut()?;
        let calibration = &self.calibration;
        let ranges = calibration.ranges(&self.model, &cut, &self.scheme)?;
        let codes = |network: &Network, candidate| {
            calibration.codes(&self.model.checkpoint, &cut, network, candidate)
        };
        let loaded = self.scheme.load(&self.model, ranges.as_ref(), Some(&self.storage), codes)?;
        Ok((loaded, Known::of_file(&self.model)))
    }

    /// The device that is described, or else that of the search. Warns if that is another.
    fn device(&self, known: &Known) -> Outcome<Device> {
        let of_search = known.conditions.as_ref().map(|conditions| &conditions.device);
        let Some(path) = &self.device else { return Ok(of_search.cloned().unwrap_or_default()) };
        let text = read_text(path)?;
        let device = toml::from_str(&text).map_err(|error| refuse_toml(path, &text, &error))?;
        if of_search.is_some_and(|of_search| *of_search != device) {
            let (file, whose) = (path.display(), &known.whose);
            tracing::warn!("--device {file}: {whose} was measured for another device; costs are of this one");
        }
        Ok(device)
    }

    fn data(&self, asked: &DataArgs, network: &Network) -> Outcome<Dataset> {
        let Some(path) = &self.tokens else { return asked.load(network) };
        check_model(network, &self.data.task()?).map_err(|error| Failure::new(Exit::Usage, error))?;
        let rows = tensors::read_tokens(path)?;
        let mut data = Dataset::rows(&rows, network.vocabulary).map_err(|e| Failure::file(path, &e))?;
        warn_of_fewer("--windows", self.data.windows, &path.clone().into(), &data);
        data.truncate(self.data.windows.unwrap_or(u32::MAX) as usize);
        Ok(data)
    }
}

impl Evaluation {
    fn new(
        network: &Network,
        (candidate, sizes): (&Candidate, &CodedSizes),
        counts: &Counts,
        costs: Costs,
        seconds: f64,
        backend: Backend,
    ) -> Self {
        let rates = counts.firing_rates(network.channels);
        let footprint = file_bytes(network, candidate, sizes);
        Self {
            nll_sum: counts.nll.nats(),
            tokens: counts.scored_tokens,
            perplexity: counts.perplexity().map(|perplexity| Some(perplexity).filter(|p| !overflowed(*p))),
            hits: counts.hits,
            sentences: counts.sentences,
            accuracy: counts.accuracy(),
            firing_rates: network.populations().into_iter().zip(rates.into_iter().map(Into::into)).collect(),
            footprint_bytes: footprint,
            float_bytes: float_bytes(network),
            saving: qslm_common::footprint::saving(network, footprint),
            parameters: network.parameters(),
            costs,
            candidate: candidate.id().to_string(),
            of_search: None,
            same_as_search: None,
            seconds,
            tokens_per_second: counts.processed_tokens as f64 / seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes(),
            backend,
        }
    }

    /// The same beside what a search counted, if it is known.
    fn beside(self, of_search: Option<&Counts>, counts: &Counts) -> Self {
        let value =
            of_search.and_then(|known| known.quality().value(known)).filter(|value| !overflowed(*value));
        // What the search counts besides (a divergence, further tasks) is no difference.
        let own = |counts: &Counts| Counts { kl: None, tasks: BTreeMap::new(), ..counts.clone() };
        let same = of_search.map(|known| own(known) == own(counts));
        Self { of_search: value, same_as_search: same, ..self }
    }

    fn print_table(&self) -> Outcome {
        let mut rows = vec![("nll sum".to_owned(), format!("{:.4} nats", self.nll_sum))];
        if let Some(perplexity) = self.perplexity {
            let words = match perplexity {
                Some(perplexity) => format!("{perplexity:.4} over {} tokens", grouped(self.tokens)),
                None => {
                    let mean = self.nll_sum / self.tokens as f64;
                    format!("overflow: {mean:.1} nats per token over {} tokens", self.tokens)
                }
            };
            rows.push(("perplexity".to_owned(), words));
        }
        if let Some(accuracy) = self.accuracy {
            let of = format!("{} of {} sentences", self.hits, self.sentences);
            rows.push(("accuracy".to_owned(), format!("{:.2} % ({of})", accuracy * 100.0)));
        }
        if let (Some(value), Some(same)) = (self.of_search, self.same_as_search) {
            let value = if self.accuracy.is_some() {
                format!("{:.2} %", value * 100.0)
            } else {
                format!("{value:.4}")
            };
            let words = if same { "the same counts" } else { "other data, or less of it" };
            rows.push(("in the search".to_owned(), format!("{value} ({words})")));
        }
        let saved = format!(
            "{} of {} ({:.2} % saved)",
            bytes(self.footprint_bytes),
            bytes(self.float_bytes),
            self.saving * 100.0
        );
        rows.push(("footprint".to_owned(), saved));
        let energy = self.costs.get(&Cost::Energy).copied().unwrap_or(0.0);
        rows.push(("energy".to_owned(), cost(Cost::Energy, energy)));
        for (name, rate) in &self.firing_rates {
            rows.push((format!("firing rate {name}"), format!("{:.4}", rate.as_f64().unwrap_or(0.0))));
        }
        let speed = format!(
            "{:.2} s, {} tokens/s on {}",
            self.seconds,
            grouped(self.tokens_per_second as u64),
            self.backend
        );
        rows.push(("time".to_owned(), speed));
        crate::output::print_pairs(&rows)
    }
}
