//! What an experiment was told, as it is stored: the canonical texts of the candidates, and whether it was the last tell.

use qslm_search::Tell;
use serde::{Deserialize, Serialize};

use super::{UnreadableRecord, decode_json, encode_json};

const TELL_V1: u8 = 1;

/// One generation from outside.
#[derive(Serialize, Deserialize)]
struct TellRecord {
    candidates: Vec<String>,
    last: bool,
}

pub(in crate::store) fn encode_tell(tell: &Tell) -> Vec<u8> {
    // Every field by name, so that the next one is not forgotten.
    let Tell { candidates, last } = tell.clone();
    encode_json(TELL_V1, &TellRecord { candidates, last })
}

pub(in crate::store) fn decode_tell(bytes: &[u8]) -> Result<Tell, UnreadableRecord> {
    let TellRecord { candidates, last } = decode_json("tell", TELL_V1, bytes)?;
    Ok(Tell { candidates, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_version_1_stay_readable() {
        let fixture = [&[1], br#"{"candidates":["a","b"],"last":true}"#.as_slice()].concat();
        let tell = Tell { candidates: vec!["a".to_owned(), "b".to_owned()], last: true };
        assert_eq!(encode_tell(&tell), fixture);
        assert_eq!(decode_tell(&fixture).unwrap(), tell);
        assert!(decode_tell(&[2]).unwrap_err().to_string().contains("version Some(2)"));
    }
}
