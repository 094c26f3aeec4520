//! Membrane drift: mean |h' - h| over all LIF populations, relative to the mean |h|, as AQ4SViT (2026) gates
//! its candidates; cheap, because some sequences are enough.

use super::{Distance, Fold, Measure, Needs, Score};

/// `membrane_drift`
pub const MEMBRANE_DRIFT: Measure = Measure {
    name: "membrane_drift",
    about: "Mean absolute change of membrane potentials, relative to their size",
    needs: Needs::Data,
    over_units: Fold::Sum,
    score: Score::Distance(|| Box::<MembraneDrift>::default()),
};

#[derive(Default)]
struct MembraneDrift {
    /// Drift of the sequences that are done.
    all: Drift,
    /// Drift of the sequence at hand: added up on its own, so that the sum is the same however sequences are
    /// grouped.
    here: Drift,
}

#[derive(Default)]
struct Drift {
    moved: f64,
    size: f64,
}

impl Distance for MembraneDrift {
    fn potentials(&mut self, before: &[f32], after: &[f32]) {
        for (before, after) in before.iter().zip(after) {
            self.here.moved += f64::from((after - before).abs());
            self.here.size += f64::from(before.abs());
        }
    }

    fn end_of_sequence(&mut self) {
        let Drift { moved, size } = std::mem::take(&mut self.here);
        self.all = Drift { moved: self.all.moved + moved, size: self.all.size + size };
    }

    fn value(&self) -> f64 {
        match self.all {
            Drift { moved, size } if size > 0.0 => moved / size,
            // Nothing to relate to; but what is no number is told.
            Drift { moved, .. } if moved.is_finite() => 0.0,
            Drift { moved, .. } => moved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drift_is_relative_to_the_size_over_all_sequences() {
        let mut drift = MembraneDrift::default();
        assert_eq!(drift.value(), 0.0);
        drift.potentials(&[1.0, -2.0], &[1.5, -2.0]);
        drift.end_of_sequence();
        drift.potentials(&[1.0], &[0.0]);
        drift.end_of_sequence();
        assert_eq!(drift.value(), 1.5 / 4.0);
        drift.potentials(&[1.0], &[f32::NAN]);
        drift.end_of_sequence();
        assert!(!drift.value().is_finite());
    }
}
