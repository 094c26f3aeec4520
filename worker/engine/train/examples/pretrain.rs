//! Trains a small float model from scratch, and writes it with 16-bit floats; made `rwkv4-xs` in `experiments/models`, the
//! twin of `wikitext2-xs` without spikes.
//!
//!     cargo run --release -p qslm-train --example pretrain -- \
//!         FAMILY TOKENIZER TRAIN.txt VALID.txt STEPS OUT.safetensors
//!
//! The network has the sizes of `wikitext2-xs`, starts as RWKV-4's training code starts one, and learns from windows of 128
//! tokens, 16 a step, with Adam. It prints the loss of every hundredth step and, at the end, that of the whole of VALID.txt. Two
//! threads or twenty, any processor: the same bits.

use std::io::Write;
use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::measurement::Counts;
use qslm_common::network::{EMBEDDING, Family, Network};
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::to_half;
use qslm_engine::task::{Dataset, TokenizerFile, evaluate};
use qslm_train::draw::Draw;
use qslm_train::network::{Objective, Window};
use qslm_train::optimizer::{Adam, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::{Settings, Trainer};
use safetensors::tensor::{Dtype, TensorView};

type Failure = Box<dyn std::error::Error>;

/// Predictions of a window.
const WINDOW: usize = 128;
/// Windows of a step.
const BATCH: usize = 16;
/// Seed of the weights and of the windows.
const SEED: u64 = 1;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, family, tokenizer, train, valid, steps, out] = &arguments[..] else {
        return Err(
            "expected six arguments: FAMILY TOKENIZER TRAIN.txt VALID.txt STEPS OUT.safetensors".into()
        );
    };
    let (member, steps): (_, u32) = (family.parse::<Family>()?.member(), steps.parse()?);
    let network = Network {
        vocabulary: 2048,
        channels: 128,
        hidden: 512,
        blocks: 4,
        outputs: 2048,
        binary_embedding: member.binary_embedding,
        dynamics: member.dynamics,
    };
    network.dynamics.trainable()?;
    let tokenizer = TokenizerFile::load(Path::new(tokenizer), network.vocabulary)?;
    let window = WINDOW as u32;
    let task = Task::Perplexity { window, stride: window, windows: None };
    let load = |text: &String| Dataset::load(Path::new(text), &tokenizer, &task, &network);
    let (lessons, valid) = (load(train)?, load(valid)?);

    let folder = tempfile::tempdir()?;
    let start = folder.path().join("start.safetensors");
    write(&start, &network, Dtype::F32, |name, shape| initial(name, shape, network.blocks))?;
    let checkpoint = Checkpoint::load(&start, member)?;
    let float = Candidate::float(&network);
    let settings = Settings {
        method: Method::Adam(Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 }),
        states: States::Float,
        schedule: Schedule { steps, warm_up: 50.min(steps / 10), floor: 0.02 },
        rate: 3e-3,
        vector_rate: 3e-3,
        scale_rate: 0.0,
        zero_point_rate: 0.0,
        weight_decay: 0.01,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut trainer = Trainer::new(&checkpoint, &float, settings)?;
    let text = lessons.all_tokens();
    let mut draw = Draw::new(text.len(), WINDOW, SEED);
    let mut sum = 0.0;
    for step in 1..=steps {
        let batch: Vec<Window<'_>> = draw.batch(text, BATCH).into_iter().map(Window::of).collect();
        sum += trainer.step(&batch, Objective::CrossEntropy).cross_entropy;
        if step % 100 == 0 {
            writeln!(std::io::stdout(), "step {step}: {:.4} nats a token", sum / 100.0)?;
            sum = 0.0;
        }
    }
    write(Path::new(out), &network, Dtype::F16, |name, _| trainer.values(name))?;
    let trained = Checkpoint::load(Path::new(out), member)?;
    let model = SpikeGpt::new(&trained, &float, Backend::Native)?;
    let counts: Counts = evaluate(&model, &valid, 0..valid.len(), &|| false)?;
    let loss = counts.nll.nats() / counts.scored_tokens as f64;
    writeln!(std::io::stdout(), "valid: {loss:.4} nats a token, perplexity {:.3}", loss.exp())?;
    Ok(())
}

/// Values that a parameter starts with: RWKV-4's (RWKV-v4/src/model.py), by depth and channel.
fn initial(name: &str, shape: &[usize], blocks: u32) -> Vec<f32> {
    let size: usize = shape.iter().product();
    let block: f32 =
        name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(0.0);
    // From 0 at the first block to 1 at the last, and from 1 to nearly 0.
    let (rising, falling) = (block / (blocks as f32 - 1.0).max(1.0), 1.0 - block / blocks as f32);
    let share = |channel: usize| channel as f32 / size as f32;
    let each = |of: &dyn Fn(usize) -> f32| (0..size).map(of).collect();
    match name.rsplit_once("time_").map_or(name, |(_, vector)| vector) {
        "decay" => each(&|i| -5.0 + 8.0 * (i as f32 / (size as f32 - 1.0)).powf(0.7 + 1.3 * rising)),
        "first" => each(&|i| 0.3f32.ln() + [0.0, 0.5, -0.5][(i + 1) % 3]),
        "mix_v" => each(&|i| share(i).powf(falling) + 0.3 * rising),
        "mix_r" if name.contains(".att.") => each(&|i| share(i).powf(0.5 * falling)),
        "mix_k" | "mix_r" => each(&|i| share(i).powf(falling)),
        _ if shape.len() < 2 => vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; size],
        EMBEDDING => random(name, size, 1e-2),
        "head.weight" => random(name, size, 0.5 / (shape[1] as f32).sqrt()),
        _ if name.ends_with("output.weight") || name.ends_with("ffn.value.weight") => {
            random(name, size, 0.1 / (shape[1] as f32).sqrt())
        }
        _ => random(name, size, (3.0 / shape[1] as f32).sqrt()),
    }
}

/// Numbers of up to `reach` that look random (splitmix64), of a tensor by its name.
fn random(name: &str, size: usize, reach: f32) -> Vec<f32> {
    let mut state = name.bytes().fold(SEED, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..size).map(|_| reach * next()).collect()
}

/// Writes a checkpoint of floats of this type.
fn write(
    path: &Path,
    network: &Network,
    dtype: Dtype,
    values: impl Fn(&str, &[usize]) -> Vec<f32>,
) -> Result<(), Failure> {
    let units = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let tensors = units.chain(network.vectors().into_iter().map(|vector| (vector.name, vector.shape)));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, shape)| {
            let values = values(&name, &shape).into_iter();
            let bytes = match dtype {
                Dtype::F16 => values.flat_map(|w| to_half(w).to_le_bytes()).collect(),
                _ => values.flat_map(f32::to_le_bytes).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}
