//! The device that a network is to run on, as far as the spec describes it: what cost models are about.
//!
//! A table that is not there is not guessed: the costs that need it are not modelled. The energies of
//! operations have defaults, those of docs/model.md (Energy).

use serde::{Deserialize, Serialize};

use super::energy::EnergyTable;
use super::latency::Roofline;
use super::split::Split;
use super::table::WidthTable;
use super::two_memory::TwoMemory;
use super::{Cost, Costs, Subject};
use crate::candidate::Candidate;
use crate::measurement::Counts;
use crate::network::Network;

/// A device. What is not described is not modelled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Energies of operations and memory accesses; those of docs/model.md (Energy) where not given.
    pub energy: EnergyTable,
    /// True if it decodes entropy-coded weights piece by piece for each product, and never holds all of them decoded.
    #[serde(skip_serializing_if = "is_false")]
    pub decodes_in_pieces: bool,
    /// A dense non-volatile memory beside the SRAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_memory: Option<TwoMemory>,
    /// Speed of its arithmetic and of its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Roofline>,
    /// Figures of a chip at hand, by the widths of operands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<WidthTable>,
    /// A remote machine that computes the rest of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A description of a device that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidDevice {
    /// A number outside its range.
    #[error("{name} = {value}: expected {bound}")]
    Number {
        /// The key.
        name: String,
        /// The value that was given.
        value: f64,
        /// The range that it has to be in.
        bound: &'static str,
    },
    /// A name that no unit, block or module has.
    #[error("two_memory.nonvolatile: {0:?} names no unit, module or block of the network")]
    Name(String),
    /// A table that lacks what it needs.
    #[error("{name}: {words}")]
    Table {
        /// The key.
        name: String,
        /// What it lacks.
        words: String,
    },
    /// A split beyond the last block, or without a description of the device itself.
    #[error("split: {0}")]
    Split(String),
}

impl InvalidDevice {
    /// Key path within `[device]`.
    pub fn key(&self) -> String {
        match self {
            Self::Number { name, .. } | Self::Table { name, .. } => name.clone(),
            Self::Name(_) => "two_memory.nonvolatile".to_owned(),
            Self::Split(_) => "split".to_owned(),
        }
    }
}

impl Device {
    /// True if nothing but the defaults is described.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Everything in the description that makes no sense.
    pub fn problems(&self, network: &Network) -> Vec<InvalidDevice> {
        let mut problems = self.energy.problems();
        problems.extend(self.two_memory.iter().flat_map(|memory| memory.problems(network)));
        problems.extend(self.latency.iter().flat_map(|roofline| roofline.problems("latency")));
        problems.extend(self.table.iter().flat_map(WidthTable::problems));
        problems.extend(self.split.iter().flat_map(|split| split.problems(network, self.latency.is_some())));
        problems
    }

    /// True if this description says enough to model `cost`.
    pub fn models(&self, cost: Cost) -> bool {
        cost.model().needs.is_none_or(|needs| (needs.is_in)(self))
    }

    /// Every cost that this description allows to model, of a candidate that was measured as `counts`.
    pub fn costs(&self, network: &Network, candidate: &Candidate, counts: &Counts) -> Costs {
        self.costs_of(&Subject::new(self, network, candidate, counts))
    }

    /// Every cost of a subject that this description allows to model.
    pub fn costs_of(&self, subject: &Subject<'_>) -> Costs {
        Cost::all().filter_map(|cost| Some((cost, (cost.model().value)(subject)?))).collect()
    }
}

/// Pushes a problem if `value` is not a finite number of at least 0, or above 0 if `positive`.
pub(super) fn check(problems: &mut Vec<InvalidDevice>, name: &str, value: f64, positive: bool) {
    let (ok, bound) = match positive {
        true => (value > 0.0, "a number above 0"),
        false => (value >= 0.0, "a number of at least 0"),
    };
    if !ok || !value.is_finite() {
        problems.push(InvalidDevice::Number { name: name.to_owned(), value, bound });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{split, two_memory};
    use super::*;
    use crate::network::tests::PUBLISHED;

    #[test]
    fn what_is_described_is_modelled_and_nothing_else() {
        let network = PUBLISHED;
        let counts = Counts { processed_tokens: 1, ..Counts::zero(36) };
        let roofline = Roofline { macs_per_s: 1e9, integer_macs_per_s: None, bytes_per_s: 1e9 };
        let full = Device {
            energy: EnergyTable::default(),
            decodes_in_pieces: true,
            two_memory: Some(two_memory::tests::memory(&["emb"])),
            latency: Some(roofline),
            table: serde_json::from_str(r#"{"cycles":{"32":1.0},"picojoules":{"32":1.0}}"#).unwrap(),
            split: Some(split::tests::split(9)),
        };
        for device in [Device::default(), full] {
            assert_eq!(device.problems(&network), []);
            let costs = device.costs(&network, &Candidate::float(&network), &counts);
            for cost in Cost::all() {
                assert_eq!(costs.contains_key(&cost), device.models(cost), "{cost}");
            }
            assert!(costs.values().all(|value| value.is_finite() && *value >= 0.0));
        }
    }
}
