//! Gradients by Burn's autodiff: a forward pass in tensors of a device, of which Burn finds the way back.
//!
//! It is for graphics cards. What trains on processors is the backward pass of `qslm-train` on this package's kernels,
//! whose every sum has one order; the formulas here are the same, and the order of sums is the device's. Between two steps
//! nothing stays on the device but the teacher: whoever trains puts parameters in and takes gradients out.

mod forward;
mod scans;

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use qslm_common::backend::Backend;
use qslm_common::network::{EMBEDDING, HEAD, Network};

use crate::backend::Compute;
use crate::kernels::gradient::lif::Reset;
use crate::kernels::lif::Neuron;
use crate::kernels::step::step;
use forward::Forward;

/// Logits that are there at once: 64 MiB of them, and as many of a teacher, each with its gradient.
const LOGITS_AT_ONCE: usize = 1 << 24;
/// Numbers of residual streams, over all blocks, that windows leave on the device at once. What autodiff keeps of each is
/// about a hundred others.
const STREAMS_AT_ONCE: usize = 1 << 24;

/// Tensors by the names of parameters; of vectors, a row each.
type Parameters = BTreeMap<String, Tensor<2>>;

/// A window: the tokens that enter, and the token after each of them; of a classifier's sentence its class alone.
pub type Window<'a> = (&'a [u32], &'a [u32]);

/// A network on a device, of which losses and gradients are found.
pub struct Graph {
    network: Network,
    /// The neuron of all populations; `None` without spikes.
    neuron: Option<Neuron>,
    reset: Reset,
    /// Rows of the matrices.
    rows: BTreeMap<String, usize>,
    /// With autodiff.
    device: Device,
    /// Leaves of the graph.
    parameters: Parameters,
    /// The float network that is followed; without autodiff. Empty without one.
    teacher: Parameters,
}

/// What a batch says of its network: sums over all predictions, and gradients of the mean loss.
#[derive(Debug, Default)]
pub struct Found {
    /// Cross entropies in nats.
    pub cross_entropy: f64,
    /// Divergences from the teacher in nats; 0 without one.
    pub divergence: f64,
    /// Gradients by name. A binary embedding has none.
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// Gradients and losses so far.
#[derive(Default)]
struct Sums {
    cross_entropy: f64,
    divergence: f64,
    gradients: Parameters,
}

/// True if this program finds gradients on a backend: on those of Burn.
pub fn has(backend: Backend) -> bool {
    matches!(Compute::new(backend), Ok(Compute::Burn(_)))
}

impl Graph {
    /// A network of this shape without parameters; `None` if the backend is none of Burn's, or this program lacks it.
    ///
    /// # Panics
    /// If its dynamics are none that is trained: see [`Dynamics::trainable`](qslm_common::network::Dynamics::trainable).
    pub fn new(backend: Backend, network: &Network, reset: Reset) -> Option<Self> {
        let Ok(Compute::Burn(device)) = Compute::new(backend) else { return None };
        let dynamics = &network.dynamics;
        assert_eq!(dynamics.trainable(), Ok(()));
        let neuron = dynamics.neuron.as_ref().and_then(Neuron::fixed);
        let rows = network.units().into_iter().map(|unit| (unit.name, unit.rows)).collect();
        let (parameters, teacher) = Default::default();
        Some(Self { network: *network, neuron, reset, rows, device: device.autodiff(), parameters, teacher })
    }

    /// Takes over a parameter, in the place of what it was before.
    ///
    /// # Panics
    /// If it is no whole number of rows.
    pub fn put(&mut self, name: &str, values: Vec<f32>) {
        let tensor = self.tensor(name, values, &self.device);
        let is_constant = name == EMBEDDING && self.network.binary_embedding;
        self.parameters.insert(name.to_owned(), tensor.set_require_grad(!is_constant));
    }

    /// As [`Graph::put`], of the float network that is followed.
    ///
    /// # Panics
    /// As [`Graph::put`].
    pub fn put_teacher(&mut self, name: &str, values: Vec<f32>) {
        let tensor = self.tensor(name, values, &self.device.clone().without_autodiff());
        self.teacher.insert(name.to_owned(), tensor);
    }

    /// A matrix in its rows, or a vector as a row.
    fn tensor(&self, name: &str, mut values: Vec<f32>, device: &Device) -> Tensor<2> {
        if name == EMBEDDING && self.network.binary_embedding {
            step(&mut values);
        }
        let rows = self.rows.get(name).copied().unwrap_or(1);
        assert!(values.len().is_multiple_of(rows), "{name}: {} values in {rows} rows", values.len());
        let shape = [rows, values.len() / rows];
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Losses of a batch, and the gradients of the mean of `(1 - share)` cross entropies and `share` divergences from the
    /// teacher.
    ///
    /// # Panics
    /// If a parameter is missing, or the device fails.
    pub fn backward(&self, batch: &[Window<'_>], share: f32) -> Found {
        let predictions: usize = batch.iter().map(|(_, targets)| targets.len()).sum();
        let scale = 1.0 / predictions as f32;
        let mut by_length: BTreeMap<usize, Vec<Window<'_>>> = BTreeMap::new();
        batch.iter().for_each(|window| by_length.entry(window.0.len()).or_default().push(*window));
        let mut sums = Sums::default();
        for (time, windows) in by_length {
            let numbers = time * self.network.channels as usize * self.network.blocks as usize;
            for windows in windows.chunks((STREAMS_AT_ONCE / numbers).max(1)) {
                self.add(windows, time, (share, scale), &mut sums);
            }
        }
        let gradients = sums.gradients.into_iter().map(|(name, gradient)| (name, numbers(gradient)));
        let Sums { cross_entropy, divergence, .. } = sums;
        Found { cross_entropy, divergence, gradients: gradients.collect() }
    }

    /// Adds what windows of equal length say.
    fn add(&self, windows: &[Window<'_>], time: usize, (share, scale): (f32, f32), sums: &mut Sums) {
        let tokens: Vec<u32> = windows.iter().flat_map(|(tokens, _)| *tokens).copied().collect();
        let targets: Vec<u32> = windows.iter().flat_map(|(_, targets)| *targets).copied().collect();
        let (classifies, neuron, reset) = (self.network.is_classifier(), self.neuron, self.reset);
        let rows = |parameters: &Parameters, device: &Device| {
            let blocks = self.network.blocks as usize;
            let forward = Forward { parameters, blocks, neuron, reset };
            let features = forward.features(indices(&tokens, device), [windows.len(), time]);
            let [windows, time, channels] = features.dims();
            match classifies {
                false => features.reshape([windows * time, channels]),
                true => features.mean_dim(1).reshape([windows, channels]),
            }
        };
        let features = rows(&self.parameters, &self.device);
        let followed = (share > 0.0).then(|| rows(&self.teacher, &self.device.clone().without_autodiff()));
        let d = self.losses(features.clone().detach(), followed, &targets, (share, scale), sums);
        let back = (features * d.autodiff()).sum().backward();
        for (name, parameter) in &self.parameters {
            if let Some(gradient) = parameter.grad(&back) {
                sums.add(name, gradient);
            }
        }
    }

    /// Adds the losses of rows of features and the gradients in the head's matrix, some rows at a time. The gradients in the
    /// features are the answer, without autodiff.
    fn losses(
        &self,
        features: Tensor<2>,
        followed: Option<Tensor<2>>,
        targets: &[u32],
        (share, scale): (f32, f32),
        sums: &mut Sums,
    ) -> Tensor<2> {
        let head = &self.parameters[HEAD];
        let [outputs, _] = head.dims();
        let at_once = (LOGITS_AT_ONCE / outputs).max(1);
        let mut all = Vec::new();
        for (targets, start) in targets.chunks(at_once).zip((0..).step_by(at_once)) {
            let count = targets.len();
            let x = features.clone().narrow(0, start, count).require_grad();
            let given = log_softmax(x.clone().matmul(head.clone().transpose()), 1);
            let places = indices(targets, &self.device).reshape([count, 1]);
            let cross_entropy = given.clone().gather(1, places).sum().neg();
            let mut loss = cross_entropy.clone() * (1.0 - share);
            if let Some(followed) = &followed {
                let followed = followed.clone().narrow(0, start, count);
                let wanted = log_softmax(followed.matmul(self.teacher[HEAD].clone().transpose()), 1);
                let divergence = (wanted.clone().exp() * (wanted - given)).sum();
                sums.divergence += number(divergence.clone());
                loss = loss + divergence * share;
            }
            sums.cross_entropy += number(cross_entropy);
            let back = (loss * scale).backward();
            sums.add(HEAD, head.grad(&back).expect("the loss depends on the head"));
            all.push(x.grad(&back).expect("the loss depends on features"));
        }
        Tensor::cat(all, 0)
    }
}

impl Sums {
    /// Adds a gradient.
    fn add(&mut self, name: &str, gradient: Tensor<2>) {
        let sum = match self.gradients.remove(name) {
            None => gradient,
            Some(sum) => sum + gradient,
        };
        self.gradients.insert(name.to_owned(), sum);
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("network", &self.network).field("device", &self.device).finish()
    }
}

/// Indices of rows on a device.
fn indices(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let count = ids.len();
    Tensor::from_data(TensorData::new(ids, [count]), device)
}

/// The numbers of a tensor.
fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    data.try_into_vec::<f32>().unwrap_or_else(|error| panic!("a tensor of f32 is not f32: {error:?}"))
}

/// The number of a tensor that has one.
fn number(tensor: Tensor<1>) -> f64 {
    numbers(tensor).first().copied().map_or(f64::NAN, f64::from)
}
