//! The head: from features to losses, and back to gradients in the features and in the head's matrix.
//!
//! Logits are there for some positions at a time, never for a whole batch. A position's numbers do not depend on the
//! others, and every number of the matrix's gradient is one chain over the positions in their order, so the cut changes no
//! bit.

use qslm_engine::kernels::gradient::softmax::{self, RowLoss};
use qslm_engine::kernels::product::Packed;
use qslm_engine::model::SpikeGpt;

use crate::block::Scratch;
use crate::parallel::{for_each, split_rows};
use crate::weights::Linear;

/// Logits that are there at once: 64 MiB of them, and as many of a teacher.
const LOGITS_AT_ONCE: usize = 1 << 24;
/// Positions that a thread takes at a time.
const ROWS: usize = 96;
/// Rows of a matrix's gradient that a thread takes at a time: few enough for their strips to stay near, and half as many of
/// a wide matrix, so that no thread waits long for the last one.
const GRADIENT_ROWS: usize = 192;
/// Columns from which a matrix is wide.
const WIDE: usize = 1024;

/// The loss that training lowers, a mean over all predictions of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Objective<'a> {
    /// Cross entropy with the next token.
    CrossEntropy,
    /// Cross entropy with what the network itself draws; targets are the draws, each one of 2^32. The squares of its gradients
    /// are the Fisher information.
    Sampled,
    /// Knowledge distillation: `(1 - share)` cross entropies and `share` divergences `KL(teacher || student)`.
    Distillation {
        /// Whose logits are followed.
        teacher: &'a SpikeGpt,
        /// Weight of the divergence, 0 to 1.
        share: f32,
    },
}

impl<'a> Objective<'a> {
    /// The model whose logits are followed, if there is one.
    pub(crate) fn teacher(self) -> Option<&'a SpikeGpt> {
        match self {
            Self::CrossEntropy | Self::Sampled => None,
            Self::Distillation { teacher, .. } => Some(teacher),
        }
    }

    /// Weight of the divergence from it.
    pub(crate) fn share(self) -> f32 {
        match self {
            Self::CrossEntropy | Self::Sampled => 0.0,
            Self::Distillation { share, .. } => share,
        }
    }
}

/// Rows of features with the targets of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positions<'a> {
    /// `[positions, channel]`.
    pub(crate) features: &'a [f32],
    /// The teacher's, as many; none without a teacher.
    pub(crate) teacher: &'a [f32],
    pub(crate) targets: &'a [u32],
}

/// Buffers of the head, so that they are not made anew for every batch.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    logits: Vec<f32>,
    packed: Packed,
}

impl Positions<'_> {
    /// Losses of all positions; `d_features` becomes the gradient of their mean, and what it is in the matrix is added to
    /// `d_weight`, or written there if `is_new`.
    pub(crate) fn losses(
        self,
        head: &Linear,
        objective: Objective<'_>,
        d_features: &mut [f32],
        (d_weight, is_new): (&mut [f32], bool),
        buffers: &mut Buffers,
        threads: &mut [Scratch],
    ) -> Vec<RowLoss> {
        let (channels, outputs) = (head.forward.inputs(), head.forward.outputs());
        let scale = 1.0 / self.targets.len() as f32;
        let at_once = (LOGITS_AT_ONCE / outputs).max(1);
        let mut losses = vec![RowLoss::default(); self.targets.len()];
        let mut is_new = is_new;
        for start in (0..self.targets.len()).step_by(at_once) {
            let count = at_once.min(self.targets.len() - start);
            let features = &self.features[start * channels..][..count * channels];
            let teacher = self.teacher.get(start * channels..(start + count) * channels).unwrap_or_default();
            buffers.logits.resize(count * outputs, 0.0);
            let logits = &mut buffers.logits[..count * outputs];
            let jobs = logits
                .chunks_mut(ROWS * outputs)
                .zip(d_features[start * channels..][..count * channels].chunks_mut(ROWS * channels))
                .zip(losses[start..][..count].chunks_mut(ROWS))
                .enumerate();
            for_each(threads, jobs, |_, (piece, ((logits, d_features), losses))| {
                let rows = piece * ROWS..piece * ROWS + losses.len();
                let piece = rows.start * channels..rows.end * channels;
                head.forward.multiply(&features[piece.clone()], 0..outputs, logits);
                let targets = &self.targets[start..][rows];
                let teacher = teacher.get(piece).unwrap_or_default();
                row_losses(logits, teacher, targets, objective, scale, losses);
                head.multiply_transposed(logits, d_features);
            });
            buffers.packed.pack_transposed(features, channels);
            add_gradient(threads, [(&buffers.packed, &*logits, &mut *d_weight)], is_new);
            is_new = false;
        }
        losses
    }
}

/// Replaces rows of logits by gradients.
fn row_losses(
    logits: &mut [f32],
    teacher: &[f32],
    targets: &[u32],
    objective: Objective<'_>,
    scale: f32,
    losses: &mut [RowLoss],
) {
    let outputs = logits.len() / targets.len();
    let rows = logits.chunks_exact_mut(outputs).zip(targets).zip(losses);
    match objective {
        Objective::CrossEntropy => {
            for ((row, target), loss) in rows {
                *loss = softmax::cross_entropy(row, *target as usize, scale);
            }
        }
        Objective::Sampled => {
            for ((row, draw), loss) in rows {
                *loss = softmax::sampled(row, *draw, scale);
            }
        }
        Objective::Distillation { teacher: model, share } => {
            let mut followed = model.logits(teacher.to_vec());
            for (((row, target), loss), teacher) in rows.zip(followed.chunks_exact_mut(outputs)) {
                *loss = softmax::distillation(row, teacher, *target as usize, share, scale);
            }
        }
    }
}

/// Adds `D^T X` to the gradients of matrices: of each the rows of X, packed transposed, the rows of D, and the gradient,
/// `[outputs, inputs]`. `is_new` says that there is nothing in the gradients yet.
pub(crate) fn add_gradient<'a>(
    threads: &mut [Scratch],
    products: impl IntoIterator<Item = (&'a Packed, &'a [f32], &'a mut [f32])>,
    is_new: bool,
) {
    let mut jobs = Vec::new();
    for (x, d, gradient) in products {
        let outputs = gradient.len() / x.outputs();
        let at_once = if x.outputs() < WIDE { GRADIENT_ROWS } else { GRADIENT_ROWS / 2 };
        let rows = |first: usize| first..outputs.min(first + at_once);
        let ranges: Vec<_> = (0..outputs).step_by(at_once).map(rows).collect();
        let pieces = split_rows(gradient, x.outputs(), ranges.iter().map(ExactSizeIterator::len));
        jobs.extend(ranges.into_iter().zip(pieces).map(|(rows, piece)| (x, d, rows, piece)));
    }
    // The largest first, so that no thread is left with it at the end.
    jobs.sort_by_key(|(.., piece)| std::cmp::Reverse(piece.len()));
    for_each(threads, jobs, |scratch, (x, d, rows, piece)| {
        x.multiply_columns(d, rows, piece, is_new, &mut scratch.strips);
    });
}
