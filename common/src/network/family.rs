//! Family: the members that have a name, each a preset of a few values. One more member is one more entry of [`ALL`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Network;
use super::dynamics::{Comparison, Constant, Dynamics, Neuron, Parameter, Placement, Reset};

/// Member of the family: what its tensors do not tell.
///
/// Its text is one word for SpikeGPT, `true` if the embedding is binary and `false` if not, as it was before there were other
/// members; a program that knows no others refuses theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// True if only the sign of an embedding weight reaches the network.
    pub binary_embedding: bool,
    /// What it does between its linear layers.
    pub dynamics: Dynamics,
}

/// Family of a member by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// SpikeGPT as its training code computes it.
    SpikeGpt,
    /// SpikeGPT of characters as its published script runs it: the residual stream is halved every six blocks.
    #[serde(rename = "spikegpt-char")]
    SpikeGptChar,
    /// RWKV-4: no spikes.
    Rwkv4,
    /// SpikeRuGPT with a learned leak and threshold for each population.
    SpikeRuGpt,
    /// spikegpt-myelin; what its checkpoints say of themselves goes before this preset.
    Myelin,
}

/// Preset of a family.
struct Preset {
    family: Family,
    name: &'static str,
    about: &'static str,
    member: Member,
}

/// Every family with its preset.
const ALL: [Preset; 5] = [
    Preset {
        family: Family::SpikeGpt,
        name: "spikegpt",
        about: "SpikeGPT as its training code computes it",
        member: Member { binary_embedding: true, dynamics: Dynamics::SPIKEGPT },
    },
    Preset {
        family: Family::SpikeGptChar,
        name: "spikegpt-char",
        about: "SpikeGPT of characters as its published script runs it",
        member: Member {
            binary_embedding: true,
            dynamics: Dynamics { rescale_every: 6, ..Dynamics::SPIKEGPT },
        },
    },
    Preset {
        family: Family::Rwkv4,
        name: "rwkv4",
        about: "RWKV-4, which has no spikes",
        member: Member { binary_embedding: false, dynamics: Dynamics::NO_SPIKES },
    },
    Preset {
        family: Family::SpikeRuGpt,
        name: "spikerugpt",
        about: "SpikeRuGPT, whose populations have a learned leak and threshold",
        member: Member { binary_embedding: true, dynamics: with(SPIKERUGPT) },
    },
    Preset {
        family: Family::Myelin,
        name: "myelin",
        about: "spikegpt-myelin, whose checkpoints describe themselves",
        member: Member { binary_embedding: true, dynamics: with(MYELIN) },
    },
];

const SPIKERUGPT: Neuron = Neuron {
    leak: Parameter::Learned,
    gain: Constant::ONE,
    threshold: Parameter::Learned,
    reset: Reset::Soft,
    comparison: Comparison::AtLeast,
    initial: Constant::ZERO,
};

const MYELIN: Neuron = Neuron { gain: Constant::ONE, ..Neuron::SPIKEGPT };

const fn with(neuron: Neuron) -> Dynamics {
    Dynamics { neuron: Some(neuron), placement: Placement::After, rescale_every: 0 }
}

impl Family {
    /// Names of all families.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|preset| preset.name)
    }

    /// All families, each with what it is.
    pub fn all() -> impl Iterator<Item = (Self, &'static str)> {
        ALL.iter().map(|preset| (preset.family, preset.about))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.preset().name
    }

    /// Its values.
    pub fn member(self) -> Member {
        self.preset().member
    }

    fn preset(self) -> &'static Preset {
        ALL.iter().find(|preset| preset.family == self).expect("every family has a preset")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Error of a word that is no family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no family: expected one of {}", Family::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownFamily {
    given: String,
}

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = ALL.iter().find(|preset| preset.name == name);
        found.map(|preset| preset.family).ok_or_else(|| UnknownFamily { given: name.to_owned() })
    }
}

impl From<bool> for Member {
    /// SpikeGPT, with a binary embedding or a real one.
    fn from(binary_embedding: bool) -> Self {
        Self { binary_embedding, dynamics: Dynamics::SPIKEGPT }
    }
}

impl From<&Network> for Member {
    fn from(network: &Network) -> Self {
        Self { binary_embedding: network.binary_embedding, dynamics: network.dynamics }
    }
}

/// Text of a member.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    SpikeGpt(bool),
    Other(Other),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    binary_embedding: bool,
    dynamics: Dynamics,
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { binary_embedding, dynamics } = *self;
        match dynamics.is_default() {
            true => Text::SpikeGpt(binary_embedding),
            false => Text::Other(Other { binary_embedding, dynamics }),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Text::deserialize(deserializer)? {
            Text::SpikeGpt(binary_embedding) => binary_embedding.into(),
            Text::Other(Other { binary_embedding, dynamics }) => Self { binary_embedding, dynamics },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_spikegpt_is_what_it_was_before_there_were_others() {
        for (member, text) in [
            (true.into(), "true"),
            (false.into(), "false"),
            (Family::Rwkv4.member(), r#"{"binary_embedding":false,"dynamics":{"neuron":null}}"#),
        ] {
            let member: Member = member;
            assert_eq!(serde_json::to_string(&member).unwrap(), text);
            assert_eq!(serde_json::from_str::<Member>(text).unwrap(), member);
        }
        assert!(serde_json::from_str::<Member>("1").is_err());
    }

    #[test]
    fn every_family_is_found_by_its_name_and_has_sane_values() {
        for (family, about) in Family::all() {
            assert_eq!(family.name().parse(), Ok(family));
            assert_eq!(serde_json::to_string(&family).unwrap(), format!("{:?}", family.name()));
            assert_eq!(family.member().dynamics.validate(), Ok(()));
            assert!(!about.is_empty());
        }
        let error = "rwkv5".parse::<Family>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"rwkv5\" is no family: expected one of spikegpt, spikegpt-char, rwkv4, spikerugpt, myelin"
        );
    }

    #[test]
    fn only_spikegpt_is_the_default() {
        let defaults = Family::all().filter(|(family, _)| family.member().dynamics.is_default());
        assert_eq!(defaults.map(|(family, _)| family).collect::<Vec<_>>(), [Family::SpikeGpt]);
    }
}
