//! Gradients against PyTorch's in float64 (`golden.py`, which wrote the fixture).
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::path::Path;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::Network;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::model::SpikeGpt;
use qslm_train::network::{BatchLoss, Objective, Window, Workspace};
use qslm_train::tensors::Tensors;
use qslm_train::weights::Weights;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
/// Relative error of a gradient that is allowed: of its largest number, and of its norm.
const TOLERANCE: f64 = 1e-4;

/// The fixture: tensors by name.
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Self {
        Self(std::fs::read(Path::new(TESTS).join("golden.safetensors")).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.file().tensor(name).unwrap().data().to_vec();
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn doubles(&self, name: &str) -> Vec<f64> {
        let bytes = self.file().tensor(name).unwrap().data().to_vec();
        bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// Rows of tokens.
    fn tokens(&self) -> Vec<Vec<u32>> {
        rows_of_tokens(&self.file(), "tokens")
    }

    /// The tensors whose names begin so, without that.
    fn group(&self, prefix: &str) -> Tensors {
        let names = self.file().names().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let of_group = names.iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        of_group.map(|(name, short)| (short.to_owned(), self.floats(name))).collect()
    }

    /// A network of a group of weights, through a file as any other.
    fn checkpoint(&self, group: &str, binary_embedding: bool) -> Checkpoint {
        let file = self.file();
        let views: BTreeMap<String, TensorView<'_>> = file
            .tensors()
            .into_iter()
            .filter_map(|(name, view)| Some((name.strip_prefix(group)?.to_owned(), view)))
            .collect();
        assert!(views.values().all(|view| view.dtype() == Dtype::F32));
        let name = format!("qslm-train-golden-{}-{group}{binary_embedding}", std::process::id());
        let path = std::env::temp_dir().join(name);
        serialize_to_file(views, None, &path).unwrap();
        let checkpoint = Checkpoint::load(&path, binary_embedding).unwrap();
        std::fs::remove_file(path).unwrap();
        checkpoint
    }
}

fn rows_of_tokens(file: &SafeTensors<'_>, name: &str) -> Vec<Vec<u32>> {
    let tensor = file.tensor(name).unwrap();
    let ids: Vec<u32> = tensor.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as u32).collect();
    ids.chunks(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
}

fn backward(
    checkpoint: &Checkpoint,
    tokens: &[Vec<u32>],
    objective: Objective<'_>,
    reset: Reset,
    threads: usize,
) -> (BatchLoss, Tensors) {
    let (network, parameters) = (checkpoint.network(), Tensors::of_checkpoint(checkpoint));
    let mut weights = Weights::new(network);
    weights.load(&parameters, &mut vec![Vec::new(); threads]);
    let batch: Vec<Window<'_>> = tokens.iter().map(|row| Window::of(row)).collect();
    let mut gradients = Tensors::zeros_like(&parameters);
    let loss = Workspace::new(network, reset, threads).backward(&weights, &batch, objective, &mut gradients);
    (loss, gradients)
}

fn float_model(checkpoint: &Checkpoint) -> SpikeGpt {
    SpikeGpt::new(checkpoint, &Candidate::float(checkpoint.network()), Backend::Native).unwrap()
}

/// The largest relative error among gradients, and whose it is.
fn worst(found: &Tensors, expected: &Tensors) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for (name, expected) in expected.iter() {
        let found = found.get(name);
        assert_eq!(found.len(), expected.len(), "{name}");
        let difference = |(a, b): (&f32, &f32)| f64::from(*a) - f64::from(*b);
        let pairs = || found.iter().zip(expected);
        let largest = pairs().map(|pair| difference(pair).abs()).fold(0.0, f64::max);
        let top = expected.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
        let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
        let apart = norm(&mut pairs().map(difference)) / norm(&mut expected.iter().map(|x| f64::from(*x)));
        assert!(top > 0.0, "{name}: PyTorch finds no gradient at all");
        let error = apart.max(largest / top);
        if error > worst.0 {
            worst = (error, name.to_owned());
        }
    }
    worst
}

/// Every parameter of a network but a binary embedding has a gradient to compare with.
fn assert_complete(expected: &Tensors, network: &Network) {
    let count = network.units().len() + network.vectors().len();
    assert_eq!(expected.iter().count(), count - usize::from(network.binary_embedding));
}

#[test]
fn gradients_of_a_small_network_are_pytorchs() {
    let golden = Golden::read();
    let losses = golden.doubles("losses");
    let teacher = float_model(&golden.checkpoint("teacher.", true));
    let cases = [
        ("ce.", true, Reset::Attached, Objective::CrossEntropy),
        ("detached.", true, Reset::Detached, Objective::CrossEntropy),
        ("real.", false, Reset::Attached, Objective::CrossEntropy),
        ("kl.", true, Reset::Attached, Objective::Distillation { teacher: &teacher, share: 1.0 }),
    ];
    for ((case, binary, reset, objective), expected_loss) in cases.into_iter().zip(losses) {
        let checkpoint = golden.checkpoint("weights.", binary);
        let expected = golden.group(case);
        assert_complete(&expected, checkpoint.network());
        let (loss, gradients) = backward(&checkpoint, &golden.tokens(), objective, reset, 2);
        let (error, name) = worst(&gradients, &expected);
        println!(
            "{case} loss {} ({expected_loss}), largest relative error {error:.1e} in {name}",
            loss.objective
        );
        assert!((loss.objective - expected_loss).abs() < 1e-5 * expected_loss, "{case}: {loss:?}");
        assert!(error < TOLERANCE, "{case}: {error:.1e} in {name}");
    }
}

fn tiny() -> (Checkpoint, Vec<Vec<u32>>) {
    let folder = Path::new(TESTS).join("../../tests/data/tiny");
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tokens = rows_of_tokens(&SafeTensors::deserialize(&bytes).unwrap(), "tokens");
    (Checkpoint::load(&folder.join("model.pth"), true).unwrap(), tokens)
}

/// A network that was trained, and some tokens.
fn trained() -> (Checkpoint, Vec<Vec<u32>>) {
    let path = Path::new(TESTS).join("../../../../experiments/models/wikitext2-xs.safetensors");
    let checkpoint = Checkpoint::load(&path, true).unwrap();
    let token = |row: usize, i: usize| ((row * 7919 + i * i * 31 + i * 97) % 2048) as u32;
    (checkpoint, (0..5).map(|row| (0..30 + 20 * row).map(|i| token(row, i)).collect()).collect())
}

#[test]
fn gradients_of_the_tiny_network_are_pytorchs() {
    let (golden, (checkpoint, tokens)) = (Golden::read(), tiny());
    let (loss, gradients) = backward(&checkpoint, &tokens, Objective::CrossEntropy, Reset::Attached, 2);
    let expected_loss = golden.doubles("tiny.loss")[0];
    assert!((loss.cross_entropy - expected_loss).abs() < 1e-5 * expected_loss, "{loss:?}");
    let network = checkpoint.network();
    let mut largest = 0.0f64;
    for (name, gradient) in gradients.iter().filter(|(name, _)| *name != "emb.weight") {
        let columns = golden.floats(&format!("tiny.{name}.columns"));
        let rows = gradient.chunks(columns.len());
        let sum = |numbers: &mut dyn Iterator<Item = &f32>| numbers.map(|x| f64::from(*x)).sum::<f64>();
        let of_rows: Vec<f64> = rows.clone().map(|row| sum(&mut row.iter())).collect();
        let of_columns: Vec<f64> =
            (0..columns.len()).map(|c| sum(&mut gradient.iter().skip(c).step_by(columns.len()))).collect();
        let norm = gradient.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let expected_norm = f64::from(golden.floats(&format!("tiny.{name}.norm"))[0]);
        largest = largest.max((norm / expected_norm - 1.0).abs());
        // A sum of numbers of either sign is as exact as their norm is.
        let pairs = of_rows.iter().zip(golden.floats(&format!("tiny.{name}.rows")));
        for (found, expected) in pairs.chain(of_columns.iter().zip(columns)) {
            largest = largest.max((found - f64::from(expected)).abs() / expected_norm);
        }
        assert!(largest < TOLERANCE, "{name}: {largest:.1e}");
    }
    println!("tiny: loss {} ({expected_loss}), largest relative error {largest:.1e}", loss.cross_entropy);
    assert_eq!(gradients.iter().count(), network.units().len() + network.vectors().len());
    assert!(gradients.get("emb.weight").iter().all(|d| *d == 0.0), "a binary embedding has no gradient");
}

#[test]
fn what_trains_computes_the_bits_of_what_is_deployed() {
    for (checkpoint, tokens) in [tiny(), trained()] {
        let (network, model) = (checkpoint.network(), float_model(&checkpoint));
        let mut weights = Weights::new(network);
        let parameters = Tensors::of_checkpoint(&checkpoint);
        weights.load(&parameters, &mut [Vec::new()]);
        let batch: Vec<Window<'_>> = tokens.iter().map(|row| Window::of(row)).collect();
        let mut gradients = Tensors::zeros_like(&parameters);
        let mut workspace = Workspace::new(network, Reset::Attached, 2);
        let loss = workspace.backward(&weights, &batch, Objective::CrossEntropy, &mut gradients);
        let (mut features, mut losses) = (Vec::new(), Vec::new());
        for window in &batch {
            let mut spikes = vec![0; network.population_count()];
            let of_window = model.features(window.tokens, &mut model.start(), &mut spikes);
            losses.extend(model.losses(of_window.clone(), window.targets));
            features.extend(of_window);
            assert!(spikes.iter().all(|count| *count > 0), "{spikes:?}");
        }
        assert_eq!(workspace.features(), features);
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        assert!((loss.cross_entropy - mean).abs() < 1e-7, "{} {mean}", loss.cross_entropy);
    }
}

#[test]
fn threads_change_no_bit() {
    let (checkpoint, tokens) = trained();
    let teacher = float_model(&checkpoint);
    for objective in [Objective::CrossEntropy, Objective::Distillation { teacher: &teacher, share: 0.25 }] {
        let run = |threads| backward(&checkpoint, &tokens, objective, Reset::Attached, threads);
        let one = run(1);
        for threads in [2, 3, 8] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
    }
}
