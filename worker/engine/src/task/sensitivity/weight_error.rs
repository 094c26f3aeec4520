//! Weight error: mean squared error of the stored weights; needs no data.

use super::{Distance, Fold, Measure, Needs, Score};

/// `weight_error`
pub const WEIGHT_ERROR: Measure = Measure {
    name: "weight_error",
    about: "Mean squared error of the stored weights",
    needs: Needs::Weights,
    over_units: Fold::Sum,
    score: Score::Distance(|| Box::<WeightError>::default()),
};

#[derive(Default)]
struct WeightError(f64);

impl Distance for WeightError {
    fn weights(&mut self, before: &[f32], after: &[f32]) {
        let squares = before.iter().zip(after).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        self.0 = squares.sum::<f64>() / before.len().max(1) as f64;
    }

    fn value(&self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_error_is_a_mean_of_squares() {
        let mut error = WeightError::default();
        error.weights(&[1.0, 2.0, 3.0, 4.0], &[1.0, 4.0, 3.0, 4.0]);
        assert_eq!(error.value(), 1.0);
    }
}
