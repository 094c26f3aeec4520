//! SpikeGPT in tensors, windows of equal length side by side: `[window, time, channel]`.

use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Int, Tensor};
use qslm_common::network::EMBEDDING;

use super::Parameters;
use super::scans::{lif, wkv};
use crate::kernels::gradient::lif::Reset;
use crate::kernels::lif::Neuron;
use crate::kernels::norm::EPSILON;

/// A network of these parameters.
pub(super) struct Forward<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) blocks: usize,
    /// The neuron of all populations; `None` without spikes.
    pub(super) neuron: Option<Neuron>,
    pub(super) reset: Reset,
}

impl Forward<'_> {
    /// `LN_out(x)` of all tokens of some windows.
    pub(super) fn features(&self, tokens: Tensor<1, Int>, [windows, time]: [usize; 2]) -> Tensor<3> {
        let embedded = self.parameters[EMBEDDING].clone().select(0, tokens);
        let [_, channels] = embedded.dims();
        let mut x = self.norm("blocks.0.ln0", embedded.reshape([windows, time, channels]));
        for block in 0..self.blocks {
            let at = |name: &str| format!("blocks.{block}.{name}");
            let y = self.norm(&at("ln1"), x.clone());
            x = x + self.fire(self.time_mix(&at("att"), y));
            let y = self.norm(&at("ln2"), x.clone());
            x = x + self.fire(self.channel_mix(&at("ffn"), y));
        }
        self.norm("ln_out", x)
    }

    /// What the output of a half makes a population fire, or that output itself where there are no spikes.
    fn fire(&self, out: Tensor<3>) -> Tensor<3> {
        match &self.neuron {
            Some(neuron) => lif(neuron, out, self.reset),
            None => out,
        }
    }

    /// A vector, for all windows and tokens.
    fn vector(&self, name: &str) -> Tensor<3> {
        self.parameters[name].clone().unsqueeze()
    }

    fn norm(&self, name: &str, x: Tensor<3>) -> Tensor<3> {
        let centred = x.clone() - x.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        centred / (variance + EPSILON).sqrt() * self.vector(&format!("{name}.weight"))
            + self.vector(&format!("{name}.bias"))
    }

    fn linear(&self, name: &str, x: Tensor<3>) -> Tensor<3> {
        let weights = self.parameters[&format!("{name}.weight")].clone();
        let ([windows, time, inputs], [outputs, _]) = (x.dims(), weights.dims());
        let product = x.reshape([windows * time, inputs]).matmul(weights.transpose());
        product.reshape([windows, time, outputs])
    }

    /// Token shift: `m y_t + (1 - m) y_(t-1)`.
    fn shifted(&self, name: &str, y: &Tensor<3>) -> Tensor<3> {
        let [windows, time, channels] = y.dims();
        let mut before = vec![Tensor::zeros([windows, 1, channels], &y.device())];
        if time > 1 {
            before.push(y.clone().narrow(1, 0, time - 1));
        }
        let (before, m) = (Tensor::cat(before, 1), self.vector(name));
        m.clone() * y.clone() + (m.neg() + 1.0) * before
    }

    fn time_mix(&self, name: &str, y: Tensor<3>) -> Tensor<3> {
        let of = |part: &str, m: &str| {
            self.linear(&format!("{name}.{part}"), self.shifted(&format!("{name}.time_mix_{m}"), &y))
        };
        let (k, v, r) = (of("key", "k"), of("value", "v"), of("receptance", "r"));
        let vector = |part: &str| self.vector(&format!("{name}.{part}"));
        let mean = wkv(k, v, vector("time_decay"), vector("time_first"));
        self.linear(&format!("{name}.output"), sigmoid(r) * mean)
    }

    fn channel_mix(&self, name: &str, y: Tensor<3>) -> Tensor<3> {
        let of = |part: &str, m: &str| {
            self.linear(&format!("{name}.{part}"), self.shifted(&format!("{name}.time_mix_{m}"), &y))
        };
        let (k, r) = (of("key", "k"), of("receptance", "r"));
        sigmoid(r) * self.linear(&format!("{name}.value"), relu(k).square())
    }
}
