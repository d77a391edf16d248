//! A rate of messages, as a bucket of tokens. Pure: time is given.

/// Tokens in thousandths. Holds at most one second's worth, so that a pause is not followed by
/// more than that at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    thousandths: u64,
    filled_ms: Option<i64>,
}

impl Bucket {
    /// How many messages may go out now; `u64::MAX` with a rate of 0, which is no limit.
    pub(crate) fn available(&mut self, now_ms: i64, per_s: u64) -> u64 {
        if per_s == 0 {
            return u64::MAX;
        }
        let full = per_s.saturating_mul(1_000);
        let Some(filled_ms) = self.filled_ms else {
            (self.thousandths, self.filled_ms) = (full, Some(now_ms));
            return per_s;
        };
        let passed = u64::try_from(now_ms.saturating_sub(filled_ms)).unwrap_or(0);
        let filled = self
            .thousandths
            .saturating_add(per_s.saturating_mul(passed));
        self.thousandths = filled.min(full);
        self.filled_ms = Some(filled_ms.max(now_ms));
        self.thousandths / 1_000
    }

    /// Messages went out.
    pub(crate) fn take(&mut self, count: u64) {
        self.thousandths = self.thousandths.saturating_sub(count.saturating_mul(1_000));
    }

    /// When the next message may go out, asked right after [`Bucket::available`].
    pub(crate) fn next_ms(&self, now_ms: i64, per_s: u64) -> i64 {
        let missing = 1_000u64.saturating_sub(self.thousandths);
        let wait = missing.div_ceil(per_s.max(1));
        now_ms.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_any_second() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.available(0, 0), u64::MAX);
        let mut sent = 0;
        for now_ms in 1_000..11_000 {
            let available = bucket.available(now_ms, 7);
            bucket.take(available);
            sent += available;
        }
        assert_eq!(sent, 7 + 69);
        assert_eq!(bucket.available(5, 7), 0);
        let next = bucket.next_ms(11_000, 7);
        assert_eq!(bucket.available(next, 7), 1);
        assert_eq!(bucket.available(i64::MAX, u64::MAX), u64::MAX / 1_000);
    }
}
