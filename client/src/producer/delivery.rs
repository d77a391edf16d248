//! The outcome of messages, shared by a whole batch.
//!
//! A batch has one [`Completion`]; each message's [`Delivery`] is a reference to it and a
//! place in it. So a thousand messages cost one allocation and one wake-up, not a thousand.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll, Waker},
};

use super::Ack;
use crate::Error;

/// How a batch ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// All stored, one behind the other from `base_offset`.
    Stored {
        partition: u32,
        base_offset: u64,
        duplicate: bool,
    },
    /// A result for each.
    Each(Vec<Result<Ack, Error>>),
    /// None stored, or unknown of all.
    Failed(Error),
}

impl Outcome {
    fn of(&self, index: u32) -> Result<Ack, Error> {
        match self {
            Self::Stored {
                partition,
                base_offset,
                duplicate,
            } => Ok(Ack {
                partition: *partition,
                offset: base_offset.saturating_add(u64::from(index)),
                duplicate: *duplicate,
            }),
            Self::Each(results) => match results.get(index as usize) {
                Some(result) => result.clone(),
                None => Err(Error::unknown("the broker sent too few results")),
            },
            Self::Failed(error) => Err(error.clone()),
        }
    }

    fn first_error(&self) -> Result<(), Error> {
        match self {
            Self::Stored { .. } => Ok(()),
            Self::Each(results) => match results.iter().find_map(|result| result.as_ref().err()) {
                Some(error) => Err(error.clone()),
                None => Ok(()),
            },
            Self::Failed(error) => Err(error.clone()),
        }
    }
}

/// Set once; everybody who waits is woken then.
#[derive(Debug, Default)]
pub(super) struct Completion {
    outcome: OnceLock<Outcome>,
    waiters: Mutex<Vec<Waker>>,
}

impl Completion {
    pub(super) fn set(&self, outcome: Outcome) {
        let first = self.outcome.set(outcome).is_ok();
        assert!(first, "a batch is answered once");
        let waiters = std::mem::take(&mut *self.waiters());
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Waits for the batch; an error if any of its messages failed.
    pub(super) async fn whole(self: Arc<Self>) -> Result<(), Error> {
        let mut slot = None;
        std::future::poll_fn(|context| self.poll(&mut slot, context)).await;
        self.outcome.get().map_or(Ok(()), Outcome::first_error)
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiters
            .lock()
            .expect("no panic while the list is locked")
    }

    /// `slot` is where this waiter's waker is, so that polling again does not add another.
    fn poll(&self, slot: &mut Option<usize>, context: &Context<'_>) -> Poll<()> {
        if self.outcome.get().is_some() {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters();
        // `set` stores the outcome before it takes the list: either it is seen here, or the
        // waker below is seen there.
        if self.outcome.get().is_some() {
            return Poll::Ready(());
        }
        match *slot {
            Some(place) => waiters[place].clone_from(context.waker()),
            None => {
                *slot = Some(waiters.len());
                waiters.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

/// A message on its way. Resolves when it is on stable storage, or when it is clear that it
/// will not be, or that nobody can tell ([`Error::is_unknown`]). May be dropped.
#[derive(Debug)]
#[must_use = "the outcome is only known by awaiting this, or by Producer::flush"]
pub struct Delivery {
    completion: Arc<Completion>,
    index: u32,
    slot: Option<usize>,
}

impl Delivery {
    pub(super) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self {
            completion,
            index,
            slot: None,
        }
    }

    pub(super) fn done(ack: Ack) -> Self {
        let completion = Completion::default();
        completion.set(Outcome::Each(vec![Ok(ack)]));
        Self::new(Arc::new(completion), 0)
    }

    /// The outcome if there is one already.
    #[must_use]
    pub fn try_ack(&self) -> Option<Result<Ack, Error>> {
        self.completion
            .outcome
            .get()
            .map(|outcome| outcome.of(self.index))
    }
}

impl Future for Delivery {
    type Output = Result<Ack, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.completion.poll(&mut this.slot, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => match this.completion.outcome.get() {
                Some(outcome) => Poll::Ready(outcome.of(this.index)),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn one_outcome_answers_every_message_of_a_batch() {
        let completion = Arc::new(Completion::default());
        let mut deliveries: Vec<_> = (0..3)
            .map(|index| Delivery::new(completion.clone(), index))
            .collect();
        for delivery in &mut deliveries {
            assert!(delivery.now_or_never().is_none());
            assert!(delivery.now_or_never().is_none());
        }
        assert_eq!(completion.waiters().len(), 3);
        completion.set(Outcome::Stored {
            partition: 2,
            base_offset: 7,
            duplicate: false,
        });
        for (index, delivery) in (0..).zip(&mut deliveries) {
            let ack = delivery.now_or_never().unwrap().unwrap();
            assert_eq!(
                ack,
                Ack {
                    partition: 2,
                    offset: 7 + index,
                    duplicate: false
                }
            );
        }
    }

    #[test]
    fn a_result_that_is_missing_is_unknown() {
        let completion = Arc::new(Completion::default());
        let delivery = Delivery::new(completion.clone(), 1);
        completion.set(Outcome::Each(Vec::new()));
        assert!(delivery.now_or_never().unwrap().unwrap_err().is_unknown());
    }
}
