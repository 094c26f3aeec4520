//! The product of rows in which most numbers are not zero, and of columns.
#![expect(unsafe_code, reason = "registers of one instruction set, read and written without bounds")]

use std::ops::Range;

use super::register::Register;
use super::{DEPTH, Packed, REGISTERS};

/// Inputs of a slice of a panel: at 24 KiB and half as much of a strip, both fit the nearest cache.
const SLICE: usize = 192;
/// The most numbers of a tile of rows and outputs.
const LARGEST_TILE: usize = 12 * 32;

/// As [`Packed::multiply`], in tiles of `ROWS` rows and a panel of outputs.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn multiply<V: Register, const ROWS: usize>(
    m: &Packed,
    x: &[f32],
    outputs: Range<usize>,
    out: &mut [f32],
) {
    let rows = x.len() / m.inputs;
    let strips = |inputs: Range<usize>, strips: &mut [f32]| interleave::<ROWS>(x, m.inputs, inputs, strips);
    // SAFETY: the caller's promise.
    unsafe { add_products::<V, ROWS>(m, rows, strips, outputs, out, true) };
}

/// As [`Packed::multiply_columns`], in tiles of `ROWS` columns and a panel of outputs.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn multiply_columns<V: Register, const ROWS: usize>(
    m: &Packed,
    x: &[f32],
    columns: Range<usize>,
    out: &mut [f32],
    is_new: bool,
) {
    let (stride, count) = (x.len() / m.inputs, columns.len());
    let strips = |inputs: Range<usize>, strips: &mut [f32]| {
        strips_of_columns::<ROWS>(&x[inputs.start * stride..], stride, columns.clone(), strips);
    };
    // SAFETY: the caller's promise.
    unsafe { add_products::<V, ROWS>(m, count, strips, 0..m.outputs, out, is_new) };
}

/// Adds products with `rows` rows of inputs to `out`, block by block; `strips_of` puts a block's inputs in strips,
/// `is_new` says that there is nothing in `out` yet.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn add_products<V: Register, const ROWS: usize>(
    m: &Packed,
    rows: usize,
    strips_of: impl Fn(Range<usize>, &mut [f32]),
    outputs: Range<usize>,
    out: &mut [f32],
    is_new: bool,
) {
    let width = REGISTERS * V::LANES;
    const { assert!(ROWS * REGISTERS * V::LANES <= LARGEST_TILE) };
    debug_assert!(width == m.panel());
    let (inputs, columns, padded) = (m.inputs, outputs.len(), m.outputs.next_multiple_of(width));
    let mut strips = vec![0.0; rows.next_multiple_of(ROWS) * inputs.min(DEPTH)];
    let mut edge = [0.0; LARGEST_TILE];
    for start in (0..inputs).step_by(DEPTH) {
        let depth = DEPTH.min(inputs - start);
        let strips = &mut strips[..rows.next_multiple_of(ROWS) * depth];
        strips_of(start..start + depth, strips);
        let block = &m.weights()[start * padded..][..depth * padded];
        let panels = block[outputs.start * depth..].chunks_exact(depth * width);
        for (panel, first) in panels.zip((0..columns).step_by(width)) {
            let wide = width.min(columns - first);
            // A slice of the panel stays in the nearest cache while the strips pass over it.
            for (slice, from) in panel.chunks(SLICE * width).zip((0..depth).step_by(SLICE)) {
                let first_slice = start + from == 0 && is_new;
                for (strip, out) in strips.chunks_exact(ROWS * depth).zip(out.chunks_mut(ROWS * columns)) {
                    let strip = &strip[from * ROWS..][..slice.len() / width * ROWS];
                    let high = out.len() / columns;
                    let out = &mut out[first..];
                    if wide == width && high == ROWS {
                        // SAFETY: the caller's promise, here and below.
                        unsafe { tile::<V, ROWS, ROWS>(strip, slice, out, columns, first_slice) };
                    } else if wide == width && high == 1 {
                        // SAFETY: as above.
                        unsafe { tile::<V, ROWS, 1>(strip, slice, out, columns, first_slice) };
                    } else {
                        // Rows and outputs that are not there are computed, and left behind.
                        for (edge, out) in edge.chunks_mut(width).zip(out.chunks(columns)) {
                            edge[..wide].copy_from_slice(&out[..wide]);
                        }
                        // SAFETY: as above.
                        unsafe { tile::<V, ROWS, ROWS>(strip, slice, &mut edge, width, first_slice) };
                        for (edge, out) in edge.chunks(width).zip(out.chunks_mut(columns)) {
                            out[..wide].copy_from_slice(&edge[..wide]);
                        }
                    }
                }
            }
        }
    }
}

/// Some columns of `x`, whose rows are `stride` apart and the inputs of a block, in strips of `ROWS` columns, in these
/// input by input; zeros for columns that are not there.
#[inline(always)]
fn strips_of_columns<const ROWS: usize>(x: &[f32], stride: usize, columns: Range<usize>, strips: &mut [f32]) {
    /// Strips that are written side by side while rows are read as they lie in memory.
    const TOGETHER: usize = 8;
    let depth = strips.len() / columns.len().next_multiple_of(ROWS);
    let groups = strips.chunks_mut(TOGETHER * ROWS * depth);
    for (strips, first) in groups.zip(columns.clone().step_by(TOGETHER * ROWS)) {
        let last = columns.end.min(first + TOGETHER * ROWS);
        for (k, x) in x.chunks(stride).take(depth).enumerate() {
            let (whole, rest) = x[first..last].as_chunks::<ROWS>();
            let mut strips = strips.chunks_exact_mut(ROWS * depth).map(|strip| &mut strip[k * ROWS..][..ROWS]);
            for (to, x) in (&mut strips).zip(whole) {
                to.copy_from_slice(x);
            }
            if let Some(to) = strips.next() {
                to[rest.len()..].fill(0.0);
                to[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Columns of `x`, `[rows, inputs]`, in strips of `ROWS` rows, in these input by input; zeros for rows that
/// are not there.
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

/// Adds the products of the first `HIGH` rows of a strip of `ROWS` with a panel to `out`, whose rows are
/// `stride` apart; `first` says that there is nothing in it yet.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn tile<V: Register, const ROWS: usize, const HIGH: usize>(
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
    // SAFETY: the assertion above bounds what is read and written; the instruction set is the caller's
    // promise.
    unsafe {
        let mut sums = [[V::splat(0.0); REGISTERS]; HIGH];
        if !first {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(out.add(at(row, r)));
                }
            }
        }
        for k in 0..depth {
            let mut weights = [V::splat(0.0); REGISTERS];
            for (r, weights) in weights.iter_mut().enumerate() {
                *weights = V::load(panel.add(k * width + r * V::LANES));
            }
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
