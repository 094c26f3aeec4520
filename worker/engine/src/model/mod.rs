//! SpikeGPT, exactly as docs/model.md (The network) states it; float and quantized are the same code.
//!
//! A quantized matrix is dequantized once when the model is built, or multiplied as integers (see
//! [`Backend`]); activations and membranes are rounded as they come. Buffers are `[time, channel]` for one
//! sequence at a time; the batch is the caller's loop, which keeps every result independent of the others in
//! its batch. `builder` makes a network from a checkpoint and a candidate, `block` and `linear` run it,
//! `cache` has the prefix cache and the weight cache, which candidates of a search share, `live` what is in use anyhow.

mod block;
mod builder;
mod cache;
mod hook;
mod linear;
mod live;
mod state;

use std::cell::RefCell;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::hash::ContentHash;
use qslm_common::network::Network;

use crate::checkpoint::calibrated::CodeSource;
use crate::checkpoint::{Checkpoint, Stored};
use crate::kernels::loss::{self, Loss};
use crate::kernels::norm::layer_norm;
use block::Block;
use builder::{Builder, Sources, WeightSource};
use cache::{Prefix, PrefixKey};
use linear::Linear;

pub use builder::CannotBuild;
pub use cache::{Caches, Reuse};
pub use hook::{Hook, Unwatched};
pub use state::State;

/// A network of the family, ready to run.
#[derive(Debug)]
pub struct SpikeGpt {
    network: Network,
    /// Names, in the prefix cache, of the residual stream that enters each block, and of that which leaves
    /// the last.
    prefix_keys: Vec<ContentHash>,
    /// `[vocabulary, channel]`; 0 and 1 only if the embedding is binary.
    embedding: Arc<Vec<f32>>,
    ln0: Norm,
    blocks: Vec<Block>,
    ln_out: Norm,
    head: Linear,
}

/// Scale and shift of a layer norm, `[channel]` each.
#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl SpikeGpt {
    /// Builds the network of `checkpoint` with units, activations and membranes kept as `candidate` says.
    ///
    /// # Errors
    /// [`CannotBuild`] if the candidate is not one of this network, or the program lacks the backend.
    pub fn new(
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        backend: Backend,
    ) -> Result<Self, CannotBuild> {
        Self::with_codes(checkpoint, candidate, &(), backend)
    }

    /// As [`SpikeGpt::new`], with calibrated codes from `codes`.
    ///
    /// # Errors
    /// [`CannotBuild`], also if codes cannot be had.
    pub fn with_codes(
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        codes: &dyn CodeSource,
        backend: Backend,
    ) -> Result<Self, CannotBuild> {
        let (weights, network) = (WeightSource::Shared(checkpoint), *checkpoint.network());
        let source = Sources { weights, codes };
        Self::assemble(&Builder::new(source, network, candidate, backend, None)?)
    }

    /// As [`SpikeGpt::with_codes`], with matrices from the weight cache, where they stand under `of`, the name of
    /// checkpoint and backend.
    ///
    /// # Errors
    /// [`CannotBuild`].
    pub fn cached(
        checkpoint: &Stored,
        candidate: &Candidate,
        codes: &dyn CodeSource,
        backend: Backend,
        (caches, of): (&Caches, ContentHash),
    ) -> Result<Self, CannotBuild> {
        let (weights, network) = (WeightSource::Stored(checkpoint), *checkpoint.network());
        let source = Sources { weights, codes };
        Self::assemble(&Builder::new(source, network, candidate, backend, Some((caches, of)))?)
    }

    /// Assembles the network of its parts.
    fn assemble(builder: &Builder<'_>) -> Result<Self, CannotBuild> {
        let blocks: Result<_, _> =
            (0..builder.network.blocks).map(|index| Block::new(builder, index)).collect();
        Ok(Self {
            network: builder.network,
            prefix_keys: cache::prefix_keys(&builder.network, builder.candidate),
            embedding: builder.embedding()?,
            ln0: builder.norm("blocks.0.ln0")?,
            blocks: blocks?,
            ln_out: builder.norm("ln_out")?,
            head: builder.linear("head.weight")?,
        })
    }

    /// As [`SpikeGpt::with_codes`], but uses the checkpoint up, which halves the peak of memory.
    ///
    /// # Errors
    /// [`CannotBuild`].
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        candidate: &Candidate,
        codes: &dyn CodeSource,
        backend: Backend,
    ) -> Result<Self, CannotBuild> {
        let network = *checkpoint.network();
        let source = Sources { weights: WeightSource::UsedUp(RefCell::new(checkpoint)), codes };
        Self::assemble(&Builder::new(source, network, candidate, backend, None)?)
    }

    /// The shape of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Feeds the next tokens of a sequence and returns `LN_out(x)`, `[time, channel]`.
    ///
    /// `state` carries the sequence on, so it may be fed in pieces cut anywhere. Spikes are added to
    /// `spikes`, one sum per population in the order of [`Network::populations`].
    ///
    /// # Panics
    /// If a token is not below the vocabulary: [`crate::task::Dataset`] holds no such token.
    pub fn features(&self, tokens: &[u32], state: &mut State, spikes: &mut [u64]) -> Vec<f32> {
        self.features_watched(tokens, state, spikes, &mut Unwatched)
    }

    /// As [`SpikeGpt::features`], with a hook.
    pub fn features_watched(
        &self,
        tokens: &[u32],
        state: &mut State,
        spikes: &mut [u64],
        hook: &mut dyn Hook,
    ) -> Vec<f32> {
        let mut x = self.embed(tokens);
        for index in 0..self.blocks.len() {
            hook.residual(index, &x);
            self.pass_block(index, &mut x, state, spikes, hook);
        }
        hook.residual(self.blocks.len(), &x);
        self.ln_out.apply(&x)
    }

    /// Feeds a sequence from its start as far as the block with this index, and no further. `hook` looks into that block
    /// alone.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn run_to_block(&self, index: usize, tokens: &[u32], hook: &mut dyn Hook) {
        let (mut x, mut state) = (self.embed(tokens), self.start());
        let mut spikes = vec![0; self.network.population_count()];
        for before in 0..index {
            self.pass_block(before, &mut x, &mut state, &mut spikes, &mut Unwatched);
        }
        self.pass_block(index, &mut x, &mut state, &mut spikes, hook);
    }

    /// As [`SpikeGpt::features`] of the whole sequence with this index of the data that `of` names, from the
    /// longest prefix in the cache on. The prefixes after it are left there.
    pub(crate) fn features_cached(
        &self,
        tokens: &[u32],
        spikes: &mut [u64],
        caches: &Caches,
        of: ContentHash,
        sequence: usize,
    ) -> Vec<f32> {
        let key = |blocks: usize| PrefixKey { of, prefix: self.prefix_keys[blocks], sequence };
        // The embedding alone is cheaper to compute than to keep.
        let hit =
            (1..=self.blocks.len()).rev().find_map(|blocks| Some((blocks, caches.prefix(&key(blocks))?)));
        let (from, mut x) = match hit {
            Some((blocks, prefix)) => {
                spikes[..prefix.spikes.len()].copy_from_slice(&prefix.spikes);
                (blocks, prefix.residual.clone())
            }
            None => (0, self.embed(tokens)),
        };
        let mut state = self.start();
        for index in from..self.blocks.len() {
            self.pass_block(index, &mut x, &mut state, spikes, &mut Unwatched);
            let fired = self.network.populations_of(index).map_or(0, |[_, last]| last + 1);
            let prefix = Prefix { residual: x.clone(), spikes: spikes[..fired].to_vec() };
            caches.insert_prefix(key(index + 1), prefix);
        }
        let block = self.network.macs_per_block();
        let head = u64::from(self.network.channels) * u64::from(self.network.outputs);
        let (computed, tokens) = ((self.blocks.len() - from) as u64, tokens.len() as u64);
        caches.count(tokens * (computed * block + head), tokens * from as u64 * block);
        self.ln_out.apply(&x)
    }

    /// Takes the residual stream `x` through a block, and adds the spikes of its populations.
    fn pass_block(
        &self,
        index: usize,
        x: &mut [f32],
        state: &mut State,
        spikes: &mut [u64],
        hook: &mut dyn Hook,
    ) {
        let fired = self.blocks[index].forward(x, &mut state.blocks[index], hook);
        for (population, fired) in self.network.populations_of(index).into_iter().flatten().zip(fired) {
            spikes[population] += fired;
        }
    }

    /// The residual stream that enters the first block, `[time, channel]`.
    fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let channels = self.network.channels as usize;
        let mut x = Vec::with_capacity(tokens.len() * channels);
        for token in tokens {
            let start = *token as usize * channels;
            x.extend_from_slice(&self.embedding[start..start + channels]);
        }
        self.ln0.apply(&x)
    }

    /// `Wh features`: `[rows, channel]` to `[rows, outputs]`.
    pub fn logits(&self, features: Vec<f32>) -> Vec<f32> {
        self.head.forward(features, &mut Unwatched)
    }

    /// The loss of every `target` under the logits of its row of `features`, `[targets, channel]`, in nats.
    /// No row of logits is there as a whole if the vocabulary is large.
    ///
    /// # Panics
    /// If there are not as many rows as targets, or a target is not an output of the head.
    pub fn losses(&self, features: Vec<f32>, targets: &[u32]) -> Vec<f64> {
        assert_eq!(features.len(), targets.len() * self.network.channels as usize);
        let mut losses: Vec<Loss> = targets.iter().map(|target| Loss::of(*target as usize)).collect();
        self.head.forward_in_pieces(features, loss::PIECE, |first, piece, logits| {
            for (loss, logits) in losses[first..].iter_mut().zip(logits.chunks_exact(piece.len())) {
                loss.add(logits);
            }
        });
        losses.iter().map(Loss::nats).collect()
    }

    /// `LN_out(x)` of any residual stream, `[rows, channel]`: what the head would see if the network ended
    /// there.
    pub fn read_out(&self, residual: &[f32]) -> Vec<f32> {
        self.ln_out.apply(residual)
    }

    /// The state at the start of a sequence.
    pub fn start(&self) -> State {
        State::start(&self.network)
    }
}

impl Norm {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        layer_norm(x, &self.weight, &self.bias, &mut out);
        out
    }
}
