//! Recurrent state: what a network carries from one token of a sequence to the next, 7 D floats per block.

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
    /// `LN1 x` of the previous token.
    pub(super) att_shift: Vec<f32>,
    /// The running sums of the WKV recurrence.
    pub(super) wkv: WkvState,
    /// Membrane potentials after the att.
    pub(super) lif1: Vec<f32>,
    /// `LN2 x` of the previous token.
    pub(super) ffn_shift: Vec<f32>,
    /// Membrane potentials after the ffn.
    pub(super) lif2: Vec<f32>,
}

impl State {
    /// The state before the first token.
    pub(super) fn start(network: &Network) -> Self {
        let zeros = || vec![0.0; network.channels as usize];
        let block = BlockState {
            att_shift: zeros(),
            wkv: WkvState::start(network.channels as usize),
            lif1: zeros(),
            ffn_shift: zeros(),
            lif2: zeros(),
        };
        Self { blocks: vec![block; network.blocks as usize] }
    }
}
