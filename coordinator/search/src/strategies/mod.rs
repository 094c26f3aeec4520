//! Strategies, one file each. One line of [`strategies!`] below makes a kind known to experiments, specs, the reference,
//! `--dry-run` and reports.

mod allocate;
mod beam;
mod combinations;
mod evolve;
mod external;
mod grid;
mod haq;
pub mod list;
mod memory_driven;
mod one_shot;
mod proposed;
mod random;
mod ranked;
mod subset;
mod surrogate;
mod tiered;
pub mod warm;

use qslm_common::experiment::Experiment;
use qslm_common::strategy::StrategySpec;
use serde::{Deserialize, Serialize};

pub use allocate::{Allocate, Fit, PER_NAT, Table};
pub use beam::Beam;
pub use evolve::Evolve;
pub use external::External;
pub use grid::Grid;
pub use haq::Haq;
pub use list::List;
pub use memory_driven::MemoryDriven;
pub use random::Random;
pub use ranked::Ranked;
pub use surrogate::Surrogate;
pub use tiered::Tiered;

use crate::strategy::{Key, Problem, Search, StagePlan, Strategy, Subset};

/// Makes the sum of all strategies, which reads and writes them by kind, and the registry.
macro_rules! strategies {
    ($($kind:literal => $Strategy:ident),* $(,)?) => {
        /// Any strategy: what a [`StrategySpec`] means.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum AnyStrategy {
            $(
                #[doc = concat!("See [`", stringify!($Strategy), "`].")]
                #[serde(rename = $kind)]
                $Strategy($Strategy),
            )*
        }

        impl AnyStrategy {
            /// See [`Strategy::problems`].
            pub fn problems(&self, experiment: &Experiment) -> Vec<Problem> {
                match self { $(Self::$Strategy(it) => it.problems(experiment),)* }
            }

            /// See [`Strategy::start`].
            pub fn start(&self, experiment: &Experiment) -> Box<dyn Search> {
                match self { $(Self::$Strategy(it) => it.start(experiment),)* }
            }

            /// See [`Strategy::caption`].
            pub fn caption(&self) -> String {
                match self { $(Self::$Strategy(it) => it.caption(),)* }
            }

            /// See [`Strategy::outline`].
            pub fn outline(&self, experiment: &Experiment, first: u64) -> Vec<StagePlan> {
                match self { $(Self::$Strategy(it) => it.outline(experiment, first),)* }
            }

            /// See [`Strategy::subset`].
            pub fn subset(&self, experiment: &Experiment) -> Option<Subset> {
                match self { $(Self::$Strategy(it) => it.subset(experiment),)* }
            }

            /// See [`Strategy::asks_for_subset`].
            pub fn asks_for_subset(&self) -> Option<(&'static str, u32)> {
                match self { $(Self::$Strategy(it) => it.asks_for_subset(),)* }
            }

            /// See [`Strategy::write_out`].
            pub fn write_out(&mut self) {
                match self { $(Self::$Strategy(it) => it.write_out(),)* }
            }

            /// See [`Strategy::fit`].
            pub fn fit(&mut self, sequences: u64) {
                match self { $(Self::$Strategy(it) => it.fit(sequences),)* }
            }
        }

        $(
            impl From<$Strategy> for AnyStrategy {
                fn from(strategy: $Strategy) -> Self {
                    Self::$Strategy(strategy)
                }
            }

            impl From<$Strategy> for StrategySpec {
                fn from(strategy: $Strategy) -> Self {
                    AnyStrategy::from(strategy).spec()
                }
            }

            // The kind that reads it is the kind that it calls itself.
            const _: () = assert!(is_equal($kind, $Strategy::KIND));
        )*

        /// Strategies, in the order of the reference.
        const REGISTRY: &[StrategyEntry] = &[$(StrategyEntry {
            kind: $Strategy::KIND,
            about: $Strategy::ABOUT,
            keys: $Strategy::KEYS,
        }),*];
    };
}

strategies! {
    "qslm" => Tiered,
    "grid" => Grid,
    "random" => Random,
    "ranked" => Ranked,
    "list" => List,
    "allocate" => Allocate,
    "evolve" => Evolve,
    "memory_driven" => MemoryDriven,
    "surrogate" => Surrogate,
    "beam" => Beam,
    "haq" => Haq,
    "external" => External,
}

/// A strategy as the reference shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrategyEntry {
    /// [`Strategy::KIND`].
    pub kind: &'static str,
    /// [`Strategy::ABOUT`].
    pub about: &'static str,
    /// [`Strategy::KEYS`].
    pub keys: &'static [Key],
}

/// Every strategy, in the order of the reference.
pub fn registry() -> &'static [StrategyEntry] {
    REGISTRY
}

impl AnyStrategy {
    /// Reads what an experiment says.
    ///
    /// # Errors
    /// A kind that there is not, or parameters that it does not have, in the words of `serde`.
    pub fn parse(spec: &StrategySpec) -> Result<Self, serde_json::Error> {
        serde_json::from_value(serde_json::to_value(spec)?)
    }

    /// Spec of the strategy, as an experiment has it, in canonical order.
    pub fn spec(&self) -> StrategySpec {
        let text = serde_json::to_string(self).expect("a strategy has no maps with keys that are not text");
        serde_json::from_str(&text).expect("a strategy is written with its kind")
    }
}

const fn is_equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod one_shot_tests;

#[cfg(test)]
mod pins;

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of experiments on record: another order or another name would give them other ids.
    const CANONICAL: [&str; 20] = [
        r#"{"kind":"qslm","sensitivity_bits":null}"#,
        r#"{"kind":"qslm","sensitivity_bits":4,"sensitivity_sequences":8}"#,
        r#"{"kind":"qslm","sensitivity_bits":null,"plain":false}"#,
        r#"{"kind":"grid","tier":"block"}"#,
        r#"{"kind":"random","tier":"matrix","trials":100,"seed":18446744073709551615}"#,
        r#"{"kind":"ranked","metric":"lsaq","tier":"block","order":["head","blocks.0"]}"#,
        r#"{"kind":"list","candidates":["a","b"]}"#,
        r#"{"kind":"list","candidates":["a","b"],"names":["idea 1",""]}"#,
        r#"{"kind":"allocate","tier":"matrix","sensitivity_sequences":256}"#,
        r#"{"kind":"allocate","tier":"matrix","sensitivity_sequences":256,"fit":"regression"}"#,
        r#"{"kind":"evolve","tier":"module","population":20,"generations":5,"seed":1}"#,
        r#"{"kind":"evolve","tier":"global","population":20,"generations":5,"seed":1,"warm_start":[[0],[3]]}"#,
        r#"{"kind":"memory_driven","tier":"matrix"}"#,
        r#"{"kind":"surrogate","tier":"module","initial":20,"iterations":8,"batch":10,"seed":1}"#,
        r#"{"kind":"surrogate","tier":"matrix","initial":20,"iterations":8,"batch":10,"seed":1,"prune":2.0,"sensitivity_sequences":8}"#,
        r#"{"kind":"beam","tier":"matrix","width":3}"#,
        r#"{"kind":"beam","tier":"block","width":3,"gate_sequences":8,"gate_loss":0.1}"#,
        r#"{"kind":"haq","tier":"matrix","episodes":600,"seed":1}"#,
        r#"{"kind":"haq","tier":"matrix","episodes":600,"parallel":8,"hidden":300,"seed":1}"#,
        r#"{"kind":"external"}"#,
    ];

    #[test]
    fn a_strategy_keeps_its_canonical_text() {
        for text in CANONICAL {
            let spec: StrategySpec = serde_json::from_str(text).unwrap();
            let strategy = AnyStrategy::parse(&spec).unwrap();
            assert_eq!(serde_json::to_string(&strategy.spec()).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_strategy_is_refused_with_what_there_is() {
        let refused =
            |text: &str| AnyStrategy::parse(&serde_json::from_str(text).unwrap()).unwrap_err().to_string();
        let words = "unknown variant `x`, expected one of `qslm`, `grid`, `random`, `ranked`, `list`, `allocate`, `evolve`, \
             `memory_driven`, `surrogate`, `beam`, `haq`, `external`";
        assert_eq!(refused(r#"{"kind":"x"}"#), words);
        let words = "unknown field `teir`, expected `tier`";
        assert_eq!(refused(r#"{"kind":"grid","teir":"block"}"#), words);
    }
}
