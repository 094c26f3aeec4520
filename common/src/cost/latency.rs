//! Latency per token on a described device: a roofline per matrix.
//!
//! A linear takes the longer of computing its products and reading its weights, `max(MACs / (MACs/s), bytes /
//! (bytes/s))`, and matrices follow each other. Where the device decodes entropy-coded weights piece by piece, coded bytes
//! are what it reads; decoding is taken to keep up. What happens between products, and on-chip traffic, is left
//! out. Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009.

use serde::{Deserialize, Serialize};

use super::operations::is_integer;
use super::{CostModel, CostUnit, Description, InvalidDevice, Sees, check};
use crate::bytes;
use crate::candidate::Candidate;
use crate::footprint::stored_bytes;
use crate::network::{Network, Unit};
use crate::storage::CodedSizes;

/// `latency`
pub const LATENCY: CostModel = CostModel {
    name: "latency",
    unit: CostUnit::SECONDS_PER_TOKEN,
    about: "time per token, by the rooflines of its matrices",
    sees: Sees::ActivationsOrMembranes,
    needs: Some(Description { key: "latency", is_in: |device| device.latency.is_some() }),
    value: |subject| {
        let coded = subject.coded_in_memory();
        Some(subject.device.latency?.seconds(subject.network, subject.candidate, coded, |_| true))
    },
};

/// Speed of a machine: of its arithmetic and of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Multiply-accumulates per second with floats on either side.
    pub macs_per_s: f64,
    /// Multiply-accumulates per second of integers by integers; as with floats if absent.
    pub integer_macs_per_s: Option<f64>,
    /// Bytes per second from the memory that holds the weights.
    #[serde(deserialize_with = "bytes::real")]
    pub bytes_per_s: f64,
}

impl Roofline {
    /// Every number that makes no sense. `whose` is the machine's key in the description of the device.
    pub(super) fn problems(&self, whose: &str) -> Vec<InvalidDevice> {
        let mut problems = Vec::new();
        let mut check = |name: &str, value| check(&mut problems, &format!("{whose}.{name}"), value, true);
        check("macs_per_s", self.macs_per_s);
        if let Some(rate) = self.integer_macs_per_s {
            check("integer_macs_per_s", rate);
        }
        check("bytes_per_s", self.bytes_per_s);
        problems
    }

    /// Seconds per token of the units that `runs_here` picks. `coded` has the bytes of entropy-coded codes in memory.
    pub(super) fn seconds(
        &self,
        network: &Network,
        candidate: &Candidate,
        coded: &CodedSizes,
        runs_here: impl Fn(&Unit) -> bool,
    ) -> f64 {
        let units = network.units().into_iter().filter(runs_here);
        units.map(|unit| self.unit_seconds(&unit, candidate, coded)).sum()
    }

    fn unit_seconds(&self, unit: &Unit, candidate: &Candidate, coded: &CodedSizes) -> f64 {
        let bytes = stored_bytes(unit, candidate.scheme(&unit.name), coded) as f64;
        if !unit.is_linear() {
            // One row is looked up.
            return bytes / unit.rows as f64 / self.bytes_per_s;
        }
        let integer = self.integer_macs_per_s.filter(|_| is_integer(candidate, &unit.name));
        let compute = unit.weights() as f64 / integer.unwrap_or(self.macs_per_s);
        compute.max(bytes / self.bytes_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    fn seconds(roofline: Roofline, candidate: &Candidate) -> f64 {
        roofline.seconds(&PUBLISHED, candidate, CodedSizes::NONE, |_| true)
    }

    #[test]
    fn the_slower_of_compute_and_memory_decides() {
        let float = Candidate::float(&PUBLISHED);
        let (macs, bytes) = (176_631_552.0, 4.0 * (176_631_552.0 + 768.0));
        let memory = Roofline { macs_per_s: 1e15, integer_macs_per_s: None, bytes_per_s: 1e10 };
        assert!((seconds(memory, &float) / (bytes / 1e10) - 1.0).abs() < 1e-9);
        let compute = Roofline { macs_per_s: 1e9, integer_macs_per_s: None, bytes_per_s: 1e15 };
        assert!((seconds(compute, &float) / (macs / 1e9) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn integer_products_run_at_their_own_rate() {
        let roofline = Roofline { macs_per_s: 1e9, integer_macs_per_s: Some(4e9), bytes_per_s: 1e15 };
        let weights = Candidate::new(&PUBLISHED, |_| "int8:symmetric:tensor".parse().unwrap());
        let units = PUBLISHED.units();
        let linears = units.iter().filter(|unit| unit.is_linear()).map(|unit| unit.name.as_str());
        let both = weights.clone().with_activations(linears, "int8:affine:dynamic".parse().ok());
        let ratio = seconds(roofline, &weights) / seconds(roofline, &both);
        assert!((ratio - 4.0).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn a_rate_that_makes_no_sense_is_named() {
        let broken = Roofline { macs_per_s: 0.0, integer_macs_per_s: Some(-1.0), bytes_per_s: f64::INFINITY };
        assert_eq!(broken.problems("latency").len(), 3);
        let words = broken.problems("split.remote")[0].to_string();
        assert_eq!(words, "split.remote.macs_per_s = 0: expected a number above 0");
    }
}
