//! Publishing with batches in flight.
//!
//! ```text
//! send() -> lane of its partition -> batch -> stream -> broker
//!   ^          (window.rs, pure)      (wire.rs: body)      |
//!   '- room, Delivery <- window.answer() <- driver.rs <- answers
//! ```
//! Promises: what one task sends to one partition is stored in that order; each message at most
//! once, as long as the producer lives (a *named* producer also beyond that); an answer that
//! cannot be had in time is [`Error::Unknown`], never a guess. Callers wait for room when
//! `max_in_flight_bytes` are on their way, so a slow broker is backpressure and not memory.

mod builder;
mod delivery;
mod driver;
mod window;
mod wire;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aqueduct_proto::{partitioner, v1};
use bytes::Bytes;
use tokio::sync::Notify;

pub use builder::ProducerBuilder;
pub use delivery::Delivery;

use crate::{Error, Message};
use window::{Clock, Resume, Window};

/// Largest message a producer takes: what fits the largest batch that a broker takes, beside its
/// header. A larger one would end the whole stream.
const MAX_MESSAGE_BYTES: usize = (17 << 20) - (64 << 10);

/// How much a sender may take in before other tasks of its thread run.
const YIELD_BYTES: usize = 128 << 10;

/// The broker's word that a message is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The partition it is in.
    pub partition: u32,
    /// Its place there, or [`Ack::UNKNOWN_OFFSET`].
    pub offset: u64,
    /// It was stored before: by an earlier run of this named producer, or under its dedup id.
    pub duplicate: bool,
}

impl Ack {
    /// In place of an offset that cannot be told: for messages which a resuming producer skipped
    /// because they are stored, in a partition that others write to as well, and for messages
    /// that were sent again so late that the broker knows them but has forgotten where they are.
    pub const UNKNOWN_OFFSET: u64 = u64::MAX;

    pub(crate) fn from_result(result: v1::PublishResult) -> Result<Self, Error> {
        match result.error {
            Some(status) => Err(Error::from_rpc(status)),
            None => Ok(Self {
                partition: result.partition,
                offset: result.offset,
                duplicate: result.duplicate,
            }),
        }
    }
}

/// Publishes to one topic. Clones share everything; when the last one goes, what was sent is
/// still delivered in the background.
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::Message;
/// let producer = client.producer("orders").name("shop-1").build().await?;
/// let delivery = producer.send(Message::new("42 EUR").key("customer-7")).await?; // has room
/// let ack = delivery.await?; // is on stable storage
/// # let _ = ack;
/// producer.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Ends the driver when the last clone is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What the handles, the request body and the driver share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when bytes were freed.
    room: Notify,
    waiting_for_room: AtomicUsize,
    /// Told when the driver should look: closing, or a request body that ended.
    driver: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// The present request body, if it found nothing to send.
    body: Option<Waker>,
    /// Counts the streams, so that the body of a broken one sends nothing more.
    stream: u64,
    /// No more messages are taken; the driver ends when all are answered.
    closing: bool,
    /// Why nothing can be sent any more.
    failed: Option<Error>,
    /// Bytes taken since a sender last let other tasks run.
    since_yield: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug that must not be hidden by going on.
        self.state
            .lock()
            .expect("no panic while the window is locked")
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.window.close_open();
        let body = state.body.take();
        drop(state);
        if let Some(body) = body {
            body.wake();
        }
        self.driver.notify_one();
    }

    fn room_freed(&self) {
        if self.waiting_for_room.load(Ordering::Acquire) > 0 {
            self.room.notify_waiters();
        }
    }
}

impl State {
    fn refuse_if_over(&self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(Error::closed("the producer is closed")),
            None => Ok(()),
        }
    }

    /// Lets the stream's tasks run on a runtime of one thread; without this a tight loop of
    /// sends would fill all of the room before the first byte leaves.
    fn is_time_to_yield(&mut self, size: usize) -> bool {
        self.since_yield += size;
        let pause = self.since_yield >= YIELD_BYTES;
        if pause {
            self.since_yield = 0;
        }
        pause
    }

    fn set_body(&mut self, waker: &Waker) {
        match &mut self.body {
            Some(known) => known.clone_from(waker),
            None => self.body = Some(waker.clone()),
        }
    }

    fn wake_body(&mut self) {
        if let Some(body) = self.body.take() {
            body.wake();
        }
    }
}

impl Producer {
    /// Takes a message on its way. Waits only while `max_in_flight_bytes` are unanswered.
    /// Await the [`Delivery`] for the outcome, or drop it and [`Producer::flush`] later.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::NotFound`] for a partition that is not there,
    /// [`Error::Closed`], or why the producer has ended ([`Error::Fenced`], ...).
    pub async fn send(&self, message: Message) -> Result<Delivery, Error> {
        message.check()?;
        let size = message.size();
        if size > MAX_MESSAGE_BYTES {
            let message = format!("a message of {size} bytes; the limit is {MAX_MESSAGE_BYTES}");
            return Err(Error::too_large(message));
        }
        let mut message = Some(message);
        let (delivery, pause) = self.enter(size, |state| add(state, &mut message)).await?;
        if pause {
            tokio::task::yield_now().await;
        }
        Ok(delivery)
    }

    /// [`Producer::send`] of many messages.
    ///
    /// # Errors
    /// Those of [`Producer::send`]; the messages before the refused one are on their way.
    pub async fn send_batch(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Vec<Delivery>, Error> {
        let messages = messages.into_iter();
        let mut deliveries = Vec::with_capacity(messages.size_hint().0);
        for message in messages {
            deliveries.push(self.send(message).await?);
        }
        Ok(deliveries)
    }

    /// Sends one record batch that the caller encoded (Kafka RecordBatch v2). Producer id,
    /// epoch and sequence in it are set here. The delivery is that of its first message.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not begin with a batch header of this length, and those of
    /// [`Producer::send`].
    pub async fn send_encoded(&self, partition: u32, batch: Bytes) -> Result<Delivery, Error> {
        let size = batch.len();
        if size > MAX_MESSAGE_BYTES {
            let message = format!("a batch of {size} bytes; the limit is {MAX_MESSAGE_BYTES}");
            return Err(Error::too_large(message));
        }
        let mut batch = Some(batch);
        let (delivery, pause) = self
            .enter(size, |state| {
                let batch = batch.take().expect("entered once");
                let completion = state.window.add_encoded(partition, batch, Instant::now())?;
                state.wake_body();
                Ok((Delivery::new(completion, 0), state.is_time_to_yield(size)))
            })
            .await?;
        if pause {
            tokio::task::yield_now().await;
        }
        Ok(delivery)
    }

    /// Runs `add` once there is room for `size` bytes.
    async fn enter<T>(
        &self,
        size: usize,
        mut add: impl FnMut(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let shared = &self.handle.shared;
        {
            let mut state = shared.lock();
            state.refuse_if_over()?;
            if state.window.has_room(size) {
                return add(&mut state);
            }
        }
        let _waiting = Waiting::new(&shared.waiting_for_room);
        loop {
            let freed = shared.room.notified();
            {
                let mut state = shared.lock();
                state.refuse_if_over()?;
                if state.window.has_room(size) {
                    return add(&mut state);
                }
                // Whatever is open may be what fills the room.
                state.window.close_open();
                state.wake_body();
            }
            freed.await;
        }
    }

    /// Sends what is open and waits until everything sent before this call is answered.
    ///
    /// # Errors
    /// The first failure among the messages that were still on their way.
    pub async fn flush(&self) -> Result<(), Error> {
        let outstanding = {
            let mut state = self.handle.shared.lock();
            state.window.close_open();
            state.wake_body();
            state.window.outstanding()
        };
        let mut first = Ok(());
        for completion in outstanding {
            let last = completion.whole().await;
            first = first.and(last);
        }
        first
    }

    /// [`Producer::flush`], and takes no more messages from any clone.
    ///
    /// # Errors
    /// Those of [`Producer::flush`].
    pub async fn close(&self) -> Result<(), Error> {
        let flushed = self.flush().await;
        self.handle.shared.close();
        flushed
    }

    /// How many messages of this named producer the partition had stored when it was built: the
    /// place in its input at which to go on. 0 for a producer without a name.
    #[must_use]
    pub fn position(&self, partition: u32) -> u64 {
        self.handle.shared.lock().window.stored_at_start(partition)
    }

    /// Number of partitions of the topic, as known now.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.handle.shared.lock().window.partitions()
    }

    /// Bytes on their way.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        self.handle.shared.lock().window.bytes()
    }
}

/// Puts a message into its lane, or answers it at once if a resumed run has it stored already.
fn add(state: &mut State, message: &mut Option<Message>) -> Result<(Delivery, bool), Error> {
    let message = message.take().expect("entered once");
    let partition = choose(&mut state.window, &message)?;
    let size = message.size() + 64;
    if let Resume::Stored(ack) = state.window.resume(partition) {
        return Ok((Delivery::done(ack), state.is_time_to_yield(size)));
    }
    let added = state.window.add(partition, message, &Wall);
    if added.wake {
        state.wake_body();
    }
    let delivery = Delivery::new(added.completion, added.index);
    Ok((delivery, state.is_time_to_yield(size)))
}

/// The message's own partition, that of its key, or the sticky one. A dedup id stands in for a
/// missing key: ids are remembered per partition, so the same one must always meet itself.
fn choose(window: &mut Window, message: &Message) -> Result<u32, Error> {
    let partitions = window.partitions();
    match (message.partition, &message.key) {
        (Some(partition), _) if partition < partitions => Ok(partition),
        (Some(partition), _) => {
            let message = format!("partition {partition} of {partitions}: not there");
            Err(Error::partition_not_found(message))
        }
        (None, Some(key)) => Ok(partitioner::for_key(key, partitions)),
        (None, None) => match &message.dedup_id {
            Some(id) => Ok(partitioner::for_key(id.as_bytes(), partitions)),
            None => Ok(window.keyless_partition()),
        },
    }
}

/// The machine's clocks.
struct Wall;

impl Clock for Wall {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Counts a sender that waits for room.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
