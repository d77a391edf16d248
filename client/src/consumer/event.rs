//! What a group consumer tells beside messages.

use std::{ops::Range, time::Duration};

use crate::Error;

/// When a message counts as done, and when that is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// A message (or chunk) is done when the consumer is asked for the next one. Committed
    /// every [`commit_interval`](crate::GroupConsumerBuilder::commit_interval), when a
    /// partition goes to another member, and on close.
    #[default]
    Automatic,
    /// Nothing is committed but by [`GroupConsumer::commit`](crate::GroupConsumer::commit) and
    /// its likes, which say: everything up to and including this message is done.
    Manual,
    /// Each message is done when [`Received::done`](crate::Received::done) says so, in any
    /// order. Committed like [`CommitMode::Automatic`], up to the first message that is not
    /// done.
    PerRecord,
}

/// Something that happened to a group consumer; see
/// [`on_event`](crate::GroupConsumerBuilder::on_event).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GroupEvent {
    /// Joined, or came back.
    Connected {
        /// By this the broker knows the member.
        member_id: String,
    },
    /// The connection broke; the consumer connects again by itself.
    Disconnected {
        /// Why.
        error: Error,
    },
    /// A partition is read from now on.
    Assigned {
        /// Counted from 0.
        partition: u32,
        /// First offset that will be handed out.
        position: u64,
        /// Messages that nobody of the group will see: retention had overtaken the position.
        skipped: Option<Range<u64>>,
    },
    /// Partitions are wanted elsewhere. Nothing more of them is handed out; they are given back
    /// as soon as what was handed out is done, and shortly before the deadline in any case.
    Revoking {
        /// Which.
        partitions: Vec<u32>,
        /// After this the broker takes them.
        deadline: Duration,
    },
    /// Partitions were given back, with what was done committed.
    Released {
        /// Which.
        partitions: Vec<u32>,
    },
    /// Partitions are gone. What was not committed of them is delivered again, somewhere.
    Lost {
        /// Which.
        partitions: Vec<u32>,
        /// In one word: `SEEK` (the group was moved), `REVOKED` (not given back in time),
        /// `TOPIC_DELETED`, `OVERRUN` (retention overtook the position, and the group's policy
        /// is to stop), `DISCONNECTED` (the connection broke).
        reason: String,
    },
    /// The broker refused a commit.
    CommitFailed {
        /// Counted from 0.
        partition: u32,
        /// What should have become the position.
        offset: u64,
        /// Why.
        error: Error,
    },
    /// The broker has sent everything that there is of a partition. Some of it may still wait
    /// in this process.
    CaughtUp {
        /// Counted from 0.
        partition: u32,
        /// The offset that comes next.
        next_offset: u64,
    },
}
