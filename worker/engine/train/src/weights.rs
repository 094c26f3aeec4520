//! Weights of one step: parameters in the form that products and kernels read, packed anew whenever they change.

use std::borrow::Cow;

use qslm_common::network::{EMBEDDING, HEAD, MATRICES, Network, block_units};
use qslm_engine::kernels::lif::Neuron;
use qslm_engine::kernels::product::Packed;
use qslm_engine::kernels::step::step;
use qslm_engine::kernels::wkv;

use crate::parallel::for_each;
use crate::part::Part;
use crate::tensors::Tensors;

/// Source of parameters as they are computed with.
pub trait Source: Sync {
    /// The values of a tensor; `buffer` may be filled with them.
    fn values<'a>(&'a self, name: &str, buffer: &'a mut Vec<f32>) -> Cow<'a, [f32]>;
}

/// Passes that weights are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Forward alone: of a network that does not train.
    Forward,
    /// Forward and back.
    Both,
}

/// Parameters as they are.
impl Source for Tensors {
    fn values<'a>(&'a self, name: &str, _: &'a mut Vec<f32>) -> Cow<'a, [f32]> {
        Cow::Borrowed(self.get(name))
    }
}

/// The weights of a network, ready for a forward and a backward pass.
#[derive(Debug)]
pub struct Weights {
    network: Network,
    pub(crate) blocks: Vec<BlockWeights>,
    pub(crate) head: Linear,
    /// `[vocabulary, channel]`; 0 and 1 only if the embedding is binary.
    pub(crate) embedding: Vec<f32>,
    pub(crate) ln0: [Vec<f32>; 2],
    pub(crate) ln_out: [Vec<f32>; 2],
}

/// The weights of a block.
#[derive(Debug, Default)]
pub(crate) struct BlockWeights {
    /// In the order of [`MATRICES`]; see [`matrix`].
    pub(crate) linears: [Linear; MATRICES.len()],
    /// In the order of [`VECTORS`]; see [`vector`].
    pub(crate) vectors: [Vec<f32>; VECTORS.len()],
    /// `w = -exp(time_decay)`.
    pub(crate) decay: Vec<f32>,
    /// The neuron of its populations; `None` without spikes.
    pub(crate) neuron: Option<Neuron>,
}

/// A matrix for `y = W x` and for `dx = W^T dy`.
#[derive(Debug, Default)]
pub(crate) struct Linear {
    pub(crate) forward: Packed,
    pub(crate) transposed: Packed,
}

impl Linear {
    /// Number of weights.
    pub(crate) fn size(&self) -> usize {
        self.forward.inputs() * self.forward.outputs()
    }
}

/// Places of a block's matrices.
pub(crate) mod matrix {
    pub(crate) const KEY: usize = 0;
    pub(crate) const VALUE: usize = 1;
    pub(crate) const RECEPTANCE: usize = 2;
    pub(crate) const OUTPUT: usize = 3;
    pub(crate) const FFN_KEY: usize = 4;
    pub(crate) const FFN_VALUE: usize = 5;
    pub(crate) const FFN_RECEPTANCE: usize = 6;
}

/// Places of a block's vectors.
pub(crate) mod vector {
    pub(crate) const LN1_WEIGHT: usize = 0;
    pub(crate) const LN1_BIAS: usize = 1;
    pub(crate) const LN2_WEIGHT: usize = 2;
    pub(crate) const LN2_BIAS: usize = 3;
    pub(crate) const TIME_DECAY: usize = 4;
    pub(crate) const TIME_FIRST: usize = 5;
    pub(crate) const MIX_K: usize = 6;
    pub(crate) const MIX_V: usize = 7;
    pub(crate) const MIX_R: usize = 8;
    pub(crate) const FFN_MIX_K: usize = 9;
    pub(crate) const FFN_MIX_R: usize = 10;
}

/// Names of a block's vectors, without the block's.
pub(crate) const VECTORS: [&str; 11] = [
    "ln1.weight",
    "ln1.bias",
    "ln2.weight",
    "ln2.bias",
    "att.time_decay",
    "att.time_first",
    "att.time_mix_k",
    "att.time_mix_v",
    "att.time_mix_r",
    "ffn.time_mix_k",
    "ffn.time_mix_r",
];

/// Names of the vectors of a block, in the order of [`VECTORS`].
pub(crate) fn vector_names(block: usize) -> [String; VECTORS.len()] {
    VECTORS.map(|name| format!("blocks.{block}.{name}"))
}

/// Layer norms outside of blocks.
pub(crate) const FIRST_NORM: &str = "blocks.0.ln0";
pub(crate) const LAST_NORM: &str = "ln_out";

/// Names of weight and bias of a layer norm outside of blocks.
pub(crate) fn norm_names(norm: &str) -> [String; 2] {
    ["weight", "bias"].map(|part| format!("{norm}.{part}"))
}

impl Weights {
    /// Room for the weights of a network.
    ///
    /// # Panics
    /// If it is none that is trained: see [`qslm_common::network::Dynamics::trainable`].
    pub fn new(network: &Network) -> Self {
        let neuron = network.dynamics.neuron.as_ref().map(|neuron| {
            Neuron::fixed(neuron).expect("networks with learned neurons are not trained: see trainable")
        });
        let block = |_| BlockWeights { neuron, ..BlockWeights::default() };
        Self {
            network: *network,
            blocks: (0..network.blocks).map(block).collect(),
            head: Linear::default(),
            embedding: Vec::new(),
            ln0: Default::default(),
            ln_out: Default::default(),
        }
    }

    /// The shape of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Takes over all parameters, on as many threads as there are buffers.
    ///
    /// # Panics
    /// If the source has more or fewer values than a tensor.
    pub fn load(&mut self, source: &impl Source, buffers: &mut [Vec<f32>]) {
        self.load_part(&Part::whole(&self.network), Passes::Both, source, buffers);
    }

    /// Takes over the parameters of a part, and leaves the others as they are.
    ///
    /// # Panics
    /// As [`Weights::load`].
    pub fn load_part(&mut self, part: &Part, passes: Passes, source: &impl Source, buffers: &mut [Vec<f32>]) {
        let network = self.network;
        let names = (0..network.blocks).flat_map(block_units).chain([HEAD.to_owned()]);
        let linears = self.blocks.iter_mut().flat_map(|block| &mut block.linears).chain([&mut self.head]);
        // The largest first, so that no thread is left with it at the end.
        let mut jobs: Vec<_> = names.zip(linears).filter(|(name, _)| part.contains(name)).collect();
        jobs.sort_by_key(|(name, _)| {
            let (rows, columns) = network.shape_of(name);
            std::cmp::Reverse(rows * columns)
        });
        for_each(buffers, jobs, |buffer, (name, linear)| {
            let (rows, columns) = network.shape_of(&name);
            let values = source.values(&name, buffer);
            assert_eq!(values.len(), rows * columns, "{name}");
            linear.forward.pack(&values, columns);
            if passes == Passes::Both {
                linear.transposed.pack_transposed(&values, columns);
            }
        });
        let mut buffer = Vec::new();
        let mut vector = |name: &str, to: &mut Vec<f32>| {
            let values = source.values(name, &mut buffer);
            assert_eq!(values.len(), network.channels as usize, "{name}");
            to.clear();
            to.extend_from_slice(&values);
        };
        let blocks = part.blocks.start as usize..part.blocks.end as usize;
        for (index, block) in self.blocks.iter_mut().enumerate().filter(|(index, _)| blocks.contains(index)) {
            vector_names(index).iter().zip(&mut block.vectors).for_each(|(name, to)| vector(name, to));
            block.decay = block.vectors[vector::TIME_DECAY].iter().copied().map(wkv::decay).collect();
        }
        for (norm, to) in [(FIRST_NORM, &mut self.ln0), (LAST_NORM, &mut self.ln_out)] {
            if !part.contains(norm) {
                continue;
            }
            norm_names(norm).iter().zip(to).for_each(|(name, to)| vector(name, to));
        }
        // A binary embedding never changes.
        if part.embedding && (self.embedding.is_empty() || !network.binary_embedding) {
            self.embedding = source.values(EMBEDDING, &mut buffer).into_owned();
            if network.binary_embedding {
                step(&mut self.embedding);
            }
        }
    }
}
