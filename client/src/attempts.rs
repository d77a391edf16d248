//! What is known of failed attempts at a message: types of the interface, from the wire. Pure.

use aqueduct_proto::v1;

use crate::times::time_from_proto;

/// How a failed attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// Something this version does not know.
    #[default]
    Unknown,
    /// The consumer said that it failed.
    Retry,
    /// The lease ended.
    Expired,
    /// The consumer vanished.
    Lost,
    /// The consumer made a dead letter of it.
    Rejected,
}

impl AttemptEnd {
    /// As JSON and tables show it, such as `EXPIRED`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Retry => "RETRY",
            Self::Expired => "EXPIRED",
            Self::Lost => "LOST",
            Self::Rejected => "REJECTED",
        }
    }
}

/// A failed attempt at a message of a queue group. The broker keeps the latest 8 of a message,
/// and fewer where a partition's room for them is used up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedAttempt {
    /// 1 is the first that failed.
    pub attempt: u32,
    /// Which hand-out it was; 1 is the first.
    pub hand_out: u32,
    /// When it ended, in milliseconds since the Unix epoch.
    pub end_ms: i64,
    /// How.
    pub end: AttemptEnd,
    /// The number of the consumer that had the message.
    pub consumer: u64,
    /// The first 64 bytes of the text; empty if none was given.
    pub error: String,
}

impl FailedAttempt {
    pub(crate) fn from_proto(attempt: v1::FailedAttempt) -> Self {
        let end = match attempt.end() {
            v1::AttemptEnd::Unspecified => AttemptEnd::Unknown,
            v1::AttemptEnd::Retry => AttemptEnd::Retry,
            v1::AttemptEnd::Expired => AttemptEnd::Expired,
            v1::AttemptEnd::Lost => AttemptEnd::Lost,
            v1::AttemptEnd::Rejected => AttemptEnd::Rejected,
        };
        Self {
            attempt: attempt.attempt,
            hand_out: attempt.hand_out,
            end_ms: attempt.end_time.map_or(0, time_from_proto),
            end,
            consumer: attempt.consumer,
            error: attempt.error,
        }
    }
}
