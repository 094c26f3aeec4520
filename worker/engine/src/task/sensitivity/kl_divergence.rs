//! Output divergence: mean KL(float || changed) of the predicted distributions.

use super::{Distance, Fold, Mean, Measure, Needs, Score};

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

/// KL divergence of two softmax distributions in nats: `sum p (ln p - ln q)`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
        f64::from(top) + sum.ln()
    };
    let (norm_p, norm_q) = (log_sum(p), log_sum(q));
    p.iter()
        .zip(q)
        .map(|(p, q)| {
            let (p, q) = (f64::from(*p) - norm_p, f64::from(*q) - norm_q);
            p.exp() * (p - q)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_two_coins() {
        let p = [0.75f64.ln() as f32, 0.25f64.ln() as f32];
        let q = [0.5f64.ln() as f32 + 3.0, 0.5f64.ln() as f32 + 3.0];
        let expected = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert!(divergence(&p, &p).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_is_not_hidden() {
        let mut broken = KlDivergence::default();
        broken.prediction(&[0.0, 1.0], &[f32::NAN, 1.0], 0);
        assert!(broken.value().is_nan());
    }
}
