//! Training state in fewer bits: what a run holds of every weight, from step to step.
//!
//! With floats that is a master weight, a gradient and the moments of the optimizer, 16 bytes a weight for Adam. With int8
//! states (QFT, 2310.07147) it is a code each of the weight, its gradient and its momentum, about 3.2 bytes:
//!
//! - `dense` numbers are int8 codes with a scale for every block of 128; `sparse` ones are the largest 1 % of the
//!   weights of a matrix, which keep their floats. Both together are the weights of a matrix (`hybrid`): there is no
//!   float copy of them anywhere.
//! - `stack` takes the gradients of matrices from the backward pass as each block's are finished, and gives them to the
//!   update last in, first out. Floats are there of one block's gradients at a time, or of the head's.
//! - `int8` joins them to what a trainer holds: Lion, whose steps are as long as the rate whatever the error in a
//!   momentum, as long as its sign is right.
//!
//! Whatever is written back to int8 in a step is rounded stochastically: a step is far shorter than the distance of two
//! codes, and to the nearest one no weight would ever move. The draws are functions of seed, tensor, step and position
//! alone, so that a run has the same bits on any number of threads. Vectors, scales and zero points are a few thousandths of
//! all numbers, and stay floats with float moments.

pub(crate) mod dense;
pub(crate) mod hybrid;
pub(crate) mod int8;
pub(crate) mod sparse;
pub(crate) mod stack;

use crate::optimizer::Method;

/// The form in which training holds matrices, their gradients and their moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum States {
    /// Floats.
    #[default]
    Float,
    /// Int8 codes and 1 % of the weights as floats; for Lion only.
    Int8 {
        /// Seed of stochastic rounding.
        seed: u64,
    },
}

/// Bytes that a run holds from step to step, or, of gradients, from the backward pass to the update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateBytes {
    /// Master weights, vectors, scales and zero points.
    pub weights: u64,
    /// The gradients of all of them.
    pub gradients: u64,
    /// What the optimizer remembers of them.
    pub moments: u64,
}

impl StateBytes {
    /// All of them.
    pub fn total(self) -> u64 {
        self.weights + self.gradients + self.moments
    }

    /// The bytes of so many weights of a matrix that trains, their scales included. They follow from the number alone, so
    /// that a run's memory is known before there is one.
    pub fn of_weights(states: States, method: Method, weights: u64) -> Self {
        let moments = match method {
            Method::Adam(_) => 2,
            Method::Lion(_) => 1,
        };
        match states {
            States::Float => {
                Self { weights: 4 * weights, gradients: 4 * weights, moments: 4 * moments * weights }
            }
            States::Int8 { .. } => {
                let dense = weights + 4 * weights.div_ceil(dense::BLOCK as u64);
                let sparse = 8 * sparse::count(weights as usize) as u64;
                Self { weights: dense + sparse, gradients: dense, moments: moments * dense }
            }
        }
    }
}

impl std::ops::Add for StateBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            gradients: self.gradients + other.gradients,
            moments: self.moments + other.moments,
        }
    }
}
