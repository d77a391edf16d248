//! What the application's side and the driver share: the core behind a lock, and who waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    core::{Committing, Core, Policy},
    event::GroupEvent,
};
use crate::Error;

/// Called with each event.
pub(super) type Listener = Arc<dyn Fn(&GroupEvent) + Send + Sync>;

pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the driver.
    driver: Notify,
    start: Instant,
    listener: Option<Listener>,
}

pub(super) struct Inner {
    pub(super) core: Core,
    /// The application, if it waits for a message.
    pub(super) reader: Option<Waker>,
    /// How it ended, if it did; the error is shown once.
    pub(super) ended: Option<Option<Error>>,
    pub(super) member_id: String,
    waiting: BTreeMap<u64, oneshot::Sender<Result<u64, Error>>>,
}

impl Shared {
    pub(super) fn new(policy: Policy, listener: Option<Listener>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                core: Core::new(policy),
                reader: None,
                ended: None,
                member_id: String::new(),
                waiting: BTreeMap::new(),
            }),
            driver: Notify::new(),
            start: Instant::now(),
            listener,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core's time.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The core's time as the clock's.
    pub(super) fn at(&self, time: Duration) -> Option<Instant> {
        self.start.checked_add(time)
    }

    pub(super) fn wake_driver(&self) {
        self.driver.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.driver.notified().await;
    }

    /// Changes the core as the driver, and lets those outside know what came of it.
    pub(super) fn drive<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let output = inner.core.output();
        let something = inner.core.has_something() || inner.ended.is_some();
        let reader = inner.reader.take_if(|_| something);
        let mut answers = Vec::with_capacity(output.answers.len());
        for (number, answer) in output.answers {
            if let Some(waiting) = inner.waiting.remove(&number) {
                answers.push((waiting, answer));
            }
        }
        drop(inner);
        for (waiting, answer) in answers {
            // Whoever gave up waiting does not want to know.
            let _ = waiting.send(answer);
        }
        if let Some(listener) = &self.listener {
            output.events.iter().for_each(|event| listener(event));
        }
        if let Some(reader) = reader {
            reader.wake();
        }
        result
    }

    /// Nothing more will happen; whoever waits is told.
    pub(super) fn end(&self, error: Option<Error>) {
        self.drive(|inner| {
            inner.ended = Some(error);
            inner.waiting.clear();
        });
    }

    pub(super) fn finish(
        &self,
        partition: u32,
        epoch: u64,
        from: u64,
        until: u64,
    ) -> Result<(), Error> {
        if self.lock().core.finish(partition, epoch, from, until)? {
            self.wake_driver();
            self.drive(|_| {});
        }
        Ok(())
    }

    pub(super) async fn commit(
        &self,
        partition: u32,
        epoch: Option<u64>,
        next: u64,
    ) -> Result<u64, Error> {
        let answer = {
            let mut inner = self.lock();
            if inner.ended.is_some() {
                return Err(closed());
            }
            match inner.core.commit(partition, epoch, next)? {
                Committing::Committed(position) => return Ok(position),
                Committing::Waiting(number) => {
                    let (waiting, answer) = oneshot::channel();
                    inner.waiting.insert(number, waiting);
                    answer
                }
            }
        };
        self.wake_driver();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::closed("the group consumer was closed")
}
