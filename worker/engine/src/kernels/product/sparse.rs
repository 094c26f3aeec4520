//! The product of rows in which many numbers are zero, as behind a relu: the zeros are left out.
//!
//! A sum to which nothing is added stays what it is, so the other steps of its chain give the bits of the
//! dense product; but for the sign of a zero that is too small to be anything else, which no sum behind it
//! sees.
#![expect(unsafe_code, reason = "registers of one instruction set, read and written without bounds")]

use std::ops::Range;

use super::register::Register;
use super::{DEPTH, Packed, REGISTERS};

/// Panels in which a row has its sums in registers at once: twelve chains of additions hide how long one
/// takes.
const PANELS: usize = 6;
/// Inputs of a slice, whose weights in so many panels stay in the nearest cache while the rows pass.
const SLICE: usize = 64;
/// Rows whose sums stay near while the slices pass.
const ROWS: usize = 256;
/// Outputs below which finding the zeros costs more than leaving them out saves.
const NARROWEST: usize = 64;
/// The most outputs of so many panels.
const LARGEST: usize = PANELS * 32;

/// True if leaving out the zeros of `x`, as every eighth row has them, saves more than it costs. A dense
/// product reads a weight once for several rows, so that it needs less time per number.
#[inline(always)]
pub(super) fn pays(x: &[f32], inputs: usize, outputs: usize) -> bool {
    let zeros = |row: &[f32]| row.iter().filter(|x| **x == 0.0).count();
    let (found, seen) = x
        .chunks_exact(inputs)
        .step_by(8)
        .fold((0, 0), |(found, seen), row| (found + zeros(row), seen + row.len()));
    outputs >= NARROWEST && found * 5 >= seen * 3
}

/// A number that is not zero.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    x: f32,
    /// Index in a panel's slice at which its weights begin.
    at: u32,
}

/// As [`Packed::multiply`]. Weights have to be finite: one that meets a zero is not looked at.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn multiply<V: Register>(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
    let rows = x.chunks(ROWS * m.inputs);
    for (x, out) in rows.zip(out.chunks_mut(ROWS * outputs.len())) {
        // SAFETY: the caller's promise.
        unsafe { multiply_rows::<V>(m, x, outputs.clone(), out) };
    }
}

/// As [`multiply`], for so many rows that their sums stay near.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn multiply_rows<V: Register>(m: &Packed, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
    let width = REGISTERS * V::LANES;
    let (columns, padded) = (outputs.len(), m.outputs.next_multiple_of(width));
    let (rows, slices) = (x.len() / m.inputs, slices(m.inputs));
    let (entries, ends) = gather(x, m.inputs, width, slices.clone());
    let mut edge = [0.0; LARGEST];
    let mut first = 0;
    while first < columns {
        // Groups of about the same number of panels: few of them would leave the adders waiting.
        let left = (columns - first).div_ceil(width);
        let panels = left.div_ceil(left.div_ceil(PANELS));
        let wide = (panels * width).min(columns - first);
        let mut start = 0;
        for (slice, ends) in slices.clone().zip(ends.chunks_exact(rows)) {
            let block = slice.start / DEPTH * DEPTH;
            let depth = DEPTH.min(m.inputs - block);
            let weights = &m.weights()[block * padded + (outputs.start + first) * depth..];
            let weights =
                &weights[(slice.start - block) * width..][..((panels - 1) * depth + slice.len()) * width];
            for (end, out) in ends.iter().zip(out.chunks_exact_mut(columns)) {
                let (entries, out) = (&entries[start..*end], &mut out[first..][..wide]);
                start = *end;
                // Outputs that are not there are computed, and left behind.
                let there = wide == panels * width;
                if !there {
                    edge[..wide].copy_from_slice(out);
                }
                let sums = if there { &mut *out } else { &mut edge[..panels * width] };
                // SAFETY: the instruction set is the caller's promise, and `gather` puts entries in their
                // order.
                unsafe { add_to_panels::<V>(entries, weights, depth * width, sums, slice.start == 0) };
                if !there {
                    out.copy_from_slice(&edge[..wide]);
                }
            }
        }
        first += wide;
    }
}

/// All inputs in their order, cut where blocks are cut, too.
fn slices(inputs: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    const { assert!(DEPTH.is_multiple_of(SLICE)) };
    (0..inputs).step_by(SLICE).map(move |start| start..inputs.min(start + SLICE))
}

/// The numbers that are not zero, slice by slice, in these row by row, in these input by input; and the end
/// of each row of each slice.
#[inline(always)]
fn gather(
    x: &[f32],
    inputs: usize,
    width: usize,
    slices: impl Iterator<Item = Range<usize>>,
) -> (Vec<Entry>, Vec<usize>) {
    let (mut entries, mut ends) = (Vec::with_capacity(x.len() * 2 / 3), Vec::new());
    let mut found = [Entry::default(); SLICE];
    for slice in slices {
        for row in x.chunks_exact(inputs) {
            let mut count = 0;
            for (x, k) in row[slice.clone()].iter().zip(0u32..) {
                // Written in any case, which is faster than a branch that nobody can foresee.
                found[count] = Entry { x: *x, at: k * width as u32 };
                count += usize::from(*x != 0.0);
            }
            entries.extend_from_slice(&found[..count]);
            ends.push(entries.len());
        }
    }
    (entries, ends)
}

/// As [`add`], for the panels, up to [`PANELS`], that `out` is the outputs of.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
unsafe fn add_to_panels<V: Register>(
    entries: &[Entry],
    weights: &[f32],
    stride: usize,
    out: &mut [f32],
    first: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match out.len() / (REGISTERS * V::LANES) {
            1 => add::<V, 1>(entries, weights, stride, out, first),
            2 => add::<V, 2>(entries, weights, stride, out, first),
            3 => add::<V, 3>(entries, weights, stride, out, first),
            4 => add::<V, 4>(entries, weights, stride, out, first),
            5 => add::<V, 5>(entries, weights, stride, out, first),
            _ => add::<V, PANELS>(entries, weights, stride, out, first),
        }
    }
}

/// Adds the products of entries with their weights in `N` panels, which are `stride` apart, to `out`; `first`
/// says that there is nothing in it yet.
///
/// # Safety
/// The processor has the instruction set of `V`, and entries are in the order of their inputs.
#[inline(always)]
unsafe fn add<V: Register, const N: usize>(
    entries: &[Entry],
    weights: &[f32],
    stride: usize,
    out: &mut [f32],
    first: bool,
) {
    let width = REGISTERS * V::LANES;
    let farthest = (N - 1) * stride + width;
    // The last entry reads farthest.
    let last = entries.last().map_or(0, |entry| entry.at as usize);
    assert!(out.len() >= N * width && weights.len() >= last + farthest);
    debug_assert!(entries.is_sorted_by_key(|entry| entry.at));
    let (weights, out) = (weights.as_ptr(), out.as_mut_ptr());
    // SAFETY: the assertion above bounds what is read and written, because no entry reads farther than the
    // last; that, and the instruction set, are the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); REGISTERS]; N];
        if !first {
            sums =
                std::array::from_fn(|p| std::array::from_fn(|r| V::load(out.add(p * width + r * V::LANES))));
        }
        for entry in entries {
            let x = V::splat(entry.x);
            let weights = weights.add(entry.at as usize);
            for (p, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = x.multiply_add(V::load(weights.add(p * stride + r * V::LANES)), *sum);
                }
            }
        }
        for (p, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                sum.store(out.add(p * width + r * V::LANES));
            }
        }
    }
}
