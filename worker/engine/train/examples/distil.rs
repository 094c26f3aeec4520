//! Trains a checkpoint under a scheme of all linears on a text, and evaluates it on another; a classifier on labelled sentences.
//!
//!     cargo run --release -p qslm-train --example distil -- CHECKPOINT TOKENIZER TRAIN VALID SCHEME STEPS SHARE RATE [BIT_COST [OPTIMIZER [SCALE_RATE [OUT [VECTORS]]]]]
//!
//! SHARE is that of the divergence from the float network (1: distillation alone, 0: cross entropy alone), BIT_COST what a
//! bit costs where codes have a step instead of a width. OPTIMIZER is `adam` unless it is `lion`, or `lion8`, which is Lion
//! with int8 states; SCALE_RATE is that of scales as a share of their mean, 1e-2 unless it is given. Writes the losses as
//! it goes, then perplexities or accuracies with the interval of the loss, and bytes; OUT becomes a float checkpoint of what
//! the codes stand for (`-`: none). VECTORS is the scheme of vectors.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::footprint::footprint_bytes;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::rans;
use qslm_engine::task::{Dataset, TokenizerFile, evaluate_each, spread};
use qslm_train::distil::{Plan, distil};
use qslm_train::lessons::Lessons;
use qslm_train::optimizer::{Adam, Lion, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::Settings;
use qslm_train::tensors::Tensors;
use safetensors::tensor::{Dtype, TensorView};

const THREADS: usize = 2;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, checkpoint, tokenizer, train, valid, scheme, steps, share, rate, more @ ..] = &arguments[..]
    else {
        return Err(
            "expected CHECKPOINT TOKENIZER TRAIN VALID SCHEME STEPS SHARE RATE [BIT_COST [OPTIMIZER [SCALE_RATE [OUT [VECTORS]]]]]"
                .into(),
        );
    };
    let (scheme, rate): (Scheme, f32) = (scheme.parse()?, rate.parse()?);
    let steps = steps.parse()?;
    let checkpoint = Checkpoint::load(Path::new(checkpoint), true)?;
    let network = *checkpoint.network();
    let tokenizer = TokenizerFile::load(Path::new(tokenizer), network.vocabulary)?;
    let task = match network.is_classifier() {
        true => Task::Accuracy { sentences: None },
        false => Task::Perplexity { window: 128, stride: 128, windows: None },
    };
    let load = |path: &str| Dataset::load(Path::new(path), &tokenizer, &task, &network);
    let (train, valid) = (load(train)?, load(valid)?);
    let candidate = Candidate::new(&network, |unit| if unit.is_linear() { scheme } else { Scheme::Sign });
    let candidate = candidate.with_vectors(more.get(4).map_or(Ok(Scheme::Half), |scheme| scheme.parse())?);
    let (method, states) = match more.get(1).map(String::as_str) {
        None | Some("adam") => (Method::Adam(Adam::default()), States::Float),
        Some("lion") => (Method::Lion(Lion::default()), States::Float),
        Some("lion8") => (Method::Lion(Lion::default()), States::Int8 { seed: 1 }),
        Some(other) => return Err(format!("optimizer {other}: expected adam, lion or lion8").into()),
    };
    let settings = Settings {
        method,
        states,
        schedule: Schedule { steps, warm_up: 50.min(steps / 8), floor: 0.02 },
        rate,
        vector_rate: rate,
        scale_rate: more.get(2).map_or(Ok(1e-2), |rate| rate.parse())?,
        zero_point_rate: 0.0,
        weight_decay: 0.0,
        bit_cost: more.first().map_or(Ok(0.0), |cost| cost.parse())?,
        clip: 1.0,
        reset: Reset::Attached,
        threads: THREADS,
    };
    let plan = Plan { settings, share: share.parse()?, window: 128, batch: 16, seed: 1 };
    let mut stdout = std::io::stdout();
    let started = Instant::now();
    let mut mean = (0.0, 0.0, 0);
    let trained = distil(&checkpoint, &candidate, Lessons::of(&train), &plan, |step, loss| {
        mean = (mean.0 + loss.cross_entropy, mean.1 + loss.divergence, mean.2 + 1);
        if (step + 1) % 40 == 0 || step + 1 == steps {
            let (count, seconds) = (f64::from(mean.2), started.elapsed().as_secs_f64());
            let (cross, divergence) = (mean.0 / count, mean.1 / count);
            // A line that nobody reads any more is no reason to stop.
            let _ = writeln!(
                stdout,
                "step {:5} cross entropy {cross:.4} divergence {divergence:.4}, {seconds:.0} s",
                step + 1
            );
            mean = (0.0, 0.0, 0);
        }
    })?;

    let path = std::env::temp_dir().join(format!("qslm-distil-{}.safetensors", std::process::id()));
    write(&network, &trained.tensors, &path)?;
    let student = Checkpoint::load(&path, true)?;
    match more {
        [_, _, _, out, ..] if out != "-" => std::fs::rename(&path, out)?,
        _ => std::fs::remove_file(&path)?,
    }
    let (before, after) = (counts(&checkpoint, &valid)?, counts(&student, &valid)?);
    let quality = task.quality();
    for (what, sequences) in [("first 64 sequences", 64.min(before.len())), ("all sequences", before.len())] {
        let of = |counts: &[Counts]| Counts::sum(network.population_count(), &counts[..sequences]);
        let (float, quantized) = (of(&before)?, of(&after)?);
        let label =
            |counts: &Counts| quality.value(counts).map_or(String::new(), |value| quality.label(value));
        let loss = 100.0 * quality.loss_against(&float, &quantized);
        let interval =
            spread(quality, &before[..sequences], &after[..sequences]).loss_interval(&float, &quantized);
        let interval = interval
            .map_or(String::new(), |(low, high)| format!(" ({:+.2} to {:+.2})", 100.0 * low, 100.0 * high));
        let (name, float, quantized) = (quality.name(), label(&float), label(&quantized));
        writeln!(std::io::stdout(), "{what}: {name} {float} to {quantized}, {loss:+.2} %{interval}")?;
    }
    let (packed, float) = (footprint_bytes(&network, &candidate), network.parameters() * 4);
    let mut coded = packed;
    for codes in trained.codes.values() {
        let bytes = codes.format.code_bytes(codes.values.len() as u64);
        coded -= bytes.saturating_sub(rans::encode(&codes.values, codes.columns).len() as u64);
    }
    for (what, bytes) in [("packed", packed), ("entropy-coded", coded)] {
        let saving = 100.0 * (1.0 - bytes as f64 / float as f64);
        writeln!(std::io::stdout(), "{what}: {bytes} of {float} bytes, saving {saving:.2} %")?;
    }
    Ok(())
}

/// Counts of every window or sentence.
fn counts(checkpoint: &Checkpoint, data: &Dataset) -> Result<Vec<Counts>, Failure> {
    let model = SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), Backend::Native)?;
    Ok(evaluate_each(&model, data, 0..data.len(), None, &|| false)?)
}

/// Writes tensors as a float checkpoint.
fn write(network: &Network, tensors: &Tensors, path: &Path) -> Result<(), Failure> {
    let units = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let shapes: HashMap<String, Vec<usize>> = units.chain(vectors).collect();
    let bytes: Vec<(&str, Vec<u8>)> = tensors
        .iter()
        .map(|(name, values)| (name, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::new();
    for (name, bytes) in &bytes {
        views.push((*name, TensorView::new(Dtype::F32, shapes[*name].clone(), bytes)?));
    }
    safetensors::serialize_to_file(views, None, path)?;
    Ok(())
}
