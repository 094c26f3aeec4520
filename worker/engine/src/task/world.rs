//! The vocabulary of RWKV World: byte strings, of which the longest that fits is taken, again and again.
//!
//! A line has an id, a Python literal (`'..'`, `".."` or `b'..'`) and the number of its bytes. Source: the published
//! `rwkv_vocab_v20230424.txt` and the tokenizer beside it.

use std::collections::HashMap;

/// A vocabulary of byte strings.
#[derive(Debug)]
pub(super) struct World {
    ids: HashMap<Vec<u8>, u32>,
    tokens: HashMap<u32, Vec<u8>>,
    /// Bytes of the longest token.
    longest: usize,
}

impl World {
    /// The vocabulary of a text; `None` if it does not begin as one.
    ///
    /// # Errors
    /// One line on the first line that is none.
    pub(super) fn read(text: &str) -> Option<Result<Self, String>> {
        let begins = text.lines().next().and_then(entry).is_some();
        begins.then(|| Self::of_lines(text))
    }

    fn of_lines(text: &str) -> Result<Self, String> {
        let mut world = Self { ids: HashMap::new(), tokens: HashMap::new(), longest: 0 };
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |what: &str| format!("line {}: {what}", index + 1);
            let (id, bytes) = entry(line).ok_or_else(|| wrong("expected ID 'TOKEN' BYTES"))?;
            world.longest = world.longest.max(bytes.len());
            if world.tokens.insert(id, bytes.clone()).is_some() {
                return Err(wrong(&format!("id {id} is there twice")));
            }
            if world.ids.insert(bytes, id).is_some() {
                return Err(wrong("its token is there twice"));
            }
        }
        Ok(world)
    }

    /// The largest id.
    pub(super) fn largest(&self) -> Option<u32> {
        self.tokens.keys().max().copied()
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// If a byte has no token of its own, and none that begins with it fits.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let (mut rest, mut ids) = (text.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let most = self.longest.min(rest.len());
            let found = (1..=most).rev().find_map(|length| Some((length, *self.ids.get(&rest[..length])?)));
            let (length, id) = found.ok_or_else(|| format!("no token begins with byte {:#04x}", rest[0]))?;
            ids.push(id);
            rest = &rest[length..];
        }
        Ok(ids)
    }

    /// The bytes of a token; none of an id that is no token's, such as the end of a text.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Takes the characters that are complete off a buffer; bytes that can be none become U+FFFD.
pub(super) fn complete(buffer: &mut Vec<u8>) -> Option<String> {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(buffer) {
            Ok(all) => {
                text.push_str(all);
                buffer.clear();
                break;
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&buffer[..valid]));
                let Some(wrong) = error.error_len() else {
                    buffer.drain(..valid);
                    break;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                buffer.drain(..valid + wrong);
            }
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Id and bytes of a line.
fn entry(line: &str) -> Option<(u32, Vec<u8>)> {
    let (id, rest) = line.split_once(' ')?;
    let (literal, length) = rest.rsplit_once(' ')?;
    let bytes = literal_bytes(literal)?;
    let (id, length): (u32, usize) = (id.parse().ok()?, length.parse().ok()?);
    (bytes.len() == length && length > 0).then_some((id, bytes))
}

/// The bytes of a Python literal of text or bytes.
fn literal_bytes(literal: &str) -> Option<Vec<u8>> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(quoted) => (true, quoted),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let (mut bytes, mut characters) = (Vec::new(), inner.chars());
    while let Some(character) = characters.next() {
        let code = match character {
            '\\' => match characters.next()? {
                'n' => 0x0a,
                't' => 0x09,
                'r' => 0x0d,
                escaped @ ('\\' | '\'' | '"') => u32::from(escaped),
                'x' => hexadecimal(&mut characters, 2)?,
                'u' => hexadecimal(&mut characters, 4)?,
                'U' => hexadecimal(&mut characters, 8)?,
                _ => return None,
            },
            character => u32::from(character),
        };
        match is_bytes {
            true => bytes.push(u8::try_from(code).ok()?),
            false => bytes.extend(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(bytes)
}

fn hexadecimal(characters: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |sum, _| Some(16 * sum + characters.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "1 'a' 1\n2 'b' 1\n3 ' ' 1\n4 'ab' 2\n5 ' ab' 3\n6 b'\\xe2' 1\n7 b'\\x98' 1\n8 b'\\x83' 1\n\
                         9 '\\u2603' 3\n10 '\\n' 1\n11 \"'\" 1\n12 '\\\\' 1\n13 '\\xe9' 2\n";

    #[test]
    fn the_longest_token_that_fits_is_taken() {
        let world = World::read(WORDS).unwrap().unwrap();
        assert_eq!(world.encode("ab ab'b\\\u{2603}\n\u{e9}"), Ok(vec![4, 5, 11, 2, 12, 9, 10, 13]));
        assert_eq!(world.encode("\u{2605}").unwrap_err(), "no token begins with byte 0x85");
        assert_eq!((world.largest(), world.bytes(5), world.bytes(0)), (Some(13), &b" ab"[..], &b""[..]));
    }

    #[test]
    fn characters_come_once_they_are_complete() {
        let mut buffer = vec![0xe2, 0x98];
        assert_eq!(complete(&mut buffer), None);
        buffer.push(0x83);
        assert_eq!(complete(&mut buffer).as_deref(), Some("\u{2603}"));
        buffer.extend([b'a', 0xff, b'b', 0xe2]);
        assert_eq!(complete(&mut buffer).as_deref(), Some("a\u{fffd}b"));
        assert_eq!(buffer, [0xe2]);
    }

    #[test]
    fn a_line_that_is_no_token_is_named() {
        let refused = |more: &str| World::read(&format!("{WORDS}{more}\n")).unwrap().unwrap_err();
        assert_eq!(refused("14 'abc' 2"), "line 14: expected ID 'TOKEN' BYTES");
        assert_eq!(refused("14 'ab' 2"), "line 14: its token is there twice");
        assert_eq!(refused("13 'abc' 3"), "line 14: id 13 is there twice");
        for line in ["", "{", "1 a 1", "1 '\\q' 1", "1 'a", "x 'a' 1", "1 b'\\u2603' 3", "1 '' 0"] {
            assert!(World::read(line).is_none(), "{line}");
        }
    }
}
