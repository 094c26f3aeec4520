//! The subject of every cost: a measured candidate of a network, and a device.
//!
//! Several costs follow from one walk over the network, so a subject keeps what was worked out once. That is
//! for speed alone; a model that shares nothing needs no place here.

use std::cell::OnceCell;

use super::Device;
use super::energy::Energy;
use super::operations::{Operations, as_built, as_published};
use super::two_memory::{Memories, TwoMemory};
use crate::candidate::Candidate;
use crate::measurement::Counts;
use crate::network::Network;
use crate::storage::CodedSizes;

/// A measured candidate on a device.
pub struct Subject<'a> {
    /// The device as described.
    pub device: &'a Device,
    /// The shape of the network.
    pub network: &'a Network,
    /// The candidate.
    pub candidate: &'a Candidate,
    /// Bytes of its entropy-coded codes.
    pub sizes: &'a CodedSizes,
    /// The counts that it was measured as; costs take the firing rates from them.
    pub counts: &'a Counts,
    built: OnceCell<Vec<Operations>>,
    published: OnceCell<Vec<Operations>>,
    energy: OnceCell<Energy>,
    memories: OnceCell<Option<Memories>>,
}

impl<'a> Subject<'a> {
    /// Subject of which nothing is worked out yet.
    pub fn new(
        device: &'a Device,
        network: &'a Network,
        candidate: &'a Candidate,
        counts: &'a Counts,
    ) -> Self {
        let (built, published, energy, memories) = Default::default();
        let sizes = CodedSizes::NONE;
        Self { device, network, candidate, sizes, counts, built, published, energy, memories }
    }

    /// The subject in a file with entropy-coded codes of these sizes.
    #[must_use]
    pub fn stored(self, sizes: &'a CodedSizes) -> Self {
        Self { sizes, ..self }
    }

    /// Bytes of entropy-coded codes where they are what memory holds while the network runs: none, unless the device
    /// decodes them piece by piece for each product.
    pub fn coded_in_memory(&self) -> &'a CodedSizes {
        if self.device.decodes_in_pieces { self.sizes } else { CodedSizes::NONE }
    }

    /// Operations per token as the network is built.
    pub fn built(&self) -> &[Operations] {
        self.built.get_or_init(|| as_built(self.network, self.counts))
    }

    /// Operations per token as spiking papers count them.
    pub fn published(&self) -> &[Operations] {
        self.published.get_or_init(|| as_published(self.network, self.counts))
    }

    /// Energy per token by the table of the device.
    pub fn energy(&self) -> Energy {
        let table = &self.device.energy;
        let energy = || table.per_token(self.network, self.candidate, self.coded_in_memory(), self.built());
        *self.energy.get_or_init(energy)
    }

    /// Contents and traffic of the two memories; `None` where they are not described.
    pub(super) fn memories(&self) -> Option<Memories> {
        let (network, candidate) = (self.network, self.candidate);
        let memories = |memory: &TwoMemory| memory.memories(network, candidate, self.coded_in_memory());
        let memories = || self.device.two_memory.as_ref().map(memories);
        *self.memories.get_or_init(memories)
    }
}
