//! Building a model: every parameter of a checkpoint in the form that a candidate asks for.
//!
//! The decision here is the form of a matrix: floats, the codes that its scheme gives it, or the
//! codes that a packed checkpoint stores. `linear` decides what is computed with it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use qslm_common::backend::Backend;
use qslm_common::candidate::{Candidate, InvalidCandidate};
use qslm_common::elementary::{exp, ln_1p};
use qslm_common::hash::ContentHash;
use qslm_common::network::{EMBEDDING, LOG_TAU, LOG_THRESHOLD, Network};
use qslm_common::scheme::{Format, Quantizer, Scheme};

use super::Norm;
use super::cache::{Caches, MatrixKey};
use super::linear::{Linear, Matrix};
use crate::backend::{Compute, NotBuiltIn};
use crate::checkpoint::calibrated::{CodeSource, CodesError, codes_of, vector_of};
use crate::checkpoint::{Checkpoint, Stored, Unreadable};
use crate::kernels::lif::Neuron;
use crate::kernels::step::step;
use crate::quant::{Codes, Statistics, Weights, fake_quantize, quantize};

/// The reason why there is no such model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotBuild {
    /// The candidate is not one of the network.
    #[error(transparent)]
    Candidate(#[from] InvalidCandidate),
    /// The program lacks the backend.
    #[error(transparent)]
    Backend(#[from] NotBuiltIn),
    /// Calibrated codes that cannot be had.
    #[error(transparent)]
    Codes(#[from] CodesError),
    /// Weights that cannot be read any more.
    #[error(transparent)]
    Weights(#[from] Unreadable),
}

/// Source of a model's values.
pub(super) enum WeightSource<'a> {
    /// A checkpoint that other models are built from too.
    Shared(&'a Checkpoint),
    /// A checkpoint that stays on disk.
    Stored(&'a Stored),
    /// A checkpoint that is used up, so that the values are not there twice.
    UsedUp(RefCell<Checkpoint>),
}

impl WeightSource<'_> {
    /// Looks at the codes of a matrix, if the checkpoint stores such.
    fn codes<T>(&self, unit: &str, look: impl FnOnce(&Codes) -> T) -> Option<T> {
        match self {
            Self::Shared(checkpoint) => checkpoint.codes(unit).map(look),
            Self::Stored(checkpoint) => checkpoint.codes(unit).map(look),
            Self::UsedUp(checkpoint) => checkpoint.borrow().codes(unit).map(look),
        }
    }

    /// The values of a parameter, which may be asked for once.
    fn values(&self, name: &str) -> Result<Cow<'_, [f32]>, Unreadable> {
        match self {
            Self::Shared(checkpoint) => Ok(checkpoint.tensor(name)),
            Self::Stored(checkpoint) => checkpoint.values(name),
            Self::UsedUp(checkpoint) => Ok(checkpoint.borrow_mut().take(name).into()),
        }
    }
}

/// Sources of a model: its values, and calibrated codes.
pub(super) struct Sources<'a> {
    pub(super) weights: WeightSource<'a>,
    pub(super) codes: &'a dyn CodeSource,
}

/// The form that the matrix of a unit is kept in.
enum Kept {
    /// The floats that its scheme leaves, for a product of floats.
    Floats,
    /// The codes that its scheme gives it, for a product of integers.
    Codes(Format, Quantizer),
    /// The codes that the checkpoint stores, for a product of integers.
    StoredCodes,
}

/// Builds the parts of a model from a checkpoint under a candidate's schemes.
pub(super) struct Builder<'a> {
    source: Sources<'a>,
    pub(super) network: Network,
    pub(super) candidate: &'a Candidate,
    compute: Compute,
    /// Caches of matrices, and the name of checkpoint and backend there.
    caches: Option<(&'a Caches, ContentHash)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        source: Sources<'a>,
        network: Network,
        candidate: &'a Candidate,
        backend: Backend,
        caches: Option<(&'a Caches, ContentHash)>,
    ) -> Result<Self, CannotBuild> {
        candidate.validate(&network)?;
        Ok(Self { source, network, candidate, compute: Compute::new(backend)?, caches })
    }

    /// The values of a one-dimensional parameter as the candidate stores it: a row of its own.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>, CannotBuild> {
        self.row(name, self.network.channels as usize)
    }

    /// The neuron of a population, with what it learned as the candidate stores it.
    pub(super) fn neuron(&self, population: &str) -> Result<Neuron, CannotBuild> {
        let dynamics = &self.network.dynamics;
        let of = dynamics.neuron.as_ref().expect("a network with populations has neurons");
        let softplus = |name: &str| -> Result<f64, CannotBuild> {
            let learned = f64::from(self.row(&format!("{population}.{name}"), 1)?[0]);
            // As PyTorch has it, without overflow where it is a line.
            Ok(if learned > 20.0 { learned } else { ln_1p(exp(learned)) })
        };
        let leak = match of.leak.fixed() {
            Some(leak) => leak,
            None => (1.0 / (1.0 + softplus(LOG_TAU)?)) as f32,
        };
        let threshold = match of.threshold.fixed() {
            Some(threshold) => threshold,
            None => softplus(LOG_THRESHOLD)? as f32,
        };
        Ok(Neuron::new(of, leak, threshold))
    }

    /// The values of a parameter of at most one dimension as the candidate stores it: a row of its own.
    fn row(&self, name: &str, columns: usize) -> Result<Vec<f32>, CannotBuild> {
        match vector_of(self.source.codes, self.candidate, name, columns).transpose()? {
            Some(values) => Ok(values.into_floats()),
            None => {
                let values = self.source.weights.values(name)?;
                Ok(fake_quantize(values, columns, self.candidate.vectors(), name))
            }
        }
    }

    pub(super) fn norm(&self, name: &str) -> Result<Norm, CannotBuild> {
        let vector = |what: &str| self.vector(&format!("{name}.{what}"));
        Ok(Norm { weight: vector("weight")?, bias: vector("bias")? })
    }

    /// The values of a unit as its scheme stores them.
    fn weights(&self, unit: &str, columns: usize) -> Result<Vec<f32>, Unreadable> {
        let values = self.source.weights.values(unit)?;
        Ok(fake_quantize(values, columns, self.candidate.scheme(unit), unit))
    }

    pub(super) fn linear(&self, unit: &str) -> Result<Linear, CannotBuild> {
        let make = || self.matrix(unit);
        let matrix = match self.caches {
            Some((caches, of)) => caches.linear(self.key(of, unit), make),
            None => make(),
        };
        Ok(Linear::new(unit, matrix?, self.candidate.activation(unit)))
    }

    fn matrix(&self, unit: &str) -> Result<Matrix, CannotBuild> {
        let (rows, columns) = self.network.shape_of(unit);
        let calibrated = codes_of(self.source.codes, self.candidate, &self.network, unit).transpose()?;
        let codes = match (self.kept(unit), calibrated) {
            (Kept::Codes(..), Some(codes)) => Some(Matrix::of_codes(&codes, rows)),
            (_, Some(codes)) => Some(Matrix::new(codes.dequantize(), columns, &self.compute)),
            (Kept::Floats, None) => None,
            (Kept::Codes(format, quantizer), None) => {
                let weights = Weights { values: &self.source.weights.values(unit)?, columns, unit };
                Some(Matrix::of_codes(&quantize(weights, format, quantizer, &Statistics::NONE), rows))
            }
            (Kept::StoredCodes, None) => {
                self.source.weights.codes(unit, |codes| Matrix::of_codes(codes, rows))
            }
        };
        match codes {
            Some(codes) => Ok(codes),
            None => Ok(Matrix::new(self.weights(unit, columns)?, columns, &self.compute)),
        }
    }

    /// The form that a unit is kept in: codes if the backend multiplies such with its input, there are some,
    /// and they have at most one scale for each output.
    fn kept(&self, unit: &str) -> Kept {
        let multiplies_codes = match self.compute {
            Compute::Native => self.candidate.activation(unit).is_some(),
            Compute::Integer => true,
            Compute::Burn(_) => false,
        };
        let (rows, columns) = self.network.shape_of(unit);
        let suits = |format: Format| {
            multiplies_codes && [1, rows].contains(&format.granularity.scales(rows, columns))
        };
        match self.candidate.scheme(unit) {
            Scheme::Integer { format, quantizer } if suits(format) => Kept::Codes(format, quantizer),
            // Left as it is in the checkpoint.
            Scheme::Float if self.source.weights.codes(unit, |codes| suits(codes.format)) == Some(true) => {
                Kept::StoredCodes
            }
            _ => Kept::Floats,
        }
    }

    pub(super) fn embedding(&self) -> Result<Arc<Vec<f32>>, CannotBuild> {
        let make = || {
            let calibrated = codes_of(self.source.codes, self.candidate, &self.network, EMBEDDING);
            let mut embedding = match calibrated.transpose()? {
                Some(codes) => codes.dequantize(),
                None => self.weights(EMBEDDING, self.network.channels as usize)?,
            };
            if self.network.binary_embedding {
                step(&mut embedding);
            }
            Ok(Arc::new(embedding))
        };
        match self.caches {
            Some((caches, of)) => caches.embedding(self.key(of, EMBEDDING), make),
            None => make(),
        }
    }

    fn key(&self, of: ContentHash, unit: &str) -> MatrixKey {
        let scheme = match self.candidate.scheme(unit) {
            // The signs of a binary embedding are all that is read of it.
            Scheme::Sign if unit == EMBEDDING && self.network.binary_embedding => Scheme::Float,
            scheme => scheme,
        };
        let as_codes = !matches!(self.kept(unit), Kept::Floats);
        MatrixKey { of, unit: unit.to_owned(), scheme, artifact: self.candidate.codes_of(unit), as_codes }
    }
}
