//! What a checkpoint does not tell of its network: a family by name, and what differs from it, in a spec or by flags.

use std::path::Path;

use clap::Args;
use qslm_common::network::{
    Comparison, Constant, Dynamics, Family, Member, Neuron, Parameter, Placement, Reset,
};
use qslm_engine::checkpoint::{self, CheckpointError, Recognised};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure, Outcome};
use crate::input::unreadable;

/// Heading of the flags in a help text.
const HEADING: &str = "What a float checkpoint does not tell";

/// Flags that say what a float checkpoint does not tell; a packed one says it itself.
#[derive(Debug, Clone, Default, Args)]
pub struct MemberArgs {
    /// Family of the model: spikegpt, spikegpt-char, rwkv4, spikerugpt or myelin [default: what the file tells, else spikegpt]
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    pub family: Option<Family>,
    /// The model was trained on real-valued embeddings instead of their signs
    #[arg(long, help_heading = HEADING)]
    pub real_embedding: bool,
    #[command(flatten)]
    pub dynamics: DynamicsSpec,
}

/// Dynamics that differ from those of the family: the table `[checkpoint.neuron]` of a spec, and flags.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicsSpec {
    /// Share of a neuron's potential that is left after a token, 0 to 1, or "learned"
    #[arg(long, help_heading = HEADING, value_name = "NUMBER", hide_short_help = true)]
    pub leak: Option<Parameter>,
    /// Factor of a neuron's input
    #[arg(long, help_heading = HEADING, value_name = "NUMBER", hide_short_help = true)]
    pub gain: Option<Constant>,
    /// Potential at which a neuron fires, or "learned"
    #[arg(long, help_heading = HEADING, value_name = "NUMBER", hide_short_help = true)]
    pub threshold: Option<Parameter>,
    /// What becomes of a potential that fired: hard (0), soft (less the threshold) or none
    #[arg(long, help_heading = HEADING, value_name = "KIND", hide_short_help = true, value_parser = word::<Reset>)]
    pub reset: Option<Reset>,
    /// Whether a potential at the threshold fires: at-least or above
    #[arg(long, help_heading = HEADING, value_name = "KIND", hide_short_help = true, value_parser = word::<Comparison>)]
    pub comparison: Option<Comparison>,
    /// Potential before the first token
    #[arg(long, help_heading = HEADING, value_name = "NUMBER", hide_short_help = true, allow_hyphen_values = true)]
    pub initial: Option<Constant>,
    /// Whether spikes leave a half of a block or enter it: after or before
    #[arg(long, help_heading = HEADING, value_name = "PLACE", hide_short_help = true, value_parser = word::<Placement>)]
    pub placement: Option<Placement>,
    /// Whether there are spikes at all: true or false
    #[arg(long, help_heading = HEADING, value_name = "BOOL", hide_short_help = true)]
    pub spiking: Option<bool>,
    /// Blocks after which the residual stream is halved, as the published script does every 6; 0: never
    #[arg(long, help_heading = HEADING, value_name = "N", hide_short_help = true)]
    pub rescale_every: Option<u32>,
}

impl MemberArgs {
    /// What the flags say, as a spec has it: lines of `[checkpoint]`, and its table of neurons.
    pub fn written(&self, checkpoint: &Path) -> Outcome<String> {
        let Base { family, .. } = Base::of(checkpoint, self.family)?;
        let mut text = String::new();
        if family != Family::SpikeGpt {
            text.push_str(&format!("family = \"{family}\"\n"));
        }
        if self.dynamics != DynamicsSpec::default() {
            let table =
                toml::to_string(&self.dynamics).map_err(|error| Failure::new(Exit::Failure, error))?;
            text.push_str(&format!("\n[checkpoint.neuron]\n{table}"));
        }
        Ok(text)
    }

    /// The member that a file and the flags describe.
    pub fn member(&self, checkpoint: &Path) -> Outcome<Member> {
        let binary = self.real_embedding.then_some(false);
        let member = member(Base::said(checkpoint, self.family)?, binary, &self.dynamics);
        member.map_err(|(_, words)| Failure::new(Exit::Usage, words))
    }
}

/// Family and member before anything that differs is said.
pub struct Base {
    /// Family.
    pub family: Family,
    member: Member,
    /// What told it, where nobody asked for it.
    because: Option<String>,
}

impl Base {
    /// The family that is asked for, else the one that a file tells, else SpikeGPT. What a file says of itself goes before the
    /// family's preset.
    pub fn of(checkpoint: &Path, asked: Option<Family>) -> Outcome<Self> {
        let preset = |family: Family| Self { family, member: family.member(), because: None };
        match asked {
            None => Ok(recognised(checkpoint)?.unwrap_or_else(|| preset(Family::SpikeGpt))),
            Some(Family::Myelin) => {
                let recognised = recognised(checkpoint)?.filter(|base| base.family == Family::Myelin);
                Ok(recognised.map_or_else(|| preset(Family::Myelin), |base| Self { because: None, ..base }))
            }
            Some(family) => Ok(preset(family)),
        }
    }

    /// As [`Base::of`]; what only the file told is said.
    pub fn said(checkpoint: &Path, asked: Option<Family>) -> Outcome<Self> {
        let base = Self::of(checkpoint, asked)?;
        if let Self { family, because: Some(because), .. } = &base {
            tracing::warn!("{}: read as {family}: {because}", checkpoint.display());
        }
        Ok(base)
    }
}

/// What a file tells. One that cannot be read tells nothing: whoever loads it says why.
fn recognised(path: &Path) -> Outcome<Option<Base>> {
    match checkpoint::recognise(path) {
        Ok(found) => Ok(found.map(|Recognised { family, member, because }| Base {
            family,
            member,
            because: Some(because),
        })),
        Err(error @ (CheckpointError::Configuration { .. } | CheckpointError::Network(_))) => {
            Err(unreadable(path, &error))
        }
        Err(_) => Ok(None),
    }
}

/// The member that a family's and what differs from it make.
///
/// # Errors
/// A line on what means nothing or is out of its bound, with the key that means nothing.
pub fn member(
    Base { family, mut member, .. }: Base,
    binary_embedding: Option<bool>,
    changes: &DynamicsSpec,
) -> Result<Member, (Option<&'static str>, String)> {
    member.binary_embedding = binary_embedding.unwrap_or(member.binary_embedding);
    let dynamics = &mut member.dynamics;
    match changes.spiking {
        Some(true) => dynamics.neuron = dynamics.neuron.or(Some(Neuron::SPIKEGPT)),
        Some(false) => dynamics.neuron = None,
        None => {}
    }
    match &mut dynamics.neuron {
        Some(neuron) => changes.apply(neuron),
        None => {
            if let Some(key) = changes.of_neurons() {
                let of =
                    if changes.spiking.is_some() { "spiking = false".to_owned() } else { family.to_string() };
                return Err((Some(key), format!("{key} is of neurons, and {of} has none")));
            }
        }
    }
    dynamics.placement = changes.placement.unwrap_or(dynamics.placement);
    dynamics.rescale_every = changes.rescale_every.unwrap_or(dynamics.rescale_every);
    Dynamics::validate(dynamics).map_err(|error| (None, error.to_string()))?;
    Ok(member)
}

impl DynamicsSpec {
    fn apply(&self, neuron: &mut Neuron) {
        let Self { leak, gain, threshold, reset, comparison, initial, .. } = *self;
        neuron.leak = leak.unwrap_or(neuron.leak);
        neuron.gain = gain.unwrap_or(neuron.gain);
        neuron.threshold = threshold.unwrap_or(neuron.threshold);
        neuron.reset = reset.unwrap_or(neuron.reset);
        neuron.comparison = comparison.unwrap_or(neuron.comparison);
        neuron.initial = initial.unwrap_or(neuron.initial);
    }

    /// The first key that is given and is of neurons.
    fn of_neurons(&self) -> Option<&'static str> {
        let keys = [
            ("leak", self.leak.is_some()),
            ("gain", self.gain.is_some()),
            ("threshold", self.threshold.is_some()),
            ("reset", self.reset.is_some()),
            ("comparison", self.comparison.is_some()),
            ("initial", self.initial.is_some()),
            ("placement", self.placement.is_some()),
        ];
        keys.into_iter().find(|(_, is_given)| *is_given).map(|(key, _)| key)
    }
}

/// A flag's word as a spec would write it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(StrDeserializer::<Error>::new(text)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(toml: &str) -> DynamicsSpec {
        toml::from_str(toml).unwrap()
    }

    fn member(
        family: Option<Family>,
        binary: Option<bool>,
        changes: &DynamicsSpec,
    ) -> Result<Member, (Option<&'static str>, String)> {
        let family = family.unwrap_or(Family::SpikeGpt);
        super::member(Base { family, member: family.member(), because: None }, binary, changes)
    }

    #[test]
    fn what_is_not_said_is_the_familys() {
        assert_eq!(member(None, None, &changes("")), Ok(true.into()));
        assert_eq!(member(None, Some(false), &changes("")), Ok(false.into()));
        assert_eq!(member(Some(Family::Rwkv4), None, &changes("")), Ok(Family::Rwkv4.member()));
        let slow =
            member(Some(Family::Myelin), None, &changes("leak = 0.75\nplacement = \"before\"")).unwrap();
        let neuron = slow.dynamics.neuron.unwrap();
        assert_eq!((neuron.leak.fixed(), neuron.gain.value()), (Some(0.75), 1.0));
        assert_eq!(slow.dynamics.placement, Placement::Before);
        let silent = member(None, Some(false), &changes("spiking = false\nrescale_every = 6")).unwrap();
        assert_eq!((silent.dynamics.neuron, silent.dynamics.rescale_every), (None, 6));
        let spiking =
            member(Some(Family::Rwkv4), None, &changes("spiking = true\nreset = \"soft\"")).unwrap();
        assert_eq!(spiking.dynamics.neuron, Some(Neuron { reset: Reset::Soft, ..Neuron::SPIKEGPT }));
        let learned = changes("leak = \"learned\"\nthreshold = 0.5");
        assert_eq!(learned.leak, Some(Parameter::Learned));
    }

    #[test]
    fn what_means_nothing_is_named() {
        let refused = |family, text: &str| member(family, None, &changes(text)).unwrap_err();
        let (key, words) = refused(Some(Family::Rwkv4), "leak = 0.5");
        assert_eq!((key, &*words), (Some("leak"), "leak is of neurons, and rwkv4 has none"));
        let (_, words) = refused(None, "spiking = false\ngain = 1");
        assert_eq!(words, "gain is of neurons, and spiking = false has none");
        let (_, words) = refused(None, "threshold = -1");
        assert_eq!(words, "threshold = -1: a network has 0.0001 to 10000");
        assert!(toml::from_str::<DynamicsSpec>("leek = 1").is_err());
        assert!(toml::from_str::<DynamicsSpec>("leak = \"half\"").is_err());
        let words = word::<Reset>("gentle").unwrap_err();
        assert!(words.contains("`hard`, `soft`, `none`"), "{words}");
        assert!("nan".parse::<Constant>().is_err() && "1e-1".parse::<Constant>().is_ok());
    }
}
