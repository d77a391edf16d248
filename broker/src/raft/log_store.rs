//! openraft's log storage over one `aqueduct_storage::Log`.
//!
//! Promises what openraft asks for: entries are readable when `append` returns, completions
//! come in order and only after the sync, votes and appends are never reordered (both pass the
//! same log in call order). Entries that are not applied yet stay in memory (the *tail*), so
//! that applying what was just written reads nothing back from the disk.
//!
//! Must never know what a payload means.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

use aqueduct_storage::{Log, NewEntry};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use openraft::{
    OptionalSend, RaftLogReader,
    entry::RaftEntry as _,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, decode_entry, decode_vote, encode_payload,
    encode_vote, entry_id, log_id,
};

/// Bytes of entries that one read for replication or re-application returns at most.
const READ_BYTES: usize = 2 << 20;

/// Entries that were appended and not yet applied, in index order without holes.
#[derive(Default)]
pub(crate) struct Tail {
    entries: VecDeque<RaftEntry>,
}

impl Tail {
    /// Forgets everything up to and including `index`: it has been applied.
    pub(crate) fn release(&mut self, index: u64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.index() <= index)
        {
            self.entries.pop_front();
        }
    }

    fn cut_from(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.index() >= index)
        {
            self.entries.pop_back();
        }
    }

    /// The entries of `range` if the tail holds the first of them.
    fn read(&self, range: &Range<u64>) -> Option<Vec<RaftEntry>> {
        let first = self.entries.front()?.index();
        if range.start < first {
            return None;
        }
        let skip = usize::try_from(range.start - first).ok()?;
        let take = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
        Some(self.entries.iter().skip(skip).take(take).cloned().collect())
    }
}

/// The log of one Raft group, as openraft uses it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    tail: Arc<Mutex<Tail>>,
}

impl LogStore {
    pub(crate) fn new(log: Log) -> LogStore {
        LogStore {
            log,
            tail: Arc::default(),
        }
    }

    /// The shared tail, which the machine releases as it applies.
    pub(crate) fn tail(&self) -> Arc<Mutex<Tail>> {
        self.tail.clone()
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let log_end = self.log.last_id().map_or(0, |last| last.index + 1);
        start.max(self.log.first_index())..end.min(log_end)
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<RaftEntry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.tail.lock().read(&range) {
            return Ok(entries);
        }
        let entries = self
            .log
            .read_entries(range, max_bytes)
            .map_err(io::Error::other)?;
        entries.into_iter().map(decode_entry).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let mut range = self.bounds(&range);
        let mut entries = Vec::new();
        while !range.is_empty() {
            let more = self.read(range.clone(), READ_BYTES)?;
            let Some(last) = more.last() else { break };
            range.start = last.index() + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    /// Read by read: a start applies everything since the last checkpoint, which need not fit
    /// into memory.
    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend {
        let begin = (self.clone(), self.bounds(&range));
        let reads = stream::try_unfold(
            begin,
            |(store, mut range): (LogStore, Range<u64>)| async move {
                let more = store.read(range.clone(), READ_BYTES)?;
                let Some(last) = more.last() else {
                    return Ok::<_, io::Error>(None);
                };
                range.start = last.index() + 1;
                let entries = stream::iter(more.into_iter().map(Ok));
                Ok(Some((entries, (store, range))))
            },
        );
        reads.try_flatten().boxed()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let range = self.bounds(&(start..end));
        self.read(range, READ_BYTES)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        self.log.vote().map(|bytes| decode_vote(&bytes)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.log.purged_id().map(log_id);
        let last_log_id = self.log.last_id().map(log_id).or(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (done, synced) = oneshot::channel();
        let done = Box::new(move |result| {
            // The receiver is only gone when the node is going down.
            let _ = done.send(result);
        });
        self.log
            .save_vote(encode_vote(vote), done)
            .map_err(io::Error::other)?;
        match synced.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the sync engine stopped")),
        }
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut new = Vec::new();
        {
            let mut tail = self.tail.lock();
            for entry in entries {
                let id = entry_id(&entry.log_id);
                let (kind, flags, payload) = encode_payload(entry.payload.clone());
                new.push(NewEntry {
                    id,
                    kind,
                    flags,
                    payload,
                });
                tail.entries.push_back(entry);
            }
        }
        let done = Box::new(move |result: Result<(), aqueduct_storage::Error>| {
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.log.append(new, done).map_err(io::Error::other)?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let last = last_log_id.map(|id| id.index);
        self.tail.lock().cut_from(last.map_or(0, |index| index + 1));
        self.log.truncate_after(last).map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.tail.lock().release(upto.index);
        if upto.index < self.log.first_index() {
            // The log has never held it, or holds it no longer.
            return Ok(());
        }
        self.log.purge(entry_id(&upto)).map_err(io::Error::other)
    }
}
