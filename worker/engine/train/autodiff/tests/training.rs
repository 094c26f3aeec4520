//! Training by Burn's autodiff, as on graphics cards, beside that by the backward pass: on a processor's backend, since the
//! code is the same. A step finds the same gradients, a run learns as much, and a job goes on from its checkpoint.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/shared/mod.rs"]
mod shared;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::job::Job;
use qslm_common::network::{
    Comparison, Constant, Dynamics, EMBEDDING, Member, Neuron, Parameter, Reset as SpikeReset,
};
use qslm_common::recovery::{Parameters, States, TrainingPlan, kinds};
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::jobs::{BACKEND, Inputs};
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_train::jobs::{CONTROL, read_control};
use qslm_train::network::{BatchLoss, Objective, Window};
use qslm_train::optimizer::{Adam, Lion, Method};
use qslm_train::schedule::Schedule;
use qslm_train::step::{Settings, Trainer, trains_on};
use qslm_train::{states, tensors::Tensors};

/// The backend of Burn that is tested on.
const BURN: Backend = Backend::Ndarray;
/// Relative error of a gradient that is allowed, of its norm.
const TOLERANCE: f64 = 1e-4;

fn settings(rate: f32, steps: u32) -> Settings {
    Settings {
        method: Method::Adam(Adam::default()),
        states: states::States::Float,
        schedule: Schedule { steps, warm_up: 0, floor: 1.0 },
        rate,
        vector_rate: rate,
        scale_rate: 1e-2,
        zero_point_rate: 1e-2,
        weight_decay: 0.0,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads: 1,
    }
}

/// Trainers of one candidate, native and by autodiff.
fn both(checkpoint: &Checkpoint, candidate: &Candidate, settings: Settings) -> [Trainer; 2] {
    [BACKEND, BURN].map(|backend| {
        let mut trainer = Trainer::new(checkpoint, candidate, settings).unwrap();
        trainer.compute_on(backend, checkpoint).unwrap();
        trainer
    })
}

fn float(checkpoint: &Checkpoint) -> SpikeGpt {
    SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), BACKEND).unwrap()
}

/// Distance of what was found from what was expected, as a share of the latter's norm.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let expected = || expected.iter().map(|x| f64::from(*x));
    let apart = norm(&mut expected().zip(found).map(|(a, b)| a - f64::from(*b)));
    if apart == 0.0 { 0.0 } else { apart / norm(&mut expected()) }
}

fn compare(gradients: [&Tensors; 2], losses: [BatchLoss; 2]) {
    let [expected, found] = losses;
    for (expected, found) in [
        (expected.cross_entropy, found.cross_entropy),
        (expected.divergence, found.divergence),
        (expected.objective, found.objective),
    ] {
        assert!((expected - found).abs() <= 1e-5 * expected.abs(), "{found}, expected {expected}");
    }
    let [expected, found] = gradients;
    assert_eq!(expected.iter().count(), found.iter().count());
    for ((name, expected), (_, found)) in expected.iter().zip(found.iter()) {
        assert!(name == EMBEDDING || expected.iter().any(|d| *d != 0.0), "{name} has a gradient");
        let error = error(found, expected);
        assert!(error < TOLERANCE, "{name}: {error:.1e}");
    }
}

/// A step on these windows by both, from the same parameters.
fn compare_a_step(
    checkpoint: &Checkpoint,
    candidate: &Candidate,
    settings: Settings,
    batch: &[Window<'_>],
    share: f32,
) {
    let teacher = float(checkpoint);
    let objective = match share {
        0.0 => Objective::CrossEntropy,
        share => Objective::Distillation { teacher: &teacher, share },
    };
    let [mut native, mut burn] = both(checkpoint, candidate, settings);
    let losses = [native.step(batch, objective), burn.step(batch, objective)];
    compare([native.gradients(), burn.gradients()], losses);
}

#[test]
fn a_step_on_quantized_weights_finds_the_same_gradients_whatever_it_learns_from() {
    let checkpoint = shared::inputs().checkpoint(true).unwrap();
    let task = Task::Perplexity { window: 20, stride: 20, windows: None };
    let data = shared::inputs().data(&task, checkpoint.network()).unwrap();
    let text = data.all_tokens();
    // Windows of several lengths, one of a single token.
    let batch: Vec<Window<'_>> = [0..21, 30..51, 60..66, 70..72].map(|range| Window::of(&text[range])).into();
    for scheme in
        ["int2:full:channel:f16:trained:least_squares", "int3:affine:group32:f16:trained:least_squares"]
    {
        let candidate = shared::student(&checkpoint, scheme, "f16");
        for share in [0.0, 0.5, 1.0] {
            compare_a_step(&checkpoint, &candidate, settings(1e-3, 1), &batch, share);
        }
    }
    let detached = Settings { reset: Reset::Detached, ..settings(1e-3, 1) };
    compare_a_step(&checkpoint, &Candidate::float(checkpoint.network()), detached, &batch, 0.0);
}

#[test]
fn a_step_finds_the_same_gradients_whatever_the_neurons_do() {
    let task = Task::Perplexity { window: 20, stride: 20, windows: None };
    let fixed = |value| Parameter::Fixed(Constant::new(value).unwrap());
    let soft =
        Neuron { leak: fixed(0.7), reset: SpikeReset::Soft, threshold: fixed(0.8), ..Neuron::SPIKEGPT };
    let none = Neuron {
        gain: Constant::new(0.9).unwrap(),
        reset: SpikeReset::None,
        comparison: Comparison::Above,
        initial: Constant::new(0.25).unwrap(),
        ..Neuron::SPIKEGPT
    };
    for neuron in [None, Some(soft), Some(none)] {
        let dynamics = Dynamics { neuron, ..Dynamics::SPIKEGPT };
        let member = Member { binary_embedding: true, dynamics };
        let checkpoint = shared::inputs().checkpoint(member).unwrap();
        let data = shared::inputs().data(&task, checkpoint.network()).unwrap();
        let batch = [Window::of(&data.all_tokens()[..21])];
        let candidate = shared::student(&checkpoint, "int2:full:channel:f16:trained:least_squares", "f16");
        for reset in [Reset::Attached, Reset::Detached] {
            let settings = Settings { reset, ..settings(1e-3, 1) };
            compare_a_step(&checkpoint, &candidate, settings, &batch, 0.5);
        }
    }
}

#[test]
fn a_classifiers_step_finds_the_same_gradients_on_sentences_of_any_length() {
    let inputs = Inputs::new(shared::files_of_classifier());
    let checkpoint = inputs.checkpoint(true).unwrap();
    let data = inputs.data(&Task::Accuracy { sentences: Some(5) }, checkpoint.network()).unwrap();
    let sentences: Vec<_> = data.sentences().collect();
    let batch: Vec<_> = sentences.iter().map(|(tokens, class)| Window::sentence(tokens, class)).collect();
    assert!(batch.len() == 5 && batch.iter().any(|window| window.tokens.len() != batch[0].tokens.len()));
    let candidate = shared::student(&checkpoint, "int2:full:channel:f16:trained:least_squares", "f16");
    for share in [0.0, 0.5] {
        compare_a_step(&checkpoint, &candidate, settings(1e-3, 1), &batch, share);
    }
}

#[test]
fn an_embedding_of_floats_has_a_gradient() {
    let checkpoint = shared::inputs().checkpoint(false).unwrap();
    let task = Task::Perplexity { window: 20, stride: 20, windows: None };
    let data = shared::inputs().data(&task, checkpoint.network()).unwrap();
    let batch = [Window::of(&data.all_tokens()[..21])];
    let [mut native, mut burn] =
        both(&checkpoint, &Candidate::float(checkpoint.network()), settings(1e-3, 1));
    let losses = [&mut native, &mut burn].map(|trainer| trainer.step(&batch, Objective::CrossEntropy));
    assert!(native.gradients().get(EMBEDDING).iter().any(|d| *d != 0.0));
    compare([native.gradients(), burn.gradients()], losses);
}

/// Losses of a run on a few windows, by both.
fn learnt(settings: Settings) -> [Vec<f64>; 2] {
    let checkpoint = shared::inputs().checkpoint(true).unwrap();
    let task = Task::Perplexity { window: 16, stride: 16, windows: None };
    let data = shared::inputs().data(&task, checkpoint.network()).unwrap();
    let batch: Vec<_> = data.all_tokens().chunks_exact(17).take(3).map(Window::of).collect();
    let candidate = shared::student(&checkpoint, "int2:full:channel:f16:trained:least_squares", "f16");
    both(&checkpoint, &candidate, settings).map(|mut trainer| {
        let step = |_| trainer.step(&batch, Objective::CrossEntropy).cross_entropy;
        (0..settings.schedule.steps).map(step).collect()
    })
}

#[test]
fn a_run_learns_as_much_as_the_native_one() {
    let lion = Settings {
        method: Method::Lion(Lion::default()),
        states: states::States::Int8 { seed: 3 },
        ..settings(1e-4, 12)
    };
    for (name, settings) in [("adam", settings(1e-3, 12)), ("lion with int8 states", lion)] {
        let [native, burn] = learnt(settings);
        println!("{name}: {native:.4?} by the backward pass, {burn:.4?} by autodiff");
        assert!((burn[0] - native[0]).abs() < 1e-5 * native[0], "the first loss is that of the same network");
        let end = |losses: &[f64]| losses[losses.len() - 3..].iter().sum::<f64>() / 3.0;
        let (native, burn) = (native[0] - end(&native), burn[0] - end(&burn));
        assert!(native > 0.1, "{name}: {native} nats");
        assert!((burn - native).abs() < 0.1 * native, "{name}: {burn} nats, {native} by the backward pass");
    }
}

fn job(kind: &str, scheme: &str, plan: TrainingPlan) -> Job {
    let checkpoint = shared::inputs().checkpoint(true).unwrap();
    let candidate = shared::student(&checkpoint, scheme, "f16").encode();
    let parameters = Parameters { member: true.into(), candidate, plan, module: None };
    Job::new(kind, 1 << 24).parameters(&parameters).on(BURN)
}

fn plan(steps: u32) -> TrainingPlan {
    TrainingPlan { window: 10, batch: 2, steps, distillation: 0.5, seed: 3, ..TrainingPlan::default() }
}

#[test]
fn a_job_that_is_killed_twice_goes_on_from_its_checkpoint() {
    let scheme = "int2:full:channel:f16:trained:least_squares";
    let job = job(kinds::QAT, scheme, plan(7));
    let undisturbed = shared::made_of(&job, &shared::inputs(), &()).unwrap();
    let (artifact, left) = shared::made_with_stops(&job, &shared::inputs(), [3, 5]);
    // One processor adds in one order, so that what goes on and what was not disturbed can be compared to the bit here.
    assert_eq!(artifact, undisturbed);
    // The last checkpoint is that of four steps: two were killed with what came after one.
    assert_eq!(left[8..12], 4u32.to_le_bytes());
    // It is a job of its own, whose artifact is another one.
    let native = job.clone().on(BACKEND);
    assert_ne!(native.key(), job.key());
    assert_eq!(shared::made_of(&native, &shared::inputs(), &()).unwrap().len(), artifact.len());
}

#[test]
fn the_float_network_is_trained_as_the_control() {
    let task = Task::Perplexity { window: 10, stride: 10, windows: Some(2) };
    let parameters = serde_json::json!({
        "task": task,
        "binary_embedding": true,
        "plan": TrainingPlan { rate: 2e-3, distillation: 0.0, ..plan(12) },
    });
    let mut files = shared::files();
    files.insert("data".to_owned(), files["text"].clone());
    let made = |backend| {
        let job = Job::new(CONTROL.name, 1 << 24).parameters(&parameters).on(backend);
        read_control(&shared::made_of(&job, &Inputs::new(files.clone()), &()).unwrap()).unwrap()
    };
    let [native, burn] = [BACKEND, BURN].map(made);
    assert_eq!(burn.float, native.float);
    assert!(burn.counts != burn.float, "it was trained");
    let nats = |counts: &qslm_common::measurement::Counts| counts.nll.nats();
    assert!((nats(&burn.counts) / nats(&native.counts) - 1.0).abs() < 0.01);
}

#[test]
fn what_does_not_train_on_burn_says_so() {
    assert!(trains_on(BACKEND) && trains_on(BURN) && trains_on(Backend::Flex));
    assert!(!trains_on(Backend::Integer) && !trains_on(Backend::Cuda));
    let refused = |job: &Job| shared::made_of(job, &shared::inputs(), &()).unwrap_err().to_string();
    let scheme = "int2:full:channel:f16:trained:least_squares";
    let blocks = job(kinds::BLOCK_AP, scheme, plan(1));
    assert_eq!(refused(&blocks), "backend = ndarray: jobs of the kind block_ap are made on native alone");
    let integer = job(kinds::QAT, scheme, plan(1)).on(Backend::Integer);
    assert_eq!(refused(&integer), "backend = integer: this program makes no such job");
    // States in int8 of another optimizer are none there either.
    let int8 = TrainingPlan { states: States::Int8, ..plan(1) };
    assert!(refused(&job(kinds::QAT, scheme, int8)).contains("optimizer lion"));
}
