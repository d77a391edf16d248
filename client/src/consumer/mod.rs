//! Consuming as a member of a group, as a stream of messages.
//!
//! The members of a group share the partitions of a topic, and the broker keeps the group's
//! position in each. Every message is handed out **at least once**. It is handed out again:
//! - after a crash of this process: everything above the last commit, to whoever gets the
//!   partition (by default at most what was done in the last second, and the message in work);
//! - after the connection broke or the broker restarted: everything above the last commit that
//!   the broker has, to this member;
//! - after this process stood still for longer than the session: the same, to whoever has the
//!   partitions then; this member joins again by itself;
//! - when a partition goes to another member: only what was handed out here and not done before
//!   the broker took it.
//!
//! Never is one left out: commits name only what is done, and after any break reading goes on
//! from the position that the broker has. Retention may overtake a group that is too slow; then
//! [`GroupEvent::Assigned`] says what was skipped.
//!
//! A task of the runtime keeps the membership (heartbeats, commits, connecting again), so a
//! message may take as long as it needs. It must not block the runtime's threads, though.

mod builder;
mod core;
mod driver;
mod event;
mod flow;
mod message;
mod progress;
mod shared;
mod wire;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, future};
use tokio::task::JoinHandle;

pub use builder::GroupConsumerBuilder;
pub use event::{CommitMode, GroupEvent};
pub use message::{Chunk, Received};

use crate::{Client, Error, Record, batches};
use shared::Shared;

/// How much may be opened before other tasks of the thread run. On a runtime of one thread the
/// broker would stand still while all that was sent ahead is gone through, because its next
/// credit could not leave.
const YIELD_BYTES: usize = 256 << 10;

/// A member of a consumer group, and the stream of its messages; see [`Client::consumer`].
/// Ends after an error, except one with the reason `OVERRUN`, which concerns single partitions.
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// # async fn bill(_: &aqueduct_client::Record) {}
/// use futures::StreamExt as _;
/// let mut consumer = client.consumer("orders").group("billing").build().await?;
/// while let Some(order) = consumer.next().await {
///     let order = order?;
///     bill(&order).await; // done when the next one is asked for
/// }
/// # Ok(())
/// # }
/// ```
///
/// With commits of one's own:
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// # async fn bill(_: &aqueduct_client::Record) {}
/// use aqueduct_client::CommitMode;
/// use futures::StreamExt as _;
/// let consumer = client.consumer("orders").group("billing");
/// let mut consumer = consumer.commit_mode(CommitMode::Manual).build().await?;
/// while let Some(order) = consumer.next().await {
///     let order = order?;
///     bill(&order).await;
///     match order.commit().await {
///         Ok(_) => {}
///         // The partition has gone to another member, which will get this order again.
///         Err(error) if matches!(error, aqueduct_client::Error::Fenced(_)) => {}
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Many at a time, in any order:
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// # async fn bill(_: &aqueduct_client::Record) {}
/// use aqueduct_client::CommitMode;
/// use futures::{StreamExt as _, TryStreamExt as _};
/// let consumer = client.consumer("orders").group("billing");
/// let consumer = consumer.commit_mode(CommitMode::PerRecord).build().await?;
/// consumer
///     .try_for_each_concurrent(100, |order| async move {
///         bill(&order).await;
///         order.done().or(Ok(())) // if the partition is gone, another member does it again
///     })
///     .await
/// # }
/// ```
#[derive(Debug)]
pub struct GroupConsumer {
    shared: Arc<Shared>,
    driver: JoinHandle<Result<(), Error>>,
    max_decompressed: usize,
    /// Rest of the chunk that the stream of single messages is at.
    current: std::vec::IntoIter<Record>,
    current_epoch: u64,
    /// Bytes opened since other tasks of the thread had their turn.
    since_yield: usize,
    ended: bool,
}

impl Client {
    /// A member of a consumer group of this topic.
    pub fn consumer(&self, topic: impl Into<String>) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.clone(), topic.into())
    }
}

impl GroupConsumer {
    fn new(
        shared: Arc<Shared>,
        driver: JoinHandle<Result<(), Error>>,
        max_decompressed: usize,
    ) -> Self {
        Self {
            shared,
            driver,
            max_decompressed,
            current: Vec::new().into_iter(),
            current_epoch: 0,
            since_yield: 0,
            ended: false,
        }
    }

    /// The next messages of one partition, or `None` at the end. Much faster than one by one;
    /// with automatic commits the whole chunk is done when the next one is asked for.
    pub async fn next_chunk(&mut self) -> Option<Result<Chunk, Error>> {
        loop {
            let opened = future::poll_fn(|context| self.poll_current(context)).await?;
            if let Err(error) = opened {
                return Some(Err(error));
            }
            let records: Vec<Record> = std::mem::take(&mut self.current).collect();
            if let (Some(first), Some(last)) = (records.first(), records.last()) {
                let (first, partition) = (first.offset, first.partition);
                let next = last.offset.saturating_add(1);
                let epoch = self.current_epoch;
                if self.shared.lock().core.take(partition, epoch, first, next) {
                    return Some(Ok(Chunk::new(records, epoch, self.shared.clone())));
                }
            }
        }
    }

    /// By this the broker knows the member.
    #[must_use]
    pub fn member_id(&self) -> String {
        self.shared.lock().member_id.clone()
    }

    /// The partitions that this member reads now.
    #[must_use]
    pub fn partitions(&self) -> Vec<u32> {
        self.shared.lock().core.partitions()
    }

    /// [`Received::commit`].
    ///
    /// # Errors
    /// Those of [`Received::commit`].
    pub async fn commit(&self, message: &Received) -> Result<u64, Error> {
        message.commit().await
    }

    /// Everything of this partition below `next` is done: commits that and waits until it is on
    /// stable storage. Answers with the group's position.
    ///
    /// # Errors
    /// Those of [`Received::commit`]; [`Error::Invalid`] for what was not handed out.
    pub async fn commit_through(&self, partition: u32, next: u64) -> Result<u64, Error> {
        self.shared.commit(partition, None, next).await
    }

    /// Everything that was handed out is done, of the partitions that this member still has:
    /// commits that and waits. What one calls after the last message, before
    /// [`close`](Self::close).
    ///
    /// # Errors
    /// Those of [`Received::commit`], of the first partition that fails.
    pub async fn commit_taken(&self) -> Result<(), Error> {
        let taken = self.shared.lock().core.taken();
        let commits = taken
            .into_iter()
            .map(|(partition, next)| self.commit_through(partition, next));
        future::try_join_all(commits).await.map(drop)
    }

    /// Commits what is done and leaves the group, so that its partitions move at once. The
    /// message handed out last is *not* done by this: ask for the next one before, or call
    /// [`commit_taken`](Self::commit_taken). A consumer that is merely dropped does the same in
    /// the background, as long as the runtime lives.
    ///
    /// # Errors
    /// If the broker could not be told in time.
    pub async fn close(mut self) -> Result<(), Error> {
        self.leave();
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(error) => Err(Error::internal(format!("the consumer's task: {error}"))),
        }
    }

    fn leave(&self) {
        self.shared.lock().core.close();
        self.shared.wake_driver();
    }

    /// Makes `current` hold something, or tells of an error or the end. Whatever was handed out
    /// before counts as done, if commits are automatic.
    fn poll_current(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            let buffered = {
                let mut inner = self.shared.lock();
                let freed = inner.core.polled();
                if freed {
                    self.shared.wake_driver();
                }
                if let Some(error) = inner.core.error() {
                    return Poll::Ready(Some(Err(error)));
                }
                if !self.current.as_slice().is_empty() {
                    return Poll::Ready(Some(Ok(())));
                }
                let Some(buffered) = inner.core.next() else {
                    if let Some(ended) = inner.ended.take() {
                        self.ended = true;
                        inner.ended = Some(None);
                        return Poll::Ready(ended.map(Err));
                    }
                    inner.reader = Some(context.waker().clone());
                    return Poll::Pending;
                };
                if inner.core.credit_due() {
                    self.shared.wake_driver();
                }
                buffered
            };
            let (partition, epoch) = (buffered.partition, buffered.epoch);
            let bytes: usize = buffered.batches.iter().map(Bytes::len).sum();
            let mut wanted = buffered.next..u64::MAX;
            let limit = self.max_decompressed;
            let records =
                batches::decode(partition, buffered.batches, &mut wanted, u64::MAX, limit);
            match records {
                Ok(records) => {
                    let mut inner = self.shared.lock();
                    if inner.core.opened(partition, epoch, wanted.start) {
                        self.current = records.into_iter();
                        self.current_epoch = epoch;
                    }
                    drop(inner);
                    self.since_yield += bytes;
                    if self.since_yield >= YIELD_BYTES {
                        self.since_yield = 0;
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Err(error) => {
                    self.ended = true;
                    self.leave();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Stream for GroupConsumer {
    type Item = Result<Received, Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received, Error>>> {
        loop {
            match self.poll_current(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(()))) => {}
            }
            let Some(record) = self.current.next() else {
                continue;
            };
            let (epoch, first) = (self.current_epoch, record.offset);
            let next = first.saturating_add(1);
            let mut inner = self.shared.lock();
            let taken = inner.core.take(record.partition, epoch, first, next);
            drop(inner);
            if taken {
                let received = Received::new(record, epoch, self.shared.clone());
                return Poll::Ready(Some(Ok(received)));
            }
            // Taken away while it was being handed out: so is the rest.
            self.current = Vec::new().into_iter();
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.leave();
    }
}
