//! The rise of the task's own loss: what a search cares for, and the yardstick of the other measures.

use super::{Distance, Fold, Mean, Measure, Needs, Score};
use crate::kernels::loss;

/// `task_loss`
pub const TASK_LOSS: Measure = Measure {
    name: "task_loss",
    about: "Rise of the loss per token or sentence, in nats, with this unit alone quantized",
    needs: Needs::Data,
    over_units: Fold::Sum,
    score: Score::Distance(|| Box::<TaskLoss>::default()),
};

/// Negative for a gain.
#[derive(Default)]
struct TaskLoss(Mean);

impl Distance for TaskLoss {
    fn prediction(&mut self, before: &[f32], after: &[f32], target: usize) {
        self.0.add(loss::nll(after, target) - loss::nll(before, target));
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}
