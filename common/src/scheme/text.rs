//! Text forms of schemes and their parts, as a spec, a flag, the wire and the store show them. That of a
//! rounding is beside the list of roundings.
//!
//! `Display` writes the canonical form; `FromStr` also reads `group:64`, `stochastic:7` and
//! `percentile:99.9`, which are easier on the eye in a spec. Serde goes through these.

use std::fmt;
use std::str::FromStr;

use super::{
    Activation, Bits, Format, Granularity, InvalidScheme, MAX_GROUP, Membrane, Percentile, Quantizer, Range,
    Rounding, Scales, Scheme, Step, Symmetry, Width,
};

impl fmt::Display for Symmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symmetric => "symmetric",
            Self::Affine => "affine",
            Self::Full => "full",
            Self::Ternary => "ternary",
        })
    }
}

impl FromStr for Symmetry {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "symmetric" => Ok(Self::Symmetric),
            "affine" => Ok(Self::Affine),
            "full" => Ok(Self::Full),
            "ternary" => Ok(Self::Ternary),
            _ => Err(InvalidScheme::Symmetry(text.to_owned())),
        }
    }
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Pow2 => "pow2",
        })
    }
}

impl FromStr for Scales {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "pow2" => Ok(Self::Pow2),
            _ => Err(InvalidScheme::Scales(text.to_owned())),
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
            Self::Integer { format, quantizer: Quantizer { rounding, range } } => {
                let Format { bits, symmetry, granularity, scales } = format;
                match range {
                    Range::Step(step) => write!(f, "ec{step}:{granularity}")?,
                    _ => write!(f, "int{}:{symmetry}:{granularity}", bits.get())?,
                }
                if *scales != Scales::default() {
                    write!(f, ":{scales}")?;
                }
                if *rounding != Rounding::default() {
                    write!(f, ":{rounding}")?;
                }
                match range {
                    Range::MinMax | Range::Step(_) => Ok(()),
                    range => write!(f, ":{range}"),
                }
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
        let (step, width) = (text.strip_prefix("ec"), text.strip_prefix("int"));
        let rest = step.map(|rest| rest.strip_prefix(':').unwrap_or(rest)).or(width).ok_or_else(form)?;
        let mut parts = rest.split(':').peekable();
        let mut next = || parts.next().ok_or_else(form);
        let (bits, symmetry, range) = match step {
            Some(_) => (Bits::UNBOUNDED, Symmetry::Symmetric, Range::Step(next()?.parse()?)),
            None => (Bits::new(next()?.parse().map_err(|_| form())?)?, next()?.parse()?, Range::default()),
        };
        let granularity = next()?.parse()?;
        let mut format = Format { bits, symmetry, granularity, scales: Scales::default() };
        let mut quantizer = Quantizer { range, ..Quantizer::default() };
        // Scales, rounding and range may each be left out, so their names tell which is which.
        if let Some(scales) = parts.peek().and_then(|part| part.parse().ok()) {
            format.scales = scales;
            parts.next();
        }
        if let Some(rounding) = parts.peek().and_then(|part| part.parse().ok()) {
            quantizer.rounding = rounding;
            parts.next();
        }
        if step.is_none()
            && let Some(range) = parts.next()
        {
            quantizer.range = range.parse()?;
        }
        match parts.next() {
            None => {
                let scheme = Self::Integer { format, quantizer };
                scheme.validate().map(|()| scheme)
            }
            Some(_) => Err(form()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Step {
    type Err = InvalidScheme;

    /// Reads a number with up to two decimals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hundredths = thousandths(text).filter(|thousandths| thousandths % 10 == 0).map(|all| all / 10);
        let hundredths = hundredths.filter(|hundredths| Self::HUNDREDTHS.contains(hundredths));
        hundredths.map(Self).ok_or_else(|| InvalidScheme::Step(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("minmax"),
            // A word of the scheme's, which no range is read from.
            Self::Step(step) => write!(f, "step{step}"),
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
pub(super) fn number_after<'a>(name: &str, text: &'a str) -> Option<&'a str> {
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
through_text!(Activation, Granularity, Membrane, Range, Rounding, Scheme);

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
        let symmetry = prop::sample::select(vec![
            Symmetry::Symmetric,
            Symmetry::Affine,
            Symmetry::Full,
            Symmetry::Ternary,
        ]);
        let rounding = prop_oneof![
            Just(Rounding::Nearest),
            Just(Rounding::Floor),
            Just(Rounding::Gptq),
            any::<u32>().prop_map(Rounding::Stochastic)
        ];
        let range = prop_oneof![
            Just(Range::MinMax),
            Just(Range::LeastSquares),
            (50_001u32..=100_000).prop_map(|p| Range::Percentile(Percentile(p)))
        ];
        let scales = prop_oneof![Just(Scales::F32), Just(Scales::F16), Just(Scales::Pow2)];
        let integer = (2u8..=8, symmetry, (granularity, scales), rounding, range).prop_map(
            |(bits, symmetry, (granularity, scales), rounding, range)| {
                let bits = Bits(bits);
                let format = Format { bits, symmetry: symmetry.of_width(bits), granularity, scales };
                Scheme::Integer { format, quantizer: Quantizer { rounding, range } }
            },
        );
        let granularity = prop_oneof![Just(Granularity::Tensor), Just(Granularity::Channel)];
        let stepped = (Step::HUNDREDTHS, granularity, any::<bool>()).prop_map(|(step, granularity, gptq)| {
            let format = Format {
                bits: Bits::UNBOUNDED,
                symmetry: Symmetry::Symmetric,
                granularity,
                scales: Scales::F16,
            };
            let rounding = if gptq { Rounding::Gptq } else { Rounding::Nearest };
            Scheme::Integer { format, quantizer: Quantizer { rounding, range: Range::Step(Step(step)) } }
        });
        prop_oneof![Just(Scheme::Float), Just(Scheme::Half), Just(Scheme::Sign), integer, stepped]
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
    fn a_wrong_scheme_is_refused_with_the_bound() {
        let error = |text: &str| text.parse::<Scheme>().unwrap_err().to_string();
        assert_eq!(error("int9:symmetric:tensor"), "9 bits: a quantized weight has 2 to 8 bits");
        assert!(error("int4:odd:tensor").contains("expected symmetric, affine, full or ternary"));
        assert_eq!(error("int3:ternary:tensor"), "3 bits: ternary codes have 2, of which they take 1.6");
        assert_eq!(error("int8:full:tensor"), "8 bits: full codes have at most 7");
        let activation = "int4:full:dynamic".parse::<Activation>().unwrap_err().to_string();
        assert!(activation.starts_with("symmetry full: it is for weights"), "{activation}");
        assert!(error("int4:affine:group0").contains("from 1 to"));
        assert!(error("ec:0.02:channel").starts_with("step \"0.02\": expected 0.03 to 9.99"));
        assert!(error("ec:0.705:channel").contains("up to two decimals"));
        for text in ["int3:affine:group64:slim", "int3:full:channel:slim", "int7:full:group8:slim"] {
            assert!(error(text).contains("full codes of 2 to 6 bits in groups"), "{text}");
        }
        assert!(error("ec:0.70:channel:minmax").starts_with("scheme \"ec:0.70"));
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
        assert_eq!(text("int4:affine:tensor:f32:nearest"), "int4:affine:tensor");
        assert_eq!(text("ec:0.7:channel:f16:gptq"), "ec0.70:channel:f16:gptq");
        assert_eq!(text("ec1.25:tensor"), "ec1.25:tensor");
        assert_eq!(text("int3:full:group64:f16:slim"), "int3:full:group64:f16:slim");
        assert_eq!(text("int2:full:channel:f16:least_squares"), "int2:full:channel:f16:least_squares");
        assert_eq!(
            text("int4:affine:group8:stochastic7:percentile99.90"),
            "int4:affine:group8:stochastic7:percentile99.9"
        );
        assert_eq!("percentile:100".parse::<Range>().unwrap().to_string(), "percentile100");
        assert_eq!(u8::from(Width::try_from(16).unwrap()), 16);
        assert!(Width::try_from(9).is_err());
    }
}
