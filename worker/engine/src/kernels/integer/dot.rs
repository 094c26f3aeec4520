//! Products by instructions that add up the products of a few short integers.
#![expect(unsafe_code, reason = "instructions of one processor, and reads and writes without bounds")]

use std::ops::Range;

use super::rows::Rows;
use super::{IntegerMatrix, ROWS, Tile};

/// The outputs of a panel, in registers.
const REGISTERS: usize = 2;
/// Inputs of quantized rows after which a sum might no longer fit 32 bits: their products are at most 2^8 by
/// 2^7.
const CODES_FIT: usize = 1 << 15;
/// The most numbers of a tile.
const LARGEST_TILE: usize = ROWS * 32;

/// Sums of 32 bits, one per output. Whoever calls a function of an implementation promises that the processor
/// has its instruction set.
trait Sums: Copy {
    const LANES: usize;
    /// Inputs that are added up at once.
    const STEP: usize;
    /// Inputs after which a sum might no longer fit 32 bits, a multiple of the step.
    const FIT: usize;
    /// The digits of a step for every lane, and the codes.
    type Step: Copy;

    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self;

    /// The codes of a step for every lane.
    ///
    /// # Safety
    /// The processor has the instruction set, and `from` as many as there are lanes, a step of each.
    unsafe fn load(from: *const i8) -> Self::Step;

    /// The same step of digits in every lane.
    ///
    /// # Safety
    /// The processor has the instruction set, and `from` 4 bytes.
    unsafe fn splat(from: *const u8) -> Self::Step;

    /// Adds the products of digits and codes of a step.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(self, digits: Self::Step, codes: Self::Step) -> Self;

    /// # Safety
    /// The processor has the instruction set, and `to` room for as many numbers as there are lanes.
    unsafe fn store(self, to: *mut i32);
}

impl Sums for [i32; 4] {
    const LANES: usize = 4;
    const STEP: usize = 2;
    // 512 products of at most 2^14 and 2^7.
    const FIT: usize = 512;
    type Step = [[i16; 2]; 4];

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self::Step {
        // SAFETY: the caller's promise; an array of bytes has no alignment.
        let codes: [[i8; 2]; 4] = unsafe { *from.cast() };
        codes.map(|step| step.map(i16::from))
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> Self::Step {
        // SAFETY: as above.
        let step: [[u8; 2]; 2] = unsafe { *from.cast() };
        [step.map(i16::from_le_bytes); 4]
    }

    #[inline(always)]
    unsafe fn add(self, digits: Self::Step, codes: Self::Step) -> Self {
        let product = |lane: usize, at: usize| i32::from(digits[lane][at]) * i32::from(codes[lane][at]);
        std::array::from_fn(|lane| self[lane] + (product(lane, 0) + product(lane, 1)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller's promise; an array of integers is aligned as an integer is.
        unsafe { *to.cast() = self }
    }
}

/// As [`IntegerMatrix::multiply`].
pub(super) fn portable(m: &IntegerMatrix, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
    // SAFETY: it needs no instruction set beyond what the program was compiled for.
    unsafe { multiply::<[i32; 4]>(m, rows, outputs, out) };
}

/// As [`IntegerMatrix::multiply`].
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn multiply<V: Sums>(m: &IntegerMatrix, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
    let width = REGISTERS * V::LANES;
    const { assert!(ROWS * REGISTERS * V::LANES <= LARGEST_TILE) };
    debug_assert!(width == m.panel() && V::STEP == rows.digits.step());
    let columns = outputs.len();
    let mut sums = [[0; LARGEST_TILE]; 3];
    let mut all = [0.0; LARGEST_TILE];
    for first in outputs.clone().step_by(width) {
        let wide = width.min(outputs.end - first);
        let panel = m.panel_at(first);
        for (row, out) in (0..).step_by(ROWS).zip(out.chunks_mut(ROWS * columns)) {
            let tile = Tile { row, first, high: out.len() / columns, wide };
            let out = &mut out[first - outputs.start..];
            let inputs = 0..rows.padded;
            match rows.depth {
                1 if rows.padded <= CODES_FIT => {
                    // SAFETY: the caller's promise, here and below.
                    unsafe { add_up::<V>(rows, 0, tile, panel, inputs, &mut sums[0]) };
                    m.finish(rows, tile, |at, lane| f64::from(sums[0][at * width + lane]), out, columns);
                }
                3 if rows.padded <= V::FIT => {
                    for (digit, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: as above.
                        unsafe { add_up::<V>(rows, digit, tile, panel, inputs.clone(), sums) };
                    }
                    let exact = |at: usize, lane: usize| three(&sums, at * width + lane);
                    m.finish(rows, tile, exact, out, columns);
                }
                _ => {
                    all.fill(0.0);
                    for digit in 0..rows.depth {
                        for start in inputs.clone().step_by(V::FIT) {
                            let inputs = start..rows.padded.min(start + V::FIT);
                            // SAFETY: as above.
                            unsafe { add_up::<V>(rows, digit, tile, panel, inputs, &mut sums[0]) };
                            let worth = Rows::worth(digit);
                            all.iter_mut()
                                .zip(&sums[0])
                                .for_each(|(all, sum)| *all += worth * f64::from(*sum));
                        }
                    }
                    m.finish(rows, tile, |at, lane| all[at * width + lane], out, columns);
                }
            }
        }
    }
}

/// The sums of three digits in one.
#[inline(always)]
pub(super) fn three<const N: usize>(sums: &[[i32; N]; 3], at: usize) -> f64 {
    f64::from(sums[0][at]) + Rows::worth(1) * f64::from(sums[1][at]) + Rows::worth(2) * f64::from(sums[2][at])
}

/// The sums of a tile over some inputs for one digit.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn add_up<V: Sums>(
    rows: &Rows,
    digit: usize,
    at: Tile,
    panel: &[i8],
    inputs: Range<usize>,
    sums: &mut [i32; LARGEST_TILE],
) {
    let steps = inputs.start / V::STEP..inputs.end / V::STEP;
    let plane = rows.plane(digit, at.row);
    // SAFETY: the caller's promise.
    unsafe {
        match at.high {
            1 => tile::<V, 1>(plane, rows.stride(), panel, steps, sums),
            _ => tile::<V, ROWS>(plane, rows.stride(), panel, steps, sums),
        }
    }
}

/// The sums over some steps of the products of the first `HIGH` rows of a plane, `stride` bytes apart, with a
/// panel.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn tile<V: Sums, const HIGH: usize>(
    plane: &[u8],
    stride: usize,
    panel: &[i8],
    steps: Range<usize>,
    sums: &mut [i32; LARGEST_TILE],
) {
    let width = REGISTERS * V::LANES;
    assert!(plane.len() >= (HIGH - 1) * stride + 4 * steps.end && panel.len() >= steps.end * width * V::STEP);
    let (plane, panel, sums) = (plane.as_ptr(), panel.as_ptr(), sums.as_mut_ptr());
    const { assert!(HIGH * REGISTERS * V::LANES <= LARGEST_TILE) };
    // SAFETY: the assertions bound what is read and written; the instruction set is the caller's promise.
    unsafe {
        let mut all = [[V::zero(); REGISTERS]; HIGH];
        for step in steps {
            let codes: [V::Step; REGISTERS] =
                std::array::from_fn(|r| V::load(panel.add((step * width + r * V::LANES) * V::STEP)));
            for (row, all) in all.iter_mut().enumerate() {
                let digits = V::splat(plane.add(row * stride + 4 * step));
                for r in 0..REGISTERS {
                    all[r] = all[r].add(digits, codes[r]);
                }
            }
        }
        for (row, all) in all.into_iter().enumerate() {
            for (r, sum) in all.into_iter().enumerate() {
                sum.store(sums.add(row * width + r * V::LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, vnni};

/// The registers of x86, and the product compiled for them.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_madd_epi16,
        _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256, _mm512_dpbusd_epi32,
        _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    use super::{IntegerMatrix, Range, Rows, Sums, multiply};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(in super::super) fn vnni(m: &IntegerMatrix, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
        // SAFETY: this function is compiled for the instruction set.
        unsafe { multiply::<__m512i>(m, rows, outputs, out) };
    }

    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) fn avx2(m: &IntegerMatrix, rows: &Rows, outputs: Range<usize>, out: &mut [f32]) {
        // SAFETY: this function is compiled for the instruction set.
        unsafe { multiply::<__m256i>(m, rows, outputs, out) };
    }

    impl Sums for __m256i {
        const LANES: usize = 8;
        const STEP: usize = 2;
        // 512 products of at most 2^14 and 2^7.
        const FIT: usize = 512;
        type Step = Self;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        unsafe fn load(from: *const i8) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const u8) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn add(self, digits: Self, codes: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_add_epi32(self, _mm256_madd_epi16(digits, codes)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_si256(to.cast(), self) }
        }
    }

    impl Sums for __m512i {
        const LANES: usize = 16;
        const STEP: usize = 4;
        // Products of at most 2^8 and 2^7.
        const FIT: usize = 1 << 15;
        type Step = Self;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_setzero_si512() }
        }

        #[inline(always)]
        unsafe fn load(from: *const i8) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const u8) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn add(self, digits: Self, codes: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_dpbusd_epi32(self, digits, codes) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.cast(), self) }
        }
    }
}
