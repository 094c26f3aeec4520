//! Bytes as people write them: `600 kB` is 600,000, `512 KiB` is 524,288, and a number alone counts bytes.
//!
//! What is written is read once: an experiment keeps numbers.

use std::fmt;

use bytesize::ByteSize;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected {EXPECTED}")]
pub struct NotBytes(String);

/// Form of a number of bytes.
const EXPECTED: &str = "bytes, as a number or as text with a unit such as \"600 kB\" (1,000 B each) or \"512 KiB\" \
                        (1,024 B each)";

/// Number of bytes that `text` means.
///
/// # Errors
/// [`NotBytes`], with the text.
pub fn parse(text: &str) -> Result<u64, NotBytes> {
    let refused = || NotBytes(text.to_owned());
    let bytes: ByteSize = text.trim().parse().map_err(|_| refused())?;
    // A fraction with a large unit may be past the largest number.
    if bytes.as_u64() == u64::MAX { Err(refused()) } else { Ok(bytes.as_u64()) }
}

/// Reads a whole number of bytes.
///
/// # Errors
/// What is no number and no text of bytes.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Number::deserialize(deserializer)? {
        Number::Whole(bytes) | Number::Text(bytes) => Ok(bytes),
        Number::Real(bytes) => Err(D::Error::custom(format!("{bytes}: expected {EXPECTED}"))),
    }
}

/// Reads a whole number of bytes that may be absent.
///
/// # Errors
/// As [`whole`].
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Optional;
    impl<'de> Visitor<'de> for Optional {
        type Value = Option<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }
        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            whole(deserializer).map(Some)
        }
    }
    deserializer.deserialize_option(Optional)
}

/// Reads a number of bytes that need not be whole, such as those per second.
///
/// # Errors
/// What is no number and no text of bytes.
pub fn real<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer).map(Number::as_f64)
}

/// A number, or text of bytes, as it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Whole(u64),
    Real(f64),
    Text(u64),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Bytes)
    }
}

impl Number {
    /// True if it was text with or without a unit.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Text(_))
    }

    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Self::Whole(number) | Self::Text(number) => number as f64,
            Self::Real(number) => number,
        }
    }
}

/// Reader of a [`Number`].
struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
        Ok(Number::Whole(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
        Ok(u64::try_from(number).map_or(Number::Real(number as f64), Number::Whole))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
        Ok(Number::Real(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
        parse(text).map(Number::Text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn units_of_a_thousand_and_of_1024_are_told_apart() {
        for (text, bytes) in [
            ("600 kB", 600_000),
            ("600kB", 600_000),
            ("512 KiB", 524_288),
            ("1.5 MB", 1_500_000),
            ("2 MiB", 2_097_152),
            ("20 GiB", 20 << 30),
            ("560000", 560_000),
            ("12 B", 12),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_with_its_text() {
        for text in ["", "kB", "-5 kB", "600 kiloby", "1e400 GB", "99999999999 EB", "nan"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?}: expected bytes")), "{error}");
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Some3 {
        #[serde(deserialize_with = "whole")]
        whole: u64,
        #[serde(default, deserialize_with = "optional")]
        optional: Option<u64>,
        #[serde(deserialize_with = "real")]
        real: f64,
    }

    #[test]
    fn a_key_takes_a_number_or_text() {
        let read = |text: &str| serde_json::from_str::<Some3>(text);
        let expected = Some3 { whole: 1000, optional: Some(1024), real: 2e9 };
        let text = r#"{"whole": "1 kB", "optional": "1 KiB", "real": "2 GB"}"#;
        assert_eq!(read(text).unwrap(), expected);
        let numbers = r#"{"whole": 1000, "optional": 1024, "real": 2e9}"#;
        assert_eq!(read(numbers).unwrap(), expected);
        assert_eq!(read(r#"{"whole": 1, "real": 1}"#).unwrap().optional, None);
        assert_eq!(read(r#"{"whole": 1, "optional": null, "real": 1}"#).unwrap().optional, None);
        for wrong in
            [r#"{"whole": 1.5, "real": 1}"#, r#"{"whole": -1, "real": 1}"#, r#"{"whole": "x", "real": 1}"#]
        {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("expected bytes"), "{error}");
        }
    }
}
