//! Strategy, as it stands in an experiment: its kind and its parameters, as they are written.
//!
//! The search alone (package `qslm-search`) knows the kinds, the meaning of their parameters and whether they
//! fit an experiment. Here a strategy is text that decides an experiment's id, so nothing of it is lost or
//! reordered on the way through.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The key that names the kind.
const KIND: &str = "kind";

/// Strategy of an experiment: a kind and its parameters, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrategySpec {
    kind: String,
    parameters: Vec<(String, Value)>,
}

impl StrategySpec {
    /// Kind, such as `qslm` or `grid`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Parameters by name, in the order in which they are written.
    pub fn parameters(&self) -> impl Iterator<Item = &(String, Value)> {
        self.parameters.iter()
    }
}

impl Serialize for StrategySpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.parameters.len() + 1))?;
        map.serialize_entry(KIND, &self.kind)?;
        for (name, value) in &self.parameters {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for StrategySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = StrategySpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a strategy: a kind and its parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StrategySpec, A::Error> {
                let (mut kind, mut parameters) = (None, Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == KIND {
                        kind = Some(map.next_value()?);
                    } else {
                        parameters.push((name, map.next_value()?));
                    }
                }
                Ok(StrategySpec { kind: kind.ok_or_else(|| A::Error::missing_field(KIND))?, parameters })
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_keeps_the_order_of_its_parameters() {
        let text =
            r#"{"kind":"random","tier":"block","trials":3,"seed":18446744073709551615,"a":[null,"b"]}"#;
        let strategy: StrategySpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&strategy).unwrap(), text);
        assert_eq!((strategy.kind(), strategy.parameters().count()), ("random", 4));
        let error = serde_json::from_str::<StrategySpec>(r#"{"tier":"block"}"#).unwrap_err().to_string();
        assert!(error.starts_with("missing field `kind`"), "{error}");
    }
}
