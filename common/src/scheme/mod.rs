//! Quantization schemes: what a stored weight may look like, what may enter a linear, what a neuron may remember.
//!
//! A scheme says how many bits a weight keeps, how real numbers map to those codes, how many weights share one
//! scale, and which range of weights the codes span. The arithmetic lives in the engine; bytes are counted in
//! [`crate::footprint`].

mod activation;
mod membrane;
mod text;

pub use activation::{Activation, ActivationRange, Calibration, Span};
pub use membrane::Membrane;

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

/// What a level of a search space stores a weight in.
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
    Floor,
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
    /// No such width of a level.
    #[error("{0} bits: expected 2 to 8, 16 or 32")]
    Width(u8),
    /// No such rounding.
    #[error("rounding {0:?}: expected nearest, truncate or stochastic:SEED")]
    Rounding(String),
    /// No such range.
    #[error("range {0:?}: expected minmax, least_squares or percentile:P with P above 50 and up to 100")]
    Range(String),
    /// Not of the form of an activation scheme.
    #[error("activation {0:?}: expected intB:SYMMETRY:dynamic or intB:SYMMETRY:static:MIN:MAX")]
    Activation(String),
    /// A range of activations that is none.
    #[error("range {min} to {max}: expected finite bounds in order")]
    Span {
        /// The lower bound.
        min: String,
        /// The upper bound.
        max: String,
    },
    /// Not of the form of a membrane scheme.
    #[error("membrane {0:?}: expected fixedB:I with B from 2 to 16 bits, I below B of them before the point")]
    Membrane(String),
    /// Not of the form of a scheme at all.
    #[error(
        "scheme {0:?}: expected f32, f16, sign or intB:SYMMETRY:GRANULARITY, such as int4:symmetric:channel"
    )]
    Form(String),
}

impl Scheme {
    /// Bits per weight, without scales: 1, 2 to 8, 16 or 32.
    pub fn bits(self) -> u8 {
        match self {
            Self::Float => 32,
            Self::Half => 16,
            Self::Sign => 1,
            Self::Integer(integer) => integer.bits.0,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
