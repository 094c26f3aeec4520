//! SpikeGPT: the six numbers that fix a network, and all that follows from its being this architecture.
//!
//! A network is emb, blocks, head; a block is an att half (time mixing) and an ffn half (channel mixing), and
//! a LIF population of one neuron per channel follows each half, or stands before it, or is not there at all, as the
//! network's [`Dynamics`] say. Names are the checkpoint's. A second architecture would be a second file like this one.
//!
//! Source: the published training code; docs/model.md, The network.

use serde::{Deserialize, Serialize};

use super::dynamics::MOST_BLOCKS;
use super::{Dynamics, Module, Node, NodeKind, Parameter, Population, Unit, UnitPlace, Vector};

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
    /// True if only the sign of an embedding weight reaches the network: `x = step(emb[token])`.
    pub binary_embedding: bool,
    /// What it does between its linear layers; not written where it is what SpikeGPT does.
    #[serde(default, skip_serializing_if = "Dynamics::is_default")]
    pub dynamics: Dynamics,
}

/// Name of the embedding's unit.
pub const EMBEDDING: &str = "emb.weight";

/// Name of the head's unit.
pub const HEAD: &str = "head.weight";

/// The matrices of a block in the order of the network; their units are called `blocks.0.att.key.weight` and
/// so on.
pub const MATRICES: [&str; 7] =
    ["att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.value", "ffn.receptance"];

/// The halves of a block in the order of the forward pass, each followed by a population.
const HALVES: [Module; POPULATIONS_PER_BLOCK] = [Module::Att, Module::Ffn];

/// LIF populations of a block.
const POPULATIONS_PER_BLOCK: usize = 2;

/// Vectors of a block: two layer norms of two each, decay, first, and five of mixing.
const VECTORS_PER_BLOCK: u64 = 11;

/// Vectors outside blocks: the layer norm of the embedding, which block 0 holds, and the last one.
const VECTORS_OUTSIDE: u64 = 4;

/// Matrices of a block of D x D: four of the att, and the ffn's receptance.
const SQUARE_PER_BLOCK: u64 = 5;

/// Matrices of a block of D x H or H x D: the ffn's key and value.
const WIDE_PER_BLOCK: u64 = 2;

/// Name of a population's learned leak: `1 / (1 + softplus(log_tau))`.
pub const LOG_TAU: &str = "log_tau";

/// Name of a population's learned threshold: `softplus(log_threshold)`.
pub const LOG_THRESHOLD: &str = "log_threshold";

/// Numbers per channel that a block keeps from token to token beside its potentials: two token shifts, three
/// sums of the WKV recurrence.
const STATE_PER_CHANNEL: u64 = 5;

/// A number that no network may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} = {value}: a network has {bound}")]
pub struct InvalidNetwork {
    what: &'static str,
    value: String,
    bound: &'static str,
}

impl InvalidNetwork {
    pub(super) fn new(what: &'static str, value: &dyn std::fmt::Display, bound: &'static str) -> Self {
        Self { what, value: value.to_string(), bound }
    }
}

/// Bounds that keep every product of sizes far inside 64 bits, and a hostile peer's plan small.
const BOUNDS: [(&str, u32, &str); 5] = [
    ("vocabulary", 1 << 22, "1 to 4194304 tokens"),
    ("channels", 1 << 16, "1 to 65536 channels"),
    ("hidden", 1 << 18, "1 to 262144 hidden channels"),
    ("blocks", MOST_BLOCKS, "1 to 1024 blocks"),
    ("outputs", 1 << 22, "1 to 4194304 outputs"),
];

impl Network {
    /// Checks that every size is positive and sane, and that its dynamics are.
    ///
    /// # Errors
    /// The first number outside its bound.
    pub fn validate(&self) -> Result<(), InvalidNetwork> {
        let sizes = [self.vocabulary, self.channels, self.hidden, self.blocks, self.outputs];
        for ((what, most, bound), value) in BOUNDS.into_iter().zip(sizes) {
            if value == 0 || value > most {
                return Err(InvalidNetwork::new(what, &value, bound));
            }
        }
        self.dynamics.validate()
    }

    /// True if the head scores classes instead of tokens.
    pub fn is_classifier(&self) -> bool {
        self.outputs != self.vocabulary
    }

    /// Every weight matrix, in the order of the checkpoint: embedding, blocks, head.
    pub fn units(&self) -> Vec<Unit> {
        let mut units = vec![self.embedding()];
        for block in 0..self.blocks {
            HALVES.into_iter().for_each(|half| units.extend(self.half(block, half)));
        }
        units.push(self.head());
        units
    }

    /// The parts of the network and how they nest: network > {emb, block, head} > {att, ffn} > units.
    pub fn tree(&self) -> Node {
        let leaf = |name: &str, kind, units, population| Node {
            name: name.to_owned(),
            kind,
            children: Vec::new(),
            units,
            population,
        };
        let half = |block: u32, half: Module, index: Option<usize>| {
            let name = format!("blocks.{block}.{}", half.name());
            let population =
                |index| Population { index, name: population_name(index), neurons: self.channels };
            leaf(&name, NodeKind::Module(half), self.half(block, half), index.map(population))
        };
        let block = |block| Node {
            name: format!("blocks.{block}"),
            kind: NodeKind::Block(block),
            children: HALVES
                .into_iter()
                .enumerate()
                .map(|(at, module)| {
                    half(
                        block,
                        module,
                        self.populations_of(block as usize).map(|populations| populations[at]),
                    )
                })
                .collect(),
            units: Vec::new(),
            population: None,
        };
        let mut children = vec![leaf("emb", NodeKind::Embedding, vec![self.embedding()], None)];
        children.extend((0..self.blocks).map(block));
        children.push(leaf("head", NodeKind::Head, vec![self.head()], None));
        let name = "network".to_owned();
        Node { name, kind: NodeKind::Network, children, units: Vec::new(), population: None }
    }

    fn embedding(&self) -> Unit {
        let (rows, columns) = self.shape_of(EMBEDDING);
        Unit { name: EMBEDDING.to_owned(), rows, columns, place: UnitPlace::Embedding }
    }

    fn head(&self) -> Unit {
        let (rows, columns) = self.shape_of(HEAD);
        Unit { name: HEAD.to_owned(), rows, columns, place: UnitPlace::Head }
    }

    /// The matrices of a half of a block.
    fn half(&self, block: u32, half: Module) -> Vec<Unit> {
        let unit = |name: String| {
            let (rows, columns) = self.shape_of(&name);
            Unit { name, rows, columns, place: UnitPlace::Block(block, half) }
        };
        let of_half = MATRICES.into_iter().filter(|matrix| matrix.starts_with(half.name()));
        of_half.map(|matrix| unit(unit_name(block, matrix))).collect()
    }

    /// Every other parameter, in the order of the checkpoint.
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
            for population in self.populations_of(block as usize).into_iter().flatten().map(population_name) {
                let scalar = |name| Vector { name: format!("{population}.{name}"), shape: Vec::new() };
                vectors.extend(self.learned().map(scalar));
            }
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
        if self.is_spiking() { POPULATIONS_PER_BLOCK * self.blocks as usize } else { 0 }
    }

    /// Number of halves of blocks, each of which adds to the residual stream.
    pub fn halves(&self) -> usize {
        HALVES.len() * self.blocks as usize
    }

    /// True if it has populations that fire.
    pub fn is_spiking(&self) -> bool {
        self.dynamics.neuron.is_some()
    }

    /// Indices of the populations of a block, in the order of the forward pass; `None` if there are no spikes.
    pub fn populations_of(&self, block: usize) -> Option<[usize; POPULATIONS_PER_BLOCK]> {
        let first = POPULATIONS_PER_BLOCK * block;
        self.is_spiking().then(|| std::array::from_fn(|of_block| first + of_block))
    }

    /// Names of the scalars that each population learned.
    fn learned(&self) -> impl Iterator<Item = &'static str> {
        let learned = |name, of: Parameter| (of == Parameter::Learned).then_some(name);
        let neuron = self.dynamics.neuron.as_ref();
        let names =
            neuron.map(|neuron| [learned(LOG_TAU, neuron.leak), learned(LOG_THRESHOLD, neuron.threshold)]);
        names.into_iter().flatten().flatten()
    }

    /// True if rows of the head are the tokens of the vocabulary, not classes.
    pub fn predicts_tokens(&self) -> bool {
        self.outputs == self.vocabulary
    }

    /// True if rows of a unit are the tokens of the vocabulary.
    pub fn has_token_rows(&self, unit: &str) -> bool {
        match unit {
            EMBEDDING => true,
            HEAD => self.predicts_tokens(),
            _ => false,
        }
    }

    /// True if what enters a linear is a token shift: the first linears of a half of a block, which read spikes where
    /// populations stand before the halves.
    pub fn reads_token_shift(&self, unit: &Unit) -> bool {
        let is_second =
            ["att.output.weight", "ffn.value.weight"].iter().any(|name| unit.name.ends_with(name));
        unit.block().is_some() && !is_second
    }

    /// Rows and columns of a unit of this network, by its name.
    pub fn shape_of(&self, unit: &str) -> (usize, usize) {
        let [v, d, h, o] = [self.vocabulary, self.channels, self.hidden, self.outputs].map(|n| n as usize);
        match unit {
            EMBEDDING => (v, d),
            HEAD => (o, d),
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

    /// Number of one-dimensional parameters, of D elements each.
    pub fn vector_count(&self) -> u64 {
        VECTORS_PER_BLOCK * u64::from(self.blocks) + VECTORS_OUTSIDE
    }

    /// Number of scalars that its populations learned.
    pub fn scalar_count(&self) -> u64 {
        (self.learned().count() * self.population_count()) as u64
    }

    /// Number of parameters outside matrices.
    pub fn vector_parameters(&self) -> u64 {
        self.vector_count() * u64::from(self.channels) + self.scalar_count()
    }

    /// Number of all parameters.
    pub fn parameters(&self) -> u64 {
        self.matrix_parameters() + self.vector_parameters()
    }

    /// Multiply-accumulates of the linears of one block per token, which is the number of their weights.
    pub fn macs_per_block(&self) -> u64 {
        let [d, h] = [self.channels, self.hidden].map(u64::from);
        SQUARE_PER_BLOCK * d * d + WIDE_PER_BLOCK * d * h
    }

    /// Numbers that a sequence's state has beside the potentials of its populations.
    pub fn state_numbers(&self) -> u64 {
        STATE_PER_CHANNEL * u64::from(self.channels) * u64::from(self.blocks)
    }

    /// Multiply-accumulates of all linears per token. The embedding is a look-up and does none.
    pub fn macs_per_token(&self) -> u64 {
        self.units().iter().filter(|unit| unit.is_linear()).map(Unit::weights).sum()
    }
}

/// Name of the population at `index` of [`Network::populations`]: the block's first after the att, its second
/// after the ffn.
pub fn population_name(index: usize) -> String {
    let (block, of_block) = (index / POPULATIONS_PER_BLOCK, index % POPULATIONS_PER_BLOCK);
    format!("blocks.{block}.lif{}", of_block + 1)
}

/// Names of the units of a block, in the order of [`MATRICES`].
pub fn block_units(block: u32) -> [String; MATRICES.len()] {
    MATRICES.map(|matrix| unit_name(block, matrix))
}

/// Short name of a unit, without what all names share: `3.att.key` of `blocks.3.att.key.weight`.
pub fn short_name(unit: &str) -> &str {
    unit.trim_start_matches("blocks.").trim_end_matches(".weight")
}

fn unit_name(block: u32, matrix: &str) -> String {
    format!("blocks.{block}.{matrix}.weight")
}

impl Module {
    /// Name in the checkpoint.
    fn name(self) -> &'static str {
        match self {
            Self::Att => "att",
            Self::Ffn => "ffn",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Family;
    use super::*;

    /// The published "216M" model.
    pub(crate) const PUBLISHED: Network = Network {
        vocabulary: 50_277,
        channels: 768,
        hidden: 4 * 768,
        blocks: 18,
        outputs: 50_277,
        binary_embedding: true,
        dynamics: Dynamics::SPIKEGPT,
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
        let learned = Network { dynamics: Family::SpikeRuGpt.member().dynamics, ..classifier };
        let silent = Network { dynamics: Dynamics::NO_SPIKES, ..classifier };
        for network in [PUBLISHED, classifier, learned, silent] {
            let units = network.units();
            assert_eq!(network.matrix_parameters(), units.iter().map(Unit::weights).sum::<u64>());
            assert!(units.iter().all(|unit| network.shape_of(&unit.name) == (unit.rows, unit.columns)));
            let vectors = network.vectors();
            assert_eq!(network.vector_count() + network.scalar_count(), vectors.len() as u64);
            let elements = vectors.iter().map(|vector| vector.elements() as u64);
            assert_eq!(network.vector_parameters(), elements.sum::<u64>());
            let populations =
                network.tree().all_populations().map(|one| one.name.clone()).collect::<Vec<_>>();
            assert_eq!(network.populations(), populations);
        }
    }

    #[test]
    fn the_tree_holds_every_unit_and_population_once_at_every_depth() {
        let tree = PUBLISHED.tree();
        for depth in 0..4 {
            let nodes = tree.at_depth(depth);
            let units: Vec<_> = nodes.iter().flat_map(|node| node.all_units()).cloned().collect();
            assert_eq!(units, PUBLISHED.units());
            let populations = nodes.iter().flat_map(|node| node.all_populations());
            let (indices, names): (Vec<_>, Vec<_>) =
                populations.map(|population| (population.index, population.name.clone())).unzip();
            assert_eq!(indices, (0..PUBLISHED.population_count()).collect::<Vec<_>>());
            assert_eq!(names, PUBLISHED.populations());
        }
        let names =
            |depth| tree.at_depth(depth).into_iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(0), ["network"]);
        assert_eq!(names(1)[..2], ["emb", "blocks.0"]);
        assert_eq!(names(2)[..3], ["emb", "blocks.0.att", "blocks.0.ffn"]);
        assert_eq!(tree.leaves().len(), 38);
    }

    #[test]
    fn names_of_a_block_are_those_of_its_units() {
        let units = PUBLISHED.units();
        let of_block: Vec<_> = units.iter().filter(|unit| unit.block() == Some(3)).collect();
        assert!(of_block.iter().map(|unit| &unit.name).eq(&block_units(3)));
        assert_eq!(short_name(&of_block[0].name), "3.att.key");
        let populations = PUBLISHED.populations_of(3).unwrap().map(population_name);
        assert_eq!(populations, ["blocks.3.lif1", "blocks.3.lif2"]);
    }

    #[test]
    fn only_what_differs_from_spikegpt_is_written() {
        let text = serde_json::to_string(&PUBLISHED).unwrap();
        assert!(text.ends_with(r#""binary_embedding":true}"#), "{text}");
        let silent = Network { dynamics: Dynamics::NO_SPIKES, ..PUBLISHED };
        let text = serde_json::to_string(&silent).unwrap();
        assert!(text.ends_with(r#""dynamics":{"neuron":null}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), silent);
        assert_eq!((silent.populations(), silent.population_count()), (Vec::new(), 0));
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
