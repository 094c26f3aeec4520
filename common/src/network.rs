//! The shape of a SpikeGPT network: its sizes, its units, and how they nest.
//!
//! The hierarchy is network > {emb, block i, head} > {att, ffn} > matrix. Everything is derived from
//! six numbers, so that a coordinator can plan a search without reading a checkpoint.

use serde::{Deserialize, Serialize};

/// The six numbers that fix every tensor of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Rows of the embedding: V.
    pub vocabulary: u32,
    /// Channels of the residual stream: D.
    pub channels: u32,
    /// Channels inside the ffn, 4 D in every published model.
    pub hidden: u32,
    /// Number of blocks: L.
    pub blocks: u32,
    /// Rows of `head.weight`: V for a language model, the number of classes for a classifier.
    pub outputs: u32,
    /// Whether only the sign of an embedding weight reaches the network: `x = step(emb[token])`.
    pub binary_embedding: bool,
}

/// The name of the embedding's unit.
pub const EMBEDDING: &str = "emb.weight";

/// The matrices of a block in the order of the network; their units are called `blocks.0.att.key.weight` and so on.
pub const MATRICES: [&str; 7] =
    ["att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.value", "ffn.receptance"];

/// One weight matrix, by its checkpoint name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The checkpoint's key, such as `blocks.3.ffn.key.weight`.
    pub name: String,
    /// Output channels (for the embedding: tokens).
    pub rows: usize,
    /// Input channels.
    pub columns: usize,
    /// Where it stands in the hierarchy.
    pub place: UnitPlace,
}

/// The place of a unit in the hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitPlace {
    /// `emb.weight`.
    Embedding,
    /// A matrix of a block.
    Block(u32, Module),
    /// `head.weight`.
    Head,
}

/// The two halves of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// Time mixing.
    Att,
    /// Channel mixing.
    Ffn,
}

/// A one-dimensional parameter, which always stays in float, or a `[1, 1, D]` mixing vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vector {
    /// The checkpoint's key, such as `blocks.0.ln0.bias`.
    pub name: String,
    /// `[D]` or `[1, 1, D]`.
    pub shape: Vec<usize>,
}

/// A size that no network may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} = {value}: a network has {bound}")]
pub struct InvalidNetwork {
    what: &'static str,
    value: u32,
    bound: &'static str,
}

/// Bounds that keep every product of sizes far inside 64 bits, and a hostile peer's plan small.
const BOUNDS: [(&str, u32, &str); 5] = [
    ("vocabulary", 1 << 22, "1 to 4194304 tokens"),
    ("channels", 1 << 16, "1 to 65536 channels"),
    ("hidden", 1 << 18, "1 to 262144 hidden channels"),
    ("blocks", 1 << 10, "1 to 1024 blocks"),
    ("outputs", 1 << 22, "1 to 4194304 outputs"),
];

impl Network {
    /// Checks that every size is positive and sane.
    ///
    /// # Errors
    /// The first size outside its bound.
    pub fn validate(&self) -> Result<(), InvalidNetwork> {
        let sizes = [self.vocabulary, self.channels, self.hidden, self.blocks, self.outputs];
        for ((what, most, bound), value) in BOUNDS.into_iter().zip(sizes) {
            if value == 0 || value > most {
                return Err(InvalidNetwork { what, value, bound });
            }
        }
        Ok(())
    }

    /// Whether the head scores classes instead of tokens.
    pub fn is_classifier(&self) -> bool {
        self.outputs != self.vocabulary
    }

    /// Every weight matrix, in the order of the checkpoint: embedding, blocks, head.
    pub fn units(&self) -> Vec<Unit> {
        let (v, d, h) = (self.vocabulary as usize, self.channels as usize, self.hidden as usize);
        let unit = |name: String, rows, columns, place| Unit { name, rows, columns, place };
        let mut units = vec![unit(EMBEDDING.to_owned(), v, d, UnitPlace::Embedding)];
        for block in 0..self.blocks {
            for part in ["key", "value", "receptance", "output"] {
                let name = format!("blocks.{block}.att.{part}.weight");
                units.push(unit(name, d, d, UnitPlace::Block(block, Module::Att)));
            }
            for (part, rows, columns) in [("key", h, d), ("value", d, h), ("receptance", d, d)] {
                let name = format!("blocks.{block}.ffn.{part}.weight");
                units.push(unit(name, rows, columns, UnitPlace::Block(block, Module::Ffn)));
            }
        }
        units.push(unit("head.weight".to_owned(), self.outputs as usize, d, UnitPlace::Head));
        units
    }

    /// Every other parameter, in the order of the checkpoint. All have D elements.
    pub fn vectors(&self) -> Vec<Vector> {
        let d = self.channels as usize;
        let flat = |name: String| Vector { name, shape: vec![d] };
        let mix = |name: String| Vector { name, shape: vec![1, 1, d] };
        let norm =
            |prefix: String| [flat(format!("{prefix}.weight")), flat(format!("{prefix}.bias"))].into_iter();
        let mut vectors = Vec::new();
        for block in 0..self.blocks {
            if block == 0 {
                vectors.extend(norm("blocks.0.ln0".to_owned()));
            }
            vectors.extend(norm(format!("blocks.{block}.ln1")));
            vectors.extend(norm(format!("blocks.{block}.ln2")));
            vectors
                .extend(["time_decay", "time_first"].map(|name| flat(format!("blocks.{block}.att.{name}"))));
            vectors.extend(["k", "v", "r"].map(|name| mix(format!("blocks.{block}.att.time_mix_{name}"))));
            vectors.extend(["k", "r"].map(|name| mix(format!("blocks.{block}.ffn.time_mix_{name}"))));
        }
        vectors.extend(norm("ln_out".to_owned()));
        vectors
    }

    /// The names of the LIF populations, in the order in which spikes are counted. Each has D neurons.
    pub fn populations(&self) -> Vec<String> {
        (0..self.population_count()).map(population_name).collect()
    }

    /// Number of LIF populations.
    pub fn population_count(&self) -> usize {
        2 * self.blocks as usize
    }

    /// Rows and columns of a unit of this network, by its name.
    pub fn shape_of(&self, unit: &str) -> (usize, usize) {
        let [v, d, h, o] = [self.vocabulary, self.channels, self.hidden, self.outputs].map(|n| n as usize);
        match unit {
            EMBEDDING => (v, d),
            "head.weight" => (o, d),
            _ if unit.ends_with("ffn.key.weight") => (h, d),
            _ if unit.ends_with("ffn.value.weight") => (d, h),
            _ => (d, d),
        }
    }

    /// Number of weights in matrices.
    pub fn matrix_parameters(&self) -> u64 {
        let [v, d, o, l] = [self.vocabulary, self.channels, self.outputs, self.blocks].map(u64::from);
        (v + o) * d + l * self.macs_per_block()
    }

    /// Number of one-dimensional parameters: 11 per block, and two layer norms more.
    pub fn vector_count(&self) -> u64 {
        11 * u64::from(self.blocks) + 4
    }

    /// Number of parameters outside matrices.
    pub fn vector_parameters(&self) -> u64 {
        self.vector_count() * u64::from(self.channels)
    }

    /// Number of all parameters.
    pub fn parameters(&self) -> u64 {
        self.matrix_parameters() + self.vector_parameters()
    }

    /// Multiply-accumulates of the linears of one block per token, which is the number of their weights.
    pub fn macs_per_block(&self) -> u64 {
        let [d, h] = [self.channels, self.hidden].map(u64::from);
        5 * d * d + 2 * d * h
    }

    /// Multiply-accumulates of all linears per token. The embedding is a look-up and does none.
    pub fn macs_per_token(&self) -> u64 {
        self.units().iter().filter(|unit| unit.is_linear()).map(Unit::weights).sum()
    }
}

/// The name of the population at `index` of [`Network::populations`]: the block's first after the att, its second
/// after the ffn.
pub fn population_name(index: usize) -> String {
    format!("blocks.{}.lif{}", index / 2, index % 2 + 1)
}

impl Unit {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.rows as u64 * self.columns as u64
    }

    /// Whether inputs are multiplied by the matrix. The embedding is a look-up.
    pub fn is_linear(&self) -> bool {
        self.place != UnitPlace::Embedding
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The published "216M" model.
    pub(crate) const PUBLISHED: Network = Network {
        vocabulary: 50_277,
        channels: 768,
        hidden: 4 * 768,
        blocks: 18,
        outputs: 50_277,
        binary_embedding: true,
    };

    #[test]
    fn the_published_model_has_the_published_numbers() {
        assert_eq!(PUBLISHED.parameters(), 215_399_424);
        assert_eq!(PUBLISHED.units().len(), 128);
        assert_eq!(PUBLISHED.vector_parameters(), 155_136);
        assert_eq!(PUBLISHED.macs_per_token(), 176_631_552);
    }

    #[test]
    fn shares_of_the_published_model_match_the_paper() {
        let share = |place: fn(&UnitPlace) -> bool| {
            let units = PUBLISHED.units();
            let weights: u64 = units.iter().filter(|unit| place(&unit.place)).map(Unit::weights).sum();
            (weights as f64 / PUBLISHED.parameters() as f64 * 1e4).round() / 1e2
        };
        assert_eq!(share(|place| *place == UnitPlace::Embedding), 17.93);
        assert_eq!(share(|place| *place == UnitPlace::Head), 17.93);
        assert_eq!(share(|place| matches!(place, UnitPlace::Block(_, Module::Att))), 19.72);
        assert_eq!(share(|place| matches!(place, UnitPlace::Block(_, Module::Ffn))), 44.36);
    }

    #[test]
    fn what_is_counted_is_what_is_listed() {
        let classifier =
            Network { vocabulary: 10, channels: 3, hidden: 7, blocks: 2, outputs: 5, ..PUBLISHED };
        for network in [PUBLISHED, classifier] {
            let units = network.units();
            assert_eq!(network.matrix_parameters(), units.iter().map(Unit::weights).sum::<u64>());
            assert!(units.iter().all(|unit| network.shape_of(&unit.name) == (unit.rows, unit.columns)));
            let vectors = network.vectors();
            assert_eq!(network.vector_count(), vectors.len() as u64);
            let elements = vectors.iter().map(|vector| vector.shape.iter().product::<usize>() as u64);
            assert_eq!(network.vector_parameters(), elements.sum::<u64>());
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = PUBLISHED.units().into_iter().map(|unit| unit.name).collect();
        names.extend(PUBLISHED.vectors().into_iter().map(|vector| vector.name));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_absurd_size_is_named_with_its_bound() {
        let absurd = Network { blocks: 0, ..PUBLISHED };
        assert_eq!(absurd.validate().unwrap_err().to_string(), "blocks = 0: a network has 1 to 1024 blocks");
        let absurd = Network { vocabulary: u32::MAX, ..PUBLISHED };
        assert!(absurd.validate().unwrap_err().to_string().starts_with("vocabulary = 4294967295"));
        assert_eq!(PUBLISHED.validate(), Ok(()));
    }
}
