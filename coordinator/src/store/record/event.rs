//! Events, which people read: what happened, when, and to which experiment. Nothing is decided by them.

use serde::{Deserialize, Serialize};

use super::{UnreadableRecord, decode_json, encode_json};

const EVENT_V1: u8 = 1;

/// Event: something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number: grows by one with every event.
    pub number: u64,
    /// Time in milliseconds since 1970 in UTC.
    pub unix_ms: u64,
    /// The experiment that it is about; empty if it is about none.
    pub experiment: String,
    /// Text of the event, in a few words.
    pub text: String,
}

/// An event as it is stored, under its number.
#[derive(Serialize, Deserialize)]
struct EventRecord {
    unix_ms: u64,
    experiment: String,
    text: String,
}

pub(in crate::store) fn encode_event(event: &Event) -> Vec<u8> {
    // Every field by name, so that the next one is not forgotten.
    let Event { number: _, unix_ms, experiment, text } = event.clone();
    encode_json(EVENT_V1, &EventRecord { unix_ms, experiment, text })
}

pub(in crate::store) fn decode_event(number: u64, bytes: &[u8]) -> Result<Event, UnreadableRecord> {
    let EventRecord { unix_ms, experiment, text } = decode_json("event", EVENT_V1, bytes)?;
    Ok(Event { number, unix_ms, experiment, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_version_1_stay_readable() {
        let body = r#"{"unix_ms":5,"experiment":"a-1","text":"finished"}"#;
        let fixture = [&[1], body.as_bytes()].concat();
        let (experiment, text) = ("a-1".to_owned(), "finished".to_owned());
        let event = Event { number: 7, unix_ms: 5, experiment, text };
        assert_eq!(encode_event(&event), fixture);
        assert_eq!(decode_event(7, &fixture).unwrap(), event);
        assert!(decode_event(7, &[2]).unwrap_err().to_string().contains("version Some(2)"));
    }
}
