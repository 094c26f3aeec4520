//! SpikeGPT, exactly as docs/model.md (The network) states it; float and quantized are the same code.
//!
//! A quantized matrix is dequantized once when the model is built, or multiplied as integers (see [`Backend`]);
//! activations and membranes are rounded as they come. Buffers are `[time, channel]` for one sequence at a time; the batch is the caller's loop,
//! which keeps every result independent of what it was batched with.

mod block;
mod hook;
mod linear;
mod shared;
mod state;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::hash::ContentHash;
use qslm_common::network::{Network, populations_of};
use qslm_common::scheme::{Integer, Scheme};

use crate::backend::{Library, NotBuiltIn, library};
use crate::checkpoint::{Checkpoint, Codes};
use crate::kernels::loss::{self, Loss};
use crate::kernels::norm::layer_norm;
use crate::quant::{fake_quantize, quantize};
use block::Block;
use linear::{Linear, Matrix};
use shared::{Border, MatrixKey};

pub use hook::{Hook, Unwatched};
pub use shared::{Reuse, Shared};
pub use state::State;

/// A network ready to run.
#[derive(Debug)]
pub struct SpikeGpt {
    network: Network,
    /// What decides the residual stream that enters each block, and that which leaves the last.
    prefixes: Vec<ContentHash>,
    /// `[vocabulary, channel]`; 0 and 1 only if the embedding is binary.
    embedding: Arc<Vec<f32>>,
    ln0: Norm,
    blocks: Vec<Block>,
    ln_out: Norm,
    head: Linear,
}

/// Why there is no such model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotBuild {
    /// The candidate is not one of the network.
    #[error(transparent)]
    Candidate(#[from] InvalidCandidate),
    /// The program lacks the backend.
    #[error(transparent)]
    Backend(#[from] NotBuiltIn),
}

/// Scale and shift of a layer norm, `[channel]` each.
#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Where a model's values come from.
enum WeightSource<'a> {
    /// A checkpoint that other models are built from too.
    Shared(&'a Checkpoint),
    /// A checkpoint that is used up, so that the values are not there twice.
    UsedUp(RefCell<Checkpoint>),
}

impl WeightSource<'_> {
    /// Looks at the codes of a matrix, if the checkpoint stores such.
    fn codes<T>(&self, unit: &str, look: impl FnOnce(&Codes) -> T) -> Option<T> {
        match self {
            Self::Shared(checkpoint) => checkpoint.codes(unit).map(look),
            Self::UsedUp(checkpoint) => checkpoint.borrow().codes(unit).map(look),
        }
    }
}

/// Builds the parts of a model from a checkpoint under a candidate's schemes.
struct Builder<'a> {
    source: WeightSource<'a>,
    network: Network,
    candidate: &'a Candidate,
    library: Library,
    /// Where matrices are kept for other candidates, and the name of checkpoint and backend there.
    shared: Option<(&'a Shared, ContentHash)>,
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
        Self::build(WeightSource::Shared(checkpoint), *checkpoint.network(), candidate, backend, None)
    }

    /// As [`SpikeGpt::new`], with matrices that `shared` has, or keeps for other candidates. `of` names checkpoint and
    /// backend.
    ///
    /// # Errors
    /// [`CannotBuild`] if the candidate is not one of this network, or the program lacks the backend.
    pub fn sharing(
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        backend: Backend,
        shared: &Shared,
        of: ContentHash,
    ) -> Result<Self, CannotBuild> {
        let network = *checkpoint.network();
        Self::build(WeightSource::Shared(checkpoint), network, candidate, backend, Some((shared, of)))
    }

    /// As [`SpikeGpt::new`], but uses the checkpoint up, which halves the peak of memory.
    ///
    /// # Errors
    /// [`CannotBuild`] if the candidate is not one of this network, or the program lacks the backend.
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        candidate: &Candidate,
        backend: Backend,
    ) -> Result<Self, CannotBuild> {
        let network = *checkpoint.network();
        Self::build(WeightSource::UsedUp(RefCell::new(checkpoint)), network, candidate, backend, None)
    }

    fn build(
        source: WeightSource<'_>,
        network: Network,
        candidate: &Candidate,
        backend: Backend,
        shared: Option<(&Shared, ContentHash)>,
    ) -> Result<Self, CannotBuild> {
        candidate.validate(&network)?;
        let builder = Builder { source, network, candidate, library: library(backend)?, shared };
        Ok(Self {
            network,
            prefixes: shared::prefixes(&network, candidate),
            embedding: builder.embedding(),
            ln0: builder.norm("blocks.0.ln0"),
            blocks: (0..network.blocks).map(|index| Block::new(&builder, index)).collect(),
            ln_out: builder.norm("ln_out"),
            head: builder.linear("head.weight"),
        })
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

    /// As [`SpikeGpt::features`], with somebody looking on.
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

    /// As [`SpikeGpt::features`] of the whole sequence with this index of the data that `of` names, beginning at the last
    /// border that another candidate left in `shared`, and leaving those that come after.
    pub(crate) fn features_sharing(
        &self,
        tokens: &[u32],
        spikes: &mut [u64],
        shared: &Shared,
        of: ContentHash,
        sequence: usize,
    ) -> Vec<f32> {
        let at = |border: usize| (of, self.prefixes[border], sequence);
        // The first border is cheaper to compute than to keep.
        let found =
            (1..=self.blocks.len()).rev().find_map(|border| Some((border, shared.find(&at(border))?)));
        let (from, mut x) = match found {
            Some((border, kept)) => {
                spikes[..kept.spikes.len()].copy_from_slice(&kept.spikes);
                (border, kept.residual.clone())
            }
            None => (0, self.embed(tokens)),
        };
        let mut state = self.start();
        for index in from..self.blocks.len() {
            self.pass_block(index, &mut x, &mut state, spikes, &mut Unwatched);
            let border =
                Border { residual: x.clone(), spikes: spikes[..populations_of(index + 1)[0]].to_vec() };
            shared.keep(at(index + 1), border);
        }
        let block = self.network.macs_per_block();
        let head = u64::from(self.network.channels) * u64::from(self.network.outputs);
        let (computed, tokens) = ((self.blocks.len() - from) as u64, tokens.len() as u64);
        shared.note(tokens * (computed * block + head), tokens * from as u64 * block);
        self.ln_out.apply(&x)
    }

    /// Takes the residual stream `x` through a block, and adds the spikes of its two populations.
    fn pass_block(
        &self,
        index: usize,
        x: &mut [f32],
        state: &mut State,
        spikes: &mut [u64],
        hook: &mut dyn Hook,
    ) {
        let [lif1, lif2] = self.blocks[index].forward(x, &mut state.blocks[index], hook);
        let [first, second] = populations_of(index);
        spikes[first] += lif1;
        spikes[second] += lif2;
    }

    /// What enters the first block, `[time, channel]`.
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

    /// The loss of every `target` under the logits of its row of `features`, `[targets, channel]`, in nats. No row of
    /// logits is there as a whole if the vocabulary is large.
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

    /// `LN_out(x)` of any residual stream, `[rows, channel]`: what the head would see if the network ended there.
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

impl Builder<'_> {
    /// The values of a one-dimensional parameter as the candidate stores it: a row of its own.
    fn vector(&self, name: &str) -> Vec<f32> {
        let columns = self.network.channels as usize;
        fake_quantize(self.values(name), columns, self.candidate.vectors(), name)
    }

    fn values(&self, name: &str) -> Cow<'_, [f32]> {
        match &self.source {
            WeightSource::Shared(checkpoint) => checkpoint.tensor(name),
            WeightSource::UsedUp(checkpoint) => checkpoint.borrow_mut().take(name).into(),
        }
    }

    fn norm(&self, name: &str) -> Norm {
        Norm { weight: self.vector(&format!("{name}.weight")), bias: self.vector(&format!("{name}.bias")) }
    }

    /// The values of a unit as its scheme stores them.
    fn weights(&self, unit: &str, columns: usize) -> Vec<f32> {
        fake_quantize(self.values(unit), columns, self.candidate.scheme(unit), unit)
    }

    fn linear(&self, unit: &str) -> Linear {
        let make = || self.matrix(unit);
        let matrix = match self.shared {
            Some((shared, of)) => shared.linear(self.key(of, unit), make),
            None => make(),
        };
        Linear::new(unit, matrix, self.candidate.activation(unit))
    }

    fn matrix(&self, unit: &str) -> Matrix {
        let (rows, columns) = self.network.shape_of(unit);
        let Some(scheme) = self.multiplied_scheme(unit) else {
            return Matrix::new(self.weights(unit, columns), columns, &self.library);
        };
        let stored = match self.candidate.scheme(unit) {
            Scheme::Float => self.source.codes(unit, |codes| Matrix::of_codes(&codes.quantized, rows)),
            _ => None,
        };
        stored.unwrap_or_else(|| Matrix::of_codes(&quantize(&self.values(unit), columns, scheme, unit), rows))
    }

    /// The scheme of the integers that a unit is multiplied as, if it is: that of the candidate, or, where that leaves it as
    /// it is, of a packed checkpoint; with at most one scale for each output.
    fn multiplied_scheme(&self, unit: &str) -> Option<Integer> {
        let multiplies = match self.library {
            Library::Native => self.candidate.activation(unit).is_some(),
            Library::Integer => true,
            Library::Burn(_) => false,
        };
        let scheme = match self.candidate.scheme(unit) {
            Scheme::Integer(scheme) => Some(scheme),
            Scheme::Float => self.source.codes(unit, |codes| codes.scheme),
            _ => None,
        };
        let (rows, columns) = self.network.shape_of(unit);
        scheme.filter(|scheme| multiplies && [1, rows].contains(&scheme.granularity.scales(rows, columns)))
    }

    fn embedding(&self) -> Arc<Vec<f32>> {
        let make = || {
            let mut embedding = self.weights("emb.weight", self.network.channels as usize);
            if self.network.binary_embedding {
                embedding.iter_mut().for_each(|w| *w = if *w >= 0.0 { 1.0 } else { 0.0 });
            }
            Arc::new(embedding)
        };
        match self.shared {
            Some((shared, of)) => shared.embedding(self.key(of, "emb.weight"), make),
            None => make(),
        }
    }

    fn key(&self, of: ContentHash, unit: &str) -> MatrixKey {
        (of, unit.to_owned(), self.candidate.scheme(unit), self.multiplied_scheme(unit).is_some())
    }
}
