//! Trade-offs: the scalar that picks one candidate of the front.
//!
//! With P the performance (1 / perplexity, or accuracy), M a cost (the bytes, unless another is named), and 0
//! marking the float model. The paper names the trade-off without a formula; these are the three that this
//! project offers.

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::elementary::exp;
use crate::objective::Measured;

/// A scalar to maximise over the candidates that meet the constraints.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TradeOff {
    /// `P/P0 - mu M/M0`.
    WeightedSum {
        /// Weight: what all of the float model's cost is worth in shares of performance, 0 to 1000.
        mu: f64,
        /// M.
        #[serde(default, skip_serializing_if = "is_footprint")]
        cost: Cost,
    },
    /// `(1 - M/M0) exp(-k max(0, 1 - P/P0))`.
    Product {
        /// Steepness with which a loss of performance is punished, 0 to 1000.
        k: f64,
        /// M.
        #[serde(default, skip_serializing_if = "is_footprint")]
        cost: Cost,
    },
    /// `-M/M0`: the cheapest candidate that meets the constraints. Needs a bound on quality.
    EpsilonConstraint {
        /// M.
        #[serde(default, skip_serializing_if = "is_footprint")]
        cost: Cost,
    },
}

fn is_footprint(cost: &Cost) -> bool {
    *cost == Cost::Footprint
}

/// A trade-off with a number that makes no sense, or without the constraint it lives by.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidTradeOff {
    /// A weight outside 0 to 1000.
    #[error("{name} = {value}: expected 0 to 1000")]
    Weight {
        /// `mu` or `k`.
        name: &'static str,
        /// The value that was given.
        value: f64,
    },
    /// No bound on quality, without which the smallest candidate is always the broken one.
    #[error(
        "epsilon_constraint needs max_perplexity_increase, max_accuracy_drop, max_kl or a bound on a further task"
    )]
    Unbounded,
}

impl InvalidTradeOff {
    /// Key within `[trade_off]`; `None` for the whole table.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Weight { name, .. } => Some(name),
            Self::Unbounded => None,
        }
    }
}

impl Default for TradeOff {
    fn default() -> Self {
        Self::WeightedSum { mu: 1.0, cost: Cost::Footprint }
    }
}

impl TradeOff {
    /// Checks the weights. `bounds_quality` says whether the experiment bounds the loss of quality.
    ///
    /// # Errors
    /// [`InvalidTradeOff`] says what is wrong.
    pub fn validate(&self, bounds_quality: bool) -> Result<(), InvalidTradeOff> {
        let (name, value) = match *self {
            Self::WeightedSum { mu, .. } => ("mu", mu),
            Self::Product { k, .. } => ("k", k),
            Self::EpsilonConstraint { .. } if bounds_quality => return Ok(()),
            Self::EpsilonConstraint { .. } => return Err(InvalidTradeOff::Unbounded),
        };
        let sane = (0.0..=1000.0).contains(&value);
        if sane { Ok(()) } else { Err(InvalidTradeOff::Weight { name, value }) }
    }

    /// M: the cost that is weighed against performance.
    pub fn cost(&self) -> Cost {
        match *self {
            Self::WeightedSum { cost, .. }
            | Self::Product { cost, .. }
            | Self::EpsilonConstraint { cost } => cost,
        }
    }

    /// The value of a measured candidate; larger is better, always finite.
    pub fn value(&self, float: Measured<'_>, measured: Measured<'_>) -> f64 {
        let cost = |measured: Measured<'_>| measured.cost(self.cost()).unwrap_or(0.0);
        let before = cost(float);
        let cost = if before > 0.0 { cost(measured) / before } else { 1.0 };
        let performance = float.counts.quality().performance_ratio(float.counts, measured.counts);
        match *self {
            Self::WeightedSum { mu, .. } => performance - mu * cost,
            Self::Product { k, .. } => (1.0 - cost) * exp(-k * (1.0 - performance).max(0.0)),
            Self::EpsilonConstraint { .. } => -cost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Costs;
    use std::collections::BTreeMap;

    use crate::measurement::Counts;

    fn hits(hits: u64) -> Counts {
        Counts { hits, sentences: 100, ..Default::default() }
    }

    const FOOTPRINT: Cost = Cost::Footprint;

    fn value(trade_off: TradeOff, correct: u64, bytes: u64) -> f64 {
        let [float, now] = [8.0, 6.0].map(|joules| Costs::from([(Cost::Energy, joules)]));
        let task_spreads = &BTreeMap::new();
        let measured = |counts, footprint_bytes, costs| {
            let spread = None;
            Measured { counts, spread, task_spreads, footprint_bytes, costs }
        };
        trade_off.value(measured(&hits(80), 1000, &float), measured(&hits(correct), bytes, &now))
    }

    #[test]
    fn values_follow_the_formulas() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(value(TradeOff::WeightedSum { mu: 0.5, cost: FOOTPRINT }, 60, 200), 0.75 - 0.1);
        close(value(TradeOff::Product { k: 2.0, cost: FOOTPRINT }, 60, 200), 0.8 * (-0.5f64).exp());
        close(value(TradeOff::Product { k: 2.0, cost: FOOTPRINT }, 90, 200), 0.8);
        close(value(TradeOff::EpsilonConstraint { cost: FOOTPRINT }, 60, 200), -0.2);
        close(value(TradeOff::EpsilonConstraint { cost: Cost::Energy }, 60, 200), -0.75);
    }

    #[test]
    fn a_weight_that_makes_no_sense_is_refused() {
        assert!(TradeOff::WeightedSum { mu: f64::NAN, cost: FOOTPRINT }.validate(true).is_err());
        assert!(TradeOff::Product { k: -1.0, cost: FOOTPRINT }.validate(true).is_err());
        let unbounded = TradeOff::EpsilonConstraint { cost: FOOTPRINT };
        assert_eq!(unbounded.validate(false), Err(InvalidTradeOff::Unbounded));
        assert_eq!(TradeOff::default().validate(false), Ok(()));
    }
}
