//! The bytes of a candidate as costs: of its file, and in memory while it runs. The counts are [`crate::footprint`]'s.

use super::{CostModel, CostUnit, Sees, state_bytes};
use crate::footprint::file_bytes;

/// `footprint`
pub const FOOTPRINT: CostModel = CostModel {
    name: "footprint",
    unit: CostUnit::BYTES,
    about: "bytes of the packed file's tensors",
    sees: Sees::Weights,
    needs: None,
    value: |subject| Some(file_bytes(subject.network, subject.candidate, subject.sizes) as f64),
};

/// `resident`
pub const RESIDENT: CostModel = CostModel {
    name: "resident",
    unit: CostUnit::BYTES,
    about: "bytes of weights and recurrent state in memory while it runs; entropy-coded codes are decoded when the file is \
            loaded, or piece by piece where device.decodes_in_pieces says so",
    sees: Sees::ActivationsOrMembranes,
    needs: None,
    value: |subject| {
        let weights = file_bytes(subject.network, subject.candidate, subject.coded_in_memory());
        Some(weights as f64 + state_bytes(subject.network, subject.candidate))
    },
};

#[cfg(test)]
mod tests {
    use super::super::{Device, Subject};
    use super::*;
    use crate::candidate::Candidate;
    use crate::footprint::footprint_bytes;
    use crate::measurement::Counts;
    use crate::network::tests::PUBLISHED;
    use crate::storage::CodedSizes;

    #[test]
    fn coded_weights_take_less_of_a_file_and_of_memory_only_where_they_are_decoded_in_pieces() {
        let scheme = "int4:symmetric:channel".parse().unwrap();
        let candidate = Candidate::new(&PUBLISHED, |_| scheme);
        let mut sizes = CodedSizes::default();
        sizes.insert("head.weight", scheme, 1000);
        let counts = Counts { processed_tokens: 1, ..Counts::zero(36) };
        let of = |model: &CostModel, decodes_in_pieces| {
            let device = Device { decodes_in_pieces, ..Device::default() };
            let subject = Subject::new(&device, &PUBLISHED, &candidate, &counts).stored(&sizes);
            (model.value)(&subject).unwrap()
        };
        let packed = footprint_bytes(&PUBLISHED, &candidate) as f64;
        let spared = 50_277.0 * 768.0 / 2.0 - 1000.0;
        let state = state_bytes(&PUBLISHED, &candidate);
        assert_eq!(of(&FOOTPRINT, false), packed - spared);
        assert_eq!([of(&RESIDENT, false), of(&RESIDENT, true)], [packed + state, packed + state - spared]);
    }
}
