//! Cross entropy and argmax over rows of logits.

use qslm_common::elementary;

use super::exp::exp;
use super::simd::per_instruction_set;

/// Lanes of partial sums: fixed, so that the order of additions does not depend on the processor.
const LANES: usize = 16;

/// Logits that are summed up at once: fixed, so that the loss does not depend on how a row is cut up.
pub const PIECE: usize = 1024;

/// Negative log-likelihood of `target` under one row of logits, in nats: `ln sum e^x - x[target]`. See
/// [`Loss`].
///
/// # Panics
/// If `target` is not an index of the row: callers check tokens and labels against the head first.
pub fn nll(logits: &[f32], target: usize) -> f64 {
    let mut loss = Loss::of(target);
    logits.chunks(PIECE).for_each(|piece| loss.add(piece));
    loss.nats()
}

/// Negative log-likelihood of a target under a row of logits that comes in pieces of [`PIECE`], in nats.
///
/// The sum of a piece is in f32 lanes over terms of at most 1, all else in f64. NaN logits give NaN.
#[derive(Debug, Clone)]
pub struct Loss {
    target: usize,
    /// Logits so far.
    seen: usize,
    /// The largest of them.
    largest: f32,
    /// The sum of `e^(x - largest)` over them.
    sum: f64,
    /// The target's, once it has been seen.
    logit: Option<f32>,
}

impl Loss {
    /// The loss of this index of the row.
    pub fn of(target: usize) -> Self {
        Self { target, seen: 0, largest: f32::NEG_INFINITY, sum: 0.0, logit: None }
    }

    /// Adds the next piece of the row.
    pub fn add(&mut self, piece: &[f32]) {
        let (largest, sum) = sum_exp(piece);
        if self.seen == 0 {
            (self.largest, self.sum) = (largest, sum);
        } else {
            let top = self.largest.max(largest);
            let below = |largest: f32| elementary::exp(f64::from(largest) - f64::from(top));
            self.sum = self.sum * below(self.largest) + sum * below(largest);
            self.largest = top;
        }
        self.logit = self.logit.or_else(|| piece.get(self.target.checked_sub(self.seen)?).copied());
        self.seen += piece.len();
    }

    /// The loss of the row that was added.
    ///
    /// # Panics
    /// If the target was not in it.
    pub fn nats(&self) -> f64 {
        let logit = self.logit.unwrap_or_else(|| panic!("target {} of {} logits", self.target, self.seen));
        f64::from(self.largest) + elementary::ln(self.sum) - f64::from(logit)
    }
}

per_instruction_set! {
    /// The largest logit, and the sum of `e^(x - largest)`; NaN if any logit is NaN or infinite.
    fn sum_exp(logits: &[f32]) -> (f32, f64) {
        let mut tops = [f32::NEG_INFINITY; LANES];
        // 0 * x is 0 for every number and NaN for infinities and NaN: one poisoned lane tells.
        let mut poison = [0.0f32; LANES];
        let chunks = logits.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks.clone() {
            for lane in 0..LANES {
                tops[lane] = if chunk[lane] > tops[lane] { chunk[lane] } else { tops[lane] };
                poison[lane] += 0.0 * chunk[lane];
            }
        }
        let mut largest = tops.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut poison: f32 = poison.iter().sum();
        for x in rest {
            largest = largest.max(*x);
            poison += 0.0 * x;
        }
        let mut lanes = [0.0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += exp(chunk[lane] - largest);
            }
        }
        let lanes: f64 = lanes.iter().map(|lane| f64::from(*lane)).sum();
        let rest: f64 = rest.iter().map(|x| f64::from(exp(*x - largest))).sum();
        (largest, lanes + rest + f64::from(poison))
    }
}

/// Index of the largest logit, the first of equals. 0 for an empty row.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_that_of_double_precision() {
        for width in [1, 2, 15, 16, 17, 1000, 1024, 1025, 5000] {
            let logits: Vec<f32> = (0..width).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            for target in [0, width / 2, width - 1] {
                let expected = sum.ln() - f64::from(logits[target]);
                assert!((nll(&logits, target) - expected).abs() < 1e-6, "width {width}");
            }
        }
    }

    #[test]
    fn a_logit_that_is_no_number_shows() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (at, of) in [(0, 20), (16, 20), (19, 20), (5, 3000), (2999, 3000)] {
                let mut logits = vec![0.5; of];
                logits[at] = bad;
                assert!(!nll(&logits, 3).is_finite(), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[-1.0]), 0);
    }
}
