//! The store: all logs of a node.

use std::sync::Arc;

use crate::disk::Disk;
use crate::entry::RaftId;
use crate::error::Error;
use crate::log::Log;

/// How a store behaves. `Default` is right for production.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes of a journal file.
    pub journal_file_bytes: u64,
    /// Bytes of a log's first segment.
    pub first_segment_bytes: u64,
    /// Segments double up to this many bytes.
    pub max_segment_bytes: u64,
    /// From this many waiting bytes of one log on, its segment is synced directly.
    pub direct_sync_bytes: u64,
    /// Reads within this distance of the end are served from the map.
    pub hot_bytes: u64,
    /// Space of the file system that is never used.
    pub min_free_bytes: u64,
    /// Bound of all bytes this store takes on disk.
    pub max_total_bytes: Option<u64>,
    /// Largest payload of an entry, in bytes.
    pub max_entry_bytes: u32,
    /// No threads: the caller runs `Store::step()`.
    pub manual: bool,
    /// Called once with the first failed write or sync.
    pub on_fatal: Arc<dyn Fn(&Error) + Send + Sync>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            journal_file_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            max_segment_bytes: 128 << 20,
            direct_sync_bytes: 256 << 10,
            hot_bytes: 64 << 20,
            min_free_bytes: 64 << 20,
            max_total_bytes: None,
            max_entry_bytes: 64 << 20,
            manual: false,
            on_fatal: Arc::new(|_| {}),
        }
    }
}

/// What a store has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Sync rounds done.
    pub syncs: u64,
    /// Journal writes made durable.
    pub journal_syncs: u64,
    /// Segments synced directly.
    pub direct_syncs: u64,
    /// Median of the last rounds, in microseconds.
    pub sync_p50_us: u64,
    /// 99th percentile of the last rounds, in microseconds.
    pub sync_p99_us: u64,
    /// Bytes that may still be used.
    pub free_bytes: u64,
    /// Bytes taken on disk.
    pub used_bytes: u64,
}

/// All logs of a node, on one disk. A cheap handle.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens or creates a store.
    pub fn open(_disk: Arc<dyn Disk>, _options: StoreOptions) -> Result<Store, Error> {
        Ok(Store {})
    }
    /// The logs there are.
    pub fn logs(&self) -> Vec<RaftId> {
        Vec::new()
    }
    /// Creates logs, durable on return.
    pub fn create_logs(&self, _ids: &[RaftId]) -> Result<Vec<Log>, Error> {
        Err(Error::Closed { cause: "not open".into() })
    }
    /// A handle of a log.
    pub fn open_log(&self, _id: RaftId) -> Result<Log, Error> {
        Err(Error::Closed { cause: "not open".into() })
    }
    /// Removes a log, durable on return.
    pub fn remove_log(&self, _id: RaftId) -> Result<(), Error> {
        Err(Error::Closed { cause: "not open".into() })
    }
    /// Counters.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
    /// `manual` only: runs the bodies of the engine and of the drain once; true if work was done.
    pub fn step(&self) -> bool {
        false
    }
    /// Finishes waiting syncs, drains the journal, stops the threads.
    pub fn close(&self) {}
}
