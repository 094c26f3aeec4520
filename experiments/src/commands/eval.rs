//! `qslm eval`: one measurement of one checkpoint, without a coordinator.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use qslm_common::candidate::Candidate;
use qslm_common::experiment::{Backend, check_model};
use qslm_common::footprint::{float_bytes, footprint_bytes};
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::task::{Shard, Task};
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, EvaluateError, evaluate};
use serde::Serialize;

use crate::data::load_data;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, print_json};
use crate::schemes::SchemeArgs;
use crate::tensors;

/// Measure one checkpoint, float or quantized, without a coordinator.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --window 128
  qslm eval --checkpoint model.pth --tokenizer tokenizer.json --text valid.txt --bits 4 --embedding sign
  qslm eval --checkpoint sst2.pth --tokenizer tokenizer.json --labelled dev.tsv --bits 8 --output json
  qslm eval --checkpoint model.pth --tokens tokens.safetensors --logits-out logits.safetensors")]
pub struct Eval {
    /// Checkpoint in PyTorch or safetensors format
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The checkpoint's tokenizer.json
    #[arg(long, value_name = "FILE", required_unless_present = "tokens")]
    tokenizer: Option<PathBuf>,
    /// Text to predict (perplexity)
    #[arg(long, value_name = "FILE", group = "data")]
    text: Option<PathBuf>,
    /// Lines of `sentence TAB label` to classify (accuracy)
    #[arg(long, value_name = "FILE", group = "data")]
    labelled: Option<PathBuf>,
    /// Safetensors file whose int32 tensor `tokens` [sequences, length] stands in for text and tokenizer
    #[arg(long, value_name = "FILE", group = "data")]
    tokens: Option<PathBuf>,
    /// Tokens per window; the network's state starts afresh in each
    #[arg(long, default_value_t = 1024)]
    window: u32,
    /// Tokens from one window's start to the next [default: the window]
    #[arg(long)]
    stride: Option<u32>,
    /// Stop after so many windows or sentences
    #[arg(long, value_name = "N")]
    windows: Option<u32>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// The model was trained on real-valued embeddings instead of their signs
    #[arg(long)]
    real_embedding: bool,
    /// What computes the matrix products: flex or ndarray
    #[arg(long, default_value_t)]
    backend: Backend,
    /// Threads that evaluate side by side [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the logits of every sequence of --tokens to this safetensors file
    #[arg(long, value_name = "FILE", requires = "tokens")]
    logits_out: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What is printed; keys are part of the interface.
#[derive(Serialize)]
struct Report {
    nll_sum: f64,
    tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    hits: u64,
    sentences: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    firing_rates: serde_json::Map<String, serde_json::Value>,
    footprint_bytes: u64,
    float_bytes: u64,
    saving: f64,
    parameters: u64,
    candidate: String,
    seconds: f64,
    tokens_per_second: f64,
    backend: Backend,
}

impl Eval {
    /// Measures and prints.
    pub fn run(self) -> Outcome {
        let binary_embedding = !self.real_embedding;
        let (model, candidate) = self.scheme.load(&self.checkpoint, binary_embedding, self.backend)?;
        let network = *model.network();
        let data = self.data(&network)?;
        let started = Instant::now();
        let counts = evaluate_in_threads(&model, &data, self.threads).map_err(|error| {
            Failure::new(Exit::Failure, format!("{}: {error}", self.checkpoint.display()))
        })?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(path) = &self.logits_out {
            tensors::write_logits(path, &model, &data)?;
        }
        let report = Report::new(&network, &candidate, &counts, seconds, self.backend);
        match self.output {
            Output::Json => print_json(&report),
            Output::Table => report.print_table(),
        }
    }

    fn task(&self) -> Task {
        match self.labelled {
            Some(_) => Task::Accuracy { sentences: self.windows },
            None => Task::Perplexity {
                window: self.window,
                stride: self.stride.unwrap_or(self.window),
                windows: self.windows,
            },
        }
    }

    fn data(&self, network: &Network) -> Outcome<Dataset> {
        let task = self.task();
        task.validate().map_err(|error| Failure::new(Exit::Usage, format!("--{error}")))?;
        check_model(network, &task)
            .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", self.checkpoint.display())))?;
        if let Some(path) = &self.tokens {
            let rows = tensors::read_tokens(path)?;
            let mut data = Dataset::rows(&rows, network.vocabulary).map_err(|e| Failure::file(path, &e))?;
            data.truncate(self.windows.unwrap_or(u32::MAX) as usize);
            return Ok(data);
        }
        let needs = || Failure::new(Exit::Usage, "one of --text, --labelled or --tokens is needed");
        let path = self.text.as_ref().or(self.labelled.as_ref()).ok_or_else(needs)?;
        let tokenizer = self.tokenizer.as_deref().ok_or_else(needs)?;
        load_data(path, tokenizer, &task, network)
    }
}

/// Cuts the sequences over threads; the sum does not depend on how many.
fn evaluate_in_threads(
    model: &SpikeGpt,
    data: &Dataset,
    threads: Option<usize>,
) -> Result<Counts, EvaluateError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    // More threads than sequences would have nothing to do.
    let threads = threads.unwrap_or_else(cores).clamp(1, data.len().max(1)) as u32;
    let part = |index| {
        let shard = Shard { index, of: threads };
        evaluate(model, data, shard.range(data.len()), &|| false)
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|index| scope.spawn(move || part(index))).collect();
        let mut total = Counts::zero(model.network().populations().len());
        for handle in handles {
            let counts = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            total.add(&counts).map_err(|_| EvaluateError::Overflow)?;
        }
        Ok(total)
    })
}

impl Report {
    fn new(
        network: &Network,
        candidate: &Candidate,
        counts: &Counts,
        seconds: f64,
        backend: Backend,
    ) -> Self {
        let rates = counts.firing_rates(network.channels);
        let bytes = footprint_bytes(network, candidate);
        Self {
            nll_sum: counts.nll.nats(),
            tokens: counts.tokens,
            perplexity: counts.perplexity(),
            hits: counts.hits,
            sentences: counts.sentences,
            accuracy: counts.accuracy(),
            firing_rates: network.populations().into_iter().zip(rates.into_iter().map(Into::into)).collect(),
            footprint_bytes: bytes,
            float_bytes: float_bytes(network),
            saving: qslm_common::footprint::saving(network, bytes),
            parameters: network.parameters(),
            candidate: candidate.id().to_string(),
            seconds,
            tokens_per_second: counts.positions as f64 / seconds.max(1e-9),
            backend,
        }
    }

    fn print_table(&self) -> Outcome {
        let mut rows = vec![("nll sum".to_owned(), format!("{:.4} nats", self.nll_sum))];
        if let Some(perplexity) = self.perplexity {
            rows.push(("perplexity".to_owned(), format!("{perplexity:.4} over {} tokens", self.tokens)));
        }
        if let Some(accuracy) = self.accuracy {
            let of = format!("{} of {} sentences", self.hits, self.sentences);
            rows.push(("accuracy".to_owned(), format!("{:.2} % ({of})", accuracy * 100.0)));
        }
        let saved = format!(
            "{} of {} bytes ({:.2} % saved)",
            self.footprint_bytes,
            self.float_bytes,
            self.saving * 100.0
        );
        rows.push(("footprint".to_owned(), saved));
        for (name, rate) in &self.firing_rates {
            rows.push((format!("firing rate {name}"), format!("{:.4}", rate.as_f64().unwrap_or(0.0))));
        }
        let speed =
            format!("{:.2} s, {:.0} tokens/s on {}", self.seconds, self.tokens_per_second, self.backend);
        rows.push(("time".to_owned(), speed));
        crate::output::print_pairs(&rows)
    }
}
