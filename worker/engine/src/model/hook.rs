//! Forward hooks: a look into a network while it runs, for calibration and for measures of sensitivity.

/// A forward hook. Methods are called in the order of the forward pass; all do nothing unless defined.
pub trait Hook {
    /// `x`, `[rows, inputs]`, is about to enter the linear layer of `unit`. It is not yet quantized.
    fn input(&mut self, _unit: &str, _x: &[f32]) {}

    /// A population, by its index in [`qslm_common::network::Network::populations`], is about to fire.
    /// `potentials` computes what it compares with its threshold, `[time, channel]`.
    fn potentials(&mut self, _population: usize, _potentials: &dyn Fn() -> Vec<f32>) {}

    /// `x`, `[time, channel]`, is the residual stream before block `depth`, or after the last block.
    fn residual(&mut self, _depth: usize, _x: &[f32]) {}
}

/// The hook that does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Hook for Unwatched {}
