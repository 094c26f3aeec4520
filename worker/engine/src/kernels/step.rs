//! The step that a binary embedding is seen through.

/// Weights become `step(w)`: 1 for `w >= 0`, -0 included, else 0.
pub fn step(weights: &mut [f32]) {
    weights.iter_mut().for_each(|w| *w = if *w >= 0.0 { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_of_either_sign_is_one_and_no_number_is_zero() {
        let mut weights = [-1.0, -0.0, 0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::NAN];
        step(&mut weights);
        assert_eq!(weights, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }
}
