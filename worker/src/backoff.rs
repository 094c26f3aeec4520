//! Exponential back-off with jitter: how long to wait after failures in a row.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waiting times after a failed call: doubled from the first to the last, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause after so many failures in a row: between half and all of the doubled time.
pub(crate) fn backoff(failures: u32) -> Duration {
    let (first, last) = BACKOFF;
    jittered(first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last))
}

/// Jitter: between half and all of a time.
pub(crate) fn jittered(full: Duration) -> Duration {
    full.mul_f64(0.5 + chance() as f64 / u64::MAX as f64 / 2.0)
}

/// A random number. The hasher's keys are those of the standard library.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for failures in 1..100 {
            let pause = backoff(failures);
            assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1, "{failures}: {pause:?}");
        }
        assert!(backoff(50) >= BACKOFF.1 / 2);
    }
}
