//! Measures of sensitivity: how much a change of one part of a network shows, by several definitions.
//!
//! - Task loss: the rise of the loss per token or sentence. What a search cares for, and the yardstick of the others.
//! - Output divergence: mean KL(float || changed) of the predicted distributions, in nats.
//! - Membrane drift: mean |h' - h| over all LIF populations, relative to the mean |h|, as AQ4SViT (2026) gates its
//!   candidates; cheap, because some sequences are enough.
//! - Weight error: mean squared error of the stored weights; needs no data.
//! - Layer importance of LSAQ (arXiv 2412.18135): 1 - Jaccard similarity of the top-k tokens that the head reads off
//!   a block's input and output; needs no quantization, and says nothing within a block.

use std::collections::BTreeSet;
use std::ops::Range;

use super::dataset::{Dataset, Sequence, Target};
use super::evaluate::{EvaluateError, Interrupt, head_input};
use crate::kernels::loss;
use crate::model::{Hook, SpikeGpt, Unwatched};

/// Rows of logits are formed in blocks of about this many numbers, so that a large vocabulary does not need a
/// `[time, vocabulary]` buffer.
const LOGITS_AT_ONCE: usize = 1 << 22;

/// How far a changed network is from the one it was made of, on the same data.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Distance {
    /// Rise of the loss, in nats per scored token or sentence; negative for a gain.
    pub task_loss: f64,
    /// Mean KL divergence of the predictions, in nats; never negative.
    pub divergence: f64,
    /// Mean absolute difference of membrane potentials over the mean absolute potential.
    pub membrane_drift: f64,
}

/// Compares `changed` with `float` on `sequences` of `data`; membranes on the first `mini_batch` of them.
///
/// # Errors
/// [`EvaluateError`].
///
/// # Panics
/// If `sequences` reaches beyond the data, or the networks differ in shape.
pub fn distance(
    float: &SpikeGpt,
    changed: &SpikeGpt,
    data: &Dataset,
    sequences: Range<usize>,
    mini_batch: usize,
    interrupt: Interrupt<'_>,
) -> Result<Distance, EvaluateError> {
    let (mut sum, mut predictions) = (Distance::default(), 0);
    let (mut moved, mut size) = (0.0, 0.0);
    for (done, index) in sequences.enumerate() {
        if interrupt() {
            return Err(EvaluateError::Interrupted);
        }
        let sequence = data.sequence(index);
        let (mut potentials, mut nobody) = (Potentials::default(), Unwatched);
        let watch = done < mini_batch;
        let hook: &mut dyn Hook = if watch { &mut potentials } else { &mut nobody };
        let before = head_input(float, data, sequence, hook);
        let mut drift = Drift { before: potentials.all.into_iter(), moved: 0.0, size: 0.0 };
        let hook: &mut dyn Hook = if watch { &mut drift } else { &mut nobody };
        let after = head_input(changed, data, sequence, hook);
        (moved, size) = (moved + drift.moved, size + drift.size);
        for (row_before, row_after, target) in rows(float, changed, data, sequence, &before, &after) {
            sum.task_loss += loss::nll(&row_after, target) - loss::nll(&row_before, target);
            sum.divergence += divergence(&row_before, &row_after);
            predictions += 1;
        }
        if !(sum.task_loss.is_finite() && sum.divergence.is_finite() && moved.is_finite()) {
            return Err(EvaluateError::NotFinite { sequence: index });
        }
    }
    let mean = |sum: f64| sum / f64::from(predictions.max(1));
    Ok(Distance {
        task_loss: mean(sum.task_loss),
        divergence: mean(sum.divergence).max(0.0),
        membrane_drift: if size > 0.0 { moved / size } else { 0.0 },
    })
}

/// Both networks' logits of every prediction of a sequence, with what was to be predicted.
fn rows<'a>(
    float: &'a SpikeGpt,
    changed: &'a SpikeGpt,
    data: &'a Dataset,
    sequence: &'a Sequence,
    before: &'a [f32],
    after: &'a [f32],
) -> impl Iterator<Item = (Vec<f32>, Vec<f32>, usize)> + 'a {
    let (channels, outputs) = (float.network().channels as usize, float.network().outputs as usize);
    let targets: Vec<usize> = match &sequence.target {
        Target::NextToken(scored) => {
            data.tokens(scored.start + 1..scored.end + 1).iter().map(|token| *token as usize).collect()
        }
        Target::Label(label) => vec![*label],
    };
    // In blocks, because a large vocabulary does not allow all logits at once.
    let block = (LOGITS_AT_ONCE / outputs).max(1);
    let starts = (0..targets.len()).step_by(block);
    starts.flat_map(move |start| {
        let end = (start + block).min(targets.len());
        let logits = |model: &SpikeGpt, features: &[f32]| {
            let logits = model.logits(features[start * channels..end * channels].to_vec());
            logits.chunks_exact(outputs).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let (before, after) = (logits(float, before), logits(changed, after));
        let targets = targets[start..end].to_vec();
        before.into_iter().zip(after).zip(targets).map(|((before, after), target)| (before, after, target))
    })
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

/// Keeps the potentials of every population, in their order.
#[derive(Default)]
struct Potentials {
    all: Vec<Vec<f32>>,
}

impl Hook for Potentials {
    fn potentials(&mut self, _population: usize, potentials: &dyn Fn() -> Vec<f32>) {
        self.all.push(potentials());
    }
}

/// Compares potentials with those kept of another network.
struct Drift {
    before: std::vec::IntoIter<Vec<f32>>,
    moved: f64,
    size: f64,
}

impl Hook for Drift {
    fn potentials(&mut self, _population: usize, potentials: &dyn Fn() -> Vec<f32>) {
        let before = self.before.next().unwrap_or_default();
        for (before, after) in before.iter().zip(potentials()) {
            self.moved += f64::from((after - before).abs());
            self.size += f64::from(before.abs());
        }
    }
}

/// Mean squared difference of weights.
pub fn weight_error(before: &[f32], after: &[f32]) -> f64 {
    let squares: f64 = before.iter().zip(after).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    squares / before.len().max(1) as f64
}

/// LSAQ's importance of every block, 0 to 1, averaged over the tokens of `sequences`.
///
/// The head reads its top `k` tokens off the residual stream before and after the block, each through the last
/// layer norm. The more the two sets differ, the more the block does. For language models.
///
/// # Panics
/// If `sequences` reaches beyond the data.
pub fn layer_importance(model: &SpikeGpt, data: &Dataset, sequences: Range<usize>, k: usize) -> Vec<f64> {
    let mut sets =
        TopTokens { model, k, last: Vec::new(), importance: vec![0.0; model.network().blocks as usize] };
    let (mut spikes, mut tokens_seen) = (vec![0; model.network().populations().len()], 0);
    for index in sequences {
        let tokens = data.tokens(data.sequence(index).input.clone());
        model.features_watched(tokens, &mut model.start(), &mut spikes, &mut sets);
        tokens_seen += tokens.len();
    }
    sets.importance.iter().map(|sum| sum / tokens_seen.max(1) as f64).collect()
}

struct TopTokens<'a> {
    model: &'a SpikeGpt,
    k: usize,
    /// The sets of every token before the block at hand.
    last: Vec<BTreeSet<usize>>,
    /// Summed over tokens, per block.
    importance: Vec<f64>,
}

impl Hook for TopTokens<'_> {
    fn residual(&mut self, depth: usize, x: &[f32]) {
        let (channels, outputs) =
            (self.model.network().channels as usize, self.model.network().outputs as usize);
        let block = (LOGITS_AT_ONCE / outputs).max(1) * channels;
        let logits = x.chunks(block).map(|rows| self.model.logits(self.model.read_out(rows)));
        let sets: Vec<_> = logits
            .flat_map(|logits| logits.chunks_exact(outputs).map(|row| top(row, self.k)).collect::<Vec<_>>())
            .collect();
        if let Some(block) = depth.checked_sub(1) {
            let pairs = self.last.iter().zip(&sets);
            self.importance[block] += pairs.map(|(before, after)| 1.0 - jaccard(before, after)).sum::<f64>();
        }
        self.last = sets;
    }
}

/// Indices of the `k` largest; of equals the first.
fn top(row: &[f32], k: usize) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let k = k.min(row.len());
    if k == 0 {
        return BTreeSet::new();
    }
    order.select_nth_unstable_by(k - 1, |a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    order[..k].iter().copied().collect()
}

/// `|A n B| / |A u B|`; 1 for two empty sets.
fn jaccard(a: &BTreeSet<usize>, b: &BTreeSet<usize>) -> f64 {
    let both = a.intersection(b).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
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
    fn the_top_tokens_are_the_largest_logits() {
        assert_eq!(top(&[1.0, 5.0, 3.0, 5.0], 3), [1, 2, 3].into());
        assert_eq!(top(&[2.0, 2.0, 2.0], 2), [0, 1].into());
        assert_eq!(top(&[1.0], 9), [0].into());
        assert_eq!(top(&[], 2), [].into());
    }

    #[test]
    fn similarity_is_shared_over_all() {
        assert_eq!(jaccard(&[1, 2, 3].into(), &[2, 3, 4].into()), 0.5);
        assert_eq!(jaccard(&[1].into(), &[1].into()), 1.0);
        assert_eq!(jaccard(&[1].into(), &[2].into()), 0.0);
    }

    #[test]
    fn the_weight_error_is_a_mean_of_squares() {
        assert_eq!(weight_error(&[1.0, 2.0, 3.0, 4.0], &[1.0, 4.0, 3.0, 4.0]), 1.0);
    }
}
