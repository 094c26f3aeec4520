//! One block: `x += LIF1(ATT(LN1 x))`, then `x += LIF2(FFN(LN2 x))`; or with the populations inside,
//! `x += ATT(LIF1(LN1 x))`, or without any, `x += ATT(LN1 x)`, as the network's dynamics say.

use qslm_common::network::{Placement, population_name};
use qslm_common::scheme::Membrane;

use super::Norm;
use super::builder::{Builder, CannotBuild};
use super::hook::Hook;
use super::linear::Linear;
use super::state::BlockState;
use crate::kernels::lif::{self, Neuron};
use crate::kernels::{shift, wkv};

/// The parameters of `blocks.INDEX`.
#[derive(Debug)]
pub(super) struct Block {
    ln1: Norm,
    att: TimeMix,
    lif1: Option<Population>,
    ln2: Norm,
    ffn: ChannelMix,
    lif2: Option<Population>,
    placement: Placement,
    /// What the outputs of both halves are multiplied with, a power of two; 1 unless the network is rescaled.
    scale: f32,
    /// True if the residual stream is halved after it.
    halves: bool,
}

/// D neurons.
#[derive(Debug)]
struct Population {
    /// Its index among the network's.
    index: usize,
    neuron: Neuron,
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
        let population = |index| -> Result<Population, CannotBuild> {
            let name = population_name(index);
            let membrane = builder.candidate.membrane(&name);
            Ok(Population { index, neuron: builder.neuron(&name)?, membrane })
        };
        let populations = builder.network.populations_of(index as usize);
        let dynamics = &builder.network.dynamics;
        Ok(Self {
            ln1: builder.norm(&at("ln1"))?,
            att: TimeMix {
                decay: vector("att.time_decay")?.iter().copied().map(wkv::decay).collect(),
                time_first: vector("att.time_first")?,
                time_mix_k: vector("att.time_mix_k")?,
                time_mix_v: vector("att.time_mix_v")?,
                time_mix_r: vector("att.time_mix_r")?,
                key: linear("att.key.weight")?,
                value: linear("att.value.weight")?,
                receptance: linear("att.receptance.weight")?,
                output: linear("att.output.weight")?,
            },
            lif1: populations.map(|[first, _]| population(first)).transpose()?,
            ln2: builder.norm(&at("ln2"))?,
            ffn: ChannelMix {
                time_mix_k: vector("ffn.time_mix_k")?,
                time_mix_r: vector("ffn.time_mix_r")?,
                key: linear("ffn.key.weight")?,
                value: linear("ffn.value.weight")?,
                receptance: linear("ffn.receptance.weight")?,
            },
            lif2: populations.map(|[_, second]| population(second)).transpose()?,
            placement: dynamics.placement,
            scale: 0.5f32.powi(dynamics.halvings(index) as i32),
            halves: dynamics.halves_after(index),
        })
    }

    /// Takes the residual stream `x`, `[time, channel]`, through the block. Returns how many spikes each of its two
    /// populations fired.
    pub(super) fn forward(&self, x: &mut [f32], state: &mut BlockState, hook: &mut dyn Hook) -> [u64; 2] {
        let (y, before) = self.before(&self.lif1, self.ln1.apply(x), &mut state.lif1, hook);
        let att = self.scaled(self.att.forward(y, state, hook));
        let lif1 = before + self.after(&self.lif1, &att, &mut state.lif1, x, hook);
        let (y, before) = self.before(&self.lif2, self.ln2.apply(x), &mut state.lif2, hook);
        let ffn = self.scaled(self.ffn.forward(y, &mut state.ffn_shift, hook));
        let lif2 = before + self.after(&self.lif2, &ffn, &mut state.lif2, x, hook);
        if self.halves {
            x.iter_mut().for_each(|x| *x *= 0.5);
        }
        [lif1, lif2]
    }

    /// What enters a half: `y`, or the spikes that it makes a population fire, with their number.
    fn before(
        &self,
        population: &Option<Population>,
        y: Vec<f32>,
        potential: &mut [f32],
        hook: &mut dyn Hook,
    ) -> (Vec<f32>, u64) {
        match population {
            Some(population) if self.placement == Placement::Before => {
                let mut spikes = vec![0.0; y.len()];
                let fired = population.fire(&y, potential, &mut spikes, hook);
                (spikes, fired)
            }
            _ => (y, 0),
        }
    }

    /// Adds what left a half to the residual stream, or the spikes that it makes a population fire; returns their number.
    fn after(
        &self,
        population: &Option<Population>,
        y: &[f32],
        potential: &mut [f32],
        residual: &mut [f32],
        hook: &mut dyn Hook,
    ) -> u64 {
        match population {
            Some(population) if self.placement == Placement::After => {
                population.fire(y, potential, residual, hook)
            }
            _ => {
                residual.iter_mut().zip(y).for_each(|(x, y)| *x += y);
                0
            }
        }
    }

    /// The output of a half, divided as the network's rescaling says.
    fn scaled(&self, mut y: Vec<f32>) -> Vec<f32> {
        if self.scale != 1.0 {
            y.iter_mut().for_each(|y| *y *= self.scale);
        }
        y
    }
}

impl Population {
    /// Adds the spikes to `out` and returns how many there were.
    fn fire(&self, input: &[f32], potential: &mut [f32], out: &mut [f32], hook: &mut dyn Hook) -> u64 {
        hook.potentials(self.index, &|| lif::potentials(&self.neuron, input, potential, self.membrane));
        lif::scan(&self.neuron, input, potential, out, self.membrane)
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
