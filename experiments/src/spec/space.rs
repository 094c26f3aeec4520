//! The `[space]` table of a spec, and the space that it means.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use qslm_common::network::{Network, Unit};
use qslm_common::scheme::{Granularity, Range, Rounding, Scales, Scheme, Symmetry, Width};
use qslm_common::space::{ActivationSpace, Embedding, MembraneSpace, Rule, Space, VectorSpace};
use qslm_common::storage::{CodedSizes, Storage};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{KeyProblem, Refused};
use crate::schemes::usual_narrow_range;

/// The `[space]` table.
// One field for each key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SpaceSpec {
    pub(super) bits: Option<Vec<Width>>,
    pub(super) symmetry: Option<OneOrMore<Symmetry>>,
    pub(super) granularity: Option<OneOrMore<Granularity>>,
    pub(super) rounding: Option<Rounding>,
    pub(super) quantizer: Option<Vec<Rounding>>,
    pub(super) schemes: Option<Vec<Scheme>>,
    #[serde(rename = "rule")]
    pub(super) rules: Vec<RuleSpec>,
    pub(super) tie: Option<Ties>,
    pub(super) storage: Option<Vec<Storage>>,
    pub(super) range: Option<Range>,
    pub(super) narrow_range: Option<Range>,
    pub(super) scales: Option<Scales>,
    pub(super) embedding: Option<Embedding>,
    pub(super) vectors: Option<VectorSpace>,
    pub(super) activations: Option<ActivationsSpec>,
    pub(super) membranes: Option<MembranesSpec>,
}

/// A `[[space.rule]]`: what it leaves out is as in the space.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSpec {
    pub(super) units: String,
    pub(super) bits: Option<Vec<Width>>,
    pub(super) symmetry: Option<OneOrMore<Symmetry>>,
    pub(super) granularity: Option<OneOrMore<Granularity>>,
    pub(super) rounding: Option<Rounding>,
    pub(super) quantizer: Option<Vec<Rounding>>,
    pub(super) schemes: Option<Vec<Scheme>>,
    pub(super) range: Option<Range>,
    pub(super) narrow_range: Option<Range>,
    pub(super) scales: Option<Scales>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivationsSpec {
    pub(super) bits: Vec<Width>,
    pub(super) symmetry: Option<Symmetry>,
    #[serde(default)]
    pub(super) range: ActivationRangeSpec,
}

/// Range of activations: of each token's own vector, or calibrated.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ActivationRangeSpec {
    #[default]
    Dynamic,
    Static,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembranesSpec {
    pub(super) bits: Vec<u8>,
    #[serde(default = "two")]
    pub(super) integer_bits: u8,
}

fn two() -> u8 {
    2
}

/// One value, or a list of values each of which is to be tried.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OneOrMore<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrList<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrList<T> {
            type Value = OneOrMore<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of them")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMore<T>, E> {
                T::deserialize(text.into_deserializer()).map(|one| OneOrMore(vec![one]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMore<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMore)
            }
        }
        deserializer.deserialize_any(OneOrList(PhantomData))
    }
}

/// Matrices that are tied: the names of some, or several lists of names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "tie: expected a list of matrices such as [\"att.key\", \"att.value\"], or a list of such lists"
)]
pub(super) enum Ties {
    One(Vec<String>),
    Several(Vec<Vec<String>>),
}

impl RuleSpec {
    /// The space of which the ladder is this rule's.
    fn within(&self, space: &SpaceSpec) -> SpaceSpec {
        let named = self.bits.is_some() || self.schemes.is_some();
        let rounded = self.rounding.is_some() || self.quantizer.is_some();
        SpaceSpec {
            bits: if named { self.bits.clone() } else { space.bits.clone() },
            schemes: if named { self.schemes.clone() } else { space.schemes.clone() },
            symmetry: self.symmetry.clone().or_else(|| space.symmetry.clone()),
            granularity: self.granularity.clone().or_else(|| space.granularity.clone()),
            rounding: if rounded { self.rounding } else { space.rounding },
            quantizer: if rounded { self.quantizer.clone() } else { space.quantizer.clone() },
            range: self.range.or(space.range),
            narrow_range: self.narrow_range.or(space.narrow_range),
            scales: self.scales.or(space.scales),
            ..SpaceSpec::default()
        }
    }
}

impl SpaceSpec {
    /// The space without what calibration adds to it.
    pub(super) fn resolve(&self, binary_embedding: bool, network: &Network) -> Space {
        let units = network.units();
        let embedding = if binary_embedding { Embedding::Sign } else { Embedding::Quantize };
        let mut space = self.ladder(&units.iter().collect::<Vec<_>>());
        let rule = |rule: &RuleSpec| {
            let named = Rule { units: rule.units.clone(), schemes: Vec::new() };
            let matched: Vec<_> = units.iter().filter(|unit| named.matches(&unit.name)).collect();
            Rule { schemes: rule.within(self).ladder(&matched).ladder().collect(), ..named }
        };
        space.rules = self.rules.iter().map(rule).collect();
        space.ties = match &self.tie {
            None => Vec::new(),
            Some(Ties::One(names)) => vec![names.clone()],
            Some(Ties::Several(ties)) => ties.clone(),
        };
        space.storage = self.storage.clone().unwrap_or_default();
        space.embedding = self.embedding.unwrap_or(embedding);
        space.vectors = self.vector_space();
        space.activations = self.activations.as_ref().map(|activations| {
            let symmetry = activations.symmetry.unwrap_or(Symmetry::Affine);
            ActivationSpace { bits: falling(&activations.bits), symmetry, calibration: None }
        });
        space.membranes = self.membranes.as_ref().map(|membranes| MembraneSpace {
            bits: falling(&membranes.bits),
            integer_bits: membranes.integer_bits,
        });
        space
    }

    /// The ladder of one-dimensional parameters; `None` if they stay float.
    fn vector_space(&self) -> Option<VectorSpace> {
        let bits = self.vectors.as_ref().map_or_else(|| widths(&[16, 8]), |vectors| vectors.bits.clone());
        Some(VectorSpace { bits: falling(&bits) }).filter(|space| space.bits != [Width::Float])
    }

    /// A space of which the ladder is this one's, and nothing else. Of several symmetries or granularities there is every
    /// combination, ordered by what `units` take.
    fn ladder(&self, units: &[&Unit]) -> Space {
        let bits = match (&self.bits, &self.schemes) {
            (Some(bits), _) => bits.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => widths(&[8, 6, 4, 3, 2]),
        };
        let mut roundings = self.quantizer.iter().flatten().copied();
        let first = self.rounding.or_else(|| roundings.next());
        let all = |given: &Option<OneOrMore<Symmetry>>| {
            given.clone().map_or(vec![Symmetry::Symmetric], |some| some.0)
        };
        let symmetries = all(&self.symmetry);
        let granularities = self.granularity.clone().map_or(vec![Granularity::Channel], |some| some.0);
        let space = |symmetry, granularity| Space {
            bits: falling(&bits),
            schemes: self.schemes.clone().unwrap_or_default(),
            rules: Vec::new(),
            ties: Vec::new(),
            more_roundings: roundings.clone().collect(),
            storage: Vec::new(),
            coded: CodedSizes::default(),
            codes: BTreeMap::new(),
            symmetry,
            granularity,
            rounding: first.unwrap_or_default(),
            range: self.range.unwrap_or_default(),
            narrow_range: self.narrow_range.or(usual_narrow_range(self.range)),
            scales: self.scales.unwrap_or(Scales::F16),
            embedding: Embedding::Float,
            vectors: None,
            activations: None,
            membranes: None,
        };
        let usual = (Symmetry::Symmetric, Granularity::Channel);
        let first = (symmetries.first().copied(), granularities.first().copied());
        let mut whole = space(first.0.unwrap_or(usual.0), first.1.unwrap_or(usual.1));
        if symmetries.len().max(granularities.len()) > 1 && self.schemes.is_none() {
            let combined = symmetries.iter().flat_map(|symmetry| {
                granularities
                    .iter()
                    .flat_map(|granularity| space(*symmetry, *granularity).ladder().collect::<Vec<_>>())
            });
            let mut schemes: Vec<Scheme> = Vec::new();
            // Wide codes are the same under some symmetries, and floats under all.
            combined.for_each(|scheme| {
                if !schemes.contains(&scheme) {
                    schemes.push(scheme);
                }
            });
            whole.schemes = whole.largest_first(&schemes, units);
            whole.bits = Vec::new();
        }
        whole
    }

    /// Keys that mean one thing twice, or nothing.
    pub(super) fn problems(&self) -> Result<(), Refused> {
        check(self, "space")?;
        self.rules.iter().try_for_each(|rule| {
            let own = SpaceSpec {
                bits: rule.bits.clone(),
                schemes: rule.schemes.clone(),
                symmetry: rule.symmetry.clone(),
                granularity: rule.granularity.clone(),
                rounding: rule.rounding,
                quantizer: rule.quantizer.clone(),
                ..SpaceSpec::default()
            };
            check(&own, "space.rule")
        })
    }
}

/// Refuses keys of a table of which two mean one thing, and empty lists.
fn check(space: &SpaceSpec, table: &str) -> Result<(), Refused> {
    let wrong = |key: &str, words: &str| {
        let key = format!("{table}.{key}");
        Refused::Spec(vec![KeyProblem::new(&key, format!("{key}{words}"))])
    };
    let none = " = []: expected at least one";
    let leave_out = |what: &str, other: &str| format!(": {what}; leave {table}.{other} out");
    match space {
        SpaceSpec { rounding: Some(_), quantizer: Some(_), .. } => {
            Err(wrong("quantizer", &leave_out("it is a list of roundings", "rounding")))
        }
        SpaceSpec { quantizer: Some(list), .. } if list.is_empty() => Err(wrong("quantizer", none)),
        SpaceSpec { schemes: Some(list), .. } if list.is_empty() => Err(wrong("schemes", none)),
        SpaceSpec { symmetry: Some(OneOrMore(list)), .. } if list.is_empty() => Err(wrong("symmetry", none)),
        SpaceSpec { granularity: Some(OneOrMore(list)), .. } if list.is_empty() => {
            Err(wrong("granularity", none))
        }
        SpaceSpec { schemes: Some(_), bits: Some(_), .. } => {
            Err(wrong("schemes", &leave_out("they are the ladder", "bits")))
        }
        _ => Ok(()),
    }
}

/// Widths from the widest to the narrowest.
fn falling<T: Ord + Clone>(bits: &[T]) -> Vec<T> {
    let mut bits = bits.to_vec();
    bits.sort_by(|a, b| b.cmp(a));
    bits
}

fn widths(bits: &[u8]) -> Vec<Width> {
    bits.iter().filter_map(|bits| Width::try_from(*bits).ok()).collect()
}

#[cfg(test)]
mod tests {
    use qslm_common::space::{Axis, Tier};

    use super::*;

    const NETWORK: Network = Network {
        vocabulary: 64,
        channels: 32,
        hidden: 128,
        blocks: 2,
        outputs: 64,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };

    fn space(text: &str) -> Space {
        let spec: SpaceSpec = toml::from_str(text).unwrap();
        assert!(spec.problems().is_ok());
        let space = spec.resolve(true, &NETWORK);
        assert_eq!(space.validate(&NETWORK), Ok(()));
        space
    }

    fn ladder(space: &Space) -> Vec<String> {
        space.ladder().map(|scheme| scheme.to_string()).collect()
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let space = space("");
        assert_eq!(space.embedding, Embedding::Sign);
        assert_eq!(space.bits.iter().map(|bits| bits.bits()).collect::<Vec<_>>(), [8, 6, 4, 3, 2]);
    }

    #[test]
    fn symmetries_and_granularities_may_be_lists_of_what_to_try() {
        let space = space(
            "bits = [4, 2]\nsymmetry = [\"symmetric\", \"full\"]\ngranularity = [\"channel\", \"group:16\"]",
        );
        let found = ladder(&space);
        assert_eq!(found.len(), 8, "{found:?}");
        assert!(found[0].starts_with("int4") && found[0].contains("group16"), "the largest first: {found:?}");
        assert!(found[7].starts_with("int2") && found[7].contains("channel"), "{found:?}");
        assert_eq!(space.bits, []);
    }

    #[test]
    fn a_rule_has_what_it_says_and_the_rest_of_the_space() {
        let space = space(
            "bits = [8, 4]\nscales = \"f32\"\ntie = [\"att.key\", \"att.value\"]\n\
             [[rule]]\nunits = \"blocks.*.ffn.*\"\nbits = [3, 4]\ngranularity = \"group:32\"",
        );
        let schemes: Vec<_> = space.rules[0].schemes.iter().map(ToString::to_string).collect();
        assert_eq!(schemes, ["int4:symmetric:group32", "int3:symmetric:group32:least_squares"]);
        assert_eq!(ladder(&space), ["int8:symmetric:channel", "int4:symmetric:channel"]);
        let groups = space.groups(&NETWORK, Axis::Weights, Tier::Matrix);
        assert_eq!(groups.len(), 2 * 6 + 1);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let words = |text: &str| match toml::from_str::<SpaceSpec>(text) {
            Ok(spec) => match spec.problems() {
                Err(Refused::Spec(problems)) => problems[0].words.clone(),
                _ => panic!("{text} is taken"),
            },
            Err(error) => error.message().to_owned(),
        };
        assert_eq!(words("symmetry = []"), "space.symmetry = []: expected at least one");
        assert!(words("symmetry = \"simmetric\"").contains("simmetric"));
        assert!(words("tie = \"att.key\"").starts_with("tie: expected a list"));
        assert!(words("[[rule]]\nbits = [4]").contains("units"));
        let both = "[[rule]]\nunits = \"*\"\nbits = [4]\nschemes = [\"int4:full:channel\"]";
        assert_eq!(words(both), "space.rule.schemes: they are the ladder; leave space.rule.bits out");
    }
}
