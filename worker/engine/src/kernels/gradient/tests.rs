//! Gradients against finite differences of the formulas in double precision, which are written out here.

use proptest::prelude::*;

use super::super::lif::Neuron;
use super::{fake_quant, lif, norm, rate, shift, wkv};
use crate::kernels::grid::{self, Grid};

fn wave(len: usize, by: f32, times: f32) -> Vec<f32> {
    (0..len).map(|i| ((i + 1) as f32 * by).sin() * times).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Derivatives of `f` in every number of `x`, by differences to both sides.
fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let at = |index: usize, by: f64| {
        let mut moved = x.to_vec();
        moved[index] += by;
        f(&moved)
    };
    (0..x.len()).map(|index| (at(index, step) - at(index, -step)) / (2.0 * step)).collect()
}

/// `<weights, values>`.
fn weighed(weights: &[f32], values: impl IntoIterator<Item = f64>) -> f64 {
    weights.iter().zip(values).map(|(w, x)| f64::from(*w) * x).sum()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1.0f64, |top, x| top.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / largest;
        assert!(error < 2e-5, "{what}, {index}: {found} for {expected}");
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn of_layer_norm(time in 1usize..4, channels in 2usize..40) {
        let size = time * channels;
        let (x, d) = (wave(size, 0.73, 3.0), wave(size, 1.31, 1.0));
        let (weight, bias) = (wave(channels, 0.37, 1.5), wave(channels, 0.91, 1.0));
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let rows = x.chunks(channels).flat_map(|row| {
                let mean = row.iter().sum::<f64>() / channels as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
                let scale = (variance + 1e-5).sqrt();
                row.iter().zip(weight).zip(bias).map(move |((x, w), b)| (x - mean) / scale * w + b)
            });
            weighed(&d, rows)
        };
        // What is there already is added to.
        let (mut dx, mut d_weight, mut d_bias) = (vec![0.5; size], vec![0.0; channels], vec![0.0; channels]);
        norm::layer_norm(&x, &weight, &d, &mut dx, &mut d_weight, &mut d_bias);
        dx.iter_mut().for_each(|dx| *dx -= 0.5);
        let (x, weight, bias) = (wide(&x), wide(&weight), wide(&bias));
        assert_close(&dx, &differences(&x, |x| loss(x, &weight, &bias)), "x");
        assert_close(&d_weight, &differences(&weight, |weight| loss(&x, weight, &bias)), "weight");
        assert_close(&d_bias, &differences(&bias, |bias| loss(&x, &weight, bias)), "bias");
    }

    #[test]
    fn of_token_shift(time in 1usize..6, channels in 1usize..20) {
        let size = time * channels;
        let (y, d, mix) = (wave(size, 0.73, 3.0), wave(size, 1.31, 1.0), wave(channels, 0.37, 0.9));
        let loss = |y: &[f64], mix: &[f64]| {
            let before = |i: usize| if i < channels { 0.0 } else { y[i - channels] };
            let m = |i: usize| mix[i % channels];
            weighed(&d, (0..size).map(|i| m(i) * y[i] + (1.0 - m(i)) * before(i)))
        };
        let (mut dy, mut d_mix) = (vec![0.0; size], vec![0.0; channels]);
        shift::mix(&y, &mix, &d, &mut dy, &mut d_mix);
        let (y, mix) = (wide(&y), wide(&mix));
        assert_close(&dy, &differences(&y, |y| loss(y, &mix)), "y");
        assert_close(&d_mix, &differences(&mix, |mix| loss(&y, mix)), "mix");
    }

    #[test]
    fn of_the_gate_and_of_squared_relu(size in 1usize..50) {
        let (gate, x, d) = (wave(size, 0.73, 4.0), wave(size, 0.37, 3.0), wave(size, 1.31, 1.0));
        let (mut dx, mut d_gate) = (d.clone(), vec![0.0; size]);
        shift::gate(&gate, &x, &mut dx, &mut d_gate);
        let loss = |gate: &[f64], x: &[f64]| weighed(&d, gate.iter().zip(x).map(|(g, x)| sigmoid(*g) * x));
        let (wide_gate, wide_x) = (wide(&gate), wide(&x));
        assert_close(&dx, &differences(&wide_x, |x| loss(&wide_gate, x)), "x");
        assert_close(&d_gate, &differences(&wide_gate, |gate| loss(gate, &wide_x)), "gate");
        let (mut in_place, mut out) = (x.clone(), vec![f32::NAN; size]);
        crate::kernels::shift::gate(&gate, &mut in_place);
        shift::gate_to(&gate, &x, &mut out);
        prop_assert_eq!(&out, &in_place);
        in_place.copy_from_slice(&x);
        crate::kernels::shift::squared_relu(&mut in_place);
        shift::squared_relu_to(&x, &mut out);
        prop_assert_eq!(&out, &in_place);
        let mut dx = d.clone();
        shift::squared_relu(&x, &mut dx);
        let expected = differences(&wide_x, |x| weighed(&d, x.iter().map(|x| x.max(0.0).powi(2))));
        assert_close(&dx, &expected, "squared relu");
    }

    #[test]
    fn of_wkv(time in 1usize..10, channels in 1usize..20, spread in 0.5f32..8.0) {
        let size = time * channels;
        let (k, v, d) = (wave(size, 0.73, spread), wave(size, 0.37, 2.0), wave(size, 1.31, 1.0));
        let (first, decay) = (wave(channels, 1.7, 1.0), wave(channels, 0.9, 1.0));
        let decay: Vec<f32> = decay.iter().map(|decay| -decay.exp()).collect();
        // The sums that the recurrence stands for.
        let outputs = |decay: &[f64], first: &[f64], k: &[f64], v: &[f64]| -> Vec<f64> {
            (0..size)
                .map(|i| {
                    let (t, c) = (i / channels, i % channels);
                    let power = |s: usize| match s == t {
                        true => (first[c] + k[i]).exp(),
                        false => ((t - 1 - s) as f64 * decay[c] + k[s * channels + c]).exp(),
                    };
                    let sum: f64 = (0..=t).map(power).sum();
                    (0..=t).map(|s| power(s) * v[s * channels + c]).sum::<f64>() / sum
                })
                .collect()
        };
        let [w, u, wide_k, wide_v] = [&decay, &first, &k, &v].map(|x| wide(x));
        let out: Vec<f32> = outputs(&w, &u, &wide_k, &wide_v).iter().map(|x| *x as f32).collect();
        let (mut d_decay, mut d_first) = (vec![0.0; channels], vec![0.0; channels]);
        let (mut d_k, mut d_v) = (vec![0.0; size], vec![0.0; size]);
        let scanned = wkv::Scanned { decay: &decay, first: &first, k: &k, v: &v, out: &out };
        let gradients =
            wkv::Gradients { decay: &mut d_decay, first: &mut d_first, k: &mut d_k, v: &mut d_v };
        // What a longer scan of more channels left is no matter.
        let mut scratch = wkv::Scratch::default();
        let more = vec![1.0; 400];
        let used = wkv::Scanned { decay: &more[..40], first: &more[..40], k: &more, v: &more, out: &more };
        let (mut a, mut b, mut c, mut e) = (vec![0.0; 40], vec![0.0; 40], vec![0.0; 400], vec![0.0; 400]);
        let unused = wkv::Gradients { decay: &mut a, first: &mut b, k: &mut c, v: &mut e };
        wkv::scan(used, &more, unused, &mut scratch);
        wkv::scan(scanned, &d, gradients, &mut scratch);
        let loss = |w: &[f64], u: &[f64], k: &[f64], v: &[f64]| weighed(&d, outputs(w, u, k, v));
        assert_close(&d_k, &differences(&wide_k, |k| loss(&w, &u, k, &wide_v)), "k");
        assert_close(&d_v, &differences(&wide_v, |v| loss(&w, &u, &wide_k, v)), "v");
        assert_close(&d_decay, &differences(&w, |w| loss(w, &u, &wide_k, &wide_v)), "decay");
        assert_close(&d_first, &differences(&u, |u| loss(&w, u, &wide_k, &wide_v)), "first");
    }

    /// Learned steps: differences of the loss where no weight changes its code, and none is clipped anew.
    #[test]
    fn of_the_scale_and_the_zero_point_where_no_code_changes(
        size in 1usize..70,
        bits in 2u32..5,
        offset in prop_oneof![Just(0.0f32), Just(0.5)],
        zero in -1i32..=1,
    ) {
        let (q_min, q_max) = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        let grid = Grid { scale: 0.25, zero, offset, q_min, q_max };
        let (mut weights, d) = (wave(size, 0.73, 1.5), wave(size, 1.31, 1.0));
        // Away from where rounding flips.
        for w in &mut weights {
            let steps = *w / grid.scale - offset;
            let nearest = steps.round_ties_even();
            *w = grid.scale * (nearest + (steps - nearest).clamp(-0.4, 0.4) + offset);
        }
        let levels: Vec<f64> = {
            let mut out = vec![0.0; size];
            fake_quant::forward(&weights, grid, &mut out);
            out.iter().map(|w| f64::from(*w / grid.scale)).collect()
        };
        let mut dw = d.clone();
        let gradient = fake_quant::backward(&weights, grid, &mut dw);
        let inside = |i: usize| {
            let level = f64::from(weights[i] / grid.scale - offset).round();
            ((q_min - zero) as f64..=(q_max - zero) as f64).contains(&level)
        };
        // Straight-through: `round(w/s) - w/s` counts as a constant, and the weight is s times both; a clipped weight is s
        // times its level.
        let loss = |s: f64, z: f64| {
            let value = |i: usize| {
                let (w, level) = (f64::from(weights[i]), levels[i]);
                let rounding = level - w / f64::from(grid.scale);
                if inside(i) { s * (w / s + rounding) } else { s * (level - (z - f64::from(zero))) }
            };
            weighed(&d, (0..size).map(value))
        };
        let at = [f64::from(grid.scale), f64::from(zero)];
        let expected = differences(&at, |at| loss(at[0], at[1]));
        assert_close(&[gradient.scale, gradient.zero], &expected, "grid");
        for i in 0..size {
            prop_assert_eq!(dw[i], if inside(i) { d[i] } else { 0.0 });
        }
    }

    #[test]
    fn of_the_bits_of_codes(size in 1usize..70, scale in 0.1f32..2.0, width in 0.3f32..3.0) {
        let weights = wave(size, 0.73, 1.5);
        let bits = |weights: &[f64], scale: f64| -> f64 {
            let b = f64::from(width);
            // On the side where sigmoids are small: near 1 their difference has no digits left.
            let of = |w: &f64| {
                let x = -(w / scale).abs();
                -(sigmoid((x + 0.5) / b) - sigmoid((x - 0.5) / b)).log2()
            };
            weights.iter().map(of).sum()
        };
        let mut d = vec![0.25; size];
        let of_scale = rate::add(&weights, scale, width, 2.0, &mut d);
        d.iter_mut().for_each(|d| *d = (*d - 0.25) / 2.0);
        let (weights, scale) = (wide(&weights), f64::from(scale));
        assert_close(&d, &differences(&weights, |weights| bits(weights, scale)), "weights");
        assert_close(&[of_scale / 2.0], &differences(&[scale], |scale| bits(&weights, scale[0])), "scale");
    }

    #[test]
    fn weights_on_a_grid_are_those_of_their_codes(
        size in 1usize..70,
        bits in 2u32..8,
        offset in prop_oneof![Just(0.0f32), Just(0.5)],
        zero in -2i32..=1,
        scale in prop_oneof![Just(0.0f32), 0.01f32..0.5],
    ) {
        let grid = Grid { scale, zero, offset, q_min: -(1 << (bits - 1)), q_max: (1 << (bits - 1)) - 1 };
        let weights = wave(size, 0.73, 1.5);
        let (mut codes, mut expected, mut found) = (vec![0; size], vec![0.0; size], vec![f32::NAN; size]);
        grid::codes(&weights, grid, 0, &|steps: f32, _| steps.round_ties_even(), &mut codes);
        grid::weights(&codes, grid, &mut expected);
        fake_quant::forward(&weights, grid, &mut found);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn spikes_and_sums_are_those_of_inference(time in 1usize..20, channels in 1usize..20) {
        let input = wave(time * channels, 0.73, 4.0);
        let (mut residual, mut again, mut sums) = (input.clone(), input.clone(), input.clone());
        let expected = crate::kernels::lif::potentials(&Neuron::SPIKEGPT, &input, &vec![0.0; channels], None);
        crate::kernels::lif::scan(&Neuron::SPIKEGPT, &input, &mut vec![0.0; channels], &mut residual, None);
        lif::scan_with_sums(&Neuron::SPIKEGPT, &mut sums, &mut vec![7.0; channels], &mut again);
        prop_assert_eq!(&again, &residual);
        prop_assert_eq!(&sums, &expected);
        let mut added = input.clone();
        lif::add_spikes(&Neuron::SPIKEGPT, &sums, &mut added);
        prop_assert_eq!(&added, &residual);
    }
}

#[test]
fn the_width_is_that_of_a_logistic_variable_with_as_large_a_mean_magnitude() {
    // Its quantiles: b ln(p / (1 - p)).
    let (b, scale) = (1.7f64, 0.25);
    let quantile = |i: usize| (i as f64 + 0.5) / 20_000.0;
    let weights: Vec<f32> =
        (0..20_000).map(quantile).map(|p| (b * scale * (p / (1.0 - p)).ln()) as f32).collect();
    assert!((f64::from(rate::width(&weights, scale as f32)) - b).abs() < 1e-3);
    assert!(rate::width(&[0.0; 5], 1.0) > 0.0 && rate::width(&[], 1.0) > 0.0);
}

#[test]
fn of_one_neuron_by_hand() {
    // Two tokens; the first fires, so that the reset is all that joins them.
    let (sums, d) = ([1.5f32, 0.75], [0.25f32, 2.0]);
    let slope = |h: f64| 1.0 / (1.0 + (std::f64::consts::PI * (h - 1.0)).powi(2));
    let second = 2.0 * slope(0.75) / 2.0;
    for (reset, attached) in [(lif::Reset::Attached, 1.0), (lif::Reset::Detached, 0.0)] {
        let first = (0.25 * slope(1.5) - attached * second * 1.5 * slope(1.5)) / 2.0;
        let mut found = d;
        lif::scan(&Neuron::SPIKEGPT, &sums, &mut found, &mut [9.0], reset);
        assert_close(&found, &[first, second], "input");
    }
}
