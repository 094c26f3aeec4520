//! A split network: the front part on the device, the rest on a remote machine.
//!
//! The embedding and the first blocks run on the device; the residual stream, D numbers per token, goes over
//! the link; the other blocks and the head run remotely. The latency per token is that of both rooflines, of
//! the bytes on the link, and of the link itself. The returned token is too small to count.

use serde::{Deserialize, Serialize};

use super::latency::Roofline;
use super::{CostModel, CostUnit, Description, InvalidDevice, Sees, check};
use crate::bytes;
use crate::candidate::Candidate;
use crate::footprint::stored_bytes;
use crate::network::{Network, Unit};
use crate::storage::CodedSizes;

/// Description that these costs need.
const SPLIT: Option<Description> = Some(Description { key: "split", is_in: |device| device.split.is_some() });

/// `device_footprint`
pub const DEVICE_FOOTPRINT: CostModel = CostModel {
    name: "device_footprint",
    unit: CostUnit::BYTES,
    about: "bytes of the matrices that stay on the device, as their file stores them",
    sees: Sees::Weights,
    needs: SPLIT,
    value: |subject| {
        Some(subject.device.split?.bytes_on_device(subject.network, subject.candidate, subject.sizes))
    },
};

/// `link`
pub const LINK: CostModel = CostModel {
    name: "link",
    unit: CostUnit::BYTES_PER_TOKEN,
    about: "bytes of the residual stream on the link",
    sees: Sees::Weights,
    needs: SPLIT,
    value: |subject| Some(subject.device.split?.link_bytes(subject.network)),
};

/// `split_latency`
pub const LATENCY: CostModel = CostModel {
    name: "split_latency",
    unit: CostUnit::SECONDS_PER_TOKEN,
    about: "time per token on both machines and the link between them",
    sees: Sees::ActivationsOrMembranes,
    needs: SPLIT,
    value: |subject| {
        let device = (&subject.device.latency?, subject.coded_in_memory());
        Some(subject.device.split?.seconds(subject.network, subject.candidate, device))
    },
};

/// Place where a network is cut, and the machine beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Blocks that run on the device, 0 (the embedding only) to L (all but the head).
    pub blocks_on_device: u32,
    /// Bits of each number of the residual on the link: 32, or 8 for instance, because it holds the first
    /// layer norm plus small spike counts.
    #[serde(default = "float_bits")]
    pub link_bits: u32,
    /// Bytes per second over the link.
    #[serde(deserialize_with = "bytes::real")]
    pub link_bytes_per_s: f64,
    /// Seconds that a message takes whatever its size.
    pub link_latency_s: f64,
    /// The remote machine.
    pub remote: Roofline,
}

fn float_bits() -> u32 {
    32
}

impl Split {
    /// Everything that makes no sense.
    pub(super) fn problems(&self, network: &Network, device_described: bool) -> Vec<InvalidDevice> {
        let mut problems = self.remote.problems("split.remote");
        check(&mut problems, "split.link_bytes_per_s", self.link_bytes_per_s, true);
        check(&mut problems, "split.link_latency_s", self.link_latency_s, false);
        if !(1..=32).contains(&self.link_bits) {
            let (name, value) = ("split.link_bits".to_owned(), f64::from(self.link_bits));
            problems.push(InvalidDevice::Number { name, value, bound: "1 to 32" });
        }
        if self.blocks_on_device > network.blocks {
            let (given, most) = (self.blocks_on_device, network.blocks);
            problems.push(InvalidDevice::Split(format!("blocks_on_device = {given}: expected 0 to {most}")));
        }
        if !device_described {
            let words = "the device's own speed is missing: describe it as [device.latency]";
            problems.push(InvalidDevice::Split(words.to_owned()));
        }
        problems
    }

    /// True if a unit stays on the device: the embedding, and the first blocks.
    fn is_here(&self, unit: &Unit) -> bool {
        unit.block().map_or(!unit.is_linear(), |block| block < self.blocks_on_device)
    }

    /// Bytes of the matrices that stay on the device.
    fn bytes_on_device(&self, network: &Network, candidate: &Candidate, coded: &CodedSizes) -> f64 {
        let here = network.units().into_iter().filter(|unit| self.is_here(unit));
        here.map(|unit| stored_bytes(&unit, candidate.scheme(&unit.name), coded)).sum::<u64>() as f64
    }

    /// Bytes on the link per token.
    fn link_bytes(&self, network: &Network) -> f64 {
        f64::from(network.channels) * f64::from(self.link_bits) / 8.0
    }

    /// Seconds per token on both machines and the link. The device has the bytes of entropy-coded codes in its memory; the
    /// remote machine has decoded ones.
    fn seconds(
        &self,
        network: &Network,
        candidate: &Candidate,
        (device, coded): (&Roofline, &CodedSizes),
    ) -> f64 {
        device.seconds(network, candidate, coded, |unit| self.is_here(unit))
            + self.remote.seconds(network, candidate, CodedSizes::NONE, |unit| !self.is_here(unit))
            + self.link_bytes(network) / self.link_bytes_per_s
            + self.link_latency_s
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::network::tests::PUBLISHED;

    pub(crate) fn split(blocks_on_device: u32) -> Split {
        let remote = Roofline { macs_per_s: 1e12, integer_macs_per_s: None, bytes_per_s: 1e12 };
        let (link_bytes_per_s, link_latency_s) = (1e6, 0.01);
        Split { blocks_on_device, link_bits: 32, link_bytes_per_s, link_latency_s, remote }
    }

    #[test]
    fn both_sides_and_the_link_add_up() {
        let float = Candidate::float(&PUBLISHED);
        let device = Roofline { macs_per_s: 1e9, integer_macs_per_s: None, bytes_per_s: 1e15 };
        let seconds = |blocks| split(blocks).seconds(&PUBLISHED, &float, (&device, CodedSizes::NONE));
        let block = 13.0 * 768.0 * 768.0;
        let emb = 50_277.0 * 768.0 * 4.0;
        let link = split(9).link_bytes(&PUBLISHED);
        assert_eq!(split(9).bytes_on_device(&PUBLISHED, &float, CodedSizes::NONE), emb + 9.0 * block * 4.0);
        assert_eq!(link, 768.0 * 4.0);
        // The remote machine is bound by its memory.
        let remote = (9.0 * block * 4.0 + emb) / 1e12;
        let expected = 9.0 * block / 1e9 + remote + link / 1e6 + 0.01;
        assert!((seconds(9) / expected - 1.0).abs() < 1e-6, "{} {expected}", seconds(9));
        assert!(seconds(0) < seconds(18), "the remote machine is the faster one");
    }

    #[test]
    fn a_cut_outside_the_network_is_refused() {
        let words = |split: Split| split.problems(&PUBLISHED, true)[0].to_string();
        assert_eq!(words(split(19)), "split: blocks_on_device = 19: expected 0 to 18");
        assert!(words(Split { link_bits: 0, ..split(1) }).contains("split.link_bits = 0"));
        assert!(split(1).problems(&PUBLISHED, false)[0].to_string().contains("[device.latency]"));
    }
}
