//! A training step: weights on their grids, a backward pass, and the optimizer.

use qslm_common::candidate::Candidate;
use qslm_common::network::{EMBEDDING, Network};
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::quant::Codes;

use crate::clip;
use crate::fake_quant::{CannotTrain, FakeQuant, Quantized, scales_of};
use crate::network::{BatchLoss, Objective, Window, Workspace};
use crate::optimizer::{Method, Optimizer, Rate};
use crate::part::Part;
use crate::schedule::Schedule;
use crate::tensors::Tensors;
use crate::weights::{Passes, Weights};

/// Settings of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The optimizer.
    pub method: Method,
    /// Rates over the run, as shares of the following.
    pub schedule: Schedule,
    /// Highest learning rate of matrices.
    pub rate: f32,
    /// That of vectors; 0 leaves them as they are.
    pub vector_rate: f32,
    /// That of scales, as a share of the mean scale of their unit at the start.
    pub scale_rate: f32,
    /// That of zero points, in codes; 0 leaves them as they are.
    pub zero_point_rate: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// What a bit costs, in nats, of the mean over weights whose codes an entropy coder stores: those of schemes with a step
    /// instead of a width.
    pub bit_cost: f32,
    /// Largest norm of the gradient.
    pub clip: f64,
    /// Gradient through the reset of LIF neurons.
    pub reset: Reset,
    /// Threads; they change no bit of the result.
    pub threads: usize,
}

/// What a checkpoint begins with: another form of it begins otherwise.
const MAGIC: &[u8; 8] = b"qslmqat1";

/// A network under training, or a part of one.
#[derive(Debug)]
pub struct Trainer {
    network: Network,
    part: Part,
    settings: Settings,
    quant: FakeQuant,
    parameters: Tensors,
    gradients: Tensors,
    /// Highest learning rates by name.
    rates: Vec<(String, Rate)>,
    optimizer: Optimizer,
    weights: Weights,
    workspace: Workspace,
    /// One for each thread.
    buffers: Vec<Vec<f32>>,
    steps: u32,
}

impl Trainer {
    /// Training of a checkpoint under a candidate: its schemes decide what is rounded, how codes are chosen is learned.
    ///
    /// # Errors
    /// [`CannotTrain`].
    pub fn new(
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        settings: Settings,
    ) -> Result<Self, CannotTrain> {
        Self::of_part(checkpoint, candidate, Part::whole(checkpoint.network()), settings)
    }

    /// As [`Trainer::new`], of a part, which [`Trainer::step_with`] trains.
    ///
    /// # Errors
    /// [`CannotTrain`].
    pub fn of_part(
        checkpoint: &Checkpoint,
        candidate: &Candidate,
        part: Part,
        settings: Settings,
    ) -> Result<Self, CannotTrain> {
        let network = *checkpoint.network();
        let mut parameters = Tensors::of_part(checkpoint, &part);
        let quant = FakeQuant::new(&network, candidate, &mut parameters)?;
        let matrices: Vec<String> = network.units().into_iter().map(|unit| unit.name).collect();
        let rate_of = |name: &str, values: &[f32]| {
            let (step, decay) = match name {
                EMBEDDING if network.binary_embedding => (0.0, 0.0),
                _ if name.ends_with(".scales") => (scale_rate(&settings, values), 0.0),
                _ if name.ends_with(".zero_points") => (settings.zero_point_rate, 0.0),
                _ if matrices.iter().any(|matrix| matrix == name) => (settings.rate, settings.weight_decay),
                _ => (settings.vector_rate, 0.0),
            };
            Rate { step, decay }
        };
        let rates =
            parameters.iter().map(|(name, values)| (name.to_owned(), rate_of(name, values))).collect();
        Ok(Self {
            network,
            part,
            settings,
            quant,
            gradients: Tensors::zeros_like(&parameters),
            rates,
            optimizer: Optimizer::new(settings.method, &parameters),
            parameters,
            weights: Weights::new(&network),
            workspace: Workspace::new(&network, settings.reset, settings.threads),
            buffers: vec![Vec::new(); settings.threads.max(1)],
            steps: 0,
        })
    }

    /// Leaves the codes of a unit as these are from here on, and trains its scales only.
    ///
    /// # Panics
    /// If the unit has no learned grid, or the codes do not fit it.
    pub fn freeze(&mut self, unit: &str, codes: Codes) {
        self.quant.freeze(unit, codes, &mut self.parameters);
        let name = scales_of(unit);
        let step = scale_rate(&self.settings, self.parameters.get(&name));
        let of_unit = self.rates.iter_mut().filter(|(of, _)| *of == name);
        of_unit.for_each(|(_, rate)| rate.step = step);
    }

    /// Starts from other values of a parameter.
    ///
    /// # Panics
    /// If there is none of that name and size.
    pub fn put(&mut self, name: &str, values: &[f32]) {
        self.parameters.get_mut(name).copy_from_slice(values);
    }

    /// Trains on a batch. The loss is that before the step.
    pub fn step(&mut self, batch: &[Window<'_>], objective: Objective<'_>) -> BatchLoss {
        self.step_with(|workspace, weights, gradients| {
            workspace.backward(weights, batch, objective, gradients)
        })
    }

    /// Trains on what `backward` finds: it is given the weights on their grids and writes the gradient of every parameter. What
    /// it answers is passed on.
    pub fn step_with<Loss>(
        &mut self,
        backward: impl FnOnce(&mut Workspace, &Weights, &mut Tensors) -> Loss,
    ) -> Loss {
        let quantized = Quantized { quant: &self.quant, parameters: &self.parameters };
        self.weights.load_part(&self.part, Passes::Both, &quantized, &mut self.buffers);
        let loss = backward(&mut self.workspace, &self.weights, &mut self.gradients);
        let bit_cost = self.settings.bit_cost;
        self.quant.straight_through(&self.parameters, &mut self.gradients, bit_cost, &mut self.buffers);
        let norm = clip::norm(&self.gradients, &mut self.buffers);
        let factor = clip::factor(norm, self.settings.clip);
        let share = self.settings.schedule.at(self.steps) as f32;
        let rates = &self.rates;
        let rate_of = |name: &str| {
            let index = rates.binary_search_by(|(of, _)| of.as_str().cmp(name));
            let Rate { step, decay } = index.map_or(Rate { step: 0.0, decay: 0.0 }, |at| rates[at].1);
            Rate { step: step * share, decay }
        };
        let (parameters, gradients) = (&mut self.parameters, &self.gradients);
        self.optimizer.step(parameters, gradients, factor, rate_of, &mut self.buffers);
        self.steps += 1;
        loss
    }

    /// A checkpoint: steps, and all parameters with what the optimizer remembers of them.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = Vec::from(*MAGIC);
        bytes.extend(self.steps.to_le_bytes());
        self.optimizer.powers().iter().for_each(|power| bytes.extend(power.to_le_bytes()));
        for tensors in [&self.parameters].into_iter().chain(self.optimizer.moments()) {
            for (_, values) in tensors.iter() {
                values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            }
        }
        bytes
    }

    /// Takes over a checkpoint of a trainer of the same network, candidate and settings. One that is none is left alone, and
    /// false is the answer.
    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        let count = |tensors: &Tensors| tensors.iter().map(|(_, values)| values.len()).sum::<usize>();
        let floats = count(&self.parameters) + self.optimizer.moments().map(count).sum::<usize>();
        let Some(bytes) = bytes.strip_prefix(MAGIC).filter(|rest| rest.len() == 4 + 16 + 4 * floats) else {
            return false;
        };
        let (steps, rest) = bytes.split_at(4);
        let (powers, rest) = rest.split_at(16);
        self.steps = u32::from_le_bytes(steps.try_into().unwrap_or_default());
        let (powers, _) = powers.as_chunks::<8>();
        let powers: Vec<f64> = powers.iter().map(|power| f64::from_le_bytes(*power)).collect();
        let (values, _) = rest.as_chunks::<4>();
        let mut values = values.iter().map(|value| f32::from_le_bytes(*value));
        for tensors in [&mut self.parameters].into_iter().chain(self.optimizer.moments_mut(&powers)) {
            for (_, to) in tensors.iter_mut() {
                to.iter_mut().zip(&mut values).for_each(|(to, value)| *to = value);
            }
        }
        true
    }

    /// Puts what the part computes with into the weights of a network that runs forward alone.
    pub fn lend(&mut self, to: &mut Weights) {
        let quantized = Quantized { quant: &self.quant, parameters: &self.parameters };
        to.load_part(&self.part, Passes::Forward, &quantized, &mut self.buffers);
    }

    /// The part that trains.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// The shape of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Steps so far.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Parameters as they are now: master weights, vectors, scales, zero points.
    pub fn parameters(&self) -> &Tensors {
        &self.parameters
    }

    /// The gradients of the last step.
    pub fn gradients(&self) -> &Tensors {
        &self.gradients
    }

    /// Quantization of the candidate.
    pub fn quant(&self) -> &FakeQuant {
        &self.quant
    }

    /// The codes of a unit as they are now; `None` if its scheme has none.
    pub fn codes(&self, unit: &str) -> Option<Codes> {
        self.quant.codes(unit, &self.parameters)
    }
}

/// Learning rate of scales that start with these values.
fn scale_rate(settings: &Settings, values: &[f32]) -> f32 {
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
    settings.scale_rate * mean as f32
}
