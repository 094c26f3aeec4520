//! The bytes of a candidate as a cost. The count itself is [`crate::footprint`]'s.

use super::{CostModel, CostUnit, Sees};
use crate::footprint::footprint_bytes;

/// `footprint`
pub const FOOTPRINT: CostModel = CostModel {
    name: "footprint",
    unit: CostUnit::BYTES,
    about: "bytes of the packed file's tensors",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(footprint_bytes(subject.network, subject.candidate) as f64),
};
