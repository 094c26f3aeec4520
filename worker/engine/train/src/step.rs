//! A training step: weights on their grids, a backward pass, and the optimizer.

#[cfg(feature = "autodiff")]
mod autodiff;

use qslm_common::backend::Backend;
use qslm_common::candidate::Candidate;
use qslm_common::network::{EMBEDDING, Network};
#[cfg(feature = "autodiff")]
use qslm_engine::autodiff::Graph;
use qslm_engine::checkpoint::Checkpoint;
use qslm_engine::kernels::gradient::lif::Reset;
use qslm_engine::quant::Codes;

use crate::clip;
use crate::fake_quant::{CannotTrain, FakeQuant, Quantized, scales_of};
use crate::gradients::Gradients;
use crate::network::{BatchLoss, Objective, Window, Workspace};
use crate::optimizer::{Method, Optimizer, Rate};
use crate::part::Part;
use crate::schedule::Schedule;
use crate::states::int8::{Held, Int8, Pushing};
use crate::states::{StateBytes, States};
use crate::tensors::Tensors;
use crate::weights::{Passes, Source, Weights};

/// Settings of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The optimizer.
    pub method: Method,
    /// What is held of matrices.
    pub states: States,
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
/// That of a checkpoint with int8 states.
const MAGIC_INT8: &[u8; 8] = b"qslmqft1";

/// A pass forward and back over a batch.
pub trait Pass {
    /// What it answers.
    type Loss;

    /// Takes over the parameters of a part as a step computes with them.
    fn load(&mut self, part: &Part, source: &impl Source, weights: &mut Weights, buffers: &mut [Vec<f32>]) {
        weights.load_part(part, Passes::Both, source, buffers);
    }

    /// Computes the loss with weights on their grids, and the gradient of every parameter.
    fn run(self, workspace: &mut Workspace, weights: &Weights, gradients: &mut impl Gradients) -> Self::Loss;
}

/// The pass through a whole network.
struct EndToEnd<'a> {
    batch: &'a [Window<'a>],
    objective: Objective<'a>,
}

impl Pass for EndToEnd<'_> {
    type Loss = BatchLoss;

    fn run(self, workspace: &mut Workspace, weights: &Weights, gradients: &mut impl Gradients) -> BatchLoss {
        workspace.backward(weights, self.batch, self.objective, gradients)
    }
}

/// A network under training, or a part of one.
#[derive(Debug)]
pub struct Trainer {
    network: Network,
    part: Part,
    settings: Settings,
    quant: FakeQuant,
    /// All that is held as floats, and the gradients of it.
    parameters: Tensors,
    gradients: Tensors,
    /// Highest learning rates by name.
    rates: Vec<(String, Rate)>,
    optimizer: Optimizer,
    /// The matrices, if their states are int8; the others are among the parameters.
    int8: Option<Int8>,
    weights: Weights,
    workspace: Workspace,
    /// What finds gradients in the place of weights and workspace, on a backend of Burn.
    #[cfg(feature = "autodiff")]
    graph: Option<Graph>,
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
        let lion_of = |seed| match settings.method {
            Method::Lion(lion) => Ok((lion, seed)),
            Method::Adam(_) => Err(CannotTrain::Int8Moments),
        };
        let int8 = match settings.states {
            States::Float => None,
            States::Int8 { seed } => Some(lion_of(seed)?),
        };
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
        let int8 = int8.map(|(lion, seed)| Int8::take(&network, &mut parameters, lion, seed));
        Ok(Self {
            network,
            part,
            settings,
            quant,
            gradients: Tensors::zeros_like(&parameters),
            rates,
            optimizer: Optimizer::new(settings.method, &parameters),
            parameters,
            int8,
            weights: Weights::new(&network),
            workspace: Workspace::new(&network, settings.reset, settings.threads),
            #[cfg(feature = "autodiff")]
            graph: None,
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

    /// Lets a backend find the gradients of [`Trainer::step`]; `checkpoint` is the float network, in the place of an
    /// objective's teacher there. On another than native, sums have no promised order, so no promised bits.
    ///
    /// # Errors
    /// [`CannotTrain::Backend`]: see [`trains_on`].
    pub fn compute_on(&mut self, backend: Backend, checkpoint: &Checkpoint) -> Result<(), CannotTrain> {
        match backend {
            Backend::Native => Ok(()),
            #[cfg(feature = "autodiff")]
            other => self.find_by_autodiff(other, checkpoint),
            #[cfg(not(feature = "autodiff"))]
            other => {
                let _ = checkpoint;
                Err(CannotTrain::Backend(other))
            }
        }
    }

    /// Trains on a batch. The loss is that before the step.
    pub fn step(&mut self, batch: &[Window<'_>], objective: Objective<'_>) -> BatchLoss {
        #[cfg(feature = "autodiff")]
        if let Some(graph) = self.graph.take() {
            return self.step_on(graph, batch, objective);
        }
        self.step_with(EndToEnd { batch, objective })
    }

    /// Trains on what a pass finds. What it answers is passed on.
    pub fn step_with<P: Pass>(&mut self, mut pass: P) -> P::Loss {
        let Self { quant, parameters, gradients, buffers, int8, weights, workspace, .. } = self;
        let held = Held { floats: parameters, matrices: int8.as_ref().map(Int8::weights) };
        pass.load(&self.part, &Quantized { quant, parameters: &held }, weights, buffers);
        let (bit_cost, step) = (self.settings.bit_cost, self.steps);
        let (loss, of_int8) = match int8 {
            None => {
                let loss = pass.run(workspace, weights, gradients);
                quant.straight_through(parameters, gradients.iter_mut(), bit_cost, buffers);
                (loss, 0.0)
            }
            Some(int8) => {
                let mut pushing = Pushing { quant, parameters, gradients, int8, bit_cost, step, buffers };
                let loss = pass.run(workspace, weights, &mut pushing);
                (loss, int8.sum_of_squares())
            }
        };
        self.update(of_int8);
        loss
    }

    /// Changes the parameters by their gradients; `of_int8` is the sum of the squares of those that are held as int8.
    fn update(&mut self, of_int8: f64) {
        let step = self.steps;
        let Self { parameters, gradients, buffers, .. } = self;
        let norm = (clip::squares(gradients, buffers) + of_int8).sqrt();
        let factor = clip::factor(norm, self.settings.clip);
        let share = self.settings.schedule.at(self.steps) as f32;
        let rates = &self.rates;
        let rate_of = |name: &str| {
            let index = rates.binary_search_by(|(of, _)| of.as_str().cmp(name));
            let Rate { step, decay } = index.map_or(Rate { step: 0.0, decay: 0.0 }, |at| rates[at].1);
            Rate { step: step * share, decay }
        };
        self.optimizer.step(parameters, gradients, factor, rate_of, buffers);
        if let Some(int8) = &mut self.int8 {
            int8.update(factor, rate_of, step, buffers);
        }
        self.steps += 1;
    }

    /// A checkpoint: steps, and all parameters with what the optimizer remembers of them.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = Vec::from(*self.magic());
        bytes.extend(self.steps.to_le_bytes());
        self.optimizer.powers().iter().for_each(|power| bytes.extend(power.to_le_bytes()));
        for values in self.floats() {
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        for codes in self.int8.iter().flat_map(Int8::codes) {
            bytes.extend(codes.iter().map(|code| code.cast_unsigned()));
        }
        bytes
    }

    /// Takes over a checkpoint of a trainer of the same network, candidate and settings. One that is none is left alone, and
    /// false is the answer.
    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        let floats: usize = self.floats().map(<[f32]>::len).sum();
        let codes: usize = self.int8.iter().flat_map(Int8::codes).map(<[i8]>::len).sum();
        let length = 4 + 16 + 4 * floats + codes;
        let Some(bytes) = bytes.strip_prefix(self.magic()).filter(|rest| rest.len() == length) else {
            return false;
        };
        let (steps, rest) = bytes.split_at(4);
        let (powers, rest) = rest.split_at(16);
        self.steps = u32::from_le_bytes(steps.try_into().unwrap_or_default());
        let (powers, _) = powers.as_chunks::<8>();
        let powers: Vec<f64> = powers.iter().map(|power| f64::from_le_bytes(*power)).collect();
        let (values, codes) = rest.split_at(4 * floats);
        let (values, _) = values.as_chunks::<4>();
        let mut values = values.iter().map(|value| f32::from_le_bytes(*value));
        let moments = self.optimizer.moments_mut(&powers);
        let tensors = [&mut self.parameters].into_iter().chain(moments).flat_map(Tensors::iter_mut);
        let of_int8 = self.int8.iter_mut().flat_map(Int8::floats_mut);
        for to in tensors.map(|(_, to)| to).chain(of_int8) {
            to.iter_mut().zip(&mut values).for_each(|(to, value)| *to = value);
        }
        let mut codes = codes.iter().map(|code| code.cast_signed());
        for to in self.int8.iter_mut().flat_map(Int8::codes_mut) {
            to.iter_mut().zip(&mut codes).for_each(|(to, code)| *to = code);
        }
        true
    }

    fn magic(&self) -> &'static [u8; 8] {
        if self.int8.is_some() { MAGIC_INT8 } else { MAGIC }
    }

    /// The floats of a checkpoint.
    fn floats(&self) -> impl Iterator<Item = &[f32]> {
        let tensors = [&self.parameters].into_iter().chain(self.optimizer.moments()).flat_map(Tensors::iter);
        tensors.map(|(_, values)| values).chain(self.int8.iter().flat_map(Int8::floats))
    }

    /// Bytes of parameters, gradients and moments that the trainer holds, by the lengths of what they are in. Beside them are
    /// what a step computes with: weights packed for products, tapes, and with int8 states the floats of the gradients that
    /// are being computed.
    pub fn state_bytes(&self) -> StateBytes {
        let floats = StateBytes {
            weights: self.parameters.bytes(),
            gradients: self.gradients.bytes(),
            moments: self.optimizer.bytes(),
        };
        floats + self.int8.as_ref().map_or_else(StateBytes::default, Int8::bytes)
    }

    /// Puts what the part computes with into the weights of a network that runs forward alone.
    pub fn lend(&mut self, to: &mut Weights) {
        let Self { quant, parameters, buffers, int8, .. } = self;
        let held = Held { floats: parameters, matrices: int8.as_ref().map(Int8::weights) };
        to.load_part(&self.part, Passes::Forward, &Quantized { quant, parameters: &held }, buffers);
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

    /// Parameters that are held as floats, as they are now: master weights, vectors, scales, zero points; with int8 states
    /// all but the weights of matrices.
    pub fn parameters(&self) -> &Tensors {
        &self.parameters
    }

    /// The gradients of the last step in them.
    pub fn gradients(&self) -> &Tensors {
        &self.gradients
    }

    /// A tensor of the network as a step computes with it, on its grid.
    ///
    /// # Panics
    /// If the network has none of this name.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let parameters = self.held();
        let quantized = Quantized { quant: &self.quant, parameters: &parameters };
        quantized.values(name, &mut Vec::new()).into_owned()
    }

    /// The master weights of a matrix as they are now, `[rows, columns]` row-major: those that int8 codes and outliers stand
    /// for, if its states are int8.
    pub fn master_weights(&self, matrix: &str) -> Vec<f32> {
        match self.int8.as_ref().and_then(|int8| int8.weights().get(matrix)) {
            None => self.parameters.get(matrix).to_vec(),
            Some(weights) => weights.to_floats(),
        }
    }

    /// Quantization of the candidate.
    pub fn quant(&self) -> &FakeQuant {
        &self.quant
    }

    /// The codes of a unit as they are now; `None` if its scheme has none.
    pub fn codes(&self, unit: &str) -> Option<Codes> {
        self.quant.codes(unit, &self.held())
    }

    fn held(&self) -> Held<'_> {
        Held { floats: &self.parameters, matrices: self.int8.as_ref().map(Int8::weights) }
    }
}

/// True if this program trains on a backend.
pub fn trains_on(backend: Backend) -> bool {
    match backend {
        Backend::Native => true,
        #[cfg(feature = "autodiff")]
        other => qslm_engine::autodiff::has(other),
        #[cfg(not(feature = "autodiff"))]
        _ => false,
    }
}

/// Learning rate of scales that start with these values.
fn scale_rate(settings: &Settings, values: &[f32]) -> f32 {
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
    settings.scale_rate * mean as f32
}
