//! Adam: steps whose length follows from how steady a gradient is.

/// Moments of the gradients of a list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Adam {
    rate: f64,
    first: Vec<f64>,
    second: Vec<f64>,
    /// Decays to the power of the steps that were made.
    decayed: (f64, f64),
}

/// Decays of both moments.
const DECAY: (f64, f64) = (0.9, 0.999);
/// Bound of the steps of parameters without a gradient.
const EPSILON: f64 = 1e-8;

impl Adam {
    pub(super) fn new(rate: f64, parameters: usize) -> Self {
        Self { rate, first: vec![0.0; parameters], second: vec![0.0; parameters], decayed: (1.0, 1.0) }
    }

    /// One step down the gradient.
    pub(super) fn step(&mut self, parameters: &mut [f64], gradient: &[f64]) {
        self.decayed = (self.decayed.0 * DECAY.0, self.decayed.1 * DECAY.1);
        // What the moments lack, because they began at 0.
        let (first_share, second_share) = (1.0 - self.decayed.0, 1.0 - self.decayed.1);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *first = DECAY.0 * *first + (1.0 - DECAY.0) * gradient;
            *second = DECAY.1 * *second + (1.0 - DECAY.1) * gradient * gradient;
            *parameter -= self.rate * (*first / first_share) / ((*second / second_share).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_goes_by_the_rate_against_each_gradients_sign() {
        let mut adam = Adam::new(0.01, 3);
        let mut parameters = vec![1.0, 1.0, 1.0];
        adam.step(&mut parameters, &[5.0, -1e-3, 0.0]);
        for (parameter, expected) in parameters.iter().zip([0.99, 1.01, 1.0]) {
            assert!((parameter - expected).abs() < 1e-6, "{parameter} {expected}");
        }
        // The second, worked out by hand: moments 0.95 of the steady ones of 5 and 0.
        adam.step(&mut parameters, &[0.0, -1e-3, 0.0]);
        let first = 0.9 * 0.5 / (1.0 - 0.81);
        let second: f64 = 0.999 * 0.025 / (1.0 - 0.999 * 0.999);
        assert!((parameters[0] - (0.99 - 0.01 * first / second.sqrt())).abs() < 1e-9);
        assert_eq!(parameters[2], 1.0);
    }
}
