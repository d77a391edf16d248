//! How long to wait before trying again: exponential with full jitter.
//!
//! Full jitter (anything from nothing to the present ceiling) spreads clients that lost the
//! same broker best, so that they do not all come back at once.

use std::time::Duration;

use rand::Rng as _;

/// Grows with each failure, shrinks to nothing with a success.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// The ceiling of the next wait.
    fn ceiling(&self) -> Duration {
        self.min
            .saturating_mul(1 << self.failures.min(16))
            .min(self.max)
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_ceiling_and_start_over() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        assert_eq!(backoff.ceiling(), min);
        for _ in 0..100 {
            assert!(backoff.next() <= max);
        }
        assert_eq!(backoff.ceiling(), max);
        backoff.reset();
        assert_eq!(backoff.ceiling(), min);
    }
}
