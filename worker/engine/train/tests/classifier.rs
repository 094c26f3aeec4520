//! Training of a classifier: its loss is the engine's, its gradient that of double precision, and a job repeats itself.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use qslm_common::backend::Backend;
use qslm_common::candidate::{Candidate, VECTORS};
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::network::HEAD;
use qslm_common::recovery::{Parameters, TrainingPlan, kinds};
use qslm_common::scheme::Scheme;
use qslm_common::task::Task;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::checkpoint::calibrated::CodesFile;
use qslm_engine::jobs::{Inputs, JobError, Watch};
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_engine::task::{Dataset, evaluate};
use qslm_train::distil::{CannotDistil, Plan, Trained, distil};
use qslm_train::jobs::make;
use qslm_train::lessons::{Lessons, NoLessons};
use qslm_train::network::{BatchLoss, Objective, Window, Workspace};
use qslm_train::optimizer::{Adam, Method};
use qslm_train::schedule::Schedule;
use qslm_train::states::States;
use qslm_train::step::Settings;
use qslm_train::tensors::Tensors;
use qslm_train::weights::Weights;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../experiments");

fn inputs() -> Inputs {
    let file = |name: &str, path: &str| (name.to_owned(), Path::new(FILES).join(path));
    let files: BTreeMap<String, PathBuf> = [
        file("checkpoint", "models/sst2-xs.safetensors"),
        file("tokenizer", "models/tokenizer.json"),
        file("text", "data/sentences.tsv"),
    ]
    .into();
    Inputs::new(files)
}

fn sentences(checkpoint: &Checkpoint) -> Arc<Dataset> {
    inputs().data(&Task::Accuracy { sentences: None }, checkpoint.network()).unwrap()
}

fn student(checkpoint: &Checkpoint, scheme: &str) -> Candidate {
    let scheme: Scheme = scheme.parse().unwrap();
    Candidate::new(checkpoint.network(), |unit| if unit.is_linear() { scheme } else { Scheme::Sign })
        .with_vectors(Scheme::Half)
}

/// Loss and gradients of the float network, and the features of all tokens.
fn backward(
    parameters: &Tensors,
    checkpoint: &Checkpoint,
    batch: &[Window<'_>],
    objective: Objective<'_>,
    threads: usize,
) -> (BatchLoss, Tensors, Vec<f32>) {
    let mut weights = Weights::new(checkpoint.network());
    weights.load(parameters, &mut [Vec::new()]);
    let mut gradients = Tensors::zeros_like(parameters);
    let mut workspace = Workspace::new(checkpoint.network(), Reset::Attached, threads);
    let loss = workspace.backward(&weights, batch, objective, &mut gradients);
    (loss, gradients, workspace.features().to_vec())
}

/// Sentences of as different lengths as there are, one of a single token among them.
fn batch(data: &Dataset) -> Vec<(Vec<u32>, u32)> {
    let mut all: Vec<_> = data.sentences().map(|(tokens, class)| (tokens.to_vec(), class)).collect();
    all.sort_by_key(|(tokens, _)| tokens.len());
    let (step, mut picked) = (all.len() / 6, Vec::new());
    picked.extend(all.iter().step_by(step).cloned());
    picked.push((vec![17], 1));
    picked
}

fn windows(batch: &[(Vec<u32>, u32)]) -> Vec<Window<'_>> {
    batch.iter().map(|(tokens, class)| Window::sentence(tokens, class)).collect()
}

#[test]
fn the_loss_of_a_batch_is_the_engines_over_its_sentences() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let data = sentences(&checkpoint);
    let all: Vec<_> = data.sentences().map(|(tokens, class)| (tokens.to_vec(), class)).collect();
    let parameters = Tensors::of_checkpoint(&checkpoint);
    let (loss, _, _) = backward(&parameters, &checkpoint, &windows(&all), Objective::CrossEntropy, 2);
    let float = Candidate::float(checkpoint.network());
    let model = SpikeGpt::new(&checkpoint, &float, Backend::Native).unwrap();
    let counts = evaluate(&model, &data, 0..data.len(), &|| false).unwrap();
    assert_eq!(counts.sentences as usize, all.len());
    // Counts are rounded to 2^-24 of a nat for each sentence.
    let expected = counts.nll.nats() / all.len() as f64;
    assert!((loss.cross_entropy - expected).abs() < 1e-6, "{} {expected}", loss.cross_entropy);
    assert_eq!(loss.objective, loss.cross_entropy);
    let itself = Objective::Distillation { teacher: &model, share: 1.0 };
    let (loss, gradients, _) = backward(&parameters, &checkpoint, &windows(&all), itself, 2);
    assert!(loss.divergence.abs() < 1e-7, "{loss:?}");
    assert!(gradients.iter().all(|(_, values)| values.iter().all(|d| d.abs() < 1e-5)));
}

/// `[rows, columns]` times a column, in double precision.
fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x.exp() / sum).collect()
}

/// The mean of each sentence's features, in double precision.
fn means(features: &[f32], batch: &[Window<'_>], channels: usize) -> Vec<Vec<f64>> {
    let mut rows = features.chunks_exact(channels);
    let mean = |window: &Window<'_>| {
        let mut mean = vec![0.0; channels];
        for row in rows.by_ref().take(window.tokens.len()) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        mean.into_iter().map(|sum| sum / window.tokens.len() as f64).collect()
    };
    batch.iter().map(mean).collect()
}

#[test]
fn gradients_of_head_and_last_norm_are_those_of_double_precision() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let channels = checkpoint.network().channels as usize;
    let sentences = batch(&sentences(&checkpoint));
    let batch = windows(&sentences);
    let parameters = Tensors::of_checkpoint(&checkpoint);
    // A teacher that is not the student: each of its rows somewhere else.
    let mut other = (*checkpoint).clone();
    let head = parameters.get(HEAD).to_vec();
    let moved = head.iter().enumerate().map(|(i, w)| w * 0.7 + (i as f32 * 0.37).sin() * 0.3).collect();
    other.replace(HEAD, moved);
    let teacher_head = doubles(&other.tensor(HEAD));
    let float = Candidate::float(checkpoint.network());
    let teacher = SpikeGpt::new(&other, &float, Backend::Native).unwrap();
    let head = doubles(&head);
    for share in [0.0f32, 0.25, 1.0] {
        let objective = Objective::Distillation { teacher: &teacher, share };
        let (loss, gradients, features) = backward(&parameters, &checkpoint, &batch, objective, 2);
        let share = f64::from(share);
        let scale = 1.0 / batch.len() as f64;
        let (mut cross_entropy, mut divergence) = (0.0, 0.0);
        let (mut d_head, mut d_bias) = (vec![0.0; head.len()], vec![0.0; channels]);
        for (mean, (_, class)) in means(&features, &batch, channels).iter().zip(&sentences) {
            let p = softmax(&product(&head, mean));
            let t = softmax(&product(&teacher_head, mean));
            cross_entropy -= scale * p[*class as usize].ln();
            divergence += scale * t.iter().zip(&p).map(|(t, p)| t * (t.ln() - p.ln())).sum::<f64>();
            for (output, (p, t)) in p.iter().zip(&t).enumerate() {
                let hit = if output == *class as usize { 1.0 - share } else { 0.0 };
                let d = scale * (p - hit - share * t);
                for channel in 0..channels {
                    let at = output * channels + channel;
                    d_head[at] += d * mean[channel];
                    // Shared out among the tokens of the sentence, each of which adds its part.
                    d_bias[channel] += d * head[at];
                }
            }
        }
        assert!((loss.cross_entropy - cross_entropy).abs() < 1e-6, "{loss:?} {cross_entropy}");
        assert!((loss.divergence - divergence).abs() < 1e-6, "{loss:?} {divergence}");
        let objective = (1.0 - share) * cross_entropy + share * divergence;
        assert!((loss.objective - objective).abs() < 1e-6);
        for (name, expected) in [(HEAD, &d_head), ("ln_out.bias", &d_bias)] {
            let largest = expected.iter().fold(0.0f64, |top, d| top.max(d.abs()));
            for (found, expected) in gradients.get(name).iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-5 * largest, "share {share}, {name}: {found} {expected}");
            }
        }
    }
}

#[test]
fn gradients_behind_no_spike_are_differences_of_the_loss() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let sentences = batch(&sentences(&checkpoint));
    let batch = windows(&sentences);
    let parameters = Tensors::of_checkpoint(&checkpoint);
    let of = |parameters: &Tensors| backward(parameters, &checkpoint, &batch, Objective::CrossEntropy, 1);
    let (_, gradients, _) = of(&parameters);
    for name in [HEAD, "ln_out.weight", "ln_out.bias"] {
        let gradient = gradients.get(name);
        let mut places: Vec<usize> = (0..gradient.len()).collect();
        places.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
        for place in places.into_iter().take(6) {
            let loss = |by: f32| {
                let mut moved = parameters.clone();
                moved.get_mut(name)[place] += by;
                of(&moved).0.objective
            };
            let difference = (loss(0.02) - loss(-0.02)) / 0.04;
            let error = (difference / f64::from(gradient[place]) - 1.0).abs();
            assert!(error < 5e-3, "{name} {place}: {difference} {}", gradient[place]);
        }
    }
}

fn settings(steps: u32, threads: usize) -> Settings {
    Settings {
        states: States::Float,
        method: Method::Adam(Adam::default()),
        schedule: Schedule { steps, warm_up: 2, floor: 0.1 },
        rate: 1e-3,
        vector_rate: 1e-3,
        scale_rate: 1e-2,
        zero_point_rate: 0.0,
        weight_decay: 0.0,
        bit_cost: 0.0,
        clip: 1.0,
        reset: Reset::Attached,
        threads,
    }
}

fn run(scheme: &str, threads: usize) -> (Trained, Vec<f64>) {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let data = sentences(&checkpoint);
    let plan = Plan { settings: settings(24, threads), share: 0.25, window: 1, batch: 16, seed: 5 };
    let mut losses = Vec::new();
    let watch = |_, loss: BatchLoss| losses.push(loss.objective);
    let candidate = student(&checkpoint, scheme);
    (distil(&checkpoint, &candidate, Lessons::of(&data), &plan, watch).unwrap(), losses)
}

#[test]
fn training_lowers_the_loss_and_threads_change_no_bit_of_it() {
    for scheme in ["int2:ternary:channel:f16", "ec:0.90:tensor:f16", "f32"] {
        let one = run(scheme, 1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&one.1[..4]), mean(&one.1[20..]));
        assert!(last < 0.9 * first, "{scheme}: {:?}", one.1);
        for threads in [2, 3] {
            assert_eq!(run(scheme, threads), one, "{scheme}, {threads} threads");
        }
    }
}

#[test]
fn what_a_network_cannot_learn_from_is_refused_in_words() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let plan = plan(1);
    let text = Lessons::Text(&[1, 2, 3]);
    let of_run = Plan { settings: settings(1, 1), share: 0.0, window: 1, batch: 1, seed: plan.seed };
    let refused = distil(&checkpoint, &student(&checkpoint, "f32"), text, &of_run, |_, _| {}).unwrap_err();
    assert!(matches!(refused, CannotDistil::Lessons(NoLessons::NoSentences)), "{refused}");
    // A job says where the line is that has no label.
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "fine\t1\nno label\n").unwrap();
    let file = |name: &str, path: &str| (name.to_owned(), Path::new(FILES).join(path));
    let files = [
        file("checkpoint", "models/sst2-xs.safetensors"),
        file("tokenizer", "models/tokenizer.json"),
        ("text".to_owned(), text),
    ];
    let job = job(&student(&checkpoint, "int2:full:channel:f16:trained"), plan);
    let refused = make(&job, &Inputs::new(files.into()), &(), &mut Vec::new()).unwrap_err();
    assert_eq!(refused.to_string(), "text: line 2 has no TAB: expected `sentence TAB label`");
}

fn plan(steps: u32) -> TrainingPlan {
    TrainingPlan { window: 1, batch: 8, steps, distillation: 0.5, seed: 3, ..TrainingPlan::default() }
}

fn job(candidate: &Candidate, plan: TrainingPlan) -> Job {
    let parameters = Parameters { member: true.into(), candidate: candidate.encode(), plan, module: None };
    Job::new(kinds::QAT, 1 << 24).parameters(&parameters)
}

/// Stops a job after so many steps, and keeps a checkpoint of every one.
#[derive(Default)]
struct Stopping {
    after: u64,
    done: Mutex<u64>,
    saved: Mutex<Option<Vec<u8>>>,
    left: Option<Vec<u8>>,
}

impl Watch for Stopping {
    fn is_interrupted(&self) -> bool {
        *self.done.lock().unwrap() >= self.after
    }

    fn progress(&self, done: u64, _: u64) {
        *self.done.lock().unwrap() = done;
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.left.as_deref()
    }

    fn is_checkpoint_due(&self) -> bool {
        true
    }

    fn save_checkpoint(&self, checkpoint: Vec<u8>) {
        *self.saved.lock().unwrap() = Some(checkpoint);
    }
}

fn made(job: &Job, watch: &dyn Watch) -> Result<Vec<u8>, JobError> {
    let mut artifact = Vec::new();
    make(job, &inputs(), watch, &mut artifact).map(|()| artifact)
}

#[test]
fn an_interrupted_job_goes_on_to_the_same_bytes_and_a_candidate_takes_them() {
    let checkpoint = inputs().checkpoint(true).unwrap();
    let student = student(&checkpoint, "int2:ternary:channel:f16:trained:least_squares");
    let job = job(&student, TrainingPlan { rate: 2e-3, ..plan(40) });
    let undisturbed = made(&job, &()).unwrap();
    let first = Stopping { after: 15, ..Stopping::default() };
    assert!(matches!(made(&job, &first), Err(JobError::Interrupted)));
    let left = first.saved.into_inner().unwrap();
    assert!(left.as_ref().is_some_and(|saved| saved.len() as u64 <= job.largest_checkpoint()));
    let second = Stopping { after: u64::MAX, left, ..Stopping::default() };
    assert_eq!(made(&job, &second).unwrap(), undisturbed);

    let hash = ContentHash::of(&undisturbed);
    let codes = BTreeMap::from([(hash, Arc::new(CodesFile::of(undisturbed).unwrap()))]);
    let linears: Vec<String> = checkpoint
        .network()
        .units()
        .into_iter()
        .filter(qslm_common::network::Unit::is_linear)
        .map(|unit| unit.name)
        .collect();
    let names = linears.iter().map(String::as_str).chain([VECTORS]);
    let trained = student.clone().with_codes(names, Some(hash));
    let data = sentences(&checkpoint);
    let counts = |model: &SpikeGpt| evaluate(model, &data, 0..data.len(), &|| false).unwrap();
    let after = counts(&SpikeGpt::with_codes(&checkpoint, &trained, &codes, Backend::Native).unwrap());
    // On the sentences that it learned from it is better than what it began with.
    let untrained = linears.iter().fold(student, |candidate, unit| {
        let scheme = candidate.scheme(unit).uncalibrated();
        candidate.with([unit.as_str()], scheme)
    });
    let before = counts(&SpikeGpt::new(&checkpoint, &untrained, Backend::Native).unwrap());
    assert!(after.nll.nats() < 0.9 * before.nll.nats(), "{before:?} {after:?}");
}
