//! Validation of whole experiments: the fields by `qslm-common`, the strategy here.

use qslm_common::experiment::{Experiment, InvalidExperiment};

use crate::{AnyStrategy, Problem, limited};

/// Reason why an experiment cannot be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// A field of it.
    #[error(transparent)]
    Experiment(#[from] InvalidExperiment),
    /// No strategy that there is, in the words of `serde`.
    #[error("not an experiment: {0}")]
    Strategy(String),
    /// A parameter of the strategy.
    #[error(transparent)]
    Parameter(#[from] Problem),
}

impl Invalid {
    /// Key path of the value to change in a spec; `None` if it is about no key.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Experiment(invalid) => invalid.key(),
            Self::Strategy(_) => Some("strategy".to_owned()),
            Self::Parameter(problem) => Some(problem.key.to_owned()),
        }
    }
}

/// Reads a canonical text and checks all of it. The strategy comes out in canonical order, so that an experiment has one
/// id however it was written.
///
/// # Errors
/// [`Invalid`] names the first thing that does not fit.
pub fn decode(text: &str) -> Result<Experiment, Invalid> {
    let mut experiment = Experiment::decode(text)?;
    let strategy = parse(&experiment)?;
    experiment.strategy = strategy.spec();
    match strategy_problems(&strategy, &experiment).into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(experiment),
    }
}

/// Problems of an experiment: everything that does not fit, at once.
pub fn problems(experiment: &Experiment) -> Vec<Invalid> {
    let mut problems: Vec<Invalid> = experiment.problems().into_iter().map(Into::into).collect();
    match parse(experiment) {
        Err(error) => problems.push(error),
        Ok(strategy) => problems.extend(strategy_problems(&strategy, experiment).into_iter().map(Into::into)),
    }
    problems
}

fn parse(experiment: &Experiment) -> Result<AnyStrategy, Invalid> {
    AnyStrategy::parse(&experiment.strategy).map_err(|error| Invalid::Strategy(error.to_string()))
}

/// Problems of the strategy. It is not looked at where what it builds on is wrong itself.
fn strategy_problems(strategy: &AnyStrategy, experiment: &Experiment) -> Vec<Problem> {
    let Experiment { network, space, .. } = experiment;
    if network.validate().is_err() || space.validate(network).is_err() {
        return Vec::new();
    }
    strategy.problems(experiment).into_iter().chain(limited::problem(experiment)).collect()
}

#[cfg(test)]
mod tests {
    use qslm_common::cost::Cost;
    use qslm_common::scheme::Width;
    use qslm_common::space::{MembraneSpace, Tier};
    use qslm_common::trade_off::TradeOff;
    use qslm_testing::experiment;

    use super::*;
    use crate::{Grid, Ranked, Tiered};

    fn refused(experiment: &Experiment) -> String {
        let first = problems(experiment).into_iter().next();
        let words = first.map(|problem| problem.to_string()).unwrap_or_default();
        assert_eq!(decode(&experiment.encode()).unwrap_err().to_string(), words);
        words
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let bits = Tiered { sensitivity_bits: Width::try_from(5).ok(), ..Tiered::default() };
        assert_eq!(refused(&experiment(bits)), "strategy.sensitivity_bits = 5: not one of space.bits");
        let sequences = Tiered { sensitivity_sequences: Some(0), ..Tiered::default() };
        let words = "strategy.sensitivity_sequences = 0: expected 1 or more";
        assert_eq!(refused(&experiment(sequences)), words);
        let words = "strategy: 30517578125 candidates: expected 1 to 1000000";
        assert_eq!(refused(&experiment(Grid { tier: Tier::Matrix })), words);
    }

    #[test]
    fn an_experiment_has_one_id_however_its_strategy_is_written() {
        let experiment = experiment(Tiered { sensitivity_sequences: Some(3), ..Tiered::default() });
        let text = experiment.encode();
        let written = r#""strategy":{"kind":"qslm","sensitivity_bits":null,"sensitivity_sequences":3}"#;
        assert!(text.contains(written), "{text}");
        let other = text.replace(written, r#""strategy":{"sensitivity_sequences":3,"kind":"qslm"}"#);
        assert_eq!(decode(&other).unwrap().id(), experiment.id());
    }

    #[test]
    fn a_search_of_activations_needs_a_trade_off_that_sees_them() {
        let mut all = experiment(Tiered::default());
        all.space.membranes = Some(MembraneSpace { bits: vec![8, 4], integer_bits: 1 });
        assert!(refused(&all).contains("trade_off.cost = \"footprint\""));
        all.trade_off = TradeOff::EpsilonConstraint { cost: Cost::Energy };
        assert_eq!(decode(&all.encode()), Ok(all.clone()));
        // 5 widths of 2 blocks and the head, 2 of the membranes of 2 blocks.
        assert_eq!(all.combinations(Tier::Block), 125 * 4);
        all.trade_off = TradeOff::EpsilonConstraint { cost: Cost::Latency };
        assert!(refused(&all).starts_with("trade_off.cost: latency cannot be modelled"));
    }

    #[test]
    fn an_order_names_every_group_once() {
        let ranked = |order: &[&str]| {
            let order = order.iter().map(|name| (*name).to_owned()).collect();
            experiment(Ranked { metric: "lsaq".to_owned(), tier: Tier::Block, order })
        };
        assert_eq!(problems(&ranked(&["head", "blocks.1", "blocks.0"])), []);
        for order in [
            &["head", "blocks.1"][..],
            &["head", "blocks.1", "blocks.1"],
            &["head", "blocks.1", "blocks.0", "x"],
        ] {
            assert!(refused(&ranked(order)).starts_with("strategy.order: expected every group"), "{order:?}");
        }
        let mut more = ranked(&["head", "blocks.1", "blocks.0"]);
        more.space.membranes = Some(MembraneSpace { bits: vec![8], integer_bits: 1 });
        assert!(refused(&more).starts_with("strategy ranked orders weights only"));
    }
}
