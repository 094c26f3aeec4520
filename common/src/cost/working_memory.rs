//! Working memory of one sequence: what a microcontroller keeps in its RAM while weights stay in its flash.
//!
//! The recurrent state, and the input and output of the widest linear: matrices follow each other, so their vectors share
//! one place. An input takes its own width, an output and what is computed in between whole words. Scales of activations,
//! a few bytes, are not counted.
//!
//! Source: Rusci, Capotondi and Benini, arXiv 1905.13082, section 4 (the memory that is read and written), with the
//! recurrent state that their networks lack.

use super::{CostModel, CostUnit, Sees, state_bytes};
use crate::candidate::Candidate;
use crate::network::{Network, Unit};

/// `working_memory`
pub const WORKING_MEMORY: CostModel = CostModel {
    name: "working_memory",
    unit: CostUnit::BYTES,
    about: "bytes of the recurrent state of one sequence, and of the widest linear's input and output",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(working_memory_bytes(subject.network, subject.candidate)),
};

/// Bytes of the recurrent state of one sequence, and of the widest linear's input and output.
pub fn working_memory_bytes(network: &Network, candidate: &Candidate) -> f64 {
    state_bytes(network, candidate) + widest_linear_bytes(network, candidate)
}

/// Bytes of the input and the output of the linear that takes most.
pub fn widest_linear_bytes(network: &Network, candidate: &Candidate) -> f64 {
    let units = network.units();
    let linears = units.iter().filter(|unit| unit.is_linear());
    linears.map(|unit| linear_bytes(unit, candidate)).fold(0.0, f64::max)
}

/// Bytes of the input of a linear in its own width, and of its output in words.
pub fn linear_bytes(unit: &Unit, candidate: &Candidate) -> f64 {
    input_bytes(unit, candidate) + 4.0 * unit.rows as f64
}

/// Bytes of the input of a linear in its own width.
pub fn input_bytes(unit: &Unit, candidate: &Candidate) -> f64 {
    let bits = candidate.activation(&unit.name).map_or(32, |activation| activation.bits.get());
    unit.columns as f64 * f64::from(bits) / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::HEAD;
    use crate::network::tests::PUBLISHED;

    #[test]
    fn it_is_the_state_and_the_widest_input_with_its_output() {
        let float = Candidate::float(&PUBLISHED);
        // The head is the widest: 768 channels in, 50,277 tokens out.
        let state = 7.0 * 768.0 * 18.0 * 4.0;
        assert_eq!(state, 387_072.0);
        assert_eq!(working_memory_bytes(&PUBLISHED, &float), state + 4.0 * (768.0 + 50_277.0));
        let narrow = float.clone().with_activations([HEAD], "int8:affine:dynamic".parse().ok());
        assert_eq!(working_memory_bytes(&PUBLISHED, &narrow), state + 768.0 + 4.0 * 50_277.0);
        let elsewhere =
            float.with_activations(["blocks.0.att.key.weight"], "int4:affine:dynamic".parse().ok());
        assert_eq!(working_memory_bytes(&PUBLISHED, &elsewhere), state + 4.0 * (768.0 + 50_277.0));
    }

    #[test]
    fn a_classifier_is_widest_inside_a_block() {
        let network = Network { outputs: 2, ..PUBLISHED };
        let float = Candidate::float(&network);
        assert_eq!(widest_linear_bytes(&network, &float), 4.0 * 5.0 * 768.0);
        let populations = network.populations();
        let eight = float.with_membranes(populations.iter().map(String::as_str), "fixed8:1".parse().ok());
        assert_eq!(working_memory_bytes(&network, &eight), f64::from((5 * 4 + 2) * 768 * 18 + 4 * 5 * 768));
    }
}
