//! The two times that a queue goes by. Pure.
//!
//! *Wall* time is what people and publishers mean: delays and time to live. It may step. *Steady*
//! time is what passes: leases, retries, rates, and the times of entries. It never steps.

/// The present moment, in milliseconds since 1970 by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) steady_ms: i64,
    pub(crate) wall_ms: i64,
}

/// The next moments by each clock, if there are any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) steady_ms: Option<i64>,
    pub(crate) wall_ms: Option<i64>,
}

/// What the two clocks may differ by without a step: they are read one after the other, and the
/// wall clock is adjusted now and then.
const SAME_MS: i64 = 1_000;

impl Now {
    /// A steady time as the wall clock of this moment shows it.
    pub(crate) fn by_wall(&self, steady_ms: i64) -> i64 {
        let shift_ms = self.wall_ms - self.steady_ms;
        match shift_ms.abs() < SAME_MS {
            true => steady_ms,
            false => steady_ms.saturating_add(shift_ms),
        }
    }

    /// Both clocks show the same.
    #[cfg(test)]
    pub(super) fn both(now_ms: i64) -> Now {
        Now {
            steady_ms: now_ms,
            wall_ms: now_ms,
        }
    }
}

impl Next {
    /// How long until the first of them, if the wall clock does not step.
    pub(crate) fn left_ms(&self, now: Now) -> Option<u64> {
        let left = |at_ms: i64, now_ms: i64| at_ms.saturating_sub(now_ms).max(0).unsigned_abs();
        let steady = self.steady_ms.map(|at_ms| left(at_ms, now.steady_ms));
        let wall = self.wall_ms.map(|at_ms| left(at_ms, now.wall_ms));
        [steady, wall].into_iter().flatten().min()
    }

    /// The earlier of each.
    pub(crate) fn or(self, other: Next) -> Next {
        let first = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        Next {
            steady_ms: first(self.steady_ms, other.steady_ms),
            wall_ms: first(self.wall_ms, other.wall_ms),
        }
    }
}
