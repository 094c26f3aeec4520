//! The mean of a sentence's rows, which a classifier's head reads.

/// Mean over the rows of `x`, `[rows, channel]`, summed in their order: `mean`, `[channel]`.
///
/// # Panics
/// If there are no channels, or `x` is not made of such rows.
pub fn of_rows(x: &[f32], mean: &mut [f32]) {
    let rows = x.chunks_exact(mean.len());
    assert!(rows.remainder().is_empty(), "{} numbers are no rows of {}", x.len(), mean.len());
    let count = rows.len() as f32;
    mean.fill(0.0);
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
}
