//! Sums of outer products in 64 bits: second moments of inputs, and the update of a Cholesky factorization.
//!
//! Every number is summed in the order of the rows that it is summed over, and nothing is contracted, so its bits do
//! not depend on processor, threads or how rows are cut into calls.

use super::simd::per_instruction_set;

/// Columns that are computed together; rows are padded to a multiple of it.
pub const LANES: usize = 8;
/// Rows of the sum that are computed together.
const TALL: usize = 4;

per_instruction_set! {
    /// Adds to the lower triangle of `sums` what `left` and `right` make of each other row by row:
    /// `sums[i][j] += sum over t of left[t][i] right[t][j]` for `j <= i`, and some `j` beyond `i`.
    ///
    /// `sums` is `[rows, stride]`, the others `[t, stride]`; `stride` is a multiple of [`LANES`] and of no less than
    /// `rows`.
    pub fn add_outer_products(left: &[f64], right: &[f64], sums: &mut [f64], rows: usize, stride: usize) {
        let blocks = stride / LANES;
        let mut first = 0;
        while first + TALL <= rows {
            let tall: [usize; TALL] = std::array::from_fn(|row| first + row);
            for block in 0..((first + TALL - 1) / LANES + 1).min(blocks) {
                let at = block * LANES;
                let mut acc = [[0.0; LANES]; TALL];
                for (acc, row) in acc.iter_mut().zip(tall) {
                    acc.copy_from_slice(&sums[row * stride + at..][..LANES]);
                }
                for (left, right) in left.chunks_exact(stride).zip(right.chunks_exact(stride)) {
                    let right: &[f64; LANES] = right[at..].first_chunk().unwrap_or(&[0.0; LANES]);
                    for (acc, row) in acc.iter_mut().zip(tall) {
                        let x = left[row];
                        acc.iter_mut().zip(right).for_each(|(acc, y)| *acc += x * y);
                    }
                }
                for (acc, row) in acc.iter().zip(tall) {
                    sums[row * stride + at..][..LANES].copy_from_slice(acc);
                }
            }
            first += TALL;
        }
        for row in first..rows {
            let sums = &mut sums[row * stride..][..=row];
            for (left, right) in left.chunks_exact(stride).zip(right.chunks_exact(stride)) {
                let x = left[row];
                sums.iter_mut().zip(right).for_each(|(sum, y)| *sum += x * y);
            }
        }
    }
}

per_instruction_set! {
    /// `sums[lane] += sum over k of weights[k] errors[k][lane]`, in the order of k.
    pub fn add_weighted_rows(weights: &[f64], errors: &[[f64; LANES]], sums: &mut [f64; LANES]) {
        let mut acc = *sums;
        for (weight, errors) in weights.iter().zip(errors) {
            acc.iter_mut().zip(errors).for_each(|(acc, error)| *acc += weight * error);
        }
        *sums = acc;
    }
}

per_instruction_set! {
    /// `row -= factor by`, element by element.
    pub fn subtract_scaled(row: &mut [f64], factor: f64, by: &[f64]) {
        row.iter_mut().zip(by).for_each(|(x, y)| *x -= factor * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_the_sum_in_the_order_of_the_rows() {
        for (rows, count) in [(1, 3), (5, 7), (8, 1), (13, 40)] {
            let stride = usize::next_multiple_of(rows, LANES);
            let value = |index: usize| ((index * 7919) % 1013) as f64 * 0.37 - 150.0;
            let left: Vec<f64> = (0..count * stride).map(value).collect();
            let right: Vec<f64> = (0..count * stride).map(|index| value(index + 5)).collect();
            let mut sums: Vec<f64> = (0..rows * stride).map(|index| value(index + 9)).collect();
            let before = sums.clone();
            add_outer_products(&left, &right, &mut sums, rows, stride);
            for i in 0..rows {
                for j in 0..=i {
                    let add = |sum, t| sum + left[t * stride + i] * right[t * stride + j];
                    let expected = (0..count).fold(before[i * stride + j], add);
                    assert_eq!(sums[i * stride + j], expected, "{rows} rows, {i}, {j}");
                }
            }
        }
    }
}
