//! Training of parts of a network: gradients by differences, what inputs depend on, and that losses fall.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

mod shared;

use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_engine::quant::Codes;
use qslm_train::block_ap::BlockAp;
use qslm_train::distil::{Plan, Run, Teacher, Trained};
use qslm_train::lessons::Lessons;
use qslm_train::network::module::{PartLoss, Surroundings};
use qslm_train::network::{Objective, Window, Workspace};
use qslm_train::optimizer::{Adam, Method};
use qslm_train::part::Part;
use qslm_train::reconstruct::{PartRun, Setting};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::{Settings, Trainer};
use qslm_train::tensors::Tensors;
use qslm_train::weights::Weights;

const SCHEME: &str = "int2:full:channel:f16:trained:least_squares";

fn checkpoint() -> Arc<Checkpoint> {
    shared::inputs().checkpoint(true).unwrap()
}

fn teacher(checkpoint: &Checkpoint) -> Teacher {
    SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), Backend::Native).unwrap().into()
}

fn text(len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i) % 37 * 50 + i % 3) as u32).collect()
}

fn plan(steps: u32, threads: usize) -> Plan {
    let settings = Settings {
        states: States::Float,
        method: Method::Adam(Adam::default()),
        schedule: Schedule { steps, warm_up: 2, floor: 0.1 },
        rate: 2e-3,
        vector_rate: 2e-3,
        scale_rate: 1e-2,
        zero_point_rate: 1e-2,
        weight_decay: 0.0,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads,
    };
    Plan { settings, share: 0.5, window: 24, batch: 3, seed: 7 }
}

/// Weights of parameters that are not quantized.
fn weights(checkpoint: &Checkpoint, parameters: &Tensors) -> Weights {
    let mut weights = Weights::new(checkpoint.network());
    weights.load(parameters, &mut [Vec::new()]);
    weights
}

/// Parameters that are a little off those of a checkpoint.
fn moved(checkpoint: &Checkpoint) -> Tensors {
    let mut parameters = Tensors::of_checkpoint(checkpoint);
    for (name, values) in parameters.iter_mut().filter(|(name, _)| *name != "emb.weight") {
        let of_name = name.len() as f32;
        let size = values.iter().map(|w| w.abs()).sum::<f32>() / values.len() as f32;
        let more = |i: usize| (i as f32 * 0.7 + of_name).sin() * 0.1 * size;
        values.iter_mut().enumerate().for_each(|(i, w)| *w += more(i));
    }
    parameters
}

struct Loss<'a> {
    checkpoint: &'a Checkpoint,
    float: Weights,
    teacher: Teacher,
    part: Part,
    text: Vec<u32>,
}

impl<'a> Loss<'a> {
    fn new(checkpoint: &'a Checkpoint, part: Part) -> Self {
        let float = weights(checkpoint, &Tensors::of_checkpoint(checkpoint));
        Self { checkpoint, float, teacher: teacher(checkpoint), part, text: text(64) }
    }

    fn of(&self, parameters: &Tensors, gradients: &mut Tensors) -> PartLoss {
        let (float, before) = (&self.float, &self.float);
        let objective = Objective::Distillation { teacher: &self.teacher, share: 0.7 };
        let around = Surroundings { float, before, share: 1.0, objective };
        let weights = weights(self.checkpoint, parameters);
        let mut workspace = Workspace::new(self.checkpoint.network(), Reset::Attached, 2);
        let batch = [Window::of(&self.text[..40]), Window::of(&self.text[40..])];
        workspace.backward_part(&self.part, &weights, around, &batch, gradients)
    }
}

/// Holds gradients of the objective against differences of it along themselves, tensor by tensor.
fn assert_differences(loss: &Loss<'_>, parameters: &Tensors, names: &[&str]) {
    let mut gradients = Tensors::zeros_like(parameters);
    loss.of(parameters, &mut gradients);
    for name in names {
        let gradient = gradients.get(name).to_vec();
        let norm = gradient.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "{name} has no gradient");
        let size = parameters.get(name).iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        let step = 3e-3 * size.max(1e-3) / norm;
        let at = |by: f64| {
            let mut parameters = parameters.clone();
            let pairs = parameters.get_mut(name).iter_mut().zip(&gradient);
            pairs.for_each(|(w, d)| *w += (by * f64::from(*d)) as f32);
            loss.of(&parameters, &mut Tensors::zeros_like(&parameters)).objective
        };
        let ratio = (at(step) - at(-step)) / (2.0 * step * norm * norm);
        println!("{name}: {ratio}");
        assert!((ratio - 1.0).abs() < 1e-2, "{name}: {ratio}");
    }
}

#[test]
fn gradients_of_what_no_spike_is_between_are_those_of_differences() {
    let checkpoint = checkpoint();
    let block = Loss::new(&checkpoint, Part::blocks(1..2));
    let parameters = moved(&checkpoint);
    let ffn = ["ffn.key.weight", "ffn.value.weight", "ffn.receptance.weight", "ln2.weight", "ffn.time_mix_k"];
    let names = ffn.map(|name| format!("blocks.1.{name}"));
    assert_differences(&block, &parameters, &names.each_ref().map(String::as_str));
    // An ffn without values passes nothing back to the att, of which the error alone is left.
    let mut parameters = moved(&checkpoint);
    parameters.get_mut("blocks.1.ffn.value.weight").fill(0.0);
    let att = ["att.key.weight", "att.output.weight", "att.receptance.weight", "ln1.bias", "att.time_decay"];
    let names = att.map(|name| format!("blocks.1.{name}"));
    assert_differences(&block, &parameters, &names.each_ref().map(String::as_str));
    let head = Loss::new(&checkpoint, Part::head(checkpoint.network()));
    assert_differences(&head, &moved(&checkpoint), &["head.weight", "ln_out.weight", "ln_out.bias"]);
}

#[test]
fn the_float_network_has_no_error_and_no_gradient() {
    let checkpoint = checkpoint();
    let loss = Loss::new(&checkpoint, Part { embedding: false, ..Part::whole(checkpoint.network()) });
    let parameters = Tensors::of_checkpoint(&checkpoint);
    let mut gradients = Tensors::zeros_like(&parameters);
    let teacher = loss.teacher.clone();
    let around = Surroundings {
        float: &loss.float,
        before: &loss.float,
        share: 1.0,
        objective: Objective::Distillation { teacher: &teacher, share: 1.0 },
    };
    let mut workspace = Workspace::new(checkpoint.network(), Reset::Attached, 2);
    let batch = [Window::of(&loss.text)];
    let found = workspace.backward_part(&loss.part, &loss.float, around, &batch, &mut gradients);
    assert_eq!(found.errors, vec![0.0; 2 * checkpoint.network().blocks as usize]);
    assert!(found.objective.abs() < 1e-6, "{found:?}");
    assert!(gradients.iter().all(|(_, d)| d.iter().all(|d| d.abs() < 1e-6)));
}

fn setting<'t>(checkpoint: &Checkpoint, text: &'t [u32], plan: Plan) -> Setting<'t> {
    Setting::new(
        checkpoint,
        Some(teacher(checkpoint)),
        &Part::whole(checkpoint.network()),
        Lessons::Text(text),
        plan,
    )
    .unwrap()
}

/// The quantized network as it is before anything trains.
fn untrained(checkpoint: &Checkpoint, candidate: &Candidate, plan: Plan) -> Weights {
    let mut weights = Weights::new(checkpoint.network());
    for part in Part::stages(checkpoint.network()) {
        Trainer::of_part(checkpoint, candidate, part, plan.settings).unwrap().lend(&mut weights);
    }
    weights
}

#[test]
fn inputs_are_the_float_networks_or_those_of_the_modules_in_front_in_shares() {
    let (checkpoint, text, plan) = (checkpoint(), text(400), plan(3, 2));
    let candidate = shared::student(&checkpoint, SCHEME, "f16");
    let setting = setting(&checkpoint, &text, plan);
    let quantized = untrained(&checkpoint, &candidate, plan);
    let other = untrained(&checkpoint, &shared::student(&checkpoint, "int3:full:channel:f16", "f16"), plan);
    let nothing = Weights::new(checkpoint.network());
    let run = |share: f32, before: &Weights| {
        let part = Part::blocks(2..4);
        let mut run = PartRun::new(&setting, &checkpoint, &candidate, part, share).unwrap();
        let losses: Vec<PartLoss> = (0..3).map(|_| run.step(&setting, before)).collect();
        (losses, run.save())
    };
    assert_eq!(run(1.0, &quantized), run(1.0, &nothing));
    let found = [1.0, 0.5, 0.0].map(|share| run(share, &quantized).0[0].objective);
    println!("{found:?}");
    assert!(found[0] < found[1] && found[1] < found[2], "{found:?}");
    assert_ne!(run(0.5, &quantized), run(0.5, &other));
}

#[test]
fn losses_of_every_block_and_of_the_head_are_lower_after_training() {
    let checkpoint = checkpoint();
    for scheme in [SCHEME, "int3:affine:channel:f16"] {
        // One window: every batch is the same.
        let (text, candidate) = (text(25), shared::student(&checkpoint, scheme, "f16"));
        let mut run = BlockAp::new(
            &checkpoint,
            Some(teacher(&checkpoint)),
            &candidate,
            Lessons::Text(&text),
            plan(12, 2),
        )
        .unwrap();
        let mut losses: Vec<Vec<f64>> = vec![Vec::new(); 5];
        while let Some((stage, loss)) = run.step().unwrap() {
            losses[stage].push(loss.objective);
        }
        for (stage, losses) in losses.iter().enumerate() {
            println!("{scheme}, stage {stage}: {:.4} to {:.4}", losses[0], losses[11]);
            assert!(losses.len() == 12 && losses[11] < losses[0], "{scheme}, stage {stage}: {losses:?}");
        }
        // Codes stand on their grids: those of what they stand for are they themselves.
        let trained = run.trained();
        assert_eq!(trained.codes.len(), 29);
        let mut again = Trainer::new(&checkpoint, &candidate, plan(1, 2).settings).unwrap();
        for (unit, codes) in &trained.codes {
            again.put(unit, &codes.dequantize());
            again.put(&format!("{unit}.scales"), &codes.scales);
            if !codes.zero_points.is_empty() {
                let zeros: Vec<f32> = codes.zero_points.iter().map(|zero| f32::from(*zero)).collect();
                again.put(&format!("{unit}.zero_points"), &zeros);
            }
            assert_eq!(&codes.dequantize(), trained.tensors.get(unit));
            let Codes { values, scales, .. } = again.codes(unit).unwrap();
            assert_eq!((&values, &scales), (&codes.values, &codes.scales), "{scheme} {unit}");
        }
    }
}

#[test]
fn one_module_is_the_whole_network_by_reconstruction() {
    let (checkpoint, text, plan) = (checkpoint(), text(25), plan(16, 2));
    let candidate = shared::student(&checkpoint, SCHEME, "f16");
    let setting = setting(&checkpoint, &text, plan);
    let [part] = &qslm_train::mrem::modules(checkpoint.network(), 1)[..] else { panic!("one module") };
    let mut run = PartRun::new(&setting, &checkpoint, &candidate, part.clone(), 1.0).unwrap();
    let before = Weights::new(checkpoint.network());
    let losses: Vec<PartLoss> = (0..16).map(|_| run.step(&setting, &before)).collect();
    let (first, last) = (&losses[0], &losses[15]);
    assert_eq!(first.errors.len(), 8);
    println!("{first:?} to {last:?}");
    assert!(last.objective < 0.8 * first.objective, "{first:?} to {last:?}");
    assert!(last.head.unwrap().objective < first.head.unwrap().objective);
    assert_eq!(run.trained().codes.len(), 29);
}

#[test]
fn threads_change_no_bit_of_a_part() {
    let (checkpoint, text) = (checkpoint(), text(400));
    let candidate = shared::student(&checkpoint, SCHEME, "f16");
    let quantized = untrained(&checkpoint, &candidate, plan(3, 1));
    let run = |threads: usize, part: &Part| {
        let setting = setting(&checkpoint, &text, plan(3, threads));
        let mut run = PartRun::new(&setting, &checkpoint, &candidate, part.clone(), 0.5).unwrap();
        let losses: Vec<PartLoss> = (0..3).map(|_| run.step(&setting, &quantized)).collect();
        (losses, run.save())
    };
    let last = Part { embedding: false, blocks: 3..4, head: true };
    for part in [Part::blocks(0..2), last] {
        let one = run(1, &part);
        for threads in [2, 3] {
            assert!(run(threads, &part) == one, "{threads} threads, {part:?}");
        }
    }
}

#[test]
fn frozen_codes_at_a_rate_of_zero_leave_everything_as_it_is() {
    let (checkpoint, text) = (checkpoint(), text(200));
    let candidate = shared::student(&checkpoint, "int3:affine:channel", "f16");
    let mut blocks = BlockAp::new(&checkpoint, None, &candidate, Lessons::Text(&text), plan(3, 2)).unwrap();
    while blocks.step().unwrap().is_some() {}
    let trained = blocks.trained();
    let of = |rate: f32| {
        let plan = plan(4, 2);
        let settings =
            Settings { rate: 0.0, vector_rate: 0.0, scale_rate: rate, zero_point_rate: 0.0, ..plan.settings };
        let mut run =
            Run::new(&checkpoint, None, &candidate, Lessons::Text(&text), Plan { settings, ..plan }).unwrap();
        run.freeze(&Trained {
            codes: trained.codes.clone(),
            tensors: vectors_of(&checkpoint, &trained),
            tokens: 0,
        });
        let losses: Vec<f64> = (0..4).map(|_| run.step().objective).collect();
        (run.trained(), losses)
    };
    let (same, _) = of(0.0);
    assert_eq!(same.codes, trained.codes);
    let of_parts = trained.tensors.iter();
    assert!(of_parts.into_iter().all(|(name, values)| same.tensors.get(name) == values));
    let (other, _) = of(1e-2);
    for (unit, codes) in &other.codes {
        let before = &trained.codes[unit];
        assert_eq!((&codes.values, &codes.zero_points), (&before.values, &before.zero_points));
        assert_ne!(codes.scales, before.scales);
    }
}

fn vectors_of(checkpoint: &Checkpoint, trained: &Trained) -> Tensors {
    let names = checkpoint.network().vectors().into_iter().map(|vector| vector.name);
    names.map(|name| (name.clone(), trained.tensors.get(&name).to_vec())).collect()
}
