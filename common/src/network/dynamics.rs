//! Dynamics: what a member of the family does between its linear layers, where its tensors do not tell.
//!
//! SpikeGPT, RWKV-4 and what people made of them have the same matrices and other neurons: another leak, another reset,
//! spikes before a half of a block in place of after it, or none. All of that is a value here, [`Dynamics::SPIKEGPT`]
//! is its default, and a member is a preset of such values (`family.rs`). What equals the default is never written, so
//! that texts, ids and messages of SpikeGPT stay what they were.
//!
//! Source: docs/family.md.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::InvalidNetwork;

/// Dynamics of a network: its neurons, where they stand, and how its residual stream is kept small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dynamics {
    /// The neurons of every population; `None`: there are no spikes, and halves of blocks add real numbers (RWKV-4).
    pub neuron: Option<Neuron>,
    /// Where a population stands in its half of a block.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// Blocks after which the residual stream is halved, as are the outputs of all later blocks once more; 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rescale_every: u32,
}

/// Neuron of a population, leaky integrate-and-fire: `h = leak v + gain x`, it fires where `h` reaches the threshold, and is
/// reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neuron {
    /// Share of the potential that is left after a token, 0 to 1.
    pub leak: Parameter,
    /// Factor of the input, above 0.
    pub gain: Constant,
    /// Threshold, above 0.
    pub threshold: Parameter,
    /// Potential after a spike.
    pub reset: Reset,
    /// Whether a potential at the threshold fires.
    pub comparison: Comparison,
    /// Potential before the first token.
    pub initial: Constant,
}

/// Parameter of a neuron: the same for all of them, or a scalar of each population that the checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parameter {
    /// The same for all.
    Fixed(Constant),
    /// Learned: `1 / (1 + softplus(log_tau))` for a leak, `softplus(log_threshold)` for a threshold.
    Learned,
}

/// Constant of a neuron: a finite 32-bit float. Equal is what has the same bits; there is one zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Constant(u32);

/// Placement of the population of a half of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// `x += LIF(HALF(LN x))`: spikes are added to the residual stream.
    #[default]
    After,
    /// `x += HALF(LIF(LN x))`: spikes enter the linear layers.
    Before,
}

/// Reset of a neuron that fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reset {
    /// The potential becomes 0.
    Hard,
    /// The threshold is subtracted.
    Soft,
    /// It stays.
    None,
}

/// Comparison of a potential with the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// It fires at the threshold and above.
    AtLeast,
    /// It fires above the threshold only.
    Above,
}

impl Dynamics {
    /// SpikeGPT's: what the published training code computes.
    pub const SPIKEGPT: Self =
        Self { neuron: Some(Neuron::SPIKEGPT), placement: Placement::After, rescale_every: 0 };

    /// Those of a network without spikes.
    pub const NO_SPIKES: Self = Self { neuron: None, ..Self::SPIKEGPT };

    /// True if they are SpikeGPT's: what is never written.
    pub fn is_default(&self) -> bool {
        *self == Self::SPIKEGPT
    }

    /// Checks every number.
    ///
    /// # Errors
    /// The first one outside its bound.
    pub fn validate(&self) -> Result<(), InvalidNetwork> {
        let refuse = |what, value: &dyn fmt::Display, bound| Err(InvalidNetwork::new(what, value, bound));
        if self.rescale_every > MOST_BLOCKS {
            return refuse("rescale_every", &self.rescale_every, "0 (never) to 1024 blocks");
        }
        let Some(neuron) = &self.neuron else {
            return match self.placement {
                Placement::After => Ok(()),
                Placement::Before => refuse("placement", &"before", "spikes to place, or leave it out"),
            };
        };
        let [gain, initial] = [neuron.gain, neuron.initial].map(Constant::value);
        match (neuron.leak.fixed(), neuron.threshold.fixed()) {
            (Some(leak), _) if !(0.0..=1.0).contains(&leak) => refuse("leak", &leak, "0 to 1"),
            (_, Some(threshold)) if !POSITIVE.contains(&threshold) => {
                refuse("threshold", &threshold, "0.0001 to 10000")
            }
            _ if !POSITIVE.contains(&gain) => refuse("gain", &gain, "0.0001 to 10000"),
            _ if initial.abs() > *POSITIVE.end() => refuse("initial", &initial, "-10000 to 10000"),
            _ => Ok(()),
        }
    }

    /// Checks that networks with them can be trained: populations behind their halves, of neurons that learned nothing, and a
    /// residual stream that is not halved on its way.
    ///
    /// # Errors
    /// The first of them that is otherwise.
    pub fn trainable(&self) -> Result<(), NotTrained> {
        let learned = |neuron: &Neuron| [neuron.leak, neuron.threshold].contains(&Parameter::Learned);
        match self {
            _ if self.neuron.as_ref().is_some_and(learned) => Err(NotTrained("a learned leak or threshold")),
            Self { placement: Placement::Before, .. } => {
                Err(NotTrained("spikes that enter their half of a block"))
            }
            Self { rescale_every: 1.., .. } => Err(NotTrained("a residual stream that is halved")),
            _ => Ok(()),
        }
    }

    /// Power of two by which the output of a half of this block is divided.
    pub fn halvings(&self, block: u32) -> u32 {
        block.checked_div(self.rescale_every).unwrap_or(0)
    }

    /// True if the residual stream is halved behind this block.
    pub fn halves_after(&self, block: u32) -> bool {
        self.rescale_every > 0 && (block + 1).is_multiple_of(self.rescale_every)
    }
}

/// Error of dynamics that have no backward pass here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("networks with {0} are not trained")]
pub struct NotTrained(&'static str);

/// Blocks that a network may have, at most.
pub(super) const MOST_BLOCKS: u32 = 1 << 10;

/// Gains and thresholds that make sense.
const POSITIVE: std::ops::RangeInclusive<f32> = 1e-4..=1e4;

impl Default for Dynamics {
    fn default() -> Self {
        Self::SPIKEGPT
    }
}

impl Neuron {
    /// SpikeGPT's: tau = 2, which is a leak and a gain of a half, a hard reset.
    pub const SPIKEGPT: Self = Self {
        leak: Parameter::Fixed(Constant::HALF),
        gain: Constant::HALF,
        threshold: Parameter::Fixed(Constant::ONE),
        reset: Reset::Hard,
        comparison: Comparison::AtLeast,
        initial: Constant::ZERO,
    };
}

impl Parameter {
    /// Its value; `None` if it is learned.
    pub fn fixed(self) -> Option<f32> {
        match self {
            Self::Fixed(constant) => Some(constant.value()),
            Self::Learned => None,
        }
    }
}

impl Constant {
    /// 0.
    pub const ZERO: Self = Self(0.0f32.to_bits());
    /// 1/2.
    pub const HALF: Self = Self(0.5f32.to_bits());
    /// 1.
    pub const ONE: Self = Self(1.0f32.to_bits());

    /// Constant of this value; `None` for NaN and infinities.
    pub fn new(value: f32) -> Option<Self> {
        value.is_finite().then(|| Self(if value == 0.0 { 0.0f32 } else { value }.to_bits()))
    }

    /// Its value.
    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

impl fmt::Display for Dynamics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.neuron {
            None => f.write_str("no spikes")?,
            Some(neuron) => {
                let reset = match neuron.reset {
                    Reset::Hard => "hard reset",
                    Reset::Soft => "soft reset",
                    Reset::None => "no reset",
                };
                let Neuron { leak, gain, threshold, .. } = neuron;
                write!(f, "neurons: leak {leak}, gain {gain}, threshold {threshold}, {reset}")?;
                if neuron.comparison == Comparison::Above {
                    f.write_str(", firing above the threshold only")?;
                }
                if neuron.initial != Constant::ZERO {
                    write!(f, ", starting at {}", neuron.initial)?;
                }
            }
        }
        if self.placement == Placement::Before {
            f.write_str("; spikes enter the halves of blocks")?;
        }
        match self.rescale_every {
            0 => Ok(()),
            every => write!(f, "; residual stream halved every {every} blocks"),
        }
    }
}

/// Error of a text that is no constant of a neuron.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a finite number")]
pub struct InvalidConstant;

impl FromStr for Constant {
    type Err = InvalidConstant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::new).ok_or(InvalidConstant)
    }
}

impl Serialize for Constant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f32(self.value())
    }
}

impl<'de> Deserialize<'de> for Constant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        constant(f32::deserialize(deserializer)?)
    }
}

fn constant<E: serde::de::Error>(value: f32) -> Result<Constant, E> {
    Constant::new(value).ok_or_else(|| E::custom(format!("{value}: {InvalidConstant}")))
}

/// Word for a parameter that the checkpoint holds.
const LEARNED: &str = "learned";

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(constant) => constant.fmt(f),
            Self::Learned => f.write_str(LEARNED),
        }
    }
}

/// Error of a text that is no parameter of a neuron.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected a number or \"learned\"")]
pub struct InvalidParameter(String);

impl FromStr for Parameter {
    type Err = InvalidParameter;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == LEARNED {
            return Ok(Self::Learned);
        }
        text.parse().map(Self::Fixed).map_err(|_: InvalidConstant| InvalidParameter(text.to_owned()))
    }
}

impl Serialize for Parameter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(constant) => constant.serialize(serializer),
            Self::Learned => serializer.serialize_str(LEARNED),
        }
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number or \"learned\"")]
        enum Written {
            Number(f32),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(value) => constant(value).map(Self::Fixed),
            Written::Word(word) => word.parse().map_err(D::Error::custom),
        }
    }
}

impl Placement {
    fn is_default(&self) -> bool {
        *self == Self::After
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neuron(change: impl FnOnce(&mut Neuron)) -> Dynamics {
        let mut neuron = Neuron::SPIKEGPT;
        change(&mut neuron);
        Dynamics { neuron: Some(neuron), ..Dynamics::SPIKEGPT }
    }

    fn fixed(value: f32) -> Parameter {
        Parameter::Fixed(Constant::new(value).unwrap())
    }

    #[test]
    fn dynamics_survive_their_text() {
        let soft = neuron(|neuron| {
            (neuron.leak, neuron.threshold) = (Parameter::Learned, fixed(0.3));
            (neuron.reset, neuron.comparison) = (Reset::Soft, Comparison::Above);
            neuron.initial = Constant::new(-0.25).unwrap();
        });
        let placed = Dynamics { placement: Placement::Before, rescale_every: 6, ..soft };
        for dynamics in [Dynamics::SPIKEGPT, Dynamics::NO_SPIKES, soft, placed] {
            let text = serde_json::to_string(&dynamics).unwrap();
            assert_eq!(serde_json::from_str::<Dynamics>(&text).unwrap(), dynamics, "{text}");
        }
        assert_eq!(serde_json::to_string(&Dynamics::NO_SPIKES).unwrap(), r#"{"neuron":null}"#);
        assert_eq!(
            serde_json::to_string(&soft).unwrap(),
            r#"{"neuron":{"leak":"learned","gain":0.5,"threshold":0.3,"reset":"soft","comparison":"above","initial":-0.25}}"#
        );
    }

    #[test]
    fn a_number_outside_its_bound_is_named() {
        let refused = |dynamics: Dynamics| dynamics.validate().unwrap_err().to_string();
        assert_eq!(refused(neuron(|n| n.leak = fixed(1.5))), "leak = 1.5: a network has 0 to 1");
        assert!(refused(neuron(|n| n.threshold = fixed(0.0))).starts_with("threshold = 0: "));
        assert!(refused(neuron(|n| n.gain = Constant::new(-1.0).unwrap())).starts_with("gain = -1: "));
        assert!(refused(neuron(|n| n.initial = Constant::new(1e9).unwrap())).starts_with("initial = "));
        let often = Dynamics { rescale_every: 4096, ..Dynamics::SPIKEGPT };
        assert!(refused(often).starts_with("rescale_every = 4096: "));
        let nothing_to_place = Dynamics { placement: Placement::Before, ..Dynamics::NO_SPIKES };
        assert!(refused(nothing_to_place).starts_with("placement = before"));
        assert_eq!(Dynamics::SPIKEGPT.validate(), Ok(()));
        assert_eq!(Constant::new(f32::NAN), None);
        assert_eq!(Constant::new(-0.0), Some(Constant::ZERO));
        assert!("half".parse::<Parameter>().is_err() && "inf".parse::<Parameter>().is_err());
    }

    #[test]
    fn dynamics_are_told_in_words() {
        let told = |dynamics: Dynamics| dynamics.to_string();
        assert_eq!(told(Dynamics::SPIKEGPT), "neurons: leak 0.5, gain 0.5, threshold 1, hard reset");
        assert_eq!(told(Dynamics::NO_SPIKES), "no spikes");
        let other = neuron(|n| {
            (n.leak, n.reset, n.comparison) = (Parameter::Learned, Reset::Soft, Comparison::Above);
            n.initial = Constant::HALF;
        });
        let other = Dynamics { placement: Placement::Before, rescale_every: 6, ..other };
        assert_eq!(
            told(other),
            "neurons: leak learned, gain 0.5, threshold 1, soft reset, firing above the threshold only, starting at 0.5; spikes \
             enter the halves of blocks; residual stream halved every 6 blocks"
        );
    }

    #[test]
    fn what_has_no_backward_pass_is_named() {
        let refused = |dynamics: Dynamics| dynamics.trainable().unwrap_err().to_string();
        let learned = neuron(|neuron| neuron.threshold = Parameter::Learned);
        assert_eq!(refused(learned), "networks with a learned leak or threshold are not trained");
        assert!(refused(Dynamics { placement: Placement::Before, ..Dynamics::SPIKEGPT }).contains("enter"));
        assert!(refused(Dynamics { rescale_every: 6, ..Dynamics::NO_SPIKES }).contains("halved"));
        for dynamics in [Dynamics::SPIKEGPT, Dynamics::NO_SPIKES, neuron(|n| n.reset = Reset::Soft)] {
            assert_eq!(dynamics.trainable(), Ok(()));
        }
    }

    #[test]
    fn every_sixth_block_halves_what_comes_after_it() {
        let dynamics = Dynamics { rescale_every: 6, ..Dynamics::SPIKEGPT };
        assert_eq!([0, 5, 6, 11, 12].map(|block| dynamics.halvings(block)), [0, 0, 1, 1, 2]);
        assert_eq!([4, 5, 6, 11].map(|block| dynamics.halves_after(block)), [false, true, false, true]);
        assert_eq!(Dynamics::SPIKEGPT.halvings(900), 0);
        assert!(!Dynamics::SPIKEGPT.halves_after(5));
    }
}
