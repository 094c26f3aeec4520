//! One block: `x += LIF1(ATT(LN1 x))`, then `x += LIF2(FFN(LN2 x))`.

use qslm_common::network::{population_name, populations_of};
use qslm_common::scheme::Membrane;

use super::Norm;
use super::builder::{Builder, CannotBuild};
use super::hook::Hook;
use super::linear::Linear;
use super::state::BlockState;
use crate::kernels::{lif, shift, wkv};

/// The parameters of `blocks.INDEX`.
#[derive(Debug)]
pub(super) struct Block {
    ln1: Norm,
    att: TimeMix,
    lif1: Population,
    ln2: Norm,
    ffn: ChannelMix,
    lif2: Population,
}

/// D neurons without parameters.
#[derive(Debug)]
struct Population {
    /// Its index among the network's.
    index: usize,
    /// The fixed-point scheme of its potentials; `None` for float.
    membrane: Option<Membrane>,
}

/// `blocks.INDEX.att`.
#[derive(Debug)]
struct TimeMix {
    /// `w = -exp(time_decay)`, `[channel]`.
    decay: Vec<f32>,
    /// `u`, `[channel]`.
    time_first: Vec<f32>,
    time_mix_k: Vec<f32>,
    time_mix_v: Vec<f32>,
    time_mix_r: Vec<f32>,
    key: Linear,
    value: Linear,
    receptance: Linear,
    output: Linear,
}

/// `blocks.INDEX.ffn`.
#[derive(Debug)]
struct ChannelMix {
    time_mix_k: Vec<f32>,
    time_mix_r: Vec<f32>,
    key: Linear,
    value: Linear,
    receptance: Linear,
}

impl Block {
    pub(super) fn new(builder: &Builder<'_>, index: u32) -> Result<Self, CannotBuild> {
        let at = |name: &str| format!("blocks.{index}.{name}");
        let vector = |name: &str| builder.vector(&at(name));
        let linear = |name: &str| builder.linear(&at(name));
        let population = |index| {
            let membrane = builder.candidate.membrane(&population_name(index));
            Population { index, membrane }
        };
        let [first, second] = populations_of(index as usize);
        Ok(Self {
            ln1: builder.norm(&at("ln1"))?,
            att: TimeMix {
                decay: vector("att.time_decay")?.iter().map(|decay| -decay.exp()).collect(),
                time_first: vector("att.time_first")?,
                time_mix_k: vector("att.time_mix_k")?,
                time_mix_v: vector("att.time_mix_v")?,
                time_mix_r: vector("att.time_mix_r")?,
                key: linear("att.key.weight")?,
                value: linear("att.value.weight")?,
                receptance: linear("att.receptance.weight")?,
                output: linear("att.output.weight")?,
            },
            lif1: population(first),
            ln2: builder.norm(&at("ln2"))?,
            ffn: ChannelMix {
                time_mix_k: vector("ffn.time_mix_k")?,
                time_mix_r: vector("ffn.time_mix_r")?,
                key: linear("ffn.key.weight")?,
                value: linear("ffn.value.weight")?,
                receptance: linear("ffn.receptance.weight")?,
            },
            lif2: population(second),
        })
    }

    /// Adds the block's spikes to the residual stream `x`, `[time, channel]`. Returns how many each of
    /// its two populations fired.
    pub(super) fn forward(&self, x: &mut [f32], state: &mut BlockState, hook: &mut dyn Hook) -> [u64; 2] {
        let att = self.att.forward(self.ln1.apply(x), state, hook);
        let lif1 = self.lif1.fire(&att, &mut state.lif1, x, hook);
        let ffn = self.ffn.forward(self.ln2.apply(x), &mut state.ffn_shift, hook);
        let lif2 = self.lif2.fire(&ffn, &mut state.lif2, x, hook);
        [lif1, lif2]
    }
}

impl Population {
    /// Adds the spikes to the residual stream and returns how many there were.
    fn fire(&self, input: &[f32], potential: &mut [f32], residual: &mut [f32], hook: &mut dyn Hook) -> u64 {
        hook.potentials(self.index, &|| lif::potentials(input, potential, self.membrane));
        lif::scan(input, potential, residual, self.membrane)
    }
}

impl TimeMix {
    /// `ATT(y) = Wo (sigmoid(Wr mix(m_r)) * wkv(Wk mix(m_k), Wv mix(m_v)))`, `[time, channel]`.
    fn forward(&self, y: Vec<f32>, state: &mut BlockState, hook: &mut dyn Hook) -> Vec<f32> {
        let mixed = |m: &[f32]| mix(&y, &state.att_shift, m);
        let k = self.key.forward(mixed(&self.time_mix_k), hook);
        let v = self.value.forward(mixed(&self.time_mix_v), hook);
        let r = self.receptance.forward(mixed(&self.time_mix_r), hook);
        carry(&y, &mut state.att_shift);
        let mut out = y; // its contents are used up, its memory is not
        wkv::scan(&self.decay, &self.time_first, &k, &v, &mut state.wkv, &mut out);
        shift::gate(&r, &mut out);
        self.output.forward(out, hook)
    }
}

impl ChannelMix {
    /// `FFN(y) = sigmoid(Wr mix(m_r)) * (Wv relu(Wk mix(m_k))^2)`, `[time, channel]`.
    fn forward(&self, y: Vec<f32>, previous: &mut [f32], hook: &mut dyn Hook) -> Vec<f32> {
        let mut k = self.key.forward(mix(&y, previous, &self.time_mix_k), hook);
        let r = self.receptance.forward(mix(&y, previous, &self.time_mix_r), hook);
        carry(&y, previous);
        shift::squared_relu(&mut k);
        let mut out = self.value.forward(k, hook);
        shift::gate(&r, &mut out);
        out
    }
}

fn mix(y: &[f32], previous: &[f32], m: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; y.len()];
    shift::mix(y, previous, m, &mut out);
    out
}

/// Keeps the last row of `y` for the first row of the next piece.
fn carry(y: &[f32], previous: &mut [f32]) {
    if let Some(last) = y.rchunks_exact(previous.len()).next() {
        previous.copy_from_slice(last);
    }
}
