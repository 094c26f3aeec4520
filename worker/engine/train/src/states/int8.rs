//! Training with matrices in int8: weights, their gradients and their momentum (QFT, 2310.07147), changed by Lion.
//!
//! In a step the backward pass pushes the gradients of matrices as they are finished, already those in the weights: the
//! straight-through gradient is taken of the floats, which are there of the head's matrix or of one block's. When all are on
//! the stack, the norm of the floats that were pushed is known, and the update pops them. So gradients are clipped as they
//! are with float states. The sign of Lion alone would not ask for it, but its momentum does: a batch with a gradient a
//! hundred times as long as the others would decide the signs of the next hundred steps.

use std::collections::BTreeMap;
use std::ops::Range;

use qslm_common::network::{EMBEDDING, HEAD, Network, block_units};
use qslm_engine::quant::stochastic_rounding;

use super::StateBytes;
use super::dense::{self, BLOCK, Dense, encode};
use super::hybrid::{self, Draws, Hybrid, move_dense, move_sparse};
use super::stack::Stack;
use crate::fake_quant::FakeQuant;
use crate::gradients::Gradients;
use crate::optimizer::{Lion, Rate};
use crate::parallel::for_each;
use crate::tensors::{Parameters, Tensors};

/// The matrices of a network in training.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Int8 {
    lion: Lion,
    seed: u64,
    weights: BTreeMap<String, Hybrid>,
    /// Of the matrices that change.
    momentum: BTreeMap<String, Dense>,
    stack: Stack,
    /// Floats of the gradients that are being computed, each after the other.
    room: Vec<f32>,
    /// Their matrices and sizes.
    staged: Vec<(String, usize)>,
}

/// Parameters whose matrices are in int8, or none of which is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) floats: &'a Tensors,
    pub(crate) matrices: Option<&'a BTreeMap<String, Hybrid>>,
}

/// What takes the gradients of a backward pass to the stack.
#[derive(Debug)]
pub(crate) struct Pushing<'a> {
    pub(crate) quant: &'a FakeQuant,
    /// Vectors, scales, zero points, and their gradients.
    pub(crate) parameters: &'a Tensors,
    pub(crate) gradients: &'a mut Tensors,
    pub(crate) int8: &'a mut Int8,
    pub(crate) bit_cost: f32,
    pub(crate) step: u32,
    pub(crate) buffers: &'a mut [Vec<f32>],
}

impl Int8 {
    /// Takes the matrices of a network, or of a part of one, out of its parameters. Those of a binary embedding become signs and stay so.
    pub(crate) fn take(network: &Network, parameters: &mut Tensors, lion: Lion, seed: u64) -> Self {
        let blocks = (0..network.blocks).rev().flat_map(block_units);
        let embedding = [EMBEDDING.to_owned()];
        let mut changing: Vec<String> = [HEAD.to_owned()].into_iter().chain(blocks).collect();
        let mut weights = BTreeMap::new();
        if network.binary_embedding {
            let [name] = embedding;
            weights.extend(parameters.remove(&name).map(|values| (name, Hybrid::signs(&values))));
        } else {
            changing.extend(embedding);
        }
        let (mut momentum, mut sizes) = (BTreeMap::new(), Vec::new());
        for name in changing {
            let Some(values) = parameters.remove(&name) else { continue };
            sizes.push((name.clone(), values.len()));
            momentum.insert(name.clone(), Dense::zeros(values.len()));
            weights.insert(name, Hybrid::of(&values));
        }
        let stack = Stack::new(sizes);
        Self { lion, seed, weights, momentum, stack, room: Vec::new(), staged: Vec::new() }
    }

    /// The weights, by the names of matrices.
    pub(crate) fn weights(&self) -> &BTreeMap<String, Hybrid> {
        &self.weights
    }

    /// The sum of squares of the gradients on the stack.
    pub(crate) fn sum_of_squares(&self) -> f64 {
        self.stack.sum_of_squares()
    }

    /// Pops all gradients, and changes their matrices by them times `factor`.
    pub(crate) fn update<Scratch: Send>(
        &mut self,
        factor: f32,
        rate_of: impl Fn(&str) -> Rate,
        step: u32,
        threads: &mut [Scratch],
    ) {
        let (lion, seed) = (self.lion, self.seed);
        while let Some((name, gradient)) = self.stack.pop() {
            let rate = rate_of(name);
            if rate.step == 0.0 {
                continue;
            }
            let (Some(weights), Some(momentum)) = (self.weights.get_mut(name), self.momentum.get_mut(name))
            else {
                continue;
            };
            let draws_of = |what: &str| stochastic_rounding(seed, &format!("{what} {step} {name}"));
            let draws = Draws { change: draws_of("change"), wider: draws_of("wider scale") };
            let of_momentum = draws_of("momentum");
            let jobs: Vec<_> =
                weights.pieces_mut().zip(momentum.pieces_mut()).zip(gradient.pieces()).collect();
            for_each(threads, jobs, |_, ((weights, momentum), gradient)| {
                update_piece(lion, weights, momentum, gradient, factor, rate, draws, of_momentum);
            });
        }
    }

    /// Bytes of the matrices' state.
    pub(crate) fn bytes(&self) -> StateBytes {
        StateBytes {
            weights: self.weights.values().map(Hybrid::bytes).sum(),
            gradients: self.stack.bytes(),
            moments: self.momentum.values().map(Dense::bytes).sum(),
        }
    }

    /// The floats that a checkpoint has of it: scales, outliers. Their places follow from the network.
    pub(crate) fn floats(&self) -> impl Iterator<Item = &[f32]> {
        let weights = self.weights.values().flat_map(|of| [of.dense.scales(), of.sparse.values()]);
        weights.chain(self.momentum.values().map(Dense::scales))
    }

    /// As [`Int8::floats`], to be put back.
    pub(crate) fn floats_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let weights = self.weights.values_mut();
        let weights = weights.flat_map(|of| [of.dense.scales_mut(), of.sparse.values_mut()]);
        weights.chain(self.momentum.values_mut().map(Dense::scales_mut))
    }

    /// The codes that a checkpoint has of it.
    pub(crate) fn codes(&self) -> impl Iterator<Item = &[i8]> {
        let weights = self.weights.values().map(|of| of.dense.codes());
        weights.chain(self.momentum.values().map(Dense::codes))
    }

    /// As [`Int8::codes`], to be put back.
    pub(crate) fn codes_mut(&mut self) -> impl Iterator<Item = &mut [i8]> {
        let weights = self.weights.values_mut().map(|of| of.dense.codes_mut());
        weights.chain(self.momentum.values_mut().map(Dense::codes_mut))
    }
}

/// A step of Lion on whole blocks, whose floats are there one block at a time.
#[expect(clippy::too_many_arguments, reason = "the state of one piece of a matrix")]
fn update_piece(
    lion: Lion,
    weights: hybrid::Piece<'_>,
    momentum: dense::Piece<'_>,
    (gradient, gradient_scales): (&[i8], &[f32]),
    factor: f32,
    rate: Rate,
    draws: Draws<impl Fn(f32, usize) -> f32 + Copy, impl Fn(f32, usize) -> f32 + Copy>,
    of_momentum: impl Fn(f32, usize) -> f32 + Copy,
) {
    let hybrid::Piece { start, dense, sparse } = weights;
    let (mut places, mut outliers) = (sparse.places, sparse.values);
    let weights = dense.codes.chunks_mut(BLOCK).zip(dense.scales);
    let momenta = momentum.codes.chunks_mut(BLOCK).zip(momentum.scales);
    let gradients = gradient.chunks(BLOCK).zip(gradient_scales);
    let (mut signs, mut moments) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for (index, ((weights, momenta), gradient)) in weights.zip(momenta).zip(gradients).enumerate() {
        let ((w, w_scale), (m, m_scale), (g, g_scale)) = (weights, momenta, gradient);
        let start = start + index * BLOCK;
        let (signs, moments) = (&mut signs[..w.len()], &mut moments[..w.len()]);
        let (of_code, of_moment) = (*g_scale * factor, *m_scale);
        for (((sign, moment), m), g) in signs.iter_mut().zip(&mut *moments).zip(&*m).zip(g) {
            (*sign, *moment) = lion.decide(of_moment * f32::from(*m), of_code * f32::from(*g));
        }
        encode(moments, m, m_scale, start, of_momentum);

        let here = places.partition_point(|place| (*place as usize) < start + w.len());
        let (places_here, places_after) = places.split_at(here);
        let (outliers_here, outliers_after) = outliers.split_at_mut(here);
        (places, outliers) = (places_after, outliers_after);
        move_sparse(places_here, outliers_here, signs, rate, start);
        // The code where an outlier is stays 0.
        places_here.iter().for_each(|place| signs[*place as usize - start] = 0.0);
        move_dense(w, w_scale, signs, rate, start, draws);
    }
}

impl Parameters for Held<'_> {
    fn floats(&self) -> &Tensors {
        self.floats
    }

    fn weights<'a>(&'a self, name: &str, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(weights) = self.matrices.and_then(|matrices| matrices.get(name)) else {
            return self.floats.weights(name, range, buffer);
        };
        buffer.resize(range.len(), 0.0);
        weights.read(range, buffer);
        buffer
    }
}

impl Gradients for Pushing<'_> {
    fn room(&mut self, matrices: &[(String, usize)]) -> Vec<&mut [f32]> {
        let Int8 { room, staged, .. } = &mut *self.int8;
        staged.clear();
        staged.extend_from_slice(matrices);
        let size = matrices.iter().map(|(_, size)| size).sum();
        // Never less than before, so that no pass asks for memory anew.
        room.resize(room.len().max(size), 0.0);
        rooms(room, matrices)
    }

    fn complete(&mut self) {
        let Self { quant, parameters, gradients, int8, bit_cost, step, buffers } = self;
        let Int8 { weights, stack, room, staged, seed, .. } = &mut **int8;
        let held = Held { floats: parameters, matrices: Some(weights) };
        let of_matrices = staged.iter().map(|(name, _)| name.as_str()).zip(rooms(room, staged));
        quant.straight_through(&held, of_matrices.chain(gradients.iter_mut()), *bit_cost, buffers);
        for ((name, _), gradient) in staged.iter().zip(rooms(room, staged)) {
            stack.push(name, gradient, (*seed, *step), buffers);
        }
    }

    fn none(&mut self, _: &str) {}

    fn vector(&mut self, name: &str) -> &mut [f32] {
        self.gradients.get_mut(name)
    }
}

/// The rooms of matrices, each after the other.
fn rooms<'a>(room: &'a mut [f32], matrices: &[(String, usize)]) -> Vec<&'a mut [f32]> {
    let mut rest = room;
    let cut = |(_, size): &(String, usize)| rest.split_off_mut(..*size).expect("room for all of them");
    matrices.iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// State of one matrix.
    fn one(values: &[f32]) -> Int8 {
        let name = "w".to_owned();
        Int8 {
            lion: Lion::default(),
            seed: 7,
            weights: [(name.clone(), Hybrid::of(values))].into(),
            momentum: [(name.clone(), Dense::zeros(values.len()))].into(),
            stack: Stack::new([(name, values.len())]),
            room: Vec::new(),
            staged: Vec::new(),
        }
    }

    fn step(int8: &mut Int8, gradient: &[f32], rate: f32, step: u32, threads: usize) {
        int8.stack.push("w", gradient, (int8.seed, step), &mut vec![(); threads]);
        int8.update(1.0, |_| Rate { step: rate, decay: 0.0 }, step, &mut vec![(); threads]);
    }

    fn numbers(count: usize, by: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * by).sin()).collect()
    }

    proptest! {
        #[test]
        fn one_step_from_no_momentum_is_the_rate_against_the_sign_of_the_gradient(
            gradient in prop::collection::vec(-2i8..=2, 2 * BLOCK),
        ) {
            let gradient: Vec<f32> = gradient.into_iter().map(|g| f32::from(g) * 127.0).collect();
            let values = numbers(2 * BLOCK, 0.37);
            let mut int8 = one(&values);
            let before = int8.weights["w"].to_floats();
            step(&mut int8, &gradient, 0.125, 0, 1);
            let (after, scales) = (int8.weights["w"].to_floats(), int8.weights["w"].dense.scales());
            let is_outlier = |at: usize| int8.weights["w"].sparse.places().contains(&(at as u32));
            for (at, ((after, before), g)) in after.iter().zip(&before).zip(&gradient).enumerate() {
                let expected = if *g == 0.0 { 0.0 } else { -0.125 * g.signum() };
                // A block that got a wider scale was rounded once more.
                let reach = if is_outlier(at) { 1e-7 } else { 2.0 * scales[at / BLOCK] };
                prop_assert!((after - before - expected).abs() <= reach, "{} {} {}", at, after - before, g);
            }
        }

        #[test]
        fn signs_are_those_of_lion_in_floats_where_codes_are_exact(
            gradients in prop::collection::vec(prop::collection::vec(-127i8..=127, 20), 1..5),
        ) {
            // Only the last gradient and what the momentum says: a number of 127 keeps the scale of gradients 1.
            let values = vec![0.5; 21];
            let mut int8 = one(&values);
            for (t, gradient) in gradients.iter().enumerate() {
                let gradient: Vec<f32> = gradient.iter().copied().chain([127]).map(f32::from).collect();
                let mut momentum = vec![0.0; 21];
                int8.momentum["w"].read(0..21, &mut momentum);
                let before = int8.weights["w"].clone();
                step(&mut int8, &gradient, 1.0 / 1024.0, t as u32, 1);
                let (at, outlier) = (before.sparse.places()[0] as usize, before.sparse.values()[0]);
                let (sign, moment) = Lion::default().decide(momentum[at], gradient[at]);
                prop_assert_eq!(int8.weights["w"].sparse.values()[0], outlier - sign / 1024.0);
                let mut after = vec![0.0; 21];
                int8.momentum["w"].read(0..21, &mut after);
                let scale = int8.momentum["w"].scales()[0];
                prop_assert!((after[at] - moment).abs() <= 1.0001 * scale);
            }
        }
    }

    #[test]
    fn momentum_follows_that_of_floats_without_bias() {
        let lion = Lion::default();
        let count = 40 * BLOCK;
        let mut int8 = one(&numbers(count, 0.37));
        let mut floats = vec![0.0f32; count];
        for t in 0..60 {
            let gradient = numbers(count, 0.11 + t as f32 * 0.01);
            floats.iter_mut().zip(&gradient).for_each(|(m, g)| *m = lion.decide(*m, *g).1);
            step(&mut int8, &gradient, 1e-4, t, 2);
        }
        let mut momentum = vec![0.0; count];
        int8.momentum["w"].read(0..count, &mut momentum);
        let errors = momentum.iter().zip(&floats).map(|(a, b)| f64::from(a - b));
        let (sum, squares) = errors.fold((0.0, 0.0), |(sum, squares), e| (sum + e, squares + e * e));
        let size = (floats.iter().map(|m| f64::from(m * m)).sum::<f64>() / count as f64).sqrt();
        let (mean, spread) = (sum / count as f64, (squares / count as f64).sqrt());
        assert!(spread < 0.1 * size, "{spread} {size}");
        assert!(mean.abs() < 5.0 * spread / (count as f64).sqrt(), "{mean} {spread}");
    }

    #[test]
    fn threads_change_no_bit() {
        let count = 5 * dense::PIECE + 77;
        let values = numbers(count, 0.37);
        let run = |threads: usize| {
            let mut int8 = one(&values);
            for t in 0..3 {
                step(&mut int8, &numbers(count, 0.2 + t as f32), 1e-2, t, threads);
            }
            int8
        };
        let alone = run(1);
        for threads in [2, 3, 5] {
            assert_eq!(run(threads), alone, "{threads} threads");
        }
    }

    #[test]
    fn a_rate_of_zero_leaves_weights_and_momentum() {
        let mut int8 = one(&numbers(300, 0.37));
        let before = int8.clone();
        step(&mut int8, &numbers(300, 0.2), 0.0, 0, 1);
        assert_eq!((int8.weights, int8.momentum), (before.weights, before.momentum));
    }
}
