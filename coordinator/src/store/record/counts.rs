//! Counts as they are stored: a Protocol Buffers message, in version 2 after the fingerprints of the engines.

use prost::Message;
use qslm_common::evidence::{Backing, Engines, Evidence, Fingerprint};
use qslm_common::measurement::{Counts, Nll};
use qslm_common::spread::Spread;

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
    /// Absent in records of programs that did not count it, which pass over it, too.
    #[prost(message, optional, tag = "7")]
    spread: Option<SpreadRecord>,
    /// Units of 2^-24 nat; absent where the trial does not ask.
    #[prost(uint64, optional, tag = "8")]
    kl: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SpreadRecord {
    #[prost(uint64, tag = "1")]
    sequences: u64,
    /// Units of (2^-12 nat)^2, or sentences.
    #[prost(uint64, tag = "2")]
    squares: u64,
}

impl CountsRecord {
    fn new(counts: &Counts, spread: Option<Spread>) -> Self {
        // Every field by name, so that the next one is not forgotten. A record is of one trial, and so of one task.
        let Counts {
            nll: Nll(nll),
            scored_tokens,
            hits,
            sentences,
            processed_tokens,
            ref spikes,
            kl,
            tasks: _,
        } = *counts;
        let kl = kl.map(|Nll(kl)| kl);
        let spread = spread.map(|Spread { sequences, squares }| SpreadRecord { sequences, squares });
        Self { nll, scored_tokens, hits, sentences, processed_tokens, spikes: spikes.clone(), spread, kl }
    }

    fn into_parts(self) -> (Counts, Option<Spread>) {
        let Self { nll, scored_tokens, hits, sentences, processed_tokens, spikes, spread, kl } = self;
        let (nll, kl) = (Nll(nll), kl.map(Nll));
        let counts =
            Counts { nll, scored_tokens, hits, sentences, processed_tokens, spikes, kl, ..Counts::default() };
        let spread = spread.map(|SpreadRecord { sequences, squares }| Spread { sequences, squares });
        (counts, spread)
    }
}

pub(in crate::store) fn encode_counts(counts: &Counts, backing: &Backing) -> Vec<u8> {
    let Backing { engines, spread } = backing;
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
    bytes.extend(CountsRecord::new(counts, *spread).encode_to_vec());
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
    let (counts, spread) = CountsRecord::decode(body).map_err(|error| refuse(error.into()))?.into_parts();
    Ok(Evidence { counts, backing: Backing { engines, spread } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_proto::convert;

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
        assert_eq!(encode_counts(&counts, &Backing::default()), fixture);
        assert_eq!(decode_counts(&fixture).unwrap(), counts.clone().into());
        // Version 2 says who counted.
        let engines = Engines::from([Fingerprint(7), Fingerprint(258)]);
        let fixture =
            [&[2, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0][..], &fixture[1..]].concat();
        let backing = Backing::from(engines);
        assert_eq!(encode_counts(&counts, &backing), fixture);
        assert_eq!(
            decode_counts(&fixture).unwrap(),
            Evidence { counts: counts.clone(), backing: backing.clone() }
        );
        // A spread comes last, where a program that knows none of it passes over it.
        let backing = Backing { spread: Some(Spread { sequences: 9, squares: 300 }), ..backing };
        let with_spread = [&fixture[..], &[58, 5, 8, 9, 16, 172, 2]].concat();
        assert_eq!(encode_counts(&counts, &backing), with_spread);
        assert_eq!(
            decode_counts(&with_spread).unwrap(),
            Evidence { counts: counts.clone(), backing: backing.clone() }
        );
        // So does a divergence, where one was asked for.
        let counts = Counts { kl: Some(Nll(0)), ..counts };
        let with_kl = [&with_spread[..], &[64, 0]].concat();
        assert_eq!(encode_counts(&counts, &backing), with_kl);
        assert_eq!(decode_counts(&with_kl).unwrap(), Evidence { counts, backing });
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
            spread in prop::option::of((any::<u64>(), any::<u64>())),
            kl in prop::option::of(any::<u64>().prop_map(Nll)),
        ) {
            let spread = spread.map(|(sequences, squares)| Spread { sequences, squares });
            let [nll, scored_tokens, hits, sentences, processed_tokens] = numbers;
            let nll = Nll(nll);
            let counts = Counts { nll, scored_tokens, hits, sentences, processed_tokens, spikes, kl, ..Counts::default() };
            let travelling = convert::write_counts(&counts, spread).encode_to_vec();
            prop_assert_eq!(&CountsRecord::new(&counts, spread).encode_to_vec(), &travelling);
            let backing = Backing { spread, ..Backing::default() };
            let stored = encode_counts(&counts, &backing);
            prop_assert_eq!(&stored[1..], &travelling[..]);
            prop_assert_eq!(decode_counts(&stored).unwrap(), Evidence { counts, backing });
        }
    }
}
