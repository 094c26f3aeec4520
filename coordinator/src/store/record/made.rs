//! What a job made, as it is stored: the version, the artifact's hash, then the fingerprints of the engines.

use qslm_common::evidence::Fingerprint;
use qslm_common::hash::ContentHash;
use qslm_common::work::Made;

use super::{Reason, UnreadableRecord, unreadable};

/// Version 1: 32 bytes of the hash, then 8 bytes for each engine, little-endian.
const MADE_V1: u8 = 1;

pub(in crate::store) fn encode_made(made: &Made) -> Vec<u8> {
    let mut bytes = vec![MADE_V1];
    bytes.extend(made.artifact.as_bytes());
    bytes.extend(made.engines.iter().flat_map(|Fingerprint(name)| name.to_le_bytes()));
    bytes
}

pub(in crate::store) fn decode_made(bytes: &[u8]) -> Result<Made, UnreadableRecord> {
    let refuse = |reason| unreadable("made", bytes, reason);
    let [MADE_V1, body @ ..] = bytes else { return Err(refuse(Reason::Version)) };
    let (hash, names) = body.split_first_chunk().ok_or_else(|| refuse(Reason::CutShort))?;
    let (names, []) = names.as_chunks() else { return Err(refuse(Reason::CutShort)) };
    let engines = names.iter().map(|name| Fingerprint(u64::from_le_bytes(*name))).collect();
    Ok(Made { artifact: ContentHash::from_bytes(*hash), engines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_version_1_stay_readable() {
        let made = Made {
            artifact: ContentHash::from_bytes([9; 32]),
            engines: [Fingerprint(7), Fingerprint(258)].into(),
        };
        // These bytes are in people's stores. A change of format adds a version; it never edits this line.
        let fixture = [&[1][..], &[9; 32], &[7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(encode_made(&made), fixture);
        assert_eq!(decode_made(&fixture).unwrap(), made);
        for cut in [1, 20, 40] {
            let error = decode_made(&fixture[..cut]).unwrap_err().to_string();
            assert_eq!(error, "made record of version Some(1) cannot be read: it is cut short");
        }
        assert!(decode_made(&[2]).unwrap_err().to_string().contains("version Some(2)"));
    }
}
