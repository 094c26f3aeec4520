//! Vocabularies of other forms than a `tokenizer.json`, as one: what is hashed, sent and computed with is that alone.
//!
//! SpikeRuGPT comes with GPT-2's `vocab.json` and `merges.txt`, models of characters with a JSON list of them, models of bytes with
//! nothing at all, spikegpt-myelin with a vocabulary inside its checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use qslm_engine::checkpoint::{Vocabulary, vocabulary};
use serde_json::{Value, json};

/// Name of the vocabulary of bytes, which needs no file.
pub(super) const BYTES: &str = "bytes";

/// A vocabulary as a `tokenizer.json`, and where it came from, as a sentence.
pub(super) struct Converted {
    pub(super) json: Vec<u8>,
    pub(super) note: String,
}

/// The vocabulary that a path names in another form; `None` if that is a `tokenizer.json`, or nothing that is known.
///
/// # Errors
/// One line on what is missing or wrong.
pub(super) fn convert(path: &Path) -> Result<Option<Converted>, String> {
    let made = |json: Value, note: &str| {
        Ok(Some(Converted { json: json.to_string().into_bytes(), note: note.to_owned() }))
    };
    if path == Path::new(BYTES) && !path.exists() {
        return made(bytes(), "ids are bytes");
    }
    if starts_like_a_checkpoint(path) {
        return match vocabulary(path).map_err(|error| error.to_string())? {
            Some(Vocabulary::Bytes) => made(bytes(), "ids are bytes, as the checkpoint says"),
            Some(Vocabulary::Characters(all)) => {
                let ids = all.into_iter().zip(0..).collect();
                made(characters(&ids)?, "ids are the characters that the checkpoint lists")
            }
            Some(Vocabulary::Tokenizer(json)) => {
                let note = "the tokenizer is that inside the checkpoint".to_owned();
                Ok(Some(Converted { json: json.into_bytes(), note }))
            }
            None => Err("a checkpoint without a vocabulary: name a tokenizer.json".to_owned()),
        };
    }
    let Ok(bytes) = std::fs::read(path) else { return Ok(None) };
    let Some(object) = object(&bytes) else { return Ok(None) };
    if let Some(ids) = listed_characters(&object) {
        return made(characters(&ids)?, "ids are the characters that it lists");
    }
    if object.is_empty() || !object.values().all(Value::is_u64) {
        return Ok(None);
    }
    let merges = path.with_file_name("merges.txt");
    let text = std::fs::read_to_string(&merges)
        .map_err(|error| format!("a vocabulary without its merges: {}: {error}", merges.display()))?;
    let json = byte_pairs(Value::Object(object), &text)?;
    made(json, &format!("merges are those of {}", merges.display()))
}

/// True for the beginnings of PyTorch's formats.
fn starts_like_a_checkpoint(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut start));
    read.is_ok() && (start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02"))
}

/// A JSON object in UTF-8 or, with its mark, UTF-16.
fn object(bytes: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => {
            std::str::from_utf8(bytes.strip_prefix(super::BYTE_ORDER_MARK).unwrap_or(bytes)).ok()?.to_owned()
        }
    };
    match serde_json::from_str(&text).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks();
    let units: Vec<u16> = units.iter().map(|bytes| unit(*bytes)).collect();
    rest.is_empty().then(|| String::from_utf16(&units).ok())?
}

/// The ids of a list `{"0": "\n", ..}` of characters; `None` if it is none.
fn listed_characters(object: &serde_json::Map<String, Value>) -> Option<BTreeMap<String, u32>> {
    let one = |(id, character): (&String, &Value)| {
        let character = character.as_str()?;
        let is_one = character.chars().count() == 1;
        is_one.then(|| Some((character.to_owned(), id.parse().ok()?)))?
    };
    (!object.is_empty()).then(|| object.iter().map(one).collect::<Option<_>>())?
}

/// One token per character; what is not listed is read as a space, as the published script does.
fn characters(ids: &BTreeMap<String, u32>) -> Result<Value, String> {
    if !ids.contains_key(" ") {
        return Err("a list of characters without a space, which unknown ones are read as".to_owned());
    }
    Ok(tokenizer(
        json!({"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false}),
        json!({"type": "Fuse"}),
        json!({"type": "WordLevel", "vocab": ids, "unk_token": " "}),
    ))
}

/// One token per byte, the byte being its id.
fn bytes() -> Value {
    let vocabulary: BTreeMap<String, u32> =
        byte_characters().into_iter().map(String::from).zip(0..).collect();
    byte_level(json!({"type": "BPE", "vocab": vocabulary, "merges": []}), false)
}

/// GPT-2's byte pairs.
fn byte_pairs(vocabulary: Value, merges: &str) -> Result<Value, String> {
    let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let merges: Vec<&str> = lines.collect();
    match merges.iter().find(|line| line.split(' ').count() != 2) {
        Some(line) => Err(format!("merges.txt: {line:?} is no pair")),
        None => Ok(byte_level(json!({"type": "BPE", "vocab": vocabulary, "merges": merges}), true)),
    }
}

/// A tokenizer whose characters stand for bytes; `words`: cut into GPT-2's words first.
fn byte_level(model: Value, words: bool) -> Value {
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words});
    tokenizer(level.clone(), level, model)
}

fn tokenizer(pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    })
}

/// The characters that stand for bytes in GPT-2's vocabulary, in the order of the bytes: printable ones for themselves, the
/// others moved behind the first 256.
fn byte_characters() -> Vec<char> {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = 0x100..;
    let of = |byte: u8| match is_itself(byte) {
        true => Some(char::from(byte)),
        false => moved.next().and_then(char::from_u32),
    };
    (0..=255).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use qslm_engine::task::TokenizerFile;
    use std::path::PathBuf;
    use tempfile::TempDir;

    use super::*;

    fn load(path: &Path, vocabulary: u32) -> TokenizerFile {
        let converted = convert(path).unwrap().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), converted.json).unwrap();
        TokenizerFile::load(file.path(), vocabulary).unwrap()
    }

    fn decoded(tokenizer: &TokenizerFile, ids: &[u32]) -> String {
        let mut decoder = tokenizer.decoder();
        ids.iter().filter_map(|id| decoder.push(*id).unwrap()).collect()
    }

    fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn bytes_are_their_own_ids() {
        let tokenizer = load(Path::new(BYTES), 256);
        let text = "A \u{e9}\n\t\u{2603}\u{0}~";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(decoded(&tokenizer, &ids), text);
    }

    #[test]
    fn characters_have_the_ids_of_their_list_and_unknown_ones_that_of_the_space() {
        let folder = tempfile::tempdir().unwrap();
        let list = "{\"0\": \"\\n\", \"1\": \" \", \"2\": \"a\", \"3\": \"\u{e9}\"}";
        let wide: Vec<u8> =
            [0xfeff].into_iter().chain(list.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        for bytes in [list.as_bytes(), &wide] {
            let tokenizer = load(&file(&folder, "vocab_book.json", bytes), 4);
            let ids = tokenizer.encode("a a\u{e9}\n?").unwrap();
            assert_eq!(ids, [2, 1, 2, 3, 0, 1]);
            assert_eq!(decoded(&tokenizer, &ids), "a a\u{e9}\n ");
        }
        let spaceless = file(&folder, "spaceless.json", b"{\"0\": \"a\"}");
        assert!(convert(&spaceless).err().unwrap().contains("without a space"));
    }

    #[test]
    fn byte_pairs_are_read_off_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = "{\"a\": 0, \"b\": 1, \"\u{120}\": 2, \"ab\": 3, \"\u{120}ab\": 4}";
        let path = file(&folder, "vocab.json", vocabulary.as_bytes());
        let words = convert(&path).err().unwrap();
        assert!(
            words.starts_with("a vocabulary without its merges: ") && words.contains("merges.txt"),
            "{words}"
        );
        file(&folder, "merges.txt", "#version: 0.2\na b\n\u{120} ab\n".as_bytes());
        let tokenizer = load(&path, 5);
        let ids = tokenizer.encode("ab ab ba").unwrap();
        assert_eq!(ids, [3, 4, 2, 1, 0]);
        assert_eq!(decoded(&tokenizer, &ids), "ab ab ba");
        file(&folder, "merges.txt", b"a b c\n");
        assert!(convert(&path).err().unwrap().contains("is no pair"));
    }

    #[test]
    fn a_tokenizer_json_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{\"model\": {}, \"version\": \"1.0\"}", "[1]", "no json", "{}"] {
            assert!(convert(&file(&folder, "tokenizer.json", text.as_bytes())).unwrap().is_none(), "{text}");
        }
        assert!(convert(&folder.path().join("missing")).unwrap().is_none());
    }
}
