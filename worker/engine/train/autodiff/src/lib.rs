//! SpikeGPT in tensors of Burn, whose autodiff finds the gradients.
//!
//! Nothing here is shared with the backward pass that it is compared with: time is a loop, WKV is written without its
//! running maximum, and only the step of a neuron has a gradient that is not its own, the ATan surrogate
//! `1 / (1 + (pi (h - 1))^2)`, as the derivative of `atan(pi (h - 1)) / pi`.

use std::collections::BTreeMap;
use std::f32::consts::PI;

use burn::tensor::activation::{log_softmax, relu, sigmoid};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A SpikeGPT network whose parameters are leaves of a graph.
pub struct Network {
    parameters: BTreeMap<String, Tensor<2>>,
    blocks: usize,
    /// True if the embedding is its sign.
    binary_embedding: bool,
    /// True if no gradient goes through a reset.
    detached: bool,
    device: Device,
}

/// Numbers and shape of a parameter; one-dimensional parameters have one row.
pub type Parameter = (Vec<f32>, [usize; 2]);

/// Loss of a window and what it says of its network.
pub struct Backward {
    /// Mean loss of a prediction in nats.
    pub loss: f64,
    /// Gradients by name; of what has none, nothing.
    pub gradients: BTreeMap<String, Vec<f32>>,
    /// Least distance of a membrane potential from the threshold.
    pub margin: f32,
}

impl Network {
    /// A network of these parameters.
    pub fn new(
        parameters: &BTreeMap<String, Parameter>,
        blocks: usize,
        binary_embedding: bool,
        detached: bool,
    ) -> Self {
        let device = Device::flex().autodiff();
        let leaf = |(name, (numbers, shape)): (&String, &Parameter)| {
            let data = TensorData::new(numbers.clone(), *shape);
            (name.clone(), Tensor::<2>::from_data(data, &device).require_grad())
        };
        let parameters = parameters.iter().map(leaf).collect();
        Self { parameters, blocks, binary_embedding, detached, device }
    }

    /// Cross entropy of predicting each of `tokens` but the first, and the gradients in all parameters.
    pub fn cross_entropy(&self, tokens: &[u32]) -> Backward {
        let mut margin = f32::INFINITY;
        let given = log_softmax(self.logits(&tokens[..tokens.len() - 1], &mut margin), 1);
        let targets = self.indices(&tokens[1..]).reshape([tokens.len() - 1, 1]);
        let loss = given.gather(1, targets).mean().neg();
        let found = loss.backward();
        let gradient = |(name, parameter): (&String, &Tensor<2>)| {
            let gradient = parameter.grad(&found)?.into_data();
            Some((name.clone(), gradient.try_to_vec::<f32>().expect("32-bit floats")))
        };
        let gradients = self.parameters.iter().filter_map(gradient).collect();
        Backward { loss: f64::from(loss.into_scalar::<f32>()), gradients, margin }
    }

    fn indices(&self, tokens: &[u32]) -> Tensor<1, Int> {
        let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let count = ids.len();
        Tensor::from_data(TensorData::new(ids, [count]), &self.device)
    }

    /// A parameter.
    fn at(&self, name: &str) -> Tensor<2> {
        self.parameters[name].clone()
    }

    /// Logits, `[time, token]`.
    fn logits(&self, tokens: &[u32], margin: &mut f32) -> Tensor<2> {
        let embedding = self.at("emb.weight").select(0, self.indices(tokens));
        let embedding = match self.binary_embedding {
            true => embedding.greater_equal_elem(0.0).float(),
            false => embedding,
        };
        let mut x = self.norm("blocks.0.ln0", embedding);
        for block in 0..self.blocks {
            let at = |name: &str| format!("blocks.{block}.{name}");
            let y = self.norm(&at("ln1"), x.clone());
            x = x + self.lif(self.time_mix(&at("att"), y), margin);
            let y = self.norm(&at("ln2"), x.clone());
            x = x + self.lif(self.channel_mix(&at("ffn"), y), margin);
        }
        self.linear("head", self.norm("ln_out", x))
    }

    fn norm(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().square().mean_dim(1);
        centred / (variance + 1e-5).sqrt() * self.at(&format!("{name}.weight"))
            + self.at(&format!("{name}.bias"))
    }

    fn linear(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.at(&format!("{name}.weight")).transpose())
    }

    /// Token shift: `m y_t + (1 - m) y_(t-1)`.
    fn mix(&self, name: &str, y: &Tensor<2>) -> Tensor<2> {
        let [time, channels] = y.dims();
        let zeros = Tensor::zeros([1, channels], &self.device);
        let before = match time {
            1 => zeros,
            _ => Tensor::cat(vec![zeros, y.clone().slice([0..time - 1, 0..channels])], 0),
        };
        let m = self.at(name);
        m.clone() * y.clone() + (m.neg() + 1.0) * before
    }

    fn time_mix(&self, name: &str, y: Tensor<2>) -> Tensor<2> {
        let of = |part: &str, m: &str| {
            self.linear(&format!("{name}.{part}"), self.mix(&format!("{name}.time_mix_{m}"), &y))
        };
        let (k, v, r) = (of("key", "k"), of("value", "v"), of("receptance", "r"));
        self.linear(&format!("{name}.output"), sigmoid(r) * self.wkv(name, k, v))
    }

    fn channel_mix(&self, name: &str, y: Tensor<2>) -> Tensor<2> {
        let of = |part: &str, m: &str| {
            self.linear(&format!("{name}.{part}"), self.mix(&format!("{name}.time_mix_{m}"), &y))
        };
        let (k, r) = (of("key", "k"), of("receptance", "r"));
        sigmoid(r) * self.linear(&format!("{name}.value"), relu(k).square())
    }

    /// WKV: means of the values so far, weighted by the exponentials of their keys, which decay.
    fn wkv(&self, name: &str, k: Tensor<2>, v: Tensor<2>) -> Tensor<2> {
        let kept = self.at(&format!("{name}.time_decay")).exp().neg().exp();
        let first = self.at(&format!("{name}.time_first"));
        let [time, channels] = k.dims();
        let row = |of: &Tensor<2>, t: usize| of.clone().slice([t..t + 1, 0..channels]);
        let mut above = Tensor::zeros([1, channels], &self.device);
        let mut below = above.clone();
        let mut out = Vec::new();
        for t in 0..time {
            let (k, v) = (row(&k, t), row(&v, t));
            let now = (first.clone() + k.clone()).exp();
            out.push((above.clone() + now.clone() * v.clone()) / (below.clone() + now));
            let later = k.exp();
            above = kept.clone() * above + later.clone() * v;
            below = kept.clone() * below + later;
        }
        Tensor::cat(out, 0)
    }

    /// Leaky integrate and fire: leak 1/2, threshold 1, reset to 0.
    fn lif(&self, x: Tensor<2>, margin: &mut f32) -> Tensor<2> {
        let [time, channels] = x.dims();
        let mut v = Tensor::zeros([1, channels], &self.device);
        let mut out = Vec::new();
        for t in 0..time {
            let input = x.clone().slice([t..t + 1, 0..channels]);
            let h = v.clone() + (input - v) * 0.5;
            let apart = h.clone() - 1.0;
            *margin = margin.min(apart.clone().abs().min().into_scalar::<f32>());
            let fires = h.clone().greater_equal_elem(1.0).float();
            let smooth = (apart * PI).atan() * (1.0 / PI);
            let spike = fires + smooth.clone() - smooth.detach();
            let resets = if self.detached { spike.clone().detach() } else { spike.clone() };
            v = (resets.neg() + 1.0) * h;
            out.push(spike);
        }
        Tensor::cat(out, 0)
    }
}
