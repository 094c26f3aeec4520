//! Quantization schemes: the form of a stored weight, of what enters a linear, and of a membrane potential.
//!
//! The scheme of a unit has two halves. Its *format* says what is stored: how many bits a code has, how codes
//! map to real numbers, how many weights share one scale; footprint, packing and kernels see nothing else.
//! Its *quantizer* says how the codes are chosen. The arithmetic lives in the engine; bytes are counted in
//! [`crate::footprint`].

mod activation;
mod format;
mod membrane;
mod quantizer;
mod text;

pub use activation::{Activation, ActivationRange, Calibration, Span};
pub use format::{Bits, Format, Granularity, MAX_GROUP, Scales, Symmetry, Width};
pub use membrane::Membrane;
pub use quantizer::{Percentile, Quantizer, Range, Rounding, Step};

use serde::{Deserialize, Serialize};

use crate::elementary;

/// The storage of one unit's weights.
///
/// Text forms, which are also the canonical encoding: `f32`, `f16`, `sign`, `int4:symmetric:channel`,
/// `int8:affine:tensor`, `int3:symmetric:group64`; then, unless they are `f32`, `nearest` and `minmax`, scales, rounding and
/// range. Codes with a step instead of a width are `ec0.70:channel`, with scales and rounding likewise. More:
/// `int2:full:channel:f16`, `int4:affine:channel:truncate`, `int4:symmetric:tensor:stochastic7:percentile99.9`.
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
    Integer {
        /// The form of what is stored.
        format: Format,
        /// The choice of the codes.
        quantizer: Quantizer,
    },
}

/// A text or number that names no scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScheme {
    /// The width is outside 2..8.
    #[error("{0} bits: a quantized weight has 2 to 8 bits")]
    Bits(u64),
    /// No such symmetry.
    #[error("symmetry {0:?}: expected symmetric, affine, full or ternary")]
    Symmetry(String),
    /// Codes that are too wide to be full.
    #[error("{0} bits: full codes have at most {widest}", widest = Symmetry::WIDEST_FULL)]
    FullWidth(u8),
    /// Codes that are too wide to be ternary.
    #[error("{0} bits: ternary codes have 2, of which they take 1.6")]
    TernaryWidth(u8),
    /// Codes for weights alone.
    #[error("symmetry {0}: it is for weights; activations are symmetric or affine")]
    WeightsOnly(Symmetry),
    /// No such scales.
    #[error("scales {0:?}: expected f32, f16 or pow2")]
    Scales(String),
    /// No such granularity.
    #[error("granularity {0:?}: expected tensor, channel or group:N with N from 1 to {MAX_GROUP}")]
    Granularity(String),
    /// No such width of a level.
    #[error("{0} bits: expected 2 to 8, 16 or 32")]
    Width(u8),
    /// No such rounding.
    #[error("rounding {0:?}: expected {forms}", forms = Rounding::forms())]
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
    /// Mixed widths in codes that have none.
    #[error("rounding slim: it is for full codes of 2 to 6 bits in groups, such as int3:full:group64:slim")]
    Slim,
    /// Widths by row in codes that have none.
    #[error(
        "rounding frequency: it is for full codes of 2 to 6 bits or a step of at least 0.06, per channel, such as \
         int3:full:channel:frequency"
    )]
    Frequency,
    /// No such step.
    #[error("step {0:?}: expected 0.03 to 9.99 with up to two decimals")]
    Step(String),
    /// Not of the form of a scheme at all.
    #[error(
        "scheme {0:?}: expected f32, f16, sign, intB:SYMMETRY:GRANULARITY, such as int4:symmetric:channel, or \
         ec:STEP:GRANULARITY, such as ec:0.70:channel"
    )]
    Form(String),
}

impl Scheme {
    /// Integers in `format`, rounded to nearest over the whole range of weights.
    pub fn integer(format: Format) -> Self {
        Self::Integer { format, quantizer: Quantizer::default() }
    }

    /// Step of codes that have no width, if it is such a scheme.
    pub fn step(self) -> Option<Step> {
        match self {
            Self::Integer { quantizer: Quantizer { range: Range::Step(step), .. }, .. } => Some(step),
            _ => None,
        }
    }

    /// Bits per weight, as a reader would compare schemes: of codes without a width what an entropy coder takes for normal
    /// weights, about `2.05 - log2 step`.
    pub fn bits_about(self) -> f64 {
        match self.step() {
            Some(step) => (2.05 - elementary::ln(step.times()) * std::f64::consts::LOG2_E).max(0.1),
            None => f64::from(self.bits()),
        }
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// The reason why there are no such codes.
    pub fn validate(self) -> Result<(), InvalidScheme> {
        let Self::Integer { format, quantizer } = self else { return Ok(()) };
        format.validate()?;
        let is_grouped = matches!(format.granularity, Granularity::Group(_));
        let may_mix = format.symmetry == Symmetry::Full && format.bits.get() < Symmetry::WIDEST_FULL;
        let by_row = match self.step() {
            Some(step) => step.times() >= 2.0 * Step::LEAST,
            None => may_mix,
        };
        match quantizer.rounding {
            Rounding::Slim if !(may_mix && is_grouped) => Err(InvalidScheme::Slim),
            Rounding::Frequency if !(by_row && format.granularity == Granularity::Channel) => {
                Err(InvalidScheme::Frequency)
            }
            _ => Ok(()),
        }
    }

    /// Number of widths that codes of a `[rows, columns]` matrix have, which a file stores in two bits each: one for each
    /// column group, or each row; 0 if all have the format's.
    pub fn widths(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::Integer { format, quantizer } if self.step().is_none() => match quantizer.rounding {
                Rounding::Slim => columns.div_ceil(format.granularity.run(columns).max(1)),
                Rounding::Frequency => rows,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// True if rows are told apart by how frequent their tokens are.
    pub fn is_by_frequency(self) -> bool {
        matches!(self, Self::Integer { quantizer, .. } if quantizer.rounding == Rounding::Frequency)
    }

    /// The scheme that a matrix has in its place whose rows are no tokens.
    #[must_use]
    pub fn without_frequency(self) -> Self {
        match self {
            Self::Integer { format, quantizer } if self.is_by_frequency() => {
                Self::Integer { format, quantizer: Quantizer { rounding: Rounding::Descent, ..quantizer } }
            }
            other => other,
        }
    }

    /// True if an artifact holds the codes; see [`Quantizer::is_calibrated`].
    pub fn is_calibrated(self) -> bool {
        matches!(self, Self::Integer { quantizer, .. } if quantizer.is_calibrated())
    }

    /// True if a trainer left the codes.
    pub fn is_trained(self) -> bool {
        matches!(self, Self::Integer { quantizer, .. } if quantizer.rounding == Rounding::Trained)
    }

    /// The scheme with codes that a trainer leaves, all of one width.
    #[must_use]
    pub fn trained(self) -> Self {
        match self {
            Self::Integer { format, quantizer } => {
                Self::Integer { format, quantizer: Quantizer { rounding: Rounding::Trained, ..quantizer } }
            }
            other => other,
        }
    }

    /// The scheme with codes that follow from the weights: to nearest, where an artifact would hold them.
    pub fn uncalibrated(self) -> Self {
        match self {
            Self::Integer { format, quantizer } if quantizer.is_calibrated() => {
                Self::Integer { format, quantizer: Quantizer { rounding: Rounding::Nearest, ..quantizer } }
            }
            other => other,
        }
    }

    /// Bits per weight, without scales: 1, 2 to 8, 16 or 32.
    pub fn bits(self) -> u8 {
        match self {
            Self::Float => 32,
            Self::Half => 16,
            Self::Sign => 1,
            Self::Integer { format, .. } => format.bits.get(),
        }
    }
}
