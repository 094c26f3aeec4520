//! Optimizers: from gradients to changes of parameters, element by element.

mod adam;
mod lion;

pub use adam::Adam;
pub use lion::Lion;

use crate::parallel::for_each;
use crate::tensors::Tensors;

/// Elements that a thread takes at a time.
const PIECE: usize = 1 << 15;

/// The rule by which parameters change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Two moments per parameter.
    Adam(Adam),
    /// One moment per parameter, of which the sign decides.
    Lion(Lion),
}

/// Learning rate of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Length of a step; 0 leaves the tensor as it is.
    pub step: f32,
    /// Share of a parameter that a step of length 1 takes away (decoupled weight decay).
    pub decay: f32,
}

/// An optimizer with what it remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    method: Method,
    first: Tensors,
    /// Empty for methods of one moment.
    second: Tensors,
    /// `beta1^t` and `beta2^t`: multiplied up, because a library's power may differ between platforms.
    powers: [f64; 2],
}

impl Optimizer {
    /// An optimizer of these parameters that has seen no gradient.
    pub fn new(method: Method, parameters: &Tensors) -> Self {
        let zeros = || Tensors::zeros_like(parameters);
        let second = if matches!(method, Method::Adam(_)) { zeros() } else { Tensors::default() };
        Self { method, first: zeros(), second, powers: [1.0; 2] }
    }

    /// `beta1^t` and `beta2^t`.
    pub(crate) fn powers(&self) -> [f64; 2] {
        self.powers
    }

    /// What it remembers.
    pub(crate) fn moments(&self) -> impl Iterator<Item = &Tensors> {
        [&self.first, &self.second].into_iter()
    }

    /// As [`Optimizer::moments`], to be put back, with the powers.
    pub(crate) fn moments_mut(&mut self, powers: &[f64]) -> impl Iterator<Item = &mut Tensors> {
        self.powers.iter_mut().zip(powers).for_each(|(to, power)| *to = *power);
        [&mut self.first, &mut self.second].into_iter()
    }

    /// Bytes of what it remembers.
    pub(crate) fn bytes(&self) -> u64 {
        self.moments().map(Tensors::bytes).sum()
    }

    /// Changes every parameter by its gradient times `factor`.
    ///
    /// # Panics
    /// If tensors are not those that it was made for.
    pub fn step<Scratch: Send>(
        &mut self,
        parameters: &mut Tensors,
        gradients: &Tensors,
        factor: f32,
        rate_of: impl Fn(&str) -> Rate,
        threads: &mut [Scratch],
    ) {
        let betas = match self.method {
            Method::Adam(adam) => [adam.beta1, adam.beta2],
            Method::Lion(lion) => [lion.beta1, lion.beta2],
        };
        self.powers.iter_mut().zip(betas).for_each(|(power, beta)| *power *= f64::from(beta));
        let mut seconds = self.second.iter_mut().map(|(_, second)| second);
        let mut jobs = Vec::new();
        for ((name, values), (of, first)) in parameters.iter_mut().zip(self.first.iter_mut()) {
            assert_eq!(name, of, "an optimizer is for the tensors that it was made for");
            let (rate, gradient) = (rate_of(name), gradients.get(name));
            assert!(gradient.len() == values.len() && first.len() == values.len(), "{name}");
            let mut second = seconds.next().unwrap_or_default().chunks_mut(PIECE);
            if rate.step != 0.0 {
                let pieces =
                    values.chunks_mut(PIECE).zip(gradient.chunks(PIECE)).zip(first.chunks_mut(PIECE));
                jobs.extend(pieces.map(|piece| (piece, second.next().unwrap_or_default(), rate)));
            }
        }
        let (method, powers) = (self.method, self.powers);
        for_each(threads, jobs, |_, (((values, gradient), first), second, rate)| match method {
            Method::Adam(adam) => adam.update(values, gradient, factor, first, second, rate, powers),
            Method::Lion(lion) => lion.update(values, gradient, factor, first, rate),
        });
    }
}
