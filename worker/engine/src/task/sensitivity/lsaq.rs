//! Layer importance of LSAQ (arXiv 2412.18135): 1 - Jaccard similarity of the top-k tokens that the head
//! reads off a block's input and output. Needs no quantization, and says nothing within a block.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::dataset::Dataset;
use super::{Fold, LOGITS_AT_ONCE, Measure, Needs, Score};
use crate::model::{Hook, SpikeGpt};

/// `lsaq`
pub const LSAQ: Measure = Measure {
    name: "lsaq",
    about: "LSAQ's importance of the unit's block: 1 - Jaccard similarity of the top tokens before and after it",
    needs: Needs::LanguageModel,
    over_units: Fold::Largest,
    score: Score::Blocks(layer_importance),
};

/// LSAQ's importance of every block, 0 to 1, averaged over the tokens of `sequences`.
///
/// The head reads its top `k` tokens off the residual stream before and after the block, each through the
/// last layer norm. The more the two sets differ, the more the block does. For language models.
///
/// # Panics
/// If `sequences` reaches beyond the data.
fn layer_importance(model: &SpikeGpt, data: &Dataset, sequences: Range<usize>, k: usize) -> Vec<f64> {
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
}
