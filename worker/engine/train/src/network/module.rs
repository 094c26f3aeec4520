//! The backward pass of a part of the network: how far its blocks are from the float network's, and gradients of that.
//!
//! The loss is before every spike, because weights cannot repair how spikes flip: what a half of a block puts into its
//! population, against what the float network puts there. The residual stream runs through the part's own blocks; on the
//! way back, through the surrogates of their spikes, gradients of these differences join. A head has the loss of training
//! end to end, on the features of that stream. Source: docs/model.md, Training of parts.

use qslm_engine::kernels::norm::layer_norm;

use super::{BatchLoss, Objective, Window, WindowTape, Workspace};
use crate::block::{Injected, half};
use crate::clip::sum_of_squares;
use crate::gradients::Gradients;
use crate::parallel::{for_each, split_rows};
use crate::part::Part;
use crate::weights::{FIRST_NORM, LAST_NORM, Weights};

/// What surrounds a part under training: where its inputs come from and what it is to come near.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The float network, as far as the part reaches.
    pub float: &'a Weights,
    /// The quantized network in front of the part; not looked at if `share` is 1 or nothing is in front.
    pub before: &'a Weights,
    /// Share of the float network's residual stream in what enters the part, 0 to 1; the rest is that of `before`.
    pub share: f32,
    /// The loss of the head, if the part has it.
    pub objective: Objective<'a>,
}

/// Mean losses of a part on a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct PartLoss {
    /// Squared errors in front of the populations of its blocks, in their order, att before ffn: each a share of the mean
    /// square of what the float network has there.
    pub errors: Vec<f64>,
    /// Losses of the head; `None` without one.
    pub head: Option<BatchLoss>,
    /// What training lowers: the mean of the errors, and the head's loss.
    pub objective: f64,
}

impl Workspace {
    /// Loss of a part on a batch; its gradient goes to `gradients`: the head's first, then those of the blocks' matrices
    /// from the last block to the first, and those of vectors.
    ///
    /// # Panics
    /// If a token is not below the vocabulary, or tensors do not fit the network.
    pub fn backward_part(
        &mut self,
        part: &Part,
        weights: &Weights,
        around: Surroundings<'_>,
        batch: &[Window<'_>],
        gradients: &mut impl Gradients,
    ) -> PartLoss {
        let channels = self.network.channels as usize;
        let blocks = part.blocks.start as usize..part.blocks.end as usize;
        let tokens: usize = batch.iter().map(|window| window.tokens.len()).sum();
        self.windows.resize_with(batch.len(), WindowTape::default);
        self.d.clear();
        self.d.resize(tokens * channels, 0.0);
        self.enter(part, weights, around, batch);
        self.follow(part, around);
        let errors = self.forward_blocks(part, weights);
        let head = part.head.then(|| self.backward_head(weights, around.objective, batch, gradients));
        for index in blocks.clone().rev() {
            self.backward_block(weights, index, gradients);
        }
        blocks.for_each(|index| self.add_vectors_of(index, weights, gradients));
        if part.has_start() {
            self.backward_first_norm(weights);
            self.add_norm(FIRST_NORM, gradients);
        }
        if part.head {
            self.add_norm(LAST_NORM, gradients);
        }
        let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
        let objective = mean + head.map_or(0.0, |loss| loss.objective);
        PartLoss { errors, head, objective }
    }

    /// Puts what enters the part in the place of the last residual stream, and the float network's there beside it.
    fn enter(&mut self, part: &Part, weights: &Weights, around: Surroundings<'_>, batch: &[Window<'_>]) {
        let Surroundings { float, before, share, .. } = around;
        let (channels, first) = (self.network.channels as usize, part.blocks.start as usize);
        // The first norm of a part that begins with it is its own, and only that is embedded differently.
        let (needs_own, ln0) = match first {
            0 => (true, &weights.ln0),
            _ => (share < 1.0, &before.ln0),
        };
        for_each(&mut self.threads, batch.iter().zip(&mut self.windows), |_, (window, tape)| {
            tape.embed(&float.embedding, channels, window.tokens);
            tape.make_room(weights.blocks.len(), channels);
            tape.start(&float.ln0);
            tape.float.clone_from(&tape.last);
            if needs_own {
                tape.start(ln0);
            }
        });
        for index in 0..first {
            for_each(&mut self.threads, &mut self.windows, |scratch, tape| {
                float.blocks[index].pass(&mut tape.float, scratch, |_, _| {});
            });
            if needs_own {
                for_each(&mut self.threads, &mut self.windows, |scratch, tape| {
                    before.blocks[index].pass(&mut tape.last, scratch, |_, _| {});
                });
            }
        }
        for_each(&mut self.threads, &mut self.windows, |_, tape| match first {
            0 => {}
            _ if share == 1.0 => tape.last.clone_from(&tape.float),
            _ if share == 0.0 => {}
            _ => {
                let pairs = tape.last.iter_mut().zip(&tape.float);
                pairs.for_each(|(own, float)| *own = share * float + (1.0 - share) * *own);
            }
        });
    }

    /// Takes the float network's stream through the part's blocks and keeps what they put into their populations, and how far
    /// a difference counts; then the teacher's features, if the head follows them.
    fn follow(&mut self, part: &Part, around: Surroundings<'_>) {
        let Surroundings { float, objective, .. } = around;
        let (channels, end) = (self.network.channels as usize, part.blocks.end as usize);
        for_each(&mut self.threads, &mut self.windows, |_, tape| {
            tape.injected.resize_with(end, Injected::default);
        });
        for index in part.blocks.start as usize..end {
            for_each(&mut self.threads, &mut self.windows, |scratch, tape| {
                let injected = &mut tape.injected[index];
                float.blocks[index].pass(&mut tape.float, scratch, |half, outputs| {
                    injected.differences[half].clear();
                    injected.differences[half].extend_from_slice(outputs);
                    injected.squares[half] = sum_of_squares(outputs);
                });
            });
        }
        let is_taught = part.head && matches!(objective, Objective::Distillation { .. });
        let lengths: Vec<usize> = self.windows.iter().map(|tape| tape.float.len() / channels).collect();
        let tokens: usize = lengths.iter().sum();
        self.teacher.resize(if is_taught { tokens * channels } else { 0 }, 0.0);
        if is_taught {
            let teachers = split_rows(&mut self.teacher, channels, lengths);
            for_each(&mut self.threads, self.windows.iter().zip(teachers), |_, (tape, teacher)| {
                layer_norm(&tape.float, &float.ln_out[0], &float.ln_out[1], teacher);
            });
        }
    }

    /// Takes the part's stream through its blocks. What [`Workspace::follow`] kept becomes differences from it, with the
    /// factors of their gradients. Errors are shares of the float network's mean squares, so that all halves weigh alike.
    fn forward_blocks(&mut self, part: &Part, weights: &Weights) -> Vec<f64> {
        let halves = 2 * part.blocks.len();
        let mut errors = Vec::with_capacity(halves);
        for index in part.blocks.start as usize..part.blocks.end as usize {
            let of_float = [half::ATT, half::FFN]
                .map(|half| self.windows.iter().map(|tape| tape.injected[index].squares[half]).sum::<f64>());
            // What the float network never puts anywhere says nothing.
            let weight = of_float.map(|squares| if squares > 0.0 { 1.0 / squares } else { 0.0 });
            let factors = weight.map(|weight| (2.0 * weight / halves as f64) as f32);
            for_each(&mut self.threads, &mut self.windows, |scratch, tape| {
                let (injected, tape, x) =
                    (&mut tape.injected[index], &mut tape.blocks[index], &mut tape.last);
                injected.factors = factors;
                weights.blocks[index].forward_watched(x, tape, scratch, |half, outputs| {
                    let differences = &mut injected.differences[half];
                    differences.iter_mut().zip(outputs).for_each(|(to, output)| *to = output - *to);
                    injected.squares[half] = sum_of_squares(differences);
                });
            });
            for half in [half::ATT, half::FFN] {
                let squares = self.windows.iter().map(|tape| tape.injected[index].squares[half]);
                errors.push(squares.sum::<f64>() * weight[half]);
            }
        }
        errors
    }

    /// Losses of the head on the features of the part's stream, and gradients back to that stream.
    fn backward_head(
        &mut self,
        weights: &Weights,
        objective: Objective<'_>,
        batch: &[Window<'_>],
        gradients: &mut impl Gradients,
    ) -> BatchLoss {
        let channels = self.network.channels as usize;
        self.features.resize(self.d.len(), 0.0);
        let lengths = batch.iter().map(|window| window.tokens.len());
        let features = split_rows(&mut self.features, channels, lengths);
        for_each(&mut self.threads, self.windows.iter().zip(features), |_, (tape, features)| {
            layer_norm(&tape.last, &weights.ln_out[0], &weights.ln_out[1], features);
        });
        let loss = self.losses(weights, batch, objective, gradients);
        self.backward_last_norm(weights);
        loss
    }
}
