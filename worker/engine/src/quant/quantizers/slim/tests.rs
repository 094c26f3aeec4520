//! SliM-LLM against what its formulas ask for.

use super::super::examples::{format_of, noise};
use super::*;
use crate::quant::{InputMoments, pack};

/// Codes of weights for inputs whose columns have these sizes.
fn slim(weights: &[f32], text: &str, sizes: &[f32]) -> Codes {
    let columns = sizes.len();
    let mut inputs = noise(300 * columns, 5);
    inputs.iter_mut().enumerate().for_each(|(at, x)| *x *= sizes[at % columns]);
    let mut moments = InputMoments::new(columns);
    moments.add(&inputs);
    let factor = moments.finish().unwrap().factor(0.01, false).unwrap();
    let statistics =
        Statistics { inputs: Some(&factor), sample: Some(&inputs[..40 * columns]), ..Statistics::NONE };
    Slim.quantize(Weights { values: weights, columns, unit: "head.weight" }, format_of(text), &statistics)
}

#[test]
fn as_many_groups_gain_a_bit_as_lose_one_and_codes_fit_their_widths() {
    let mut sizes = vec![1.0; 64];
    sizes[24..32].fill(10.0);
    sizes[40..48].fill(0.1);
    let weights = noise(48 * 64, 2);
    for bits in 2..=6 {
        let codes = slim(&weights, &format!("int{bits}:full:group8:f16:slim"), &sizes);
        let widths = &codes.widths;
        assert_eq!(widths.iter().map(|width| u32::from(*width)).sum::<u32>(), 8 * bits, "{widths:?}");
        let bits = bits as u8;
        assert!(widths.iter().all(|width| (bits - 1..=bits + 1).contains(width)), "{widths:?}");
        for (at, code) in codes.values.iter().enumerate() {
            let width = widths[at % 64 / 8];
            let most = 1i32 << (width - 1);
            assert!((-most..most).contains(&i32::from(*code)), "code {code} of {width} bits");
        }
    }
}

#[test]
fn the_group_whose_inputs_are_large_gains_and_rows_in_another_order_change_nothing() {
    let mut sizes = vec![1.0; 64];
    sizes[24..32].fill(10.0);
    sizes[40..48].fill(0.05);
    let weights = noise(32 * 64, 3);
    let codes = slim(&weights, "int3:full:group8:f16:slim", &sizes);
    assert_eq!((codes.widths[3], codes.widths[5]), (4, 2), "{:?}", codes.widths);
    let backwards: Vec<f32> = weights.chunks(64).rev().flatten().copied().collect();
    assert_eq!(slim(&backwards, "int3:full:group8:f16:slim", &sizes).widths, codes.widths);
}

#[test]
fn a_matrix_of_two_groups_stays_uniform() {
    let weights = noise(16 * 16, 4);
    let codes = slim(&weights, "int3:full:group8:slim", &[1.0; 16]);
    assert_eq!(codes.widths, [3, 3]);
    // A last group that is shorter keeps its width.
    let odd = slim(&noise(16 * 36, 4), "int3:full:group8:slim", &[1.0; 36]);
    assert_eq!((odd.widths.len(), odd.widths[4]), (5, 3));
}

#[test]
fn grids_lose_no_more_than_those_of_the_whole_range() {
    let format = format_of("int2:full:group16:slim");
    let run = noise(16, 8);
    let error = |grid: Grid| {
        run.iter().map(|w| (f64::from(*w) - nearest(f64::from(*w), grid).1).abs().powf(2.4)).sum::<f64>()
    };
    let (found, whole) = (fitted(&run, format, &[false; 16]), over(&run, format, 1.0));
    assert!(error(found) <= error(whole) * (1.0 + 1e-12));
    let factor = found.scale / whole.scale;
    assert!((0.899..=1.101).contains(&factor), "{factor}");
    for x in [0.0f64, 1e-12, 0.3, 1.0, 77.0] {
        assert!((fifth_root(x) - x.powf(0.2)).abs() <= 1e-12 * x.powf(0.2), "{x}");
    }
}

#[test]
fn divergences_are_those_of_softmaxes() {
    // p = (1/2, 1/2) against q = (3/4, 1/4).
    let (changed, reference) = ([0.0, 0.0], [3.0f32.ln(), 0.0]);
    let expected = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
    assert!((divergence(&changed, &reference, 2) - expected).abs() < 1e-6);
    assert_eq!(divergence(&[], &[], 2), 0.0);
    assert_eq!(outputs(&[1.0, 2.0, 3.0, 4.0], 2, &[1.0, 1.0, 0.0, 2.0]), [3.0, 7.0, 4.0, 8.0]);
}

#[test]
fn mixed_widths_take_the_bytes_of_their_mean_and_come_back() {
    let mut sizes = vec![1.0; 64];
    sizes[24..32].fill(10.0);
    let codes = slim(&noise(24 * 64, 6), "int3:full:group8:f16:slim", &sizes);
    let bytes = pack::pack_codes(&codes);
    assert_eq!(bytes.len() as u64, codes.format.code_bytes(24 * 64));
    assert_eq!(
        pack::unpack_codes(&bytes, codes.format, 64, &codes.widths, 24 * 64),
        Some(codes.values.clone())
    );
}
