//! Noise: a normal draw around what an actor answers, from 0 to 1.

use rand::{Rng, RngExt};

use qslm_common::elementary::ln;

/// Draws until one is from 0 to 1, at most: at least every fourth is, for actions from 0 to 1 and a deviation up to 0.5.
const DRAWS: usize = 1000;

/// A draw of the normal distribution around `action`, cut off below 0 and above 1.
pub(crate) fn explore(action: f64, deviation: f64, rng: &mut impl Rng) -> f64 {
    let is_inside = |drawn: &f64| (0.0..=1.0).contains(drawn);
    let drawn = (0..DRAWS).map(|_| action + deviation * normal(rng)).find(is_inside);
    // An agent that is beyond numbers answers with the least.
    drawn.unwrap_or_else(|| action.clamp(0.0, 1.0).max(0.0))
}

/// A draw of the standard normal distribution.
///
/// Source: Marsaglia and Bray, "A convenient method for generating normal variables", SIAM Review 6, 1964.
fn normal(rng: &mut impl Rng) -> f64 {
    loop {
        let (x, y): (f64, f64) = (rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0));
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * (-2.0 * ln(square) / square).sqrt();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let drawn: Vec<f64> = (0..100_000).map(|_| normal(&mut rng)).collect();
        let mean = drawn.iter().sum::<f64>() / 1e5;
        let square = drawn.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
        let cut: Vec<f64> = (0..100_000).map(|_| explore(0.0, 0.5, &mut rng)).collect();
        assert!(cut.iter().all(|x| (0.0..=1.0).contains(x)));
        // (pdf(0) - pdf(2)) / (cdf(2) - cdf(0)) deviations.
        let mean = cut.iter().sum::<f64>() / 1e5;
        assert!((mean - 0.5 * (0.398_942 - 0.053_991) / 0.477_250).abs() < 0.005, "{mean}");
        assert_eq!(explore(0.3, 0.0, &mut rng), 0.3);
        assert_eq!(explore(f64::NAN, 0.5, &mut rng), 0.0);
    }
}
