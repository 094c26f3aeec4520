//! Adam, with weight decay beside the gradient (AdamW).

use super::Rate;

/// Settings of Adam: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, and, with both divided by `1 - b^t`,
/// `w -= rate (m / (sqrt v + epsilon) + decay w)`. Source: Kingma and Ba (1412.6980); Loshchilov and Hutter (1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Share of the mean of gradients that is kept.
    pub beta1: f32,
    /// Share of the mean of their squares that is kept.
    pub beta2: f32,
    /// Added to the root.
    pub epsilon: f32,
}

impl Default for Adam {
    /// What the quantization of `wikitext2-xs` was tuned with.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 }
    }
}

impl Adam {
    #[expect(clippy::too_many_arguments, reason = "the state of one piece of a tensor")]
    pub(super) fn update(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        factor: f32,
        first: &mut [f32],
        second: &mut [f32],
        rate: Rate,
        powers: [f64; 2],
    ) {
        let step = (f64::from(rate.step) / (1.0 - powers[0])) as f32;
        let spread = (1.0 / (1.0 - powers[1])) as f32;
        let kept = 1.0 - rate.step * rate.decay;
        let Self { beta1, beta2, epsilon } = *self;
        let moments = first.iter_mut().zip(second);
        for ((w, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            let g = *g * factor;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * (g * g);
            *w = *w * kept - step * *m / ((*v * spread).sqrt() + epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Method, Optimizer};
    use super::*;
    use crate::tensors::Tensors;

    fn one(value: f32) -> Tensors {
        [("w".to_owned(), vec![value])].into_iter().collect()
    }

    #[test]
    fn the_first_step_is_the_rate_against_the_sign() {
        for gradient in [-3.0f32, -1e-3, 1e-3, 20.0] {
            let mut w = one(1.0);
            let mut optimizer = Optimizer::new(Method::Adam(Adam::default()), &w);
            let rate = Rate { step: 0.01, decay: 0.0 };
            optimizer.step(&mut w, &one(gradient), 1.0, |_| rate, &mut [()]);
            let expected = 1.0 - 0.01 * gradient.signum();
            assert!((w.get("w")[0] - expected).abs() < 1e-6, "{gradient}: {w:?}");
        }
    }

    #[test]
    fn every_step_is_that_of_the_formula_in_double_precision() {
        let adam = Adam::default();
        let mut w = one(0.7);
        let mut optimizer = Optimizer::new(Method::Adam(adam), &w);
        let (mut x, mut m, mut v) = (0.7f64, 0.0f64, 0.0f64);
        for t in 1..=50 {
            let g = (f64::from(t) * 0.7).sin() * 2.0;
            let rate = Rate { step: 0.02, decay: 0.1 };
            optimizer.step(&mut w, &one(g as f32), 0.5, |_| rate, &mut [()]);
            let (b1, b2, g) = (f64::from(adam.beta1), f64::from(adam.beta2), g * 0.5);
            (m, v) = (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g * g);
            let (mean, square) = (m / (1.0 - b1.powi(t)), v / (1.0 - b2.powi(t)));
            x -= 0.02 * (mean / (square.sqrt() + 1e-8) + 0.1 * x);
            assert!((f64::from(w.get("w")[0]) - x).abs() < 1e-5, "step {t}: {w:?} {x}");
        }
    }

    #[test]
    fn a_rate_of_zero_changes_nothing() {
        let mut w = one(0.7);
        let mut optimizer = Optimizer::new(Method::Adam(Adam::default()), &w);
        optimizer.step(&mut w, &one(3.0), 1.0, |_| Rate { step: 0.0, decay: 0.5 }, &mut [()]);
        assert_eq!(w, one(0.7));
    }
}
