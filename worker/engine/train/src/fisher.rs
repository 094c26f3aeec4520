//! Fisher information of weights: how much the loss grows with the square of what a weight is off by.
//!
//! Its diagonal is the mean square of the gradients of `ln p(token)` over the tokens that the network itself draws, and to second
//! order weights that are off by `e` cost `sum F e^2 / 2` nats per prediction. Gradients of the predictions of a window have no
//! mean and no correlation when tokens are drawn so, which is why the square of their sum stands for the sum of their squares,
//! and one backward pass per window is enough.
//!
//! Source: Kunstner et al., "Limitations of the empirical Fisher approximation" (arXiv 1905.12558), on drawing labels.

use qslm_common::network::Network;
use qslm_engine::kernels::gradient::lif::Reset;

use crate::draw::Generator;
use crate::gradients::Gradients;
use crate::network::{Objective, Window, Workspace};
use crate::tensors::Tensors;
use crate::weights::Weights;

/// Fisher information of the parameters of a network, a sequence at a time.
#[derive(Debug)]
pub struct Fisher {
    weights: Weights,
    workspace: Workspace,
    is_classifier: bool,
    draws: Generator,
    squares: Squares,
    /// Tokens or sentences that were predicted.
    predictions: u64,
}

impl Fisher {
    /// Nothing yet. `seed` says what the network draws.
    pub fn new(network: &Network, parameters: &Tensors, seed: u64, threads: usize) -> Self {
        let mut weights = Weights::new(network);
        weights.load(parameters, &mut vec![Vec::new(); threads.max(1)]);
        Self {
            weights,
            workspace: Workspace::new(network, Reset::Attached, threads),
            is_classifier: network.is_classifier(),
            draws: Generator::new(seed),
            squares: Squares::new(parameters),
            predictions: 0,
        }
    }

    /// Adds a sequence, of whose tokens each predicts the next, or all together a class.
    ///
    /// # Panics
    /// If it has no tokens, or one that is not below the vocabulary.
    pub fn add(&mut self, tokens: &[u32]) {
        let predictions = if self.is_classifier { 1 } else { tokens.len() };
        let draws: Vec<u32> = (0..predictions).map(|_| (self.draws.next() >> 32) as u32).collect();
        let window = Window { tokens, targets: &draws };
        // Gradients are of a mean; those of the sum, whose square counts, are as many times as large.
        self.squares.scale = (predictions * predictions) as f32;
        self.workspace.backward(&self.weights, &[window], Objective::Sampled, &mut self.squares);
        self.squares.complete_vectors();
        self.predictions += predictions as u64;
    }

    /// The diagonal of the Fisher information per prediction, of every parameter.
    pub fn finish(self) -> Tensors {
        let Squares { mut sums, .. } = self.squares;
        let share = 1.0 / self.predictions.max(1) as f32;
        sums.iter_mut().for_each(|(_, sums)| sums.iter_mut().for_each(|sum| *sum *= share));
        sums
    }
}

/// Loss in nats per prediction, to second order, if weights are off by `errors`.
///
/// # Panics
/// If there are not as many errors as weights.
pub fn loss(fisher: &[f32], errors: &[f32]) -> f64 {
    assert_eq!(fisher.len(), errors.len());
    let each = fisher.iter().zip(errors).map(|(fisher, error)| {
        let error = f64::from(*error);
        f64::from(*fisher) * error * error
    });
    each.sum::<f64>() / 2.0
}

/// Sums of the squares of gradients, which are there for a few matrices at a time.
#[derive(Debug)]
struct Squares {
    sums: Tensors,
    /// Gradients of the matrices that room was made for last.
    rooms: Vec<(String, Vec<f32>)>,
    /// Gradients of vectors.
    vectors: Tensors,
    /// Weight of a square.
    scale: f32,
}

impl Squares {
    fn new(parameters: &Tensors) -> Self {
        let sums = Tensors::zeros_like(parameters);
        Self { sums, rooms: Vec::new(), vectors: Tensors::default(), scale: 1.0 }
    }

    fn add(sums: &mut [f32], gradient: &[f32], scale: f32) {
        sums.iter_mut().zip(gradient).for_each(|(sum, d)| *sum += scale * (*d * *d));
    }

    /// Adds the gradients of vectors, too.
    fn complete_vectors(&mut self) {
        for (name, gradient) in self.vectors.iter() {
            Self::add(self.sums.get_mut(name), gradient, self.scale);
        }
    }
}

impl Gradients for Squares {
    fn room(&mut self, matrices: &[(String, usize)]) -> Vec<&mut [f32]> {
        // Buffers stay from matrix to matrix; the first of a block's are the largest.
        self.rooms.resize_with(matrices.len(), Default::default);
        for ((name, buffer), (matrix, size)) in self.rooms.iter_mut().zip(matrices) {
            name.clone_from(matrix);
            buffer.resize(*size, 0.0);
        }
        self.rooms.iter_mut().map(|(_, buffer)| buffer.as_mut_slice()).collect()
    }

    fn complete(&mut self) {
        for (name, gradient) in &self.rooms {
            Self::add(self.sums.get_mut(name), gradient, self.scale);
        }
    }

    fn none(&mut self, _matrix: &str) {}

    fn vector(&mut self, name: &str) -> &mut [f32] {
        if self.vectors.find(name).is_none() {
            self.vectors.insert(name, vec![0.0; self.sums.get(name).len()]);
        }
        self.vectors.get_mut(name)
    }
}
