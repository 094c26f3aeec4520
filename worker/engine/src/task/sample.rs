//! Drawing the next token from a row of logits.

use qslm_common::elementary::exp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws tokens; the same seed and logits give the same tokens, everywhere.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_k: usize,
    rng: ChaCha8Rng,
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// Not a temperature.
    #[error("temperature = {0}: expected 0 (always the likeliest token) to 100")]
    Temperature(f64),
    /// No token to choose from.
    #[error("top-k = 0: expected at least 1")]
    TopK,
}

impl Sampler {
    /// Draws with probabilities `softmax(logits / temperature)` among the `top_k` likeliest tokens.
    ///
    /// # Errors
    /// [`SamplerError`] for a setting outside its range.
    pub fn new(temperature: f64, top_k: usize, seed: u64) -> Result<Self, SamplerError> {
        if !(0.0..=100.0).contains(&temperature) {
            return Err(SamplerError::Temperature(temperature));
        }
        if top_k == 0 {
            return Err(SamplerError::TopK);
        }
        Ok(Self { temperature, top_k, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The next token; 0 for an empty row.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Likeliest first, of equals the lower id.
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        order.truncate(if self.temperature == 0.0 { 1 } else { self.top_k });
        let Some(likeliest) = order.first() else { return 0 };
        let largest = f64::from(logits[*likeliest]);
        let temperature = self.temperature.max(f64::MIN_POSITIVE);
        let weight = |token: &usize| exp((f64::from(logits[*token]) - largest) / temperature);
        let total: f64 = order.iter().map(weight).sum();
        let mut left = self.rng.random::<f64>() * total;
        let drawn = order.iter().find(|token| {
            left -= weight(token);
            left < 0.0
        });
        *drawn.unwrap_or(likeliest) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_token_comes_at_temperature_zero() {
        let mut sampler = Sampler::new(0.0, 5, 1).unwrap();
        assert_eq!([0; 9].map(|_| sampler.draw(&[1.0, 3.0, 3.0, -2.0])), [1; 9]);
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let logits = [0.0f32, 1.0, 2.0, -9.0];
        let mut sampler = Sampler::new(2.0, 3, 7).unwrap();
        let mut counts = [0.0f64; 4];
        (0..20_000).for_each(|_| counts[sampler.draw(&logits) as usize] += 1.0);
        let weights = [1.0, 0.5f64.exp(), 1f64.exp()];
        for (count, weight) in counts.iter().zip(weights) {
            assert!((count / 20_000.0 - weight / weights.iter().sum::<f64>()).abs() < 0.02);
        }
        assert_eq!(counts[3], 0.0, "outside the top k");
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut sampler = Sampler::new(1.0, 8, seed).unwrap();
            (0..32).map(|_| sampler.draw(&[0.0; 8])).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_eq!(Sampler::new(f64::NAN, 1, 0).err().map(|e| e.to_string().len() > 10), Some(true));
        assert_eq!(Sampler::new(1.0, 0, 0).err(), Some(SamplerError::TopK));
    }
}
