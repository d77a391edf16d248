//! `LogInner`: what every handle of a log shares, and how it becomes durable.
//!
//! Drains, settling and words go through here. It must never know where entries stand in a
//! segment (`append.rs`, `locate.rs`) nor what is cut from it (`cut.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::View;
use crate::drain::Job;
use crate::entry::{Done, RaftId};
use crate::error::Error;
use crate::segment::Segment;
use crate::state_file::{StateFile, Tail, Words};
use crate::store::Shared;
use crate::sync_engine::{Request, Work};

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
        self.shared.check_taking()?;
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
            let mut failed = segment.syncing.lock();
            // The other thread may have done it meanwhile, or have failed.
            if *failed {
                self.shared.check_open()?;
            }
            if segment.synced_to.load(Ordering::Acquire) < end {
                if let Err(error) = segment.file.handle.sync() {
                    *failed = true;
                    let error = Error::io(&segment.name(), "sync", error);
                    // Before anybody else can ask: nothing is acknowledged any more.
                    self.shared.fail(&error);
                    return Err(error);
                }
                segment.note_synced(end);
            }
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
            self.shared.windows.forget(&part.segment);
            part.segment.file.forget();
        }
        for segment in view.retiring.drain(..) {
            self.shared.windows.forget(&segment);
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
        self.shared.check_taking()?;
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
struct Waiter {
    outcome: Mutex<Option<Result<(), Error>>>,
    wake: parking_lot::Condvar,
}

impl Waiter {
    fn set(&self, outcome: Result<(), Error>) {
        *self.outcome.lock() = Some(outcome);
        self.wake.notify_all();
    }

    /// Without threads the caller is the engine.
    fn wait(&self, shared: &Shared) -> Result<(), Error> {
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
