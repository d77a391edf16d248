//! What a worker has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Verdict;

/// What a [`Worker`](crate::Worker) has done so far. A job counts when its verdict is known to
/// be on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Jobs that are done.
    pub done: u64,
    /// Attempts that failed, panics among them.
    pub failed: u64,
    /// Jobs that were given back.
    pub released: u64,
    /// Jobs that can never succeed.
    pub dead: u64,
    /// Jobs whose lease was over before their verdict, or where nobody knows.
    pub lost: u64,
    /// Jobs that are handled now.
    pub running: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    done: AtomicU64,
    failed: AtomicU64,
    released: AtomicU64,
    dead: AtomicU64,
    lost: AtomicU64,
    running: AtomicU64,
}

/// What a verdict counts as.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Done,
    Failed,
    Released,
    Dead,
}

impl Kind {
    pub(super) fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Ack => Self::Done,
            Verdict::Retry { .. } => Self::Failed,
            Verdict::Release | Verdict::Extend(_) => Self::Released,
            Verdict::DeadLetter { .. } => Self::Dead,
        }
    }
}

impl Counters {
    pub(super) fn settled(&self, kind: Kind) {
        let counter = match kind {
            Kind::Done => &self.done,
            Kind::Failed => &self.failed,
            Kind::Released => &self.released,
            Kind::Dead => &self.dead,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn running(&self, jobs: usize) {
        self.running.store(jobs as u64, Relaxed);
    }

    pub(super) fn now(&self) -> WorkerStats {
        WorkerStats {
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            released: self.released.load(Relaxed),
            dead: self.dead.load(Relaxed),
            lost: self.lost.load(Relaxed),
            running: self.running.load(Relaxed),
        }
    }
}
