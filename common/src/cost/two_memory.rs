//! Two memories: a dense non-volatile one for some units, SRAM for the rest.
//!
//! In the way of adapter-ALBERT (arXiv 2303.16100): what is read and never written after deployment (there
//! the shared backbone, here any units) lives in dense non-volatile memory, and what is changed lives in
//! SRAM. One-dimensional parameters and the recurrent state are in SRAM. The energy is that of reading every
//! linear's weights and one row of the embedding once per token, and of reading and writing the state.
//! Densities and energies differ widely between technologies, so there are no defaults.

use serde::{Deserialize, Serialize};

use super::{CostModel, CostUnit, Description, InvalidDevice, Sees, check, state_bytes};
use crate::candidate::Candidate;
use crate::footprint::{stored_bytes, vector_bytes};
use crate::network::{Network, Unit};
use crate::storage::CodedSizes;

/// Description that these costs need.
const TWO_MEMORY: Option<Description> =
    Some(Description { key: "two_memory", is_in: |device| device.two_memory.is_some() });

/// `nonvolatile`
pub const NONVOLATILE: CostModel = CostModel {
    name: "nonvolatile",
    unit: CostUnit::BYTES,
    about: "bytes in the non-volatile memory",
    sees: Sees::Weights,
    needs: TWO_MEMORY,
    value: |subject| Some(subject.memories()?.nonvolatile),
};

/// `sram`
pub const SRAM: CostModel = CostModel {
    name: "sram",
    unit: CostUnit::BYTES,
    about: "bytes in the SRAM: all other matrices, one-dimensional parameters and the state",
    sees: Sees::ActivationsOrMembranes,
    needs: TWO_MEMORY,
    value: |subject| Some(subject.memories()?.sram),
};

/// `two_memory_energy`
pub const ENERGY: CostModel = CostModel {
    name: "two_memory_energy",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of traffic from both memories",
    sees: Sees::ActivationsOrMembranes,
    needs: TWO_MEMORY,
    value: |subject| Some(subject.memories()?.energy),
};

/// `two_memory_area`
pub const AREA: CostModel = CostModel {
    name: "two_memory_area",
    unit: CostUnit::SQUARE_MILLIMETRES,
    about: "area of both memories",
    sees: Sees::ActivationsOrMembranes,
    needs: TWO_MEMORY,
    value: |subject| Some(subject.memories()?.area),
};

/// The two memories, and which units live in the dense one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoMemory {
    /// Units, modules or blocks by name: `emb`, `head`, `blocks`, `blocks.3`, `blocks.3.att`, `head.weight`.
    pub nonvolatile: Vec<String>,
    /// Picojoules to read a byte of the non-volatile memory.
    pub nonvolatile_pj_per_byte: f64,
    /// Picojoules to read or write a byte of the SRAM.
    pub sram_pj_per_byte: f64,
    /// Square millimetres that a MiB of the non-volatile memory takes.
    pub nonvolatile_mm2_per_mib: f64,
    /// Square millimetres that a MiB of SRAM takes.
    pub sram_mm2_per_mib: f64,
}

/// Contents and traffic of the two memories under a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memories {
    /// Bytes in the non-volatile memory.
    nonvolatile: f64,
    /// Bytes in the SRAM.
    sram: f64,
    /// Joules per token.
    energy: f64,
    /// Square millimetres.
    area: f64,
}

const MIB: f64 = (1u64 << 20) as f64;

impl TwoMemory {
    /// Everything that makes no sense.
    pub(super) fn problems(&self, network: &Network) -> Vec<InvalidDevice> {
        let mut problems = Vec::new();
        for (name, value) in [
            ("two_memory.nonvolatile_pj_per_byte", self.nonvolatile_pj_per_byte),
            ("two_memory.sram_pj_per_byte", self.sram_pj_per_byte),
            ("two_memory.nonvolatile_mm2_per_mib", self.nonvolatile_mm2_per_mib),
            ("two_memory.sram_mm2_per_mib", self.sram_mm2_per_mib),
        ] {
            check(&mut problems, name, value, false);
        }
        let units = network.units();
        let unknown = self.nonvolatile.iter().filter(|name| !units.iter().any(|unit| is_in(unit, name)));
        problems.extend(unknown.map(|name| InvalidDevice::Name(name.clone())));
        problems
    }

    /// Puts every unit into its memory and counts. `coded` has the bytes of entropy-coded codes in memory.
    pub(super) fn memories(&self, network: &Network, candidate: &Candidate, coded: &CodedSizes) -> Memories {
        let state = state_bytes(network, candidate);
        let (mut nonvolatile, mut sram) = (0.0, vector_bytes(network, candidate) as f64 + state);
        // The state is read and written, one-dimensional parameters are read.
        let mut picojoules = self.sram_pj_per_byte * (sram + state);
        for unit in network.units() {
            let stored = stored_bytes(&unit, candidate.scheme(&unit.name), coded) as f64;
            let read = if unit.is_linear() { stored } else { stored / unit.rows as f64 };
            if self.nonvolatile.iter().any(|name| is_in(&unit, name)) {
                nonvolatile += stored;
                picojoules += self.nonvolatile_pj_per_byte * read;
            } else {
                sram += stored;
                picojoules += self.sram_pj_per_byte * read;
            }
        }
        let area = (nonvolatile * self.nonvolatile_mm2_per_mib + sram * self.sram_mm2_per_mib) / MIB;
        Memories { nonvolatile, sram, energy: picojoules * 1e-12, area }
    }
}

/// True if `name` is the unit, or something that contains it.
fn is_in(unit: &Unit, name: &str) -> bool {
    unit.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::footprint::footprint_bytes;
    use crate::network::tests::PUBLISHED;

    pub(crate) fn memory(nonvolatile: &[&str]) -> TwoMemory {
        TwoMemory {
            nonvolatile: nonvolatile.iter().map(|name| (*name).to_owned()).collect(),
            nonvolatile_pj_per_byte: 2.0,
            sram_pj_per_byte: 1.0,
            nonvolatile_mm2_per_mib: 0.5,
            sram_mm2_per_mib: 4.0,
        }
    }

    #[test]
    fn every_byte_is_in_one_of_the_memories() {
        let candidate = Candidate::new(&PUBLISHED, |_| "int4:symmetric:channel".parse().unwrap());
        let whole = footprint_bytes(&PUBLISHED, &candidate) as f64 + state_bytes(&PUBLISHED, &candidate);
        for names in [&[][..], &["emb"], &["blocks.1"], &["blocks", "head.weight"]] {
            let memories = memory(names).memories(&PUBLISHED, &candidate, CodedSizes::NONE);
            assert_eq!(memories.nonvolatile + memories.sram, whole, "{names:?}");
        }
        // blocks.1 is not blocks.10 to blocks.17.
        let one = memory(&["blocks.1"]).memories(&PUBLISHED, &candidate, CodedSizes::NONE).nonvolatile;
        let all = memory(&["blocks"]).memories(&PUBLISHED, &candidate, CodedSizes::NONE).nonvolatile;
        assert_eq!(one * 18.0, all);
    }

    #[test]
    fn energy_and_area_follow_the_bytes() {
        let float = Candidate::float(&PUBLISHED);
        let memories = memory(&["emb", "blocks", "head"]).memories(&PUBLISHED, &float, CodedSizes::NONE);
        let (read, state) = (4.0 * (176_631_552.0 + 768.0), state_bytes(&PUBLISHED, &float));
        let picojoules = 2.0 * read + 155_136.0 * 4.0 + 2.0 * state;
        assert!((memories.energy / (picojoules * 1e-12) - 1.0).abs() < 1e-12);
        let area = (215_244_288.0 * 4.0 * 0.5 + (155_136.0 * 4.0 + state) * 4.0) / MIB;
        assert!((memories.area / area - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_name_that_is_nothing_is_refused() {
        let problems = memory(&["emb", "block.3", "blocks.18"]).problems(&PUBLISHED);
        let names = ["block.3", "blocks.18"].map(|name| InvalidDevice::Name(name.to_owned()));
        assert_eq!(problems, names);
    }
}
