//! Quality: what a task says a network is good at, and everything that differs between its kinds.
//!
//! The one idea is that a kind of quality is a value with all of its formulas: its names, the loss that is
//! summed and what it is summed over, the loss against the float model. Objectives, constraints, races,
//! trade-offs, tables and plots ask it, and none of them asks which task it is.

use crate::elementary::{exp_m1, ln_1p};
use crate::measurement::{Counts, overflowed};
use crate::task::Task;

/// Kind of quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Perplexity of a language model, 1 to infinity; smaller is better.
    Perplexity,
    /// Share of sentences that a classifier gets right, 0 to 1; larger is better.
    Accuracy,
}

impl Task {
    /// Quality that the task measures.
    pub fn quality(&self) -> Quality {
        match self {
            Self::Perplexity { .. } => Quality::Perplexity,
            Self::Accuracy { .. } | Self::Choice { .. } => Quality::Accuracy,
        }
    }
}

impl Counts {
    /// Quality that was counted; accuracy for counts of nothing.
    pub fn quality(&self) -> Quality {
        if self.scored_tokens > 0 { Quality::Perplexity } else { Quality::Accuracy }
    }
}

impl Quality {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Perplexity, Self::Accuracy];

    /// Name in tables, documents and sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Accuracy => "accuracy",
        }
    }

    /// Name of the loss against the float model, for the axis of a plot.
    pub fn loss_name(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity increase",
            Self::Accuracy => "accuracy lost",
        }
    }

    /// Name of the constraint that bounds the loss.
    pub fn bound_name(self) -> &'static str {
        match self {
            Self::Perplexity => "max_perplexity_increase",
            Self::Accuracy => "max_accuracy_drop",
        }
    }

    /// A value as people read it: `23.456`, or `88.96 %`.
    pub fn label(self, value: f64) -> String {
        match self {
            Self::Perplexity if overflowed(value) => "overflow".to_owned(),
            Self::Perplexity => format!("{value:.3}"),
            Self::Accuracy => format!("{:.2} %", value * 100.0),
        }
    }

    /// Value of counts; `None` if nothing of this kind was counted.
    pub fn value(self, counts: &Counts) -> Option<f64> {
        match self {
            Self::Perplexity => counts.perplexity(),
            Self::Accuracy => counts.accuracy(),
        }
    }

    /// The number to minimise: the perplexity, or the share of wrong answers. Finite; 0 for counts of nothing of this kind.
    pub fn to_minimise(self, counts: &Counts) -> f64 {
        match self {
            Self::Perplexity => counts.perplexity().unwrap_or(0.0),
            Self::Accuracy => 1.0 - counts.accuracy().unwrap_or(1.0),
        }
    }

    /// Number of what is judged: scored tokens, or sentences.
    pub fn items(self, counts: &Counts) -> u64 {
        match self {
            Self::Perplexity => counts.scored_tokens,
            Self::Accuracy => counts.sentences,
        }
    }

    /// Loss summed over what is judged: nats, or misses. Never negative.
    pub fn summed_loss(self, counts: &Counts) -> f64 {
        match self {
            Self::Perplexity => counts.nll.nats(),
            Self::Accuracy => counts.sentences.saturating_sub(counts.hits) as f64,
        }
    }

    /// Distance from perfect: mean loss in nats, or the share of wrong sentences. Finite, 0 or more; 0 for
    /// counts of nothing.
    pub fn mean_loss(self, counts: &Counts) -> f64 {
        match self {
            Self::Perplexity if counts.scored_tokens == 0 => 0.0,
            Self::Perplexity => counts.nll.nats() / counts.scored_tokens as f64,
            Self::Accuracy => 1.0 - counts.accuracy().unwrap_or(1.0),
        }
    }

    /// Loss against the float model: `PPL / PPL0 - 1`, or the drop in accuracy `A0 - A`. Negative for a gain.
    pub fn loss_against(self, float: &Counts, counts: &Counts) -> f64 {
        match self {
            Self::Perplexity => match (float.perplexity(), counts.perplexity()) {
                (Some(before), Some(after)) => after / before - 1.0,
                _ => 0.0,
            },
            Self::Accuracy => float.accuracy().unwrap_or(0.0) - counts.accuracy().unwrap_or(0.0),
        }
    }

    /// Loss against the float model of a difference in mean loss: a difference in nats is a ratio of
    /// perplexities.
    pub fn loss_of(self, difference: f64) -> f64 {
        match self {
            Self::Perplexity => exp_m1(difference),
            Self::Accuracy => difference,
        }
    }

    /// Difference in mean loss that leads to a loss against the float model: the inverse of
    /// [`Quality::loss_of`].
    pub fn difference_of(self, loss: f64) -> f64 {
        match self {
            Self::Perplexity => ln_1p(loss),
            Self::Accuracy => loss,
        }
    }

    /// Performance relative to the float model's: `PPL0 / PPL`, or `A / A0`; 1 where there is nothing to
    /// relate to.
    pub fn performance_ratio(self, float: &Counts, counts: &Counts) -> f64 {
        match self {
            Self::Perplexity => match (float.perplexity(), counts.perplexity()) {
                (Some(before), Some(after)) => before / after,
                _ => 1.0,
            },
            Self::Accuracy => {
                let before = float.accuracy().unwrap_or(0.0);
                if before > 0.0 { counts.accuracy().unwrap_or(0.0) / before } else { 1.0 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Nll;

    fn tokens(nats: f64) -> Counts {
        Counts { nll: Nll::from_nats(nats).unwrap(), scored_tokens: 10, ..Counts::zero(0) }
    }

    fn sentences(hits: u64) -> Counts {
        Counts { hits, sentences: 100, ..Counts::zero(0) }
    }

    #[test]
    fn a_loss_is_relative_for_perplexity_and_absolute_for_accuracy() {
        let (float, worse) = (tokens(30.0), tokens(30.2));
        let quality = float.quality();
        assert_eq!(quality, Quality::Perplexity);
        let loss = quality.loss_against(&float, &worse);
        assert!((loss - (0.02f64.exp() - 1.0)).abs() < 1e-6);
        let difference = quality.mean_loss(&worse) - quality.mean_loss(&float);
        assert!((quality.loss_of(difference) - loss).abs() < 1e-12);
        assert!((quality.difference_of(loss) - difference).abs() < 1e-12);
        assert!((quality.performance_ratio(&float, &worse) - 1.0 / (1.0 + loss)).abs() < 1e-12);

        let (float, worse) = (sentences(80), sentences(78));
        let quality = float.quality();
        assert_eq!(quality, Quality::Accuracy);
        assert!((quality.loss_against(&float, &worse) - 0.02).abs() < 1e-12);
        assert_eq!(quality.summed_loss(&worse) - quality.summed_loss(&float), 2.0);
        assert_eq!(quality.performance_ratio(&float, &worse), 78.0 / 80.0);
    }

    #[test]
    fn nothing_counted_is_nothing_lost() {
        for quality in Quality::ALL {
            let none = Counts::zero(0);
            assert_eq!((quality.value(&none), quality.items(&none)), (None, 0));
            assert_eq!((quality.mean_loss(&none), quality.loss_against(&none, &none)), (0.0, 0.0));
            assert_eq!(quality.performance_ratio(&none, &none), 1.0);
        }
    }

    #[test]
    fn values_are_read_with_their_unit() {
        assert_eq!(Quality::Perplexity.label(23.4561), "23.456");
        assert_eq!(Quality::Perplexity.label(f64::MAX), "overflow");
        assert_eq!(Quality::Accuracy.label(0.88964), "88.96 %");
    }
}
