//! The commands of a queue, as they lie in the partition's log, and the replies. Pure.
//!
//! A batch of commands is one entry with one time. Whoever proposes it has resolved the group's
//! policy: a command carries absolute times and decided outcomes, so applying it needs neither
//! policy nor clock nor chance, and a policy changed later changes nothing that is in the log.
//!
//! Messages are named in runs of neighbouring offsets. A run of leases is (first offset, count,
//! first lease): the lease of the offset `first + i` is `lease + i`. A count of 0 means 1.

use std::ops::Range;

use prost::Message;

use super::parcel::{Completion, Written};

/// Several commands in one entry, applied in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Batch {
    #[prost(int64, tag = "1")]
    pub(crate) now_ms: i64,
    /// The group keeps no dead letters: what dies is settled at once and counted.
    #[prost(bool, tag = "2")]
    pub(crate) discard_dead: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) commands: Vec<Command>,
}

/// A change of one queue.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub(crate) kind: Option<Kind>,
}

/// What is changed.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    /// First use: the queue begins at this offset. Later ones change nothing.
    #[prost(uint64, tag = "1")]
    Begin(u64),
    /// The group was deleted.
    #[prost(bool, tag = "2")]
    Forget(bool),
    /// Below this offset all counts as settled, at and above it all is fresh again.
    #[prost(uint64, tag = "3")]
    Seek(u64),
    #[prost(message, tag = "4")]
    Lease(Grant),
    /// A consumer's verdicts on its leases.
    #[prost(message, tag = "5")]
    Settle(Verdicts),
    /// The leader's outcomes for leases that are past their deadline.
    #[prost(message, tag = "6")]
    Expire(Verdicts),
    /// The leader's outcomes for the leases of a consumer that vanished.
    #[prost(message, tag = "7")]
    Gone(Verdicts),
    /// The copies of the dead letters up to this number are in the dead-letter topic.
    #[prost(uint64, tag = "8")]
    DeadWritten(u64),
    #[prost(message, tag = "9")]
    Drop(Dropping),
    /// The log begins at this offset now.
    #[prost(uint64, tag = "10")]
    Trim(u64),
    /// A parked key's messages are handed out again.
    #[prost(fixed64, tag = "11")]
    Unpark(u64),
    /// A message that was never handed out waits for another time.
    #[prost(message, tag = "12")]
    Delay(Delay),
    /// Verdicts of a consumer and what they have published, all or nothing.
    #[prost(message, tag = "13")]
    Complete(Completion),
    /// Results are in their topics.
    #[prost(message, tag = "14")]
    Written(Written),
}

/// Neighbouring offsets.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Run {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
}

impl Run {
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count.max(1))
    }
}

impl From<Range<u64>> for Run {
    fn from(range: Range<u64>) -> Run {
        Run {
            first: range.start,
            count: range.end - range.start,
        }
    }
}

/// Messages to be leased to a consumer until a time.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Grant {
    #[prost(uint64, tag = "1")]
    pub(crate) consumer: u64,
    #[prost(int64, tag = "2")]
    pub(crate) deadline_ms: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) runs: Vec<Run>,
    /// The queue's epoch when the messages were chosen. A seek raises it, so what was chosen
    /// before never lands after it.
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
}

/// Another delay of one message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delay {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    /// By the wall clock.
    #[prost(int64, tag = "2")]
    pub(crate) until_ms: i64,
    /// As in [`Grant`].
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
}

/// What is to become of leased messages.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Verdicts {
    /// If given, only leases of this consumer are touched.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) consumer: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) verdicts: Vec<Verdict>,
}

/// The same verdict for a run of leases.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Verdict {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
    /// Lease number of the first message.
    #[prost(uint64, tag = "3")]
    pub(crate) lease: u64,
    #[prost(oneof = "Action", tags = "4, 5, 6, 7, 8")]
    pub(crate) action: Option<Action>,
}

impl Verdict {
    pub(crate) fn range(&self) -> Range<u64> {
        let (first, count) = (self.first, self.count);
        Run { first, count }.range()
    }
}

/// A verdict.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Action {
    /// Done.
    #[prost(bool, tag = "4")]
    Ack(bool),
    /// Failed, and tried again from a time on.
    #[prost(message, tag = "5")]
    Retry(Retry),
    /// Given back: not counted as failed, ready at once.
    #[prost(bool, tag = "6")]
    Release(bool),
    /// The lease lasts at least until this time; it is never made shorter.
    #[prost(int64, tag = "7")]
    Extend(i64),
    /// Never handed out again.
    #[prost(message, tag = "8")]
    Dead(Death),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Retry {
    #[prost(int64, tag = "1")]
    pub(crate) at_ms: i64,
    /// What went wrong; an empty one leaves the text of the attempt before.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Death {
    #[prost(enumeration = "Reason", tag = "1")]
    pub(crate) reason: i32,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
    /// The present hand-out is not a failed attempt: a release that was one hand-out too many.
    #[prost(bool, tag = "3")]
    pub(crate) uncounted: bool,
    /// The key whose later messages are parked from now on.
    #[prost(fixed64, optional, tag = "4")]
    pub(crate) park_key: Option<u64>,
}

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Reason {
    /// Never used in a command: what an unknown number reads as.
    Unknown = 0,
    /// The last allowed attempt failed.
    Attempts = 1,
    /// Handed out as often as is allowed.
    HandOuts = 2,
    /// A consumer said so.
    Rejected = 3,
    /// Its time to live ended before it was done.
    Ttl = 4,
    /// An earlier message of its key is a dead letter.
    Parked = 5,
}

/// How many reasons there are, the unknown one included.
pub(crate) const REASONS: usize = 6;

/// Messages that are not leased, to be handed out never again.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dropping {
    #[prost(message, repeated, tag = "1")]
    pub(crate) runs: Vec<Run>,
    #[prost(enumeration = "DropReason", tag = "2")]
    pub(crate) reason: i32,
    /// No dead letters of these, even if the group keeps dead letters.
    #[prost(bool, tag = "3")]
    pub(crate) discard: bool,
    /// As in [`Grant`].
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
}

/// Why messages are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum DropReason {
    Unknown = 0,
    /// Becomes a dead letter.
    Ttl = 1,
    /// Becomes a dead letter.
    Parked = 2,
    /// Settled and counted.
    Cancelled = 3,
    /// The group's filter leaves it out: settled and counted.
    Unmatched = 4,
}

/// One reply for each command of a batch, in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Replies {
    #[prost(message, repeated, tag = "1")]
    pub(crate) replies: Vec<Reply>,
}

/// What became of a command.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    /// Of the command as a whole.
    #[prost(enumeration = "Status", tag = "1")]
    pub(crate) status: i32,
    /// Of each message that it names, in the order of the command.
    #[prost(message, repeated, tag = "2")]
    pub(crate) spans: Vec<Span>,
    /// Of a step that was made: the number of each result among those of its target.
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) numbers: Vec<u64>,
}

/// The same result for neighbouring messages.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
    #[prost(enumeration = "Status", tag = "3")]
    pub(crate) status: i32,
    /// Of a lease that was given: the first message's number; the others follow.
    #[prost(uint64, tag = "4")]
    pub(crate) lease: u64,
}

impl Span {
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// A result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Status {
    /// A command, verdict or reason that this version does not know: nothing was changed.
    Unreadable = 0,
    /// Made; of a grant: leased.
    Done = 1,
    /// The lease is not the message's present one, or past its deadline.
    LeaseLost = 2,
    /// A retry or an expiry before its time.
    NotDue = 3,
    /// The message is settled.
    Settled = 4,
    /// The message is leased.
    Leased = 5,
    /// The offset is not written yet, or the dead letter's number not given.
    BeyondEnd = 6,
    /// The queue has no beginning yet.
    NotBegun = 7,
    /// More messages than one command may name.
    TooMany = 8,
    /// Chosen before a seek.
    Fenced = 9,
    /// The message was handed out before, so no delay is left to be changed.
    HandedOut = 10,
    /// The step was made before.
    Repeated = 11,
    /// Of a step: not all of its verdicts can be made, so none was.
    NotMade = 12,
}

impl Command {
    pub(crate) fn new(kind: Kind) -> Command {
        Command { kind: Some(kind) }
    }
}
