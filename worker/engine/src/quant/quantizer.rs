//! The seam for quantizers: what one is given, and what it makes.

use qslm_common::scheme::Format;

use super::{Codes, Factor, Hessian};

/// A choice of codes for the weights of a matrix.
///
/// The same weights, format and statistics always give the same codes, on every machine: counts that were
/// measured are kept under the scheme's text.
pub trait Quantizer {
    /// Name: the word of a scheme's text that asks for it.
    fn name(&self) -> &'static str;

    /// Statistics that it needs besides the weights.
    fn needs(&self) -> Needs {
        Needs::Weights
    }

    /// The codes of `weights` in `format`: one per weight, with a scale per run, and a zero point per run if
    /// the format is affine.
    fn quantize(&self, weights: Weights<'_>, format: Format, statistics: &Statistics<'_>) -> Codes;
}

/// A matrix of weights to be quantized.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// Finite weights, `[rows, columns]` row-major.
    pub values: &'a [f32],
    /// Length of a row.
    pub columns: usize,
    /// The matrix's checkpoint name, which seeds what is drawn at random.
    pub unit: &'a str,
}

/// The knowledge that a quantizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The weights alone.
    Weights,
    /// The second moments of the matrix's inputs: [`Statistics::inputs`].
    InputHessian,
    /// The same, and the moments themselves: [`Statistics::hessian`].
    Hessian,
    /// The factor, and some of the inputs: [`Statistics::sample`].
    Inputs,
    /// How often the tokens occur that the rows are: [`Statistics::token_counts`]. Of a matrix that inputs are multiplied
    /// with also the second moments, which the embedding has none of.
    TokenCounts,
    /// The gradients of the loss: [`Statistics::gradients`].
    Gradients,
    /// A trainer, which is no quantizer.
    Training,
}

/// Statistics of calibration data about one matrix, as far as they were gathered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics<'a> {
    /// Factor of the second moments of calibration inputs.
    pub inputs: Option<&'a Factor>,
    /// The second moments that it is the factor of.
    pub hessian: Option<&'a Hessian>,
    /// Some of the calibration inputs, `[tokens, columns]`.
    pub sample: Option<&'a [f32]>,
    /// Occurrences in the calibration data of the token that a row is, by row.
    pub token_counts: Option<&'a [u64]>,
    /// Gradients of the loss with respect to the weights, `[rows, columns]`.
    pub gradients: Option<&'a [f32]>,
}

impl Statistics<'_> {
    /// No statistics: the weights alone are known.
    pub const NONE: Self =
        Self { inputs: None, hessian: None, sample: None, token_counts: None, gradients: None };

    /// True if they hold what is needed.
    pub(super) fn have(&self, needs: Needs) -> bool {
        match needs {
            Needs::Weights => true,
            Needs::InputHessian => self.inputs.is_some(),
            Needs::Hessian => self.inputs.is_some() && self.hessian.is_some(),
            Needs::Inputs => self.inputs.is_some() && self.sample.is_some(),
            Needs::TokenCounts => {
                self.token_counts.is_some() && self.inputs.is_some() == self.hessian.is_some()
            }
            Needs::Gradients => self.gradients.is_some(),
            Needs::Training => false,
        }
    }
}
