//! Counts as they are stored: a Protocol Buffers message, in version 2 after the fingerprints of the engines.

use prost::Message;
use qslm_common::evidence::{Engines, Evidence, Fingerprint};
use qslm_common::measurement::{Counts, Nll};

use super::{Reason, UnreadableRecord, unreadable};

const COUNTS_V1: u8 = 1;
/// Version 2: as version 1, after the number of engines (2 bytes) and their fingerprints (8 bytes each),
/// little-endian.
const COUNTS_V2: u8 = 2;

/// The message. Its tags and types never change; its bytes are those of the message in which counts travel today.
#[derive(Clone, PartialEq, Message)]
struct CountsRecord {
    /// Units of 2^-24 nat.
    #[prost(uint64, tag = "1")]
    nll: u64,
    #[prost(uint64, tag = "2")]
    scored_tokens: u64,
    #[prost(uint64, tag = "3")]
    hits: u64,
    #[prost(uint64, tag = "4")]
    sentences: u64,
    #[prost(uint64, tag = "5")]
    processed_tokens: u64,
    #[prost(uint64, repeated, tag = "6")]
    spikes: Vec<u64>,
}

impl From<&Counts> for CountsRecord {
    fn from(counts: &Counts) -> Self {
        // Every field by name, so that the next one is not forgotten.
        let Counts { nll: Nll(nll), scored_tokens, hits, sentences, processed_tokens, ref spikes } = *counts;
        Self { nll, scored_tokens, hits, sentences, processed_tokens, spikes: spikes.clone() }
    }
}

impl From<CountsRecord> for Counts {
    fn from(record: CountsRecord) -> Self {
        let CountsRecord { nll, scored_tokens, hits, sentences, processed_tokens, spikes } = record;
        Self { nll: Nll(nll), scored_tokens, hits, sentences, processed_tokens, spikes }
    }
}

pub(in crate::store) fn encode_counts(counts: &Counts, engines: &Engines) -> Vec<u8> {
    let mut bytes = match u16::try_from(engines.len()) {
        Ok(number @ 1..) => {
            let [low, high] = number.to_le_bytes();
            vec![COUNTS_V2, low, high]
        }
        // Where nobody knows who counted, nothing has changed.
        _ => vec![COUNTS_V1],
    };
    if bytes[0] == COUNTS_V2 {
        bytes.extend(engines.iter().flat_map(|Fingerprint(name)| name.to_le_bytes()));
    }
    bytes.extend(CountsRecord::from(counts).encode_to_vec());
    bytes
}

pub(in crate::store) fn decode_counts(bytes: &[u8]) -> Result<Evidence, UnreadableRecord> {
    let refuse = |reason| unreadable("counts", bytes, reason);
    let (engines, body) = match bytes {
        [COUNTS_V1, body @ ..] => (Engines::new(), body),
        [COUNTS_V2, low, high, rest @ ..] => {
            let length = 8 * usize::from(u16::from_le_bytes([*low, *high]));
            let (names, body) = rest.split_at_checked(length).ok_or_else(|| refuse(Reason::CutShort))?;
            let (names, _) = names.as_chunks();
            (names.iter().map(|name| Fingerprint(u64::from_le_bytes(*name))).collect(), body)
        }
        _ => return Err(refuse(Reason::Version)),
    };
    let counts = CountsRecord::decode(body).map_err(|error| refuse(error.into()))?;
    Ok(Evidence { counts: counts.into(), engines })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_proto::v1;

    use super::*;

    #[test]
    fn records_of_version_1_stay_readable() {
        let counts = Counts {
            nll: Nll(300),
            scored_tokens: 2,
            processed_tokens: 3,
            spikes: vec![4, 5],
            ..Counts::zero(0)
        };
        // These bytes are in people's stores. A change of format adds a version; it never edits this line.
        let fixture = [1, 8, 172, 2, 16, 2, 40, 3, 50, 2, 4, 5];
        assert_eq!(encode_counts(&counts, &Engines::new()), fixture);
        assert_eq!(decode_counts(&fixture).unwrap(), counts.clone().into());
        // Version 2 says who counted.
        let engines = Engines::from([Fingerprint(7), Fingerprint(258)]);
        let fixture =
            [&[2, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0][..], &fixture[1..]].concat();
        assert_eq!(encode_counts(&counts, &engines), fixture);
        assert_eq!(decode_counts(&fixture).unwrap(), Evidence { counts, engines });
        let error = decode_counts(&fixture[..18]).unwrap_err().to_string();
        assert_eq!(error, "counts record of version Some(2) cannot be read: it is cut short");
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        let error = decode_counts(&[9, 1, 2]).unwrap_err().to_string();
        assert_eq!(error, "counts record of version Some(9) cannot be read: unknown version");
    }

    proptest! {
        #[test]
        fn a_record_has_the_bytes_of_the_message_in_which_counts_travel(
            numbers in prop::array::uniform5(any::<u64>()),
            spikes in prop::collection::vec(any::<u64>(), 0..40),
        ) {
            let [nll, scored_tokens, hits, sentences, processed_tokens] = numbers;
            let counts = Counts { nll: Nll(nll), scored_tokens, hits, sentences, processed_tokens, spikes };
            let travelling = v1::Counts::from(&counts).encode_to_vec();
            prop_assert_eq!(&CountsRecord::from(&counts).encode_to_vec(), &travelling);
            let stored = encode_counts(&counts, &Engines::new());
            prop_assert_eq!(&stored[1..], &travelling[..]);
            prop_assert_eq!(decode_counts(&stored).unwrap().counts, counts);
        }
    }
}
