//! One block and one window: forward with a tape, and back.
//!
//! Kept are what enters the block, what products gave, and the sums that LIF neurons compared; all else is cheaper to
//! compute again than to keep. What the gradients of the matrices are made of, the inputs of each product and the gradients
//! in its outputs, is left in [`Sides`] for the whole batch.

use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::kernels::gradient::{self, wkv::Scratch as WkvScratch};
use qslm_engine::kernels::norm::layer_norm;
use qslm_engine::kernels::wkv::WkvState;
use qslm_engine::kernels::{shift, wkv};

use crate::weights::{BlockWeights, Linear, VECTORS, matrix, vector};

/// What a block leaves of a window on its way forward, `[time, ..]`.
#[derive(Debug, Default)]
pub(crate) struct BlockTape {
    /// The residual stream that entered.
    x: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    receptance: Vec<f32>,
    /// What came out of the recurrence, before the gate.
    wkv: Vec<f32>,
    /// The sums of the first population; what the att gave where there are no spikes.
    sums1: Vec<f32>,
    ffn_key: Vec<f32>,
    ffn_receptance: Vec<f32>,
    /// What came out of the ffn's value, before the gate.
    ffn_value: Vec<f32>,
    /// The sums of the second population; what the ffn gave where there are no spikes.
    sums2: Vec<f32>,
}

/// Buffers of a thread, so that none is made anew for every window.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// `[time, channel]` each.
    y: Vec<f32>,
    mixed: Vec<f32>,
    x: Vec<f32>,
    d: Vec<f32>,
    d_y: Vec<f32>,
    /// `[time, hidden]`.
    hidden: Vec<f32>,
    /// `[channel]`.
    row: Vec<f32>,
    wkv: WkvScratch,
    /// Strips of a product of columns.
    pub(crate) strips: Vec<f32>,
    /// Tape of a block that is not gone back through.
    spare: BlockTape,
}

/// Gradients of what a loss says directly about the inputs of a block's populations, beside what comes back through its
/// spikes: `[time, channel]` each, to be multiplied with a factor.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    /// Differences, of the att's output and of the ffn's.
    pub(crate) differences: [Vec<f32>; 2],
    /// What each of them is multiplied with.
    pub(crate) factors: [f32; 2],
    /// Their sums of squares, of a window.
    pub(crate) squares: [f64; 2],
}

impl Injected {
    /// Adds the gradient in the input of one of the populations.
    fn add_to(&self, half: usize, d: &mut [f32]) {
        let factor = self.factors[half];
        d.iter_mut().zip(&self.differences[half]).for_each(|(d, difference)| *d += factor * difference);
    }
}

/// Places of the halves of a block, whose outputs enter a population each.
pub(crate) mod half {
    pub(crate) const ATT: usize = 0;
    pub(crate) const FFN: usize = 1;
}

/// Inputs of the products of a block, and gradients in their outputs: a window's rows, in the order of the matrices.
pub(crate) struct Sides<'a> {
    pub(crate) x: [&'a mut [f32]; 7],
    pub(crate) d: [&'a mut [f32]; 7],
}

/// Gradients in the vectors of a block, in their order; that of the decay is in w, not in `time_decay`.
pub(crate) type VectorGradients = [Vec<f32>; VECTORS.len()];

impl Scratch {
    /// The numbers of a buffer, which is zero from here on.
    pub(crate) fn moved(&mut self, from: &mut [f32]) -> &[f32] {
        let moved = sized(&mut self.d, from.len());
        moved.copy_from_slice(from);
        from.fill(0.0);
        moved
    }
}

/// A buffer of so many numbers, whatever they are.
fn sized(buffer: &mut Vec<f32>, size: usize) -> &mut [f32] {
    buffer.resize(size, 0.0);
    buffer
}

/// As [`sized`], all zero.
fn zeroed(buffer: &mut Vec<f32>, size: usize) -> &mut [f32] {
    buffer.clear();
    sized(buffer, size)
}

impl Linear {
    /// `out = W x`.
    fn multiply(&self, x: &[f32], out: &mut [f32]) {
        self.forward.multiply(x, 0..self.forward.outputs(), out);
    }

    /// `out = W^T d`.
    pub(crate) fn multiply_transposed(&self, d: &[f32], out: &mut [f32]) {
        self.transposed.multiply(d, 0..self.transposed.outputs(), out);
    }
}

impl BlockWeights {
    /// Takes the residual stream `x` of a window through the block.
    pub(crate) fn forward(&self, x: &mut [f32], tape: &mut BlockTape, scratch: &mut Scratch) {
        self.forward_watched(x, tape, scratch, |_, _| {});
    }

    /// As [`BlockWeights::forward`] of a block that is not gone back through. `look` sees what each [`half`] puts into its
    /// population, `[time, channel]`.
    pub(crate) fn pass(&self, x: &mut [f32], scratch: &mut Scratch, look: impl FnMut(usize, &[f32])) {
        let mut tape = std::mem::take(&mut scratch.spare);
        self.forward_watched(x, &mut tape, scratch, look);
        scratch.spare = tape;
    }

    /// As [`BlockWeights::forward`]; `look` sees what each [`half`] puts into its population, `[time, channel]`.
    pub(crate) fn forward_watched(
        &self,
        x: &mut [f32],
        tape: &mut BlockTape,
        scratch: &mut Scratch,
        mut look: impl FnMut(usize, &[f32]),
    ) {
        let (size, channels) = (x.len(), self.decay.len());
        let wide = size / channels * self.linears[matrix::FFN_KEY].forward.outputs();
        let vectors = &self.vectors;
        let Scratch { y, mixed, row, hidden, .. } = scratch;
        let (y, mixed, row) = (sized(y, size), sized(mixed, size), zeroed(row, channels));
        tape.x.clear();
        tape.x.extend_from_slice(x);

        layer_norm(x, &vectors[vector::LN1_WEIGHT], &vectors[vector::LN1_BIAS], y);
        for (mix, linear, out) in [
            (vector::MIX_K, matrix::KEY, &mut tape.key),
            (vector::MIX_V, matrix::VALUE, &mut tape.value),
            (vector::MIX_R, matrix::RECEPTANCE, &mut tape.receptance),
        ] {
            shift::mix(y, row, &vectors[mix], mixed);
            self.linears[linear].multiply(mixed, sized(out, size));
        }
        let (first, mut state) = (&vectors[vector::TIME_FIRST], WkvState::start(channels));
        wkv::scan(&self.decay, first, &tape.key, &tape.value, &mut state, sized(&mut tape.wkv, size));
        gradient::shift::gate_to(&tape.receptance, &tape.wkv, mixed);
        self.linears[matrix::OUTPUT].multiply(mixed, sized(&mut tape.sums1, size));
        look(half::ATT, &tape.sums1);
        self.fire(&mut tape.sums1, row, x);

        layer_norm(x, &vectors[vector::LN2_WEIGHT], &vectors[vector::LN2_BIAS], y);
        row.fill(0.0);
        shift::mix(y, row, &vectors[vector::FFN_MIX_K], mixed);
        self.linears[matrix::FFN_KEY].multiply(mixed, sized(&mut tape.ffn_key, wide));
        shift::mix(y, row, &vectors[vector::FFN_MIX_R], mixed);
        self.linears[matrix::FFN_RECEPTANCE].multiply(mixed, sized(&mut tape.ffn_receptance, size));
        let hidden = sized(hidden, wide);
        gradient::shift::squared_relu_to(&tape.ffn_key, hidden);
        self.linears[matrix::FFN_VALUE].multiply(hidden, sized(&mut tape.ffn_value, size));
        let sums2 = sized(&mut tape.sums2, size);
        gradient::shift::gate_to(&tape.ffn_receptance, &tape.ffn_value, sums2);
        look(half::FFN, sums2);
        self.fire(sums2, row, x);
    }

    /// Adds what the output of a half makes a population fire to the residual stream `x`, or that output itself where there
    /// are no spikes; of a population it becomes the sums.
    fn fire(&self, out: &mut [f32], row: &mut [f32], x: &mut [f32]) {
        match &self.neuron {
            Some(neuron) => gradient::lif::scan_with_sums(neuron, out, row, x),
            None => add(out, x),
        }
    }

    /// From the gradient in what [`BlockWeights::fire`] added to that in the output of the half.
    fn fire_back(&self, sums: &[f32], d: &mut [f32], row: &mut [f32], reset: Reset) {
        if let Some(neuron) = &self.neuron {
            gradient::lif::scan(neuron, sums, d, row, reset);
        }
    }

    /// Takes `d`, the gradient in the residual stream of a window, back through the block: from what left it to what
    /// entered, with gradients that are injected on the way. Adds to the gradients in the vectors.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a window left, what comes back, and places for what is found"
    )]
    pub(crate) fn backward(
        &self,
        tape: &BlockTape,
        injected: Option<&Injected>,
        d: &mut [f32],
        sides: &mut Sides<'_>,
        vectors: &mut VectorGradients,
        reset: Reset,
        scratch: &mut Scratch,
    ) {
        self.backward_ffn(tape, injected, d, sides, vectors, reset, scratch);
        self.backward_att(tape, injected, d, sides, vectors, reset, scratch);
    }

    #[expect(clippy::too_many_arguments, reason = "as of both halves")]
    fn backward_ffn(
        &self,
        tape: &BlockTape,
        injected: Option<&Injected>,
        d_residual: &mut [f32],
        sides: &mut Sides<'_>,
        vectors: &mut VectorGradients,
        reset: Reset,
        scratch: &mut Scratch,
    ) {
        let (size, channels) = (d_residual.len(), self.decay.len());
        let Scratch { y, mixed, x, d, d_y, row, .. } = scratch;
        let (y, mixed, row) = (sized(y, size), sized(mixed, size), zeroed(row, channels));
        let (x, d, d_y) = (sized(x, size), sized(d, size), zeroed(d_y, size));
        x.copy_from_slice(&tape.x);
        match &self.neuron {
            Some(neuron) => gradient::lif::add_spikes(neuron, &tape.sums1, x),
            None => add(&tape.sums1, x),
        }
        layer_norm(x, &self.vectors[vector::LN2_WEIGHT], &self.vectors[vector::LN2_BIAS], y);
        shift::mix(y, row, &self.vectors[vector::FFN_MIX_K], sides.x[matrix::FFN_KEY]);
        shift::mix(y, row, &self.vectors[vector::FFN_MIX_R], sides.x[matrix::FFN_RECEPTANCE]);
        gradient::shift::squared_relu_to(&tape.ffn_key, sides.x[matrix::FFN_VALUE]);

        d.copy_from_slice(d_residual);
        self.fire_back(&tape.sums2, d, row, reset);
        injected.into_iter().for_each(|injected| injected.add_to(half::FFN, d));
        gradient::shift::gate(&tape.ffn_receptance, &tape.ffn_value, d, sides.d[matrix::FFN_RECEPTANCE]);
        sides.d[matrix::FFN_VALUE].copy_from_slice(d);
        self.linears[matrix::FFN_VALUE].multiply_transposed(d, sides.d[matrix::FFN_KEY]);
        gradient::shift::squared_relu(&tape.ffn_key, sides.d[matrix::FFN_KEY]);
        for (linear, mix) in
            [(matrix::FFN_KEY, vector::FFN_MIX_K), (matrix::FFN_RECEPTANCE, vector::FFN_MIX_R)]
        {
            self.linears[linear].multiply_transposed(sides.d[linear], mixed);
            gradient::shift::mix(y, &self.vectors[mix], mixed, d_y, &mut vectors[mix]);
        }
        let [weight, bias] = both(vectors, vector::LN2_WEIGHT);
        gradient::norm::layer_norm(x, &self.vectors[vector::LN2_WEIGHT], d_y, d_residual, weight, bias);
    }

    #[expect(clippy::too_many_arguments, reason = "as of both halves")]
    fn backward_att(
        &self,
        tape: &BlockTape,
        injected: Option<&Injected>,
        d_residual: &mut [f32],
        sides: &mut Sides<'_>,
        vectors: &mut VectorGradients,
        reset: Reset,
        scratch: &mut Scratch,
    ) {
        let (size, channels) = (d_residual.len(), self.decay.len());
        let Scratch { y, mixed, d, d_y, row, wkv, .. } = scratch;
        let (y, mixed, row) = (sized(y, size), sized(mixed, size), zeroed(row, channels));
        let (d, d_y) = (sized(d, size), zeroed(d_y, size));
        layer_norm(&tape.x, &self.vectors[vector::LN1_WEIGHT], &self.vectors[vector::LN1_BIAS], y);
        const MIXED: [(usize, usize); 3] = [
            (matrix::KEY, vector::MIX_K),
            (matrix::VALUE, vector::MIX_V),
            (matrix::RECEPTANCE, vector::MIX_R),
        ];
        for (linear, mix) in MIXED {
            shift::mix(y, row, &self.vectors[mix], sides.x[linear]);
        }
        gradient::shift::gate_to(&tape.receptance, &tape.wkv, sides.x[matrix::OUTPUT]);

        let d_out = &mut *sides.d[matrix::OUTPUT];
        d_out.copy_from_slice(d_residual);
        self.fire_back(&tape.sums1, d_out, row, reset);
        injected.into_iter().for_each(|injected| injected.add_to(half::ATT, d_out));
        self.linears[matrix::OUTPUT].multiply_transposed(d_out, d);
        gradient::shift::gate(&tape.receptance, &tape.wkv, d, sides.d[matrix::RECEPTANCE]);
        let scanned = gradient::wkv::Scanned {
            decay: &self.decay,
            first: &self.vectors[vector::TIME_FIRST],
            k: &tape.key,
            v: &tape.value,
            out: &tape.wkv,
        };
        let [d_decay, d_first] = both(vectors, vector::TIME_DECAY);
        let [d_k, d_v, ..] = &mut sides.d;
        let gradients = gradient::wkv::Gradients { decay: d_decay, first: d_first, k: d_k, v: d_v };
        gradient::wkv::scan(scanned, d, gradients, wkv);
        for (linear, mix) in MIXED {
            self.linears[linear].multiply_transposed(sides.d[linear], mixed);
            gradient::shift::mix(y, &self.vectors[mix], mixed, d_y, &mut vectors[mix]);
        }
        let [weight, bias] = both(vectors, vector::LN1_WEIGHT);
        gradient::norm::layer_norm(&tape.x, &self.vectors[vector::LN1_WEIGHT], d_y, d_residual, weight, bias);
    }
}

fn add(out: &[f32], x: &mut [f32]) {
    x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
}

/// The gradients in a vector and in the one after it.
fn both(vectors: &mut VectorGradients, first: usize) -> [&mut [f32]; 2] {
    let (before, after) = vectors.split_at_mut(first + 1);
    [&mut before[first], &mut after[0]]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use qslm_common::network::{Network, block_units};
    use safetensors::SafeTensors;

    use super::*;
    use crate::tensors::Tensors;
    use crate::weights::{Weights, vector_names};

    /// The small network of `tests/golden.py`.
    const NETWORK: Network = Network {
        vocabulary: 24,
        channels: 16,
        hidden: 64,
        blocks: 2,
        outputs: 24,
        binary_embedding: true,
        dynamics: qslm_common::network::Dynamics::SPIKEGPT,
    };

    /// The largest difference, as a share of the largest number that was expected.
    fn error(found: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(found.len(), expected.len());
        let largest =
            |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0f32, |top, x| top.max(x.abs()));
        largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / largest(&mut expected.iter().copied())
    }

    #[test]
    fn gradients_of_one_block_and_of_what_enters_it_are_pytorchs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let mut weights = Weights::new(&NETWORK);
        let names = file.names().into_iter().filter_map(|name| name.strip_prefix("weights."));
        let parameters: Tensors =
            names.map(|name| (name.to_owned(), floats(&format!("weights.{name}")))).collect();
        weights.load(&parameters, &mut [Vec::new()]);
        let block = &weights.blocks[1];
        let (mut x, mut d) = (floats("block.x"), floats("block.g"));
        let (mut tape, mut scratch) = (BlockTape::default(), Scratch::default());
        block.forward(&mut x, &mut tape, &mut scratch);

        let time = d.len() / 16;
        let room = |width: fn(&Linear) -> usize| {
            let widths = block.linears.iter().map(move |linear| vec![0.0; time * width(linear)]);
            widths.collect::<Vec<_>>()
        };
        let mut inputs = room(|linear| linear.forward.inputs());
        let mut outputs = room(|linear| linear.forward.outputs());
        let mut sides = Sides { x: Default::default(), d: Default::default() };
        sides.x.iter_mut().zip(&mut inputs).for_each(|(to, buffer)| *to = buffer);
        sides.d.iter_mut().zip(&mut outputs).for_each(|(to, buffer)| *to = buffer);
        let mut vectors: VectorGradients = std::array::from_fn(|_| vec![0.0; 16]);
        block.backward(&tape, None, &mut d, &mut sides, &mut vectors, Reset::Attached, &mut scratch);

        assert!(error(&d, &floats("block.dx")) < 1e-5);
        vectors[vector::TIME_DECAY].iter_mut().zip(&block.decay).for_each(|(d, w)| *d *= w);
        for (name, found) in vector_names(1).iter().zip(&vectors) {
            let error = error(found, &floats(&format!("block.{name}")));
            assert!(error < 2e-5, "{name}: {error:e}");
        }
        for ((name, x), d) in block_units(1).iter().zip(&inputs).zip(&outputs) {
            let (width, height) = (x.len() / time, d.len() / time);
            let mut packed = qslm_engine::kernels::product::Packed::default();
            packed.pack_transposed(x, width);
            let mut found = vec![0.0; width * height];
            packed.multiply_columns(d, 0..height, &mut found, true, &mut Vec::new());
            let error = error(&found, &floats(&format!("block.{name}")));
            assert!(error < 2e-5, "{name}: {error:e}");
        }
    }
}
