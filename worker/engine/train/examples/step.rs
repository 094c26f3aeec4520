//! Times training steps: cross entropy, all parameters, Adam. `experiments/bench/train.py` runs it beside PyTorch.
//!
//!     cargo run --release -p qslm-train --example step -- CHECKPOINT TOKENS [SCHEME [THREADS [STEPS]]]
//!
//! TOKENS is a safetensors file with `tokens`, `[windows, length]` of i32; SCHEME is that of all linears, `f32` unless it is
//! given. Prints the loss and the seconds of every step as JSON, the peak of a core's arithmetic beside them, and what the
//! products of a step take.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use qslm_common::candidate::Candidate;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::kernels::peak::flops;
use qslm_train::network::{Objective, Window};
use qslm_train::optimizer::{Adam, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::{Settings, Trainer};
use safetensors::SafeTensors;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, checkpoint, tokens, more @ ..] = &arguments[..] else {
        return Err("expected CHECKPOINT TOKENS [SCHEME [THREADS [STEPS]]]".into());
    };
    let argument = |index: usize, default: &str| more.get(index).cloned().unwrap_or(default.to_owned());
    let scheme: Scheme = argument(0, "f32").parse()?;
    let (threads, steps) = (argument(1, "2").parse()?, argument(2, "5").parse::<u32>()?);

    let checkpoint = Checkpoint::load(Path::new(checkpoint), true)?;
    let network = *checkpoint.network();
    let candidate = Candidate::new(&network, |unit| if unit.is_linear() { scheme } else { Scheme::Sign });
    let bytes = std::fs::read(tokens)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensor = file.tensor("tokens")?;
    let ids: Vec<u32> = tensor.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as u32).collect();
    let batch: Vec<Window<'_>> = ids.chunks(tensor.shape()[1]).map(Window::of).collect();

    let settings = Settings {
        method: Method::Adam(Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }),
        states: States::Float,
        schedule: Schedule { steps, warm_up: 0, floor: 1.0 },
        rate: 1e-3,
        vector_rate: 1e-3,
        scale_rate: 1e-2,
        zero_point_rate: 0.0,
        weight_decay: 0.0,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads,
    };
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings)?;
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let started = Instant::now();
        losses.push(trainer.step(&batch, Objective::CrossEntropy).cross_entropy);
        seconds.push(started.elapsed().as_secs_f64());
    }
    let peak = flops(Duration::from_millis(200));
    // Forward, for the gradient of the inputs and for that of the weights.
    let tokens: usize = batch.iter().map(|window| window.tokens.len()).sum();
    let weights: u64 =
        network.units().iter().filter(|unit| unit.is_linear()).map(qslm_common::network::Unit::weights).sum();
    let products = 3 * 2 * tokens as u64 * weights;
    writeln!(
        std::io::stdout(),
        "{{\"losses\": {losses:?}, \"seconds\": {seconds:?}, \"peak\": {peak}, \"products\": {products}}}"
    )?;
    Ok(())
}
