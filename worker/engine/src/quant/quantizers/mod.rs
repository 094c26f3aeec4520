//! The quantizers, a file each.
//!
//! One more is its word in the list of `qslm_common::scheme::Rounding`, which texts and spaces are made of
//! without an engine, a file here, and its line in `registered` below, which the compiler asks for.

mod descent;
#[cfg(test)]
mod examples;
mod floor;
mod frequency;
mod gptq;
mod nearest;
mod slim;
mod stochastic;

pub use gptq::sweep;
pub use stochastic::rounding as stochastic_rounding;

use qslm_common::scheme::{self, Format, Range, Rounding};

use super::{Codes, Needs, Quantizer, Statistics, Weights};

/// The quantizer that a scheme names.
fn registered(scheme::Quantizer { rounding, range }: scheme::Quantizer) -> Box<dyn Quantizer> {
    match rounding {
        Rounding::Nearest => Box::new(nearest::Nearest { range }),
        Rounding::Gptq => Box::new(gptq::Gptq { range }),
        Rounding::Descent => Box::new(descent::Descent { range }),
        Rounding::Slim => Box::new(slim::Slim),
        Rounding::Frequency => Box::new(frequency::Frequency { range }),
        Rounding::Trained => Box::new(Trained),
        Rounding::Floor => Box::new(floor::Floor { range }),
        Rounding::Stochastic(seed) => Box::new(stochastic::Stochastic { seed, range }),
    }
}

/// What a trainer left, which nobody chooses anew: no statistics are enough.
#[derive(Debug, Clone, Copy)]
struct Trained;

impl Quantizer for Trained {
    fn name(&self) -> &'static str {
        "trained"
    }

    fn needs(&self) -> Needs {
        Needs::Training
    }

    fn quantize(&self, weights: Weights<'_>, format: Format, _: &Statistics<'_>) -> Codes {
        super::round_each(weights, format, Range::default(), |steps, _| steps.round_ties_even())
    }
}

/// The codes of a matrix in `format`, by the quantizer that a scheme names.
///
/// # Panics
/// If the statistics lack what the quantizer needs.
pub fn quantize(
    weights: Weights<'_>,
    format: Format,
    quantizer: scheme::Quantizer,
    statistics: &Statistics<'_>,
) -> Codes {
    let quantizer = registered(quantizer);
    let (name, needs) = (quantizer.name(), quantizer.needs());
    assert!(statistics.have(needs), "{}: {name} needs statistics: {needs:?}", weights.unit);
    let codes = quantizer.quantize(weights, format, statistics);
    assert_eq!(codes.values.len(), weights.values.len(), "{}: {name} makes a code per weight", weights.unit);
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantizer_is_named_as_schemes_name_it() {
        for text in ["nearest", "truncate", "gptq", "descent", "slim", "frequency", "trained", "stochastic7"]
        {
            let rounding: Rounding = text.parse().unwrap();
            let quantizer = registered(scheme::Quantizer { rounding, range: Range::default() });
            assert_eq!(quantizer.name(), rounding.word());
        }
    }
}
