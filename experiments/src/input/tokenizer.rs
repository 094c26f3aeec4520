//! A `tokenizer.json` without what depends on more than the text, changed in as few bytes as that takes.

use std::ops::Range;

use serde_json::Value;

/// Settings that cut or pad, of a training or of another program, which switch them off to measure, too.
const SWITCHED_OFF: [&str; 2] = ["truncation", "padding"];

/// The bytes to use in place of these, if they differ, and what was done, a sentence each. What is no JSON stays as it is:
/// its reader says what is wrong.
pub(super) fn normal(bytes: &[u8]) -> (Option<Vec<u8>>, Vec<String>) {
    let marked = bytes.starts_with(super::BYTE_ORDER_MARK);
    let rest = bytes.strip_prefix(super::BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut notes = Vec::new();
    if marked {
        notes.push("a byte-order mark at its beginning is left out".to_owned());
    }
    let parsed = serde_json::from_slice::<Value>(rest).ok().zip(std::str::from_utf8(rest).ok());
    let Some((value, text)) = parsed.filter(|(value, _)| value.is_object()) else {
        return (marked.then(|| rest.to_vec()), notes);
    };
    let mut normal = text.to_owned();
    // From the end, so that what comes before stays where it is.
    for (key, at) in values(text).into_iter().rev() {
        if SWITCHED_OFF.contains(&key.as_str()) && &text[at.clone()] != "null" {
            normal.replace_range(at, "null");
        }
    }
    for key in SWITCHED_OFF.iter().filter(|key| !value[**key].is_null()) {
        let most = value[*key]["max_length"].as_u64().map(|most| format!(" to {most} tokens"));
        notes.push(format!("{key}{} is switched off", most.unwrap_or_default()));
    }
    ((marked || normal != text).then(|| normal.into_bytes()), notes)
}

/// The keys of an object of JSON, which `text` is, with where in it their values stand.
fn values(text: &str) -> Vec<(String, Range<usize>)> {
    let bytes = text.as_bytes();
    let (mut found, mut key, mut start) = (Vec::new(), None::<String>, 0);
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        let own = depth == 1;
        match bytes[at] {
            b'"' => {
                let from = at;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                if own && key.is_none() {
                    key = text.get(from..=at).and_then(|quoted| serde_json::from_str(quoted).ok());
                }
            }
            b'{' | b'[' => depth += 1,
            b':' if own => start = at + 1,
            byte @ (b'}' | b']' | b',') => {
                if own && let Some(key) = key.take() {
                    let value = &text[start..at];
                    let from = start + value.len() - value.trim_start().len();
                    found.push((key, from..from + value.trim().len()));
                }
                depth -= i32::from(byte != b',');
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> (Option<String>, String) {
        let (normal, notes) = normal(text.as_bytes());
        (normal.map(|bytes| String::from_utf8(bytes).unwrap()), notes.join("; "))
    }

    #[test]
    fn truncation_and_padding_are_switched_off_and_nothing_else_changes() {
        let rest = r#""added_tokens": [ {"content": "\"padding\": {", "truncation": 7} ], "x": 0.1000, "model": {"padding": 1}"#;
        let asks = format!(
            "{{\"version\": \"1.0\",\n  \"truncation\": {{\"max_length\": 128, \"strategy\": \"LongestFirst\"}} ,\n\
             \"padding\":{{\"strategy\":{{\"Fixed\":4}}}}, {rest}}}"
        );
        let clean = format!("{{\"version\": \"1.0\",\n  \"truncation\": null ,\n\"padding\":null, {rest}}}");
        let notes = "truncation to 128 tokens is switched off; padding is switched off";
        assert_eq!(changed(&asks), (Some(clean.clone()), notes.to_owned()));
        assert_eq!(changed(&clean), (None, String::new()), "a clean file keeps its bytes");
        let marked = format!("\u{feff}{clean}");
        assert_eq!(changed(&marked).0, Some(clean));
        // However a key is written.
        assert_eq!(changed(r#"{"paddin\u0067":{}}"#).0.unwrap(), r#"{"paddin\u0067":null}"#);
    }

    #[test]
    fn what_is_no_object_stays_as_it_is() {
        for text in ["", "{", "[1]", "not json", "{\"truncation\": {}", "null"] {
            assert_eq!(changed(text), (None, String::new()), "{text}");
        }
    }
}
