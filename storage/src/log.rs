//! A log: segments in order, with its pointers.

use std::ops::Range;

use bytes::Bytes;

use crate::entry::{Done, Entry, EntryId, NewEntry, RaftId};
use crate::error::{Error, ReadError};
use crate::read::ReadPlan;

/// State of the partition after the entry `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Last entry covered.
    pub last: EntryId,
    /// Opaque.
    pub state: Bytes,
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Index of its first entry.
    pub first_index: u64,
    /// Next offset before its first entry.
    pub base_offset: u64,
    /// Bytes of its header and entries.
    pub bytes: u64,
    /// Latest timestamp of its batches; `None` if it holds no batch.
    pub max_timestamp_ms: Option<i64>,
    /// Appends go here.
    pub active: bool,
}

/// A range of a log that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First index that cannot be read.
    pub first_index: u64,
    /// Last index, where it is known.
    pub last_index: Option<u64>,
    /// Offset at which the damage begins.
    pub base_offset: u64,
    /// File, relative to the store's directory.
    pub file: String,
    /// Byte in that file.
    pub position: u64,
    /// What does not fit.
    pub why: String,
}

/// A log. A cheap handle; one appender.
#[derive(Clone)]
pub struct Log {}

fn closed<T>() -> Result<T, Error> {
    Err(Error::Closed { cause: "not open".into() })
}

impl Log {
    /// Its number.
    pub fn id(&self) -> RaftId {
        0
    }
    /// Appends; readable at once; `done` when durable. Returns the base offset of each entry.
    pub fn append(&self, _entries: Vec<NewEntry>, _done: Done) -> Result<Vec<u64>, Error> {
        closed()
    }
    /// Saves the vote (at most 128 bytes), ordered with the appends of this log.
    pub fn save_vote(&self, _vote: Bytes, _done: Done) -> Result<(), Error> {
        closed()
    }
    /// The vote that was saved last.
    pub fn vote(&self) -> Option<Bytes> {
        None
    }
    /// Removes all entries after `last`; durable on return.
    pub fn truncate_after(&self, _last: Option<u64>) -> Result<(), Error> {
        closed()
    }
    /// Moves the start of the log past `upto`; durable on return.
    pub fn purge(&self, _upto: EntryId) -> Result<(), Error> {
        closed()
    }
    /// Last entry; the purged one if there are no entries.
    pub fn last_id(&self) -> Option<EntryId> {
        None
    }
    /// What was purged last.
    pub fn purged_id(&self) -> Option<EntryId> {
        None
    }
    /// First index that is (or would be) held.
    pub fn first_index(&self) -> u64 {
        0
    }
    /// Last index known durable.
    pub fn synced_index(&self) -> Option<u64> {
        None
    }
    /// Log end offset, exclusive.
    pub fn next_offset(&self) -> u64 {
        0
    }
    /// Offset at which the retained log begins.
    pub fn first_offset(&self) -> u64 {
        0
    }
    /// Entries from the start of the range, at least one if present; blocks.
    pub fn read_entries(&self, _range: Range<u64>, _max_bytes: usize) -> Result<Vec<Entry>, Error> {
        closed()
    }
    /// The segments in order.
    pub fn segments(&self) -> Vec<SegmentFacts> {
        Vec::new()
    }
    /// Whether a segment begins at this index.
    pub fn is_boundary(&self, _index: u64) -> bool {
        false
    }
    /// The next append begins a new segment.
    pub fn roll(&self) {}
    /// Queues a checkpoint; written once `last` is durable.
    pub fn save_checkpoint(&self, _last: EntryId, _state: Bytes) {}
    /// The newest checkpoint.
    pub fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        closed()
    }
    /// The newest checkpoint that covers nothing at or beyond `first_index`.
    pub fn checkpoint_before(&self, _first_index: u64) -> Result<Option<Checkpoint>, Error> {
        closed()
    }
    /// Points the current snapshot at a checkpoint; durable on return.
    pub fn set_snapshot(&self, _last: EntryId) -> Result<(), Error> {
        closed()
    }
    /// The current snapshot.
    pub fn snapshot(&self) -> Result<Option<Checkpoint>, Error> {
        closed()
    }
    /// The log restarts after the checkpoint; durable on return.
    pub fn install(&self, _checkpoint: Checkpoint, _next_offset: u64) -> Result<(), Error> {
        closed()
    }
    /// Sets space aside for this many stored bytes (`stored_len` of each entry, summed).
    pub fn reserve(&self, _bytes: u64) -> Result<(), Error> {
        closed()
    }
    /// Gives reserved space back.
    pub fn unreserve(&self, _bytes: u64) {}
    /// Plans a read of whole batches from the one that holds `from`, below `until`.
    pub fn plan_read(
        &self,
        _from: u64,
        _until: u64,
        _max_bytes: usize,
    ) -> Result<ReadPlan, ReadError> {
        Ok(ReadPlan::Ready(Vec::new()))
    }
    /// Offset of the first record at or after a time, below `until`; blocks.
    pub fn offset_for_timestamp(&self, _ms: i64, _until: u64) -> Result<Option<u64>, ReadError> {
        Ok(None)
    }
    /// What is known to be damaged.
    pub fn damage(&self) -> Vec<Damage> {
        Vec::new()
    }
    /// Bytes of all segments' headers and entries.
    pub fn size_bytes(&self) -> u64 {
        0
    }
}
