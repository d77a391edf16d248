//! What applied commands changed, for the leader's schedule. Pure.

use std::ops::Range;

/// A change of some messages. Whatever was refused is not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The queue began, was sought or forgotten: a schedule of it must be built anew.
    Restarted,
    Leased {
        run: Range<u64>,
        deadline_ms: i64,
    },
    Acked {
        run: Range<u64>,
    },
    Released {
        run: Range<u64>,
    },
    Retry {
        run: Range<u64>,
        at_ms: i64,
    },
    /// Was never handed out, and waits for this time by the wall clock.
    Delayed {
        offset: u64,
        until_ms: i64,
    },
    /// `park_key`: the key is parked from now on.
    Died {
        run: Range<u64>,
        park_key: Option<u64>,
    },
    /// Was not leased and is settled now.
    Dropped {
        run: Range<u64>,
    },
    /// All below is settled.
    Trimmed {
        to: u64,
    },
    Unparked {
        key: u64,
    },
}
