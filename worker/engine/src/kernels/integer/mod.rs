//! Exact products of rows of integers with a matrix of codes.
//!
//! A quantized weight is `s (q - z)` with an 8-bit code q, and a row of inputs becomes integers too: the
//! codes that its own quantization gives it, or, where it is not quantized, 24 bits below its largest number
//! ([`rows`]). The sum of their products is then exact in any order and with any instruction, and is scaled
//! once at the end. So it has the same bits on every processor, while one with instructions for integers
//! forms it several times faster than a sum of floats; `dot` has those of vectors, `tiles` those of AMX.
//!
//! Against the real number that an output stands for, one of a quantized row is off by the rounding to f32,
//! and one of a row in 24 bits by at most `2^-22 max|x| sum|w|` more.
#![expect(
    unsafe_code,
    reason = "what is compiled for an instruction set is called where the processor has it"
)]

mod dot;
pub mod rows;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::ops::Range;

use super::grid::Grid;
#[cfg(target_arch = "x86_64")]
use super::simd;
use super::simd::Choice;
use rows::{Digits, Rows};

/// Inputs are padded with zeros to a multiple of this, the depth of a tile.
const DEPTH: usize = 64;
/// Rows of a tile that is kept in registers.
const ROWS: usize = 6;
/// Rows of inputs are padded with zeros to a multiple of this, at least: two tiles of AMX.
const HEIGHT: usize = 32;

/// `[outputs, inputs]` codes in the order in which a product reads them: in panels of outputs, in these a few
/// inputs at a time, in these output by output.
#[derive(Debug, Clone)]
pub struct IntegerMatrix {
    codes: Vec<i8>,
    inputs: usize,
    /// Per output.
    scales: Vec<f32>,
    /// The code of zero, per output; none if it is 0 for all.
    zeros: Vec<f64>,
    /// The sum of its codes, per output.
    sums: Vec<f64>,
    set: InstructionSet,
}

/// The instruction set of a product, which decides how codes and rows lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstructionSet {
    /// Tiles of 16 rows by 64 bytes, for products of many rows; for few as [`InstructionSet::Vnni`].
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// 16 sums of four products of bytes at once.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// 8 sums of two products of 16 bits at once.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The instructions that the program was compiled for.
    Portable,
}

impl Choice for InstructionSet {
    const ALL: &'static [Self] = &[
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Self::Amx,
        #[cfg(target_arch = "x86_64")]
        Self::Vnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        Self::Portable,
    ];

    fn is_here(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Vnni.is_here() && tiles::are_here(),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => simd::has_avx512() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => simd::has_avx2(),
            Self::Portable => true,
        }
    }
}

impl InstructionSet {
    /// Outputs of a panel.
    fn panel(self) -> usize {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            Self::Portable => 8,
        }
    }

    /// The digits that rows are split into for it.
    fn digits(self) -> Digits {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Digits::Bytes,
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => Digits::Bytes,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Digits::Halves,
            Self::Portable => Digits::Halves,
        }
    }
}

/// True if this processor multiplies in tiles, and the system lets it.
pub fn has_tiles() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return InstructionSet::Amx.is_here();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

impl IntegerMatrix {
    /// Packs `[outputs, inputs]` row-major codes with a scale per output, and the code of zero per output, or
    /// none if it is 0 for all.
    ///
    /// # Panics
    /// If there are no inputs, or not as many codes, scales and zeros as the outputs ask for.
    pub fn new(codes: &[i8], inputs: usize, scales: Vec<f32>, zeros: &[i8]) -> Self {
        let best = InstructionSet::here().next().unwrap_or(InstructionSet::Portable);
        Self::for_set(codes, inputs, scales, zeros, best)
    }

    fn for_set(codes: &[i8], inputs: usize, scales: Vec<f32>, zeros: &[i8], set: InstructionSet) -> Self {
        let outputs = scales.len();
        assert!(codes.len() == outputs * inputs && inputs > 0, "{} codes in rows of {inputs}", codes.len());
        assert!(zeros.is_empty() || zeros.len() == outputs, "{} zeros of {outputs} outputs", zeros.len());
        let (width, step) = (set.panel(), set.digits().step());
        let padded = inputs.next_multiple_of(DEPTH);
        let mut packed = vec![0; outputs.next_multiple_of(width) * padded];
        for (panel, rows) in packed.chunks_exact_mut(padded * width).zip(codes.chunks(width * inputs)) {
            for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                for (at, codes) in row.chunks(step).enumerate() {
                    panel[(at * width + lane) * step..][..codes.len()].copy_from_slice(codes);
                }
            }
        }
        let sum = |row: &[i8]| row.iter().map(|code| i64::from(*code)).sum::<i64>() as f64;
        let zeros = zeros.iter().map(|zero| f64::from(*zero)).collect();
        Self {
            codes: packed,
            inputs,
            scales,
            zeros,
            sums: codes.chunks_exact(inputs).map(sum).collect(),
            set,
        }
    }

    /// Length of a row of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of a row of outputs.
    pub fn outputs(&self) -> usize {
        self.scales.len()
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.outputs() * (size_of::<f32>() + 2 * size_of::<f64>())
    }

    /// Outputs that begin at a multiple of this can be computed without the others.
    pub fn panel(&self) -> usize {
        self.set.panel()
    }

    /// Rows of numbers, `[rows, inputs]`, as integers for this matrix: 24 bits below the largest number of
    /// each row.
    pub fn rows(&self, x: &[f32]) -> Rows {
        Rows::of_numbers(x, self.inputs, self.set.digits())
    }

    /// Rows of quantized numbers, `[rows, inputs]`, for this matrix.
    pub fn quantized_rows(&self, x: &[f32], grid: impl FnMut(&[f32]) -> Grid) -> Rows {
        Rows::of_codes(x, self.inputs, self.set.digits(), grid)
    }

    /// `out = W x` for the rows and these outputs: `[rows, outputs.len()]`.
    ///
    /// # Panics
    /// If the rows were not made by this matrix or one like it, the buffers do not fit together, or the
    /// outputs do not begin at a multiple of [`IntegerMatrix::panel`].
    pub fn multiply(&self, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
        assert!(outputs.end <= self.outputs() && outputs.start.is_multiple_of(self.panel()), "{outputs:?}");
        assert!(rows.digits == self.set.digits() && rows.padded == self.inputs.next_multiple_of(DEPTH));
        assert!(out.len() == rows.count * outputs.len());
        if out.is_empty() {
            return;
        }
        match self.set {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            InstructionSet::Amx if rows.count >= tiles::WORTHWHILE => {
                // SAFETY: matrices are packed for instruction sets that the processor has.
                unsafe { tiles::multiply(self, rows, outputs, out) };
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: as above; whoever has tiles has these too.
            InstructionSet::Amx => unsafe { dot::vnni(self, rows, outputs, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Vnni => unsafe { dot::vnni(self, rows, outputs, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { dot::avx2(self, rows, outputs, out) },
            InstructionSet::Portable => dot::portable(self, rows, outputs, out),
        }
    }

    /// The panel that begins at this output.
    fn panel_at(&self, output: usize) -> &[i8] {
        let padded = self.inputs.next_multiple_of(DEPTH);
        &self.codes[output * padded..][..self.panel() * padded]
    }

    /// Writes the outputs of a tile. `exact` gives the sum of the products over all digits of a row and an
    /// output of it; `out` is where the first goes, in rows that are `stride` apart.
    // Every number before the last line is an integer below 2^53, so it is exact.
    #[inline(always)]
    fn finish(
        &self,
        rows: &Rows,
        Tile { row, first, high, wide }: Tile,
        exact: impl Fn(usize, usize) -> f64,
        out: &mut [f32],
        stride: usize,
    ) {
        let (scales, sums) = (&self.scales[first..][..wide], &self.sums[first..][..wide]);
        for at in 0..high {
            let rows::CodeRow { scale, offset, sum } = rows.rows[row + at];
            let scaled = |whole: f64, lane: usize| (whole * (scale * f64::from(scales[lane]))) as f32;
            let out = &mut out[at * stride..][..wide];
            let outputs = out.iter_mut().enumerate();
            // One loop for each case, so that none has a branch in it.
            match self.zeros.get(first..first + wide) {
                None if offset == 0.0 => outputs.for_each(|(lane, out)| *out = scaled(exact(at, lane), lane)),
                None => outputs.for_each(|(lane, out)| {
                    *out = scaled(exact(at, lane) - offset * sums[lane], lane);
                }),
                Some(zeros) => outputs.for_each(|(lane, out)| {
                    *out = scaled(exact(at, lane) - offset * sums[lane] - zeros[lane] * sum, lane);
                }),
            }
        }
    }
}

/// The place of a tile among rows and outputs.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// The first row.
    row: usize,
    /// The first output.
    first: usize,
    /// Number of rows that there are.
    high: usize,
    /// Number of outputs that there are.
    wide: usize,
}

#[cfg(test)]
mod tests;
