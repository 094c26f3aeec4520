//! Trains a checkpoint under a scheme of all linears on a text, and evaluates it on another.
//!
//!     cargo run --release -p qslm-train --example distil -- CHECKPOINT TOKENIZER TRAIN VALID SCHEME STEPS SHARE RATE [BIT_COST [OPTIMIZER [SCALE_RATE [OUT]]]]
//!
//! SHARE is that of the divergence from the float network (1: distillation alone, 0: cross entropy alone), BIT_COST what a
//! bit costs where codes have a step instead of a width. OPTIMIZER is `adam` unless it is `lion`, or `lion8`, which is Lion
//! with int8 states; SCALE_RATE is that of scales as a share of their mean, 1e-2 unless it is given. Writes the losses as
//! it goes, then perplexities and bytes, the increase with the interval of 95 % that it has from window to window; OUT
//! becomes a float checkpoint of what the codes stand for.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::footprint::footprint_bytes;
use qslm_common::network::Network;
use qslm_common::scheme::Scheme;
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::rans;
use qslm_engine::task::{Dataset, TokenizerFile, evaluate};
use qslm_train::distil::{Plan, distil};
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
            "expected CHECKPOINT TOKENIZER TRAIN VALID SCHEME STEPS SHARE RATE [BIT_COST [OPTIMIZER [SCALE_RATE [OUT]]]]"
                .into(),
        );
    };
    let (scheme, rate): (Scheme, f32) = (scheme.parse()?, rate.parse()?);
    let steps = steps.parse()?;
    let checkpoint = Checkpoint::load(Path::new(checkpoint), true)?;
    let network = *checkpoint.network();
    let tokenizer = TokenizerFile::load(Path::new(tokenizer), network.vocabulary)?;
    let task = Task::Perplexity { window: 128, stride: 128, windows: None };
    let load = |path: &str| Dataset::load(Path::new(path), &tokenizer, &task, &network);
    let (train, valid) = (load(train)?, load(valid)?);
    let candidate = Candidate::new(&network, |unit| if unit.is_linear() { scheme } else { Scheme::Sign });
    let candidate = candidate.with_vectors(Scheme::Half);
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
    let trained = distil(&checkpoint, &candidate, train.all_tokens(), &plan, |step, loss| {
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
        [_, _, _, out, ..] => std::fs::rename(&path, out)?,
        _ => std::fs::remove_file(&path)?,
    }
    let before = losses(&checkpoint, &valid)?;
    let after = losses(&student, &valid)?;
    for (what, windows) in [("first 64 windows", 64), ("all windows", before.len())] {
        let perplexity = |losses: &[(f64, u64)]| {
            let (nats, tokens) = losses[..windows.min(losses.len())]
                .iter()
                .fold((0.0, 0), |(nats, tokens), (more, count)| (nats + more, tokens + count));
            (nats / tokens as f64).exp()
        };
        let (float, quantized) = (perplexity(&before), perplexity(&after));
        let loss = 100.0 * (quantized / float - 1.0);
        let (low, high) = interval(&before[..windows.min(before.len())], &after);
        writeln!(
            std::io::stdout(),
            "{what}: perplexity {float:.3} to {quantized:.3}, {loss:+.2} % ({low:+.2} to {high:+.2})"
        )?;
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

/// Confidence interval of 95 % of the increase in perplexity, in per cent, by how it differs from window to window.
fn interval(before: &[(f64, u64)], after: &[(f64, u64)]) -> (f64, f64) {
    let per_token = |(nats, tokens): &(f64, u64)| nats / *tokens as f64;
    let more: Vec<f64> =
        before.iter().zip(after).map(|(before, after)| per_token(after) - per_token(before)).collect();
    let count = more.len() as f64;
    let mean = more.iter().sum::<f64>() / count;
    let variance = more.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    let reach = 1.96 * (variance / count).sqrt();
    let per_cent = |nats: f64| 100.0 * (nats.exp() - 1.0);
    (per_cent(mean - reach), per_cent(mean + reach))
}

/// Loss and number of predictions of every window.
fn losses(checkpoint: &Checkpoint, data: &Dataset) -> Result<Vec<(f64, u64)>, Failure> {
    let model = SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), Backend::Native)?;
    (0..data.len())
        .map(|window| {
            let counts = evaluate(&model, data, window..window + 1, &|| false)?;
            Ok((counts.nll.nats(), counts.scored_tokens))
        })
        .collect()
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
