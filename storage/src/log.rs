//! `Log`: segments in order, with its pointers.
//!
//! ```text
//!      purged                         synced          last
//!        |                              |               |
//!   [ segment ]  [ segment ........ ] [ segment .......... free space ]
//!        first_offset                    next_offset (exclusive)
//! ```
//!
//! What is promised: indexes and offsets have no holes above the purge point; published bytes never
//! change; `purged <= last`, `synced <= last`, a checkpoint lies at or below `synced`. Two locks:
//! `append` orders those who change the log, `view` is held for moments only (never during a write
//! or a sync) and is all that readers and the engine take. What lives here must never know: Raft's
//! rules, topics, time. The work is in `append.rs`, `cut.rs`, `locate.rs`, `checkpoint.rs`, `read.rs`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use self::inner::LogInner;
pub(crate) use self::view::{Part, RECENT, Recent, View};
use crate::entry::{Done, Entry, EntryId, NewEntry, RaftId};
use crate::error::{Error, ReadError};
use crate::read::ReadPlan;
use crate::state_file::MAX_VOTE;

mod inner;
mod view;

/// Space that is kept for internal entries (commands, blanks, memberships) beside what is reserved.
pub(crate) const HEADROOM: u64 = 256 << 10;

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
pub struct Log {
    pub(crate) inner: Arc<LogInner>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.inner.id)
    }
}

impl Log {
    /// Its number.
    pub fn id(&self) -> RaftId {
        self.inner.id
    }

    /// Appends entries: they are readable at once, `done` is called when they are durable. Returns
    /// the base offset of each. Indexes must continue the log (an empty log that was never purged
    /// takes any). When this returns an error nothing was appended and `done` is dropped uncalled.
    ///
    /// # Errors
    /// `Full` without space (never for bytes that were reserved), `Invalid` for what breaks a rule,
    /// `Corrupt` if the log is damaged, `Closed`.
    pub fn append(&self, entries: Vec<NewEntry>, done: Done) -> Result<Vec<u64>, Error> {
        self.inner.append_entries(entries, done)
    }

    /// Saves the vote (at most 128 bytes), ordered with the appends of this log.
    ///
    /// # Errors
    /// `Invalid` if it is longer; `Closed`.
    pub fn save_vote(&self, vote: Bytes, done: Done) -> Result<(), Error> {
        if vote.len() > MAX_VOTE {
            return Err(Error::invalid(
                "vote length",
                vote.len() as u64,
                MAX_VOTE as u64,
            ));
        }
        let _order = self.inner.append.lock();
        self.inner.shared.check_open()?;
        self.inner
            .submit_words(done, |view| view.words.vote = Some(vote))
    }

    /// The vote that was saved last, durable or not yet.
    pub fn vote(&self) -> Option<Bytes> {
        self.inner.view.lock().words.vote.clone()
    }

    /// Removes all entries after `last` (all for `None`); durable on return. What comes next goes
    /// into a new segment: published bytes are never overwritten.
    ///
    /// # Errors
    /// `Invalid` if `last` lies below the purge point; what a write can meet.
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), Error> {
        self.inner.truncate_after(last)
    }

    /// Moves the start of the log past `upto`, which may lie inside a segment or beyond the end;
    /// durable on return. Files that are whole below it are given back in the background.
    ///
    /// # Errors
    /// What a write can meet.
    pub fn purge(&self, upto: EntryId) -> Result<(), Error> {
        self.inner.purge(upto)
    }

    /// Last entry; the purged one if there are no entries.
    pub fn last_id(&self) -> Option<EntryId> {
        self.inner.view.lock().last
    }

    /// What was purged last.
    pub fn purged_id(&self) -> Option<EntryId> {
        self.inner.view.lock().words.purged
    }

    /// First index that is (or would be) held.
    pub fn first_index(&self) -> u64 {
        self.inner.view.lock().first_index()
    }

    /// Last index known durable.
    pub fn synced_index(&self) -> Option<u64> {
        self.inner.view.lock().synced
    }

    /// Log end offset, exclusive.
    pub fn next_offset(&self) -> u64 {
        self.inner.view.lock().next_offset
    }

    /// Offset at which the retained log begins.
    pub fn first_offset(&self) -> u64 {
        self.inner.view.lock().first_offset()
    }

    /// Entries from the start of the range on, up to `max_bytes` of payload but at least one if
    /// present; blocks. Every entry is verified.
    ///
    /// # Errors
    /// `Corrupt` for damaged bytes, `Io`.
    pub fn read_entries(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        self.inner.read_entries(range, max_bytes)
    }

    /// The segments in order.
    pub fn segments(&self) -> Vec<SegmentFacts> {
        let view = self.inner.view.lock();
        let last = view.parts.len().saturating_sub(1);
        let facts = view
            .parts
            .iter()
            .enumerate()
            .map(|(at, part)| SegmentFacts {
                first_index: part.first_index(),
                base_offset: part.segment.header.base_offset,
                bytes: part.end,
                max_timestamp_ms: Some(part.max_timestamp)
                    .filter(|time| *time != crate::segment::NO_TIMESTAMP),
                active: at == last,
            });
        facts.collect()
    }

    /// Whether a segment begins at this index. Cheap.
    pub fn is_boundary(&self, index: u64) -> bool {
        let view = self.inner.view.lock();
        let at = view.parts.binary_search_by_key(&index, Part::first_index);
        at.is_ok()
    }

    /// The next append begins a new segment (if the active one holds anything and there is space).
    pub fn roll(&self) {
        self.inner.view.lock().roll = true;
    }

    /// Queues a checkpoint: the state after `last`, a segment beginning at the index after it. It is
    /// written in the background once `last` is durable here.
    pub fn save_checkpoint(&self, last: EntryId, state: Bytes) {
        self.inner.queue_checkpoint(last, state);
    }

    /// The newest checkpoint that can be read.
    ///
    /// # Errors
    /// `Io`. A damaged checkpoint is passed over for an older one.
    pub fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        self.inner.checkpoint_up_to(u64::MAX)
    }

    /// The newest checkpoint that covers nothing at or beyond `first_index`.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint_before(&self, first_index: u64) -> Result<Option<Checkpoint>, Error> {
        self.inner.checkpoint_up_to(first_index)
    }

    /// Points the current snapshot at a checkpoint that was saved; durable on return.
    ///
    /// # Errors
    /// `Invalid` if there is no such checkpoint; what a write can meet.
    pub fn set_snapshot(&self, last: EntryId) -> Result<(), Error> {
        self.inner.set_snapshot(last)
    }

    /// The current snapshot.
    ///
    /// # Errors
    /// `Corrupt` if its file is damaged; `Io`.
    pub fn snapshot(&self) -> Result<Option<Checkpoint>, Error> {
        self.inner.snapshot()
    }

    /// The log restarts after `checkpoint.last` with this next offset, and the checkpoint becomes
    /// the current snapshot; durable on return.
    ///
    /// # Errors
    /// What a write can meet.
    pub fn install(&self, checkpoint: Checkpoint, next_offset: u64) -> Result<(), Error> {
        self.inner.install(checkpoint, next_offset)
    }

    /// Sets space aside for this many stored bytes (`stored_len` of each batch, summed), so that
    /// appending them cannot fail for want of space.
    ///
    /// # Errors
    /// `Full`; nothing was set aside.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        self.inner.reserve(bytes)
    }

    /// As [`Log::reserve`], for an entry that makes room or is small and rare: on a full disk it may
    /// take half of the space that is kept for internal entries.
    ///
    /// # Errors
    /// `Full`; nothing was set aside.
    pub fn reserve_to_free(&self, bytes: u64) -> Result<(), Error> {
        let reserved = self.inner.reserve(bytes);
        reserved.or_else(|error| self.inner.reserve_from_headroom(bytes, error))
    }

    /// Gives back what was reserved and will not be appended.
    pub fn unreserve(&self, bytes: u64) {
        let mut view = self.inner.view.lock();
        view.reserved = view.reserved.saturating_sub(bytes);
    }

    /// Plans a read of whole batches: the first one holds `from`, none begins at or beyond `until`
    /// (the caller's high watermark), together at most `max_bytes` but at least one batch.
    ///
    /// # Errors
    /// `OutOfRange` below the first or above the next offset; `Damaged`; `Storage`.
    pub fn plan_read(
        &self,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<ReadPlan, ReadError> {
        self.inner.plan_read(from, until, max_bytes)
    }

    /// Offset of the first record at or after a time, below `until`; blocks.
    ///
    /// # Errors
    /// `Damaged`; `Storage`.
    pub fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        until: u64,
    ) -> Result<Option<u64>, ReadError> {
        self.inner.offset_for_timestamp(timestamp_ms, until)
    }

    /// What is known to be damaged, by recovery and by reads since.
    pub fn damage(&self) -> Vec<Damage> {
        self.inner.view.lock().damage.clone()
    }

    /// Bytes of all segments' headers and entries.
    pub fn size_bytes(&self) -> u64 {
        self.inner
            .view
            .lock()
            .parts
            .iter()
            .map(|part| part.end)
            .sum()
    }
}
