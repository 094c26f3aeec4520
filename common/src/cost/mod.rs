//! Cost models: what a candidate costs a device, one number per model, smaller is better.
//!
//! The one idea is a table: a [`CostModel`] says its name, its unit, what it is about, what it sees, what it
//! needs to know of the device, and its value, beside its formula; the list in this file makes specs, bounds,
//! fronts, exports and references know it. A cost follows from the schemes of a candidate, the measured
//! firing rates and the [`Device`] that the spec describes, all of which a [`Subject`] holds. Sources and
//! assumptions stand in the files of the models. One more cost is one constant beside its formula and one
//! line in the list below.

mod device;
pub mod energy;
mod footprint;
pub mod latency;
pub mod operations;
pub mod split;
mod state;
mod subject;
pub mod table;
pub mod two_memory;
pub mod working_memory;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use device::check;
pub use device::{Device, InvalidDevice};
pub use state::state_bytes;
pub use subject::Subject;

/// A model of one cost.
#[derive(Debug, Clone, Copy)]
pub struct CostModel {
    /// Name in specs, exports and tables: lower case, words joined by `_`.
    pub name: &'static str,
    /// Unit of its values.
    pub unit: CostUnit,
    /// Meaning in a phrase, as references say it.
    pub about: &'static str,
    /// Reach of the model: which schemes can change its value.
    pub sees: Sees,
    /// Description that it needs of the device; `None` for a model that the defaults are enough for.
    pub needs: Option<Description>,
    /// Value for a candidate, finite and at least 0; `None` where the device is not described far enough.
    pub value: fn(&Subject<'_>) -> Option<f64>,
}

/// Unit of a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostUnit {
    /// Text beside a value.
    pub text: &'static str,
    /// Last word of a column's name.
    pub in_names: &'static str,
}

impl CostUnit {
    /// Bytes, as stored.
    pub const BYTES: Self = Self { text: "bytes", in_names: "bytes" };
    /// Operations per token.
    pub const PER_TOKEN: Self = Self { text: "per token", in_names: "per_token" };
    /// Bytes that move for every token.
    pub const BYTES_PER_TOKEN: Self = Self { text: "bytes per token", in_names: "bytes_per_token" };
    /// Energy per token.
    pub const JOULES_PER_TOKEN: Self = Self { text: "J per token", in_names: "joules_per_token" };
    /// Time per token.
    pub const SECONDS_PER_TOKEN: Self = Self { text: "s per token", in_names: "seconds_per_token" };
    /// Cycles of a processor per token.
    pub const CYCLES_PER_TOKEN: Self = Self { text: "cycles per token", in_names: "per_token" };
    /// Square millimetres.
    pub const SQUARE_MILLIMETRES: Self = Self { text: "mm2", in_names: "mm2" };
}

/// Reach of a cost model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Stored weights, and the measured rates; narrower activations or membranes leave it as it is.
    Weights,
    /// Activations or membranes, too.
    ActivationsOrMembranes,
}

/// Part of the description of a device: a table below `[device]` in a spec.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// Key of the table.
    pub key: &'static str,
    /// Presence in the description of a device.
    pub is_in: fn(&Device) -> bool,
}

/// Makes the enum of all costs out of lines `Variant => its model`. A variant knows its model, costs are
/// ordered as their lines are, and the compiler knows when a line is missing.
macro_rules! costs {
    ($($(#[$attribute:meta])* $cost:ident => $model:path,)*) => {
        /// Name of a cost; each says where its model is.
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub enum Cost {
            $(
                #[doc = concat!("`", stringify!($model), "`")]
                $(#[$attribute])*
                $cost,
            )*
        }

        /// Every cost, in the order of the table.
        const ALL: &[Cost] = &[$(Cost::$cost),*];

        impl Cost {
            /// Model behind the name.
            pub fn model(self) -> &'static CostModel {
                match self {
                    $(Self::$cost => &$model,)*
                }
            }
        }
    };
}

costs! {
    #[default]
    Footprint => footprint::FOOTPRINT,
    Macs => operations::MACS,
    Acs => operations::ACS,
    PublishedMacs => operations::PUBLISHED_MACS,
    PublishedAcs => operations::PUBLISHED_ACS,
    Energy => energy::ENERGY,
    EnergyArithmetic => energy::ARITHMETIC,
    EnergyRegisters => energy::REGISTERS,
    EnergySram => energy::SRAM,
    EnergyDram => energy::DRAM,
    PublishedEnergy => energy::PUBLISHED,
    State => state::STATE,
    Nonvolatile => two_memory::NONVOLATILE,
    Sram => two_memory::SRAM,
    TwoMemoryEnergy => two_memory::ENERGY,
    TwoMemoryArea => two_memory::AREA,
    Latency => latency::LATENCY,
    DeviceFootprint => split::DEVICE_FOOTPRINT,
    Link => split::LINK,
    SplitLatency => split::LATENCY,
    Resident => footprint::RESIDENT,
    WorkingMemory => working_memory::WORKING_MEMORY,
    TableCycles => table::CYCLES,
    TableEnergy => table::ENERGY,
}

/// Costs by name.
pub type Costs = BTreeMap<Cost, f64>;

/// A name that is no cost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no cost: expected one of {}", names())]
pub struct UnknownCost {
    given: String,
}

fn names() -> String {
    Cost::all().map(|cost| cost.model().name).collect::<Vec<_>>().join(", ")
}

impl Cost {
    /// Every cost, in the order of the table above.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().copied()
    }

    /// Unit of its values, as text.
    pub fn unit(self) -> &'static str {
        self.model().unit.text
    }

    /// True if narrower activations or narrower membranes can lower it.
    pub fn sees_activations_or_membranes(self) -> bool {
        self.model().sees == Sees::ActivationsOrMembranes
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model().name)
    }
}

impl FromStr for Cost {
    type Err = UnknownCost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::all().find(|cost| cost.model().name == text);
        found.ok_or_else(|| UnknownCost { given: text.chars().take(80).collect() })
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

    #[test]
    fn every_cost_has_one_name_and_says_what_it_is() {
        for cost in Cost::all() {
            let model = cost.model();
            assert_eq!(model.name.parse(), Ok(cost));
            assert!(model.about.len() > 10 && !model.about.ends_with('.'), "{cost}");
        }
        let words = "joules".parse::<Cost>().unwrap_err().to_string();
        assert!(words.starts_with("\"joules\" is no cost: expected one of footprint, macs, acs"), "{words}");
        assert!(
            words.ends_with("split_latency, resident, working_memory, table_cycles, table_energy"),
            "{words}"
        );
    }

    #[test]
    fn costs_come_in_the_order_of_the_table() {
        // Fronts, exports and the texts of experiments list them in it.
        assert!(ALL.is_sorted());
        let names: Vec<_> = Cost::all().map(|cost| cost.model().name).collect();
        assert_eq!((names.len(), names[0], names[11], names[20]), (24, "footprint", "state", "resident"));
    }
}
