//! The recurrent state of one sequence: what is kept from token to token.
//!
//! Every block keeps floats per channel for its token shifts and the sums of its WKV, and every LIF
//! population a potential per neuron in the candidate's own width.

use super::{CostModel, CostUnit, Sees};
use crate::candidate::Candidate;
use crate::network::Network;

/// `state`
pub const STATE: CostModel = CostModel {
    name: "state",
    unit: CostUnit::BYTES,
    about: "bytes of the recurrent state of one sequence",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(state_bytes(subject.network, subject.candidate)),
};

/// Bytes of the recurrent state of one sequence: floats for the token shifts and the WKV sums, and D
/// potentials per LIF population in their own width.
pub fn state_bytes(network: &Network, candidate: &Candidate) -> f64 {
    state_bits(network, candidate) / 8.0
}

/// Bits of the same state.
pub(super) fn state_bits(network: &Network, candidate: &Candidate) -> f64 {
    let membranes = network.populations().iter().map(|name| membrane_bits(candidate, name)).sum::<f64>();
    f64::from(network.channels) * membranes + network.state_numbers() as f64 * 32.0
}

fn membrane_bits(candidate: &Candidate, population: &str) -> f64 {
    candidate.membrane(population).map_or(32.0, |membrane| f64::from(membrane.bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    #[test]
    fn the_state_is_seven_floats_per_channel_and_block_and_shrinks_with_the_membranes() {
        let float = Candidate::float(&PUBLISHED);
        assert_eq!(state_bytes(&PUBLISHED, &float), f64::from(7 * 768 * 18 * 4));
        let populations = PUBLISHED.populations();
        let eight = float.with_membranes(populations.iter().map(String::as_str), "fixed8:1".parse().ok());
        assert_eq!(state_bytes(&PUBLISHED, &eight), f64::from((5 * 4 + 2) * 768 * 18));
    }
}
