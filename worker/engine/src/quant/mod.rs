//! Weights to codes and back.
//!
//! A matrix is cut into runs that share a scale: all of it, a row, or a group of columns. Each run is
//! quantized on its own, over the range from its smallest to its largest weight, to nearest with ties to
//! even (as `torch.round`). Formulas: MODEL.md section 2 and [`qslm_common::scheme::Symmetry`].

use qslm_common::scheme::{Granularity, Integer, Scheme, Symmetry};

/// A matrix as integer codes with their scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// One code per weight, row-major, within the scheme's `q_min..=q_max`.
    pub codes: Vec<i8>,
    /// One scale per run, in the order of the runs. Never negative; 0 if all weights of the run are 0.
    pub scales: Vec<f32>,
    /// One code per run that stands for zero; empty if symmetric.
    pub zero_points: Vec<i8>,
}

/// The weights that a network stored under `scheme` computes with.
///
/// `weights` is `[rows, columns]` row-major and finite. `Sign` gives +1 and -1.
pub fn fake_quantize(weights: &[f32], columns: usize, scheme: Scheme) -> Vec<f32> {
    match scheme {
        Scheme::Float => weights.to_vec(),
        Scheme::Sign => weights.iter().map(|w| if *w >= 0.0 { 1.0 } else { -1.0 }).collect(),
        Scheme::Integer(integer) => dequantize(&quantize(weights, columns, integer), columns, integer),
    }
}

/// Quantizes `[rows, columns]` finite weights.
pub fn quantize(weights: &[f32], columns: usize, scheme: Integer) -> Quantized {
    let mut out = Quantized { codes: Vec::with_capacity(weights.len()), scales: vec![], zero_points: vec![] };
    for run in runs(weights, columns, scheme.granularity) {
        let (scale, zero) = parameters(run, scheme);
        out.codes.extend(run.iter().map(|w| code(*w, scale, zero, scheme)));
        out.scales.push(scale);
        if scheme.symmetry == Symmetry::Affine {
            out.zero_points.push(zero as i8);
        }
    }
    out
}

/// `w = s (q - z)` for every code of a `[rows, columns]` matrix.
pub fn dequantize(quantized: &Quantized, columns: usize, scheme: Integer) -> Vec<f32> {
    let mut weights = Vec::with_capacity(quantized.codes.len());
    for (index, run) in runs(&quantized.codes, columns, scheme.granularity).enumerate() {
        let scale = quantized.scales[index];
        let zero = quantized.zero_points.get(index).copied().unwrap_or(0);
        // A scale is rounded, so the outermost code of a range up to the largest float may lie beyond it.
        let weight = |q: &i8| (scale * f32::from(i16::from(*q) - i16::from(zero))).clamp(f32::MIN, f32::MAX);
        weights.extend(run.iter().map(weight));
    }
    weights
}

/// The runs of a row-major matrix that share a scale, in storage order.
fn runs<T>(matrix: &[T], columns: usize, granularity: Granularity) -> impl Iterator<Item = &[T]> {
    let (row, run) = match granularity {
        Granularity::Tensor => (matrix.len(), matrix.len()),
        Granularity::Channel | Granularity::Group(_) => (columns, granularity.run(columns)),
    };
    matrix.chunks(row.max(1)).flat_map(move |row| row.chunks(run.max(1)))
}

/// Scale and zero point of one run.
fn parameters(run: &[f32], scheme: Integer) -> (f32, i32) {
    match scheme.symmetry {
        Symmetry::Symmetric => {
            let largest = run.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
            (largest / scheme.q_max() as f32, 0)
        }
        Symmetry::Affine => {
            // The range includes zero, so that the zero point is a code and the error bound holds.
            let (min, max) = run.iter().fold((0.0f32, 0.0f32), |(min, max), w| (min.min(*w), max.max(*w)));
            let steps = (scheme.q_max() - scheme.q_min()) as f32;
            // Halving first keeps the span of the largest finite floats finite.
            let scale = (max / 2.0 - min / 2.0) / steps * 2.0;
            if scale == 0.0 {
                return (0.0, 0);
            }
            let zero = (scheme.q_min() as f32 - min / scale).round_ties_even();
            (scale, (zero as i32).clamp(scheme.q_min(), scheme.q_max()))
        }
    }
}

/// The code nearest to `w`, clamped to the scheme's codes.
fn code(w: f32, scale: f32, zero: i32, scheme: Integer) -> i8 {
    if scale == 0.0 {
        return zero as i8;
    }
    let steps = (w / scale).round_ties_even() as i32;
    steps.saturating_add(zero).clamp(scheme.q_min(), scheme.q_max()) as i8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_common::scheme::Bits;

    use super::*;

    fn scheme() -> impl Strategy<Value = Integer> {
        let granularity = prop_oneof![
            Just(Granularity::Tensor),
            Just(Granularity::Channel),
            (1u32..9).prop_map(Granularity::Group)
        ];
        let symmetry = prop_oneof![Just(Symmetry::Symmetric), Just(Symmetry::Affine)];
        (2u8..=8, symmetry, granularity).prop_map(|(bits, symmetry, granularity)| Integer {
            bits: Bits::new(bits).unwrap(),
            symmetry,
            granularity,
        })
    }

    /// Up to 6 rows of up to 7 columns, with zeros, ties and wide ranges among the weights.
    fn matrix() -> impl Strategy<Value = (Vec<f32>, usize)> {
        let weight = prop_oneof![
            Just(0.0f32),
            -1.0f32..1.0,
            -1e-3f32..1e-3,
            (-8i8..8).prop_map(f32::from),
            -1e6f32..1e6
        ];
        (1usize..=6, 1usize..=7).prop_flat_map(move |(rows, columns)| {
            (prop::collection::vec(weight.clone(), rows * columns), Just(columns))
        })
    }

    proptest! {
        #[test]
        fn the_error_is_at_most_half_a_step((weights, columns) in matrix(), scheme in scheme()) {
            let quantized = quantize(&weights, columns, scheme);
            let back = dequantize(&quantized, columns, scheme);
            let scales = runs(&weights, columns, scheme.granularity)
                .zip(&quantized.scales)
                .flat_map(|(run, scale)| vec![*scale; run.len()]);
            for ((w, b), scale) in weights.iter().zip(&back).zip(scales) {
                let error = (f64::from(*w) - f64::from(*b)).abs();
                // Half a step, plus what f32 rounds on the way there and back.
                let bound = f64::from(scale) * 0.5 * (1.0 + 1e-4) + f64::from(w.abs()) * 1e-6;
                prop_assert!(error <= bound, "{w} came back as {b} with step {scale}");
            }
        }

        #[test]
        fn quantizing_again_changes_nothing((weights, columns) in matrix(), scheme in scheme()) {
            let once = quantize(&weights, columns, scheme);
            let back = dequantize(&once, columns, scheme);
            for (run, (codes, index)) in runs(&back, columns, scheme.granularity)
                .zip(runs(&once.codes, columns, scheme.granularity).zip(0..))
            {
                let zero = once.zero_points.get(index).copied().unwrap_or(0);
                let again: Vec<i8> = run.iter().map(|w| code(*w, once.scales[index], zero.into(), scheme)).collect();
                prop_assert_eq!(again, codes);
            }
        }

        #[test]
        fn as_many_scales_as_the_footprint_counts((weights, columns) in matrix(), scheme in scheme()) {
            let quantized = quantize(&weights, columns, scheme);
            let rows = weights.len() / columns;
            prop_assert_eq!(quantized.scales.len(), scheme.granularity.scales(rows, columns));
            prop_assert!(quantized.codes.iter().all(|q| (scheme.q_min()..=scheme.q_max()).contains(&i32::from(*q))));
        }

        #[test]
        fn sign_keeps_what_a_binary_embedding_sees((weights, columns) in matrix()) {
            for (w, s) in weights.iter().zip(fake_quantize(&weights, columns, Scheme::Sign)) {
                prop_assert_eq!(*w >= 0.0, s >= 0.0);
            }
        }
    }

    #[test]
    fn ties_go_to_even_as_in_torch() {
        let scheme = Integer {
            bits: Bits::new(3).unwrap(),
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Tensor,
        };
        // Scale 1: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2.
        assert_eq!(quantize(&[3.0, 0.5, 1.5, 2.5, -0.5, -1.5], 6, scheme).codes, [3, 0, 2, 2, 0, -2]);
    }

    #[test]
    fn a_matrix_of_zeros_stays_zero() {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let scheme = Integer { bits: Bits::new(4).unwrap(), symmetry, granularity: Granularity::Channel };
            assert_eq!(fake_quantize(&[0.0; 6], 3, Scheme::Integer(scheme)), [0.0; 6]);
        }
    }

    #[test]
    fn the_largest_floats_do_not_overflow() {
        for text in ["int8:affine:tensor", "int8:symmetric:tensor", "int2:affine:channel"] {
            let back = fake_quantize(&[f32::MAX, f32::MIN, 0.0], 3, text.parse().unwrap());
            assert!(back.iter().all(|w| w.is_finite()), "{text}: {back:?}");
        }
    }
}
