//! "Wake me when the high watermark moves": without polling, and without a task per partition.
//!
//! A reader registers one [`Notify`] with every partition it follows; a publish wakes whoever
//! is registered. The registration ends when the reader says so or drops its end.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The readers of one partition that wait or will wait.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<Vec<Weak<Notify>>>);

impl Waiters {
    /// From now on `notify` is woken by each move, once however often it registers.
    pub(crate) fn register(&self, notify: &Arc<Notify>) {
        let mut waiters = self.0.lock();
        waiters.retain(|waiter| waiter.strong_count() > 0);
        let same = |waiter: &Weak<Notify>| std::ptr::eq(waiter.as_ptr(), Arc::as_ptr(notify));
        if !waiters.iter().any(same) {
            waiters.push(Arc::downgrade(notify));
        }
    }

    /// `notify` is woken no more.
    pub(crate) fn unregister(&self, notify: &Arc<Notify>) {
        let mut waiters = self.0.lock();
        waiters.retain(|waiter| !std::ptr::eq(waiter.as_ptr(), Arc::as_ptr(notify)));
    }

    /// Wakes everybody and forgets who is gone.
    pub(crate) fn wake(&self) {
        let mut waiters = self.0.lock();
        waiters.retain(|waiter| match waiter.upgrade() {
            Some(waiter) => {
                waiter.notify_one();
                true
            }
            None => false,
        });
    }
}
