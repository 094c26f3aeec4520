//! Output divergence: mean KL(float || changed) of the predicted distributions.

use super::{Distance, Fold, Mean, Measure, Needs, Score};
use crate::kernels::divergence::divergence;

/// `kl_divergence`
pub const KL_DIVERGENCE: Measure = Measure {
    name: "kl_divergence",
    about: "Mean KL divergence of the predictions from the float model's, in nats",
    needs: Needs::Data,
    over_units: Fold::Sum,
    score: Score::Distance(|| Box::<KlDivergence>::default()),
};

#[derive(Default)]
struct KlDivergence(Mean);

impl Distance for KlDivergence {
    fn prediction(&mut self, before: &[f32], after: &[f32], _target: usize) {
        self.0.add(divergence(before, after));
    }

    fn value(&self) -> f64 {
        let mean = self.0.value();
        // Rounding may take it a little below; what is no number stays so, which `max` would hide.
        if mean < 0.0 { 0.0 } else { mean }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_hidden() {
        let mut broken = KlDivergence::default();
        broken.prediction(&[0.0, 1.0], &[f32::NAN, 1.0], 0);
        assert!(broken.value().is_nan());
    }
}
