//! What a dead letter is, and which are meant, as plain values: pure.

use aqueduct_proto::v1;
use bytes::Bytes;

use crate::{
    FailedAttempt, HeaderCondition, Record, groups::policy::condition_to_proto,
    times::time_from_proto,
};

/// Why a message was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeadReason {
    /// Not said: somebody else published it to the dead-letter topic.
    #[default]
    Unknown,
    /// The last allowed attempt failed.
    Attempts,
    /// It was handed out as often as is allowed.
    HandOuts,
    /// A consumer's verdict.
    Rejected,
    /// Its time to live was over.
    Expired,
    /// An earlier message of its key was given up.
    Parked,
}

impl DeadReason {
    fn from_proto(reason: i32) -> Self {
        match v1::DeadReason::try_from(reason).unwrap_or_default() {
            v1::DeadReason::Unspecified => Self::Unknown,
            v1::DeadReason::Attempts => Self::Attempts,
            v1::DeadReason::HandOuts => Self::HandOuts,
            v1::DeadReason::Rejected => Self::Rejected,
            v1::DeadReason::Expired => Self::Expired,
            v1::DeadReason::Parked => Self::Parked,
        }
    }

    fn into_proto(self) -> v1::DeadReason {
        match self {
            Self::Unknown => v1::DeadReason::Unspecified,
            Self::Attempts => v1::DeadReason::Attempts,
            Self::HandOuts => v1::DeadReason::HandOuts,
            Self::Rejected => v1::DeadReason::Rejected,
            Self::Expired => v1::DeadReason::Expired,
            Self::Parked => v1::DeadReason::Parked,
        }
    }

    /// The word for it, as in the header `aq-dead-reason`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Attempts => "ATTEMPTS",
            Self::HandOuts => "HAND_OUTS",
            Self::Rejected => "REJECTED",
            Self::Expired => "EXPIRED",
            Self::Parked => "PARKED",
        }
    }
}

/// A message that a queue group has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message as it was, with its own headers; partition and offset are those of the copy
    /// in the dead-letter topic, and the time stamp is its death.
    pub record: Record,
    /// Why.
    pub reason: DeadReason,
    /// The last failure's text.
    pub error: String,
    /// Where the message lay.
    pub source_topic: String,
    /// Where the message lay.
    pub source_partition: u32,
    /// Where the message lay.
    pub source_offset: u64,
    /// The group that gave it up.
    pub group: String,
    /// 1, 2, 3… without gaps for each partition of the source.
    pub number: u64,
    /// Failed attempts.
    pub attempts: u32,
    /// How often it was handed out.
    pub hand_outs: u32,
    /// Milliseconds since the Unix epoch; `None` if no attempt failed.
    pub first_failure_ms: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub death_ms: i64,
    /// The message's own time stamp; `None` if retention was quicker than the copy.
    pub published_ms: Option<i64>,
    /// The latest failed attempts, the oldest first: those that are kept.
    pub history: Vec<FailedAttempt>,
}

impl DeadLetter {
    pub(super) fn from_proto(letter: v1::DeadLetter) -> Self {
        let history = letter.history.into_iter();
        Self {
            record: Record::from_proto(letter.record.unwrap_or_default()),
            reason: DeadReason::from_proto(letter.reason),
            error: letter.error,
            source_topic: letter.source_topic,
            source_partition: letter.source_partition,
            source_offset: letter.source_offset,
            group: letter.group,
            number: letter.number,
            attempts: letter.attempts,
            hand_outs: letter.hand_outs,
            first_failure_ms: letter.first_failure.map(time_from_proto),
            death_ms: letter.death_time.map(time_from_proto).unwrap_or_default(),
            published_ms: letter.publish_time.map(time_from_proto),
            history: history.map(FailedAttempt::from_proto).collect(),
        }
    }
}

/// Which dead letters are meant: all that is set must hold.
///
/// ```
/// use aqueduct_client::{DeadLetterFilter, DeadReason, HeaderCondition};
/// let filter = DeadLetterFilter::new()
///     .reason(DeadReason::Attempts)
///     .header(HeaderCondition::Equals("type".into(), "order.paid".into()))
///     .error_contains("connection refused");
/// ```
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter(v1::DeadLetterFilter);

impl DeadLetterFilter {
    /// All of them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those with this reason; several: any of them.
    #[must_use]
    pub fn reason(mut self, reason: DeadReason) -> Self {
        self.0.reasons.push(reason.into_proto().into());
        self
    }

    /// Those with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Those with such a header of their own; several: all must hold.
    #[must_use]
    pub fn header(mut self, condition: HeaderCondition) -> Self {
        self.0.headers.push(condition_to_proto(condition));
        self
    }

    /// Those that died at this time or later, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn died_from_ms(mut self, time_ms: i64) -> Self {
        self.0.died_from = Some(time_to_proto(time_ms));
        self
    }

    /// Those that died before this time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn died_until_ms(mut self, time_ms: i64) -> Self {
        self.0.died_until = Some(time_to_proto(time_ms));
        self
    }

    /// Those whose last failure's text holds this.
    #[must_use]
    pub fn error_contains(mut self, text: impl Into<String>) -> Self {
        self.0.error_contains = text.into();
        self
    }

    /// Those of this partition of the source.
    #[must_use]
    pub fn source_partition(mut self, partition: u32) -> Self {
        self.0.source_partition = Some(partition);
        self
    }

    /// The copy at this place; several: any of them.
    #[must_use]
    pub fn id(mut self, partition: u32, offset: u64) -> Self {
        self.0.ids.push(v1::DeadLetterId { partition, offset });
        self
    }

    pub(super) fn to_proto(&self) -> Option<v1::DeadLetterFilter> {
        (self.0 != v1::DeadLetterFilter::default()).then(|| self.0.clone())
    }
}

fn time_to_proto(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos: i32::try_from(ms.rem_euclid(1_000)).unwrap_or(0) * 1_000_000,
    }
}

/// How dead letters are published again.
///
/// ```
/// use aqueduct_client::{DeadLetterFilter, Redrive};
/// let redrive = Redrive::new()
///     .filter(DeadLetterFilter::new().error_contains("timeout"))
///     .set_header("retried-by", "ops")
///     .rate(100);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Redrive {
    pub(super) filter: DeadLetterFilter,
    pub(super) request: v1::RedriveRequest,
}

impl Redrive {
    /// All of them, back to their own topic, as fast as it goes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these.
    #[must_use]
    pub fn filter(mut self, filter: DeadLetterFilter) -> Self {
        self.filter = filter;
        self
    }

    /// To this topic, by their keys, instead of the one that they come from.
    #[must_use]
    pub fn to(mut self, topic: impl Into<String>) -> Self {
        self.request.to_topic = topic.into();
        self
    }

    /// Sets a header in place of all of this name.
    #[must_use]
    pub fn set_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.request.set_headers.push(v1::Header { name, value });
        self
    }

    /// Removes all headers of this name.
    #[must_use]
    pub fn remove_header(mut self, name: impl Into<String>) -> Self {
        self.request.remove_headers.push(name.into());
        self
    }

    /// At most so many a second; 0 = as fast as it goes.
    #[must_use]
    pub fn rate(mut self, messages_per_second: u64) -> Self {
        self.request.messages_per_second = messages_per_second;
        self
    }

    /// At most so many in all; 0 = no limit.
    #[must_use]
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.request.max_messages = messages;
        self
    }

    /// Count, change nothing.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.request.validate_only = dry_run;
        self
    }
}

/// Which dead letters are given up for good.
#[derive(Clone, Debug, Default)]
pub struct Discard {
    pub(super) filter: DeadLetterFilter,
    pub(super) request: v1::DiscardRequest,
}

impl Discard {
    /// All of them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these.
    #[must_use]
    pub fn filter(mut self, filter: DeadLetterFilter) -> Self {
        self.filter = filter;
        self
    }

    /// At most so many in all; 0 = no limit.
    #[must_use]
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.request.max_messages = messages;
        self
    }

    /// Count, change nothing.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.request.validate_only = dry_run;
        self
    }
}

/// How far a redrive or discard has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLettersProgress {
    /// Dead letters there were when it began.
    pub total: u64,
    /// Looked at so far.
    pub examined: u64,
    /// Of those: meant.
    pub matched: u64,
    /// Redriven or discarded; in a dry run, what would be.
    pub moved: u64,
    /// They stay: damaged, or too large for the target.
    pub failed: u64,
    /// It is over.
    pub done: bool,
    /// How many of those that were meant died of what.
    pub reasons: Vec<(DeadReason, u64)>,
}

impl DeadLettersProgress {
    pub(super) fn from_proto(progress: v1::DeadLettersProgress) -> Self {
        let reasons = progress.reasons.into_iter();
        Self {
            total: progress.total,
            examined: progress.examined,
            matched: progress.matched,
            moved: progress.moved,
            failed: progress.failed,
            done: progress.done,
            reasons: reasons
                .map(|count| (DeadReason::from_proto(count.reason), count.messages))
                .collect(),
        }
    }
}
