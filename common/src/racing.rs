//! Racing: a candidate is pruned before all of the data was evaluated, once it is clear that it loses more
//! quality than the constraints allow.
//!
//! The name is the field's (Hoeffding races, F-Race): candidates run over the data side by side, and those
//! that cannot win leave. What leaves is not on the front, and neither is what was measured and turned out to
//! lose too much, so a front does not depend on who left when.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::constraints::Constraints;
use crate::measurement::Counts;
use crate::quality::Quality;

/// Rule by which a candidate is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Racing {
    /// Pruned once the shards so far prove that it loses too much, even if it made no error on the others.
    Proof,
    /// Pruned, too, once one can be so sure (0.9 to below 1) of that; see [`Race::is_lost`].
    Confidence(f64),
}

/// A text that says no such thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("racing {0:?}: expected \"proof\" or \"confidence:P\" with P from 0.9 to below 1")]
pub struct InvalidRacing(String);

/// Race: the float model's losses that candidates of one experiment run against.
#[derive(Debug, Clone)]
pub struct Race {
    racing: Racing,
    /// Quality that may be lost.
    quality: Quality,
    /// Largest loss on all of the data: nats, or misses.
    allowed: f64,
    /// Largest loss per token or sentence, against the float model.
    allowed_each: f64,
    /// The float model's counts of every shard; empty if only their sum is known.
    shards: Vec<Counts>,
}

/// Shards of which a spread can be told.
const FEWEST: usize = 3;
/// Bound on what rounding may add up to, as a share.
const ROUNDING: f64 = 1e-9;

impl Race {
    /// Race against the float model's counts: of all data, and of every shard in order if they are known.
    /// `None` if the constraints do not bound quality, or there is nothing to compare.
    pub fn new(
        racing: Racing,
        constraints: &Constraints,
        float: &Counts,
        shards: Vec<Counts>,
    ) -> Option<Self> {
        let quality = float.quality();
        let items = quality.items(float);
        let allowed_each = quality.difference_of(constraints.largest_loss(quality)?);
        let allowed = quality.summed_loss(float) + allowed_each * items as f64;
        (items > 0).then_some(Self { racing, quality, allowed, allowed_each, shards })
    }

    /// True if a candidate has lost, given the counts of some of its `of` shards with their indexes, in
    /// order. More of them never take that back, so it does not matter which came in meanwhile.
    ///
    /// Losses are summed negative log-likelihood, or misses; neither is ever negative, so a sum that exceeds
    /// what all of the data may lose is a proof. With a confidence P, the candidate has lost, too, if a
    /// one-sided Student's t test rejects that it is within what is allowed. The sample are its first k
    /// shards (without replacement), what is tested is the mean of their differences to the float model per
    /// token or sentence. It is tested at certain k, `m` of them, at a level of (1 - P) / m each.
    pub fn is_lost<'a>(&self, shards: impl Iterator<Item = (u32, &'a Counts)>, of: u32) -> bool {
        // A trial that another experiment opened may be cut otherwise.
        let floats = if self.shards.len() == of as usize { &self.shards[..] } else { &[] };
        let (mut lost, mut excesses) = (0.0, Vec::new());
        for (index, shard) in shards {
            lost += self.quality.summed_loss(shard);
            // Only shards without a gap before them.
            if let Some(float) = floats.get(index as usize).filter(|_| index as usize == excesses.len()) {
                let items = self.quality.items(float).max(1) as f64;
                let more = self.quality.summed_loss(shard) - self.quality.summed_loss(float);
                excesses.push(more / items - self.allowed_each);
            }
        }
        let proved = lost > self.allowed * (1.0 + ROUNDING);
        match self.racing {
            Racing::Proof => proved,
            Racing::Confidence(sure) => proved || exceeds(&excesses, of, 1.0 - sure),
        }
    }
}

/// True if the mean of `of` numbers is above 0, given the first of them, at this level.
fn exceeds(sample: &[f64], of: u32, level: f64) -> bool {
    let looks: Vec<usize> = std::iter::successors(Some(FEWEST), |k| Some((k + 1).max(k * 5 / 4)))
        .take_while(|k| *k < of as usize)
        .collect();
    let level = level / looks.len().max(1) as f64;
    looks.into_iter().take_while(|k| *k <= sample.len()).any(|k| is_above(&sample[..k], of, level))
}

fn is_above(sample: &[f64], of: u32, level: f64) -> bool {
    let n = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / n;
    let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let error = (variance / n * (1.0 - n / f64::from(of))).sqrt();
    // No spread at all says that the sample is too small, not that it is certain.
    if !mean.is_finite() || mean <= 0.0 || error <= 0.0 {
        return false;
    }
    StudentsT::new(0.0, 1.0, n - 1.0).is_ok_and(|distribution| distribution.sf(mean / error) < level)
}

impl fmt::Display for Racing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proof => f.write_str("proof"),
            Self::Confidence(sure) => write!(f, "confidence:{sure}"),
        }
    }
}

impl FromStr for Racing {
    type Err = InvalidRacing;

    fn from_str(text: &str) -> Result<Self, InvalidRacing> {
        if text == "proof" {
            return Ok(Self::Proof);
        }
        let sure = text.strip_prefix("confidence:").and_then(|sure| sure.parse().ok());
        let sure = sure.filter(|sure| (0.9..1.0).contains(sure));
        sure.map(Self::Confidence).ok_or_else(|| InvalidRacing(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Racing {
    type Error = InvalidRacing;

    fn try_from(text: String) -> Result<Self, InvalidRacing> {
        text.parse()
    }
}

impl From<Racing> for String {
    fn from(racing: Racing) -> Self {
        racing.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measurement::Nll;

    fn tokens(nats: f64) -> Counts {
        Counts {
            nll: Nll::from_nats(nats).unwrap(),
            scored_tokens: 100,
            processed_tokens: 100,
            ..Counts::zero(0)
        }
    }

    fn sentences(hits: u64) -> Counts {
        Counts { hits, sentences: 100, processed_tokens: 900, ..Counts::zero(0) }
    }

    fn sum(shards: &[Counts]) -> Counts {
        let mut total = Counts::zero(0);
        shards.iter().for_each(|shard| total.add(shard).unwrap());
        total
    }

    fn at_most(increase: f64) -> Constraints {
        let (max_perplexity_increase, max_accuracy_drop) = (Some(increase), Some(increase));
        Constraints { max_perplexity_increase, max_accuracy_drop, ..Constraints::default() }
    }

    fn race(racing: Racing, float: &[Counts]) -> Race {
        Race::new(racing, &at_most(0.03), &sum(float), float.to_vec()).unwrap()
    }

    fn is_lost(race: &Race, shards: &[Counts], settled: usize) -> bool {
        race.is_lost((0..).zip(&shards[..settled]), shards.len() as u32)
    }

    /// Shards of different difficulty, and a candidate that loses `more` nats per token, give or take
    /// `noise`.
    fn shards(more: f64, noise: f64) -> (Vec<Counts>, Vec<Counts>) {
        let float: Vec<f64> = (0..16).map(|i| 400.0 + 80.0 * f64::from(i).sin()).collect();
        let shifted = float
            .iter()
            .enumerate()
            .map(|(i, nats)| tokens(nats + 100.0 * (more + noise * (i as f64 * 2.3).cos())));
        (float.iter().map(|nats| tokens(*nats)).collect(), shifted.collect())
    }

    proptest! {
        #[test]
        fn a_proof_is_never_wrong(
            float in prop::collection::vec(1.0f64..900.0, 8),
            candidate in prop::collection::vec(1.0f64..900.0, 8),
            settled in 0usize..=8,
        ) {
            let float: Vec<Counts> = float.into_iter().map(tokens).collect();
            let candidate: Vec<Counts> = candidate.into_iter().map(tokens).collect();
            let allowed = at_most(0.03).allow_quality(&sum(&float), &sum(&candidate));
            prop_assert!(!(allowed && is_lost(&race(Racing::Proof, &float), &candidate, settled)));
        }

        #[test]
        fn a_proof_about_hits_is_never_wrong(
            float in prop::collection::vec(0u64..=100, 8),
            candidate in prop::collection::vec(0u64..=100, 8),
            settled in 0usize..=8,
        ) {
            let float: Vec<Counts> = float.into_iter().map(sentences).collect();
            let candidate: Vec<Counts> = candidate.into_iter().map(sentences).collect();
            let allowed = at_most(0.03).allow_quality(&sum(&float), &sum(&candidate));
            prop_assert!(!(allowed && is_lost(&race(Racing::Proof, &float), &candidate, settled)));
        }
    }

    proptest! {
        #[test]
        fn a_verdict_stays_whatever_else_comes_in(
            more in 0.0f64..0.4,
            noise in 0.0f64..0.3,
            settled in prop::collection::vec(any::<bool>(), 16),
            also in prop::collection::vec(any::<bool>(), 16),
        ) {
            let (float, candidate) = shards(more, noise);
            let of_those = |is_in: &dyn Fn(usize) -> bool| -> Vec<(u32, Counts)> {
                (0..16).filter(|i| is_in(*i)).map(|i| (i as u32, candidate[i].clone())).collect()
            };
            for racing in [Racing::Proof, Racing::Confidence(0.95)] {
                let race = race(racing, &float);
                let lost = |shards: &[(u32, Counts)]| {
                    race.is_lost(shards.iter().map(|(i, shard)| (*i, shard)), 16)
                };
                let (before, after) = (of_those(&|i| settled[i]), of_those(&|i| settled[i] || also[i]));
                prop_assert!(!lost(&before) || lost(&after));
            }
        }
    }

    #[test]
    fn what_is_broken_leaves_before_the_end() {
        let (float, broken) = shards(4.0, 0.0);
        let race = race(Racing::Proof, &float);
        let left = (0..=16).find(|settled| is_lost(&race, &broken, *settled));
        assert_eq!(left, Some(9), "twice the loss: about half of the data");
        let (_, float_again) = shards(0.0, 0.0);
        assert!(!is_lost(&race, &float_again, 16));
    }

    #[test]
    fn with_a_confidence_what_loses_clearly_leaves_early_and_what_does_not_stays() {
        let sure = Racing::Confidence(0.999);
        let (float, poor) = shards(0.2, 0.02);
        let left = |float: &[Counts], shards: &[Counts]| {
            let race = race(sure, float);
            (0..=16).find(|settled| is_lost(&race, shards, *settled))
        };
        assert!(
            left(&float, &poor).is_some_and(|settled| (3..=6).contains(&settled)),
            "{:?}",
            left(&float, &poor)
        );
        assert_eq!(left(&float, &shards(0.02, 0.02).1), None, "within what is allowed");
        assert_eq!(left(&float, &shards(0.031, 0.05).1), Some(16), "too close to tell before the end");
        // Without the float model's shards there is only the proof.
        let unpaired = Race::new(sure, &at_most(0.03), &sum(&float), vec![]).unwrap();
        assert!(!is_lost(&unpaired, &poor, 8));
        // Nor is anything compared with shards of another cut.
        let paired = race(sure, &float);
        assert!(paired.is_lost((0..).zip(&poor[..8]), 16) && !paired.is_lost((0..).zip(&poor[..8]), 17));
    }

    #[test]
    fn nothing_races_without_a_bound() {
        assert!(Race::new(Racing::Proof, &Constraints::default(), &tokens(1.0), vec![]).is_none());
        assert!(Race::new(Racing::Proof, &at_most(0.1), &Counts::zero(0), vec![]).is_none());
    }

    #[test]
    fn texts_are_read_back_and_others_refused() {
        for racing in [Racing::Proof, Racing::Confidence(0.999), Racing::Confidence(0.9)] {
            assert_eq!(racing.to_string().parse(), Ok(racing));
        }
        for wrong in ["", "Proof", "confidence", "confidence:1", "confidence:0.5", "confidence:nan"] {
            let error = wrong.parse::<Racing>().unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")) && error.contains("below 1"), "{error}");
        }
    }
}
