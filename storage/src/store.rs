//! `Store`: the composition root of a node's logs. It opens the directory, recovers, starts the two
//! threads, and ends them.
//!
//! ```text
//! node                      whose directory this is, format version
//! lock                      held while a process has the store open
//! clean                     there only after a clean close
//! journal/<n>.jrn           the shared redo journal
//! pool/<n>.free             files for future segments
//! logs/<id>/state           the log's durable words
//! logs/<id>/<index>.seg     entries from this index on
//! logs/<id>/<index>.idx     sparse index of that segment, a hint
//! logs/<id>/<index>.ckpt    state before this index
//! ```
//!
//! What is promised: `open` leaves every log as it was acknowledged; the first failed write or sync
//! closes the store. What lives here must never know: Raft, topics, sockets.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::drain::{self, Drain, Job};
use crate::entry::RaftId;
use crate::error::Error;
use crate::index::IndexSlot;
use crate::journal::{self, Journal};
use crate::log::{Damage, Log, LogInner, View};
use crate::node;
use crate::pool::{Budget, POOL_DIR, Pool};
use crate::recovery;
use crate::segment::Segment;
use crate::state_file::StateFile;
use crate::sync_engine::{self, SyncEngine};
use crate::windows::Windows;

/// The cause that is told after a close in order.
const CLOSED: &str = "the store was closed";
/// How long a close waits for a change that has begun. Only a thread that panicked takes longer.
const FENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Sparse indexes of sealed segments that are kept in memory.
const LOADED_INDEXES: usize = 64;

/// How a store behaves. `Default` is right for production.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes of a journal file (the first one is smaller, so that a start is fast).
    pub journal_file_bytes: u64,
    /// Bytes of a log's first segment.
    pub first_segment_bytes: u64,
    /// Segments double up to this many bytes.
    pub max_segment_bytes: u64,
    /// From this many waiting bytes of one log on, its segment is synced directly.
    pub direct_sync_bytes: u64,
    /// A segment is synced in the background each time the journal has taken this many bytes of it.
    pub sync_ahead_bytes: u64,
    /// Reads within this many bytes of the end are served from the map.
    pub hot_bytes: u64,
    /// Space of the file system that is never used, in bytes.
    pub min_free_bytes: u64,
    /// Bound of all bytes this store takes on disk.
    pub max_total_bytes: Option<u64>,
    /// Largest payload of an entry, in bytes.
    pub max_entry_bytes: u32,
    /// No threads: the caller runs `Store::step()`.
    pub manual: bool,
    /// Called once, with the first failed write or sync.
    pub on_fatal: Arc<dyn Fn(&Error) + Send + Sync>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            journal_file_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            max_segment_bytes: 128 << 20,
            direct_sync_bytes: 512 << 10,
            sync_ahead_bytes: 1 << 20,
            hot_bytes: 64 << 20,
            min_free_bytes: 64 << 20,
            max_total_bytes: None,
            max_entry_bytes: 64 << 20,
            manual: false,
            on_fatal: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("journal_file_bytes", &self.journal_file_bytes)
            .field("first_segment_bytes", &self.first_segment_bytes)
            .field("max_segment_bytes", &self.max_segment_bytes)
            .field("direct_sync_bytes", &self.direct_sync_bytes)
            .field("max_total_bytes", &self.max_total_bytes)
            .finish_non_exhaustive()
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
    /// Median of the last 1,024 rounds, in microseconds.
    pub sync_p50_us: u64,
    /// 99th percentile of the last 1,024 rounds, in microseconds.
    pub sync_p99_us: u64,
    /// Time of all rounds together, in microseconds.
    pub sync_total_us: u64,
    /// Rounds by the first of [`SYNC_BOUNDS_US`](crate::SYNC_BOUNDS_US) that they kept.
    pub syncs_by_bound: [u64; crate::SYNC_BOUNDS_US.len() + 1],
    /// Bytes that may still be used, within all limits.
    pub free_bytes: u64,
    /// Bytes taken on disk.
    pub used_bytes: u64,
}

/// What the threads and the logs share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: StoreOptions,
    pub(crate) pool: Arc<Pool>,
    pub(crate) journal: Mutex<Journal>,
    pub(crate) engine: SyncEngine,
    pub(crate) drain: Drain,
    pub(crate) windows: Windows,
    loaded: Mutex<VecDeque<Weak<Segment>>>,
    failed: AtomicBool,
    /// `close` has begun: what was taken is finished, nothing more is taken.
    closing: AtomicBool,
    cause: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Closed {
            cause: self.cause.lock().clone().unwrap_or_default(),
        })
    }

    /// Whether changes are still taken.
    pub(crate) fn check_taking(&self) -> Result<(), Error> {
        self.check_open()?;
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::Closed {
                cause: CLOSED.into(),
            });
        }
        Ok(())
    }

    /// The first failure closes the store; later ones change nothing.
    pub(crate) fn fail(&self, error: &Error) {
        if self.close_with(error.to_string()) {
            (self.options.on_fatal)(error);
        }
    }

    /// True if the store was open until now.
    fn close_with(&self, cause: String) -> bool {
        let mut known = self.cause.lock();
        let first = known.is_none();
        if first {
            *known = Some(cause);
            self.failed.store(true, Ordering::Release);
        }
        first
    }

    /// Why the store is closed, or this error if it is still open.
    pub(crate) fn first_cause(&self, error: &Error) -> String {
        self.cause
            .lock()
            .clone()
            .unwrap_or_else(|| error.to_string())
    }

    /// Keeps the number of loaded indexes bounded.
    pub(crate) fn note_loaded_index(&self, segment: &Arc<Segment>) {
        let oldest = {
            let mut loaded = self.loaded.lock();
            loaded.push_back(Arc::downgrade(segment));
            if loaded.len() > LOADED_INDEXES {
                loaded.pop_front()
            } else {
                None
            }
        };
        if let Some(segment) = oldest.and_then(|oldest| oldest.upgrade()) {
            let mut slot = segment.index.lock();
            if matches!(*slot, IndexSlot::Loaded(_)) {
                *slot = IndexSlot::Absent;
            }
        }
    }

    /// Removes a directory of plain files.
    pub(crate) fn remove_tree(&self, dir: &str) -> Result<(), Error> {
        recovery::remove_tree(self.disk.as_ref(), dir)
    }
}

/// Ends the threads when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    logs: Mutex<BTreeMap<RaftId, Arc<LogInner>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    journal_damage: Vec<Damage>,
    closed: AtomicBool,
    _lock: Box<dyn Any + Send + Sync>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Without threads, dropping is what a crash looks like; what waits is let go.
        if self.shared.options.manual {
            self.shared.journal.lock().forget();
            self.shared.engine.forget();
            self.shared.drain.forget();
        } else {
            self.close();
        }
    }
}

/// All logs of a node, on one disk. A cheap handle.
#[derive(Clone)]
pub struct Store {
    owner: Arc<Owner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({} logs)", self.owner.logs.lock().len())
    }
}

impl Store {
    /// Opens or creates a store: locks the directory, checks whose it is, replays the journal,
    /// recovers every log and starts the threads.
    ///
    /// # Errors
    /// `Locked`, `Foreign`, `Io`, `Full` (no space for the journal). Damage in a log is not an error
    /// here: see `Log::damage`.
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Store, Error> {
        let lock = disk.lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked {
                path: "lock".into(),
            },
            _ => Error::io("lock", "lock", error),
        })?;
        node::check_or_create(disk.as_ref())?;
        let budget = Budget {
            min_free_bytes: options.min_free_bytes,
            max_total_bytes: options.max_total_bytes,
            max_spare_bytes: options.max_segment_bytes * 2,
        };
        let clean = node::is_clean(disk.as_ref())?;
        let pool = Pool::open(disk.clone(), budget, clean)?;
        let mut found = journal::find_files(disk.as_ref(), clean)?;
        let recovered = recovery::run(&disk, &pool, &mut found, clean)?;
        if clean {
            node::forget_clean(disk.as_ref())?;
        }
        let journal = begin_journal(&disk, &pool, found, options.journal_file_bytes)?;
        let shared = Arc::new(Shared {
            disk,
            options,
            pool,
            journal: Mutex::new(journal),
            engine: SyncEngine::new(),
            drain: Drain::new(),
            windows: Windows::default(),
            loaded: Mutex::default(),
            failed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            cause: Mutex::default(),
        });
        let logs = recovered.logs.into_iter().map(|(id, found)| {
            (
                id,
                Arc::new(LogInner::new(id, shared.clone(), found, !clean)),
            )
        });
        let owner = Owner {
            logs: Mutex::new(logs.collect()),
            threads: Mutex::default(),
            journal_damage: recovered.journal_damage,
            closed: AtomicBool::new(false),
            shared,
            _lock: lock,
        };
        let store = Store {
            owner: Arc::new(owner),
        };
        store.owner.start()?;
        Ok(store)
    }

    /// The logs there are.
    pub fn logs(&self) -> Vec<RaftId> {
        self.owner.logs.lock().keys().copied().collect()
    }

    /// Whether there is room for the first segments of so many new logs, as of now.
    ///
    /// # Errors
    /// `Full`.
    pub fn check_room_for_logs(&self, count: u64) -> Result<(), Error> {
        let shared = &self.owner.shared;
        let wanted = shared.options.first_segment_bytes.saturating_mul(count);
        shared.pool.check_room(wanted)
    }

    /// Creates logs, durable on return; one sync for all of them. A log that exists is opened.
    ///
    /// # Errors
    /// `Full` (nothing is created), `Io`, `Closed`.
    pub fn create_logs(&self, ids: &[RaftId]) -> Result<Vec<Log>, Error> {
        let shared = &self.owner.shared;
        shared.check_open()?;
        let mut logs = self.owner.logs.lock();
        shared.check_taking()?;
        let mut states = BTreeMap::new();
        for id in ids.iter().filter(|id| !logs.contains_key(id)) {
            let dir = format!("logs/{id}");
            shared
                .disk
                .make_dir(&dir)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::StorageFull => Error::Full {
                        wanted: 1,
                        free: shared.pool.free_bytes(),
                    },
                    _ => Error::io(&dir, "create directory", error),
                })?;
            states.insert(*id, StateFile::prepare(shared.disk.as_ref(), *id)?);
        }
        if !states.is_empty() {
            let synced = shared.disk.sync_dir("logs");
            let synced = synced.map_err(|e| Error::io("logs", "sync directory", e));
            synced.inspect_err(|error| shared.fail(error))?;
        }
        let handles = ids.iter().map(|id| {
            let state = states.remove(id).unwrap_or_else(StateFile::new);
            let new = || {
                let blank = (View::default(), state);
                Arc::new(LogInner::new(*id, shared.clone(), blank, false))
            };
            Log {
                inner: logs.entry(*id).or_insert_with(new).clone(),
            }
        });
        Ok(handles.collect())
    }

    /// A handle of a log.
    ///
    /// # Errors
    /// `Invalid` if there is no such log; `Closed`.
    pub fn open_log(&self, id: RaftId) -> Result<Log, Error> {
        self.owner.shared.check_open()?;
        let logs = self.owner.logs.lock();
        match logs.get(&id) {
            Some(inner) => Ok(Log {
                inner: inner.clone(),
            }),
            None => Err(Error::invalid("log id", id, logs.len() as u64)),
        }
    }

    /// Removes a log, durable on return. Readers that hold pieces of it keep them.
    ///
    /// # Errors
    /// `Invalid` if there is no such log; `Io`, `Closed`.
    pub fn remove_log(&self, id: RaftId) -> Result<(), Error> {
        let shared = &self.owner.shared;
        shared.check_open()?;
        let log = self.open_log(id)?.inner;
        let _order = log.append.lock();
        // Marked first: whoever meets the missing directory knows why.
        log.removed.store(true, Ordering::Release);
        let gone = format!("logs/{id}.gone");
        let renamed = shared.disk.rename(&log.dir(), &gone);
        let done = renamed.and_then(|()| shared.disk.sync_dir("logs"));
        done.map_err(|e| Error::io(&gone, "remove log", e))
            .inspect_err(|e| shared.fail(e))?;
        self.owner.logs.lock().remove(&id);
        log.release_files(&gone);
        shared.drain.submit(Job::RemoveDir(gone));
        Ok(())
    }

    /// Counters and space.
    pub fn stats(&self) -> StoreStats {
        let shared = &self.owner.shared;
        let counters = shared.engine.counters.lock().clone();
        StoreStats {
            syncs: counters.rounds,
            journal_syncs: counters.journal_syncs,
            direct_syncs: counters.direct_syncs,
            sync_p50_us: counters.quantile_us(50),
            sync_p99_us: counters.quantile_us(99),
            sync_total_us: counters.total_us,
            syncs_by_bound: counters.by_bound,
            free_bytes: shared.pool.free_bytes(),
            used_bytes: shared.pool.used_bytes(),
        }
    }

    /// Places of the journal that were durable once and were not whole when the store was opened.
    /// What they held may be missing from any log (a vote, too). Their files are set aside as
    /// `journal/<n>.bad` and reported at every start until somebody moves them away.
    pub fn journal_damage(&self) -> &[Damage] {
        &self.owner.journal_damage
    }

    /// Without threads: one round of the engine, else one job of the background, else the drain of
    /// what the journal holds. True if there was work.
    pub fn step(&self) -> bool {
        let shared = &self.owner.shared;
        if sync_engine::round(shared) || drain::step(shared) {
            return true;
        }
        if shared.check_open().is_err() || shared.journal.lock().is_blank() {
            return false;
        }
        sync_engine::rest(shared);
        true
    }

    /// Without threads: one round of the engine only.
    pub fn step_engine(&self) -> bool {
        sync_engine::round(&self.owner.shared)
    }

    /// Finishes waiting syncs, drains the journal, notes the clean close, stops the threads. Later
    /// calls answer `Closed`.
    pub fn close(&self) {
        self.owner.close();
    }
}

impl Owner {
    fn start(&self) -> Result<(), Error> {
        if self.shared.options.manual {
            return Ok(());
        }
        let start = || -> std::io::Result<Vec<JoinHandle<()>>> {
            Ok(vec![
                sync_engine::spawn(self.shared.clone())?,
                drain::spawn(self.shared.clone())?,
            ])
        };
        *self.threads.lock() = start().map_err(|e| Error::io("", "start thread", e))?;
        Ok(())
    }

    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = &self.shared;
        // Changes that have begun are finished, later ones see the flag: what is settled below is
        // all there is.
        shared.closing.store(true, Ordering::Release);
        let logs: Vec<_> = self.logs.lock().values().cloned().collect();
        for log in logs {
            drop(log.append.try_lock_for(FENCE));
        }
        shared.engine.stop();
        shared.drain.stop();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has left the store failed; nothing more is to be done.
            if thread.join().is_err() {
                shared.close_with("a storage thread panicked".into());
            }
        }
        let logs = std::mem::take(&mut *self.logs.lock());
        if shared.check_open().is_ok()
            && let Err(error) = self.settle(&logs)
        {
            shared.fail(&error);
        }
        shared.close_with(CLOSED.into());
        // Requests that came after the threads' end are answered too, now and later.
        shared.engine.end();
        sync_engine::round(shared);
        shared.windows.clear();
    }

    /// Makes everything durable where it belongs, so that the next start reads no journal.
    fn settle(&self, logs: &BTreeMap<RaftId, Arc<LogInner>>) -> Result<(), Error> {
        let shared = &self.shared;
        while sync_engine::round(shared) || drain::step(shared) {}
        shared.check_open()?;
        shared.journal.lock().switch();
        drain::drain_full(shared)?;
        for log in logs.values() {
            log.settle()?;
        }
        shared.check_open()?;
        shared
            .disk
            .sync_dir(POOL_DIR)
            .map_err(|e| Error::io(POOL_DIR, "sync directory", e))?;
        node::note_clean(shared.disk.as_ref())
    }
}

/// What a damaged file of the journal held may be nowhere else: it is kept for whoever repairs.
fn set_aside(disk: &dyn Disk, name: &str) -> Result<(), Error> {
    let aside = name.replace(".jrn", &format!(".{}", journal::ASIDE));
    let renamed = disk
        .rename(name, &aside)
        .and_then(|()| disk.sync_dir(journal::JOURNAL_DIR));
    renamed.map_err(|e| Error::io(name, "set aside", e))
}

/// The journal begins anew: what recovery found in it is durable in the logs.
fn begin_journal(
    disk: &Arc<dyn Disk>,
    pool: &Arc<Pool>,
    found: journal::Found,
    file_bytes: u64,
) -> Result<Journal, Error> {
    let mut journal = Journal::new(disk.clone(), &found, file_bytes);
    pool.count(found.aside_bytes);
    for file in &found.files {
        if found.is_damaged(&file.name) {
            set_aside(disk.as_ref(), &file.name)?;
            pool.count(file.capacity);
            continue;
        }
        if file.capacity < journal::FIRST_FILE_BYTES {
            // Cut by somebody while nothing was in it: no frame may fit into what is left.
            let removed = disk
                .remove(&file.name)
                .and_then(|()| disk.sync_dir(journal::JOURNAL_DIR));
            removed.map_err(|e| Error::io(&file.name, "remove", e))?;
            continue;
        }
        pool.count(file.capacity);
        journal.add(file.handle.clone(), file.name.clone(), file.capacity)?;
    }
    if journal.wants_first() {
        let name = journal.fresh_name();
        let bytes = journal::FIRST_FILE_BYTES;
        let handle = journal::create_file(disk.as_ref(), pool, &name, bytes)?;
        journal.add(handle, name, bytes)?;
    }
    Ok(journal)
}
