//! Training with int8 states: what it learns, what it holds, and what must not change it.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::network::EMBEDDING;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_train::distil::{Plan, Run, Trained, distil};
use qslm_train::fake_quant::{CannotTrain, scales_of};
use qslm_train::lessons::Lessons;
use qslm_train::network::{Objective, Window};
use qslm_train::optimizer::{Adam, Lion, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::{StateBytes, States};
use qslm_train::step::{Settings, Trainer};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../experiments/models");
const LION: Method = Method::Lion(Lion { beta1: 0.9, beta2: 0.99 });
const INT8: States = States::Int8 { seed: 5 };

fn checkpoint(binary_embedding: bool) -> Checkpoint {
    Checkpoint::load(&Path::new(MODELS).join("wikitext2-xs.safetensors"), binary_embedding).unwrap()
}

/// Text of few different tokens, so that there is something to learn in a few steps.
fn text(len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i) % 37 * 50 + i % 3) as u32).collect()
}

fn candidate(checkpoint: &Checkpoint, scheme: &str) -> Candidate {
    let scheme: Scheme = scheme.parse().unwrap();
    Candidate::new(checkpoint.network(), |unit| if unit.is_linear() { scheme } else { Scheme::Sign })
        .with_vectors(Scheme::Half)
}

fn settings(steps: u32, threads: usize) -> Settings {
    Settings {
        method: LION,
        states: INT8,
        schedule: Schedule { steps, warm_up: 2, floor: 0.1 },
        rate: 5e-4,
        vector_rate: 5e-4,
        scale_rate: 5e-3,
        zero_point_rate: 5e-2,
        weight_decay: 0.01,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads,
    }
}

fn run(scheme: &str, settings: Settings) -> (Trained, Vec<f64>) {
    let checkpoint = checkpoint(true);
    let plan = Plan { settings, share: 0.5, window: 24, batch: 3, seed: 7 };
    let mut losses = Vec::new();
    let watch = |_, loss: qslm_train::network::BatchLoss| losses.push(loss.objective);
    (
        distil(&checkpoint, &candidate(&checkpoint, scheme), Lessons::Text(&text(400)), &plan, watch)
            .unwrap(),
        losses,
    )
}

#[test]
fn training_lowers_the_loss_under_every_sort_of_scheme() {
    for scheme in [
        "int2:full:channel:f16",
        "int3:full:group64:pow2",
        "int4:affine:tensor:f16",
        "ec:0.70:tensor:f16",
        "f32",
    ] {
        let bit_cost = if scheme.starts_with("ec") { 0.1 } else { 0.0 };
        let (trained, losses) = run(scheme, Settings { bit_cost, ..settings(24, 2) });
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..4]), mean(&losses[20..]));
        println!("{scheme}: {first:.3} to {last:.3}");
        assert!(last < 0.9 * first, "{scheme}: {losses:?}");
        for (unit, codes) in &trained.codes {
            assert_eq!(codes.dequantize(), trained.tensors.get(unit), "{scheme} {unit}");
        }
        // The signs of the embedding are what they were.
        let checkpoint = checkpoint(true);
        let signs = |values: &[f32]| values.iter().map(|w| *w >= 0.0).collect::<Vec<_>>();
        assert_eq!(signs(trained.tensors.get(EMBEDDING)), signs(&checkpoint.tensor(EMBEDDING)));
    }
}

#[test]
fn it_learns_about_as_much_as_with_floats() {
    let (_, eight) = run("int2:full:channel:f16", settings(24, 2));
    let (_, floats) = run("int2:full:channel:f16", Settings { states: States::Float, ..settings(24, 2) });
    println!("{:.4} with int8 states, {:.4} with floats, from {:.4}", eight[23], floats[23], floats[0]);
    assert!((eight[0] / floats[0] - 1.0).abs() < 0.05, "{} {}", eight[0], floats[0]);
    assert!(floats[0] - eight[23] > 0.9 * (floats[0] - floats[23]), "{eight:?} {floats:?}");
}

#[test]
fn threads_change_no_bit_of_a_run_and_another_seed_does() {
    let alone = run("int2:full:channel:f16", settings(5, 1));
    for threads in [1, 2, 3, 5] {
        assert_eq!(run("int2:full:channel:f16", settings(5, threads)), alone, "{threads} threads");
    }
    let other = Settings { states: States::Int8 { seed: 6 }, ..settings(5, 2) };
    assert_ne!(run("int2:full:channel:f16", other).1, alone.1);
}

#[test]
fn a_saved_run_goes_on_to_the_same_bits() {
    let (checkpoint, text) = (checkpoint(true), text(400));
    let candidate = candidate(&checkpoint, "int2:full:channel:f16");
    let begin = |states| {
        let settings = Settings { states, ..settings(9, 2) };
        let plan = Plan { settings, share: 0.0, window: 24, batch: 3, seed: 7 };
        Run::new(&checkpoint, None, &candidate, Lessons::Text(&text), plan).unwrap()
    };
    let mut run = begin(INT8);
    for _ in 0..4 {
        run.step();
    }
    let saved = run.save();
    let mut other = begin(INT8);
    other.step();
    assert!(other.restore(&saved));
    for _ in 4..9 {
        assert_eq!(run.step(), other.step());
    }
    assert_eq!(run.save(), other.save());
    assert_eq!(run.trained(), other.trained());
    // What is saved of floats is none of int8 states, and the other way round.
    let mut floats = begin(States::Float);
    assert!(
        !floats.restore(&saved) && !run.restore(&floats.save()) && !run.restore(&saved[..saved.len() - 1])
    );
    assert!(floats.save().len() > 2 * saved.len());
}

#[test]
fn state_is_three_bytes_a_weight_with_outliers_and_scales_and_less_than_a_quarter_of_adams() {
    for binary_embedding in [true, false] {
        let checkpoint = checkpoint(binary_embedding);
        let network = *checkpoint.network();
        let candidate = Candidate::float(&network);
        let trainer = |settings| Trainer::new(&checkpoint, &candidate, settings).unwrap();
        let vectors: u64 =
            network.vectors().iter().map(|vector| vector.shape.iter().product::<usize>() as u64).sum();
        let mut expected = StateBytes { weights: 4 * vectors, gradients: 4 * vectors, moments: 4 * vectors };
        for unit in network.units() {
            let n = (unit.rows * unit.columns) as u64;
            let scales = 4 * n.div_ceil(128);
            let of_unit = match unit.name.as_str() {
                // Signs that never change.
                EMBEDDING if binary_embedding => StateBytes { weights: n + scales, ..StateBytes::default() },
                _ => {
                    let of_unit = StateBytes::of_weights(INT8, LION, n);
                    assert_eq!(of_unit.total(), n * (1 + 1 + 1) + n.div_ceil(100) * (4 + 4) + 3 * scales);
                    of_unit
                }
            };
            expected = expected + of_unit;
        }
        let mut eight = trainer(settings(2, 1));
        assert_eq!(eight.state_bytes(), expected);
        let text = text(60);
        eight.step(&[Window::of(&text)], Objective::CrossEntropy);
        assert_eq!(eight.state_bytes(), expected, "none comes while it runs");

        let adam =
            Settings { method: Method::Adam(Adam::default()), states: States::Float, ..settings(2, 1) };
        let adam = trainer(adam).state_bytes();
        assert_eq!(adam.total(), 16 * network.parameters());
        assert!(4 * expected.total() <= adam.total(), "{expected:?} {adam:?}");
    }
    // A block of the network of 216 million weights.
    let adam = StateBytes::of_weights(States::Float, Method::Adam(Adam::default()), 768 * 3072).total();
    let share = StateBytes::of_weights(INT8, LION, 768 * 3072).total() as f64 / adam as f64;
    assert!((share - (3.0 + 0.08 + 12.0 / 128.0) / 16.0).abs() < 1e-5, "{share}");
}

#[test]
fn an_embedding_that_is_not_binary_learns() {
    let checkpoint = checkpoint(false);
    let candidate = Candidate::float(checkpoint.network());
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings(12, 2)).unwrap();
    let (text, before) = (text(120), trainer.master_weights(EMBEDDING));
    let batch = [Window::of(&text[..60]), Window::of(&text[60..])];
    let losses: Vec<f64> = (0..12).map(|_| trainer.step(&batch, Objective::CrossEntropy).objective).collect();
    assert!(losses[11] < 0.9 * losses[0], "{losses:?}");
    assert_ne!(trainer.master_weights(EMBEDDING), before);
}

#[test]
fn a_rate_of_zero_leaves_everything_as_it_is() {
    let checkpoint = checkpoint(true);
    let settings =
        Settings { rate: 0.0, vector_rate: 0.0, scale_rate: 0.0, zero_point_rate: 0.0, ..settings(3, 2) };
    let candidate = candidate(&checkpoint, "int3:affine:channel:f16");
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings).unwrap();
    let text = text(60);
    let batch = [Window::of(&text[..30]), Window::of(&text[30..])];
    let losses = [0; 3].map(|_| trainer.step(&batch, Objective::CrossEntropy).objective);
    assert_eq!(losses, [losses[0]; 3]);
}

#[test]
fn scales_learn_beside_int8_weights_and_beside_frozen_codes() {
    let checkpoint = checkpoint(true);
    let candidate = candidate(&checkpoint, "int3:full:channel");
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings(8, 2)).unwrap();
    let text = text(120);
    let batch = [Window::of(&text)];
    let head = "head.weight";
    let codes = trainer.codes(head).unwrap();
    trainer.freeze(head, codes.clone());
    let names: Vec<String> = trainer.quant().units().map(scales_of).collect();
    let before = trainer.parameters().clone();
    let losses: Vec<f64> = (0..8).map(|_| trainer.step(&batch, Objective::CrossEntropy).objective).collect();
    assert!(losses[7] < losses[0], "{losses:?}");
    for name in names {
        assert_ne!(trainer.parameters().get(&name), before.get(&name), "{name}");
    }
    let after = trainer.codes(head).unwrap();
    assert_eq!(after.values, codes.values);
    assert_ne!(trainer.codes("blocks.0.att.key.weight"), None);
}

#[test]
fn int8_states_of_adam_are_refused_in_words() {
    let checkpoint = checkpoint(true);
    let settings = Settings { method: Method::Adam(Adam::default()), ..settings(1, 1) };
    let refused = Trainer::new(&checkpoint, &Candidate::float(checkpoint.network()), settings).unwrap_err();
    assert_eq!(refused, CannotTrain::Int8Moments);
    assert_eq!(refused.to_string(), "training state in int8 is for the optimizer lion");
}
