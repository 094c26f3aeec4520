//! Table of what one multiply-accumulate takes on a chip at hand, by the widths of its operands: cycles, energy, or both.
//!
//! For who has measured a kernel per width, or has the vendor's figures. An entry is named by the bits of the weights, or by
//! those of weights and activations (`4`, `8x8`). A product runs on the narrowest entry that is wide enough for both of its
//! operands, as on a chip without arithmetic of 3 bits, which takes that of 4; an entry without a width of activations takes
//! any. What one product takes times the products of a linear, added up over the linears, is the cost; whatever lies between
//! products is left out, so what is measured per product should contain the reading of its weight.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::operations::{Operations, activation_bits};
use super::{CostModel, CostUnit, Description, InvalidDevice, Sees, Subject};
use crate::candidate::Candidate;

/// `table_cycles`
pub const CYCLES: CostModel = CostModel {
    name: "table_cycles",
    unit: CostUnit::CYCLES_PER_TOKEN,
    about: "cycles of all products, by the table of the device",
    sees: Sees::ActivationsOrMembranes,
    needs: Some(Description {
        key: "table",
        is_in: |device| device.table.as_ref().is_some_and(|table| !table.cycles.is_empty()),
    }),
    value: |subject| per_token(subject, |table| &table.cycles),
};

/// `table_energy`
pub const ENERGY: CostModel = CostModel {
    name: "table_energy",
    unit: CostUnit::JOULES_PER_TOKEN,
    about: "energy of all products, by the table of the device",
    sees: Sees::ActivationsOrMembranes,
    needs: Some(Description {
        key: "table",
        is_in: |device| device.table.as_ref().is_some_and(|table| !table.picojoules.is_empty()),
    }),
    value: |subject| Some(per_token(subject, |table| &table.picojoules)? * 1e-12),
};

/// Figures of a chip per multiply-accumulate, by widths.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WidthTable {
    /// Cycles of one multiply-accumulate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cycles: BTreeMap<Widths, f64>,
    /// Picojoules of one multiply-accumulate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub picojoules: BTreeMap<Widths, f64>,
}

/// Widths of the operands of a product, in bits: `8`, or `8x4` with 8-bit weights and 4-bit activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Widths {
    weights: u32,
    /// Any if absent.
    activations: Option<u32>,
}

/// The width of floats, beyond which nothing is wider.
const FLOAT: u32 = 32;

/// A text that names no widths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected bits of weights, 1 to 32, such as 8, or of weights and activations, such as 8x8")]
pub struct InvalidWidths(String);

impl FromStr for Widths {
    type Err = InvalidWidths;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bits = |text: &str| text.parse().ok().filter(|bits| (1..=FLOAT).contains(bits));
        let widths = match text.split_once('x') {
            Some((weights, activations)) => bits(weights).zip(bits(activations).map(Some)),
            None => bits(text).map(|weights| (weights, None)),
        };
        let (weights, activations) = widths.ok_or_else(|| InvalidWidths(text.chars().take(80).collect()))?;
        Ok(Self { weights, activations })
    }
}

impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.activations {
            Some(activations) => write!(f, "{}x{activations}", self.weights),
            None => write!(f, "{}", self.weights),
        }
    }
}

impl TryFrom<String> for Widths {
    type Error = InvalidWidths;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Widths> for String {
    fn from(widths: Widths) -> Self {
        widths.to_string()
    }
}

impl Widths {
    /// True if operands of these widths fit.
    fn take(&self, weights: f64, activations: f64) -> bool {
        f64::from(self.weights) >= weights && f64::from(self.activations.unwrap_or(FLOAT)) >= activations
    }

    /// Widths by rising bits, of weights first; any activations are the widest.
    fn size(&self) -> (u32, u32) {
        (self.weights, self.activations.unwrap_or(FLOAT))
    }

    /// True if everything fits.
    fn is_widest(&self) -> bool {
        self.size() == (FLOAT, FLOAT)
    }
}

impl WidthTable {
    /// Everything that makes no sense.
    pub(super) fn problems(&self) -> Vec<InvalidDevice> {
        let columns = [("cycles", &self.cycles), ("picojoules", &self.picojoules)];
        let mut problems: Vec<_> =
            columns.into_iter().flat_map(|(name, column)| wrong(name, column)).collect();
        if self.cycles.is_empty() && self.picojoules.is_empty() {
            let words = "expected cycles or picojoules of a product, by widths".to_owned();
            problems.push(InvalidDevice::Table { name: "table".to_owned(), words });
        }
        problems
    }
}

/// Everything that makes no sense in one column of the table.
fn wrong(name: &str, column: &BTreeMap<Widths, f64>) -> Vec<InvalidDevice> {
    let name = format!("table.{name}");
    let mut problems = Vec::new();
    for (widths, value) in column {
        super::check(&mut problems, &format!("{name}.{widths}"), *value, true);
    }
    if !column.is_empty() && !column.keys().any(Widths::is_widest) {
        // The float model is measured, too, and all that is left in float.
        let words = "an entry 32 is missing: that of floats".to_owned();
        problems.push(InvalidDevice::Table { name, words });
    }
    problems
}

/// Sum over all products of a subject; `None` without the column.
fn per_token(subject: &Subject<'_>, column: fn(&WidthTable) -> &BTreeMap<Widths, f64>) -> Option<f64> {
    let column = column(subject.device.table.as_ref()?);
    subject.built().iter().map(|operations| of_linear(operations, subject.candidate, column)).sum()
}

/// What the products of one linear take; `None` if the column has no entry that is wide enough.
fn of_linear(operations: &Operations, candidate: &Candidate, column: &BTreeMap<Widths, f64>) -> Option<f64> {
    let Some(unit) = &operations.unit else { return Some(0.0) };
    let weights = f64::from(candidate.scheme(&unit.name).bits());
    let activations = activation_bits(candidate, &unit.name);
    let fitting = column.iter().filter(|(widths, _)| widths.take(weights, activations));
    let (_, each) = fitting.min_by_key(|(widths, _)| widths.size())?;
    Some(operations.macs * each)
}

#[cfg(test)]
mod tests {
    use super::super::Device;
    use super::*;
    use crate::measurement::Counts;
    use crate::network::tests::PUBLISHED;
    use crate::scheme::Scheme;

    const MACS: f64 = 176_631_552.0;

    fn device(entries: &str) -> Device {
        serde_json::from_str(&format!(r#"{{"table":{{"cycles":{{{entries}}}}}}}"#)).unwrap()
    }

    fn cycles(device: &Device, weights: &str, activations: Option<&str>) -> f64 {
        let scheme: Scheme = weights.parse().unwrap();
        let units = PUBLISHED.units();
        let linears = units.iter().filter(|unit| unit.is_linear()).map(|unit| unit.name.as_str());
        let activations = activations.map(|scheme| scheme.parse().unwrap());
        let candidate = Candidate::new(&PUBLISHED, |_| scheme).with_activations(linears, activations);
        let counts = Counts { processed_tokens: 1, ..Counts::zero(36) };
        (CYCLES.value)(&Subject::new(device, &PUBLISHED, &candidate, &counts)).unwrap()
    }

    #[test]
    fn a_product_runs_on_the_narrowest_entry_that_is_wide_enough() {
        let chip = device(r#""4":2.0,"8":3.0,"8x8":0.5,"32":10.0"#);
        assert_eq!(chip.problems(&PUBLISHED), []);
        let each = |weights, activations| cycles(&chip, weights, activations) / MACS;
        assert_eq!(each("int4:symmetric:channel", None), 2.0);
        assert_eq!(each("int3:symmetric:channel", None), 2.0, "there is nothing narrower");
        assert_eq!(each("int6:symmetric:channel", None), 3.0);
        assert_eq!(each("int8:symmetric:channel", Some("int8:affine:dynamic")), 0.5);
        assert_eq!(each("int4:symmetric:channel", Some("int4:affine:dynamic")), 2.0);
        assert_eq!((each("f16", None), each("f32", None)), (10.0, 10.0));
    }

    #[test]
    fn what_is_described_is_read_and_written_as_it_stands() {
        let text = r#"{"cycles":{"8":3.0,"8x4":1.5,"32":10.0},"picojoules":{"32":4.5}}"#;
        let table: WidthTable = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&table).unwrap(), text);
        for wrong in ["0", "33", "x8", "8x", "8x8x8", "eight", ""] {
            let words = wrong.parse::<Widths>().unwrap_err().to_string();
            assert!(words.contains("expected bits of weights, 1 to 32"), "{words}");
        }
    }

    #[test]
    fn a_table_that_makes_no_sense_is_named() {
        let words = |device: &Device| {
            device.problems(&PUBLISHED).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let wrong = device(r#""4":-1.0,"8":3.0"#);
        assert_eq!(
            words(&wrong),
            "table.cycles.4 = -1: expected a number above 0; table.cycles: an entry 32 is missing: that of floats"
        );
        let empty = Device { table: Some(WidthTable::default()), ..Device::default() };
        assert_eq!(words(&empty), "table: expected cycles or picojoules of a product, by widths");
        assert!(!empty.models(super::super::Cost::TableCycles));
    }
}
