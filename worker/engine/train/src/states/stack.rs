//! The stack of gradients: what a backward pass pushes, an update pops, last in, first out (QFT, 2310.07147).
//!
//! Room for every gradient is kept from step to step: the order of a backward pass is that of the network, always.

use qslm_engine::quant::stochastic_rounding;

use super::dense::{BLOCK, Dense, PIECE, encode};
use crate::clip::sum_of_squares;
use crate::parallel::for_each;

/// Gradients of matrices in int8.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stack {
    slots: Vec<Slot>,
    /// Gradients that are on it.
    depth: usize,
}

/// Room for the gradient of a matrix.
#[derive(Debug, Clone, PartialEq)]
struct Slot {
    matrix: String,
    gradient: Dense,
    /// Of the floats that were pushed.
    squares: f64,
}

impl Stack {
    /// An empty stack for the gradients of these matrices, by their sizes, in the order of pushes.
    pub(crate) fn new(matrices: impl IntoIterator<Item = (String, usize)>) -> Self {
        let slot = |(matrix, size)| Slot { matrix, gradient: Dense::zeros(size), squares: 0.0 };
        Self { slots: matrices.into_iter().map(slot).collect(), depth: 0 }
    }

    /// Puts a gradient on top. The seed and the step say how it is rounded.
    ///
    /// # Panics
    /// If it is not the turn of the matrix, or the gradient has not its size.
    pub(crate) fn push<Scratch: Send>(
        &mut self,
        matrix: &str,
        gradient: &[f32],
        (seed, step): (u64, u32),
        threads: &mut [Scratch],
    ) {
        let slot = self.slots.get_mut(self.depth).filter(|slot| slot.matrix == matrix);
        let slot = slot.unwrap_or_else(|| panic!("it is not the turn of the gradient of {matrix}"));
        assert_eq!(slot.gradient.codes().len(), gradient.len(), "{matrix}");
        let round = stochastic_rounding(seed, &format!("gradient {step} {matrix}"));
        let jobs = slot.gradient.pieces_mut().zip(gradient.chunks(PIECE)).enumerate();
        let jobs: Vec<_> = jobs.collect();
        for_each(threads, jobs, |_, (index, (piece, values))| {
            let blocks = piece.codes.chunks_mut(BLOCK).zip(piece.scales).zip(values.chunks(BLOCK));
            for (block, ((codes, scale), values)) in blocks.enumerate() {
                encode(values, codes, scale, index * PIECE + block * BLOCK, round);
            }
        });
        slot.squares = sum_of_squares(gradient);
        self.depth += 1;
    }

    /// Takes the gradient that was pushed last, with the name of its matrix.
    pub(crate) fn pop(&mut self) -> Option<(&str, &Dense)> {
        self.depth = self.depth.checked_sub(1)?;
        let slot = &self.slots[self.depth];
        Some((&slot.matrix, &slot.gradient))
    }

    /// The sum of squares of all floats that were pushed and not popped.
    pub(crate) fn sum_of_squares(&self) -> f64 {
        self.slots[..self.depth].iter().map(|slot| slot.squares).sum()
    }

    /// Bytes of the gradients of a whole pass.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.gradient.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        Stack::new([("head", 300), ("b1", 100), ("b0", 20)].map(|(name, size)| (name.to_owned(), size)))
    }

    #[test]
    fn what_is_pushed_last_is_popped_first_with_its_own_numbers() {
        let mut stack = stack();
        for step in 0..3 {
            for (matrix, size, value) in [("head", 300, 1.0f32), ("b1", 100, -2.0), ("b0", 20, 3.0)] {
                stack.push(matrix, &vec![value; size], (7, step), &mut [(); 2]);
            }
            assert_eq!(stack.sum_of_squares(), 300.0 + 400.0 + 180.0);
            for (matrix, size, value) in [("b0", 20, 3.0f32), ("b1", 100, -2.0), ("head", 300, 1.0)] {
                let (name, gradient) = stack.pop().unwrap();
                let mut read = vec![0.0; size];
                gradient.read(0..size, &mut read);
                assert_eq!(name, matrix);
                assert!(read.iter().all(|x| (x - value).abs() < 1e-6), "{read:?}");
            }
            assert!(stack.pop().is_none());
        }
    }

    #[test]
    #[should_panic(expected = "it is not the turn of the gradient of b0")]
    fn a_gradient_out_of_turn_is_refused() {
        stack().push("b0", &[0.0; 20], (7, 0), &mut [()]);
    }

    #[test]
    fn threads_change_no_bit_and_steps_are_rounded_anew() {
        let values: Vec<f32> = (0..5 * PIECE + 77).map(|i| (i as f32 * 0.71).sin()).collect();
        let pushed = |step, threads: usize| {
            let mut stack = Stack::new([("w".to_owned(), values.len())]);
            stack.push("w", &values, (7, step), &mut vec![(); threads]);
            stack
        };
        for threads in [2, 3, 5] {
            assert_eq!(pushed(1, threads), pushed(1, 1));
        }
        assert_ne!(pushed(2, 1).slots[0].gradient, pushed(1, 1).slots[0].gradient);
    }
}
