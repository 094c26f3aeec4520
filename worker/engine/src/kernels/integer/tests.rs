use proptest::prelude::*;

use super::*;

/// A product of any size, with some of every number, all from a seed.
#[derive(Debug, Clone)]
struct Case {
    x: Vec<f32>,
    codes: Vec<i8>,
    inputs: usize,
    scales: Vec<f32>,
    zeros: Vec<i8>,
}

fn case() -> impl Strategy<Value = Case> {
    let inputs = prop_oneof![12 => 1usize..80, 1 => Just(512), 1 => Just(513), 1 => Just(1100)];
    (1usize..45, inputs, 1usize..75, any::<bool>(), any::<u64>()).prop_map(
        |(rows, inputs, outputs, affine, seed)| {
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as u32
            };
            let mut number = || match draw() % 10 {
                0 => 0.0,
                1 => draw() as f32 / 1e4,
                _ => draw() as f32 / (1 << 22) as f32 - 2.0,
            };
            let x = (0..rows * inputs).map(|_| number()).collect();
            let mut code = || match draw() % 8 {
                0 => -128,
                1 => 127,
                _ => draw() as i8,
            };
            let codes = (0..outputs * inputs).map(|_| code()).collect();
            let zeros = (0..if affine { outputs } else { 0 }).map(|_| code()).collect();
            let mut scale = || if draw() % 8 == 0 { 0.0 } else { draw() as f32 / (1 << 24) as f32 };
            Case { x, codes, inputs, scales: (0..outputs).map(|_| scale()).collect(), zeros }
        },
    )
}

impl Case {
    fn packed(&self, set: InstructionSet) -> IntegerMatrix {
        IntegerMatrix::for_set(&self.codes, self.inputs, self.scales.clone(), &self.zeros, set)
    }

    /// The exact sums of products with integer rows, scaled as [`IntegerMatrix`] says.
    fn plain(&self, integers: &[i64], row_scales: &[f64]) -> Vec<f32> {
        let rows = integers.chunks(self.inputs).zip(row_scales);
        let outputs = self.codes.chunks(self.inputs).zip(&self.scales).enumerate();
        rows.flat_map(|(row, row_scale)| {
            outputs.clone().map(move |(output, (codes, scale))| {
                let zero = i64::from(self.zeros.get(output).copied().unwrap_or(0));
                let sum: i64 = row.iter().zip(codes).map(|(x, q)| x * (i64::from(*q) - zero)).sum();
                (sum as f64 * (row_scale * f64::from(*scale))) as f32
            })
        })
        .collect()
    }
}

fn product(m: &IntegerMatrix, rows: &Rows) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows.count * m.outputs()];
    m.multiply(rows, 0..m.outputs(), &mut out);
    out
}

/// The integers of a row of numbers, and what one of them is worth.
fn fixed(x: &[f32]) -> (Vec<i64>, f64) {
    let largest = x.iter().fold(0.0f64, |largest, x| largest.max(f64::from(*x).abs()));
    let mut unit = 2f64.powi(-127);
    while largest >= unit * f64::from(1 << 22) {
        unit *= 2.0;
    }
    (x.iter().map(|x| (f64::from(*x) / unit).round_ties_even() as i64).collect(), unit)
}

proptest! {
    #[test]
    fn every_instruction_set_gives_the_exact_product_of_numbers(case in case()) {
        let (integers, scales): (Vec<_>, Vec<_>) = case.x.chunks(case.inputs).map(fixed).unzip();
        let expected = case.plain(&integers.concat(), &scales);
        for set in InstructionSet::here() {
            let m = case.packed(set);
            prop_assert_eq!(&product(&m, &m.rows(&case.x)), &expected, "{:?}", set);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_exact_product_of_quantized_rows(
        case in case(),
        scale in 1e-3f32..1.0,
        bits in 2u32..=8,
        zero in 0i32..256,
    ) {
        let (q_min, q_max) = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        let grid = Grid { scale, zero: q_min + zero % (1 << bits), offset: 0.0, q_min, q_max };
        let code = |x: &f32| {
            let q = (*x / grid.scale).round_ties_even() as i64 + i64::from(grid.zero);
            q.clamp(q_min.into(), q_max.into()) - i64::from(grid.zero)
        };
        let integers: Vec<i64> = case.x.iter().map(code).collect();
        let expected = case.plain(&integers, &vec![f64::from(scale); case.x.len() / case.inputs]);
        for set in InstructionSet::here() {
            let m = case.packed(set);
            prop_assert_eq!(&product(&m, &m.quantized_rows(&case.x, |_| grid)), &expected, "{:?}", set);
        }
    }

    #[test]
    fn some_of_the_outputs_are_those_of_the_whole(case in case(), from in 0usize..3, to in 0usize..75) {
        for set in InstructionSet::here() {
            let m = case.packed(set);
            let (rows, outputs) = (m.rows(&case.x), m.outputs());
            let whole = product(&m, &rows);
            let from = (from * m.panel()).min(outputs / m.panel() * m.panel());
            let part = from..to.clamp(from, outputs);
            let mut out = vec![0.0; rows.count * part.len()];
            m.multiply(&rows, part.clone(), &mut out);
            let expected: Vec<f32> = whole.chunks(outputs).flat_map(|row| row[part.clone()].to_vec()).collect();
            prop_assert_eq!(out, expected, "{:?}", set);
        }
    }

    #[test]
    fn a_product_of_numbers_is_within_its_bound(case in case()) {
        let m = case.packed(InstructionSet::here().next().unwrap());
        let out = product(&m, &m.rows(&case.x));
        for (x, out) in case.x.chunks(case.inputs).zip(out.chunks(m.outputs())) {
            let largest = x.iter().fold(0.0f64, |largest, x| largest.max(f64::from(*x).abs()));
            for (output, out) in out.iter().enumerate() {
                let zero = f64::from(case.zeros.get(output).copied().unwrap_or(0));
                let weight = |q: &i8| f64::from(case.scales[output]) * (f64::from(*q) - zero);
                let codes = &case.codes[output * case.inputs..][..case.inputs];
                let real: f64 = x.iter().zip(codes).map(|(x, q)| f64::from(*x) * weight(q)).sum();
                let weights: f64 = codes.iter().map(|q| weight(q).abs()).sum();
                let bound = 2f64.powi(-22) * largest * weights + 2f64.powi(-24) * real.abs() + 1e-30;
                prop_assert!((real - f64::from(*out)).abs() <= bound, "{real} {out}, bound {bound}");
            }
        }
    }
}

#[test]
fn the_largest_rows_and_codes_do_not_overflow() {
    // All sums at their extremes, over more inputs than 32 bits hold at once.
    let inputs = 70_000;
    for (x, code) in [(1.0f32, -128i8), (-1.0, -128), (1.0 - f32::EPSILON, 127)] {
        let mut row = vec![x; inputs];
        row[0] = -x;
        for set in InstructionSet::here() {
            let m = IntegerMatrix::for_set(&vec![code; inputs], inputs, vec![1.0], &[], set);
            let expected = f64::from(x) * f64::from(code) * (inputs as f64 - 2.0);
            let out = f64::from(product(&m, &m.rows(&row))[0]);
            assert!((out / expected - 1.0).abs() < 1e-6, "{set:?}: {out} for {expected}");
        }
    }
}

#[test]
fn what_is_no_number_shows_in_its_row_alone() {
    let grid = Grid { scale: 0.1, zero: 3, offset: 0.0, q_min: -128, q_max: 127 };
    for set in InstructionSet::here() {
        let m = IntegerMatrix::for_set(&[1, 2, 3, 4], 2, vec![0.5, 0.5], &[], set);
        let rows =
            m.rows(&[1.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 0.0, 0.0, f32::MIN_POSITIVE / 2.0, 0.0]);
        let out = product(&m, &rows);
        assert!(out[..4].iter().all(|x| x.is_nan()), "{out:?}");
        assert_eq!(out[4..8], [1.5, 3.5, 0.0, 0.0]);
        assert!(out[8].abs() < 1e-30 && out[9].abs() < 1e-30);
        let out = product(&m, &m.quantized_rows(&[f32::NAN, 1.0, 1.0, 0.0], |_| grid));
        assert!(out[0].is_nan() && out[1].is_nan() && (out[2] - 0.5).abs() < 1e-6, "{out:?}");
        let out = product(&m, &m.quantized_rows(&[7.0, 1.0], |_| Grid { scale: f32::NAN, ..grid }));
        assert!(out[0].is_nan());
        let out = product(&m, &m.quantized_rows(&[7.0, 1.0], |_| Grid { scale: 0.0, ..grid }));
        assert_eq!(out, [0.0, 0.0]);
    }
}

#[test]
fn one_row_is_computed_as_one_of_many() {
    let case = |rows: usize| (0..rows * 100).map(|i| ((i % 100) as f32 * 0.37).sin()).collect::<Vec<_>>();
    let codes: Vec<i8> = (0..4000).map(|i| (i * 37 % 255) as u8 as i8).collect();
    for set in InstructionSet::here() {
        let m = IntegerMatrix::for_set(&codes, 100, vec![0.01; 40], &[], set);
        let many = product(&m, &m.rows(&case(33)));
        let one = product(&m, &m.rows(&case(1)));
        assert!(many.chunks(40).all(|row| row == one), "{set:?}");
    }
}
