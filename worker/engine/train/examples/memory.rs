//! Memory of training: bytes of state by the shape of a network, and what a process takes at most.
//!
//!     cargo run --release -p qslm-train --example memory -- shape CHANNELS BLOCKS VOCABULARY
//!     cargo run --release -p qslm-train --example memory -- write FILE CHANNELS BLOCKS VOCABULARY
//!     cargo run --release -p qslm-train --example memory -- step FILE OPTIMIZER SCHEME [WINDOW [STEPS]]
//!
//! `shape` needs no network; `write` makes a checkpoint of random weights; `step` trains it on one short window of random
//! tokens and reads the process's peak from Linux (VmHWM). OPTIMIZER is `adam`, `lion`, or `lion8`: Lion with int8 states.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use qslm_common::candidate::Candidate;
use qslm_common::network::{EMBEDDING, Network};
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_train::network::{Objective, Window};
use qslm_train::optimizer::{Adam, Lion, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::{StateBytes, States};
use qslm_train::step::{Settings, Trainer};

const THREADS: usize = 2;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["shape", channels, blocks, vocabulary] => shape(&network(channels, blocks, vocabulary)?),
        ["write", file, channels, blocks, vocabulary] => {
            write(Path::new(file), &network(channels, blocks, vocabulary)?)
        }
        ["step", file, optimizer, scheme, ref more @ ..] => {
            let number =
                |index: usize, default: u32| more.get(index).map_or(Ok(default), |text| text.parse());
            step(
                Path::new(file),
                method_of(optimizer)?,
                scheme.parse()?,
                number(0, 64)? as usize,
                number(1, 1)?,
            )
        }
        _ => Err("expected shape, write or step: see the head of the example".into()),
    }
}

fn network(channels: &str, blocks: &str, vocabulary: &str) -> Result<Network, Failure> {
    let (channels, vocabulary) = (channels.parse()?, vocabulary.parse()?);
    let (hidden, blocks) = (4 * channels, blocks.parse()?);
    Ok(Network {
        vocabulary,
        channels,
        hidden,
        blocks,
        outputs: vocabulary,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    })
}

fn method_of(optimizer: &str) -> Result<(Method, States), Failure> {
    match optimizer {
        "adam" => Ok((Method::Adam(Adam::default()), States::Float)),
        "lion" => Ok((Method::Lion(Lion::default()), States::Float)),
        "lion8" => Ok((Method::Lion(Lion::default()), States::Int8 { seed: 1 })),
        other => Err(format!("optimizer {other}: expected adam, lion or lion8").into()),
    }
}

/// Bytes of state of a network of float schemes, by its shape.
fn shape(network: &Network) -> Result<(), Failure> {
    let parameters = network.parameters();
    writeln!(std::io::stdout(), "{parameters} parameters")?;
    let vectors: usize = network.vectors().iter().map(|v| v.shape.iter().product::<usize>()).sum();
    for optimizer in ["adam", "lion", "lion8"] {
        let (method, states) = method_of(optimizer)?;
        let mut bytes = StateBytes::of_weights(States::Float, method, vectors as u64);
        for unit in network.units() {
            let weights = (unit.rows * unit.columns) as u64;
            bytes = bytes
                + match (states, unit.name.as_str()) {
                    // Signs that never change.
                    (States::Int8 { .. }, EMBEDDING) => {
                        let weights = StateBytes::of_weights(states, method, weights).gradients;
                        StateBytes { weights, ..StateBytes::default() }
                    }
                    _ => StateBytes::of_weights(states, method, weights),
                };
        }
        print(optimizer, bytes, parameters)?;
    }
    Ok(())
}

fn print(what: &str, bytes: StateBytes, parameters: u64) -> Result<(), Failure> {
    let StateBytes { weights, gradients, moments } = bytes;
    let (total, each) = (bytes.total(), bytes.total() as f64 / parameters as f64);
    let share = 100.0 * each / 16.0;
    writeln!(
        std::io::stdout(),
        "{what}: {weights} of weights, {gradients} of gradients, {moments} of moments, {total} bytes in all: \
         {each:.3} a parameter, {share:.1} % of Adam's with floats"
    )?;
    Ok(())
}

/// Numbers from -1 to 1 that look random (splitmix64).
fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Writes a float checkpoint of random weights, tensor by tensor.
fn write(file: &Path, network: &Network) -> Result<(), Failure> {
    let units = network.units().into_iter().map(|unit| (unit.name, vec![unit.rows, unit.columns]));
    let vectors = network.vectors().into_iter().map(|vector| (vector.name, vector.shape));
    let tensors: Vec<(String, Vec<usize>)> = units.chain(vectors).collect();
    let (mut header, mut start) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let end = start + 4 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
        start = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(std::fs::File::create(file)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut state = 7;
    for (name, shape) in &tensors {
        // Layer norms begin as they do in a network that is trained from scratch.
        let (center, reach) = match (name.as_str(), shape.len()) {
            (name, _) if name.contains("ln") && name.ends_with(".weight") => (1.0, 0.1),
            (_, 2) => (0.0, 1.0 / (shape[1] as f32).sqrt()),
            _ => (0.0, 0.1),
        };
        for _ in 0..shape.iter().product() {
            out.write_all(&(center + reach * random(&mut state)).to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}

/// Trains on one window, and says what that took.
fn step(
    file: &Path,
    (method, states): (Method, States),
    scheme: Scheme,
    window: usize,
    steps: u32,
) -> Result<(), Failure> {
    let checkpoint = Checkpoint::load(file, true)?;
    let network = *checkpoint.network();
    let candidate = Candidate::new(&network, |unit| if unit.is_linear() { scheme } else { Scheme::Sign });
    let settings = Settings {
        method,
        states,
        schedule: Schedule { steps, warm_up: 0, floor: 1.0 },
        rate: 1e-4,
        vector_rate: 1e-4,
        scale_rate: 1e-3,
        zero_point_rate: 0.0,
        weight_decay: 0.0,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads: THREADS,
    };
    let started = Instant::now();
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings)?;
    drop(checkpoint);
    let seconds = started.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{seconds:.1} s to begin, {} bytes at most so far", peak()?)?;
    let mut state = 3;
    let vocabulary = network.vocabulary;
    let text: Vec<u32> = (0..=window)
        .map(|_| ((random(&mut state) + 1.0) / 2.0 * vocabulary as f32) as u32 % vocabulary)
        .collect();
    for _ in 0..steps {
        let started = Instant::now();
        let loss = trainer.step(&[Window::of(&text)], Objective::CrossEntropy).cross_entropy;
        let seconds = started.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "loss {loss:.4}, {seconds:.2} s a step")?;
    }
    print("held", trainer.state_bytes(), network.parameters())?;
    writeln!(std::io::stdout(), "the process took {} bytes at most", peak()?)?;
    Ok(())
}

/// Bytes that the process had resident at most.
fn peak() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
