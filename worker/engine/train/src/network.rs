//! The backward pass of a batch: loss and gradients of every parameter.
//!
//! Windows run side by side, each on one thread. The gradient of a matrix is summed over the tokens of all windows in one
//! chain per number, shared out among threads by rows of the matrix; gradients of vectors are summed per window, then added
//! in the order of the windows. So neither the number of threads nor their timing changes a bit.

pub mod module;

use qslm_common::network::{EMBEDDING, HEAD, MATRICES, Network, block_units};
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::kernels::gradient::norm::layer_norm as layer_norm_backward;
use qslm_engine::kernels::norm::layer_norm;
use qslm_engine::kernels::product::Packed;

use crate::block::{BlockTape, Injected, Scratch, Sides, VectorGradients};
use crate::gradients::Gradients;
use crate::head::{Buffers, Positions, add_gradient};
use crate::means::Means;
use crate::parallel::{for_each, split_rows};
use crate::weights::{FIRST_NORM, LAST_NORM, Linear, Weights, norm_names, vector, vector_names};

pub use crate::head::Objective;

/// A run of tokens from a fresh state. Each predicts the next; those of a classifier's sentence predict its class together.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Tokens that enter.
    pub tokens: &'a [u32],
    /// The token after each of them; of a sentence its class alone. Draws in their place for [`Objective::Sampled`].
    pub targets: &'a [u32],
}

impl<'a> Window<'a> {
    /// The window of all but the last of these tokens, which is predicted only.
    ///
    /// # Panics
    /// If there are fewer than two.
    pub fn of(tokens: &'a [u32]) -> Self {
        assert!(tokens.len() >= 2, "{} tokens predict none", tokens.len());
        Self { tokens: &tokens[..tokens.len() - 1], targets: &tokens[1..] }
    }

    /// A sentence of a classifier.
    ///
    /// # Panics
    /// If it has no tokens.
    pub fn sentence(tokens: &'a [u32], class: &'a u32) -> Self {
        assert!(!tokens.is_empty(), "a sentence without tokens");
        Self { tokens, targets: std::slice::from_ref(class) }
    }
}

/// Mean losses of a batch, in nats per prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLoss {
    /// Cross entropy.
    pub cross_entropy: f64,
    /// Divergence from the teacher; 0 without one.
    pub divergence: f64,
    /// What training lowers.
    pub objective: f64,
}

/// What backward passes work on: memory that is kept from batch to batch, and the number of threads.
#[derive(Debug)]
pub struct Workspace {
    network: Network,
    reset: Reset,
    threads: Vec<Scratch>,
    windows: Vec<WindowTape>,
    /// Inputs of the products of a block, and gradients in their outputs, `[tokens, ..]` over the batch.
    sides: [[Vec<f32>; MATRICES.len()]; 2],
    packed: [Packed; MATRICES.len()],
    head: Buffers,
    /// What a classifier's head reads.
    means: Means,
    /// `[tokens, channel]` over the batch: features, and the gradients in them and then in the residual stream.
    features: Vec<f32>,
    teacher: Vec<f32>,
    d: Vec<f32>,
}

/// What a window leaves.
#[derive(Debug, Default)]
struct WindowTape {
    blocks: Vec<BlockTape>,
    /// The rows of the embedding that entered, `[time, channel]`.
    embedded: Vec<f32>,
    /// The residual stream that left the last block so far.
    last: Vec<f32>,
    /// Gradients in vectors: of each block, of the first norm and of the last.
    vectors: Vec<VectorGradients>,
    norms: [[Vec<f32>; 2]; 2],
    /// The float network's residual stream beside it.
    float: Vec<f32>,
    /// Of each block what its loss of its own adds; none if the loss is at the end alone.
    injected: Vec<Injected>,
}

impl Workspace {
    /// Room for backward passes on so many threads.
    pub fn new(network: &Network, reset: Reset, threads: usize) -> Self {
        Self {
            network: *network,
            reset,
            threads: (0..threads.max(1)).map(|_| Scratch::default()).collect(),
            windows: Vec::new(),
            sides: Default::default(),
            packed: Default::default(),
            head: Buffers::default(),
            means: Means::default(),
            features: Vec::new(),
            teacher: Vec::new(),
            d: Vec::new(),
        }
    }

    /// Loss of a batch; its gradient goes to `gradients`: the head's first, then those of the blocks' matrices from the last
    /// block to the first, the embedding's, and those of vectors.
    ///
    /// # Panics
    /// If a token is not below the vocabulary or a class not below their number, if tensors do not fit the network, or if
    /// windows do not predict what it predicts.
    pub fn backward(
        &mut self,
        weights: &Weights,
        batch: &[Window<'_>],
        objective: Objective<'_>,
        gradients: &mut impl Gradients,
    ) -> BatchLoss {
        self.forward(weights, batch, objective);
        let loss = self.losses(weights, batch, objective, gradients);
        self.backward_last_norm(weights);
        for index in (0..weights.blocks.len()).rev() {
            self.backward_block(weights, index, gradients);
        }
        self.backward_embedding(weights, batch, gradients);
        self.add_vectors(weights, gradients);
        loss
    }

    /// Losses of the head on the features. Gradients in these, and in its matrix, are what is left.
    fn losses(
        &mut self,
        weights: &Weights,
        batch: &[Window<'_>],
        objective: Objective<'_>,
        gradients: &mut impl Gradients,
    ) -> BatchLoss {
        let targets: Vec<u32> = batch.iter().flat_map(|window| window.targets).copied().collect();
        let mut rooms = gradients.room(&[(HEAD.to_owned(), weights.head.size())]);
        let of_head = (&mut *rooms[0], true);
        let (head, buffers, threads) = (&weights.head, &mut self.head, &mut self.threads);
        let losses = |features: &[f32], teacher: &[f32], d: &mut [f32]| {
            assert_eq!(targets.len() * head.forward.inputs(), features.len(), "a target for each prediction");
            let positions = Positions { features, teacher, targets: &targets };
            positions.losses(head, objective, d, of_head, buffers, threads)
        };
        let losses = match self.network.is_classifier() {
            false => losses(&self.features, &self.teacher, &mut self.d),
            true => {
                let lengths: Vec<usize> = batch.iter().map(|window| window.tokens.len()).collect();
                self.means.losses(&lengths, [&self.features, &self.teacher], &mut self.d, losses)
            }
        };
        gradients.complete();
        let mean = |loss: fn(&_) -> f64| losses.iter().map(loss).sum::<f64>() / losses.len() as f64;
        let (cross_entropy, divergence) = (mean(|loss| loss.cross_entropy), mean(|loss| loss.divergence));
        let share = f64::from(objective.share());
        let objective = (1.0 - share) * cross_entropy + share * divergence;
        BatchLoss { cross_entropy, divergence, objective }
    }

    /// `LN_out(x)` of all tokens of the last batch, window after window, `[tokens, channel]`.
    pub fn features(&self) -> &[f32] {
        &self.features
    }

    /// Runs every window to its features, and the teacher's.
    fn forward(&mut self, weights: &Weights, batch: &[Window<'_>], objective: Objective<'_>) {
        let channels = self.network.channels as usize;
        let lengths = || batch.iter().map(|window| window.tokens.len());
        let tokens: usize = lengths().sum();
        self.windows.resize_with(batch.len(), WindowTape::default);
        self.features.resize(tokens * channels, 0.0);
        self.d.resize(tokens * channels, 0.0);
        let teacher = objective.teacher();
        self.teacher.resize(if teacher.is_some() { tokens * channels } else { 0 }, 0.0);
        let teachers: Vec<&mut [f32]> = match teacher {
            None => batch.iter().map(|_| Default::default()).collect(),
            Some(_) => split_rows(&mut self.teacher, channels, lengths()),
        };
        for_each(&mut self.threads, batch.iter().zip(&mut self.windows), |_, (window, tape)| {
            tape.embed(&weights.embedding, channels, window.tokens);
            tape.start(&weights.ln0);
            tape.make_room(weights.blocks.len(), channels);
        });
        // Block by block, so that the weights of one are near while all windows pass.
        for (index, block) in weights.blocks.iter().enumerate() {
            for_each(&mut self.threads, &mut self.windows, |scratch, tape| {
                block.forward(&mut tape.last, &mut tape.blocks[index], scratch);
            });
        }
        let features = split_rows(&mut self.features, channels, lengths());
        let jobs = batch.iter().zip(&self.windows).zip(features).zip(teachers);
        for_each(&mut self.threads, jobs, |_, (((window, tape), features), teacher)| {
            layer_norm(&tape.last, &weights.ln_out[0], &weights.ln_out[1], features);
            if let Some(model) = objective.teacher() {
                let mut spikes = vec![0; model.network().population_count()];
                teacher.copy_from_slice(&model.features(window.tokens, &mut model.start(), &mut spikes));
            }
        });
    }

    /// From gradients in the features to those in the residual stream that left the last block.
    fn backward_last_norm(&mut self, weights: &Weights) {
        let channels = self.network.channels as usize;
        let lengths = self.windows.iter().map(|tape| tape.last.len() / channels);
        let d = split_rows(&mut self.d, channels, lengths);
        for_each(&mut self.threads, self.windows.iter_mut().zip(d), |scratch, (tape, d)| {
            let [weight, bias] = &mut tape.norms[1];
            let of_features = scratch.moved(d);
            layer_norm_backward(&tape.last, &weights.ln_out[0], of_features, d, weight, bias);
        });
    }

    /// Takes the gradients in the residual stream back through a block, and sums those of its matrices.
    fn backward_block(&mut self, weights: &Weights, index: usize, gradients: &mut impl Gradients) {
        let channels = self.network.channels as usize;
        let (block, tokens) = (&weights.blocks[index], self.d.len() / channels);
        let lengths: Vec<usize> = self.windows.iter().map(|tape| tape.last.len() / channels).collect();
        let [x, d] = &mut self.sides;
        let mut sides: Vec<Sides<'_>> = lengths.iter().map(|_| Sides::none()).collect();
        for (place, ((linear, x), d)) in block.linears.iter().zip(x).zip(d).enumerate() {
            for (is_input, buffer, width) in
                [(true, x, linear.forward.inputs()), (false, d, linear.forward.outputs())]
            {
                buffer.resize(tokens * width, 0.0);
                let pieces = split_rows(buffer, width, lengths.iter().copied());
                for (sides, piece) in sides.iter_mut().zip(pieces) {
                    let to = if is_input { &mut sides.x } else { &mut sides.d };
                    to[place] = piece;
                }
            }
        }
        let d_residual = split_rows(&mut self.d, channels, lengths);
        let reset = self.reset;
        let jobs = self.windows.iter_mut().zip(d_residual).zip(sides);
        for_each(&mut self.threads, jobs, |scratch, ((tape, d), mut sides)| {
            let (tape, injected, vectors) =
                (&tape.blocks[index], tape.injected.get(index), &mut tape.vectors[index]);
            block.backward(tape, injected, d, &mut sides, vectors, reset, scratch);
        });

        let [x, d] = &self.sides;
        // The widest first.
        let mut jobs: Vec<_> = self.packed.iter_mut().zip(x).zip(&block.linears).collect();
        jobs.sort_by_key(|((_, x), _)| std::cmp::Reverse(x.len()));
        for_each(&mut self.threads, jobs, |_, ((packed, x), linear)| {
            packed.pack_transposed(x, linear.forward.inputs());
        });
        let sizes = block.linears.iter().map(Linear::size);
        let matrices: Vec<(String, usize)> = block_units(index as u32).into_iter().zip(sizes).collect();
        let sides = self.packed.iter().zip(d).zip(gradients.room(&matrices));
        let products = sides.map(|((x, d), gradient)| (x, d.as_slice(), gradient));
        add_gradient(&mut self.threads, products, true);
        gradients.complete();
    }

    /// From gradients in the residual stream that entered the first block to those in what was embedded.
    fn backward_first_norm(&mut self, weights: &Weights) {
        let channels = self.network.channels as usize;
        let lengths = self.windows.iter().map(|tape| tape.last.len() / channels);
        let d = split_rows(&mut self.d, channels, lengths);
        for_each(&mut self.threads, self.windows.iter_mut().zip(d), |scratch, (tape, d)| {
            let [weight, bias] = &mut tape.norms[0];
            let of_stream = scratch.moved(d);
            layer_norm_backward(&tape.embedded, &weights.ln0[0], of_stream, d, weight, bias);
        });
    }

    /// Gradients of the first norm, and of the embedding if it is not binary.
    fn backward_embedding(
        &mut self,
        weights: &Weights,
        batch: &[Window<'_>],
        gradients: &mut impl Gradients,
    ) {
        self.backward_first_norm(weights);
        let channels = self.network.channels as usize;
        if self.network.binary_embedding {
            return gradients.none(EMBEDDING);
        }
        let mut rooms = gradients.room(&[(EMBEDDING.to_owned(), weights.embedding.len())]);
        let embedding = &mut *rooms[0];
        embedding.fill(0.0);
        let tokens = batch.iter().flat_map(|window| window.tokens);
        for (token, d) in tokens.zip(self.d.chunks_exact(channels)) {
            let row = &mut embedding[*token as usize * channels..][..channels];
            row.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        gradients.complete();
    }

    /// Adds the gradients in vectors, window by window.
    fn add_vectors(&self, weights: &Weights, gradients: &mut impl Gradients) {
        (0..weights.blocks.len()).for_each(|index| self.add_vectors_of(index, weights, gradients));
        [FIRST_NORM, LAST_NORM].into_iter().for_each(|norm| self.add_norm(norm, gradients));
    }

    /// Adds the gradients in the vectors of a block.
    fn add_vectors_of(&self, index: usize, weights: &Weights, gradients: &mut impl Gradients) {
        for (place, name) in vector_names(index).iter().enumerate() {
            let to = gradients.vector(name);
            add_up(to, self.windows.iter().map(|tape| tape.vectors[index][place].as_slice()));
            if place == vector::TIME_DECAY {
                // w = -exp(time_decay), whose derivative is w.
                to.iter_mut().zip(&weights.blocks[index].decay).for_each(|(d, w)| *d *= w);
            }
        }
    }

    /// Adds the gradients in weight and bias of a norm outside of blocks.
    fn add_norm(&self, norm: &str, gradients: &mut impl Gradients) {
        let place = usize::from(norm == LAST_NORM);
        for (part, name) in norm_names(norm).iter().enumerate() {
            let windows = self.windows.iter().map(|tape| tape.norms[place][part].as_slice());
            add_up(gradients.vector(name), windows);
        }
    }
}

/// `to` becomes the sum of the vectors in their order.
fn add_up<'a>(to: &mut [f32], vectors: impl Iterator<Item = &'a [f32]>) {
    to.fill(0.0);
    for vector in vectors {
        to.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
    }
}

impl WindowTape {
    /// Looks up what enters the first norm.
    fn embed(&mut self, embedding: &[f32], channels: usize, tokens: &[u32]) {
        self.embedded.clear();
        for token in tokens {
            let start = *token as usize * channels;
            self.embedded.extend_from_slice(&embedding[start..start + channels]);
        }
    }

    /// Puts the residual stream that enters the first block in the place of the last.
    fn start(&mut self, ln0: &[Vec<f32>; 2]) {
        self.last.resize(self.embedded.len(), 0.0);
        layer_norm(&self.embedded, &ln0[0], &ln0[1], &mut self.last);
    }

    /// Makes room for what so many blocks leave, and for gradients.
    fn make_room(&mut self, blocks: usize, channels: usize) {
        self.blocks.resize_with(blocks, BlockTape::default);
        self.vectors.resize_with(blocks, VectorGradients::default);
        for vector in self.vectors.iter_mut().flatten().chain(self.norms.iter_mut().flatten()) {
            vector.clear();
            vector.resize(channels, 0.0);
        }
    }
}

impl Sides<'_> {
    /// No rows of any product.
    fn none() -> Self {
        Self { x: Default::default(), d: Default::default() }
    }
}
