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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::drain::Job;
use crate::entry::{Done, Entry, EntryId, NewEntry, RaftId};
use crate::error::{Error, ReadError};
use crate::pool::SegmentFile;
use crate::read::ReadPlan;
use crate::segment::{Sealed, Segment};
use crate::state_file::{Cut, MAX_VOTE, StateFile, Tail, Words};
use crate::store::Shared;
use crate::sync_engine::{Request, Work};

/// Space that is kept for internal entries (commands, blanks, memberships) beside what is reserved.
pub(crate) const HEADROOM: u64 = 256 << 10;
/// Positions of the newest entries that are remembered exactly.
pub(crate) const RECENT: usize = 128;

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

/// A segment as part of the log, with its published end.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: u64,
    pub(crate) max_timestamp: i64,
}

impl Part {
    pub(crate) fn first_index(&self) -> u64 {
        self.segment.header.first_index
    }

    pub(crate) fn sealed(&self) -> Sealed {
        let salt = self.segment.header.salt;
        Sealed {
            salt,
            end: self.end,
            max_timestamp: self.max_timestamp,
        }
    }
}

/// Where a recent entry stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent {
    pub(crate) index: u64,
    pub(crate) offset: u64,
    pub(crate) position: u64,
    pub(crate) salt: u64,
}

/// What is published of a log.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) parts: Vec<Part>,
    pub(crate) last: Option<EntryId>,
    pub(crate) next_offset: u64,
    pub(crate) synced: Option<u64>,
    pub(crate) words: Words,
    /// The words as far as they are durable: what a drain may write down.
    pub(crate) durable: Arc<Words>,
    /// The file of the next segment, still in the pool's directory.
    pub(crate) next: Option<Arc<SegmentFile>>,
    pub(crate) preparing: bool,
    pub(crate) reserved: u64,
    /// The next append begins a new segment if there is space for one.
    pub(crate) roll: bool,
    /// The next append must begin a new segment: bytes after the end may not be overwritten.
    pub(crate) cut_here: bool,
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) damage: Vec<Damage>,
    /// Index and offset at which the log began, where its first segments are missing.
    pub(crate) missing_front: Option<(u64, u64)>,
    /// The end of the log is damaged, and nothing says how much was there.
    pub(crate) end_lost: bool,
    /// Set by recovery: the log can be read but not continued.
    pub(crate) read_only: bool,
    pub(crate) waiting_checkpoints: BTreeMap<u64, (EntryId, Bytes)>,
    /// First index after each checkpoint that has a file.
    pub(crate) checkpoints: BTreeSet<u64>,
    pub(crate) retiring: Vec<Arc<Segment>>,
}

impl View {
    /// First index that is (or would be) held.
    pub(crate) fn first_index(&self) -> u64 {
        match self.words.purged {
            Some(purged) => purged.index + 1,
            None => match self.missing_front {
                Some((index, _)) => index,
                None => self.parts.first().map_or(0, Part::first_index),
            },
        }
    }

    /// First offset that is held; the next one if there is none.
    pub(crate) fn first_offset(&self) -> u64 {
        match (self.words.purged, self.missing_front, self.parts.first()) {
            (Some(_), ..) => self.words.first_offset,
            (None, Some((_, offset)), _) => offset,
            (None, None, Some(part)) => part.segment.header.base_offset,
            (None, None, None) => self.next_offset,
        }
    }

    /// The part that holds (or would hold) an index.
    pub(crate) fn part_of(&self, index: u64) -> Option<usize> {
        self.parts
            .partition_point(|part| part.first_index() <= index)
            .checked_sub(1)
    }
}

pub(crate) struct LogInner {
    pub(crate) id: RaftId,
    pub(crate) shared: Arc<Shared>,
    /// Orders everything that changes the log.
    pub(crate) append: Mutex<()>,
    pub(crate) view: Mutex<View>,
    /// The state file and the version of the words in it.
    pub(crate) state: Mutex<(StateFile, u64)>,
    pub(crate) removed: AtomicBool,
    /// Something was appended or changed since the last clean close.
    pub(crate) dirty: AtomicBool,
}

impl LogInner {
    pub(crate) fn new(
        id: RaftId,
        shared: Arc<Shared>,
        (view, state): (View, StateFile),
        dirty: bool,
    ) -> LogInner {
        let saved = view.durable.version;
        LogInner {
            id,
            shared,
            append: Mutex::default(),
            view: Mutex::new(view),
            state: Mutex::new((state, saved)),
            removed: AtomicBool::new(false),
            dirty: AtomicBool::new(dirty),
        }
    }

    pub(crate) fn dir(&self) -> String {
        format!("logs/{}", self.id)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Changes are allowed: the store is open and the log neither removed nor damaged.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        self.shared.check_open()?;
        if self.is_removed() {
            return Err(Error::Closed {
                cause: format!("log {} was removed", self.id),
            });
        }
        let view = self.view.lock();
        match view.damage.first().filter(|_| view.read_only) {
            Some(damage) => Err(Error::corrupt(&damage.file, damage.position, &damage.why)),
            None => Ok(()),
        }
    }

    /// Called by the engine when a request is durable.
    pub(crate) fn note_durable(self: &Arc<Self>, work: &Work) {
        let mut view = self.view.lock();
        match work {
            Work::Words(words) => {
                if words.version > view.durable.version {
                    view.durable = words.clone();
                }
            }
            Work::Append {
                last_index,
                generation,
                len,
                ..
            } => {
                if *len == 0 || *generation != view.words.generation {
                    return;
                }
                view.synced = view.synced.max(Some(*last_index));
                let due = view.waiting_checkpoints.first_key_value();
                if due.is_some_and(|(index, _)| index <= last_index) {
                    drop(view);
                    self.shared.drain.submit(Job::Checkpoints(self.clone()));
                }
            }
        }
    }

    /// Makes a segment durable up to `end`, and its name.
    pub(crate) fn sync_segment(&self, segment: &Segment, end: u64) -> Result<(), Error> {
        if segment.synced_to.load(Ordering::Acquire) < end {
            segment
                .file
                .handle
                .sync()
                .map_err(|e| Error::io(&segment.name(), "sync", e))?;
            segment.note_synced(end);
        }
        if !segment.anchored.load(Ordering::Acquire) {
            self.sync_dir()?;
            segment.anchored.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Syncs what the journal covers already, so that its drain finds little to do.
    pub(crate) fn sync_ahead(&self, segment: &Segment, end: u64) -> Result<(), Error> {
        if self.is_removed() {
            return Ok(());
        }
        self.sync_segment(segment, end)
    }

    pub(crate) fn sync_dir(&self) -> Result<(), Error> {
        let dir = self.dir();
        match self.shared.disk.sync_dir(&dir) {
            Err(error) if !self.is_removed() => Err(Error::io(&dir, "sync directory", error)),
            // The directory of a removed log is gone; nobody asks what was in it.
            _ => Ok(()),
        }
    }

    /// Makes all that is published durable in the segments and saves the words that are durable in
    /// the journal. With `tail`, also where the log ends (for a start after a clean close).
    pub(crate) fn drain(&self, tail: bool) -> Result<(), Error> {
        if self.is_removed() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let (parts, mut words) = {
            let view = self.view.lock();
            let mut words = Words::clone(&view.durable);
            words.synced = view.synced;
            if tail && let (Some(part), Some(last)) = (view.parts.last(), view.last) {
                words.tail = Some(Tail {
                    salt: part.segment.header.salt,
                    position: part.end,
                    last,
                    next_offset: view.next_offset,
                    max_timestamp: part.max_timestamp,
                });
            }
            (view.parts.clone(), words)
        };
        for part in &parts {
            self.sync_segment(&part.segment, part.end)?;
        }
        if tail || words.version > state.1 {
            // A slot is told from an older one by its version alone.
            words.version = words.version.max(state.1 + u64::from(tail));
            self.save_state(&mut state, &words)?;
        }
        Ok(())
    }

    /// The last drain of a clean close: everything durable where it belongs, the tail noted, the
    /// index of the active segment kept. A log that nobody touched is as it was.
    pub(crate) fn settle(self: &Arc<Self>) -> Result<(), Error> {
        let next = self.view.lock().next.take();
        if let Some(next) = next {
            next.allow_reuse();
        }
        self.write_checkpoints()?;
        self.retire_purged()?;
        if !self.dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        self.drain(true)?;
        let active = self
            .view
            .lock()
            .parts
            .last()
            .map(|part| part.segment.clone());
        match active {
            Some(segment) => self.write_index(&segment),
            None => Ok(()),
        }
    }

    /// The log was removed: its files are in a directory that is about to go.
    pub(crate) fn release_files(&self, _dir: &str) {
        let mut view = self.view.lock();
        for part in view.parts.drain(..) {
            self.shared.windows.forget(part.segment.header.salt);
            part.segment.file.forget();
        }
        for segment in view.retiring.drain(..) {
            segment.file.forget();
        }
        if let Some(next) = view.next.take() {
            next.allow_reuse();
        }
    }

    fn save_state(&self, state: &mut (StateFile, u64), words: &Words) -> Result<(), Error> {
        match state.0.save(self.shared.disk.as_ref(), self.id, words) {
            Err(error) if !self.is_removed() => Err(error),
            _ => {
                state.1 = words.version;
                Ok(())
            }
        }
    }

    /// Changes the words and queues them. The caller holds the append lock.
    pub(crate) fn submit_words(
        self: &Arc<Self>,
        done: Done,
        change: impl FnOnce(&mut View),
    ) -> Result<(), Error> {
        let words = {
            let mut view = self.view.lock();
            change(&mut view);
            view.words.version += 1;
            view.words.synced = view.synced;
            Arc::new(view.words.clone())
        };
        self.dirty.store(true, Ordering::Release);
        self.shared.engine.submit(Request {
            log: self.clone(),
            work: Work::Words(words),
            done,
        });
        Ok(())
    }

    /// Changes the words and waits until they are durable.
    pub(crate) fn save_words(
        self: &Arc<Self>,
        change: impl FnOnce(&mut View),
    ) -> Result<(), Error> {
        let waiter = Arc::new(Waiter::default());
        let signal = waiter.clone();
        self.submit_words(Box::new(move |outcome| signal.set(outcome)), change)?;
        waiter.wait(&self.shared)
    }
}

/// Waits for one completion.
#[derive(Default)]
pub(crate) struct Waiter {
    outcome: Mutex<Option<Result<(), Error>>>,
    wake: parking_lot::Condvar,
}

impl Waiter {
    pub(crate) fn set(&self, outcome: Result<(), Error>) {
        *self.outcome.lock() = Some(outcome);
        self.wake.notify_all();
    }

    /// Without threads the caller is the engine.
    pub(crate) fn wait(&self, shared: &Shared) -> Result<(), Error> {
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            if shared.options.manual {
                drop(outcome);
                crate::sync_engine::round(shared);
                outcome = self.outcome.lock();
            } else {
                self.wake.wait(&mut outcome);
            }
        }
    }
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

impl View {
    /// Puts a cut into the words. From now on nothing after it counts as durable, and completions
    /// of earlier appends say nothing any more (their generation is over).
    pub(crate) fn cut_words(&mut self, cut: Cut) {
        self.words.generation += 1;
        self.words.cut = Some(cut);
        let keep = cut.keep.map(|keep| keep.index);
        self.synced = self.synced.min(keep);
    }
}
