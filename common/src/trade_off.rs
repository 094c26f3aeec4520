//! Trade-offs: the scalar that picks one candidate of the front.
//!
//! With P the performance (1 / perplexity, or accuracy), M the bytes, and 0 marking the float model. The
//! paper names the trade-off without a formula; these are the three that this project offers.

use serde::{Deserialize, Serialize};

use crate::measurement::Counts;
use crate::objective::Measured;

/// A scalar to maximise over the candidates that meet the constraints.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TradeOff {
    /// `P/P0 - mu M/M0`.
    WeightedSum {
        /// What the whole float footprint is worth in shares of performance, 0 to 1000.
        mu: f64,
    },
    /// `(1 - M/M0) exp(-k max(0, 1 - P/P0))`.
    Product {
        /// How steeply a loss of performance is punished, 0 to 1000.
        k: f64,
    },
    /// `-M/M0`: the smallest candidate that meets the constraints. Needs a bound on quality.
    EpsilonConstraint,
}

/// A trade-off with a number that makes no sense, or without the constraint it lives by.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidTradeOff {
    /// A weight outside 0 to 1000.
    #[error("{name} = {value}: expected 0 to 1000")]
    Weight {
        /// `mu` or `k`.
        name: &'static str,
        /// What it was.
        value: f64,
    },
    /// Without a bound on quality the smallest candidate is always the broken one.
    #[error("epsilon_constraint needs max_perplexity_increase or max_accuracy_drop")]
    Unbounded,
}

impl Default for TradeOff {
    fn default() -> Self {
        Self::WeightedSum { mu: 1.0 }
    }
}

impl TradeOff {
    /// Checks the weights. `bounds_quality` says whether the experiment bounds the loss of quality.
    ///
    /// # Errors
    /// [`InvalidTradeOff`] says what is wrong.
    pub fn validate(&self, bounds_quality: bool) -> Result<(), InvalidTradeOff> {
        let (name, value) = match *self {
            Self::WeightedSum { mu } => ("mu", mu),
            Self::Product { k } => ("k", k),
            Self::EpsilonConstraint if bounds_quality => return Ok(()),
            Self::EpsilonConstraint => return Err(InvalidTradeOff::Unbounded),
        };
        let sane = (0.0..=1000.0).contains(&value);
        if sane { Ok(()) } else { Err(InvalidTradeOff::Weight { name, value }) }
    }

    /// The value of a measured candidate; larger is better, always finite.
    pub fn value(&self, float: &Counts, float_bytes: u64, measured: Measured<'_>) -> f64 {
        let memory = measured.footprint_bytes as f64 / float_bytes.max(1) as f64;
        let performance = performance_ratio(float, measured.counts);
        match *self {
            Self::WeightedSum { mu } => performance - mu * memory,
            Self::Product { k } => (1.0 - memory) * (-k * (1.0 - performance).max(0.0)).exp(),
            Self::EpsilonConstraint => -memory,
        }
    }
}

/// `P/P0`: `PPL0 / PPL` for a language model, `A / A0` for a classifier.
pub fn performance_ratio(float: &Counts, counts: &Counts) -> f64 {
    match (float.perplexity(), counts.perplexity()) {
        (Some(before), Some(after)) => before / after,
        _ => {
            let before = float.accuracy().unwrap_or(0.0);
            if before > 0.0 { counts.accuracy().unwrap_or(0.0) / before } else { 1.0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(hits: u64) -> Counts {
        Counts { hits, sentences: 100, ..Default::default() }
    }

    fn value(trade_off: TradeOff, correct: u64, bytes: u64) -> f64 {
        trade_off.value(&hits(80), 1000, Measured { counts: &hits(correct), footprint_bytes: bytes })
    }

    #[test]
    fn values_follow_the_formulas() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(value(TradeOff::WeightedSum { mu: 0.5 }, 60, 200), 0.75 - 0.1);
        close(value(TradeOff::Product { k: 2.0 }, 60, 200), 0.8 * (-0.5f64).exp());
        close(value(TradeOff::Product { k: 2.0 }, 90, 200), 0.8);
        close(value(TradeOff::EpsilonConstraint, 60, 200), -0.2);
    }

    #[test]
    fn a_weight_that_makes_no_sense_is_refused() {
        assert!(TradeOff::WeightedSum { mu: f64::NAN }.validate(true).is_err());
        assert!(TradeOff::Product { k: -1.0 }.validate(true).is_err());
        assert_eq!(TradeOff::EpsilonConstraint.validate(false), Err(InvalidTradeOff::Unbounded));
        assert_eq!(TradeOff::default().validate(false), Ok(()));
    }
}
