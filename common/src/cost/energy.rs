//! Energy per token: arithmetic, and memory traffic through registers, SRAM and DRAM.
//!
//! Figures are for 45 nm: M. Horowitz, "Computing's energy problem", ISSCC 2014, as quoted in docs/model.md
//! (Energy); the register figure is the SRAM's divided by 6, the ratio of register file to on-chip buffer of
//! Eyeriss (Chen et al., ISCA 2016). With bits they scale as docs/model.md says: an addition with its width,
//! a multiplication with the product of both widths, a memory access with its bits.
//!
//! Arithmetic of a linear: integers if both its weights and its inputs are, with accumulators as wide as a
//! product; else floats, with 32-bit accumulators and a multiplier as wide as what is stored (weight-only
//! quantization narrows one side of it).
//!
//! Traffic per token, with one sequence at a time:
//! - DRAM: every unit's stored bytes that do not fit `sram_weights_bytes`, once per `tokens_per_weight_read`
//!   tokens; of the embedding one row. Units are kept on chip in the order of the network, as many as fit.
//! - SRAM: the same weights on their way in, or where they stay; every linear's input at its width and its
//!   output in 32 bits, and the recurrent state, each read and written once.
//! - Table look-ups: where the device decodes entropy-coded weights piece by piece, memory holds and moves the coded bytes,
//!   and each such weight that is read takes one entry of 32 bits (symbol, frequency, start) of its matrix's table in SRAM.
//! - Registers: both operands of every operation.

use serde::{Deserialize, Serialize};

use super::operations::{Operations, activation_bits, is_integer};
use super::state::state_bits;
use super::{CostModel, CostUnit, InvalidDevice, Sees, check};
use crate::bytes;
use crate::candidate::Candidate;
use crate::footprint::{stored_bytes, unit_bytes};
use crate::network::{Network, Unit};
use crate::storage::CodedSizes;

/// `energy`
pub const ENERGY: CostModel = CostModel {
    name: "energy",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy per token: arithmetic, registers, SRAM and DRAM together",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(subject.energy().total()),
};

/// `energy_arithmetic`
pub const ARITHMETIC: CostModel = CostModel {
    name: "energy_arithmetic",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of additions and multiplications",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(subject.energy().arithmetic),
};

/// `energy_registers`
pub const REGISTERS: CostModel = CostModel {
    name: "energy_registers",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of operands in registers",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(subject.energy().registers),
};

/// `energy_sram`
pub const SRAM: CostModel = CostModel {
    name: "energy_sram",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of traffic through on-chip memory",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(subject.energy().sram),
};

/// `energy_dram`
pub const DRAM: CostModel = CostModel {
    name: "energy_dram",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of traffic from off-chip memory",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(subject.energy().dram),
};

/// `published_energy`
pub const PUBLISHED: CostModel = CostModel {
    name: "published_energy",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of the arithmetic alone, as spiking papers count it",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| Some(subject.device.energy.published_per_token(subject.candidate, subject.published())),
};

/// Energies of operations and memory accesses, in picojoules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergyTable {
    /// One 32-bit float addition.
    pub float_add_pj: f64,
    /// One 32-bit float multiplication.
    pub float_mul_pj: f64,
    /// One 32-bit integer addition.
    pub integer_add_pj: f64,
    /// One 32-bit integer multiplication.
    pub integer_mul_pj: f64,
    /// 32 bits from a register.
    pub register_pj: f64,
    /// 32 bits from SRAM.
    pub sram_pj: f64,
    /// 32 bits from DRAM.
    pub dram_pj: f64,
    /// On-chip memory that weights stay in.
    #[serde(deserialize_with = "bytes::whole")]
    pub sram_weights_bytes: u64,
    /// Tokens (of a batch) that share one read of a weight.
    pub tokens_per_weight_read: f64,
}

impl Default for EnergyTable {
    fn default() -> Self {
        Self {
            float_add_pj: 0.9,
            float_mul_pj: 3.7,
            integer_add_pj: 0.1,
            integer_mul_pj: 3.1,
            register_pj: 5.0 / 6.0,
            sram_pj: 5.0,
            dram_pj: 640.0,
            sram_weights_bytes: 0,
            tokens_per_weight_read: 1.0,
        }
    }
}

/// Joules per token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Energy {
    /// Additions and multiplications.
    pub arithmetic: f64,
    /// Operands in registers.
    pub registers: f64,
    /// On-chip memory.
    pub sram: f64,
    /// Off-chip memory.
    pub dram: f64,
}

impl Energy {
    /// Sum of its terms.
    pub fn total(&self) -> f64 {
        self.arithmetic + self.registers + self.sram + self.dram
    }
}

const PICO: f64 = 1e-12;

impl EnergyTable {
    /// Every number that makes no sense.
    pub(super) fn problems(&self) -> Vec<InvalidDevice> {
        let mut problems = Vec::new();
        for (name, value) in [
            ("energy.float_add_pj", self.float_add_pj),
            ("energy.float_mul_pj", self.float_mul_pj),
            ("energy.integer_add_pj", self.integer_add_pj),
            ("energy.integer_mul_pj", self.integer_mul_pj),
            ("energy.register_pj", self.register_pj),
            ("energy.sram_pj", self.sram_pj),
            ("energy.dram_pj", self.dram_pj),
        ] {
            check(&mut problems, name, value, false);
        }
        check(&mut problems, "energy.tokens_per_weight_read", self.tokens_per_weight_read, true);
        problems
    }

    /// Energy per token of operations as built. `coded` has the bytes of entropy-coded codes in memory.
    pub(super) fn per_token(
        &self,
        network: &Network,
        candidate: &Candidate,
        coded: &CodedSizes,
        operations: &[Operations],
    ) -> Energy {
        let mut picojoules = Energy::default();
        for ops in operations {
            picojoules.arithmetic += self.mac(candidate, ops) * ops.macs + self.float_add_pj * ops.acs;
            let operands = match &ops.unit {
                Some(unit) => {
                    f64::from(candidate.scheme(&unit.name).bits()) + activation_bits(candidate, &unit.name)
                }
                None => 32.0,
            };
            picojoules.registers += self.register_pj / 32.0 * operands * (ops.macs + ops.acs);
        }
        let (mut on_chip, mut sram_bits) = (self.sram_weights_bytes, 2.0 * state_bits(network, candidate));
        for unit in network.units() {
            let scheme = candidate.scheme(&unit.name);
            let stored = stored_bytes(&unit, scheme, coded);
            let read = read_per_token(&unit, stored as f64 * 8.0) / self.tokens_per_weight_read;
            if stored < unit_bytes(&unit, scheme) {
                let weights = read_per_token(&unit, unit.weights() as f64) / self.tokens_per_weight_read;
                sram_bits += TABLE_ENTRY_BITS * weights;
            }
            if stored <= on_chip {
                on_chip -= stored;
            } else {
                picojoules.dram += self.dram_pj / 32.0 * read;
            }
            sram_bits += read;
            if unit.is_linear() {
                sram_bits += unit.columns as f64 * activation_bits(candidate, &unit.name);
                sram_bits += unit.rows as f64 * 32.0;
            }
        }
        picojoules.sram = self.sram_pj / 32.0 * sram_bits;
        Energy {
            arithmetic: picojoules.arithmetic * PICO,
            registers: picojoules.registers * PICO,
            sram: picojoules.sram * PICO,
            dram: picojoules.dram * PICO,
        }
    }

    /// Joules per token of operations as spiking papers count them: arithmetic only; an AC is one addition at
    /// the width of the weight (0.9 pJ in 32-bit floats), a MAC also a multiplication (4.6 pJ).
    pub(super) fn published_per_token(&self, candidate: &Candidate, operations: &[Operations]) -> f64 {
        let picojoules = |ops: &Operations| {
            let bits = ops.unit.as_ref().map_or(32.0, |unit| f64::from(candidate.scheme(&unit.name).bits()));
            let ac = self.float_add_pj / 32.0 * bits;
            self.mac(candidate, ops) * ops.macs + ac * ops.acs
        };
        operations.iter().map(picojoules).sum::<f64>() * PICO
    }

    /// Picojoules of one multiply-accumulate of a linear.
    fn mac(&self, candidate: &Candidate, ops: &Operations) -> f64 {
        let Some(unit) = &ops.unit else { return 0.0 };
        let (weight, activation) =
            (f64::from(candidate.scheme(&unit.name).bits()), activation_bits(candidate, &unit.name));
        let product = weight * activation / (32.0 * 32.0);
        if is_integer(candidate, &unit.name) {
            self.integer_mul_pj * product + self.integer_add_pj / 32.0 * (weight + activation)
        } else {
            self.float_mul_pj * product + self.float_add_pj
        }
    }
}

/// Bits of an entry of the table that decodes entropy-coded weights.
const TABLE_ENTRY_BITS: f64 = 32.0;

/// What one token reads of something that a unit has so much of: all of a linear, one row of the embedding.
fn read_per_token(unit: &Unit, all: f64) -> f64 {
    let rows = if unit.is_linear() { 1.0 } else { unit.rows as f64 };
    all / rows
}

#[cfg(test)]
mod tests {
    use super::super::operations::{as_built, as_published};
    use super::*;
    use crate::measurement::Counts;
    use crate::network::tests::PUBLISHED;
    use crate::scheme::Scheme;

    fn silent() -> Counts {
        Counts { processed_tokens: 1, ..Counts::zero(36) }
    }

    fn energy(table: EnergyTable, candidate: &Candidate) -> Energy {
        table.per_token(&PUBLISHED, candidate, CodedSizes::NONE, &as_built(&PUBLISHED, &silent()))
    }

    fn uniform(scheme: &str) -> Candidate {
        let scheme: Scheme = scheme.parse().unwrap();
        Candidate::new(&PUBLISHED, |_| scheme)
    }

    fn close(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
    }

    #[test]
    fn the_float_model_takes_the_energy_that_the_published_figures_give() {
        let float = energy(EnergyTable::default(), &Candidate::float(&PUBLISHED));
        // 176,631,552 MACs at 4.6 pJ, and as many floats at 640 pJ (plus one row of the embedding).
        close(float.arithmetic, 176_631_552.0 * 4.6e-12);
        close(float.dram, (176_631_552.0 + 768.0) * 640e-12);
        assert_eq!((float.dram * 1e3).round(), 113.0);
        assert_eq!((float.arithmetic * 1e5).round(), 81.0);
    }

    #[test]
    fn an_8_bit_mac_costs_what_the_law_of_bits_makes_of_the_32_bit_figures() {
        let table = EnergyTable::default();
        let weights_only = uniform("int8:symmetric:tensor");
        let units = PUBLISHED.units();
        let linears: Vec<_> = units.iter().filter(|unit| unit.is_linear()).map(|u| u.name.as_str()).collect();
        let both = weights_only.clone().with_activations(linears, "int8:affine:dynamic".parse().ok());
        let macs = 176_631_552.0;
        close(energy(table, &weights_only).arithmetic, macs * (3.7 / 4.0 + 0.9) * 1e-12);
        // Horowitz measured 0.2 pJ for an 8-bit multiplication; the law gives 0.194.
        close(energy(table, &both).arithmetic, macs * (3.1 / 16.0 + 0.1 / 2.0) * 1e-12);
        let (wide, narrow) = (energy(table, &weights_only), energy(table, &both));
        assert!(narrow.sram < wide.sram && narrow.registers < wide.registers && narrow.dram == wide.dram);
    }

    #[test]
    fn memory_traffic_falls_with_the_stored_bits() {
        let table = EnergyTable::default();
        let at = |scheme| energy(table, &uniform(scheme)).dram;
        let ratio = at("f32") / at("int4:symmetric:tensor");
        assert!((ratio - 8.0).abs() < 1e-3, "{ratio}");
        close(at("f32") / at("f16"), 2.0);
    }

    #[test]
    fn coded_weights_move_fewer_bytes_and_take_a_look_up_each() {
        let (table, candidate) = (EnergyTable::default(), uniform("int4:symmetric:channel"));
        let units = PUBLISHED.units();
        let head = &units[units.len() - 1];
        let packed = unit_bytes(head, candidate.scheme(&head.name));
        let mut coded = CodedSizes::default();
        let codes = head.weights() * 4 / 8;
        coded.insert(&head.name, candidate.scheme(&head.name), codes - 1000);
        let plain = energy(table, &candidate);
        let pieces = table.per_token(&PUBLISHED, &candidate, &coded, &as_built(&PUBLISHED, &silent()));
        close(plain.dram - pieces.dram, 8000.0 / 32.0 * 640e-12);
        close(pieces.sram - plain.sram, (head.weights() as f64 - 8000.0 / 32.0) * 5e-12);
        assert_eq!((plain.arithmetic, plain.registers), (pieces.arithmetic, pieces.registers));
        // What codes a matrix worse than packing is not coded.
        coded.insert(&head.name, candidate.scheme(&head.name), packed);
        assert_eq!(table.per_token(&PUBLISHED, &candidate, &coded, &as_built(&PUBLISHED, &silent())), plain);
    }

    #[test]
    fn what_fits_on_chip_is_not_read_from_dram() {
        let all = EnergyTable { sram_weights_bytes: 1 << 30, ..EnergyTable::default() };
        let float = Candidate::float(&PUBLISHED);
        assert_eq!(energy(all, &float).dram, 0.0);
        let some = EnergyTable { sram_weights_bytes: 400 << 20, ..EnergyTable::default() };
        let (some, none) = (energy(some, &float), energy(EnergyTable::default(), &float));
        assert!(0.0 < some.dram && some.dram < none.dram && some.sram == none.sram);
        let batch = EnergyTable { tokens_per_weight_read: 8.0, ..EnergyTable::default() };
        close(energy(batch, &float).dram * 8.0, none.dram);
    }

    #[test]
    fn the_published_count_pays_for_spikes() {
        let mut counts = Counts { processed_tokens: 1000, ..Counts::zero(36) };
        counts.spikes.fill(192_000); // a rate of 0.25
        let operations = as_published(&PUBLISHED, &counts);
        let joules = EnergyTable::default().published_per_token(&Candidate::float(&PUBLISHED), &operations);
        let first = 4.0 * 768.0 * 768.0;
        close(joules, (first * 4.6 + 0.25 * (176_631_552.0 - first) * 0.9) * 1e-12);
    }

    #[test]
    fn a_figure_that_makes_no_sense_is_named() {
        let table = EnergyTable { dram_pj: f64::NAN, tokens_per_weight_read: 0.0, ..EnergyTable::default() };
        let problems: Vec<_> = table.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "energy.dram_pj = NaN: expected a number of at least 0",
                "energy.tokens_per_weight_read = 0: expected a number above 0"
            ]
        );
    }
}
