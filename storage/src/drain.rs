//! The background thread: it drains journal files (syncs what they cover, saves the words, gives
//! the file back), prepares the next segments, writes checkpoints and sparse indexes, and gives the
//! files of retired segments back to the pool.
//!
//! What is promised: a journal file is used again only when every segment and every word it covers
//! is durable elsewhere; no lock that an append needs is held during a sync. A simulation calls
//! `step` itself. What lives here must never know: Raft, how requests are answered.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::journal;
use crate::log::LogInner;
use crate::segment::Segment;
use crate::store::Shared;

/// Something to do in the background.
pub(crate) enum Job {
    /// Drain the journal files that are full.
    Journal,
    /// Create another journal file.
    MoreJournal,
    /// Sync a segment up to a position that the journal covers already.
    SyncAhead(Arc<LogInner>, Arc<Segment>, u64),
    /// Make the next segment of a log ready.
    Prepare(Arc<LogInner>),
    /// Write the sparse index of a segment that takes no more entries.
    Seal(Arc<LogInner>, Arc<Segment>),
    /// Write the checkpoints of a log that have become durable.
    Checkpoints(Arc<LogInner>),
    /// Give back the files of segments that were purged.
    Retire(Arc<LogInner>),
    /// Remove the directory of a log that was removed.
    RemoveDir(String),
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    journal_asked: bool,
    more_journal_asked: bool,
    closing: bool,
}

pub(crate) struct Drain {
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// One drains at a time; the engine does it itself when it runs out of journal.
    one: Mutex<()>,
}

impl Drain {
    pub(crate) fn new() -> Drain {
        Drain {
            jobs: Mutex::default(),
            wake: Condvar::new(),
            one: Mutex::default(),
        }
    }

    pub(crate) fn submit(&self, job: Job) {
        let mut jobs = self.jobs.lock();
        let asked = match &job {
            Job::Journal => std::mem::replace(&mut jobs.journal_asked, true),
            Job::MoreJournal => std::mem::replace(&mut jobs.more_journal_asked, true),
            _ => false,
        };
        if !asked {
            jobs.queue.push_back(job);
            self.wake.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.jobs.lock().closing = true;
        self.wake.notify_all();
    }

    /// Lets go of what waits.
    pub(crate) fn forget(&self) {
        let queue = std::mem::take(&mut self.jobs.lock().queue);
        drop(queue);
    }

    fn pop(jobs: &mut Jobs) -> Option<Job> {
        let job = jobs.queue.pop_front()?;
        match &job {
            Job::Journal => jobs.journal_asked = false,
            Job::MoreJournal => jobs.more_journal_asked = false,
            _ => {}
        }
        Some(job)
    }

    fn try_next(&self) -> Option<Job> {
        Self::pop(&mut self.jobs.lock())
    }

    fn wait_next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = Self::pop(&mut jobs) {
                return Some(job);
            }
            if jobs.closing {
                return None;
            }
            self.wake.wait(&mut jobs);
        }
    }
}

/// Starts the background thread.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let body = move || {
        while let Some(job) = shared.drain.wait_next() {
            perform(&shared, job);
        }
    };
    std::thread::Builder::new()
        .name("aqueduct-drain".into())
        .spawn(body)
}

/// One job on the caller's thread; true if there was one.
pub(crate) fn step(shared: &Shared) -> bool {
    match shared.drain.try_next() {
        Some(job) => {
            perform(shared, job);
            true
        }
        None => false,
    }
}

/// Does a job. A failed write or sync closes the store; a full disk does not.
fn perform(shared: &Shared, job: Job) {
    if shared.check_open().is_err() {
        return;
    }
    let outcome = match job {
        Job::Journal => drain_full(shared),
        Job::MoreJournal => more_journal(shared),
        Job::SyncAhead(log, segment, end) => log.sync_ahead(&segment, end),
        Job::Prepare(log) => log.prepare_next(),
        Job::Seal(log, segment) => log.write_index(&segment),
        Job::Checkpoints(log) => log.write_checkpoints(),
        Job::Retire(log) => log.retire_purged(),
        Job::RemoveDir(path) => shared.remove_tree(&path),
    };
    shared.pool.tidy();
    match outcome {
        Ok(()) | Err(Error::Full { .. }) => {}
        Err(error) => shared.fail(&error),
    }
}

/// Drains every journal file that is full.
pub(crate) fn drain_full(shared: &Shared) -> Result<(), Error> {
    let _one = shared.drain.one.lock();
    loop {
        let Some(full) = shared.journal.lock().next_full() else {
            return Ok(());
        };
        for log in full.covered() {
            log.drain(false)?;
        }
        // Whoever failed meanwhile may have been told of what this file covers.
        shared.check_open()?;
        shared.journal.lock().recycle(full)?;
    }
}

/// The engine has no journal file left: it drains the oldest itself (or waits for whoever does).
pub(crate) fn make_room(shared: &Shared) -> Result<(), Error> {
    drain_full(shared)
}

fn more_journal(shared: &Shared) -> Result<(), Error> {
    let name = {
        let mut journal = shared.journal.lock();
        if !journal.wants_file() {
            return Ok(());
        }
        journal.fresh_name()
    };
    let bytes = shared
        .options
        .journal_file_bytes
        .max(journal::FIRST_FILE_BYTES);
    let handle = journal::create_file(shared.disk.as_ref(), &shared.pool, &name, bytes)?;
    shared.journal.lock().add(handle, name, bytes)
}
