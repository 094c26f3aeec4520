//! The product of rows in which most numbers are not zero, and of columns.
#![expect(unsafe_code, reason = "registers of one instruction set, read and written without bounds")]

use std::ops::Range;

use super::register::Register;
use super::{DEPTH, LINE, Packed, REGISTERS};

/// The most numbers of a tile of rows and outputs.
const LARGEST_TILE: usize = 12 * 32;

/// Inputs of rows that stay near while panels pass, 512 KiB of them.
const INPUTS_TOGETHER: usize = 1 << 17;

/// As [`Packed::multiply`], in tiles of up to `ROWS` rows and a panel of outputs.
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
    let width = REGISTERS * V::LANES;
    debug_assert!(width == m.panel());
    let (inputs, columns, padded) = (m.inputs, outputs.len(), m.outputs.next_multiple_of(width));
    let group = (INPUTS_TOGETHER / inputs.min(DEPTH)).next_multiple_of(ROWS);
    for (x, out) in x.chunks(group * inputs).zip(out.chunks_mut(group * columns)) {
        for start in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - start);
            let block = &m.weights()[start * padded..][..depth * padded];
            let panels = block[outputs.start * depth..].chunks_exact(depth * width);
            for (panel, first) in panels.zip((0..columns).step_by(width)) {
                let next = block.get((outputs.start + first + width) * depth..).unwrap_or_default();
                let strips = x.chunks(ROWS * inputs).zip(out.chunks_mut(ROWS * columns)).enumerate();
                for (strip, (x, out)) in strips {
                    // While rows pass over a panel, the next one comes nearer.
                    let ahead = next.get(strip * lines_of_strip(depth) * LINE..).unwrap_or_default();
                    let from = Rows { x: &x[start..], row: inputs, input: 1, ahead };
                    // SAFETY: the caller's promise.
                    unsafe { tiles::<V, ROWS>(from, panel, first, out, columns, start == 0) };
                }
            }
        }
    }
}

/// As [`Packed::multiply_columns`], in tiles of up to `ROWS` columns and a panel of outputs.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn multiply_columns<V: Register, const ROWS: usize>(
    m: &Packed,
    x: &[f32],
    rows: Range<usize>,
    out: &mut [f32],
    is_new: bool,
    buffer: &mut Vec<f32>,
) {
    let width = REGISTERS * V::LANES;
    debug_assert!(width == m.panel());
    let (inputs, columns, padded) = (m.inputs, m.outputs, m.outputs.next_multiple_of(width));
    let stride = x.len() / inputs;
    buffer.resize(rows.len().next_multiple_of(ROWS) * inputs.min(DEPTH), 0.0);
    for start in (0..inputs).step_by(DEPTH) {
        let depth = DEPTH.min(inputs - start);
        let strips = &mut buffer[..rows.len().next_multiple_of(ROWS) * depth];
        strips_of_columns::<ROWS>(&x[start * stride..], stride, rows.clone(), strips);
        let block = &m.weights()[start * padded..][..depth * padded];
        for (panel, first) in block.chunks_exact(depth * width).zip((0..columns).step_by(width)) {
            let next = block.get((first + width) * depth..).unwrap_or_default();
            let strips = strips.chunks_exact(ROWS * depth).zip(out.chunks_mut(ROWS * columns)).enumerate();
            for (index, (strip, out)) in strips {
                let ahead = next.get(index * lines_of_strip(depth) * LINE..).unwrap_or_default();
                let from = Rows { x: strip, row: 1, input: ROWS, ahead };
                // SAFETY: the caller's promise.
                unsafe { tiles::<V, ROWS>(from, panel, first, out, columns, start == 0 && is_new) };
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
            let mut strips =
                strips.chunks_exact_mut(ROWS * depth).map(|strip| &mut strip[k * ROWS..][..ROWS]);
            for (x, to) in whole.iter().zip(&mut strips) {
                to.copy_from_slice(x);
            }
            if let Some(to) = strips.next() {
                to[rest.len()..].fill(0.0);
                to[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Rows of inputs, wherever they lie.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    /// Distance of a row from the next.
    row: usize,
    /// Distance of an input from the next.
    input: usize,
    /// Weights that will be read next, of which the first lines come nearer meanwhile.
    ahead: &'a [f32],
}

/// Inputs after which a tile brings another cache line nearer: not many at once, which would have to wait for each other.
const INPUTS_A_LINE: usize = 4;

/// Cache lines that a tile of so many inputs brings nearer.
fn lines_of_strip(depth: usize) -> usize {
    depth.div_ceil(INPUTS_A_LINE)
}

/// Adds the products of up to `ROWS` rows, as many as `out` has of `columns` numbers each, with a panel whose outputs are
/// from `first` on; `is_new` says that there is nothing in `out` yet.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn tiles<V: Register, const ROWS: usize>(
    from: Rows<'_>,
    panel: &[f32],
    first: usize,
    out: &mut [f32],
    columns: usize,
    is_new: bool,
) {
    let width = REGISTERS * V::LANES;
    const { assert!(ROWS * REGISTERS * V::LANES <= LARGEST_TILE) };
    let wide = width.min(columns - first);
    let mut row = 0;
    while row * columns < out.len() {
        let left = out.len() / columns - row;
        let from = Rows { x: &from.x[row * from.row..], ..from };
        let out = &mut out[row * columns + first..];
        if wide == width {
            // SAFETY: the caller's promise, here and below.
            row += unsafe { tile_of::<V, ROWS>(from, panel, out, columns, left, is_new) };
        } else {
            // Outputs that are not there are computed, and left behind.
            let mut edge = [0.0; LARGEST_TILE];
            for (edge, out) in edge.chunks_mut(width).zip(out.chunks(columns)).take(left) {
                edge[..wide].copy_from_slice(&out[..wide]);
            }
            // SAFETY: as above.
            let done = unsafe { tile_of::<V, ROWS>(from, panel, &mut edge, width, left, is_new) };
            for (edge, out) in edge.chunks(width).zip(out.chunks_mut(columns)).take(done) {
                out[..wide].copy_from_slice(&edge[..wide]);
            }
            row += done;
        }
    }
}

/// A tile of as many of the `left` rows as there are tiles for; how many that are.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn tile_of<V: Register, const ROWS: usize>(
    from: Rows<'_>,
    panel: &[f32],
    out: &mut [f32],
    stride: usize,
    left: usize,
    is_new: bool,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        match left {
            _ if left >= ROWS => tile::<V, ROWS>(from, panel, out, stride, is_new),
            8.. => tile::<V, 8>(from, panel, out, stride, is_new),
            4.. => tile::<V, 4>(from, panel, out, stride, is_new),
            2.. => tile::<V, 2>(from, panel, out, stride, is_new),
            _ => tile::<V, 1>(from, panel, out, stride, is_new),
        }
    }
}

/// Adds the products of `HIGH` rows with a panel to `out`, whose rows are `stride` apart; `is_new` says that there is
/// nothing in it yet. Gives `HIGH`.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn tile<V: Register, const HIGH: usize>(
    from: Rows<'_>,
    panel: &[f32],
    out: &mut [f32],
    stride: usize,
    is_new: bool,
) -> usize {
    let width = REGISTERS * V::LANES;
    let depth = panel.len() / width;
    assert!(out.len() >= (HIGH - 1) * stride + width);
    assert!(depth > 0 && from.x.len() > (HIGH - 1) * from.row + (depth - 1) * from.input);
    let (x, panel, out) = (from.x.as_ptr(), panel.as_ptr(), out.as_mut_ptr());
    let ahead = if from.ahead.is_empty() { panel } else { from.ahead.as_ptr() };
    let at = |row: usize, register: usize| row * stride + register * V::LANES;
    // SAFETY: the assertions above bound what is read and written; the instruction set is the caller's
    // promise.
    unsafe {
        let mut sums = [[V::splat(0.0); REGISTERS]; HIGH];
        if !is_new {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(out.add(at(row, r)));
                }
            }
        }
        for k in 0..depth {
            if k % INPUTS_A_LINE == 0 {
                V::prefetch(ahead.wrapping_add(k / INPUTS_A_LINE * LINE));
            }
            let mut weights = [V::splat(0.0); REGISTERS];
            for (r, weights) in weights.iter_mut().enumerate() {
                *weights = V::load(panel.add(k * width + r * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*x.add(row * from.row + k * from.input));
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
    HIGH
}
