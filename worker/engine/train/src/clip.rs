//! Clipping of gradients by their norm.

use crate::parallel::for_each;
use crate::tensors::Tensors;

/// Lanes of partial sums: fixed, so that the order of additions does not depend on the processor.
const LANES: usize = 8;

/// Sum of the squares of all numbers of all tensors. Tensors are summed on their own and added in name order.
pub(crate) fn squares<Scratch: Send>(tensors: &Tensors, threads: &mut [Scratch]) -> f64 {
    let mut sums = vec![0.0; tensors.iter().count()];
    for_each(threads, tensors.iter().zip(&mut sums), |_, ((_, values), sum)| *sum = sum_of_squares(values));
    sums.iter().sum()
}

/// Sum of the squares of numbers, in 64 bits.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += f64::from(*x) * f64::from(*x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += f64::from(*x) * f64::from(*x));
    lanes.iter().sum()
}

/// What gradients of this norm are multiplied with so that it does not exceed `most`.
pub fn factor(norm: f64, most: f64) -> f32 {
    if norm > most { (most / norm) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_become_as_long_as_allowed_and_short_ones_stay() {
        let tensors: Tensors =
            [("a".to_owned(), vec![3.0; 9]), ("b".to_owned(), vec![4.0; 9])].into_iter().collect();
        let norm = squares(&tensors, &mut [(); 2]).sqrt();
        assert_eq!(norm, 15.0);
        assert_eq!(factor(norm, 3.0), 0.2);
        assert_eq!(factor(norm, 15.0), 1.0);
        assert_eq!(factor(0.0, 1.0), 1.0);
    }
}
