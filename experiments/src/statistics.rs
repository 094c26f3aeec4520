//! Statistics of two lists of numbers: rank correlation, and a paired test of a difference.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws of a randomization test and of a bootstrap.
const DRAWS: usize = 10_000;
/// The smallest p-value that so many draws can give: no draw was as far out.
pub const LEAST_P: f64 = 1.0 / (1 + DRAWS) as f64;
/// The draws are the same every time.
const SEED: u64 = 20_260_067;

/// Spearman's rank correlation, -1 to 1: Pearson's correlation of the ranks, equal values sharing the mean of
/// their ranks. `None` for lists of different lengths, fewer than two values, or one that is all equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let size = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (size > 0.0).then(|| dot(&a, &b) / size)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let shared = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        run.iter().for_each(|index| ranks[*index] = shared);
        start += run.len();
    }
    ranks
}

/// A paired comparison: how large a mean difference is, and how surprising if there were none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// The weighted mean of the differences.
    pub mean: f64,
    /// 95 % interval of the mean, by a bootstrap over the pairs.
    pub interval: (f64, f64),
    /// Bound that the mean is below with 95 % confidence, by the same bootstrap: one-sided.
    pub upper: f64,
    /// Two-sided p-value of a randomization test that flips the sign of each pair's difference; for
    /// differences of right and wrong this is McNemar's test. At least [`LEAST_P`].
    pub p_value: f64,
}

/// Compares pairs by their differences (after - before), each with its weight: a window of so many tokens, a
/// sentence. `None` without pairs.
pub fn paired(differences: &[(f64, f64)]) -> Option<Paired> {
    let weight: f64 = differences.iter().map(|(_, weight)| weight).sum();
    if differences.is_empty() || weight <= 0.0 {
        return None;
    }
    let sum: f64 = differences.iter().map(|(difference, _)| difference).sum();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let flipped = |rng: &mut ChaCha8Rng| {
        let flip =
            |(difference, _): &(f64, f64)| if rng.random::<bool>() { *difference } else { -difference };
        differences.iter().map(flip).sum::<f64>().abs()
    };
    // A draw that is as far out but for the order of its sum counts as one.
    let bound = sum.abs() * (1.0 - 1e-12);
    let as_far = (0..DRAWS).filter(|_| flipped(&mut rng) >= bound).count();
    let resampled = |rng: &mut ChaCha8Rng| {
        let draws = (0..differences.len()).map(|_| differences[rng.random_range(0..differences.len())]);
        let (sum, weight) =
            draws.fold((0.0, 0.0), |(s, w), (difference, weight)| (s + difference, w + weight));
        sum / weight
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| resampled(&mut rng)).collect();
    means.sort_by(f64::total_cmp);
    let interval = (means[DRAWS / 40], means[DRAWS - 1 - DRAWS / 40]);
    let upper = means[DRAWS - 1 - DRAWS / 20];
    let p_value = (1 + as_far) as f64 / (1 + DRAWS) as f64;
    Some(Paired { mean: sum / weight, interval, upper, p_value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_decide_and_not_values() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 1000.0, 1001.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // Ranks 1 2 3 4 5 and 3 2 4 5 1: 1 - 6 * (4 + 0 + 1 + 1 + 16) / (5 * 24).
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 3.0, 6.0, 0.0]);
        assert!((rho.unwrap() - (1.0 - 6.0 * 22.0 / 120.0)).abs() < 1e-12, "{rho:?}");
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [2.5, 1.0, 2.5]);
        for (a, b) in [(&[1.0][..], &[1.0][..]), (&[1.0, 1.0], &[1.0, 2.0]), (&[1.0, 2.0], &[1.0])] {
            assert_eq!(spearman(a, b), None);
        }
    }

    #[test]
    fn a_consistent_difference_is_significant_and_noise_is_not() {
        let worse: Vec<_> = (0..50).map(|i| (1.0 + f64::from(i % 3), 2.0)).collect();
        let test = paired(&worse).unwrap();
        assert!(test.p_value < 1e-3 && test.interval.0 > 0.0, "{test:?}");
        assert!((test.mean - 0.99).abs() < 1e-9, "{test:?}");
        assert_eq!(test.p_value, LEAST_P);
        assert!(test.mean < test.upper && test.upper < test.interval.1, "one-sided is nearer: {test:?}");
        let noise: Vec<_> = (0..50).map(|i| (if i % 2 == 0 { 1.0 } else { -1.0 }, 1.0)).collect();
        let test = paired(&noise).unwrap();
        assert!(test.p_value > 0.9 && test.interval.0 < 0.0 && test.interval.1 > 0.0, "{test:?}");
        assert_eq!(paired(&[]), None);
    }

    #[test]
    fn right_and_wrong_answers_are_mcnemars_test() {
        // 9 pairs against 1: the exact two-sided binomial p-value is 2 * 11 / 1024.
        let mut pairs = vec![(0.0, 1.0); 90];
        pairs.extend([(-1.0, 1.0); 9]);
        pairs.push((1.0, 1.0));
        let p = paired(&pairs).unwrap().p_value;
        assert!((p - 22.0 / 1024.0).abs() < 0.005, "{p}");
    }
}
