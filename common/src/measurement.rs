//! Counts of an evaluation, and the numbers that follow from them.
//!
//! Every count is an integer, the summed loss included, so that partial sums add up to the same bits
//! however the data was cut, whoever counted, and in whatever order the shards arrive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::elementary::exp;
use crate::tasks::TaskName;

/// A summed negative log-likelihood in fixed point: units of 2^-24 nat, about 6e-8.
///
/// Each sequence rounds its own sum once, so a total is off by at most 3e-8 nat per sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nll(pub u64);

impl Nll {
    const UNITS_PER_NAT: f64 = (1u64 << 24) as f64;
    /// The largest loss one sequence may have, in nats: far above any finite logits, far below overflow.
    pub const LARGEST: f64 = (1u64 << 36) as f64;

    /// Rounds `nats` to fixed point. `None` for NaN, a negative number or one above [`Nll::LARGEST`].
    pub fn from_nats(nats: f64) -> Option<Self> {
        (0.0..=Self::LARGEST).contains(&nats).then(|| Self((nats * Self::UNITS_PER_NAT).round() as u64))
    }

    /// The sum in nats.
    pub fn nats(self) -> f64 {
        self.0 as f64 / Self::UNITS_PER_NAT
    }
}

/// Counts of some of the data, or of all of it. Adding them is exact. The order among counts means nothing;
/// it makes sets of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Counts {
    /// Summed negative log-likelihood of the scored tokens (perplexity) or true labels (accuracy).
    pub nll: Nll,
    /// Scored tokens: each predicted token once. Zero for classification.
    #[serde(rename = "tokens")]
    pub scored_tokens: u64,
    /// Sentences whose largest logit is the label's. Zero for perplexity.
    pub hits: u64,
    /// Classified sentences. Zero for perplexity.
    pub sentences: u64,
    /// Processed tokens: those that went through the network, scored or not.
    #[serde(rename = "positions")]
    pub processed_tokens: u64,
    /// Spikes of each LIF population, in the order of [`crate::network::Network::populations`].
    pub spikes: Vec<u64>,
    /// Summed divergence KL(float model || this one) of the predictions that are scored, in the fixed point of the loss;
    /// `None` where the protocol does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<Nll>,
    /// Counts of the same candidate on the further tasks of an experiment. None in what a worker counts: a trial is of one
    /// task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<TaskName, Counts>,
}

/// A sum of counts that does not fit 64 bits, or of networks with different populations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("counts of different networks, or too large to add")]
pub struct CannotAdd;

impl Counts {
    /// No data yet, for a network of `populations` LIF populations.
    pub fn zero(populations: usize) -> Self {
        Self { spikes: vec![0; populations], ..Self::default() }
    }

    /// Adds `other` to this. Exact, commutative and associative.
    ///
    /// # Errors
    /// [`CannotAdd`] if a sum overflows or the populations differ; `self` is then unspecified.
    pub fn add(&mut self, other: &Self) -> Result<(), CannotAdd> {
        if self.spikes.len() != other.spikes.len() {
            return Err(CannotAdd);
        }
        let pairs = [
            (&mut self.nll.0, other.nll.0),
            (&mut self.scored_tokens, other.scored_tokens),
            (&mut self.hits, other.hits),
            (&mut self.sentences, other.sentences),
            (&mut self.processed_tokens, other.processed_tokens),
        ];
        let spikes = self.spikes.iter_mut().zip(other.spikes.iter().copied());
        for (sum, more) in pairs.into_iter().chain(spikes) {
            *sum = sum.checked_add(more).ok_or(CannotAdd)?;
        }
        if let Some(Nll(more)) = other.kl {
            let sum = self.kl.unwrap_or_default().0.checked_add(more);
            self.kl = Some(Nll(sum.ok_or(CannotAdd)?));
        }
        Ok(())
    }

    /// Sum of counts of a network of `populations` LIF populations.
    ///
    /// # Errors
    /// [`CannotAdd`] if a sum overflows or the populations differ.
    pub fn sum<'a>(populations: usize, each: impl IntoIterator<Item = &'a Self>) -> Result<Self, CannotAdd> {
        let mut total = Self::zero(populations);
        each.into_iter().try_for_each(|counts| total.add(counts))?;
        Ok(total)
    }

    /// `exp` of the mean loss per scored token, capped at the largest finite number. `None` without tokens.
    pub fn perplexity(&self) -> Option<f64> {
        (self.scored_tokens > 0).then(|| exp(self.nll.nats() / self.scored_tokens as f64).min(f64::MAX))
    }

    /// Hits per sentence, 0 to 1. `None` without sentences.
    pub fn accuracy(&self) -> Option<f64> {
        (self.sentences > 0).then(|| self.hits as f64 / self.sentences as f64)
    }

    /// Mean divergence KL(float model || this one) per scored token or sentence, in nats. `None` where nobody asked, or
    /// nothing was scored.
    pub fn mean_kl(&self) -> Option<f64> {
        let items = self.scored_tokens.max(self.sentences);
        self.kl.filter(|_| items > 0).map(|kl| kl.nats() / items as f64)
    }

    /// Spikes per neuron and token of each population of `channels` neurons, 0 to 1.
    pub fn firing_rates(&self, channels: u32) -> Vec<f64> {
        let chances = (self.processed_tokens * u64::from(channels)).max(1);
        self.spikes.iter().map(|spikes| *spikes as f64 / chances as f64).collect()
    }

    /// Spikes per neuron and token over all populations, 0 to 1; `None` of a network without spikes.
    pub fn mean_firing_rate(&self, channels: u32) -> Option<f64> {
        let rates = self.firing_rates(channels);
        (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
    }

    /// True if the counts could come from a network of this shape: a hit per sentence at most, a spike
    /// per neuron and processed token at most, no more scored tokens than processed ones, and of one task.
    pub fn is_plausible(&self, populations: usize, channels: u32) -> bool {
        let chances = self.processed_tokens.checked_mul(u64::from(channels));
        self.spikes.len() == populations
            && self.tasks.is_empty()
            && self.hits <= self.sentences
            && self.scored_tokens <= self.processed_tokens
            && chances.is_some_and(|chances| self.spikes.iter().all(|spikes| *spikes <= chances))
    }
}

/// True if a perplexity is beyond the largest number, which [`Counts::perplexity`] gives in its place.
pub fn overflowed(perplexity: f64) -> bool {
    perplexity >= f64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts() -> impl Strategy<Value = Counts> {
        let small = 0..1u64 << 40;
        let numbers = (small.clone(), small.clone(), small.clone(), small.clone());
        (numbers, prop::collection::vec(small.clone(), 3), prop::option::of(small.prop_map(Nll))).prop_map(
            |((nll, scored_tokens, hits, processed_tokens), spikes, kl)| Counts {
                nll: Nll(nll),
                scored_tokens,
                hits,
                sentences: hits + 1,
                processed_tokens,
                spikes,
                kl,
                tasks: BTreeMap::new(),
            },
        )
    }

    proptest! {
        #[test]
        fn shards_add_up_to_the_same_bits_in_any_order(
            shards in prop::collection::vec(counts(), 0..6),
            cut in 0usize..6,
        ) {
            let sum = |shards: &mut dyn Iterator<Item = &Counts>| Counts::sum(3, shards).unwrap();
            let forward = sum(&mut shards.iter());
            let (head, tail) = shards.split_at(cut.min(shards.len()));
            let mut grouped = sum(&mut tail.iter().rev());
            grouped.add(&sum(&mut head.iter())).unwrap();
            prop_assert_eq!(forward, grouped);
        }
    }

    #[test]
    fn perplexity_is_exp_of_the_mean_loss() {
        let counts = Counts { nll: Nll::from_nats(30.0).unwrap(), scored_tokens: 10, ..Counts::zero(0) };
        assert!((counts.perplexity().unwrap() - 3f64.exp()).abs() < 1e-6);
        assert_eq!(Counts::zero(0).perplexity(), None);
        let broken = Counts { nll: Nll(u64::MAX), scored_tokens: 1, ..Counts::zero(0) };
        assert_eq!(broken.perplexity(), Some(f64::MAX));
        assert!(broken.perplexity().is_some_and(overflowed) && !counts.perplexity().is_some_and(overflowed));
    }

    #[test]
    fn the_divergence_is_a_mean_over_what_is_scored() {
        let kl = Nll::from_nats(0.5);
        let tokens = Counts { kl, scored_tokens: 10, ..Counts::zero(0) };
        let sentences = Counts { kl, sentences: 4, ..Counts::zero(0) };
        assert_eq!((tokens.mean_kl(), sentences.mean_kl()), (Some(0.05), Some(0.125)));
        assert_eq!(Counts { kl, ..Counts::zero(0) }.mean_kl(), None);
        assert_eq!(Counts { kl: None, ..tokens.clone() }.mean_kl(), None);
        // What nobody asked for leaves no trace in a document.
        assert!(!serde_json::to_string(&Counts::zero(1)).unwrap().contains("kl"));
        let mut sum = Counts { kl: Some(Nll(u64::MAX)), ..Counts::zero(0) };
        assert_eq!(sum.add(&tokens), Err(CannotAdd));
    }

    #[test]
    fn a_loss_that_is_no_number_is_refused() {
        for nats in [f64::NAN, f64::INFINITY, -1.0, Nll::LARGEST * 2.0] {
            assert_eq!(Nll::from_nats(nats), None, "{nats}");
        }
    }

    #[test]
    fn impossible_counts_are_noticed() {
        let good = Counts { processed_tokens: 10, scored_tokens: 9, spikes: vec![30], ..Counts::zero(1) };
        assert!(good.is_plausible(1, 3));
        assert!(!Counts { spikes: vec![31], ..good.clone() }.is_plausible(1, 3));
        assert!(!Counts { scored_tokens: 11, ..good.clone() }.is_plausible(1, 3));
        assert!(!Counts { hits: 1, ..good.clone() }.is_plausible(1, 3));
        assert!(!good.is_plausible(2, 3));
        let mut sum = Counts { scored_tokens: u64::MAX, ..Counts::zero(1) };
        assert_eq!(sum.add(&good), Err(CannotAdd));
    }
}
