//! A worked example: one more cost, the pages of flash memory that an update writes (docs/adding.md, "A cost").
//!
//! Inside `common/src/cost/` the constant is a file, with a line `FlashPages => flash_pages::FLASH_PAGES,` in the list
//! of `mod.rs` there. Specs, bounds, fronts, exports and their references follow by themselves.
#![allow(clippy::unwrap_used)]

use qslm_common::candidate::Candidate;
use qslm_common::cost::{CostModel, CostUnit, Device, Sees, Subject};
use qslm_common::footprint::footprint_bytes;
use qslm_common::measurement::Counts;
use qslm_common::network::Network;

/// Bytes of a page of flash memory, which is erased and written as a whole.
const PAGE: u64 = 4096;

/// `flash_pages`
const FLASH_PAGES: CostModel = CostModel {
    name: "flash_pages",
    // A new unit is a constant, too: this one stays out of the others' way.
    unit: CostUnit { text: "pages", in_names: "pages" },
    about: "pages of flash memory that an update of the whole network writes",
    // Narrower activations or membranes do not make the file smaller.
    sees: Sees::Weights,
    // The size of a page is the same everywhere, so the spec need not describe it.
    needs: None,
    value: |subject| Some(footprint_bytes(subject.network, subject.candidate).div_ceil(PAGE) as f64),
};

const TINY: Network = Network {
    vocabulary: 96,
    channels: 48,
    hidden: 192,
    blocks: 2,
    outputs: 96,
    binary_embedding: true,
    dynamics: qslm_common::network::Dynamics::SPIKEGPT,
};

fn pages(scheme: &str) -> f64 {
    let scheme = scheme.parse().unwrap();
    let candidate = Candidate::new(&TINY, |_| scheme);
    let (device, counts) = (Device::default(), Counts::zero(TINY.population_count()));
    (FLASH_PAGES.value)(&Subject::new(&device, &TINY, &candidate, &counts)).unwrap()
}

#[test]
fn a_cost_is_a_constant_that_can_be_evaluated() {
    // 69,120 weights and 1,248 one-dimensional parameters.
    assert_eq!(TINY.parameters(), 69_120 + 1_248);
    assert_eq!(pages("f32"), (70_368.0f64 * 4.0 / 4096.0).ceil());
    // One scale for each of the 16 matrices.
    assert_eq!(pages("int4:symmetric:tensor"), ((34_560.0f64 + 16.0 * 4.0 + 1_248.0 * 4.0) / 4096.0).ceil());
}

#[test]
fn what_is_not_described_is_no_number() {
    const NEEDY: CostModel =
        CostModel { value: |subject| Some(subject.device.latency?.bytes_per_s), ..FLASH_PAGES };
    let (device, candidate) = (Device::default(), Candidate::float(&TINY));
    let counts = Counts::zero(TINY.population_count());
    assert_eq!((NEEDY.value)(&Subject::new(&device, &TINY, &candidate, &counts)), None);
}
