//! Cost models: what a candidate costs a device, by name.
//!
//! Every cost is one number per candidate, smaller is better, that follows from its schemes, the measured firing
//! rates and the [`Device`] described in the spec. Any of them can be reported, bounded, or made an axis
//! of the front. The models are one file each; their sources, units and assumptions stand there.
//!
//! | name | unit | model |
//! |---|---|---|
//! | `footprint` | bytes | [`crate::footprint`] |
//! | `macs`, `acs` | per token | [`operations`], as the network is built |
//! | `published_macs`, `published_acs` | per token | [`operations`], as spiking papers count |
//! | `energy` and its parts `energy_arithmetic`, `energy_registers`, `energy_sram`, `energy_dram` | J per token | [`energy`] |
//! | `published_energy` | J per token | [`energy`], arithmetic only, as spiking papers count |
//! | `state` | bytes | [`state_bytes`] |
//! | `nonvolatile`, `sram` | bytes | [`two_memory`] |
//! | `two_memory_energy` | J per token | [`two_memory`] |
//! | `two_memory_area` | mm2 | [`two_memory`] |
//! | `latency` | s per token | [`latency`] |
//! | `device_footprint`, `link` | bytes, bytes per token | [`split`] |
//! | `split_latency` | s per token | [`split`] |

pub mod energy;
pub mod latency;
pub mod operations;
pub mod split;
pub mod two_memory;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::footprint::footprint_bytes;
use crate::measurement::Counts;
use crate::network::Network;
use crate::scheme::Scheme;

use energy::EnergyTable;
use latency::Roofline;
use split::Split;
use two_memory::TwoMemory;

/// The name of a cost. See the module for units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[expect(missing_docs, reason = "the table above says it once")]
pub enum Cost {
    #[default]
    Footprint,
    Macs,
    Acs,
    PublishedMacs,
    PublishedAcs,
    Energy,
    EnergyArithmetic,
    EnergyRegisters,
    EnergySram,
    EnergyDram,
    PublishedEnergy,
    State,
    Nonvolatile,
    Sram,
    TwoMemoryEnergy,
    TwoMemoryArea,
    Latency,
    DeviceFootprint,
    Link,
    SplitLatency,
}

/// Every cost with its name.
const NAMES: [(Cost, &str); 20] = [
    (Cost::Footprint, "footprint"),
    (Cost::Macs, "macs"),
    (Cost::Acs, "acs"),
    (Cost::PublishedMacs, "published_macs"),
    (Cost::PublishedAcs, "published_acs"),
    (Cost::Energy, "energy"),
    (Cost::EnergyArithmetic, "energy_arithmetic"),
    (Cost::EnergyRegisters, "energy_registers"),
    (Cost::EnergySram, "energy_sram"),
    (Cost::EnergyDram, "energy_dram"),
    (Cost::PublishedEnergy, "published_energy"),
    (Cost::State, "state"),
    (Cost::Nonvolatile, "nonvolatile"),
    (Cost::Sram, "sram"),
    (Cost::TwoMemoryEnergy, "two_memory_energy"),
    (Cost::TwoMemoryArea, "two_memory_area"),
    (Cost::Latency, "latency"),
    (Cost::DeviceFootprint, "device_footprint"),
    (Cost::Link, "link"),
    (Cost::SplitLatency, "split_latency"),
];

/// Costs by name.
pub type Costs = BTreeMap<Cost, f64>;

/// The device that a network is to run on. What is not described is not modelled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Energies of operations and memory accesses; those of docs/model.md (Energy) where not given.
    pub energy: EnergyTable,
    /// A dense non-volatile memory beside the SRAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_memory: Option<TwoMemory>,
    /// How fast it computes and reads its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Roofline>,
    /// A remote machine that computes the rest of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// A description of a device that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidDevice {
    /// A number outside its range.
    #[error("{name} = {value}: expected {bound}")]
    Number {
        /// The key.
        name: String,
        /// What it was.
        value: f64,
        /// What it may be.
        bound: &'static str,
    },
    /// A name that no unit, block or module has.
    #[error("two_memory.nonvolatile: {0:?} names no unit, module or block of the network")]
    Name(String),
    /// A split beyond the last block, or without a description of the device itself.
    #[error("split: {0}")]
    Split(String),
}

/// A name that is no cost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no cost: expected one of {}", NAMES.map(|(_, name)| name).join(", "))]
pub struct UnknownCost {
    given: String,
}

impl Device {
    /// Whether nothing but the defaults is described.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Everything in the description that makes no sense.
    pub fn problems(&self, network: &Network) -> Vec<InvalidDevice> {
        let mut problems = self.energy.problems();
        problems.extend(self.two_memory.iter().flat_map(|memory| memory.problems(network)));
        problems.extend(self.latency.iter().flat_map(|roofline| roofline.problems("latency")));
        problems.extend(self.split.iter().flat_map(|split| split.problems(network, self.latency.is_some())));
        problems
    }

    /// Whether this description says enough to model `cost`.
    pub fn models(&self, cost: Cost) -> bool {
        match cost {
            Cost::Nonvolatile | Cost::Sram | Cost::TwoMemoryEnergy | Cost::TwoMemoryArea => {
                self.two_memory.is_some()
            }
            Cost::Latency => self.latency.is_some(),
            Cost::DeviceFootprint | Cost::Link | Cost::SplitLatency => self.split.is_some(),
            _ => true,
        }
    }

    /// Every cost that this description allows to model, of a candidate that was measured as `counts`.
    pub fn costs(&self, network: &Network, candidate: &Candidate, counts: &Counts) -> Costs {
        let built = operations::as_built(network, counts);
        let published = operations::as_published(network, counts);
        let energy = self.energy.per_token(network, candidate, &built);
        let mut costs = Costs::from([
            (Cost::Footprint, footprint_bytes(network, candidate) as f64),
            (Cost::Macs, operations::sum(&built, |ops| ops.macs)),
            (Cost::Acs, operations::sum(&built, |ops| ops.acs)),
            (Cost::PublishedMacs, operations::sum(&published, |ops| ops.macs)),
            (Cost::PublishedAcs, operations::sum(&published, |ops| ops.acs)),
            (Cost::Energy, energy.total()),
            (Cost::EnergyArithmetic, energy.arithmetic),
            (Cost::EnergyRegisters, energy.registers),
            (Cost::EnergySram, energy.sram),
            (Cost::EnergyDram, energy.dram),
            (Cost::PublishedEnergy, self.energy.published_per_token(candidate, &published)),
            (Cost::State, state_bytes(network, candidate)),
        ]);
        if let Some(memory) = &self.two_memory {
            costs.extend(memory.costs(network, candidate));
        }
        if let Some(roofline) = &self.latency {
            costs.insert(Cost::Latency, roofline.seconds(network, candidate, |_| true));
            if let Some(split) = &self.split {
                costs.extend(split.costs(network, candidate, roofline));
            }
        }
        costs
    }
}

/// Bytes of the recurrent state of one sequence: 5 D floats per block for the token shifts and the WKV sums, and D
/// potentials per LIF population in their own width.
pub fn state_bytes(network: &Network, candidate: &Candidate) -> f64 {
    state_bits(network, candidate) / 8.0
}

fn state_bits(network: &Network, candidate: &Candidate) -> f64 {
    let membranes = network.populations().iter().map(|name| membrane_bits(candidate, name)).sum::<f64>();
    f64::from(network.channels) * (membranes + f64::from(network.blocks) * 5.0 * 32.0)
}

fn membrane_bits(candidate: &Candidate, population: &str) -> f64 {
    candidate.membrane(population).map_or(32.0, |membrane| f64::from(membrane.bits()))
}

/// Bits of what enters the linear layer of `unit`.
fn activation_bits(candidate: &Candidate, unit: &str) -> f64 {
    candidate.activation(unit).map_or(32.0, |activation| f64::from(activation.bits.get()))
}

/// Whether a linear multiplies integers by integers.
fn is_integer(candidate: &Candidate, unit: &str) -> bool {
    matches!(candidate.scheme(unit), Scheme::Integer(_)) && candidate.activation(unit).is_some()
}

/// Pushes a problem if `value` is not a finite number of at least 0, or above 0 if `positive`.
fn check(problems: &mut Vec<InvalidDevice>, name: &str, value: f64, positive: bool) {
    let (ok, bound) = match positive {
        true => (value > 0.0, "a number above 0"),
        false => (value >= 0.0, "a number of at least 0"),
    };
    if !ok || !value.is_finite() {
        problems.push(InvalidDevice::Number { name: name.to_owned(), value, bound });
    }
}

impl Cost {
    /// Every cost, in the order of the table above.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.into_iter().map(|(cost, _)| cost)
    }

    /// Whether narrower activations or narrower membranes can lower it.
    pub fn sees_activations_or_membranes(self) -> bool {
        matches!(
            self,
            Self::Energy
                | Self::EnergyArithmetic
                | Self::EnergyRegisters
                | Self::EnergySram
                | Self::PublishedEnergy
                | Self::State
                | Self::Sram
                | Self::TwoMemoryEnergy
                | Self::TwoMemoryArea
                | Self::Latency
                | Self::SplitLatency
        )
    }

    /// The unit of its numbers.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Footprint | Self::State | Self::Nonvolatile | Self::Sram | Self::DeviceFootprint => "bytes",
            Self::Macs | Self::Acs | Self::PublishedMacs | Self::PublishedAcs => "per token",
            Self::Energy
            | Self::EnergyArithmetic
            | Self::EnergyRegisters
            | Self::EnergySram
            | Self::EnergyDram
            | Self::PublishedEnergy
            | Self::TwoMemoryEnergy => "J per token",
            Self::TwoMemoryArea => "mm2",
            Self::Latency | Self::SplitLatency => "s per token",
            Self::Link => "bytes per token",
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(cost, _)| cost == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Cost {
    type Err = UnknownCost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(cost, _)| *cost).ok_or_else(|| UnknownCost { given: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Cost {
    type Error = UnknownCost;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cost> for String {
    fn from(cost: Cost) -> Self {
        cost.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    #[test]
    fn every_cost_has_one_name() {
        for (cost, name) in NAMES {
            assert_eq!(cost.to_string(), name);
            assert_eq!(name.parse(), Ok(cost));
        }
        assert!(
            "joules".parse::<Cost>().unwrap_err().to_string().contains("expected one of footprint, macs")
        );
    }

    #[test]
    fn what_is_described_is_modelled_and_nothing_else() {
        let network = PUBLISHED;
        let counts = Counts { positions: 1, ..Counts::zero(36) };
        let roofline = Roofline { macs_per_s: 1e9, integer_macs_per_s: None, bytes_per_s: 1e9 };
        let full = Device {
            energy: EnergyTable::default(),
            two_memory: Some(two_memory::tests::memory(&["emb"])),
            latency: Some(roofline),
            split: Some(split::tests::split(9)),
        };
        for device in [Device::default(), full] {
            assert_eq!(device.problems(&network), []);
            let costs = device.costs(&network, &Candidate::float(&network), &counts);
            for (cost, name) in NAMES {
                assert_eq!(costs.contains_key(&cost), device.models(cost), "{name}");
            }
            assert!(costs.values().all(|value| value.is_finite() && *value >= 0.0));
        }
    }

    #[test]
    fn the_state_is_seven_floats_per_channel_and_block_and_shrinks_with_the_membranes() {
        let float = Candidate::float(&PUBLISHED);
        assert_eq!(state_bytes(&PUBLISHED, &float), f64::from(7 * 768 * 18 * 4));
        let populations = PUBLISHED.populations();
        let eight = float.with_membranes(populations.iter().map(String::as_str), "fixed8:1".parse().ok());
        assert_eq!(state_bytes(&PUBLISHED, &eight), f64::from((5 * 4 + 2) * 768 * 18));
    }
}
