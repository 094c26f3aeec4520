//! Spread: how much a candidate's losses scatter around the float model's, sequence by sequence; and the interval that
//! follows for its loss of quality.
//!
//! What is summed are integers, as for [`Counts`], so that partial sums add up to the same bits in any order. Sequences are
//! compared in pairs, the candidate's loss with the float model's of the same window or sentence: most of what makes a
//! window hard is the same for both, so the interval is much narrower than that of either alone.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::measurement::Counts;
use crate::quality::Quality;

/// Confidence of an interval.
pub const CONFIDENCE: f64 = 0.95;

/// Units of a difference: 2^-12 nat, in which its square still fits for any sane loss.
const UNITS_PER_NAT: f64 = (1u64 << 12) as f64;
/// Units of 2^-24 nat, those of a loss, that make one of these.
const PER_UNIT: i128 = 1 << 12;

/// Spread of a candidate's losses around the float model's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Sequences that were compared: windows or sentences.
    pub sequences: u64,
    /// Summed squared differences. Of a language model in units of (2^-12 nat)^2; of a classifier the number of sentences
    /// that one of the two gets right and the other does not. The largest number stands for all that are larger.
    pub squares: u64,
}

impl Spread {
    /// Spread of one sequence, of its counts under the float model and the candidate.
    pub fn of(quality: Quality, float: &Counts, counts: &Counts) -> Self {
        let squares = match quality {
            Quality::Perplexity => {
                let difference = i128::from(counts.nll.0) - i128::from(float.nll.0);
                // Rounded half up; 2^64 / 2^12 squared is below 2^127.
                let units = (difference + PER_UNIT / 2).div_euclid(PER_UNIT);
                u64::try_from(units * units).unwrap_or(u64::MAX)
            }
            Quality::Accuracy => counts.hits.abs_diff(float.hits),
        };
        Self { sequences: 1, squares }
    }

    /// Adds `other` to this. Commutative and associative.
    pub fn add(&mut self, other: Self) {
        self.sequences = self.sequences.saturating_add(other.sequences);
        self.squares = self.squares.saturating_add(other.squares);
    }

    /// 95 % interval of the loss of quality against the float model, of the counts of both over the same sequences: `mean +-
    /// t * s / sqrt(n)` of the paired differences, with Student's t of n - 1 degrees of freedom. `None` of fewer than two
    /// sequences, or of differences too large to add.
    pub fn loss_interval(&self, float: &Counts, counts: &Counts) -> Option<(f64, f64)> {
        let quality = float.quality();
        let items = quality.items(float) as f64;
        if self.sequences < 2 || self.squares == u64::MAX || items <= 0.0 {
            return None;
        }
        let n = self.sequences as f64;
        let sum = quality.summed_loss(counts) - quality.summed_loss(float);
        let squares = match quality {
            Quality::Perplexity => self.squares as f64 / (UNITS_PER_NAT * UNITS_PER_NAT),
            Quality::Accuracy => self.squares as f64,
        };
        // Rounding may leave a little less than nothing where all differences are the same.
        let variance = ((squares - sum * sum / n) / (n - 1.0)).max(0.0);
        let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.5 + CONFIDENCE / 2.0);
        let half = t * (variance * n).sqrt() / items;
        let mean = sum / items;
        Some((quality.loss_of(mean - half), quality.loss_of(mean + half)))
    }
}

/// Sum of spreads; `None` if one of them is not known.
pub fn total(spreads: impl IntoIterator<Item = Option<Spread>>) -> Option<Spread> {
    spreads.into_iter().try_fold(Spread::default(), |mut total, spread| {
        total.add(spread?);
        Some(total)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measurement::Nll;

    fn window(nats: f64) -> Counts {
        Counts { nll: Nll::from_nats(nats).unwrap(), scored_tokens: 100, ..Counts::zero(0) }
    }

    fn sentence(hit: bool) -> Counts {
        Counts { hits: u64::from(hit), sentences: 1, ..Counts::zero(0) }
    }

    /// Counts of both, and their spread.
    fn paired(quality: Quality, pairs: &[(Counts, Counts)]) -> (Counts, Counts, Spread) {
        let (mut float, mut counts, mut spread) = (Counts::zero(0), Counts::zero(0), Spread::default());
        for (before, after) in pairs {
            float.add(before).unwrap();
            counts.add(after).unwrap();
            spread.add(Spread::of(quality, before, after));
        }
        (float, counts, spread)
    }

    #[test]
    fn an_interval_is_students_of_the_differences() {
        // Differences of 1, 2, 3 and 6 nats of 100 tokens each: mean 0.03 per token, s = 2.1602, t(3) = 3.1824.
        let pairs = [1.0, 2.0, 3.0, 6.0].map(|more| (window(500.0), window(500.0 + more)));
        let (float, counts, spread) = paired(Quality::Perplexity, &pairs);
        assert_eq!(spread, Spread { sequences: 4, squares: 50 << 24 });
        let (low, high) = spread.loss_interval(&float, &counts).unwrap();
        let half = 3.182_446_305 * (14.0_f64 / 3.0).sqrt() / 4.0_f64.sqrt() / 100.0;
        assert!((low.ln_1p() - (0.03 - half)).abs() < 1e-9, "{low}");
        assert!((high.ln_1p() - (0.03 + half)).abs() < 1e-9, "{high}");
        // The loss itself lies between.
        let loss = Quality::Perplexity.loss_against(&float, &counts);
        assert!(low < loss && loss < high);
    }

    #[test]
    fn sentences_that_both_get_right_or_wrong_scatter_nothing() {
        let pairs = |both: usize, lost: usize, won: usize| {
            let mut pairs = vec![(sentence(true), sentence(true)); both];
            pairs.extend(vec![(sentence(true), sentence(false)); lost]);
            pairs.extend(vec![(sentence(false), sentence(true)); won]);
            paired(Quality::Accuracy, &pairs)
        };
        let (float, counts, spread) = pairs(90, 8, 2);
        assert_eq!(spread, Spread { sequences: 100, squares: 10 });
        let (low, high) = spread.loss_interval(&float, &counts).unwrap();
        // Mean 0.06; s^2 = (10 - 36 / 100) / 99; t(99) = 1.9842.
        let half = 1.984_216_95 * ((10.0_f64 - 0.36) / 99.0 / 100.0).sqrt();
        assert!((low - (0.06 - half)).abs() < 1e-8 && (high - (0.06 + half)).abs() < 1e-8, "{low} {high}");
        let (float, counts, spread) = pairs(100, 0, 0);
        assert_eq!(spread.loss_interval(&float, &counts), Some((0.0, 0.0)));
    }

    #[test]
    fn where_nothing_can_be_told_there_is_no_interval() {
        let (float, counts, spread) = paired(Quality::Perplexity, &[(window(1.0), window(2.0))]);
        assert_eq!(spread.loss_interval(&float, &counts), None, "one pair");
        let far = Nll::LARGEST;
        let pairs = [(window(0.0), window(far)), (window(0.0), window(1.0))];
        let (float, counts, spread) = paired(Quality::Perplexity, &pairs);
        assert_eq!((spread.squares, spread.loss_interval(&float, &counts)), (u64::MAX, None));
        assert_eq!(Spread::default().loss_interval(&Counts::zero(0), &Counts::zero(0)), None);
        assert_eq!(total([Some(spread), None]), None);
        assert_eq!(total([]), Some(Spread::default()));
    }

    proptest! {
        #[test]
        fn differences_are_rounded_alike_in_both_directions(a in any::<u64>(), b in any::<u64>()) {
            let counts = |nll| Counts { nll: Nll(nll), scored_tokens: 1, ..Counts::zero(0) };
            let squares = |a, b| Spread::of(Quality::Perplexity, &counts(a), &counts(b)).squares as f64;
            let (there, back) = (squares(a, b).sqrt(), squares(b, a).sqrt());
            // Half a unit is rounded up.
            prop_assert!((there - back).abs() <= 1.0 + there * 1e-9);
        }

        #[test]
        fn spreads_add_up_in_any_order(squares in prop::collection::vec(0u64..1 << 60, 0..8), cut in 0usize..8) {
            let spread = |squares: &u64| Some(Spread { sequences: 1, squares: *squares });
            let (head, tail) = squares.split_at(cut.min(squares.len()));
            let parts = [total(tail.iter().map(spread)), total(head.iter().map(spread))];
            prop_assert_eq!(total(parts), total(squares.iter().map(spread)));
        }
    }
}
