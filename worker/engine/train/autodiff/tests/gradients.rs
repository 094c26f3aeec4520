//! Gradients of the backward pass against those of Burn's autodiff, of networks drawn at random. Two forward passes are
//! differentiated: the plain one of this package, and that by which graphics cards train.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use qslm_common::backend::Backend;
use qslm_engine::autodiff::{Found, Graph};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_train::network::{Objective, Window, Workspace};
use qslm_train::tensors::Tensors;
use qslm_train::weights::Weights;
use qslm_train_autodiff::{Backward, Network, Parameter};
use safetensors::tensor::{Dtype, TensorView};

const VOCABULARY: usize = 24;
const CHANNELS: usize = 16;
const TIME: usize = 14;
/// Relative error of a gradient that is allowed: of its largest number, and of its norm.
const TOLERANCE: f64 = 1e-4;
/// A potential nearer to the threshold than this may fire in one of two sums of other order.
const MARGIN: f32 = 1e-4;
/// Networks that are compared of each form.
const NETWORKS: usize = 6;

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (TAU * self.uniform()).cos()
    }

    /// Normal numbers around a mean, `[rows, columns]`.
    fn matrix(&mut self, rows: usize, columns: usize, mean: f64, deviation: f64) -> Parameter {
        let numbers = (0..rows * columns).map(|_| (mean + deviation * self.normal()) as f32).collect();
        (numbers, [rows, columns])
    }

    /// Parameters of a network that spikes a good deal.
    fn network(&mut self, blocks: usize) -> BTreeMap<String, Parameter> {
        let (v, d, root) = (VOCABULARY, CHANNELS, (CHANNELS as f64).sqrt());
        let mut all = BTreeMap::new();
        all.insert("emb.weight".to_owned(), self.matrix(v, d, 0.0, 1.0));
        all.insert("head.weight".to_owned(), self.matrix(v, d, 0.0, 1.0 / root));
        let mut norms = vec!["blocks.0.ln0".to_owned(), "ln_out".to_owned()];
        norms.extend((0..blocks).flat_map(|i| [1, 2].map(|n| format!("blocks.{i}.ln{n}"))));
        for name in norms {
            all.insert(format!("{name}.weight"), self.matrix(1, d, 1.0, 0.1));
            all.insert(format!("{name}.bias"), self.matrix(1, d, 0.0, 0.1));
        }
        for i in 0..blocks {
            let (att, ffn) = (format!("blocks.{i}.att"), format!("blocks.{i}.ffn"));
            all.insert(format!("{att}.time_decay"), self.matrix(1, d, -1.5, 1.5));
            all.insert(format!("{att}.time_first"), self.matrix(1, d, 0.0, 0.5));
            for name in ["k", "v", "r"].map(|m| format!("{att}.time_mix_{m}")) {
                all.insert(name, self.matrix(1, d, 0.5, 0.3));
            }
            for name in ["k", "r"].map(|m| format!("{ffn}.time_mix_{m}")) {
                all.insert(name, self.matrix(1, d, 0.5, 0.3));
            }
            for name in ["key", "value", "receptance", "output"] {
                all.insert(format!("{att}.{name}.weight"), self.matrix(d, d, 0.0, 2.5 / root));
            }
            all.insert(format!("{ffn}.key.weight"), self.matrix(4 * d, d, 0.0, 1.3 / root));
            all.insert(format!("{ffn}.value.weight"), self.matrix(d, 4 * d, 0.0, 1.5 / root));
            all.insert(format!("{ffn}.receptance.weight"), self.matrix(d, d, 0.0, 1.0 / root));
        }
        all
    }

    fn tokens(&mut self) -> Vec<u32> {
        (0..=TIME).map(|_| (self.uniform() * VOCABULARY as f64) as u32).collect()
    }
}

/// The network as the engine reads it, through a file as any other.
fn checkpoint(parameters: &BTreeMap<String, Parameter>, binary_embedding: bool) -> Checkpoint {
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let of_file: Vec<_> = parameters
        .iter()
        .map(|(name, (numbers, shape))| {
            let shape = match name {
                _ if name.contains("time_mix") => vec![1, 1, shape[1]],
                _ if shape[0] == 1 => vec![shape[1]],
                _ => shape.to_vec(),
            };
            (name, shape, bytes(numbers))
        })
        .collect();
    let views = of_file
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Checkpoint::load(&path, binary_embedding).unwrap()
}

/// Loss and gradients of one window by the backward pass.
fn ours(checkpoint: &Checkpoint, tokens: &[u32], reset: Reset) -> (f64, Tensors) {
    let parameters = Tensors::of_checkpoint(checkpoint);
    let mut weights = Weights::new(checkpoint.network());
    weights.load(&parameters, &mut [Vec::new()]);
    let mut gradients = Tensors::zeros_like(&parameters);
    let mut workspace = Workspace::new(checkpoint.network(), reset, 1);
    let batch = [Window::of(tokens)];
    let loss = workspace.backward(&weights, &batch, Objective::CrossEntropy, &mut gradients);
    (loss.objective, gradients)
}

/// What graphics cards train by, on a processor.
fn by_graph(checkpoint: &Checkpoint, tokens: &[u32], reset: Reset) -> Found {
    let mut graph = Graph::new(Backend::Ndarray, checkpoint.network(), reset).unwrap();
    for (name, values) in Tensors::of_checkpoint(checkpoint).iter() {
        graph.put(name, values.to_vec());
    }
    graph.backward(&[(&tokens[..tokens.len() - 1], &tokens[1..])], 0.0)
}

/// Error of `found` against `expected`: of the largest number and of the norm, whichever is worse.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = || found.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let top = pairs().map(|(_, b)| b.abs()).fold(0.0, f64::max);
    let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let norm = pairs().map(|(_, b)| b * b).sum::<f64>().sqrt();
    let apart = pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    (largest / top).max(apart / norm)
}

/// Compares as many networks as are to be, and returns the largest error.
fn compare(blocks: usize, binary_embedding: bool, reset: Reset) -> f64 {
    let (mut draw, mut compared, mut worst) = (Draw(blocks as u64), 0, 0.0f64);
    while compared < NETWORKS {
        let (parameters, tokens) = (draw.network(blocks), draw.tokens());
        let burn = Network::new(&parameters, blocks, binary_embedding, reset == Reset::Detached);
        let Backward { loss: expected, gradients, margin } = burn.cross_entropy(&tokens);
        if margin < MARGIN {
            continue;
        }
        compared += 1;
        let checkpoint = checkpoint(&parameters, binary_embedding);
        let on_card = by_graph(&checkpoint, &tokens, reset);
        assert!((on_card.cross_entropy / (tokens.len() - 1) as f64 - expected).abs() < 1e-5 * expected);
        assert_eq!(gradients.len(), on_card.gradients.len());
        for (name, expected) in &gradients {
            let error = error(&on_card.gradients[name], expected);
            assert!(error < TOLERANCE, "{name}, as graphics cards find it: {error:.1e}");
        }
        let (loss, found) = ours(&checkpoint, &tokens, reset);
        assert!((loss - expected).abs() < 1e-5 * expected, "loss {loss}, by Burn {expected}");
        for name in parameters.keys() {
            match gradients.get(name) {
                Some(expected) => {
                    let error = error(found.get(name), expected);
                    assert!(error < TOLERANCE, "{name}: {error:.1e}");
                    worst = worst.max(error);
                }
                None => assert!(binary_embedding && name == "emb.weight", "{name} has no gradient"),
            }
        }
    }
    worst
}

#[test]
fn gradients_are_those_of_burns_autodiff() {
    for blocks in [1, 2, 3] {
        for (binary, reset) in [(true, Reset::Attached), (true, Reset::Detached), (false, Reset::Attached)] {
            let worst = compare(blocks, binary, reset);
            println!(
                "{blocks} blocks, binary embedding {binary}, {reset:?}: largest relative error {worst:.1e}"
            );
        }
    }
}

#[test]
fn keys_whose_powers_are_beyond_all_floats_have_gradients_on_graphics_cards_too() {
    for seed in 0..4 {
        let mut draw = Draw(100 + seed);
        let (mut parameters, tokens) = (draw.network(1), draw.tokens());
        let (keys, _) = parameters.get_mut("blocks.0.att.key.weight").unwrap();
        keys.iter_mut().for_each(|w| *w *= 40.0);
        let plain = Network::new(&parameters, 1, true, false).cross_entropy(&tokens);
        assert!(!plain.loss.is_finite(), "e^100 is none");
        let checkpoint = checkpoint(&parameters, true);
        let (loss, expected) = ours(&checkpoint, &tokens, Reset::Attached);
        let found = by_graph(&checkpoint, &tokens, Reset::Attached);
        assert!((found.cross_entropy / (tokens.len() - 1) as f64 - loss).abs() < 1e-5 * loss);
        for (name, found) in &found.gradients {
            let expected = expected.get(name);
            if expected.iter().any(|d| d.abs() > 1e-6) {
                // Powers of such numbers keep fewer digits.
                let error = error(found, expected);
                assert!(error < 10.0 * TOLERANCE, "{name}: {error:.1e}");
            }
        }
    }
}

#[test]
fn a_wrong_gradient_is_told_apart() {
    let mut draw = Draw(1);
    let (parameters, tokens) = (draw.network(2), draw.tokens());
    let attached = Network::new(&parameters, 2, true, false).cross_entropy(&tokens);
    let (_, detached) = ours(&checkpoint(&parameters, true), &tokens, Reset::Detached);
    let name = "blocks.0.att.key.weight";
    assert!(error(detached.get(name), &attached.gradients[name]) > 100.0 * TOLERANCE);
}
