//! `qslm bench eval`: how fast a network is evaluated here, as a whole and by kernels, and what share of the processor's
//! peak that is.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::Network;
use qslm_common::scheme::{Activation, Scheme};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::integer::IntegerMatrix;
use qslm_engine::kernels::product::Packed;
use qslm_engine::kernels::{lif, loss, norm, peak, shift, wkv};
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::grid_of_row;
use qslm_engine::task::Dataset;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use super::{median_seconds, show};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, peak_memory_bytes};
use crate::parallel::{evaluate_all, threads};

/// Measure evaluation: tokens per second of a network with random weights, its kernels, and the share of the peak
#[derive(Debug, Args)]
pub struct EvalBench {
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    vocabulary: u32,
    /// Channels of the residual stream; four times as many hidden ones
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    channels: u32,
    /// Blocks
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=48))]
    blocks: u32,
    /// Tokens per window
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Windows per evaluation
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    windows: u32,
    /// Backends of the matrix products
    #[arg(long, value_delimiter = ',', default_value = "native,integer,flex")]
    backends: Vec<Backend>,
    /// Scheme of the matrices in the quantized figures
    #[arg(long, default_value = "int8:symmetric:channel")]
    scheme: Scheme,
    /// Scheme of activations in the last of them
    #[arg(long, default_value = "int8:symmetric:dynamic")]
    activation: Activation,
    /// Threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Times that each measurement is made; the median is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Printed row; its keys are part of the interface.
#[derive(Serialize, Default)]
struct KernelTiming {
    what: String,
    threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    /// 10^9 operations per second, of which a multiply-accumulate is two; of matrix products only, with those on zeros.
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    /// Of what as many threads could do with 32-bit numbers that are in their registers. Integers, and products that leave
    /// out zeros, may do more than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_peak: Option<f64>,
    /// True if every number is a float that is multiplied, so that nothing can do more.
    #[serde(skip)]
    every_float: bool,
    /// Of element-wise kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_per_element: Option<f64>,
    /// The most memory that the process had until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mebibytes: Option<f64>,
}

const COLUMNS: [&str; 8] = [
    "what",
    "threads",
    "milliseconds",
    "tokens_per_second",
    "gflops",
    "share_of_peak",
    "ns_per_element",
    "peak_mebibytes",
];

impl EvalBench {
    pub(super) fn run(self) -> Outcome {
        let threads = threads(self.threads);
        qslm_program::limits::ensure_threads(threads)?;
        let (peak, peak_of_all) = (peak_of(1), peak_of(threads));
        let folder = tempfile::tempdir().map_err(anyhow::Error::from)?;
        let path = folder.path().join("model.safetensors");
        write_random(&path, &self.network())?;
        let checkpoint = Checkpoint::load(&path, true).map_err(|error| Failure::file(&path, &error))?;
        let mut rows = vec![peak_row(1, peak)];
        if threads > 1 {
            rows.push(peak_row(threads, peak_of_all));
        }
        for backend in &self.backends {
            for (what, candidate) in self.candidates() {
                // Ours differ in what is quantized, those of Burn round it before they multiply floats.
                let differs = match backend {
                    Backend::Native => true,
                    Backend::Integer => what == "weights quantized",
                    _ => what == "float",
                };
                if differs {
                    let what = format!("whole, {what}, {backend}");
                    rows.push(self.whole(what, &checkpoint, &candidate, *backend, threads, peak_of_all)?);
                }
            }
        }
        rows.extend(self.products(peak));
        rows.extend(self.kernels());
        leave_out_what_cannot_be(&mut rows);
        show(&rows, &COLUMNS, self.output)
    }

    fn network(&self) -> Network {
        Network {
            vocabulary: self.vocabulary,
            channels: self.channels,
            hidden: 4 * self.channels,
            blocks: self.blocks,
            outputs: self.vocabulary,
            binary_embedding: true,
            dynamics: qslm_common::network::Dynamics::SPIKEGPT,
        }
    }

    fn candidates(&self) -> [(&'static str, Candidate); 3] {
        let network = self.network();
        let weights = Candidate::new(&network, |_| self.scheme).with(["emb.weight"], Scheme::Sign);
        let units = network.units();
        let linears = units.iter().map(|unit| unit.name.as_str()).filter(|name| *name != "emb.weight");
        let both = weights.clone().with_activations(linears, Some(self.activation));
        [
            ("float", Candidate::float(&network)),
            ("weights quantized", weights),
            ("weights and activations", both),
        ]
    }

    fn whole(
        &self,
        what: String,
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        backend: Backend,
        threads: usize,
        peak: f64,
    ) -> Outcome<KernelTiming> {
        let model = SpikeGpt::new(checkpoint, candidate, backend)
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let network = model.network();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut row = || (0..=self.window).map(|_| rng.random_range(0..i64::from(self.vocabulary))).collect();
        let tokens: Vec<Vec<i64>> = (0..self.windows).map(|_| row()).collect();
        let data =
            Dataset::rows(&tokens, self.vocabulary).map_err(|error| Failure::new(Exit::Failure, error))?;
        let evaluate = || evaluate_all(&model, &data, threads);
        let counts = evaluate().map_err(|error| Failure::new(Exit::Failure, error))?;
        let seconds = self.median(|| _ = black_box(evaluate()));
        let operations = (2 * network.macs_per_token() * counts.processed_tokens) as f64;
        Ok(KernelTiming {
            tokens_per_second: Some(counts.processed_tokens as f64 / seconds),
            peak_mebibytes: peak_memory_bytes().map(|bytes| bytes as f64 / f64::from(1 << 20)),
            ..product(what, threads, seconds, operations, peak)
        })
    }

    /// The products of a block and of the head, alone.
    fn products(&self, peak: f64) -> Vec<KernelTiming> {
        let (rows, narrow, wide) = (self.window as usize, self.channels as usize, 4 * self.channels as usize);
        let shapes = [(narrow, narrow), (narrow, wide), (wide, narrow), (narrow, self.vocabulary as usize)];
        let measure = |(inputs, outputs): (usize, usize)| {
            let weights = wave(inputs * outputs);
            let packed = Packed::new(&weights, inputs);
            let codes: Vec<i8> = weights.iter().map(|weight| (weight * 63.0) as i8).collect();
            let codes = IntegerMatrix::new(&codes, inputs, vec![1.0 / 63.0; outputs], &[]);
            let (x, mut out) = (wave(rows * inputs), vec![0.0; rows * outputs]);
            let row = |kind: &str, seconds: f64| {
                let what = format!("product, {inputs} to {outputs}, {kind}");
                product(what, 1, seconds, (2 * rows * inputs * outputs) as f64, peak)
            };
            let floats = self.median(|| packed.multiply(&x, 0..outputs, black_box(&mut out)));
            // As behind a relu: every second number is zero.
            let relu: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
            let holes = self.median(|| packed.multiply(&relu, 0..outputs, black_box(&mut out)));
            // With the making of the integers.
            let weights = self.median(|| codes.multiply(&codes.rows(&x), 0..outputs, black_box(&mut out)));
            let grid = |row: &[f32]| grid_of_row(row, self.activation);
            let both = self
                .median(|| codes.multiply(&codes.quantized_rows(&x, grid), 0..outputs, black_box(&mut out)));
            [
                KernelTiming { every_float: true, ..row("floats", floats) },
                row("half of them zero", holes),
                row("8-bit weights", weights),
                row("and activations", both),
            ]
        };
        shapes.into_iter().flat_map(measure).collect()
    }

    /// Rows of the kernels between the products.
    fn kernels(&self) -> Vec<KernelTiming> {
        let (rows, channels) = (self.window as usize, self.channels as usize);
        let (x, y) = (wave(rows * channels), wave(rows * channels + 7)[7..].to_vec());
        let vector = wave(channels);
        let decay: Vec<f32> = vector.iter().copied().map(wkv::decay).collect();
        let logits = wave(self.vocabulary as usize);
        let out = &mut vec![0.0; rows * channels];
        let row = |what: &str, seconds: f64, elements: usize| KernelTiming {
            what: what.to_owned(),
            threads: 1,
            milliseconds: Some(seconds * 1e3),
            ns_per_element: Some(seconds * 1e9 / elements as f64),
            ..KernelTiming::default()
        };
        let wkv = self.median(|| {
            wkv::scan(&decay, &vector, &x, &y, &mut wkv::WkvState::start(channels), out);
        });
        let lif = self.median(|| {
            _ = black_box(lif::scan(&lif::Neuron::SPIKEGPT, &x, &mut vec![0.0; channels], out, None));
        });
        let norm = self.median(|| norm::layer_norm(&x, &vector, &vector, out));
        let mix = self.median(|| shift::mix(&x, &vector, &vector, out));
        let gate = self.median(|| shift::gate(&x, out));
        let square = self.median(|| shift::squared_relu(out));
        let loss = self.median(|| _ = black_box(loss::nll(&logits, 0)));
        vec![
            row("WKV scan", wkv, x.len()),
            row("LIF scan", lif, x.len()),
            row("layer norm", norm, x.len()),
            row("token shift and mix", mix, x.len()),
            row("sigmoid gate", gate, x.len()),
            row("relu squared", square, x.len()),
            row("loss of a row of logits", loss, logits.len()),
        ]
    }

    /// Seconds that `f` takes: the median, after a first time that does not count.
    fn median(&self, mut f: impl FnMut()) -> f64 {
        f();
        median_seconds(self.repeat, f)
    }
}

/// Floating-point operations per second of so many threads at once.
fn peak_of(threads: usize) -> f64 {
    let measure = || peak::flops(Duration::from_millis(300));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(measure)).collect();
        measure() + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    })
}

/// Name of the row of the peak.
const PEAK: &str = "peak, 32 bits";

fn peak_row(threads: usize, peak: f64) -> KernelTiming {
    let what = PEAK.to_owned();
    KernelTiming {
        what,
        threads,
        gflops: Some(peak / 1e9),
        share_of_peak: Some(1.0),
        ..KernelTiming::default()
    }
}

fn product(what: String, threads: usize, seconds: f64, operations: f64, peak: f64) -> KernelTiming {
    KernelTiming {
        what,
        threads,
        milliseconds: Some(seconds * 1e3),
        gflops: Some(operations / seconds / 1e9),
        share_of_peak: Some(operations / seconds / peak),
        ..KernelTiming::default()
    }
}

/// If a product did more than the peak, that was no peak: the figure and all shares of it are left out.
fn leave_out_what_cannot_be(rows: &mut Vec<KernelTiming>) {
    let beyond = |row: &KernelTiming| row.every_float && row.share_of_peak.is_some_and(|share| share > 1.0);
    let Some(row) = rows.iter().find(|row| beyond(row)) else { return };
    let words = "reached more than the peak that was measured, which is left out with all shares of it: is the machine busy?";
    tracing::warn!("{} {words}", row.what);
    rows.retain(|row| !row.what.starts_with(PEAK));
    rows.iter_mut().for_each(|row| row.share_of_peak = None);
}

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index as f32 * 0.37).sin() * 2.0).collect()
}

/// A checkpoint of this shape with random weights, the same every time.
fn write_random(path: &Path, network: &Network) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, scale: f32, offset: f32| {
        let values = (0..shape.iter().product()).map(|_| offset + scale * (2.0 * rng.random::<f32>() - 1.0));
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        tensors.insert(name, (shape, bytes));
    };
    for unit in network.units() {
        add(unit.name, vec![unit.rows, unit.columns], 3.0 / (unit.columns as f32).sqrt(), 0.0);
    }
    for vector in network.vectors() {
        let offset = if vector.name.ends_with("weight") { 1.0 } else { 0.0 };
        add(vector.name, vector.shape, 0.5, offset);
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>();
    let written = views.and_then(|views| safetensors::serialize_to_file(views, None, path));
    written.map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_cannot_be_is_left_out_with_the_peak_that_it_is_of() {
        let rows = |seconds: f64| {
            let floats =
                KernelTiming { every_float: true, ..product("floats".to_owned(), 1, seconds, 1e9, 1e11) };
            // These leave out half, or are no floats.
            vec![peak_row(1, 1e11), floats, product("half of them zero".to_owned(), 1, 0.008, 1e9, 1e11)]
        };
        let mut possible = rows(0.011);
        leave_out_what_cannot_be(&mut possible);
        let shares: Vec<_> = possible.iter().map(|row| row.share_of_peak.map(|share| share > 1.0)).collect();
        assert_eq!(shares, [Some(false), Some(false), Some(true)]);
        let mut impossible = rows(0.001);
        leave_out_what_cannot_be(&mut impossible);
        assert!(impossible.len() == 2 && impossible.iter().all(|row| row.share_of_peak.is_none()));
        assert!(impossible.iter().all(|row| row.gflops.is_some()), "what was measured stays");
    }
}
