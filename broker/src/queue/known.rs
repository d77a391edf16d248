//! What a schedule remembers of a message that is not plain. Pure.

use super::levels::DEFAULT_PRIORITY;

/// What the log says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) key_hash: Option<u64>,
    /// Not before this time; absent or past: at once.
    pub(crate) delay_until_ms: Option<i64>,
    /// 0 to 9; more counts as 9.
    pub(crate) priority: u8,
    /// Never handed out from this time on.
    pub(crate) expires_at_ms: Option<i64>,
    /// Whether the group's filter lets it through.
    pub(crate) is_wanted: bool,
}

impl Default for Attributes {
    fn default() -> Attributes {
        Attributes {
            key_hash: None,
            delay_until_ms: None,
            priority: DEFAULT_PRIORITY,
            expires_at_ms: None,
            is_wanted: true,
        }
    }
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    /// Waiting for its time.
    Due,
    /// Waiting behind another one of its key.
    Line,
    Flight,
    /// To leave because its key is parked.
    Parked,
}

const NEVER: i64 = i64::MAX;

/// Attributes that matter after the scan, and the place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    key: u64,
    expires_ms: i64,
    has_key: bool,
    priority: u8,
    place: Place,
}

impl Default for Known {
    fn default() -> Known {
        Known::new(None, DEFAULT_PRIORITY, None)
    }
}

impl Known {
    pub(super) fn new(key: Option<u64>, priority: u8, expires_ms: Option<i64>) -> Known {
        Known {
            key: key.unwrap_or(0),
            expires_ms: expires_ms.unwrap_or(NEVER),
            has_key: key.is_some(),
            priority,
            place: Place::Ready,
        }
    }

    pub(super) fn at(self, place: Place) -> Known {
        Known { place, ..self }
    }

    /// Nothing to remember.
    pub(super) fn is_plain(&self) -> bool {
        !self.has_key && self.expires_ms == NEVER && self.priority == DEFAULT_PRIORITY
    }

    pub(super) fn key(&self) -> Option<u64> {
        self.has_key.then_some(self.key)
    }

    pub(super) fn priority(&self) -> u8 {
        self.priority
    }

    pub(super) fn expires_ms(&self) -> Option<i64> {
        (self.expires_ms != NEVER).then_some(self.expires_ms)
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }
}
