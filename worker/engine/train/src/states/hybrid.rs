//! The weights of a matrix without a float copy: dense int8 codes over the central ones, and sparse outliers.
//!
//! A weight moves by a share of a code in a step. So the change is rounded, not the sum: a weight that is told to stay has
//! no noise from rounding, and none gathers in a run but that of its own changes. The scale of a block stays, too, until a
//! weight leaves its codes; then the block gets a wider one and is rounded anew, stochastically as everything else.

use std::ops::Range;

use super::dense::{BLOCK, Dense, LARGEST, largest};
use super::sparse::Sparse;
use super::{dense, sparse};
use crate::optimizer::Rate;

/// Code of the largest weight of a block when its scale is chosen: an eighth is left for it to grow.
const START: f32 = 112.0;
/// Least largest weight that a block's scale is chosen for, as a share of that of the matrix: a block of nothing but zeros
/// has to move, too.
const LEAST: f32 = 1.0 / 1024.0;

/// Weights, each dense or an outlier. Where an outlier is, the dense code is 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hybrid {
    pub(crate) dense: Dense,
    pub(crate) sparse: Sparse,
}

/// Weights of whole blocks, to be changed.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    /// Place of the first.
    pub(crate) start: usize,
    pub(crate) dense: dense::Piece<'a>,
    pub(crate) sparse: sparse::Piece<'a>,
}

/// Draws of an update, by the places of weights: how changes are rounded, and blocks that get a wider scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws<Change, Wider> {
    pub(crate) change: Change,
    pub(crate) wider: Wider,
}

impl Hybrid {
    /// The weights of a matrix, the dense ones on their nearest codes.
    pub(crate) fn of(values: &[f32]) -> Self {
        let sparse = Sparse::of(values);
        let mut central = values.to_vec();
        sparse.places().iter().for_each(|place| central[*place as usize] = 0.0);
        let least = match largest(&central) {
            // Nothing says how far it will go: as far as a rate, perhaps.
            0.0 => LEAST,
            all => all * LEAST,
        };
        let mut dense = Dense::zeros(values.len());
        let blocks = dense.pieces_mut().zip(central.chunks(dense::PIECE));
        for (piece, values) in blocks {
            let blocks = piece.codes.chunks_mut(BLOCK).zip(piece.scales).zip(values.chunks(BLOCK));
            for ((codes, scale), values) in blocks {
                *scale = largest(values).max(least) / START;
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = (value / *scale).round_ties_even() as i8;
                }
            }
        }
        Self { dense, sparse }
    }

    /// The signs of weights that never change.
    pub(crate) fn signs(values: &[f32]) -> Self {
        Self { dense: Dense::signs(values), sparse: Sparse::default() }
    }

    /// The weights of a range.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut [f32]) {
        self.dense.read(range.clone(), out);
        self.sparse.read(range, out);
    }

    /// All weights.
    pub(crate) fn to_floats(&self) -> Vec<f32> {
        let mut floats = vec![0.0; self.dense.codes().len()];
        self.read(0..floats.len(), &mut floats);
        floats
    }

    /// All weights, piece by piece, to be changed.
    pub(crate) fn pieces_mut(&mut self) -> impl Iterator<Item = Piece<'_>> {
        let total = self.dense.codes().len();
        let sparse = self.sparse.pieces_mut(total, dense::PIECE);
        let pieces = self.dense.pieces_mut().zip(sparse).enumerate();
        pieces.map(|(index, (dense, sparse))| Piece { start: index * dense::PIECE, dense, sparse })
    }

    /// Bytes of codes, scales and outliers.
    pub(crate) fn bytes(&self) -> u64 {
        self.dense.bytes() + self.sparse.bytes()
    }
}

/// The change of a dense weight in steps of its scale, before it is rounded.
fn change(rate: Rate, scale: f32, code: f32, sign: f32) -> f32 {
    -(rate.step / scale) * sign - rate.step * rate.decay * code
}

/// Changes a block of dense weights, `start` being the place of its first: `w -= rate (sign + decay w)`, rounded.
pub(crate) fn move_dense(
    codes: &mut [i8],
    scale: &mut f32,
    signs: &[f32],
    rate: Rate,
    start: usize,
    draws: Draws<impl Fn(f32, usize) -> f32, impl Fn(f32, usize) -> f32>,
) {
    let mut moved = [0.0f32; BLOCK];
    let moved = &mut moved[..codes.len()];
    for (index, ((to, code), sign)) in moved.iter_mut().zip(&*codes).zip(signs).enumerate() {
        let code = f32::from(*code);
        *to = code + (draws.change)(change(rate, *scale, code, *sign), start + index);
    }
    let top = largest(moved);
    if top <= LARGEST {
        codes.iter_mut().zip(moved).for_each(|(code, to)| *code = *to as i8);
        return;
    }
    let wider = top / START;
    *scale *= wider;
    for (index, (code, to)) in codes.iter_mut().zip(moved).enumerate() {
        *code = (draws.wider)(*to / wider, start + index).clamp(-LARGEST, LARGEST) as i8;
    }
}

/// Changes the outliers at these places by the signs of the weights from `start` on.
pub(crate) fn move_sparse(places: &[u32], outliers: &mut [f32], signs: &[f32], rate: Rate, start: usize) {
    let kept = 1.0 - rate.step * rate.decay;
    for (place, w) in places.iter().zip(outliers) {
        *w = *w * kept - rate.step * signs[*place as usize - start];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_engine::quant::stochastic_rounding;

    use super::*;

    fn draws(seed: u64) -> Draws<impl Fn(f32, usize) -> f32 + Copy, impl Fn(f32, usize) -> f32 + Copy> {
        let wider = stochastic_rounding(seed, "wider scale");
        Draws { change: stochastic_rounding(seed, "change"), wider }
    }

    proptest! {
        #[test]
        fn outliers_are_restored_to_the_bit_and_others_within_half_a_step(
            values in prop::collection::vec(-2.0f32..2.0, 1..700),
        ) {
            let hybrid = Hybrid::of(&values);
            let read = hybrid.to_floats();
            let places = hybrid.sparse.places();
            prop_assert_eq!(places.len(), values.len().div_ceil(100));
            for (at, (read, value)) in read.iter().zip(&values).enumerate() {
                if places.contains(&(at as u32)) {
                    prop_assert_eq!(read.to_bits(), value.to_bits());
                    prop_assert_eq!(hybrid.dense.codes()[at], 0);
                } else {
                    let scale = hybrid.dense.scales()[at / BLOCK];
                    prop_assert!((read - value).abs() <= 0.5001 * scale);
                }
            }
        }

        #[test]
        fn a_change_is_the_rate_or_nothing_before_it_is_rounded_and_one_of_the_codes_beside_it_after(
            signs in prop::collection::vec(-1i8..=1, BLOCK),
            seed: u64,
            exponent in -3i32..3,
        ) {
            // Powers of two, so that no product is rounded.
            let (scale, step) = (1.0 / 256.0, 2f32.powi(exponent) / 256.0);
            let rate = Rate { step, decay: 0.0 };
            let signs: Vec<f32> = signs.into_iter().map(f32::from).collect();
            let before: Vec<i8> = (0..BLOCK as i16).map(|i| (i - 64) as i8).collect();
            let (mut codes, mut moved_scale) = (before.clone(), scale);
            move_dense(&mut codes, &mut moved_scale, &signs, rate, 0, draws(seed));
            prop_assert_eq!(moved_scale, scale);
            for ((code, before), sign) in codes.iter().zip(&before).zip(&signs) {
                let exact = change(rate, scale, f32::from(*before), *sign);
                prop_assert_eq!(exact * scale, -step * sign);
                let by = f32::from(*code) - f32::from(*before);
                prop_assert!([exact.floor(), exact.ceil()].contains(&by));
            }
        }

        #[test]
        fn an_outlier_moves_by_the_rate_exactly(signs in prop::collection::vec(-1i8..=1, 300)) {
            let values: Vec<f32> = (0..300).map(|i| (i * 37 % 300) as f32 / 64.0).collect();
            let mut hybrid = Hybrid::of(&values);
            let signs: Vec<f32> = signs.into_iter().map(f32::from).collect();
            let places = hybrid.sparse.places().to_vec();
            move_sparse(&places, hybrid.sparse.values_mut(), &signs, Rate { step: 0.125, decay: 0.0 }, 0);
            let read = hybrid.to_floats();
            for place in places {
                let place = place as usize;
                prop_assert_eq!(read[place], values[place] - 0.125 * signs[place]);
            }
        }
    }

    #[test]
    fn changes_far_below_a_code_add_up_to_what_they_should() {
        // Two hundred steps of a thousandth of a code: to the nearest code, nothing would move.
        let rate = Rate { step: 1e-3, decay: 0.0 };
        let (signs, blocks) = ([1.0; BLOCK], 200);
        let mut sum = 0.0;
        for block in 0..blocks {
            let (mut codes, mut scale) = ([0i8; BLOCK], 1.0);
            for step in 0..200 {
                move_dense(&mut codes, &mut scale, &signs, rate, block * BLOCK, draws(step));
            }
            sum += codes.iter().map(|code| f64::from(*code)).sum::<f64>();
        }
        let (mean, count) = (sum / (blocks * BLOCK) as f64, (blocks * BLOCK) as f64);
        // Of a binomial variable with mean and variance 0.2.
        assert!((mean + 0.2).abs() < 5.0 * (0.2 / count).sqrt(), "{mean}");
    }

    #[test]
    fn decay_pulls_to_zero_without_bias() {
        let rate = Rate { step: 0.25, decay: 0.1 };
        let (rounds, mut sum) = (4000, 0.0);
        for seed in 0..rounds {
            let (mut codes, mut scale) = ([100i8; BLOCK], 0.5);
            move_dense(&mut codes, &mut scale, &[0.0; BLOCK], rate, 0, draws(seed));
            sum += codes.iter().map(|code| f64::from(*code)).sum::<f64>();
        }
        let mean = sum / (rounds as f64 * BLOCK as f64);
        assert!((mean - 97.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_block_that_outgrows_its_codes_gets_a_wider_scale_and_keeps_its_weights_on_average() {
        let before: Vec<i8> = (0..BLOCK as i16).map(|i| (i - 1) as i8).collect();
        let mut signs = [0.0; BLOCK];
        signs[BLOCK - 1] = -1.0;
        let (mut sums, rounds) = ([0.0f64; BLOCK], 4000);
        for seed in 0..rounds {
            let (mut codes, mut scale) = (before.clone(), 1.0f32);
            let rate = Rate { step: 14.0, decay: 0.0 };
            move_dense(&mut codes, &mut scale, &signs, rate, 0, draws(seed));
            assert_eq!(scale, 1.25, "140 is code 112 from here on");
            sums.iter_mut().zip(codes).for_each(|(sum, code)| *sum += f64::from(code) * f64::from(scale));
        }
        for (at, (sum, before)) in sums.iter().zip(before).enumerate() {
            let expected = f64::from(before) + if at + 1 == BLOCK { 14.0 } else { 0.0 };
            assert!((sum / f64::from(rounds as u32) - expected).abs() < 0.06, "{at}: {sum} {expected}");
        }
    }

    #[test]
    fn a_matrix_of_zeros_can_move() {
        let mut hybrid = Hybrid::of(&[0.0; 2 * BLOCK]);
        assert!(hybrid.dense.scales().iter().all(|scale| *scale > 0.0));
        for piece in hybrid.pieces_mut() {
            let (codes, scales) = (&mut piece.dense.codes[..BLOCK], &mut piece.dense.scales[0]);
            let rate = Rate { step: 0.5, decay: 0.0 };
            move_dense(codes, scales, &[1.0; BLOCK], rate, 0, draws(1));
        }
        let read = hybrid.to_floats();
        assert!(read[3..BLOCK].iter().all(|w| (w + 0.5).abs() < 0.01), "{:?}", &read[..8]);
    }
}
