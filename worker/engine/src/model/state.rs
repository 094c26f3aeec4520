//! Recurrent state: what a network carries from one token of a sequence to the next, 7 D floats per block, or 5 D without
//! spikes.

use qslm_common::network::Network;

use crate::kernels::wkv::WkvState;

/// The recurrent state after some tokens of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(super) blocks: Vec<BlockState>,
}

/// The state of one block, `[channel]` each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BlockState {
    /// What entered the token shift of the att at the previous token.
    pub(super) att_shift: Vec<f32>,
    /// The running sums of the WKV recurrence.
    pub(super) wkv: WkvState,
    /// Membrane potentials of the first population; none without spikes.
    pub(super) lif1: Vec<f32>,
    /// What entered the token shift of the ffn at the previous token.
    pub(super) ffn_shift: Vec<f32>,
    /// Membrane potentials of the second population; none without spikes.
    pub(super) lif2: Vec<f32>,
}

impl State {
    /// The state before the first token.
    pub(super) fn start(network: &Network) -> Self {
        let zeros = || vec![0.0; network.channels as usize];
        let potentials = || match &network.dynamics.neuron {
            Some(neuron) => vec![neuron.initial.value(); network.channels as usize],
            None => Vec::new(),
        };
        let block = BlockState {
            att_shift: zeros(),
            wkv: WkvState::start(network.channels as usize),
            lif1: potentials(),
            ffn_shift: zeros(),
            lif2: potentials(),
        };
        Self { blocks: vec![block; network.blocks as usize] }
    }
}
