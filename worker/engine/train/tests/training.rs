//! Training of a trained network: what comes out, and what must not change it.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

use std::path::Path;

use qslm_common::candidate::Candidate;
use qslm_common::scheme::Scheme;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::quant::{Codes, Statistics, Weights, quantize, rans};
use qslm_train::distil::{CannotDistil, Plan, Trained, distil};
use qslm_train::fake_quant::{CannotTrain, FakeQuant, Quantized, scales_of};
use qslm_train::lessons::{Lessons, NoLessons};
use qslm_train::network::{Objective, Window};
use qslm_train::optimizer::{Adam, Lion, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::{Settings, Trainer};
use qslm_train::tensors::Tensors;
use qslm_train::weights::Source;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../experiments/models");

fn wikitext() -> Checkpoint {
    Checkpoint::load(&Path::new(MODELS).join("wikitext2-xs.safetensors"), true).unwrap()
}

/// Text of few different tokens, so that there is something to learn in a few steps.
fn text(len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i) % 37 * 50 + i % 3) as u32).collect()
}

fn linears(checkpoint: &Checkpoint, scheme: &str) -> Candidate {
    let scheme: Scheme = scheme.parse().unwrap();
    Candidate::new(checkpoint.network(), |unit| if unit.is_linear() { scheme } else { Scheme::Sign })
        .with_vectors(Scheme::Half)
}

fn settings(method: Method, rate: f32, steps: u32, threads: usize) -> Settings {
    Settings {
        method,
        states: States::Float,
        schedule: Schedule { steps, warm_up: 2, floor: 0.1 },
        rate,
        vector_rate: rate,
        scale_rate: rate * 10.0,
        zero_point_rate: rate * 100.0,
        weight_decay: 0.01,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads,
    }
}

const ADAM: Method = Method::Adam(Adam { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 });

fn run(scheme: &str, method: Method, rate: f32, steps: u32, threads: usize) -> (Trained, Vec<f64>) {
    let checkpoint = wikitext();
    let settings = settings(method, rate, steps, threads);
    let plan = Plan { settings, share: 0.5, window: 24, batch: 3, seed: 7 };
    let mut losses = Vec::new();
    let candidate = linears(&checkpoint, scheme);
    let watch = |_, loss: qslm_train::network::BatchLoss| losses.push(loss.objective);
    (distil(&checkpoint, &candidate, Lessons::Text(&text(400)), &plan, watch).unwrap(), losses)
}

/// Schemes of every symmetry, granularity and sort of scale.
const SCHEMES: [&str; 7] = [
    "int2:full:channel:f16",
    "int3:affine:channel",
    "int4:symmetric:group32:f16",
    "int2:ternary:channel:f16",
    "int4:affine:tensor:f16",
    "int3:full:group64:pow2",
    "ec:0.70:tensor:f16",
];

#[test]
fn a_step_computes_with_what_the_codes_stand_for() {
    let checkpoint = wikitext();
    for scheme in SCHEMES {
        let candidate = linears(&checkpoint, scheme);
        let mut parameters = Tensors::of_checkpoint(&checkpoint);
        let quant = FakeQuant::new(checkpoint.network(), &candidate, &mut parameters).unwrap();
        let quantized = Quantized { quant: &quant, parameters: &parameters };
        let mut buffer = Vec::new();
        for unit in checkpoint.network().units().iter().filter(|unit| unit.is_linear()) {
            let codes = quant.codes(&unit.name, &parameters).unwrap();
            assert_eq!(
                codes.dequantize(),
                *quantized.values(&unit.name, &mut buffer),
                "{scheme} {}",
                unit.name
            );
            // Before the first step they are the quantizer's, but where a weight lies between two codes.
            let Scheme::Integer { format, quantizer } = candidate.scheme(&unit.name) else { panic!() };
            let range = qslm_common::scheme::Range::LeastSquares;
            let range = if scheme.starts_with("ec") { quantizer.range } else { range };
            let quantizer = qslm_common::scheme::Quantizer { range, ..quantizer };
            let values = parameters.get(&unit.name);
            let weights = Weights { values, columns: unit.columns, unit: &unit.name };
            let expected = quantize(weights, format, quantizer, &Statistics::NONE);
            assert_eq!((&codes.scales, &codes.zero_points), (&expected.scales, &expected.zero_points));
            let differ = codes.values.iter().zip(&expected.values).filter(|(a, b)| a != b).count();
            assert!(differ * 1000 <= codes.values.len(), "{scheme} {}: {differ} codes", unit.name);
        }
        let half = quantized.values("ln_out.weight", &mut buffer);
        assert!(half.iter().all(|w| qslm_engine::quant::to_half(*w).to_f32() == *w));
    }
}

#[test]
fn training_lowers_the_loss_under_every_scheme_and_method() {
    let lion = Method::Lion(Lion::default());
    for (scheme, method, rate) in SCHEMES.map(|scheme| (scheme, ADAM, 1e-3)).into_iter().chain([
        ("int2:full:channel:f16", lion, 5e-4),
        ("f32", ADAM, 1e-3),
        ("f32", lion, 5e-4),
    ]) {
        let (trained, losses) = run(scheme, method, rate, 24, 2);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..4]), mean(&losses[20..]));
        println!("{scheme} {method:?}: {first:.3} to {last:.3}");
        assert!(last < 0.9 * first, "{scheme} {method:?}: {losses:?}");
        for (unit, codes) in &trained.codes {
            assert_eq!(codes.dequantize(), trained.tensors.get(unit), "{scheme} {unit}");
            let (low, high) = (codes.format.q_min(), codes.format.q_max());
            assert!(codes.values.iter().all(|code| (low..=high).contains(&i32::from(*code))));
        }
        assert_eq!(trained.codes.is_empty(), scheme == "f32");
    }
}

#[test]
fn codes_take_fewer_bits_where_bits_cost() {
    let checkpoint = wikitext();
    let candidate = linears(&checkpoint, "ec:0.70:tensor:f16");
    let bits = |bit_cost: f32| {
        let settings = Settings { bit_cost, ..settings(ADAM, 1e-3, 30, 2) };
        let plan = Plan { settings, share: 0.0, window: 24, batch: 2, seed: 7 };
        let trained = distil(&checkpoint, &candidate, Lessons::Text(&text(400)), &plan, |_, _| {}).unwrap();
        let size = |codes: &Codes| rans::encode(&codes.values, codes.columns).len() as f64 * 8.0;
        let weights: usize = trained.codes.values().map(|codes| codes.values.len()).sum();
        trained.codes.values().map(size).sum::<f64>() / weights as f64
    };
    let (free, cheap, dear) = (bits(0.0), bits(0.3), bits(3.0));
    println!("{free:.3}, {cheap:.3} and {dear:.3} bits a weight");
    assert!(cheap < free - 0.02 && dear < cheap - 0.05, "{free}, {cheap}, {dear}");
}

#[test]
fn threads_change_no_bit_of_a_run_and_a_seed_repeats_it() {
    let one = run("int2:full:channel:f16", ADAM, 1e-3, 5, 1);
    for threads in [1, 2, 5] {
        assert_eq!(run("int2:full:channel:f16", ADAM, 1e-3, 5, threads), one, "{threads} threads");
    }
}

#[test]
fn a_rate_of_zero_leaves_everything_as_it_is() {
    let checkpoint = wikitext();
    let candidate = linears(&checkpoint, "int3:affine:channel:f16");
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings(ADAM, 0.0, 3, 2)).unwrap();
    let (before, text) = (trainer.parameters().clone(), text(60));
    let batch = [Window::of(&text[..30]), Window::of(&text[30..])];
    let losses = [0; 3].map(|_| trainer.step(&batch, Objective::CrossEntropy).objective);
    assert_eq!(trainer.parameters(), &before);
    assert_eq!(losses, [losses[0]; 3]);
}

#[test]
fn a_small_step_lowers_the_loss_of_its_batch_by_what_the_gradient_promises() {
    // The head lies behind no spike, so its loss is smooth; `f32`, so that nothing rounds.
    let checkpoint = wikitext();
    let (text, rate) = (text(120), 1e-5);
    let settings = Settings { vector_rate: 0.0, weight_decay: 0.0, ..settings(ADAM, rate, 2, 2) };
    let mut trainer = Trainer::new(&checkpoint, &linears(&checkpoint, "f32"), settings).unwrap();
    let batch = [Window::of(&text)];
    let before = trainer.step(&batch, Objective::CrossEntropy).objective;
    let head = trainer.gradients().get("head.weight").to_vec();
    let moved = trainer.parameters().get("head.weight").to_vec();
    let start = checkpoint.tensor("head.weight");
    let promised: f64 =
        head.iter().zip(&moved).zip(start.iter()).map(|((d, to), from)| f64::from(d * (to - from))).sum();
    // The loss of the head's step alone.
    let mut parameters = Tensors::of_checkpoint(&checkpoint);
    parameters.insert("head.weight", moved);
    let mut weights = qslm_train::weights::Weights::new(checkpoint.network());
    weights.load(&parameters, &mut [Vec::new()]);
    let mut gradients = Tensors::zeros_like(&parameters);
    let mut workspace = qslm_train::network::Workspace::new(checkpoint.network(), Reset::Attached, 1);
    let after = workspace.backward(&weights, &batch, Objective::CrossEntropy, &mut gradients).objective;
    let ratio = (after - before) / promised;
    assert!(promised < 0.0 && (ratio - 1.0).abs() < 0.02, "{before} to {after}, promised {promised}");
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let checkpoint = wikitext();
    let refuse = |candidate: &Candidate| {
        FakeQuant::new(checkpoint.network(), candidate, &mut Tensors::of_checkpoint(&checkpoint)).unwrap_err()
    };
    let slim = linears(&checkpoint, "int3:full:group64:slim");
    let slim = refuse(&slim).to_string();
    assert!(slim.contains("int3:full:group64:slim has mixed widths"), "{slim}");
    let float = linears(&checkpoint, "f32");
    let membrane = float.clone().with_membranes(["blocks.0.lif1"], "fixed6:1".parse().ok());
    assert_eq!(refuse(&membrane), CannotTrain::Inner);
    let activation = float.clone().with_activations(["head.weight"], "int8:affine:dynamic".parse().ok());
    assert_eq!(refuse(&activation), CannotTrain::Inner);
    let sign = linears(&checkpoint, "f32").with(["head.weight"], Scheme::Sign);
    assert!(matches!(refuse(&sign), CannotTrain::Candidate(_)));
    let plan = Plan { settings: settings(ADAM, 1e-3, 1, 1), share: 0.0, window: 24, batch: 1, seed: 0 };
    let short = distil(&checkpoint, &float, Lessons::Text(&text(24)), &plan, |_, _| {}).unwrap_err();
    assert!(matches!(short, CannotDistil::Lessons(NoLessons::Short { tokens: 24, needed: 25 })));
}

#[test]
fn a_run_that_diverges_says_so() {
    let checkpoint = wikitext();
    let plan = Plan { settings: settings(ADAM, 1e38, 9, 2), share: 0.0, window: 24, batch: 1, seed: 0 };
    let mut seen = 0;
    let error =
        distil(&checkpoint, &linears(&checkpoint, "f32"), Lessons::Text(&text(90)), &plan, |_, _| seen += 1)
            .unwrap_err();
    let CannotDistil::Diverged { step } = error else { panic!("{error}") };
    assert_eq!(step, seen);
    assert!((1..9).contains(&step), "the first loss is that of the network as it came");
}

#[test]
fn scales_learn_even_if_nothing_else_does() {
    let checkpoint = wikitext();
    let candidate = linears(&checkpoint, "int2:full:channel:f16");
    let settings = Settings { rate: 0.0, vector_rate: 0.0, scale_rate: 1e-2, ..settings(ADAM, 0.0, 12, 2) };
    let mut trainer = Trainer::new(&checkpoint, &candidate, settings).unwrap();
    let start = trainer.parameters().clone();
    let text = text(160);
    let batch = [Window::of(&text[..80]), Window::of(&text[80..])];
    let losses: Vec<f64> = (0..12).map(|_| trainer.step(&batch, Objective::CrossEntropy).objective).collect();
    assert!(losses[11] < losses[0] - 0.05, "{losses:?}");
    for (name, values) in trainer.parameters().iter() {
        assert_eq!(values != start.get(name), name.ends_with(".scales"), "{name}");
    }
    assert!(trainer.parameters().find(&scales_of("head.weight")).is_some());
}

#[test]
fn frozen_codes_stay_and_their_scales_have_the_gradient_of_the_loss() {
    let checkpoint = wikitext();
    for scheme in ["int3:full:channel", "int4:affine:channel"] {
        let candidate = linears(&checkpoint, scheme);
        let settings = Settings { vector_rate: 0.0, scale_rate: 1e-3, ..settings(ADAM, 0.1, 8, 2) };
        let mut trainer = Trainer::new(&checkpoint, &candidate, settings).unwrap();
        let units: Vec<String> = trainer.quant().units().map(str::to_owned).collect();
        let codes: Vec<_> = units.iter().map(|unit| trainer.codes(unit).unwrap()).collect();
        units.iter().zip(&codes).for_each(|(unit, codes)| trainer.freeze(unit, codes.clone()));
        let text = text(120);
        let batch = [Window::of(&text)];

        // Differences of the loss in scales of the head, behind which there is no spike.
        let mut quant = trainer.quant().clone();
        let loss_at = |quant: &FakeQuant, parameters: &Tensors| {
            let mut weights = qslm_train::weights::Weights::new(checkpoint.network());
            weights.load(&Quantized { quant, parameters }, &mut [Vec::new()]);
            let mut workspace = qslm_train::network::Workspace::new(checkpoint.network(), Reset::Attached, 1);
            let mut gradients = Tensors::zeros_like(parameters);
            workspace.backward(&weights, &batch, Objective::CrossEntropy, &mut gradients).objective
        };
        let parameters = trainer.parameters().clone();
        let before = trainer.step(&batch, Objective::CrossEntropy).objective;
        let gradient = trainer.gradients().get(&scales_of("head.weight")).to_vec();
        let mut rows: Vec<usize> = (0..gradient.len()).collect();
        rows.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
        for row in rows.into_iter().take(5) {
            let loss = |by: f32| {
                let mut moved = parameters.clone();
                moved.get_mut(&scales_of("head.weight"))[row] += by;
                loss_at(&quant, &moved)
            };
            let scale = parameters.get(&scales_of("head.weight"))[row];
            let step = scale * 0.01;
            let difference = (loss(step) - loss(-step)) / f64::from(2.0 * step);
            let error = (difference / f64::from(gradient[row]) - 1.0).abs();
            assert!(error < 2e-3, "{scheme} row {row}: {difference} {}", gradient[row]);
        }
        assert_eq!(before, loss_at(&quant, &parameters));

        let losses: Vec<f64> =
            (0..7).map(|_| trainer.step(&batch, Objective::CrossEntropy).objective).collect();
        assert!(losses[6] < before, "{scheme}: {before}, then {losses:?}");
        for (unit, before) in units.iter().zip(&codes) {
            let after = trainer.codes(unit).unwrap();
            assert_eq!((&after.values, &after.zero_points), (&before.values, &before.zero_points));
            assert_ne!(after.scales, before.scales, "{scheme} {unit}");
        }
        // Weights and codes that were chosen elsewhere need not agree.
        let unit = &units[0];
        let mut other = codes[0].clone();
        other.values.reverse();
        let mut parameters = trainer.parameters().clone();
        quant.freeze(unit, other.clone(), &mut parameters);
        assert_eq!(quant.codes(unit, &parameters), Some(other.clone()));
        let quantized = Quantized { quant: &quant, parameters: &parameters };
        assert_eq!(*quantized.values(unit, &mut Vec::new()), other.dequantize());
    }
}
