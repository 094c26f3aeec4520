//! Lion: one moment per parameter, and every step as long as the rate.

use super::Rate;

/// Settings of Lion: `c = b1 m + (1 - b1) g`, `w -= rate (sign(c) + decay w)`, `m = b2 m + (1 - b2) g`; the sign of 0 is 0.
/// Source: Chen et al. (2302.06675).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// Share of the moment in what decides.
    pub beta1: f32,
    /// Share of the moment that is kept.
    pub beta2: f32,
}

impl Default for Lion {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99 }
    }
}

impl Lion {
    /// What the rate is multiplied with to be taken from a parameter, `sign(c)`, and the moment from here on.
    #[inline]
    pub(crate) fn decide(self, moment: f32, gradient: f32) -> (f32, f32) {
        let Self { beta1, beta2 } = self;
        let decides = beta1 * moment + (1.0 - beta1) * gradient;
        let up = if decides > 0.0 { 1.0 } else { 0.0 };
        let down = if decides < 0.0 { 1.0 } else { 0.0 };
        (up - down, beta2 * moment + (1.0 - beta2) * gradient)
    }

    pub(super) fn update(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        factor: f32,
        moment: &mut [f32],
        rate: Rate,
    ) {
        let kept = 1.0 - rate.step * rate.decay;
        for ((w, g), m) in values.iter_mut().zip(gradient).zip(moment) {
            let sign;
            (sign, *m) = self.decide(*m, *g * factor);
            *w = *w * kept - rate.step * sign;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Method, Optimizer};
    use super::*;
    use crate::tensors::Tensors;

    fn tensors(values: Vec<f32>) -> Tensors {
        [("w".to_owned(), values)].into_iter().collect()
    }

    proptest! {
        #[test]
        fn a_step_is_as_long_as_the_rate_or_nothing(
            gradients in prop::collection::vec(prop::collection::vec(-2i8..=2, 5), 1..6),
        ) {
            // A power of two, so that no difference is rounded.
            let rate = 1.0 / 1024.0;
            let mut w = tensors(vec![1.0, -1.0, 0.5, 0.0, 1.5]);
            let mut optimizer = Optimizer::new(Method::Lion(Lion::default()), &w);
            for (t, gradient) in gradients.iter().enumerate() {
                let before = w.clone();
                let gradient: Vec<f32> = gradient.iter().map(|g| f32::from(*g)).collect();
                let given = Rate { step: rate, decay: 0.0 };
                optimizer.step(&mut w, &tensors(gradient.clone()), 1.0, |_| given, &mut [()]);
                for ((w, before), g) in w.get("w").iter().zip(before.get("w")).zip(gradient) {
                    prop_assert!([0.0, rate].contains(&(w - before).abs()));
                    if t == 0 {
                        let sign = if g == 0.0 { 0.0 } else { g.signum() };
                        prop_assert_eq!(w - before, -rate * sign);
                    }
                }
            }
        }
    }

    #[test]
    fn a_moment_outlasts_a_gradient_and_decay_pulls_to_zero() {
        let mut w = tensors(vec![1.0]);
        let mut optimizer = Optimizer::new(Method::Lion(Lion::default()), &w);
        let rate = Rate { step: 0.25, decay: 0.5 };
        optimizer.step(&mut w, &tensors(vec![-8.0]), 1.0, |_| rate, &mut [()]);
        assert_eq!(w, tensors(vec![1.0 * 0.875 + 0.25]));
        optimizer.step(&mut w, &tensors(vec![0.0]), 1.0, |_| rate, &mut [()]);
        assert_eq!(w, tensors(vec![1.125 * 0.875 + 0.25]), "the moment still says up");
    }
}
