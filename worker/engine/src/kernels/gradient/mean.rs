//! Gradient of the mean of rows.

/// From the gradient in a mean, `[channel]`, that in each of its rows: `d`, `[rows, channel]`, is overwritten.
///
/// # Panics
/// If there are no channels, or `d` is not made of such rows.
pub fn of_rows(d_mean: &[f32], d: &mut [f32]) {
    let rows = d.chunks_exact_mut(d_mean.len());
    let count = rows.len() as f32;
    for row in rows {
        row.iter_mut().zip(d_mean).for_each(|(d, d_mean)| *d = d_mean / count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mean;
    use super::*;

    #[test]
    fn every_row_has_its_share_of_the_gradient() {
        let x: Vec<f32> = (0..3 * 5).map(|i| (i as f32 * 0.7).sin()).collect();
        let weights = [0.5f32, -2.0, 0.25];
        let loss = |x: &[f32]| {
            let mut mean = [0.0; 3];
            mean::of_rows(x, &mut mean);
            mean.iter().zip(weights).map(|(mean, weight)| f64::from(*mean) * f64::from(weight)).sum::<f64>()
        };
        let mut d = vec![9.0; x.len()];
        of_rows(&weights, &mut d);
        for i in 0..x.len() {
            let (mut more, mut less) = (x.clone(), x.clone());
            more[i] += 0.125;
            less[i] -= 0.125;
            assert!(((loss(&more) - loss(&less)) / 0.25 - f64::from(d[i])).abs() < 1e-6, "{i}");
        }
    }

    #[test]
    fn the_mean_of_one_row_is_the_row() {
        let (row, mut mean) = ([1.0f32, -0.1, 7.5e-12], [9.0; 3]);
        mean::of_rows(&row, &mut mean);
        assert_eq!(mean, row);
    }
}
