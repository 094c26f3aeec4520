//! Formats: what is stored of a quantized matrix, whoever chose its codes.
//!
//! Footprint, packing and kernels depend on the format alone.

use serde::{Deserialize, Serialize};

use super::InvalidScheme;

/// Integer codes of a fixed width, with the scales that they share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Format {
    /// Bits per weight, 2 to 8.
    pub bits: Bits,
    /// The map between codes and weights.
    pub symmetry: Symmetry,
    /// The weights that share a scale.
    pub granularity: Granularity,
    /// The numbers that scales are.
    pub scales: Scales,
}

/// The numbers that scales are stored as. A scale is rounded before the codes on its grid are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scales {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest.
    F16,
    /// Powers of two, rounded up: an exponent from -127 to 127, or -128 for a scale of zero.
    Pow2,
}

impl Scales {
    /// Bytes of one scale.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Pow2 => 1,
        }
    }
}

/// The width of a weight at one level of a search space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Width {
    /// 2 to 8 bits: an integer scheme.
    Integer(Bits),
    /// 16 bits: [`Scheme::Half`](super::Scheme::Half).
    Half,
    /// 32 bits: [`Scheme::Float`](super::Scheme::Float).
    Float,
}

/// A width of 2 to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Bits(pub(super) u8);

/// The map between codes `q` and weights `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Symmetry {
    /// `w = s q` with `|q| <= 2^(b-1) - 1` and `s = max|w| / (2^(b-1) - 1)`.
    Symmetric,
    /// `w = s (q - z)` with `-2^(b-1) <= q <= 2^(b-1) - 1`, `s = (max - min) / (2^b - 1)` and `z` an
    /// integer code. The range always includes zero.
    Affine,
    /// `w = s (q + 1/2)` with `-2^(b-1) <= q <= 2^(b-1) - 1` and `s = max|w| / (2^(b-1) - 1/2)`: as many levels on
    /// either side of zero, which is none of them. For weights, of at most [`Symmetry::WIDEST_FULL`] bits.
    Full,
    /// `w = s q` with q of -1, 0 and 1, five of which share a byte: 1.6 bits. For weights, of 2 bits.
    Ternary,
}

impl Symmetry {
    /// The widest codes that may be full: the products of integers see `2 q + 1`, in a byte.
    pub const WIDEST_FULL: u8 = 7;

    /// This symmetry for codes of a width: symmetric where codes are too wide to be full or ternary.
    pub fn of_width(self, bits: Bits) -> Self {
        match self {
            Self::Full if bits.0 > Self::WIDEST_FULL => Self::Symmetric,
            Self::Ternary if bits.0 > 2 => Self::Symmetric,
            other => other,
        }
    }

    /// True if codes of what may be all but zero may be of it: activations, one-dimensional parameters.
    pub fn is_general(self) -> bool {
        matches!(self, Self::Symmetric | Self::Affine)
    }
}

/// The weights of a `[rows, columns]` matrix that share one scale (and zero point).
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

impl Bits {
    /// Width of codes that have a step instead: packed they take a byte.
    pub const UNBOUNDED: Self = Self(8);

    /// A width of `bits` bits.
    ///
    /// # Errors
    /// [`InvalidScheme::Bits`] outside 2 to 8.
    pub fn new(bits: u8) -> Result<Self, InvalidScheme> {
        if (2..=8).contains(&bits) { Ok(Self(bits)) } else { Err(InvalidScheme::Bits(bits.into())) }
    }

    /// The width of a column group of mixed ones: 1 to 8 bits.
    ///
    /// # Panics
    /// With other numbers, which no group has.
    fn of_group(bits: u8) -> Self {
        assert!((1..=8).contains(&bits), "{bits} bits");
        Self(bits)
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

impl Format {
    /// Refuses what no code fits.
    ///
    /// # Errors
    /// [`InvalidScheme::FullWidth`].
    pub fn validate(self) -> Result<(), InvalidScheme> {
        match self.symmetry {
            Symmetry::Full if self.bits.0 > Symmetry::WIDEST_FULL => {
                Err(InvalidScheme::FullWidth(self.bits.0))
            }
            Symmetry::Ternary if self.bits.0 > 2 => Err(InvalidScheme::TernaryWidth(self.bits.0)),
            _ => Ok(()),
        }
    }

    /// Bytes of so many codes.
    pub fn code_bytes(self, codes: u64) -> u64 {
        match self.symmetry {
            Symmetry::Ternary => codes.div_ceil(5),
            _ => (codes * u64::from(self.bits.0)).div_ceil(8),
        }
    }

    /// The format with codes of another width, 1 to 7 bits, as a part of a matrix may have.
    #[must_use]
    pub fn of_width(self, bits: u8) -> Self {
        Self { bits: Bits::of_group(bits), ..self }
    }

    /// Distance of the level of code 0 from zero, in steps: a half in full codes.
    pub fn offset(self) -> f32 {
        if self.symmetry == Symmetry::Full { 0.5 } else { 0.0 }
    }

    /// The smallest code: `-(2^(b-1) - 1)` symmetric or ternary, `-2^(b-1)` otherwise.
    pub fn q_min(self) -> i32 {
        match self.symmetry {
            Symmetry::Symmetric | Symmetry::Ternary => -self.q_max(),
            Symmetry::Affine | Symmetry::Full => -(1 << (self.bits.0 - 1)),
        }
    }

    /// The largest code: `2^(b-1) - 1`.
    pub fn q_max(self) -> i32 {
        (1 << (self.bits.0 - 1)) - 1
    }
}

impl Granularity {
    /// The number of weights of one row that share a scale with its first, for rows of `columns`.
    pub fn run(self, columns: usize) -> usize {
        match self {
            Self::Tensor | Self::Channel => columns,
            Self::Group(size) => columns.min(size as usize),
        }
    }

    /// The run, in storage order, that a weight belongs to, for rows of `columns`.
    pub fn run_of(self, columns: usize, row: usize, column: usize) -> usize {
        let run = self.run(columns).max(1);
        match self {
            Self::Tensor => 0,
            Self::Channel | Self::Group(_) => row * columns.div_ceil(run) + column / run,
        }
    }

    /// Where codes have widths by column group or by row: the one of the weight at a place of a row-major matrix.
    pub fn width_of(self, columns: usize, at: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Channel => at / columns.max(1),
            Self::Group(_) => at % columns.max(1) / self.run(columns).max(1),
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
        let (granularity, scales) = (Granularity::Tensor, Scales::F32);
        let at = |bits, symmetry| Format { bits: Bits(bits), symmetry, granularity, scales };
        assert_eq!((at(4, Symmetry::Symmetric).q_min(), at(4, Symmetry::Symmetric).q_max()), (-7, 7));
        assert_eq!((at(4, Symmetry::Affine).q_min(), at(4, Symmetry::Affine).q_max()), (-8, 7));
        assert_eq!((at(8, Symmetry::Affine).q_min(), at(8, Symmetry::Affine).q_max()), (-128, 127));
        assert_eq!((at(2, Symmetry::Full).q_min(), at(2, Symmetry::Full).q_max()), (-2, 1));
    }

    #[test]
    fn a_group_need_not_divide_the_row() {
        assert_eq!(Granularity::Group(64).scales(3, 130), 9);
        assert_eq!(Granularity::Group(64).scales(3, 128), 6);
        assert_eq!(Granularity::Group(64).scales(3, 10), 3);
        assert_eq!(Granularity::Channel.scales(3, 130), 3);
        assert_eq!(Granularity::Tensor.scales(3, 130), 1);
        let run_of = |granularity: Granularity| granularity.run_of(130, 2, 129);
        let all =
            [Granularity::Group(64), Granularity::Group(500), Granularity::Channel, Granularity::Tensor];
        assert_eq!(all.map(run_of), [8, 2, 2, 0]);
    }
}
