//! Quantization schemes: what a stored weight may look like.
//!
//! A scheme says how many bits a weight keeps, how real numbers map to those codes, and how many weights
//! share one scale. The arithmetic lives in the engine; bytes are counted in [`crate::footprint`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the weights of one unit are stored.
///
/// Text forms, which are also the canonical encoding: `f32`, `sign`, `int4:symmetric:channel`,
/// `int8:affine:tensor`, `int3:symmetric:group64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scheme {
    /// Untouched 32-bit floats.
    Float,
    /// One bit a weight: `w >= 0`. Lossless for the embedding of a binary-embedding model, and
    /// for nothing else, because only that sign reaches the network.
    Sign,
    /// Signed integers with shared scales.
    Integer(Integer),
}

/// A scheme that stores integers of a fixed width, rounded to nearest with ties to even, over the range
/// between the smallest and the largest weight that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Integer {
    /// Bits per weight, 2 to 8.
    pub bits: Bits,
    /// Whether zero sits in the middle of the codes.
    pub symmetry: Symmetry,
    /// Which weights share a scale.
    pub granularity: Granularity,
}

/// A width of 2 to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Bits(u8);

/// The map between codes `q` and weights `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Symmetry {
    /// `w = s q` with `|q| <= 2^(b-1) - 1` and `s = max|w| / (2^(b-1) - 1)`.
    Symmetric,
    /// `w = s (q - z)` with `-2^(b-1) <= q <= 2^(b-1) - 1`, `s = (max - min) / (2^b - 1)` and `z` an
    /// integer code. The range always includes zero.
    Affine,
}

/// Which weights of a `[rows, columns]` matrix share one scale (and zero point).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Granularity {
    /// The whole matrix.
    Tensor,
    /// Each row, that is each output channel.
    Channel,
    /// Each run of this many input columns within a row; the last run of a row may be shorter.
    Group(u32),
}

/// The largest group that a scheme may name: no input of a linear is wider.
pub const MAX_GROUP: u32 = 1 << 20;

/// A text or number that names no scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScheme {
    /// The width is outside 2..8.
    #[error("{0} bits: a quantized weight has 2 to 8 bits")]
    Bits(u64),
    /// No such symmetry.
    #[error("symmetry {0:?}: expected symmetric or affine")]
    Symmetry(String),
    /// No such granularity.
    #[error("granularity {0:?}: expected tensor, channel or group:N with N from 1 to {MAX_GROUP}")]
    Granularity(String),
    /// Not of the form of a scheme at all.
    #[error("scheme {0:?}: expected f32, sign or intB:SYMMETRY:GRANULARITY, such as int4:symmetric:channel")]
    Form(String),
}

impl Bits {
    /// A width of `bits` bits.
    ///
    /// # Errors
    /// [`InvalidScheme::Bits`] outside 2 to 8.
    pub fn new(bits: u8) -> Result<Self, InvalidScheme> {
        if (2..=8).contains(&bits) { Ok(Self(bits)) } else { Err(InvalidScheme::Bits(bits.into())) }
    }

    /// The number of bits, 2 to 8.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Integer {
    /// The smallest code: `-(2^(b-1) - 1)` symmetric, `-2^(b-1)` affine.
    pub fn q_min(&self) -> i32 {
        match self.symmetry {
            Symmetry::Symmetric => -self.q_max(),
            Symmetry::Affine => -(1 << (self.bits.0 - 1)),
        }
    }

    /// The largest code: `2^(b-1) - 1`.
    pub fn q_max(&self) -> i32 {
        (1 << (self.bits.0 - 1)) - 1
    }
}

impl Granularity {
    /// How many weights of one row share a scale with the first of them, for rows of `columns`.
    pub fn run(self, columns: usize) -> usize {
        match self {
            Self::Tensor | Self::Channel => columns,
            Self::Group(size) => columns.min(size as usize),
        }
    }

    /// The number of scales of a `[rows, columns]` matrix.
    pub fn scales(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Channel => rows,
            Self::Group(_) => rows * columns.div_ceil(self.run(columns).max(1)),
        }
    }
}

impl fmt::Display for Symmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symmetric => "symmetric",
            Self::Affine => "affine",
        })
    }
}

impl FromStr for Symmetry {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "symmetric" => Ok(Self::Symmetric),
            "affine" => Ok(Self::Affine),
            _ => Err(InvalidScheme::Symmetry(text.to_owned())),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Channel => f.write_str("channel"),
            Self::Group(size) => write!(f, "group{size}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = InvalidScheme;

    /// Reads `tensor`, `channel`, and `group:N` or `groupN`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tensor" => return Ok(Self::Tensor),
            "channel" => return Ok(Self::Channel),
            _ => {}
        }
        text.strip_prefix("group")
            .map(|size| size.strip_prefix(':').unwrap_or(size))
            .filter(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|size| size.parse().ok())
            .filter(|size| (1..=MAX_GROUP).contains(size))
            .map(Self::Group)
            .ok_or_else(|| InvalidScheme::Granularity(text.to_owned()))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("f32"),
            Self::Sign => f.write_str("sign"),
            Self::Integer(Integer { bits, symmetry, granularity }) => {
                write!(f, "int{}:{symmetry}:{granularity}", bits.0)
            }
        }
    }
}

impl FromStr for Scheme {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidScheme::Form(text.chars().take(80).collect());
        match text {
            "f32" => return Ok(Self::Float),
            "sign" => return Ok(Self::Sign),
            _ => {}
        }
        let mut parts = text.strip_prefix("int").ok_or_else(form)?.splitn(3, ':');
        let (Some(bits), Some(symmetry), Some(granularity)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        let bits = Bits::new(bits.parse().map_err(|_| form())?)?;
        Ok(Self::Integer(Integer { bits, symmetry: symmetry.parse()?, granularity: granularity.parse()? }))
    }
}

impl TryFrom<u8> for Bits {
    type Error = InvalidScheme;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        Self::new(bits)
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> Self {
        bits.0
    }
}

/// Serde goes through the text forms, so that a spec, the wire and the store show the same words.
macro_rules! through_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = InvalidScheme;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
through_text!(Granularity, Scheme);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_scheme() -> impl Strategy<Value = Scheme> {
        let granularity = prop_oneof![
            Just(Granularity::Tensor),
            Just(Granularity::Channel),
            (1..=MAX_GROUP).prop_map(Granularity::Group)
        ];
        let symmetry = prop_oneof![Just(Symmetry::Symmetric), Just(Symmetry::Affine)];
        let integer = (2u8..=8, symmetry, granularity).prop_map(|(bits, symmetry, granularity)| {
            Scheme::Integer(Integer { bits: Bits(bits), symmetry, granularity })
        });
        prop_oneof![Just(Scheme::Float), Just(Scheme::Sign), integer]
    }

    proptest! {
        #[test]
        fn every_scheme_survives_its_text(scheme in any_scheme()) {
            prop_assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = text.parse::<Scheme>();
            let _ = text.parse::<Granularity>();
        }
    }

    #[test]
    fn codes_span_the_range_of_their_width() {
        let at = |bits, symmetry| Integer { bits: Bits(bits), symmetry, granularity: Granularity::Tensor };
        assert_eq!((at(4, Symmetry::Symmetric).q_min(), at(4, Symmetry::Symmetric).q_max()), (-7, 7));
        assert_eq!((at(4, Symmetry::Affine).q_min(), at(4, Symmetry::Affine).q_max()), (-8, 7));
        assert_eq!((at(8, Symmetry::Affine).q_min(), at(8, Symmetry::Affine).q_max()), (-128, 127));
    }

    #[test]
    fn a_group_need_not_divide_the_row() {
        assert_eq!(Granularity::Group(64).scales(3, 130), 9);
        assert_eq!(Granularity::Group(64).scales(3, 128), 6);
        assert_eq!(Granularity::Group(64).scales(3, 10), 3);
        assert_eq!(Granularity::Channel.scales(3, 130), 3);
        assert_eq!(Granularity::Tensor.scales(3, 130), 1);
    }

    #[test]
    fn a_wrong_scheme_is_refused_with_the_bound() {
        let error = |text: &str| text.parse::<Scheme>().unwrap_err().to_string();
        assert_eq!(error("int9:symmetric:tensor"), "9 bits: a quantized weight has 2 to 8 bits");
        assert!(error("int4:odd:tensor").contains("expected symmetric or affine"));
        assert!(error("int4:affine:group0").contains("from 1 to"));
        assert!(error("int4").contains("such as int4:symmetric:channel"));
    }
}
