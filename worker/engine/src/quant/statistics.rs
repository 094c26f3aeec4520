//! Statistics of a matrix and of its inputs: the numbers that decide which quantizer can help a checkpoint.

use std::collections::BTreeMap;

use super::{Factor, Hessian, NotPositive};

/// Statistics of weights, `[rows, columns]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightStatistics {
    /// Excess kurtosis of a row, the mean over rows: 0 of normal weights, large where rotations, outlier lists or codebooks
    /// can gain.
    pub kurtosis: f64,
    /// Largest weight of a row over the row's root mean square, the largest over rows: about 3 of normal weights.
    pub max_over_rms: f64,
}

impl WeightStatistics {
    /// Statistics of rows of `columns` weights each; zeros for a matrix without weights.
    pub fn of(weights: &[f32], columns: usize) -> Self {
        let (mut kurtosis, mut largest, mut rows) = (0.0, 0.0f64, 0.0);
        for row in weights.chunks_exact(columns.max(1)) {
            let mean_of = |power: i32, mean: f64| {
                row.iter().map(|w| (f64::from(*w) - mean).powi(power)).sum::<f64>() / row.len() as f64
            };
            let mean = mean_of(1, 0.0);
            let (second, fourth, square) = (mean_of(2, mean), mean_of(4, mean), mean_of(2, 0.0));
            rows += 1.0;
            // A row of equal weights has none of either.
            if second > 0.0 {
                kurtosis += fourth / (second * second) - 3.0;
            }
            let max = row.iter().fold(0.0f64, |max, w| max.max(f64::from(w.abs())));
            if square > 0.0 {
                largest = largest.max(max / square.sqrt());
            }
        }
        Self { kurtosis: if rows > 0.0 { kurtosis / rows } else { 0.0 }, max_over_rms: largest }
    }
}

/// Entropy of codes in bits each.
pub fn entropy(codes: &[i8]) -> f64 {
    let mut counts = BTreeMap::<i8, u64>::new();
    codes.iter().for_each(|code| *counts.entry(*code).or_default() += 1);
    let total = codes.len() as f64;
    // Adding zero makes -0 into 0.
    -counts.values().map(|count| *count as f64 / total).map(|share| share * share.log2()).sum::<f64>() + 0.0
}

/// Statistics of the inputs of a linear.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputStatistics {
    /// Largest second moment of a column over the median one: large where column scales or act-order can gain.
    pub max_over_median: f64,
    /// Largest over smallest eigenvalue of the damped Hessian.
    pub condition: f64,
    /// Share of the loss of rounding each weight on its own that GPTQ leaves on wide grids: the mean cost of a column over the
    /// mean of the diagonal.
    pub left_by_gptq: f64,
}

/// Steps of the power iterations: eigenvalues to a few per cent, which is all that anyone reads off them.
const STEPS: usize = 60;

impl InputStatistics {
    /// Statistics of a Hessian with so much damping.
    ///
    /// # Errors
    /// [`NotPositive`].
    pub fn of(hessian: &Hessian, damping: f64) -> Result<Self, NotPositive> {
        let factor = hessian.factor(damping, false)?;
        let mut diagonal: Vec<f64> = hessian.diagonal().collect();
        diagonal.sort_by(f64::total_cmp);
        let columns = diagonal.len().max(1);
        let mean = diagonal.iter().map(|h| if *h == 0.0 { 1.0 } else { *h }).sum::<f64>() / columns as f64;
        let damped = mean * (1.0 + factor.damping());
        let costs = (0..diagonal.len()).map(|place| factor.cost(place)).sum::<f64>() / columns as f64;
        let (median, max) = (diagonal.get(columns / 2).copied(), diagonal.last().copied());
        Ok(Self {
            max_over_median: max.unwrap_or(0.0)
                / median.filter(|median| *median > 0.0).unwrap_or(f64::MIN_POSITIVE),
            condition: largest(columns, |x| factor.times(x)) * largest(columns, |x| factor.solve(x)),
            left_by_gptq: costs / damped,
        })
    }
}

/// The largest eigenvalue of a symmetric positive matrix, by power iteration.
fn largest(columns: usize, multiply: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
    // Different everywhere, so that it is orthogonal to no eigenvector that matters.
    let mut x: Vec<f64> = (0..columns).map(|i| 1.0 + (i as f64 * 0.618_034).fract()).collect();
    let mut value = 0.0;
    for _ in 0..STEPS {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        x.iter_mut().for_each(|x| *x /= length);
        let y = multiply(&x);
        value = x.iter().zip(&y).map(|(x, y)| x * y).sum();
        x = y;
    }
    value
}

impl Factor {
    /// `N^T N x`, x in the order of the factor.
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let roots: Vec<f64> = (0..x.len()).map(|place| self.cost(place).sqrt()).collect();
        let row = |j: usize| {
            let before = self.feedback(j).iter().zip(x).map(|(share, x)| share * x).sum::<f64>();
            roots[j] * (before + x[j])
        };
        let y: Vec<f64> = (0..x.len()).map(row).collect();
        let mut out = vec![0.0; x.len()];
        for (j, y) in y.iter().enumerate() {
            let scaled = roots[j] * y;
            out.iter_mut().zip(self.feedback(j)).for_each(|(out, share)| *out += share * scaled);
            out[j] += scaled;
        }
        out
    }

    /// The y of `N^T N y = x`.
    fn solve(&self, x: &[f64]) -> Vec<f64> {
        let mut y = x.to_vec();
        // N^T z = x from the last on, then N y = z from the first on.
        for j in (0..y.len()).rev() {
            let root = self.cost(j).sqrt();
            y[j] /= root;
            let z = y[j] * root;
            let (before, _) = y.split_at_mut(j);
            before.iter_mut().zip(self.feedback(j)).for_each(|(x, share)| *x -= share * z);
        }
        for j in 0..y.len() {
            let root = self.cost(j).sqrt();
            let before: f64 = self.feedback(j).iter().zip(&y).map(|(share, y)| share * y).sum();
            y[j] = y[j] / root - before;
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::InputMoments;

    #[test]
    fn weights_of_known_distributions_have_their_kurtosis() {
        // Two values: -2; one of many that stands out: large.
        let two: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let of_two = WeightStatistics::of(&two, 32);
        assert!(
            (of_two.kurtosis + 2.0).abs() < 1e-12 && (of_two.max_over_rms - 1.0).abs() < 1e-12,
            "{of_two:?}"
        );
        let mut outlier = vec![0.01f32; 100];
        outlier[7] = 1.0;
        let of_outlier = WeightStatistics::of(&outlier, 100);
        assert!(of_outlier.kurtosis > 50.0 && of_outlier.max_over_rms > 9.0, "{of_outlier:?}");
        assert_eq!(WeightStatistics::of(&[0.0; 8], 4), WeightStatistics { kurtosis: 0.0, max_over_rms: 0.0 });
        assert_eq!(
            (entropy(&[1, 1, 1]), entropy(&[0, 1, 2, 3]), entropy(&[0, 0, 0, 1])),
            (0.0, 2.0, 0.811_278_124_459_132_8)
        );
    }

    #[test]
    fn a_hessian_of_known_eigenvalues_has_their_condition() {
        // Inputs along the axes: the eigenvalues are the diagonal.
        let columns = 10;
        let mut moments = InputMoments::new(columns);
        for i in 0..columns {
            let mut x = vec![0.0; columns];
            x[i] = (1.0 + i as f32).sqrt();
            moments.add(&x);
        }
        let statistics = InputStatistics::of(&moments.finish().unwrap(), 0.0).unwrap();
        assert!((statistics.condition / 10.0 - 1.0).abs() < 0.02, "{statistics:?}");
        assert!(
            (statistics.left_by_gptq - 1.0).abs() < 1e-12,
            "nothing in common, nothing to gain: {statistics:?}"
        );
        assert!((statistics.max_over_median - 10.0 / 6.0).abs() < 1e-6, "{statistics:?}");
        // Inputs with much in common leave GPTQ much to make up for.
        let mut moments = InputMoments::new(columns);
        for t in 0..100 {
            let common = ((t * t) as f32 * 0.3).sin();
            let x: Vec<f32> =
                (0..columns).map(|i| common + 0.1 * ((t * (i + 3)) as f32 * 0.7).cos()).collect();
            moments.add(&x);
        }
        let statistics = InputStatistics::of(&moments.finish().unwrap(), 0.01).unwrap();
        assert!(statistics.left_by_gptq < 0.5 && statistics.condition > 100.0, "{statistics:?}");
    }
}
