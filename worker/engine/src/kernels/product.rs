//! Products of rows with a matrix that was packed once.
//!
//! Every number of a product is one chain of fused multiply-adds over the inputs in their order, whatever the instruction
//! set, the number of rows and the cut into blocks. So it has the same bits on every processor and in every batch, and a
//! threshold behind it fires the same spikes.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::simd;
use super::simd::Choice;

/// Inputs of a block. The weights of a panel stay near while all rows pass over them.
const DEPTH: usize = 768;

/// `[outputs, inputs]` weights in the order in which a product reads them: blocks of inputs, in these panels of outputs,
/// in these input by input.
#[derive(Debug, Clone)]
pub struct Packed {
    weights: Vec<f32>,
    inputs: usize,
    outputs: usize,
    set: InstructionSet,
}

/// What a product is computed with, which decides how many outputs a panel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstructionSet {
    /// 32 registers of 16 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 16 registers of 8 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the program was compiled for.
    Portable,
}

impl Choice for InstructionSet {
    const ALL: &'static [Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        Self::Portable,
    ];

    fn is_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => simd::has_avx2(),
            Self::Portable => true,
        }
    }
}

impl InstructionSet {
    /// Outputs of a panel: two registers of them.
    fn panel(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            Self::Portable => 8,
        }
    }
}

impl Packed {
    /// Packs `[outputs, inputs]` row-major weights.
    ///
    /// # Panics
    /// If there are no inputs, or the weights are not a whole number of rows.
    pub fn new(weights: &[f32], inputs: usize) -> Self {
        let best = InstructionSet::here().next().unwrap_or(InstructionSet::Portable);
        Self::for_set(weights, inputs, best)
    }

    fn for_set(weights: &[f32], inputs: usize, set: InstructionSet) -> Self {
        assert!(weights.len().is_multiple_of(inputs), "{} weights in rows of {inputs}", weights.len());
        let outputs = weights.len() / inputs;
        let (width, padded) = (set.panel(), outputs.next_multiple_of(set.panel()));
        let mut packed = vec![0.0; padded * inputs];
        for start in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - start);
            let block = &mut packed[start * padded..][..depth * padded];
            for (panel, first) in block.chunks_exact_mut(depth * width).zip((0..outputs).step_by(width)) {
                for lane in 0..width.min(outputs - first) {
                    let row = &weights[(first + lane) * inputs + start..][..depth];
                    panel.iter_mut().skip(lane).step_by(width).zip(row).for_each(|(to, w)| *to = *w);
                }
            }
        }
        Self { weights: packed, inputs, outputs, set }
    }

    /// How long a row of inputs is.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How long a row of outputs is.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(self.weights.as_slice())
    }

    /// Outputs that begin at a multiple of this can be computed without the others.
    pub fn panel(&self) -> usize {
        self.set.panel()
    }

    /// `out = W x` for the rows of `x`, `[rows, inputs]`, and these outputs: `[rows, outputs.len()]`.
    ///
    /// # Panics
    /// If the buffers do not fit together, or the outputs do not begin at a multiple of [`Packed::panel`].
    pub fn multiply(&self, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
        assert!(outputs.end <= self.outputs && outputs.start.is_multiple_of(self.panel()), "{outputs:?}");
        assert!(x.len().is_multiple_of(self.inputs) && out.len() == x.len() / self.inputs * outputs.len());
        if out.is_empty() {
            return;
        }
        match self.set {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: matrices are packed for instruction sets that the processor has.
            #[allow(unsafe_code)]
            InstructionSet::Avx512 => unsafe { x86::avx512(self, x, outputs, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            #[allow(unsafe_code)]
            InstructionSet::Avx2 => unsafe { x86::avx2(self, x, outputs, out) },
            InstructionSet::Portable => multiply::<[f32; 4], 4>(self, x, outputs, out),
        }
    }
}

/// Numbers that are computed with at once.
///
/// # Safety
/// Calls of an implementation for an instruction set need a processor that has it.
#[allow(unsafe_code)]
unsafe trait Register: Copy {
    const LANES: usize;

    /// # Safety
    /// `from` has as many numbers as there are lanes.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// See the trait.
    unsafe fn splat(x: f32) -> Self;

    /// `self * weights + sums`, rounded once.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self;

    /// # Safety
    /// `to` has room for as many numbers as there are lanes.
    unsafe fn store(self, to: *mut f32);
}

// SAFETY: it needs no instruction set.
#[allow(unsafe_code)]
unsafe impl Register for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of floats is aligned as a float is.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(weights[lane], sums[lane]))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to.cast() = self }
    }
}

/// The outputs of a panel, in registers.
const REGISTERS: usize = 2;
/// The most numbers of a tile of rows and outputs.
const LARGEST_TILE: usize = 12 * 32;

/// As [`Packed::multiply`], in tiles of `ROWS` rows and a panel of outputs.
#[inline(always)]
fn multiply<V: Register, const ROWS: usize>(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
    let width = REGISTERS * V::LANES;
    debug_assert!(width == m.panel() && ROWS * width <= LARGEST_TILE);
    let (inputs, columns, padded) = (m.inputs, outputs.len(), m.outputs.next_multiple_of(width));
    let rows = x.len() / inputs;
    let mut strips = vec![0.0; rows.next_multiple_of(ROWS) * inputs.min(DEPTH)];
    let mut edge = [0.0; LARGEST_TILE];
    for start in (0..inputs).step_by(DEPTH) {
        let depth = DEPTH.min(inputs - start);
        let strips = &mut strips[..rows.next_multiple_of(ROWS) * depth];
        interleave::<ROWS>(x, inputs, start..start + depth, strips);
        let block = &m.weights[start * padded..][..depth * padded];
        let panels = block[outputs.start * depth..].chunks_exact(depth * width);
        for (panel, first) in panels.zip((0..columns).step_by(width)) {
            let wide = width.min(columns - first);
            for (strip, out) in strips.chunks_exact(ROWS * depth).zip(out.chunks_mut(ROWS * columns)) {
                let high = out.len() / columns;
                let out = &mut out[first..];
                let first_block = start == 0;
                if wide == width && high == ROWS {
                    tile::<V, ROWS, ROWS>(strip, panel, out, columns, first_block);
                } else if wide == width && high == 1 {
                    tile::<V, ROWS, 1>(strip, panel, out, columns, first_block);
                } else {
                    // Rows and outputs that are not there are computed, and left behind.
                    for (edge, out) in edge.chunks_mut(width).zip(out.chunks(columns)) {
                        edge[..wide].copy_from_slice(&out[..wide]);
                    }
                    tile::<V, ROWS, ROWS>(strip, panel, &mut edge, width, first_block);
                    for (edge, out) in edge.chunks(width).zip(out.chunks_mut(columns)) {
                        out[..wide].copy_from_slice(&edge[..wide]);
                    }
                }
            }
        }
    }
}

/// Columns of `x`, `[rows, inputs]`, in strips of `ROWS` rows, in these input by input; zeros for rows that are not there.
#[inline(always)]
fn interleave<const ROWS: usize>(x: &[f32], inputs: usize, columns: Range<usize>, strips: &mut [f32]) {
    for (x, strip) in x.chunks(ROWS * inputs).zip(strips.chunks_exact_mut(ROWS * columns.len())) {
        if x.len() < ROWS * inputs {
            strip.fill(0.0);
        }
        for (lane, row) in x.chunks_exact(inputs).enumerate() {
            for (to, x) in strip.iter_mut().skip(lane).step_by(ROWS).zip(&row[columns.clone()]) {
                *to = *x;
            }
        }
    }
}

/// Adds the products of the first `HIGH` rows of a strip of `ROWS` with a panel to `out`, whose rows are `stride` apart;
/// `first` says that there is nothing in it yet.
#[inline(always)]
fn tile<V: Register, const ROWS: usize, const HIGH: usize>(
    strip: &[f32],
    panel: &[f32],
    out: &mut [f32],
    stride: usize,
    first: bool,
) {
    let width = REGISTERS * V::LANES;
    let depth = strip.len() / ROWS;
    assert!(HIGH <= ROWS && panel.len() >= depth * width && out.len() >= (HIGH - 1) * stride + width);
    let (strip, panel, out) = (strip.as_ptr(), panel.as_ptr(), out.as_mut_ptr());
    let at = |row: usize, register: usize| row * stride + register * V::LANES;
    // SAFETY: the assertion above bounds what is read and written. `multiply` is compiled for the instruction set of `V` and
    // called where the processor has it.
    #[allow(unsafe_code)]
    unsafe {
        let mut sums = [[V::splat(0.0); REGISTERS]; HIGH];
        if !first {
            sums = std::array::from_fn(|row| std::array::from_fn(|r| V::load(out.add(at(row, r)))));
        }
        for k in 0..depth {
            let weights: [V; REGISTERS] =
                std::array::from_fn(|r| V::load(panel.add(k * width + r * V::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*strip.add(k * ROWS + row));
                for r in 0..REGISTERS {
                    sums[r] = x.multiply_add(weights[r], sums[r]);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(at(row, r)));
            }
        }
    }
}

/// The registers of x86, and the product compiled for them.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{Packed, Range, Register, multiply};

    #[target_feature(enable = "avx512f,fma")]
    pub(super) fn avx512(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
        multiply::<__m512, 12>(m, x, outputs, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
        multiply::<__m256, 6>(m, x, outputs, out);
    }

    /// Implements [`Register`] by instructions of the same meaning.
    macro_rules! register {
        ($type:ty, $lanes:literal, $load:ident, $splat:ident, $multiply_add:ident, $store:ident) => {
            // SAFETY: every function is one instruction, under the conditions of the trait.
            unsafe impl Register for $type {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    unsafe { $splat(x) }
                }

                #[inline(always)]
                unsafe fn multiply_add(self, weights: Self, sums: Self) -> Self {
                    unsafe { $multiply_add(self, weights, sums) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }
            }
        };
    }
    register!(__m512, 16, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);
    register!(__m256, 8, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wave(len: usize, by: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * by).sin() * 3.0).collect()
    }

    fn product(m: &Packed, x: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / m.inputs() * m.outputs()];
        m.multiply(x, 0..m.outputs(), &mut out);
        out
    }

    /// The chain that every number stands for.
    fn plain(weights: &[f32], inputs: usize, x: &[f32]) -> Vec<f32> {
        let chain =
            |x: &[f32], w: &[f32]| x.iter().zip(w).fold(0.0, |sum, (x, w): (&f32, &f32)| x.mul_add(*w, sum));
        x.chunks(inputs).flat_map(|x| weights.chunks(inputs).map(move |w| chain(x, w))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_instruction_set_gives_the_bits_of_the_plain_product(
            rows in 1usize..30,
            inputs in prop_oneof![1usize..40, Just(DEPTH), Just(DEPTH + 1), Just(2 * DEPTH + 5)],
            outputs in 1usize..80,
        ) {
            let (weights, x) = (wave(outputs * inputs, 0.37), wave(rows * inputs, 0.73));
            let expected = plain(&weights, inputs, &x);
            for set in InstructionSet::here() {
                prop_assert_eq!(&product(&Packed::for_set(&weights, inputs, set), &x), &expected, "{:?}", set);
            }
        }

        #[test]
        fn some_of_the_outputs_are_those_of_the_whole(rows in 1usize..15, from in 0usize..4, to in 0usize..=70) {
            let (inputs, outputs) = (DEPTH + 3, 70);
            let packed = Packed::new(&wave(outputs * inputs, 0.37), inputs);
            let x = wave(rows * inputs, 0.73);
            let whole = product(&packed, &x);
            let from = (from * packed.panel()).min(64 / packed.panel() * packed.panel());
            let part = from..to.max(from);
            let mut out = vec![0.0; rows * part.len()];
            packed.multiply(&x, part.clone(), &mut out);
            let expected: Vec<f32> = whole.chunks(outputs).flat_map(|row| row[part.clone()].to_vec()).collect();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn what_is_no_number_shows() {
        let packed = Packed::new(&[1.0, 2.0, f32::NAN, 4.0], 2);
        let out = product(&packed, &[1.0, 1.0]);
        assert!(out[0] == 3.0 && out[1].is_nan());
        assert!(product(&packed, &[f32::INFINITY, 0.0])[0].is_infinite());
    }
}
