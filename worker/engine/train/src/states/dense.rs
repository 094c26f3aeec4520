//! Dense numbers in int8: uniform codes, and a scale for every block of them.

use std::ops::Range;

/// Numbers that share a scale, one after the other in storage order, whatever the rows of a matrix.
pub(crate) const BLOCK: usize = 128;
/// Numbers that a thread takes at a time: whole blocks.
pub(crate) const PIECE: usize = 64 * BLOCK;
/// Largest code; the least is as far from 0, so that a number and its negative are rounded alike.
pub(crate) const LARGEST: f32 = 127.0;

/// Numbers as `scale * code`, codes from -127 to 127.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    codes: Vec<i8>,
    /// One per block, the last of which may be short.
    scales: Vec<f32>,
}

/// Whole blocks of [`Dense`] numbers, to be changed.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) codes: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
}

impl Dense {
    /// So many zeros.
    pub(crate) fn zeros(count: usize) -> Self {
        Self { codes: vec![0; count], scales: vec![0.0; count.div_ceil(BLOCK)] }
    }

    /// Signs as 1 and -1; that of 0 is 1, as a binary embedding reads it.
    pub(crate) fn signs(values: &[f32]) -> Self {
        let codes = values.iter().map(|value| if *value >= 0.0 { 1 } else { -1 }).collect();
        Self { codes, scales: vec![1.0; values.len().div_ceil(BLOCK)] }
    }

    /// The numbers of a range.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len());
        let (mut at, mut rest) = (range.start, out);
        while !rest.is_empty() {
            let block = at / BLOCK;
            let count = rest.len().min((block + 1) * BLOCK - at);
            let (here, after) = rest.split_at_mut(count);
            let scale = self.scales[block];
            here.iter_mut().zip(&self.codes[at..]).for_each(|(to, code)| *to = scale * f32::from(*code));
            (at, rest) = (at + count, after);
        }
    }

    /// Codes and scales, piece by piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&[i8], &[f32])> {
        self.codes.chunks(PIECE).zip(self.scales.chunks(PIECE / BLOCK))
    }

    /// As [`Dense::pieces`], to be changed.
    pub(crate) fn pieces_mut(&mut self) -> impl Iterator<Item = Piece<'_>> {
        let pieces = self.codes.chunks_mut(PIECE).zip(self.scales.chunks_mut(PIECE / BLOCK));
        pieces.map(|(codes, scales)| Piece { codes, scales })
    }

    pub(crate) fn codes(&self) -> &[i8] {
        &self.codes
    }

    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(crate) fn codes_mut(&mut self) -> &mut [i8] {
        &mut self.codes
    }

    pub(crate) fn scales_mut(&mut self) -> &mut [f32] {
        &mut self.scales
    }

    /// Bytes of codes and scales.
    pub(crate) fn bytes(&self) -> u64 {
        (size_of_val(&*self.codes) + size_of_val(&*self.scales)) as u64
    }
}

/// Writes a block of numbers as codes of a scale under which the largest of them is a code. `round` takes a number in steps
/// and its place in the tensor, `start` that of the first. A number that is not finite spoils its block, as it should.
pub(crate) fn encode(
    values: &[f32],
    codes: &mut [i8],
    scale: &mut f32,
    start: usize,
    round: impl Fn(f32, usize) -> f32,
) {
    *scale = largest(values) / LARGEST;
    if *scale == 0.0 {
        codes.fill(0);
        return;
    }
    for (index, (code, value)) in codes.iter_mut().zip(values).enumerate() {
        *code = round(value / *scale, start + index).clamp(-LARGEST, LARGEST) as i8;
    }
}

/// The largest magnitude, which is not finite if one of them is not.
pub(crate) fn largest(values: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are, with what is no number above all.
    f32::from_bits(values.iter().map(|value| value.abs().to_bits()).max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qslm_engine::quant::stochastic_rounding;

    use super::*;

    fn dense(values: &[f32], round: impl Fn(f32, usize) -> f32 + Copy) -> Dense {
        let mut dense = Dense::zeros(values.len());
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let start = block * BLOCK;
            let codes = &mut dense.codes[start..start + values.len()];
            encode(values, codes, &mut dense.scales[block], start, round);
        }
        dense
    }

    proptest! {
        #[test]
        fn numbers_are_read_back_within_a_step_of_their_block(
            values in prop::collection::vec(-3.0f32..3.0, 1..400),
            seed: u64,
            cut in 0.0f64..1.0,
        ) {
            let dense = dense(&values, stochastic_rounding(seed, "w"));
            let start = (cut * values.len() as f64) as usize;
            let mut read = vec![0.0; values.len() - start];
            dense.read(start..values.len(), &mut read);
            for (at, (read, value)) in read.iter().zip(&values[start..]).enumerate() {
                let scale = dense.scales[(start + at) / BLOCK];
                prop_assert!((read - value).abs() <= scale * 1.0001, "{} {} {}", read, value, scale);
                prop_assert!(read * value >= 0.0, "no number changes its sign");
            }
        }
    }

    #[test]
    fn rounding_is_unbiased() {
        let mut values: Vec<f32> = (0..BLOCK).map(|i| (i as f32 * 0.37).sin() * 1e-3).collect();
        values[7] = 1.0;
        let (mut sums, rounds) = (vec![0.0f64; BLOCK], 20_000);
        for seed in 0..rounds {
            let mut read = [0.0; BLOCK];
            dense(&values, stochastic_rounding(seed, "w")).read(0..BLOCK, &mut read);
            sums.iter_mut().zip(read).for_each(|(sum, x)| *sum += f64::from(x));
        }
        // A mean of so many draws is within six of its standard errors, of half a step each at most.
        let bound = 6.0 * 0.5 / 127.0 / (rounds as f64).sqrt();
        for (sum, value) in sums.iter().zip(&values) {
            assert!((sum / rounds as f64 - f64::from(*value)).abs() < bound, "{sum} {value}");
        }
        assert!((sums[7] / rounds as f64 - 1.0).abs() < 1e-6, "the largest of a block is a code");
    }

    #[test]
    fn zeros_stay_and_what_is_no_number_spoils_its_block_only() {
        let mut values = vec![0.0; 2 * BLOCK];
        values[BLOCK] = f32::NAN;
        let dense = dense(&values, stochastic_rounding(1, "w"));
        let mut read = vec![1.0; 2 * BLOCK];
        dense.read(0..2 * BLOCK, &mut read);
        assert!(read[..BLOCK].iter().all(|x| *x == 0.0) && read[BLOCK..].iter().all(|x| x.is_nan()));
    }
}
