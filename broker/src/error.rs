//! `Refusal`: everything a caller of the node can be told that is not an answer.
//!
//! One table gives each refusal its code, its reason (the stable word that programs match) and
//! its facts; the doors translate that and add nothing. *Refused* means it was not done and
//! will not be; only [`Code::Unknown`] means that it may still have happened.

use std::time::Duration;

use crate::limits::{BODY_BYTES_PER_SECOND, DISK_FULL_RETRY};

/// The classes a door can express in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    OutOfRange,
    FailedPrecondition,
    Aborted,
    ResourceExhausted,
    Unavailable,
    DataLoss,
    /// The outcome is not known.
    Unknown,
}

/// Reasons of refusals that the doors have of their own: the request never became a call.
pub mod reason {
    /// No such path.
    pub const PATH_NOT_FOUND: &str = "PATH_NOT_FOUND";
    /// The path has other verbs.
    pub const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
    /// The body is of a kind that the path does not take.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "UNSUPPORTED_MEDIA_TYPE";
    /// The body is larger than any request may be.
    pub const REQUEST_TOO_LARGE: &str = "REQUEST_TOO_LARGE";
    /// The body did not keep up the least rate.
    pub const BODY_TOO_SLOW: &str = "BODY_TOO_SLOW";
    /// The bodies of other requests take all the room.
    pub const TOO_MANY_BODIES: &str = "TOO_MANY_BODIES";
    /// The method takes a stream, which JSON cannot give.
    pub const STREAM_ONLY: &str = "STREAM_ONLY";
    /// The time-out that the client gave has passed.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
    /// A web page of another origin.
    pub const ORIGIN_REFUSED: &str = "ORIGIN_REFUSED";
}

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("topic \"{topic}\" does not exist{}", hint(.did_you_mean))]
    TopicNotFound {
        topic: String,
        did_you_mean: Option<String>,
    },
    #[error("topic \"{topic}\" has partitions 0 to {}, not {partition}", .partitions.saturating_sub(1))]
    PartitionNotFound {
        topic: String,
        partition: u32,
        partitions: u32,
    },
    #[error("topic \"{topic}\" exists already")]
    TopicExists { topic: String },
    #[error("producer \"{name}\" does not exist")]
    ProducerNotFound { name: String },
    #[error("producer id {producer_id} was not given out by this broker: ask for one")]
    ProducerUnknown { producer_id: i64 },
    #[error(
        "the message at offset {offset} of partition {partition} does not wait for a delay (any more)"
    )]
    NotDelayed { partition: u32, offset: u64 },
    #[error("schedule \"{name}\" does not exist")]
    ScheduleNotFound { name: String },
    #[error("schedule \"{name}\" exists already")]
    ScheduleExists { name: String },
    #[error("schedule \"{name}\" has changed since: its etag is {actual}, not {expected}")]
    ScheduleChanged {
        name: String,
        expected: u64,
        actual: u64,
    },
    #[error("no message at offset {offset} of partition {partition}")]
    MessageNotFound { partition: u32, offset: u64 },
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        what: String,
        bytes: u64,
        limit: u64,
    },
    #[error(
        "the message is too slow: {bytes} bytes of it came in {seconds} s; at least {BODY_BYTES_PER_SECOND} bytes a second are needed"
    )]
    TooSlow { bytes: u64, seconds: u64 },
    #[error("the record batch is refused: {why}")]
    BadBatch { why: String },
    #[error(
        "offset {offset} of partition {partition} is out of range: {earliest} is the first that is kept, {latest} the next to be written"
    )]
    OffsetOutOfRange {
        partition: u32,
        offset: u64,
        earliest: u64,
        latest: u64,
    },
    #[error("partition {partition} stands at offset {actual}, not at the expected {expected}")]
    ExpectedOffset {
        partition: u32,
        expected: u64,
        actual: u64,
    },
    #[error(
        "producer {producer_id} with epoch {epoch} is fenced: epoch {current} was given out since"
    )]
    ProducerFenced {
        producer_id: i64,
        epoch: i16,
        current: i16,
    },
    #[error(
        "producer {producer_id} sent sequence {got} to partition {partition}, which expects {expected}"
    )]
    SequenceGap {
        producer_id: i64,
        partition: u32,
        expected: i32,
        got: i32,
    },
    #[error(
        "sequence {got} of producer {producer_id} was stored in partition {partition} so long ago that its offset is forgotten"
    )]
    SequenceTooOld {
        producer_id: i64,
        partition: u32,
        got: i32,
    },
    #[error("topic \"{topic}\" has changed since: its etag is {actual}, not {expected}")]
    EtagMismatch {
        topic: String,
        expected: String,
        actual: String,
    },
    #[error("group \"{group}\" of topic \"{topic}\" does not exist{}", hint(.did_you_mean))]
    GroupNotFound {
        topic: String,
        group: String,
        did_you_mean: Option<String>,
    },
    #[error("group \"{group}\" of topic \"{topic}\" exists already")]
    GroupExists { topic: String, group: String },
    #[error("group \"{group}\" of topic \"{topic}\" has members: {members}")]
    GroupNotEmpty {
        topic: String,
        group: String,
        members: u64,
    },
    #[error("group \"{group}\" has changed since: its etag is {actual}, not {expected}")]
    GroupChanged {
        group: String,
        expected: String,
        actual: String,
    },
    #[error(
        "group \"{group}\" has no member \"{member}\": it has left, or was not heard of within its session"
    )]
    MemberUnknown { group: String, member: String },
    #[error("member \"{member}\" was removed from group \"{group}\" by a call of Leave")]
    MemberRemoved { group: String, member: String },
    #[error("member \"{member}\" of group \"{group}\" is fenced: another connection has its place")]
    MemberFenced { group: String, member: String },
    #[error(
        "the commit for partition {partition} is fenced: epoch {epoch} is over, the present one is {current}"
    )]
    CommitFenced {
        partition: u32,
        epoch: u64,
        current: u64,
    },
    #[error(
        "the commit for partition {partition} goes backwards: from {position} to {offset}; seek the group to consume again"
    )]
    CommitBackwards {
        partition: u32,
        offset: u64,
        position: u64,
    },
    #[error(
        "group \"{group}\" has no position in partition {partition}, and its start policy gives none; seek the group"
    )]
    NoPosition { group: String, partition: u32 },
    #[error("group \"{group}\" of topic \"{topic}\" is a {is} group, which this call is not for")]
    WrongGroupKind {
        topic: String,
        group: String,
        is: &'static str,
    },
    #[error(
        "lease {lease} of offset {offset} in partition {partition} is over: nothing was changed"
    )]
    LeaseLost {
        partition: u32,
        offset: u64,
        lease: u64,
    },
    #[error(
        "nothing was done about offset {offset} in partition {partition}: another settlement of the step could not be made"
    )]
    StepRefused { partition: u32, offset: u64 },
    #[error(
        "results of steps wait to be published: {value} {what} with these, the limit is {limit}; try again when some are"
    )]
    ResultsFull {
        what: String,
        value: u64,
        limit: u64,
    },
    #[error(
        "{results} results of steps of group \"{group}\" of topic \"{topic}\" are not in their topics yet"
    )]
    ResultsWaiting {
        topic: String,
        group: String,
        results: u64,
    },
    #[error("dead letters of \"{topic}\" are being redriven or discarded by somebody else")]
    DeadLettersBusy { topic: String },
    #[error(
        "{count} dead letters of group \"{group}\" of \"{topic}\" have no copy yet ({why}); to drop them with \
         the group, set its dead_letters to false first"
    )]
    DeadLettersWaiting {
        topic: String,
        group: String,
        count: u64,
        why: String,
    },
    #[error("partition {partition} is not assigned to member \"{member}\"")]
    NotAssigned { partition: u32, member: String },
    #[error("{what}: the limit of {limit} is reached")]
    LimitReached { what: String, limit: u64 },
    #[error(
        "the disk is full: {why}; reading goes on, publishing resumes by itself when there is room"
    )]
    DiskFull { why: String },
    #[error("{why}")]
    Unavailable { why: String },
    #[error("the broker is shutting down")]
    Draining,
    #[error(
        "partition {partition} of \"{topic}\" takes no messages because its log is damaged: {why}"
    )]
    PartitionDamaged {
        topic: String,
        partition: u32,
        why: String,
    },
    #[error(
        "offset {offset} of partition {partition} is damaged on disk: {file} at byte {position}: {why}"
    )]
    Damaged {
        partition: u32,
        offset: u64,
        file: String,
        position: u64,
        why: String,
    },
    #[error("the outcome is not known: {why}")]
    Unknown { why: String },
}

fn hint(did_you_mean: &Option<String>) -> String {
    did_you_mean
        .as_ref()
        .map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

impl Refusal {
    /// A field of the request that cannot be.
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Refusal {
        Refusal::Invalid {
            field: field.into(),
            why: why.into(),
        }
    }

    /// The class, the stable reason.
    pub fn kind(&self) -> (Code, &'static str) {
        match self {
            Refusal::TopicNotFound { .. } => (Code::NotFound, "TOPIC_NOT_FOUND"),
            Refusal::PartitionNotFound { .. } => (Code::NotFound, "PARTITION_NOT_FOUND"),
            Refusal::ProducerNotFound { .. } => (Code::NotFound, "PRODUCER_NOT_FOUND"),
            Refusal::ProducerUnknown { .. } => (Code::FailedPrecondition, "PRODUCER_UNKNOWN"),
            Refusal::MessageNotFound { .. } => (Code::NotFound, "MESSAGE_NOT_FOUND"),
            Refusal::NotDelayed { .. } => (Code::FailedPrecondition, "NOT_DELAYED"),
            Refusal::ScheduleNotFound { .. } => (Code::NotFound, "SCHEDULE_NOT_FOUND"),
            Refusal::ScheduleExists { .. } => (Code::AlreadyExists, "SCHEDULE_EXISTS"),
            Refusal::ScheduleChanged { .. } => (Code::Aborted, "ETAG_MISMATCH"),
            Refusal::TopicExists { .. } => (Code::AlreadyExists, "TOPIC_EXISTS"),
            Refusal::Invalid { .. } => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Refusal::TooLarge { .. } => (Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
            Refusal::TooSlow { .. } => (Code::Unavailable, reason::BODY_TOO_SLOW),
            Refusal::BadBatch { .. } => (Code::InvalidArgument, "BAD_BATCH"),
            Refusal::OffsetOutOfRange { .. } => (Code::OutOfRange, "OFFSET_OUT_OF_RANGE"),
            Refusal::ExpectedOffset { .. } => (Code::Aborted, "OFFSET_MISMATCH"),
            Refusal::ProducerFenced { .. } => (Code::FailedPrecondition, "PRODUCER_FENCED"),
            Refusal::SequenceGap { .. } => (Code::FailedPrecondition, "SEQUENCE_GAP"),
            Refusal::SequenceTooOld { .. } => (Code::AlreadyExists, "SEQUENCE_TOO_OLD"),
            Refusal::EtagMismatch { .. } => (Code::Aborted, "ETAG_MISMATCH"),
            Refusal::GroupNotFound { .. } => (Code::NotFound, "GROUP_NOT_FOUND"),
            Refusal::GroupExists { .. } => (Code::AlreadyExists, "GROUP_EXISTS"),
            Refusal::GroupNotEmpty { .. } => (Code::FailedPrecondition, "GROUP_NOT_EMPTY"),
            Refusal::GroupChanged { .. } => (Code::Aborted, "ETAG_MISMATCH"),
            Refusal::MemberUnknown { .. } => (Code::NotFound, "MEMBER_UNKNOWN"),
            Refusal::MemberRemoved { .. } => (Code::FailedPrecondition, "MEMBER_REMOVED"),
            Refusal::MemberFenced { .. } => (Code::FailedPrecondition, "MEMBER_FENCED"),
            Refusal::CommitFenced { .. } => (Code::FailedPrecondition, "COMMIT_FENCED"),
            Refusal::CommitBackwards { .. } => (Code::FailedPrecondition, "COMMIT_BACKWARDS"),
            Refusal::NoPosition { .. } => (Code::FailedPrecondition, "NO_POSITION"),
            Refusal::NotAssigned { .. } => (Code::FailedPrecondition, "NOT_ASSIGNED"),
            Refusal::WrongGroupKind { .. } => (Code::FailedPrecondition, "WRONG_GROUP_KIND"),
            Refusal::LeaseLost { .. } => (Code::FailedPrecondition, "LEASE_LOST"),
            Refusal::StepRefused { .. } => (Code::FailedPrecondition, "STEP_REFUSED"),
            Refusal::ResultsFull { .. } => (Code::ResourceExhausted, "RESULTS_FULL"),
            Refusal::ResultsWaiting { .. } => (Code::FailedPrecondition, "RESULTS_WAITING"),
            Refusal::DeadLettersBusy { .. } => (Code::FailedPrecondition, "DEAD_LETTERS_BUSY"),
            Refusal::DeadLettersWaiting { .. } => {
                (Code::FailedPrecondition, "DEAD_LETTERS_WAITING")
            }
            Refusal::LimitReached { .. } => (Code::ResourceExhausted, "LIMIT_REACHED"),
            Refusal::DiskFull { .. } => (Code::ResourceExhausted, "DISK_FULL"),
            Refusal::Unavailable { .. } => (Code::Unavailable, "UNAVAILABLE"),
            Refusal::Draining => (Code::Unavailable, "DRAINING"),
            Refusal::PartitionDamaged { .. } => (Code::FailedPrecondition, "PARTITION_DAMAGED"),
            Refusal::Damaged { .. } => (Code::DataLoss, "DATA_DAMAGED"),
            Refusal::Unknown { .. } => (Code::Unknown, "OUTCOME_UNKNOWN"),
        }
    }

    /// The facts of the refusal, by name.
    #[expect(
        clippy::too_many_lines,
        reason = "one table, a line or two for each refusal"
    )]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        match self {
            Refusal::TopicNotFound {
                topic,
                did_you_mean,
            } => {
                let mut facts = vec![("topic", topic.clone())];
                facts.extend(did_you_mean.clone().map(|name| ("did_you_mean", name)));
                facts
            }
            Refusal::PartitionNotFound {
                topic,
                partition,
                partitions,
            } => vec![
                ("topic", topic.clone()),
                ("partition", partition.to_string()),
                ("partitions", partitions.to_string()),
            ],
            Refusal::TopicExists { topic } => vec![("topic", topic.clone())],
            Refusal::ProducerNotFound { name } => vec![("producer", name.clone())],
            Refusal::ProducerUnknown { producer_id } => {
                vec![("producer_id", producer_id.to_string())]
            }
            Refusal::ScheduleNotFound { name } | Refusal::ScheduleExists { name } => {
                vec![("schedule", name.clone())]
            }
            Refusal::ScheduleChanged {
                name,
                expected,
                actual,
            } => vec![
                ("schedule", name.clone()),
                ("expected", expected.to_string()),
                ("actual", actual.to_string()),
            ],
            Refusal::NotDelayed { partition, offset }
            | Refusal::MessageNotFound { partition, offset } => {
                vec![
                    ("partition", partition.to_string()),
                    ("offset", offset.to_string()),
                ]
            }
            Refusal::Invalid { field, .. } => vec![("field", field.clone())],
            Refusal::TooLarge { what, bytes, limit } => vec![
                ("field", what.clone()),
                ("value", bytes.to_string()),
                ("limit", limit.to_string()),
            ],
            Refusal::OffsetOutOfRange {
                partition,
                offset,
                earliest,
                latest,
            } => vec![
                ("partition", partition.to_string()),
                ("offset", offset.to_string()),
                ("earliest", earliest.to_string()),
                ("latest", latest.to_string()),
            ],
            Refusal::ExpectedOffset {
                partition,
                expected,
                actual,
            } => vec![
                ("partition", partition.to_string()),
                ("expected", expected.to_string()),
                ("actual", actual.to_string()),
            ],
            Refusal::ProducerFenced {
                producer_id,
                epoch,
                current,
            } => vec![
                ("producer_id", producer_id.to_string()),
                ("epoch", epoch.to_string()),
                ("current", current.to_string()),
            ],
            Refusal::SequenceGap {
                producer_id,
                partition,
                expected,
                got,
            } => vec![
                ("producer_id", producer_id.to_string()),
                ("partition", partition.to_string()),
                ("expected", expected.to_string()),
                ("got", got.to_string()),
            ],
            Refusal::SequenceTooOld {
                producer_id,
                partition,
                got,
            } => vec![
                ("producer_id", producer_id.to_string()),
                ("partition", partition.to_string()),
                ("got", got.to_string()),
            ],
            Refusal::EtagMismatch {
                topic,
                expected,
                actual,
            } => vec![
                ("topic", topic.clone()),
                ("expected", expected.clone()),
                ("actual", actual.clone()),
            ],
            Refusal::GroupNotFound {
                topic,
                group,
                did_you_mean,
            } => {
                let mut facts = vec![("topic", topic.clone()), ("group", group.clone())];
                facts.extend(did_you_mean.clone().map(|name| ("did_you_mean", name)));
                facts
            }
            Refusal::GroupExists { topic, group } => {
                vec![("topic", topic.clone()), ("group", group.clone())]
            }
            Refusal::GroupNotEmpty {
                topic,
                group,
                members,
            } => vec![
                ("topic", topic.clone()),
                ("group", group.clone()),
                ("members", members.to_string()),
            ],
            Refusal::GroupChanged {
                group,
                expected,
                actual,
            } => vec![
                ("group", group.clone()),
                ("expected", expected.clone()),
                ("actual", actual.clone()),
            ],
            Refusal::MemberUnknown { group, member }
            | Refusal::MemberRemoved { group, member }
            | Refusal::MemberFenced { group, member } => {
                vec![("group", group.clone()), ("member", member.clone())]
            }
            Refusal::CommitFenced {
                partition,
                epoch,
                current,
            } => vec![
                ("partition", partition.to_string()),
                ("epoch", epoch.to_string()),
                ("current", current.to_string()),
            ],
            Refusal::CommitBackwards {
                partition,
                offset,
                position,
            } => vec![
                ("partition", partition.to_string()),
                ("offset", offset.to_string()),
                ("position", position.to_string()),
            ],
            Refusal::NoPosition { group, partition } => vec![
                ("group", group.clone()),
                ("partition", partition.to_string()),
            ],
            Refusal::NotAssigned { partition, member } => vec![
                ("partition", partition.to_string()),
                ("member", member.clone()),
            ],
            Refusal::WrongGroupKind { topic, group, is } => vec![
                ("topic", topic.clone()),
                ("group", group.clone()),
                ("kind", (*is).to_owned()),
            ],
            Refusal::LeaseLost {
                partition,
                offset,
                lease,
            } => vec![
                ("partition", partition.to_string()),
                ("offset", offset.to_string()),
                ("lease", lease.to_string()),
            ],
            Refusal::StepRefused { partition, offset } => vec![
                ("partition", partition.to_string()),
                ("offset", offset.to_string()),
            ],
            Refusal::ResultsFull { what, value, limit } => vec![
                ("field", what.clone()),
                ("value", value.to_string()),
                ("limit", limit.to_string()),
            ],
            Refusal::ResultsWaiting {
                topic,
                group,
                results,
            } => vec![
                ("topic", topic.clone()),
                ("group", group.clone()),
                ("results", results.to_string()),
            ],
            Refusal::DeadLettersBusy { topic } => vec![("topic", topic.clone())],
            Refusal::DeadLettersWaiting {
                topic,
                group,
                count,
                ..
            } => vec![
                ("topic", topic.clone()),
                ("group", group.clone()),
                ("count", count.to_string()),
            ],
            Refusal::LimitReached { what, limit } => {
                vec![("field", what.clone()), ("limit", limit.to_string())]
            }
            Refusal::PartitionDamaged {
                topic, partition, ..
            } => {
                vec![
                    ("topic", topic.clone()),
                    ("partition", partition.to_string()),
                ]
            }
            Refusal::Damaged {
                partition,
                offset,
                file,
                position,
                ..
            } => vec![
                ("partition", partition.to_string()),
                ("offset", offset.to_string()),
                ("file", file.clone()),
                ("position", position.to_string()),
            ],
            Refusal::BadBatch { .. }
            | Refusal::TooSlow { .. }
            | Refusal::DiskFull { .. }
            | Refusal::Unavailable { .. }
            | Refusal::Draining
            | Refusal::Unknown { .. } => Vec::new(),
        }
    }

    /// When to try again, where trying again helps.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::DiskFull { .. } => Some(DISK_FULL_RETRY),
            Refusal::Unavailable { .. } | Refusal::Draining | Refusal::ResultsFull { .. } => {
                Some(Duration::from_millis(200))
            }
            _ => None,
        }
    }
}
