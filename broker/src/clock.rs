//! Time. Wall time stamps messages and commands; nothing is ever decided by comparing wall times
//! of two machines, and a step of the clock moves stamps, never offsets or order. Windows are
//! measured in [`Steady`] time and time-outs in [`monotonic_ms`], which no step of the clock
//! reaches.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch; 0 if the clock stands before it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Wall time as it was at the start, going on at the pace of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    began_ms: i64,
    began: Instant,
}

impl Steady {
    /// Begins now, but not before `seen_ms`: what an earlier run has seen lies in the past.
    pub(crate) fn not_before(seen_ms: i64) -> Steady {
        Steady {
            began_ms: now_ms().max(seen_ms),
            began: Instant::now(),
        }
    }

    /// Milliseconds since the Unix epoch, if the clock was right at the start.
    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.began_ms.saturating_add(elapsed)
    }
}

/// Milliseconds since this process first asked.
pub(crate) fn monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_time_never_lies_before_what_was_seen() {
        let ahead = now_ms() + 3_600_000;
        let steady = Steady::not_before(ahead);
        assert!((ahead..ahead + 3_600_000).contains(&steady.now_ms()));
        assert!(Steady::not_before(0).now_ms() > 0);
        assert_eq!(Steady::not_before(i64::MAX).now_ms(), i64::MAX);
    }
}
