//! Quantization schemes: what a stored weight may look like.
//!
//! A scheme says how many bits a weight keeps, how real numbers map to those codes, how many weights share one
//! scale, and which range of weights the codes span. The arithmetic lives in the engine; bytes are counted in
//! [`crate::footprint`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the weights of one unit are stored.
///
/// Text forms, which are also the canonical encoding: `f32`, `f16`, `sign`, `int4:symmetric:channel`,
/// `int8:affine:tensor`, `int3:symmetric:group64`; then, unless they are `nearest` and `minmax`, rounding and
/// range: `int4:affine:channel:truncate`, `int4:symmetric:tensor:stochastic7:percentile99.9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scheme {
    /// Untouched 32-bit floats.
    Float,
    /// 16-bit floats, rounded to nearest; what is too large for them becomes the largest.
    Half,
    /// One bit a weight: `w >= 0`. Lossless for the embedding of a binary-embedding model, and
    /// for nothing else, because only that sign reaches the network.
    Sign,
    /// Signed integers with shared scales.
    Integer(Integer),
}

/// A scheme that stores integers of a fixed width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Integer {
    /// Bits per weight, 2 to 8.
    pub bits: Bits,
    /// Whether zero sits in the middle of the codes.
    pub symmetry: Symmetry,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// Which of the two nearest codes a weight gets.
    pub rounding: Rounding,
    /// Which weights the codes span.
    pub range: Range,
}

/// What a rung of a search space stores a weight in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Width {
    /// 2 to 8 bits: an integer scheme.
    Integer(Bits),
    /// 16 bits: [`Scheme::Half`].
    Half,
    /// 32 bits: [`Scheme::Float`].
    Float,
}

/// Which of the two nearest codes a weight gets. A weight that is on a code, to within 2^-12 of a step, always
/// gets that one, so that quantizing again changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rounding {
    /// The nearer one, the even one on a tie.
    #[default]
    Nearest,
    /// The lower one.
    Truncate,
    /// The upper one with the probability of the distance to the lower. The draw follows from this seed, the
    /// unit and the weight's position alone, so it is the same on every machine.
    Stochastic(u32),
}

/// Which weights the codes span; weights outside are clamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Range {
    /// From the smallest to the largest.
    #[default]
    MinMax,
    /// All but a share of the largest magnitudes (symmetric), or of both ends (affine).
    Percentile(Percentile),
    /// The fraction 0.20, 0.21 ... 1.00 of `MinMax` that gives the least squared error.
    LeastSquares,
}

/// A percentile above 50 and up to 100, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentile(u32);

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
    /// No such width of a rung.
    #[error("{0} bits: expected 2 to 8, 16 or 32")]
    Width(u8),
    /// No such rounding.
    #[error("rounding {0:?}: expected nearest, truncate or stochastic:SEED")]
    Rounding(String),
    /// No such range.
    #[error("range {0:?}: expected minmax, least_squares or percentile:P with P above 50 and up to 100")]
    Range(String),
    /// Not of the form of a scheme at all.
    #[error(
        "scheme {0:?}: expected f32, f16, sign or intB:SYMMETRY:GRANULARITY, such as int4:symmetric:channel"
    )]
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

impl Width {
    /// The number of bits: 2 to 8, 16 or 32.
    pub fn bits(self) -> u8 {
        match self {
            Self::Integer(bits) => bits.0,
            Self::Half => 16,
            Self::Float => 32,
        }
    }
}

impl Percentile {
    /// The share of weights inside, 0.5 to 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 1e5
    }
}

impl Integer {
    /// A scheme that rounds to nearest over the whole range of weights.
    pub fn new(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> Self {
        Self { bits, symmetry, granularity, rounding: Rounding::default(), range: Range::default() }
    }

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
        number_after("group", text)
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
            Self::Half => f.write_str("f16"),
            Self::Sign => f.write_str("sign"),
            Self::Integer(Integer { bits, symmetry, granularity, rounding, range }) => {
                write!(f, "int{}:{symmetry}:{granularity}", bits.0)?;
                if *rounding != Rounding::default() {
                    write!(f, ":{rounding}")?;
                }
                if *range != Range::default() {
                    write!(f, ":{range}")?;
                }
                Ok(())
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
            "f16" => return Ok(Self::Half),
            "sign" => return Ok(Self::Sign),
            _ => {}
        }
        let mut parts = text.strip_prefix("int").ok_or_else(form)?.split(':').peekable();
        let mut next = || parts.next().ok_or_else(form);
        let bits = Bits::new(next()?.parse().map_err(|_| form())?)?;
        let mut integer = Integer::new(bits, next()?.parse()?, next()?.parse()?);
        // Rounding and range may each be left out, so their names tell which is which.
        if let Some(rounding) = parts.peek().and_then(|part| part.parse().ok()) {
            integer.rounding = rounding;
            parts.next();
        }
        if let Some(range) = parts.next() {
            integer.range = range.parse()?;
        }
        match parts.next() {
            None => Ok(Self::Integer(integer)),
            Some(_) => Err(form()),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest => f.write_str("nearest"),
            Self::Truncate => f.write_str("truncate"),
            Self::Stochastic(seed) => write!(f, "stochastic{seed}"),
        }
    }
}

impl FromStr for Rounding {
    type Err = InvalidScheme;

    /// Reads `nearest`, `truncate`, and `stochastic:SEED` or `stochasticSEED`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nearest" => return Ok(Self::Nearest),
            "truncate" => return Ok(Self::Truncate),
            _ => {}
        }
        number_after("stochastic", text)
            .and_then(|seed| seed.parse().ok())
            .map(Self::Stochastic)
            .ok_or_else(|| InvalidScheme::Rounding(text.to_owned()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("minmax"),
            Self::LeastSquares => f.write_str("least_squares"),
            Self::Percentile(Percentile(thousandths)) => {
                let (whole, rest) = (thousandths / 1000, thousandths % 1000);
                let digits = format!("{rest:03}");
                match digits.trim_end_matches('0') {
                    "" => write!(f, "percentile{whole}"),
                    digits => write!(f, "percentile{whole}.{digits}"),
                }
            }
        }
    }
}

impl FromStr for Range {
    type Err = InvalidScheme;

    /// Reads `minmax`, `least_squares`, and `percentile:P` or `percentileP` with up to three decimals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "minmax" => return Ok(Self::MinMax),
            "least_squares" => return Ok(Self::LeastSquares),
            _ => {}
        }
        number_after("percentile", text)
            .and_then(thousandths)
            .filter(|percentile| (50_001..=100_000).contains(percentile))
            .map(|percentile| Self::Percentile(Percentile(percentile)))
            .ok_or_else(|| InvalidScheme::Range(text.to_owned()))
    }
}

/// The rest of `text` after `name` and perhaps a colon, if it starts with a digit.
fn number_after<'a>(name: &str, text: &'a str) -> Option<&'a str> {
    let rest = text.strip_prefix(name)?;
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    rest.starts_with(|c: char| c.is_ascii_digit()).then_some(rest)
}

/// A decimal number with up to three decimals, in thousandths.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let decimals: u32 = format!("{decimals:0<3}").parse().ok()?;
    Some(whole * 1000 + decimals)
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

impl TryFrom<u8> for Width {
    type Error = InvalidScheme;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        match bits {
            16 => Ok(Self::Half),
            32 => Ok(Self::Float),
            bits => Bits::new(bits).map(Self::Integer).map_err(|_| InvalidScheme::Width(bits)),
        }
    }
}

impl From<Width> for u8 {
    fn from(width: Width) -> Self {
        width.bits()
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
through_text!(Granularity, Range, Rounding, Scheme);

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
        let rounding = prop_oneof![
            Just(Rounding::Nearest),
            Just(Rounding::Truncate),
            any::<u32>().prop_map(Rounding::Stochastic)
        ];
        let range = prop_oneof![
            Just(Range::MinMax),
            Just(Range::LeastSquares),
            (50_001u32..=100_000).prop_map(|p| Range::Percentile(Percentile(p)))
        ];
        let integer = (2u8..=8, symmetry, granularity, rounding, range).prop_map(
            |(bits, symmetry, granularity, rounding, range)| {
                Scheme::Integer(Integer { bits: Bits(bits), symmetry, granularity, rounding, range })
            },
        );
        prop_oneof![Just(Scheme::Float), Just(Scheme::Half), Just(Scheme::Sign), integer]
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
            let _ = text.parse::<Rounding>();
            let _ = text.parse::<Range>();
        }
    }

    #[test]
    fn codes_span_the_range_of_their_width() {
        let at = |bits, symmetry| Integer::new(Bits(bits), symmetry, Granularity::Tensor);
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
        assert!(error("int4:affine:tensor:odd").contains("range \"odd\""));
        assert!(error("int4:affine:tensor:percentile50").contains("above 50 and up to 100"));
        assert!(error("int4:affine:tensor:truncate:minmax:more").contains("expected f32"));
    }

    #[test]
    fn rounding_and_range_are_named_only_when_they_are_not_the_usual_ones() {
        let text = |text: &str| text.parse::<Scheme>().unwrap().to_string();
        assert_eq!(text("int4:affine:tensor:nearest:minmax"), "int4:affine:tensor");
        assert_eq!(text("int4:affine:tensor:least_squares"), "int4:affine:tensor:least_squares");
        assert_eq!(
            text("int4:affine:group8:stochastic7:percentile99.90"),
            "int4:affine:group8:stochastic7:percentile99.9"
        );
        assert_eq!("percentile:100".parse::<Range>().unwrap().to_string(), "percentile100");
        assert_eq!(u8::from(Width::try_from(16).unwrap()), 16);
        assert!(Width::try_from(9).is_err());
    }
}
