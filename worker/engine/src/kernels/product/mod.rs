//! Products of rows with a matrix that was packed once.
//!
//! Every number of a product is one chain of fused multiply-adds over the inputs in their order, whatever the
//! instruction set, the number of rows and the cut into blocks. So it has the same bits on every processor
//! and in every batch, and a threshold behind it fires the same spikes.
#![expect(
    unsafe_code,
    reason = "what is compiled for an instruction set is called where the processor has it"
)]

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::simd;
use super::simd::Choice;
use register::Register;

mod dense;
pub(super) mod register;
mod sparse;

/// Inputs of a block. The weights of a panel stay near while all rows pass over them.
const DEPTH: usize = 768;
/// Numbers of a cache line: a register that is read from two of them takes twice as long.
const LINE: usize = 16;
/// The outputs of a panel, in registers.
const REGISTERS: usize = 2;

/// `[outputs, inputs]` weights in the order in which a product reads them: blocks of inputs, in these panels
/// of outputs, in these input by input.
#[derive(Debug)]
pub struct Packed {
    aligned: Vec<f32>,
    /// Index in `aligned` at which the weights begin.
    from: usize,
    inputs: usize,
    outputs: usize,
    set: InstructionSet,
}

/// The instruction set of a product, which decides how many outputs a panel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstructionSet {
    /// 32 registers of 16 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 16 registers of 8 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The instructions that the program was compiled for.
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
            Self::Avx512 => simd::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => simd::has_avx2(),
            Self::Portable => true,
        }
    }
}

/// Copies a row to where it is the `k`-th of each panel of a block.
fn scatter<const WIDTH: usize>(row: &[f32], block: &mut [f32], depth: usize, k: usize) {
    let (whole, rest) = row.as_chunks::<WIDTH>();
    let mut panels = block.chunks_exact_mut(depth * WIDTH).map(|panel| &mut panel[k * WIDTH..][..WIDTH]);
    for (from, to) in whole.iter().zip(&mut panels) {
        to.copy_from_slice(from);
    }
    if let Some(to) = panels.next() {
        to[..rest.len()].copy_from_slice(rest);
    }
}

/// A matrix without inputs and outputs, into which one can be packed.
impl Default for Packed {
    fn default() -> Self {
        Self { aligned: Vec::new(), from: 0, inputs: 0, outputs: 0, set: InstructionSet::best() }
    }
}

impl InstructionSet {
    /// The fastest that the processor has.
    fn best() -> Self {
        Self::here().next().unwrap_or(Self::Portable)
    }

    /// Outputs of a panel: two registers of them.
    pub(super) fn panel(self) -> usize {
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
        Self::for_set(weights, inputs, InstructionSet::best())
    }

    pub(super) fn for_set(weights: &[f32], inputs: usize, set: InstructionSet) -> Self {
        let mut packed = Self { set, ..Self::default() };
        packed.pack(weights, inputs);
        packed
    }

    /// Packs other `[outputs, inputs]` row-major weights into the same memory.
    ///
    /// # Panics
    /// As [`Packed::new`].
    pub fn pack(&mut self, weights: &[f32], inputs: usize) {
        assert!(weights.len().is_multiple_of(inputs), "{} weights in rows of {inputs}", weights.len());
        let width = self.set.panel();
        self.fill(inputs, weights.len() / inputs, |panel, start, first, wide| {
            // A few inputs of all outputs at a time, so that what is written is near.
            for (inputs_of_panel, from) in panel.chunks_mut(LINE * width).zip((start..).step_by(LINE)) {
                for lane in 0..wide {
                    let row = &weights[(first + lane) * inputs + from..][..inputs_of_panel.len() / width];
                    let to = inputs_of_panel.iter_mut().skip(lane).step_by(width);
                    to.zip(row).for_each(|(to, w)| *to = *w);
                }
            }
        });
    }

    /// Packs the transpose of row-major weights: those are `[inputs, outputs]` here.
    ///
    /// # Panics
    /// If there are no outputs, or the weights are not a whole number of rows of them.
    pub fn pack_transposed(&mut self, weights: &[f32], outputs: usize) {
        assert!(weights.len().is_multiple_of(outputs), "{} weights in rows of {outputs}", weights.len());
        let width = self.set.panel();
        self.resize(weights.len() / outputs, outputs);
        let (inputs, padded) = (self.inputs, outputs.next_multiple_of(width));
        let packed = &mut self.aligned[self.from..];
        for start in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - start);
            let block = &mut packed[start * padded..][..depth * padded];
            // Rows are read as they lie in memory; where few outputs are far apart, that is what takes time.
            for (k, row) in weights[start * outputs..].chunks_exact(outputs).take(depth).enumerate() {
                match width {
                    32 => scatter::<32>(row, block, depth, k),
                    16 => scatter::<16>(row, block, depth, k),
                    _ => scatter::<8>(row, block, depth, k),
                }
            }
        }
    }

    /// Makes room for a matrix of these sizes.
    fn resize(&mut self, inputs: usize, outputs: usize) {
        if (self.inputs, self.outputs) == (inputs, outputs) {
            return;
        }
        // Outputs that are not there stay zero from here on.
        self.aligned.clear();
        self.aligned.resize(outputs.next_multiple_of(self.set.panel()) * inputs + LINE, 0.0);
        self.from = self.aligned.as_ptr().align_offset(size_of::<f32>() * LINE).min(LINE);
        (self.inputs, self.outputs) = (inputs, outputs);
    }

    /// Fills every panel of every block: `fill_panel` gets a panel, the first of its inputs, the first of its outputs, and
    /// how many outputs it has.
    fn fill(&mut self, inputs: usize, outputs: usize, fill_panel: impl Fn(&mut [f32], usize, usize, usize)) {
        let (width, padded) = (self.set.panel(), outputs.next_multiple_of(self.set.panel()));
        self.resize(inputs, outputs);
        let packed = &mut self.aligned[self.from..];
        for start in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - start);
            let block = &mut packed[start * padded..][..depth * padded];
            for (panel, first) in block.chunks_exact_mut(depth * width).zip((0..outputs).step_by(width)) {
                fill_panel(panel, start, first, width.min(outputs - first));
            }
        }
    }

    /// The weights, from a cache line's beginning on.
    fn weights(&self) -> &[f32] {
        &self.aligned[self.from..]
    }

    /// Length of a row of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of a row of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(self.aligned.as_slice())
    }

    /// Outputs that begin at a multiple of this can be computed without the others.
    pub fn panel(&self) -> usize {
        self.set.panel()
    }

    /// `out = W x` for the rows of `x`, `[rows, inputs]`, and these outputs: `[rows, outputs.len()]`. A
    /// weight that is no number may not show where its input is zero.
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
            InstructionSet::Avx512 => unsafe { avx512(self, x, outputs, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { avx2(self, x, outputs, out) },
            // SAFETY: it needs no instruction set beyond what the program was compiled for.
            InstructionSet::Portable => unsafe { multiply::<[f32; 4], 4>(self, x, outputs, out) },
        }
    }
}

impl Packed {
    /// `out = W x` for some of the columns of `x`, `[inputs, any]`: `[columns.len(), outputs]`; or, unless `is_new`,
    /// what was in `out` and that. It is how the gradient of a matrix is summed: of `dW = dY^T X`, X is packed
    /// transposed, and columns of dY are multiplied with it. `buffer` is filled on the way.
    ///
    /// # Panics
    /// If the buffers do not fit together.
    pub fn multiply_columns(
        &self,
        x: &[f32],
        columns: Range<usize>,
        out: &mut [f32],
        is_new: bool,
        buffer: &mut Vec<f32>,
    ) {
        assert!(x.len().is_multiple_of(self.inputs) && columns.end <= x.len() / self.inputs, "{columns:?}");
        assert!(out.len() == columns.len() * self.outputs);
        if out.is_empty() {
            return;
        }
        match self.set {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: matrices are packed for instruction sets that the processor has.
            InstructionSet::Avx512 => unsafe { avx512_columns(self, x, columns, out, is_new, buffer) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx2 => unsafe { avx2_columns(self, x, columns, out, is_new, buffer) },
            // SAFETY: it needs no instruction set beyond what the program was compiled for.
            InstructionSet::Portable => unsafe {
                dense::multiply_columns::<[f32; 4], 4>(self, x, columns, out, is_new, buffer);
            },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512_columns(
    m: &Packed,
    x: &[f32],
    columns: Range<usize>,
    out: &mut [f32],
    is_new: bool,
    buffer: &mut Vec<f32>,
) {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { dense::multiply_columns::<std::arch::x86_64::__m512, 12>(m, x, columns, out, is_new, buffer) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_columns(
    m: &Packed,
    x: &[f32],
    columns: Range<usize>,
    out: &mut [f32],
    is_new: bool,
    buffer: &mut Vec<f32>,
) {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { dense::multiply_columns::<std::arch::x86_64::__m256, 6>(m, x, columns, out, is_new, buffer) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { multiply::<std::arch::x86_64::__m512, 12>(m, x, outputs, out) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction set.
    unsafe { multiply::<std::arch::x86_64::__m256, 6>(m, x, outputs, out) };
}

/// As [`Packed::multiply`], where it is dense in tiles of `ROWS` rows and a panel of outputs.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn multiply<V: Register, const ROWS: usize>(
    m: &Packed,
    x: &[f32],
    outputs: Range<usize>,
    out: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if sparse::pays(x, m.inputs, outputs.len()) {
            sparse::multiply::<V>(m, x, outputs, out);
        } else {
            dense::multiply::<V, ROWS>(m, x, outputs, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wave(len: usize, by: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * by).sin() * 3.0).collect()
    }

    /// A wave of which about so many of a hundred are zero.
    fn holed(len: usize, percent: usize) -> Vec<f32> {
        let there = |i: usize| i.wrapping_mul(0x9e37_79b9) % 10_007 >= percent * 10_007 / 100;
        wave(len, 0.73).into_iter().enumerate().map(|(i, x)| if there(i) { x } else { 0.0 }).collect()
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
        fn columns_are_multiplied_and_added_in_the_order_of_the_rows(
            rows in prop_oneof![1usize..40, Just(DEPTH + 1)],
            inputs in 1usize..80,
            outputs in 1usize..40,
            cut in 0usize..40,
        ) {
            let (x, dy) = (wave(rows * inputs, 0.37), wave(rows * outputs, 0.73));
            let chain = |from: f32, rows: Range<usize>, o: usize, i: usize| {
                rows.fold(from, |sum, t| dy[t * outputs + o].mul_add(x[t * inputs + i], sum))
            };
            let columns = cut.min(outputs - 1)..outputs;
            let each = || columns.clone().flat_map(|o| (0..inputs).map(move |i| (o, i)));
            let expected: Vec<f32> = each().map(|(o, i)| chain(0.0, 0..rows, o, i)).collect();
            let twice: Vec<f32> =
                each().zip(&expected).map(|((o, i), sum)| chain(*sum, 0..rows, o, i)).collect();
            let mut buffer = vec![f32::NAN; 5];
            for set in InstructionSet::here() {
                let mut packed = Packed { set, ..Packed::default() };
                packed.pack_transposed(&x, inputs);
                let mut out = vec![f32::NAN; expected.len()];
                packed.multiply_columns(&dy, columns.clone(), &mut out, true, &mut buffer);
                prop_assert_eq!(&out, &expected, "{:?}", set);
                packed.multiply_columns(&dy, columns.clone(), &mut out, false, &mut buffer);
                prop_assert_eq!(&out, &twice, "{:?}", set);
            }
        }

        #[test]
        fn the_transpose_is_packed_as_if_it_were_written_out(
            rows in prop_oneof![1usize..40, Just(DEPTH + 1)],
            columns in 1usize..70,
        ) {
            let weights = wave(rows * columns, 0.37);
            let turned: Vec<f32> =
                (0..columns).flat_map(|c| weights.iter().skip(c).step_by(columns).copied()).collect();
            let mut packed = Packed::new(&wave(7 * 9, 0.9), 9);
            packed.pack_transposed(&weights, columns);
            let expected = Packed::new(&turned, rows);
            let size = columns.next_multiple_of(packed.panel()) * rows;
            prop_assert_eq!(&packed.weights()[..size], &expected.weights()[..size]);
        }

        #[test]
        fn zeros_that_are_left_out_change_no_bit(
            rows in 1usize..10,
            inputs in prop_oneof![1usize..80, Just(DEPTH - 1), Just(DEPTH + 65)],
            outputs in 60usize..450,
            percent in prop_oneof![50usize..70, Just(90), Just(100)],
        ) {
            let (weights, x) = (wave(outputs * inputs, 0.37), holed(rows * inputs, percent));
            let expected = plain(&weights, inputs, &x);
            for set in InstructionSet::here() {
                let out = product(&Packed::for_set(&weights, inputs, set), &x);
                prop_assert_eq!(&out, &expected, "{:?}", set);
            }
        }

        #[test]
        fn some_of_the_outputs_are_those_of_the_whole(
            rows in 1usize..15,
            from in 0usize..4,
            to in 0usize..=150,
            zeros: bool,
        ) {
            let (inputs, outputs) = (DEPTH + 3, 150);
            let packed = Packed::new(&wave(outputs * inputs, 0.37), inputs);
            let x = if zeros { holed(rows * inputs, 70) } else { wave(rows * inputs, 0.73) };
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
    fn more_rows_than_are_taken_at_once_are_as_each_alone() {
        let (inputs, outputs, rows) = (70, 100, 600);
        let packed = Packed::new(&wave(outputs * inputs, 0.37), inputs);
        let x = holed(rows * inputs, 70);
        let alone: Vec<f32> = x.chunks(inputs).flat_map(|row| product(&packed, row)).collect();
        assert_eq!(product(&packed, &x), alone);
    }

    #[test]
    fn what_is_no_number_shows() {
        let packed = Packed::new(&[1.0, 2.0, f32::NAN, 4.0], 2);
        let out = product(&packed, &[1.0, 1.0]);
        assert!(out[0] == 3.0 && out[1].is_nan());
        assert!(product(&packed, &[f32::INFINITY, 0.0])[0].is_infinite());
    }
}
