//! Quantizers: how the codes of a format are chosen.
//!
//! Here are the words and parameters of quantizers, which texts, spaces and candidates carry; what they do is
//! in the engine (`quant::quantizers`), a file each. One more is a line of the list below and such a file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidScheme;
use super::text::number_after;

/// The choice of codes for a matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantizer {
    /// The choice among the codes near a weight.
    pub rounding: Rounding,
    /// The weights that the codes span.
    pub range: Range,
}

impl Quantizer {
    /// True if the codes follow from more than the weights: an artifact holds them, which the candidate names.
    pub fn is_calibrated(self) -> bool {
        match self.rounding {
            Rounding::Nearest | Rounding::Floor | Rounding::Stochastic(_) => false,
            Rounding::Gptq | Rounding::Descent | Rounding::Slim | Rounding::Frequency | Rounding::Trained => {
                true
            }
        }
    }
}

/// The weights that the codes span; weights outside are clamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Range {
    /// Span from the smallest to the largest.
    #[default]
    MinMax,
    /// Span of all but a share of the largest magnitudes (symmetric), or of both ends (affine).
    Percentile(Percentile),
    /// Steps of the run's root mean square: so many codes as that takes, up to 127 on either side of zero. For codes of
    /// [`Bits::UNBOUNDED`](super::Bits::UNBOUNDED) that an entropy coder follows.
    Step(Step),
    /// The fraction 0.20, 0.21 ... 1.00 of `MinMax` that gives the least squared error.
    LeastSquares,
}

/// A step of 0.03 to 9.99 in hundredths of the root mean square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(pub(super) u32);

impl Step {
    /// Hundredths that a step may have: with fewer the largest weights of a row of normal ones have no code.
    pub(super) const HUNDREDTHS: std::ops::RangeInclusive<u32> = 3..=999;

    /// The smallest step, as a multiple of the root mean square.
    pub(super) const LEAST: f64 = 0.03;

    /// The step as a multiple of the root mean square.
    pub fn times(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// A percentile above 50 and up to 100, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentile(pub(super) u32);

impl Percentile {
    /// The share of weights inside, 0.5 to 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 1e5
    }
}

/// Makes [`Rounding`] and its texts from a list of variants and words.
macro_rules! roundings {
    ($($(#[$attribute:meta])* $variant:ident $(($parameter:ident: $type:ty))? = $word:literal;)+) => {
        /// The choice among the codes near a weight. A weight that is on a code, to within 2^-12 of a step,
        /// always gets that one, so that quantizing again changes nothing.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Rounding {
            $($(#[$attribute])* $variant $(($type))?,)+
        }

        impl Rounding {
            /// The word of a scheme's text, without its parameter.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $word,)+
                }
            }

            /// The forms of a text, in words: `nearest, truncate or stochastic:SEED`.
            pub(super) fn forms() -> String {
                let forms = [$(String::from($word) $(+ ":" + &stringify!($parameter).to_uppercase())?,)+];
                let (last, others) = forms.split_last().expect("there are roundings");
                format!("{} or {last}", others.join(", "))
            }
        }

        impl fmt::Display for Rounding {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())?;
                match self {
                    $(Self::$variant $(($parameter))? => {
                        $(write!(f, "{}", $parameter)?;)?
                    })+
                }
                Ok(())
            }
        }

        impl FromStr for Rounding {
            type Err = InvalidScheme;

            /// Reads a word, and its parameter after a colon or none: `stochastic:7` or `stochastic7`.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $(
                    if let Some(read) = roundings!(@read text, $variant, $word $(, $type)?) {
                        return Ok(read);
                    }
                )+
                Err(InvalidScheme::Rounding(text.to_owned()))
            }
        }
    };
    (@read $text:ident, $variant:ident, $word:literal) => {
        ($text == $word).then_some(Self::$variant)
    };
    (@read $text:ident, $variant:ident, $word:literal, $type:ty) => {
        number_after($word, $text).and_then(|text| text.parse::<$type>().ok()).map(Self::$variant)
    };
}

roundings! {
    /// The nearer one, the even one on a tie.
    #[default]
    Nearest = "nearest";
    /// The lower one: floor, which truncates a two's-complement fraction.
    Floor = "truncate";
    /// The nearer one to the weight as the errors of the columns before it leave it: GPTQ (arXiv 2210.17323), by the
    /// second moments of what enters the linear. Such codes are calibrated: an artifact holds them.
    Gptq = "gptq";
    /// One of the two codes next to the weight, by greedy coordinate descent on the error of a row's output over
    /// calibration data: AdaRound's aim (arXiv 2004.10568), the descent of CDQuant (arXiv 2406.17542). Calibrated.
    Descent = "descent";
    /// As `gptq`, with a bit less or more for column groups by their salience, the mean width kept: SliM-LLM (arXiv
    /// 2405.14917). For full codes of 2 to 6 bits in groups.
    Slim = "slim";
    /// As `descent`, with a bit more (or a finer step) for the quarter of rows whose tokens are the most frequent in the
    /// calibration data, and a bit less (or a coarser step) for the rarest quarter, the mean width kept. For the head of
    /// a language model, in full codes of 2 to 6 bits or of a step, per channel; elsewhere it is `descent`.
    Frequency = "frequency";
    /// What a trainer left: an artifact holds the codes, and nothing follows from the weights of the checkpoint. No ladder has
    /// it; candidates of a recovery do.
    Trained = "trained";
    /// The upper one with the probability of the distance to the lower. The draw follows from this seed, the
    /// unit and the weight's position alone, so it is the same on every machine.
    Stochastic(seed: u32) = "stochastic";
}
