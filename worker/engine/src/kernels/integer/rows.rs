//! Rows of inputs as integers, split into the digits that an instruction multiplies.

use super::super::grid::{self, Grid};
use super::super::simd::per_instruction_set;
use super::{DEPTH, HEIGHT, ROWS};

/// The digits that integers are split into, so that an instruction for short ones multiplies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digits {
    /// Bytes without a sign, for instructions that multiply them with signed ones.
    Bytes,
    /// A signed half word, and the byte below it in another.
    Halves,
}

impl Digits {
    /// Inputs that one instruction adds up: as many digits as fit 32 bits.
    pub(super) fn step(self) -> usize {
        match self {
            Self::Bytes => 4,
            Self::Halves => 2,
        }
    }

    /// Bytes of a digit.
    fn size(self) -> usize {
        4 / self.step()
    }
}

/// Bits below the largest number of a row, its sign not counted.
const BITS: i32 = 22;
/// Summand that makes an integer of [`BITS`] bits and a sign positive.
const OFFSET: i32 = 1 << 23;
/// Added to a number of at most `2^22`, leaves the nearest integer, the even one on a tie, in the low bits.
const ROUNDING: f32 = 12_582_912.0;

/// Rows of integers, `[rows, inputs]`, padded with zeros in both directions.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Digit by digit, the lowest first; of each, row by row.
    planes: Vec<u8>,
    /// Number of digits.
    pub(super) depth: usize,
    pub(super) digits: Digits,
    /// Rows that stand for something.
    pub(super) count: usize,
    /// Integers of a row.
    pub(super) padded: usize,
    pub(super) rows: Vec<CodeRow>,
}

/// The meaning of a row of integers: `scale` times (the digits minus `offset`).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct CodeRow {
    /// NaN if a number of the row was not finite.
    pub(super) scale: f64,
    pub(super) offset: f64,
    /// The sum of the integers.
    pub(super) sum: f64,
}

impl Rows {
    pub(super) fn of_numbers(x: &[f32], inputs: usize, digits: Digits) -> Self {
        let depth = if digits == Digits::Bytes { 3 } else { 2 };
        let mut rows = Self::empty(x.len() / inputs, inputs, depth, digits);
        let mut integers = vec![0; inputs];
        for (at, x) in x.chunks_exact(inputs).enumerate() {
            let (scale, sum) = fix(x, &mut integers);
            rows.set(at, &integers, OFFSET, scale, sum);
        }
        rows
    }

    pub(super) fn of_codes(
        x: &[f32],
        inputs: usize,
        digits: Digits,
        mut grid: impl FnMut(&[f32]) -> Grid,
    ) -> Self {
        let mut rows = Self::empty(x.len() / inputs, inputs, 1, digits);
        let mut integers = vec![0; inputs];
        for (at, x) in x.chunks_exact(inputs).enumerate() {
            let Grid { scale, zero, q_min, q_max, .. } = grid(x);
            let (poison, sum) = code(x, scale, zero as f32, q_min as f32, q_max as f32, &mut integers);
            rows.set(at, &integers, zero - q_min, f64::from(scale + poison), sum);
        }
        rows
    }

    fn empty(count: usize, inputs: usize, depth: usize, digits: Digits) -> Self {
        let padded = inputs.next_multiple_of(DEPTH);
        let high = count.next_multiple_of(HEIGHT).max(count.next_multiple_of(ROWS));
        let planes = vec![0; depth * high * padded * digits.size()];
        Self { planes, depth, digits, count, padded, rows: vec![CodeRow::default(); high] }
    }

    /// Bytes from one row of a plane to the next.
    pub(super) fn stride(&self) -> usize {
        self.padded * self.digits.size()
    }

    /// The rows of a digit from this one on.
    pub(super) fn plane(&self, digit: usize, row: usize) -> &[u8] {
        let size = self.rows.len() * self.stride();
        &self.planes[digit * size..][row * self.stride()..size]
    }

    /// The weight of a digit.
    pub(super) fn worth(digit: usize) -> f64 {
        f64::from(1 << (8 * digit))
    }

    /// Writes the digits of a row, and what they stand for. `offset` makes them positive, where they have no
    /// sign.
    fn set(&mut self, row: usize, integers: &[i32], offset: i32, scale: f64, sum: i64) {
        let (stride, size) = (self.stride(), self.rows.len() * self.stride());
        for (digit, plane) in self.planes.chunks_exact_mut(size).enumerate() {
            let (plane, shift) = (&mut plane[row * stride..][..stride], 8 * digit as u32);
            match self.digits {
                Digits::Bytes => bytes(integers, offset, shift, plane),
                // The highest keeps the sign.
                Digits::Halves if digit + 1 == self.depth => halves(integers, shift, -1, plane),
                Digits::Halves => halves(integers, shift, 255, plane),
            }
        }
        let offset = if self.digits == Digits::Bytes { f64::from(offset) } else { 0.0 };
        self.rows[row] = CodeRow { scale, offset, sum: sum as f64 };
    }
}

per_instruction_set! {
    /// The 8 bits from bit `shift` on of integers that `offset` makes positive.
    fn bytes(integers: &[i32], offset: i32, shift: u32, out: &mut [u8]) {
        for (out, x) in out.iter_mut().zip(integers) {
            *out = ((*x + offset) >> shift) as u8;
        }
    }
}

per_instruction_set! {
    /// The 16 bits from bit `shift` on of integers, and those of them that are in the mask.
    fn halves(integers: &[i32], shift: u32, mask: i32, out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut();
        for (out, x) in out.iter_mut().zip(integers) {
            *out = (((*x >> shift) & mask) as i16).to_le_bytes();
        }
    }
}

per_instruction_set! {
    /// `x factor` rounded to integers, to the even one on a tie, and their sum; magnitudes are at most
    /// `2^22`.
    fn round(x: &[f32], factor: f32, integers: &mut [i32]) -> i64 {
        let mut total = 0;
        // Pieces whose sum stays within 32 bits.
        for (x, integers) in x.chunks(256).zip(integers.chunks_mut(256)) {
            let mut sum = 0;
            for (x, integer) in x.iter().zip(integers) {
                *integer = (*x * factor + ROUNDING).to_bits() as i32 - ROUNDING.to_bits() as i32;
                sum += *integer;
            }
            total += i64::from(sum);
        }
        total
    }
}

/// A row in units of a power of two, so that the largest magnitude takes [`BITS`] bits. Gives the unit and
/// the sum.
fn fix(x: &[f32], integers: &mut [i32]) -> (f64, i64) {
    let (low, high) = grid::span(x);
    let largest = high.max(-low);
    if !(low + high).is_finite() {
        integers.fill(0);
        return (f64::NAN, 0);
    }
    // The exponent above it; of tiny rows one that leaves the factor finite.
    let above = ((largest.to_bits() >> 23) as i32 - 126).max(BITS - 127);
    let factor = f32::from_bits(((BITS - above + 127) as u32) << 23);
    (f64::from(factor).recip(), round(x, factor, integers))
}

per_instruction_set! {
    /// `q - z` with `q = clamp(round(x / s) + z, q_min, q_max)`, to nearest and the even one on a tie; and
    /// what to add to the scale so that it shows if one is no number, and the sum.
    fn code(x: &[f32], scale: f32, zero: f32, q_min: f32, q_max: f32, integers: &mut [i32]) -> (f32, i64) {
        if scale == 0.0 {
            // A range of zero leaves one value.
            integers.fill(0);
            return (0.0 * x.iter().sum::<f32>(), 0);
        }
        let (mut poison, mut total) = ([0.0f32; LANES], 0);
        let mut piece = |x: &[f32; LANES], integers: &mut [i32; LANES]| {
            let mut sum = 0;
            for (lane, (x, integer)) in x.iter().zip(integers).enumerate() {
                let q = (*x / scale).round_ties_even() + zero;
                // Comparisons that NaN passes through.
                let q = if q < q_min { q_min } else { q };
                let q = if q > q_max { q_max } else { q };
                poison[lane] += 0.0 * q;
                let q = if q >= q_min { q } else { zero };
                *integer = (q - zero + ROUNDING).to_bits() as i32 - ROUNDING.to_bits() as i32;
                sum += *integer;
            }
            total += i64::from(sum);
        };
        let ((pieces, rest), (to_pieces, to_rest)) = (x.as_chunks(), integers.as_chunks_mut());
        pieces.iter().zip(to_pieces).for_each(|(x, integers)| piece(x, integers));
        // Zeros add nothing.
        let (mut last, mut to_last) = ([0.0; LANES], [0; LANES]);
        last[..rest.len()].copy_from_slice(rest);
        piece(&last, &mut to_last);
        to_rest.copy_from_slice(&to_last[..rest.len()]);
        (poison.iter().sum(), total)
    }
}

/// Lanes of partial results.
const LANES: usize = 16;
