//! Squared errors of codes, which the loss of a group is taken to grow with from level to level.
//!
//! Source: the law as in HIGGS, arXiv 2411.17525.

use qslm_common::scheme::{Rounding, Scheme, Symmetry};

/// Squared error of codes with their best step, of normal weights of variance 1, from 2 to 8 bits.
///
/// Source: Max, "Quantizing for minimum distortion", IRE IT-6, 1960, table II; symmetric codes leave one level out.
const FULL: [f64; 7] = [0.1188, 0.03744, 0.01154, 0.003_495, 0.001_041, 3.035e-4, 8.714e-5];
const SYMMETRIC: [f64; 7] = [0.1902, 0.04686, 0.01289, 0.003_69, 0.001_07, 3.08e-4, 8.78e-5];
/// Share of the error in a layer's outputs that GPTQ leaves, about.
const LEFT_BY_GPTQ: f64 = 0.7;
/// The same of coordinate descent.
const LEFT_BY_DESCENT: f64 = 0.61;

/// Squared error of a scheme, of normal weights of variance 1.
pub(in crate::strategies) fn squared_error(scheme: Scheme) -> f64 {
    match scheme {
        Scheme::Float | Scheme::Sign => 0.0,
        Scheme::Half => 1e-8,
        Scheme::Integer { format, quantizer } => {
            let by_width = |table: [f64; 7]| table[usize::from(format.bits.get()).saturating_sub(2).min(6)];
            let nearest = match (scheme.step(), format.symmetry) {
                // A uniform grid without an end.
                (Some(step), _) => step.times() * step.times() / 12.0,
                (None, Symmetry::Full | Symmetry::Affine) => by_width(FULL),
                (None, Symmetry::Symmetric | Symmetry::Ternary) => by_width(SYMMETRIC),
            };
            match quantizer.rounding {
                Rounding::Gptq => LEFT_BY_GPTQ * nearest,
                Rounding::Descent | Rounding::Frequency => LEFT_BY_DESCENT * nearest,
                _ => nearest,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_fall_with_bits_and_steps() {
        let error = |text: &str| squared_error(text.parse().unwrap());
        let widths: Vec<f64> = (2..=8).map(|bits| error(&format!("int{bits}:symmetric:channel"))).collect();
        assert!(widths.windows(2).all(|pair| pair[1] < pair[0]));
        assert!(error("int2:full:channel") < error("int2:symmetric:channel"));
        assert!((error("ec:1.08:channel") - 0.0976).abs() < 0.001);
        assert!(error("ec:0.70:channel:gptq") < error("ec:0.70:channel"));
    }
}
