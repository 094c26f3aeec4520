//! Operations per token, in two accountings.
//!
//! **As built.** In the graph of the published training code every linear reads real numbers: its input is a
//! layer norm of the residual stream (docs/model.md, The network). So every weight is one multiply-accumulate
//! (MAC), and the only accumulates without a multiplication (AC) are the spikes that populations add to the
//! residual. Without spikes, the halves of blocks add D numbers each. Where spikes enter the halves, their first linears read
//! token shifts of spikes, `m s + (1 - m) s~`, no MAC where both are 0: a share `(1 - rate)^2` if spikes of a neuron come
//! independently of its last one.
//!
//! **As published.** Spiking papers count the linears of a module as fed by the spikes of the population
//! before it: each weight costs `rate` accumulates, where `rate` is that population's measured spikes per
//! neuron and token (synaptic operations: tokens x firing rate x fan-out). The att of block 0 reads the
//! encoded input, which no population fires, and is counted in MACs, as these papers count their first layer.
//!
//! Rates are measured during evaluation, never assumed. Source: docs/model.md, The network and Energy.

use super::{CostModel, CostUnit, Sees};
use crate::candidate::Candidate;
use crate::measurement::Counts;
use crate::network::{Network, Placement, Population, Unit};
use crate::scheme::Scheme;

/// `macs`
pub const MACS: CostModel = CostModel {
    name: "macs",
    unit: CostUnit::PER_TOKEN,
    about: "multiply-accumulates, as the network is built",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(sum(subject.built(), |operations| operations.macs)),
};

/// `acs`
pub const ACS: CostModel = CostModel {
    name: "acs",
    unit: CostUnit::PER_TOKEN,
    about: "accumulates without a multiplication, as the network is built",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(sum(subject.built(), |operations| operations.acs)),
};

/// `published_macs`
pub const PUBLISHED_MACS: CostModel = CostModel {
    name: "published_macs",
    unit: CostUnit::PER_TOKEN,
    about: "multiply-accumulates, as spiking papers count them",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(sum(subject.published(), |operations| operations.macs)),
};

/// `published_acs`
pub const PUBLISHED_ACS: CostModel = CostModel {
    name: "published_acs",
    unit: CostUnit::PER_TOKEN,
    about: "accumulates by the measured spikes, as spiking papers count them",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(sum(subject.published(), |operations| operations.acs)),
};

/// Operations per token of one linear, or of the spikes that enter the residual.
#[derive(Debug, Clone, PartialEq)]
pub struct Operations {
    /// The linear; `None` for the residual.
    pub unit: Option<Unit>,
    /// Multiply-accumulates per token.
    pub macs: f64,
    /// Accumulates per token.
    pub acs: f64,
}

/// Operations per token of every linear and of the residual, as the network is built.
pub fn as_built(network: &Network, counts: &Counts) -> Vec<Operations> {
    let rates = counts.firing_rates(network.channels);
    let mut all = Vec::new();
    for part in network.tree().leaves() {
        let fed_by = part.population.as_ref().filter(|_| network.dynamics.placement == Placement::Before);
        // A token shift of spikes is a zero where neither this token's neuron fired nor the last one's.
        let share = fed_by.map(|population| 1.0 - (1.0 - rate(&rates, population)).powi(2));
        for unit in part.units.iter().filter(|unit| unit.is_linear()) {
            let share = share.filter(|_| network.reads_token_shift(unit)).unwrap_or(1.0);
            let macs = share * unit.weights() as f64;
            all.push(Operations { unit: Some(unit.clone()), macs, acs: 0.0 });
        }
    }
    let channels = f64::from(network.channels);
    let acs = match network.is_spiking() && network.dynamics.placement == Placement::After {
        true => rates.iter().sum::<f64>() * channels,
        false => network.halves() as f64 * channels,
    };
    all.push(Operations { unit: None, macs: 0.0, acs });
    all
}

/// Operations per token of every linear, as spiking papers count them.
pub fn as_published(network: &Network, counts: &Counts) -> Vec<Operations> {
    let rates = counts.firing_rates(network.channels);
    let count = |unit: &Unit, rate: Option<f64>| {
        let weights = unit.weights() as f64;
        let (macs, acs) = rate.map_or((weights, 0.0), |rate| (0.0, weights * rate));
        Operations { unit: Some(unit.clone()), macs, acs }
    };
    let mut operations = Vec::new();
    // The rate of the last population that added to the residual.
    let mut before = None;
    for part in network.tree().leaves() {
        let own = part.population.as_ref().map(|population| rate(&rates, population));
        let linears = part.units.iter().filter(|unit| unit.is_linear());
        match network.dynamics.placement {
            Placement::After => operations.extend(linears.map(|unit| count(unit, before))),
            Placement::Before => operations
                .extend(linears.map(|unit| count(unit, own.filter(|_| network.reads_token_shift(unit))))),
        }
        before = own.or(before);
    }
    operations
}

/// Spikes per neuron and token of a population.
fn rate(rates: &[f64], population: &Population) -> f64 {
    rates.get(population.index).copied().unwrap_or(0.0)
}

/// The sum of one of the numbers.
pub fn sum(operations: &[Operations], of: impl Fn(&Operations) -> f64) -> f64 {
    operations.iter().map(of).sum()
}

/// Bits of what enters the linear layer of `unit`.
pub(super) fn activation_bits(candidate: &Candidate, unit: &str) -> f64 {
    candidate.activation(unit).map_or(32.0, |activation| f64::from(activation.bits.get()))
}

/// True if a linear multiplies integers by integers.
pub(super) fn is_integer(candidate: &Candidate, unit: &str) -> bool {
    matches!(candidate.scheme(unit), Scheme::Integer { .. }) && candidate.activation(unit).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Dynamics;
    use crate::network::tests::PUBLISHED;

    /// Every population fires at `rate`, but the last one not at all.
    fn counts(rate: f64) -> Counts {
        let processed_tokens = 1000;
        let mut spikes = vec![(rate * 768.0 * processed_tokens as f64) as u64; 36];
        spikes[35] = 0;
        Counts { processed_tokens, spikes, ..Counts::default() }
    }

    #[test]
    fn where_spikes_enter_a_half_its_first_linears_skip_zeros() {
        let dynamics = Dynamics { placement: Placement::Before, ..Dynamics::SPIKEGPT };
        let network = Network { dynamics, ..PUBLISHED };
        let of = |all: &[Operations], name: &str| {
            let found = all.iter().find(|one| one.unit.as_ref().is_some_and(|unit| unit.name == name));
            let Operations { unit, macs, acs } = found.unwrap().clone();
            let weights = unit.unwrap().weights() as f64;
            (macs / weights, acs / weights)
        };
        let built = as_built(&network, &counts(0.25));
        assert_eq!(of(&built, "blocks.1.att.key.weight"), (1.0 - 0.75 * 0.75, 0.0));
        assert_eq!(of(&built, "blocks.1.att.output.weight"), (1.0, 0.0));
        assert_eq!(of(&built, "head.weight"), (1.0, 0.0));
        assert_eq!(built.last().unwrap().acs, 36.0 * 768.0, "both halves of 18 blocks add real numbers");
        let published = as_published(&network, &counts(0.25));
        assert_eq!(of(&published, "blocks.0.ffn.key.weight"), (0.0, 0.25));
        assert_eq!(of(&published, "blocks.0.ffn.value.weight"), (1.0, 0.0));
    }

    #[test]
    fn without_spikes_all_is_multiplied_and_halves_add_numbers() {
        let network = Network { dynamics: Dynamics::NO_SPIKES, ..PUBLISHED };
        let none = Counts { processed_tokens: 5, ..Counts::zero(0) };
        let (built, published) = (as_built(&network, &none), as_published(&network, &none));
        assert_eq!(sum(&built, |one| one.macs), 176_631_552.0);
        assert_eq!(sum(&built, |one| one.acs), 36.0 * 768.0);
        assert_eq!((sum(&published, |one| one.macs), sum(&published, |one| one.acs)), (176_631_552.0, 0.0));
    }

    #[test]
    fn as_built_every_weight_of_a_linear_is_a_mac() {
        let built = as_built(&PUBLISHED, &counts(0.25));
        assert_eq!(sum(&built, |ops| ops.macs), 176_631_552.0);
        assert_eq!(sum(&built, |ops| ops.acs), 35.0 * 0.25 * 768.0);
    }

    #[test]
    fn as_published_spikes_gate_every_linear_but_the_first_att() {
        let published = as_published(&PUBLISHED, &counts(0.25));
        let att = 4.0 * 768.0 * 768.0;
        let ffn = 9.0 * 768.0 * 768.0;
        assert_eq!(sum(&published, |ops| ops.macs), att);
        // The head follows the population that is silent.
        assert_eq!(sum(&published, |ops| ops.acs), 0.25 * (17.0 * att + 18.0 * ffn));
    }
}
