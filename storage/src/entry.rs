//! Entries: what a log holds.

use bytes::Bytes;

use crate::error::Error;

/// A Raft group on this node; names the directory `logs/<id>/`. Never reused.
pub type RaftId = u64;

/// Called exactly once when what was asked is durable (or can no longer become so), in order per
/// log, from the sync thread. Dropped uncalled when the call that took it returned an error.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Bytes of an entry header on disk.
pub const HEADER_LEN: usize = 48;

/// Bytes that an entry with this payload takes in a segment (what `Log::reserve` counts).
pub const fn stored_len(payload_len: usize) -> u64 {
    (HEADER_LEN + payload_len) as u64
}

/// Raft's name of an entry. Term and leader are `u32` on disk: larger values are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Raft term.
    pub term: u64,
    /// Replica id of the leader that created the entry.
    pub leader: u64,
    /// Raft index.
    pub index: u64,
}

/// What an entry's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One record batch; the only kind that takes offsets.
    Batch = 1,
    /// A command of the state machine.
    Command = 2,
    /// A Raft membership.
    Membership = 3,
    /// Nothing; a new leader's first entry.
    Blank = 4,
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Raft's name of it; the index must continue the log.
    pub id: EntryId,
    /// What the payload is.
    pub kind: Kind,
    /// Free for the caller, given back on read.
    pub flags: u8,
    /// `Batch`: one whole RecordBatch v2 (its base offset and leader epoch are ignored and set).
    pub payload: Bytes,
}

/// An entry as read back.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Raft's name of it.
    pub id: EntryId,
    /// What the payload is.
    pub kind: Kind,
    /// As given on append.
    pub flags: u8,
    /// Next offset of the log before this entry; a batch's own base offset.
    pub base_offset: u64,
    /// As given on append; a batch comes with its offset and leader epoch set.
    pub payload: Bytes,
}
